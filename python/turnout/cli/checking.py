"""What a config comes to, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnout._core import Deployment
from turnout.config import Loaded

__all__ = ["as_data", "printable", "show"]

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def as_data(loaded: Loaded) -> dict[str, Any]:
    """Return what a config comes to, as plain data without secrets.

    Args:
        loaded: What it comes to.

    Returns:
        The data.
    """
    return {
        "form": loaded.form,
        "deployments": [_facts(deployment) for deployment in loaded.deployments],
        "aliases": loaded.aliases,
        "options": {name: _plain(value) for name, value in sorted(loaded.options.items())},
        "problems": [problem._asdict() for problem in loaded.problems],
    }


def _facts(deployment: Deployment) -> dict[str, Any]:
    return {
        "id": deployment.deployment_id,
        "model_name": deployment.model_name,
        "model": deployment.model,
        "host": _host(deployment),
        "weight": deployment.weight,
        "priority": deployment.priority,
        "limits": _limits(deployment),
        "tags": list(deployment.tags),
    }


def _plain(value: Any) -> Any:
    """Returns an option as plain data: of an object, what is not as usual."""
    if is_dataclass(value):
        given = {one.name: getattr(value, one.name) for one in fields(value)}
        return {name: _plain(one) for name, one in given.items() if one != _usual(type(value), name) and one != {}}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if value is None or type(value) in (bool, int, float) else str(value)


def _usual(of: Any, name: str) -> Any:
    usual = next(one.default for one in fields(of) if one.name == name)
    return None if usual is MISSING else usual


def _text(value: Any) -> str:
    """Returns plain data as people write it."""
    if isinstance(value, dict):
        named = ((name, f"({_text(one)})" if isinstance(one, dict) else _text(one)) for name, one in value.items())
        return ", ".join(f"{name} = {text}" for name, text in named)
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def _host(deployment: Deployment) -> str | None:
    return None if deployment.endpoint is None else urlsplit(deployment.endpoint.base_url).netloc.rpartition("@")[2]


def _limits(deployment: Deployment) -> list[str]:
    usual = ((deployment.rpm_limit, "requests a minute"), (deployment.tpm_limit, "tokens a minute"))
    said = [f"{amount} {what}" for amount, what in usual if amount is not None]
    if deployment.max_parallel_requests is not None:
        said.append(f"{deployment.max_parallel_requests} at once")
    said += [f"{limit.amount} {limit.unit.replace('_', ' ')} in {limit.per:g} s" for limit in deployment.limits]
    return said + [f"quota {quota.quota_id}" for quota in deployment.quotas]


def printable(text: str) -> str:
    """Return a text without characters that a terminal would follow, which are written as Python writes them.

    Args:
        text: The text.

    Returns:
        The text on one line.
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def show(loaded: Loaded, out: Console) -> None:
    """Write what a config comes to.

    Args:
        loaded: What it comes to.
        out: Where it is written.
    """
    for problem in loaded.problems:
        out.print(Text.assemble((problem.level, _COLOURS[problem.level]), " ", printable(str(problem))), soft_wrap=True)
    if any(problem.level == "error" for problem in loaded.problems):
        return
    table = Table(box=None, pad_edge=False)
    for title in ("model name", "deployment", "model", "host", "weight", "priority", "limits"):
        table.add_column(title, overflow="fold")
    for deployment in sorted(loaded.deployments, key=lambda one: (one.model_name, one.priority)):
        facts = _facts(deployment)
        cells = [
            facts["model_name"],
            facts["id"],
            facts["model"],
            facts["host"] or "–",
            str(facts["weight"]),
            str(facts["priority"]),
        ]
        table.add_row(*(Text(printable(cell)) for cell in [*cells, ", ".join(facts["limits"]) or "none"]))
    out.print(table)
    lines = [f"{alias} stands for {target}" for alias, target in sorted(loaded.aliases.items())]
    lines += [f"{name}: {_text(_plain(value)) or 'as usual'}" for name, value in sorted(loaded.options.items())]
    for line in lines:
        out.print(Text(printable(line)), soft_wrap=True)
