"""Routers that stand in a file: turnout's own form and LiteLLM's, in YAML, TOML or JSON.

It needs pydantic and PyYAML: ``pip install 'turnout[config]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

try:
    import pydantic as _pydantic  # noqa: F401
    import yaml as _yaml  # noqa: F401
except ImportError as _error:
    raise ImportError("turnout.config needs pydantic and PyYAML: pip install 'turnout[config]'") from _error

from turnout._core import Router
from turnout.config import litellm, own
from turnout.config.document import Document, Source, read
from turnout.config.loaded import Loaded
from turnout.config.problems import Problem, Problems, near
from turnout.config.watching import watch
from turnout.exceptions import ModelNotFound
from turnout.execution.options import Fallbacks

__all__ = ["Loaded", "Problem", "Source", "check", "load", "schema", "watch"]


def check(source: Source) -> Loaded:
    """Read a config, and tell all that is wrong with it.

    Args:
        source: A file, or what would stand in it as a mapping.

    Returns:
        What it comes to, as far as it is right, with its problems.

    Raises:
        ConfigurationError: The file cannot be read at all.
        TypeError: The source is neither a path nor a mapping.
    """
    document = read(source)
    problems = Problems(document)
    for where in document.twice:
        problems.warn(where, "this stands twice, and the last one counts")
    loaded = _form(document, problems)(document, problems)
    if not problems.errors:
        _look_over(loaded, problems)
    return loaded._replace(problems=tuple(problems.found))


def load(source: Source, *, strict: bool = False) -> Loaded:
    """Read a config.

    Args:
        source: A file, or what would stand in it as a mapping.
        strict: Whether a setting that has no effect is an error.

    Returns:
        What it comes to.

    Raises:
        ConfigurationError: Something is wrong. The text has a line for each problem.
        TypeError: The source is neither a path nor a mapping.
    """
    loaded = check(source)
    loaded.raise_for(strict=strict)
    return loaded


def schema() -> dict[str, Any]:
    """Return the JSON schema of turnout's own form.

    Returns:
        The schema.
    """
    said: dict[str, Any] = _with_variables(own.Config.model_json_schema())
    return said


def _with_variables(node: Any) -> Any:
    """Returns a schema in which a text that names a variable may stand for a number, a true or a false."""
    if isinstance(node, list):
        return [_with_variables(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {name: _with_variables(one) for name, one in node.items()}
    if node.get("type") not in ("integer", "number", "boolean"):
        return node
    kept = {name: node.pop(name) for name in ("title", "description", "default") if name in node}
    return {**kept, "anyOf": [node, {"type": "string", "pattern": r"^(\$\{\w+\}|os\.environ/\w+)$"}]}


def _form(document: Document, problems: Problems) -> Callable[[Document, Problems], Loaded]:
    """Returns what reads the form that a config has."""
    names = document.data.keys()
    if theirs := names & litellm.SECTIONS:
        if ours := names & {"deployments", "router"}:
            problems.error((), f"this is of two forms: {sorted(theirs)[0]!r} is LiteLLM's, {sorted(ours)[0]!r} is turnout's")
        return litellm.load
    return own.load


def _is_served(router: Router, name: str) -> bool:
    try:
        router.resolve(name)
    except ModelNotFound:
        return False
    return True


def _look_over(loaded: Loaded, problems: Problems) -> None:
    """Looks for names that lead nowhere, and tries to make the router."""
    try:
        router = loaded.router()
    except (ValueError, TypeError) as error:
        problems.error((), str(error))
        return
    if not loaded.deployments:
        problems.warn((), "there is no deployment in service")
        return

    def look(what: str, names: Iterable[str]) -> None:
        for name in sorted(set(names)):
            if not _is_served(router, name):
                problems.warn((), f"nobody serves {name!r}, {what}{near(name, {*router.models(), *router.aliases()})}")

    look("which an alias stands for", loaded.aliases.values())
    look("which has options of its own", [*loaded.options.get("strategies", ()), *loaded.options.get("model_options", ())])
    for name in sorted(loaded.options.get("strategies", ())):
        if name not in router.models() and _is_served(router, name):
            problems.warn((), f"the strategy of {name!r} has no effect: name {router.resolve(name)!r}, whose group serves it")
    fallbacks = loaded.options.get("fallbacks") or Fallbacks()
    for chains in (fallbacks.general, fallbacks.context_window, fallbacks.content_policy, fallbacks.rate_limit):
        assert isinstance(chains, Mapping)
        look("which has fallbacks", chains)
        look("which is a fallback", [target for targets in chains.values() for target in targets])
