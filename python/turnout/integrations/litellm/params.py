"""What LiteLLM is asked for: the settings of a deployment, with the arguments of a request."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr

from turnout._core import Deployment, Lease
from turnout.config.litellm_entries import usual_id
from turnout.endpoints import Env
from turnout.exceptions import ConfigurationError
from turnout.integrations.litellm.asks import seconds

if TYPE_CHECKING:
    from turnout.execution.attempts import Attempt
    from turnout.integrations.litellm.asks import Ask

__all__ = ["plain", "sent", "with_ids"]

# turnout makes the attempts.
_NO_RETRIES = {"num_retries": 0, "max_retries": 0}
_TIMEOUTS = ("stream_timeout", "timeout", "request_timeout")
# turnout keeps these for itself, and LiteLLM writes costs on answers by them.
_PRICES = ("input_cost_per_token", "output_cost_per_token")


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


def sent(attempt: Attempt, ask: Ask, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of one attempt, and bound its time.

    Args:
        attempt: The attempt.
        ask: The request.
        entry: The entry of the deployment, as it was given; empty if it has gone.

    Returns:
        Keywords for the function of LiteLLM.
    """
    lease = attempt.lease
    deployment = lease.deployment
    shown = {name: _shown(value) for name, value in deployment.metadata.get("litellm_params", {}).items()}
    params = {name: value for name, value in shown.items() if value is not None}
    params.update({name: said for name in _PRICES if (said := entry.get("litellm_params", {}).get(name)) is not None})
    for name in _TIMEOUTS:
        params.pop(name, None)
    timeout = _limit(attempt, ask)
    keywords = {**params, **ask.keywords, **ask.changes.get(attempt.model_name, {}), **_NO_RETRIES}
    keywords["model"] = _model(lease, deployment)
    if timeout is not None:
        keywords["timeout"] = timeout
    info = {**deployment.metadata.get("model_info", {}), "id": deployment.deployment_id}
    said = {"model_group": attempt.model_name, "deployment": keywords["model"], "model_info": info}
    return {**keywords, "model_info": info, ask.bucket: {**said, **ask.metadata}}


def _limit(attempt: Attempt, ask: Ask) -> Any:
    """Bounds the time of an attempt: as the request says, else as its deployment, else as the router does.
    Returns the time-out for LiteLLM: seconds, or an ``httpx.Timeout`` that was given; None for no bound.
    """
    timeout = ask.timeout
    if timeout is None:
        own = attempt.lease.deployment.metadata.get("litellm_params", {})
        timeout = next((own[name] for name in (_TIMEOUTS if ask.streams else _TIMEOUTS[1:]) if own.get(name)), ask.usual_timeout)
    bound = seconds(timeout)
    if bound is not None:
        attempt.bound(bound)
    elif timeout is not None and not isinstance(timeout, (int, float, str)):
        return timeout
    return bound if attempt.timeout is None or attempt.timeout == bound else _rounded(attempt.timeout)


def _rounded(left: float) -> float:
    """Returns what is left of the time of a whole call, rounded up to two digits. LiteLLM keeps a client, and
    so its connections, for each time-out: they must not be as many as there are requests.
    """
    unit = 10.0 ** (math.floor(math.log10(max(left, 0.001))) - 1)
    return round(math.ceil(left / unit) * unit, 4) or 0.001


def _model(lease: Lease, deployment: Deployment) -> str:
    """Returns the model with its provider, as LiteLLM names it."""
    named: str = deployment.metadata["litellm_params"]["model"]
    # The deployment's own name of it ends the same, without the provider.
    return named.removesuffix(deployment.model) + lease.model if named.endswith(deployment.model) else named


def _shown(value: Any) -> Any:
    """Returns a setting; None for a variable that is not set. LiteLLM then looks for the usual one."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Env):
        return os.environ.get(value.name)
    # Mappings and lists are copied: nobody may write into the settings.
    if isinstance(value, Mapping):
        return {name: _shown(one) for name, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, list) else value
