"""A minimal real request to each endpoint of a config."""

from __future__ import annotations

import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnout._core import Deployment, Router
from turnout.config import Loaded
from turnout.exceptions import ConfigurationError
from turnout.execution.options import Fallbacks, Retry, Timeouts

__all__ = ["Answer", "ping", "show"]

_AT_ONCE = 16
_MOST_TEXT = 200
# Shorter values are words such as "1" or "eu".
_SHORTEST_SECRET = 6


class Answer(NamedTuple):
    """How a deployment answered.

    Attributes:
        deployment_id: The deployment.
        model_name: Its model name.
        is_well: Whether it answered.
        status: The HTTP status; None without an answer.
        seconds: How long it took; None for a deployment without an endpoint.
        limits: What the provider says is left, such as ``59 of 60 requests``.
        text: What went wrong; empty if nothing did.
    """

    deployment_id: str
    model_name: str
    is_well: bool
    status: int | None
    seconds: float | None
    limits: list[str]
    text: str


def ping(loaded: Loaded, model_name: str | None, timeout: float) -> list[Answer]:
    """Send a request to each endpoint.

    Args:
        loaded: What a config comes to.
        model_name: Only deployments of this name; None for all.
        timeout: Seconds for each answer.

    Returns:
        The answers, in the order of the deployments.

    Raises:
        ConfigurationError: There is no deployment.
        ModelNotFound: Nobody serves the name.
        ImportError: No HTTP library is installed.
    """
    http = _http()
    chosen = loaded.deployments if model_name is None else _deployments(loaded.router(), model_name)
    if not chosen:
        raise ConfigurationError("there is no deployment")
    # The limits of the config are not in the way, and nobody else answers.
    router = Router(
        [Deployment(one.deployment_id, one.deployment_id, model=one.model, endpoint=one.endpoint) for one in chosen],
        retry=Retry(attempts=1),
        fallbacks=Fallbacks(),
        timeouts=Timeouts(total=timeout),
    )
    with http.Client(router, timeout=timeout) as client, ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(lambda one: _ask(router, client, one), chosen))


def _deployments(router: Router, name: str) -> list[Deployment]:
    """Returns the deployments that serve a name. If they serve many models, their model is that one."""
    served = router.deployments(name)
    asked = name
    while asked in router.aliases():
        asked = router.aliases()[asked]
    return [_for_one(one, asked) if "*" in one.model_name else one for one in served]


def _for_one(many: Deployment, name: str) -> Deployment:
    # Its limits are not in the way.
    with Router([Deployment(many.deployment_id, many.model_name, model=many.model)]).acquire(name) as lease:
        return many.replace(model=lease.model)


def _http() -> Any:
    for name in ("turnout.httpx2", "turnout.httpx"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("turnout ping needs an HTTP library: pip install 'turnout[httpx2]'")


def _ask(router: Router, client: Any, one: Deployment) -> Answer:
    id_ = one.deployment_id
    if one.endpoint is None:
        return Answer(id_, one.model_name, False, None, None, [], "it has no endpoint, so the client of the application must ask")
    if "*" in one.model:
        text = "it serves many models: give the name of one"
        return Answer(id_, one.model_name, False, None, None, [], text)
    path, body = _request(one)
    began = time.monotonic()
    try:
        answer = client.post(path, json={"model": id_, **body})
    except Exception as error:
        return Answer(
            id_, one.model_name, False, None, time.monotonic() - began, [], f"{type(error).__name__}: {error}"[:_MOST_TEXT]
        )
    took = time.monotonic() - began
    limits = [
        f"{said.remaining} of {said.limit} {said.unit}".replace("None", "?").replace("_", " ")
        for said in router.stats(id_).observed
    ]
    is_well = answer.status_code < 400
    text = "" if is_well else _without_secrets(" ".join(answer.text.split()), one)[:_MOST_TEXT]
    return Answer(id_, one.model_name, is_well, answer.status_code, took, limits, text)


def _without_secrets(text: str, one: Deployment) -> str:
    """Returns what a server said, without what only it should know."""
    assert one.endpoint is not None
    key = one.endpoint.key()
    said = [*one.endpoint.headers().values(), key.strip() if isinstance(key, str) else ""]
    secrets = {secret for value in said for secret in (value, value.removeprefix("Bearer ")) if len(secret) >= _SHORTEST_SECRET}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _request(one: Deployment) -> tuple[str, dict[str, Any]]:
    """Returns the path and the body of a request that costs next to nothing."""
    assert one.endpoint is not None
    hello = [{"role": "user", "content": "ping"}]
    if one.endpoint.dialect == "anthropic":
        return "/messages", {"max_tokens": 1, "messages": hello}
    info = one.metadata.get("model_info")
    mode = info.get("mode") if isinstance(info, dict) else one.metadata.get("mode")
    if mode == "embedding" or (mode is None and "embed" in one.model.lower()):
        return "/embeddings", {"input": "ping"}
    return "/chat/completions", {"messages": hello, "max_completion_tokens": 16}


def show(answers: list[Answer], out: Console) -> None:
    """Write the answers.

    Args:
        answers: The answers.
        out: Where they are written.
    """
    table = Table(box=None, pad_edge=False)
    for title in ("deployment", "answer", "seconds", "limits", ""):
        table.add_column(title, overflow="fold")
    for one in answers:
        said = ("ok", "green") if one.is_well else (str(one.status or "none"), "red")
        seconds = "–" if one.seconds is None else f"{one.seconds:.3f}"
        table.add_row(Text(one.deployment_id), Text(*said), seconds, Text(", ".join(one.limits)), Text(one.text))
    out.print(table)
