"""What LiteLLM is asked for: the settings of a deployment, with the arguments of a request."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr

from turnout._core import Deployment, Lease
from turnout.config.litellm_entries import usual_id
from turnout.endpoints import Env
from turnout.exceptions import ConfigurationError
from turnout.execution.plan import least

if TYPE_CHECKING:
    from turnout.execution.attempts import Attempt
    from turnout.integrations.litellm.asks import Ask

__all__ = ["plain", "sent", "with_ids"]

# turnout makes the attempts.
_NO_RETRIES = {"num_retries": 0, "max_retries": 0}


def plain(given: Any) -> Any:
    """Return plain data for an object of LiteLLM, and what is plain as it is.

    Args:
        given: A deployment, a policy, or the like.

    Returns:
        The data, without what is None.
    """
    if isinstance(given, BaseModel):
        return given.model_dump(exclude_none=True)
    if isinstance(given, Mapping):
        return {name: plain(value) for name, value in given.items()}
    if isinstance(given, list):
        return [plain(value) for value in given]
    return given


def with_ids(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give an id to each entry that has none.

    Args:
        entries: Entries of a model list.

    Returns:
        The entries by their ids, each with its id as ``model_info.id``.

    Raises:
        turnout.ConfigurationError: An id is given twice.
    """
    found: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for entry in entries:
        info = entry.get("model_info") or {}
        id_ = info.get("id")
        if id_ is None:
            id_ = usual_id(str(entry.get("model_name")), entry.get("litellm_params") or {}, seen)
        id_ = str(id_)
        if id_ in found:
            raise ConfigurationError(f"the id {id_!r} is given twice")
        found[id_] = {**entry, "model_info": {**info, "id": id_}}
    return found


def sent(attempt: Attempt, ask: Ask) -> dict[str, Any]:
    """Return the arguments of one attempt.

    Args:
        attempt: The attempt.
        ask: The request.

    Returns:
        Keywords for the function of LiteLLM.
    """
    lease = attempt.lease
    deployment = lease.deployment
    shown = {name: _shown(value) for name, value in deployment.metadata.get("litellm_params", {}).items()}
    params = {name: value for name, value in shown.items() if value is not None}
    stream_timeout = params.pop("stream_timeout", None)
    own = stream_timeout if ask.streams and stream_timeout is not None else params.get("timeout")
    timeout = least(_seconds(own), attempt.timeout)
    keywords = {**params, **ask.keywords, **_NO_RETRIES, "model": _model(lease, deployment)}
    if timeout is not None:
        keywords["timeout"] = timeout
    info = {**deployment.metadata.get("model_info", {}), "id": deployment.deployment_id}
    said = {"model_group": ask.model, "deployment": keywords["model"], "model_info": info}
    return {**keywords, "model_info": info, "metadata": {**said, **ask.metadata}}


def _model(lease: Lease, deployment: Deployment) -> str:
    """Returns the model with its provider, as LiteLLM names it."""
    named: str = deployment.metadata["litellm_params"]["model"]
    # The deployment's own name of it ends the same, without the provider.
    return named.removesuffix(deployment.model) + lease.model if named.endswith(deployment.model) else named


def _shown(value: Any) -> Any:
    """Returns a setting; None for a variable that is not set. LiteLLM then looks for the usual one."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return os.environ.get(value.name) if isinstance(value, Env) else value


def _seconds(said: Any) -> float | None:
    try:
        return None if said is None else float(said)
    except (TypeError, ValueError):  # an httpx.Timeout: LiteLLM takes it from the settings
        return None
