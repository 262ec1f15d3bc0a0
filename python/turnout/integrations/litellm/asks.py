"""What a request to a Router asks for: wishes and options for turnout, and keywords for LiteLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from turnout._core import Router
from turnout.exceptions import ConfigurationError, ModelNotFound
from turnout.execution.options import Fallbacks, Options, Retry, Timeouts
from turnout.integrations.litellm.sizes import size_of

__all__ = ["Ask", "read"]

# What turnout reads of a request. LiteLLM does not get it.
_OURS = (
    *("num_retries", "max_retries", "retry_policy", "timeout", "request_timeout", "stream_timeout", "tags", "specific_deployment"),
    *("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "disable_fallbacks", "max_fallbacks", "priority"),
)


class Ask(NamedTuple):
    """A request.

    Attributes:
        model: The model name that turnout is asked for.
        keywords: What LiteLLM gets.
        metadata: What the caller says about the request, for the callbacks of LiteLLM.
        wishes: Keywords of :meth:`turnout.Router.acquire`.
        options: The options of this request, as for :meth:`turnout.Router.call`.
        streams: Whether the answer is a stream.
    """

    model: str
    keywords: dict[str, Any]
    metadata: dict[str, Any]
    wishes: dict[str, Any]
    options: dict[str, Any]
    streams: bool


def read(router: Router, model: str, given: Mapping[str, Any]) -> Ask:
    """Read a request.

    Args:
        router: The turnout router.
        model: The name that was asked for: a model name, an alias, or the id of a deployment.
        given: The arguments of the request.

    Returns:
        What it asks for.

    Raises:
        TypeError: A value is of the wrong type.
        turnout.ConfigurationError: A value is out of range.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {model!r} ({type(model).__name__})")
    keywords = {name: value for name, value in given.items() if name not in _OURS and value is not None}
    metadata = keywords.pop("metadata", None) or {}
    wishes: dict[str, Any] = {"tokens": size_of(keywords)}
    if tags := given.get("tags") or metadata.get("tags"):
        wishes["tags"] = tags
    if isinstance(given.get("priority"), int):
        wishes["priority"] = given["priority"]
    model, only = _named(router, model)
    if only is not None:
        wishes["only"] = only
    streams = bool(given.get("stream"))
    return Ask(model, keywords, metadata, wishes, _options(router, model, given, streams=streams), streams)


def _named(router: Router, name: str) -> tuple[str, list[str] | None]:
    """Returns the model name of a name; and the only deployment, if that is named."""
    try:
        router.resolve(name)
    except ModelNotFound:
        if name in router:
            return router.get_deployment(name).model_name, [name]
    else:
        if name in router and router.get_deployment(name).model_name != router.resolve(name):
            return router.get_deployment(name).model_name, [name]
    return name, None


def _options(router: Router, model: str, given: Mapping[str, Any], *, streams: bool) -> dict[str, Any]:
    """Returns the options that a request has of its own. What it does not say stays as the router has it."""
    usual: Options = router._execution.of(router, model, Options())
    assert isinstance(usual.retry, Retry)
    assert isinstance(usual.timeouts, Timeouts)
    assert isinstance(usual.fallbacks, Fallbacks)
    options: dict[str, Any] = {}
    retries = given.get("num_retries", given.get("max_retries"))
    if retries is not None:
        if isinstance(retries, bool) or not isinstance(retries, int):
            raise TypeError(f"num_retries must be an int, not {retries!r} ({type(retries).__name__})")
        if retries < 0:
            raise ConfigurationError(f"num_retries must be at least 0, not {retries}")
        options["retry"] = replace(usual.retry, attempts=retries + 1)
    timeout = given.get("stream_timeout") if streams else None
    timeout = given.get("timeout", given.get("request_timeout")) if timeout is None else timeout
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool):
        options["timeouts"] = replace(usual.timeouts, attempt=float(timeout))
    if given.get("disable_fallbacks"):
        options["fallbacks"] = Fallbacks()
    else:
        said = {name: _chains(model, name, given.get(name)) for name in ("fallbacks", *_KINDS)}
        if any(chains is not None for chains in said.values()):
            general = usual.fallbacks.general if said["fallbacks"] is None else said["fallbacks"]
            kinds = {kind: getattr(usual.fallbacks, kind) if said[name] is None else said[name] for name, kind in _KINDS.items()}
            options["fallbacks"] = Fallbacks(general, **kinds)
    return options


_KINDS = {"context_window_fallbacks": "context_window", "content_policy_fallbacks": "content_policy"}


def _chains(model: str, name: str, said: Any) -> dict[str, list[str]] | None:
    """Returns fallbacks of one request: names, or mappings of a name to names, as LiteLLM takes them."""
    if said is None:
        return None
    if not isinstance(said, (list, tuple)):
        raise TypeError(f"{name} must be a list of model names or of mappings, not {said!r} ({type(said).__name__})")
    chains: dict[str, list[str]] = {}
    for one in said:
        if isinstance(one, str):
            chains.setdefault(model, []).append(one)
        elif isinstance(one, Mapping) and all(isinstance(targets, (list, tuple)) for targets in one.values()):
            for origin, targets in one.items():
                chains.setdefault(origin, []).extend(targets)
        else:
            raise TypeError(f"{name} must be a list of model names or of mappings to lists of them, not {said!r}")
    if "*" in chains:
        chains.setdefault(model, chains.pop("*"))
    return chains
