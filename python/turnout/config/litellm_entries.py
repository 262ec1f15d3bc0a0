"""The ``model_list`` of a LiteLLM config: deployments."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from turnout._core import Deployment
from turnout.config.document import Where
from turnout.config.problems import Problems, shown
from turnout.config.providers import known, provider_of
from turnout.config.values import GONE, credential, is_credential, resolved
from turnout.endpoints import Endpoint, Env
from turnout.exceptions import ConfigurationError
from turnout.execution.options import Retry
from turnout.limits import Limit
from turnout.options import Health, MinuteRules

__all__ = ["Entry", "Rules", "count", "deployments", "entries", "number", "usual_id"]

_MOST_WEIGHT = 2**32 - 1
# What these hold may be secrets, whatever its name is.
_HEADERS = ("extra_headers", "headers")
_LIMITS = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "max_parallel_requests")
_DAY = 86_400.0
_NUMBER = re.compile(r"[^eE]{1,64}(?:[eE][+-]?\d{1,3})?")
_MOST_AMOUNT = 10**18

# Settings of an entry that have a meaning here. Any other goes to the provider with each request.
_KNOWN = frozenset(
    (
        *_LIMITS,
        *("model", "weight", "order", "tags", "daily_reset_time", "region_name", "api_base", "base_url", "api_key", "api_version"),
        *("input_cost_per_token", "output_cost_per_token", "num_retries", "cooldown_time", "custom_llm_provider"),
    )
)
# Names that people write, and that LiteLLM passes on without a word.
_MEANT = {
    "rpm_limit": "rpm",
    "tpm_limit": "tpm",
    "requests_per_minute": "rpm",
    "tokens_per_minute": "tpm",
    "max_rpm": "rpm",
    "max_tpm": "tpm",
    "priority": "order",
    "max_parallel": "max_parallel_requests",
}
_WITHOUT_EFFECT = {
    "tag_regex": "tags are compared as a whole here",
    "max_budget": "turnout counts no money",
    "budget_duration": "turnout counts no money",
}


class Entry(NamedTuple):
    """One entry of the list.

    Attributes:
        where: The way to it.
        model_name: The name that requests ask for.
        params: Its ``litellm_params``, with what stands in the environment, but for credentials.
        info: Its ``model_info``.
        limits: Its amounts by name.
        weight: Its share; None if it names none.
        order: Its rank; None if it names none.
    """

    where: Where
    model_name: str
    params: dict[str, Any]
    info: dict[str, Any]
    limits: dict[str, int]
    weight: Fraction | None
    order: int | None

    @property
    def is_out(self) -> bool:
        """Whether it is out of service."""
        return self.info.get("blocked") is True or 0 in self.limits.values()


def count(said: Any, where: Where, problems: Problems) -> int | None:
    """Return a whole number; LiteLLM takes texts and floats too.

    Args:
        said: What the config says.
        where: The way to it.
        problems: Where a wrong value is noted.

    Returns:
        The number; None if it is wrong.
    """
    amount = number(said, where, problems)
    if amount is not None and amount.denominator != 1:
        problems.error(where, f"this must be a whole number, not {shown(said)}")
        return None
    return None if amount is None else int(amount)


def number(said: Any, where: Where, problems: Problems) -> Fraction | None:
    """Return a number from 0 up, exactly as it is written.

    Args:
        said: What the config says.
        where: The way to it.
        problems: Where a wrong value is noted.

    Returns:
        The number; None if it is wrong.
    """
    try:
        if isinstance(said, bool) or not isinstance(said, (int, float, str)):
            raise ValueError
        text = str(said).strip()
        if not _NUMBER.fullmatch(text):  # others may take for ever
            raise ValueError
        amount = Fraction(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        problems.error(where, f"this must be a number, not {shown(said)}")
        return None
    if amount > _MOST_AMOUNT:
        problems.error(where, f"this must be at most 1e18, not {shown(said)}")
        return None
    if amount < 0:
        problems.error(where, f"this must be 0 or more, not {shown(said)}")
        return None
    return amount


def entries(said: Any, problems: Problems) -> list[Entry]:
    """Read the list.

    Args:
        said: What the config says.
        problems: Where problems are noted.

    Returns:
        The entries that can be used.
    """
    if not isinstance(said, list):
        problems.error(("model_list",), f"this must be a list, not a {type(said).__name__}")
        return []
    found = (_entry(one, ("model_list", nth), problems) for nth, one in enumerate(said))
    return [entry for entry in found if entry is not None]


def _entry(said: Any, where: Where, problems: Problems) -> Entry | None:
    if not isinstance(said, Mapping):
        problems.error(where, f"this must be a mapping, not a {type(said).__name__}")
        return None
    parts: dict[str, dict[str, Any]] = {}
    for name in ("litellm_params", "model_info"):
        part = {} if name == "model_info" and said.get(name) is None else said.get(name)
        if not isinstance(part, Mapping):
            problems.error((*where, name), "this must be a mapping" if name in said else "this is required")
            return None
        parts[name] = _values(part, (*where, name), problems)
    params, info = parts["litellm_params"], parts["model_info"]
    names = [resolved(said.get("model_name"), (*where, "model_name"), problems), params.get("model")]
    for name, value in zip(("model_name", "litellm_params.model"), names, strict=True):
        if not isinstance(value, str) or not value:
            problems.error(where, f"{name} must be a text with at least one character, not {shown(value)}")
            return None
    _look_for_slips(params, (*where, "litellm_params"), problems)
    if "*" in str(names[1]) and "*" not in str(names[0]):
        problems.warn((*where, "litellm_params", "model"), "this '*' stands for nothing: model_name has none")
    limits = {}
    for name in _LIMITS:
        # What stands beside the model name comes first.
        for part, place in ((said, where), (params, (*where, "litellm_params"))):
            if part.get(name) is not None:
                amount = count(resolved(part[name], (*place, name), problems, is_limit=True), (*place, name), problems)
                if amount is not None:
                    limits[name] = amount
                break
    weight = order = None
    if params.get("weight") is not None:
        weight = number(params["weight"], (*where, "litellm_params", "weight"), problems)
    if params.get("order") is not None:
        order = count(params["order"], (*where, "litellm_params", "order"), problems)
    return Entry(where, str(names[0]), params, info, limits, weight, order)


def _values(part: Mapping[str, Any], where: Where, problems: Problems) -> dict[str, Any]:
    """Returns settings with what stands in the environment. Credentials are looked up at their use."""
    values: dict[str, Any] = {}
    for name, said in part.items():
        if is_credential(str(name)) and isinstance(said, str):
            values[name] = credential(said, (*where, name), problems)
            continue
        if name in _HEADERS and isinstance(said, Mapping):
            below = (*where, name)
            values[name] = {
                key: credential(one, (*below, key), problems) if isinstance(one, str) else one for key, one in said.items()
            }
            continue
        value = resolved(said, (*where, name), problems, is_limit=name in _LIMITS)
        if value is not GONE:
            values[name] = value
    return values


def _look_for_slips(params: dict[str, Any], where: Where, problems: Problems) -> None:
    for name in params:
        if name in _MEANT:
            problems.warn((*where, name), f"LiteLLM knows no such setting: did you mean {_MEANT[name]!r}?")
        elif name in _WITHOUT_EFFECT:
            problems.warn((*where, name), f"this has no effect: {_WITHOUT_EFFECT[name]}")


# --- deployments ---


class Rules(Protocol):
    """What the settings of the router and of an entry come to together."""

    def rules_of(self, entry: Entry, problems: Problems) -> Health | MinuteRules | None:
        """Return the rules of cooldown of one entry; None for those of the router."""

    def retry_of(self, entry: Entry, problems: Problems) -> Retry | None:
        """Return the rules of retrying of one entry; None for those of the router."""


def deployments(found: list[Entry], problems: Problems, rules: Rules) -> list[Deployment]:
    """Make deployments.

    Args:
        found: The entries.
        problems: Where problems are noted.
        rules: What the settings of the router come to.

    Returns:
        The deployments that are in service.
    """
    weights = _weights([entry for entry in found if not entry.is_out])
    has_order = {entry.model_name for entry in found if entry.order is not None}
    ids = _ids(found, problems)
    made = []
    for entry, id_ in zip(found, ids, strict=True):
        if entry.is_out:
            problems.note(entry.where, f"{id_!r} is out of service: it is blocked, or a limit is 0")
            continue
        # Where others have a rank, those without come last. LiteLLM does not use them at all.
        unranked = _MOST_WEIGHT if entry.model_name in has_order else 0
        priority = unranked if entry.order is None else entry.order
        deployment = _deployment(entry, id_, weights[entry.where], priority, rules, problems)
        if deployment is not None:
            made.append(deployment)
    return made


def _weights(found: list[Entry]) -> dict[Where, int]:
    """Returns whole weights. Those of a group are by ``weight``, else by ``rpm``, else by ``tpm``: the first
    that any of its members has. A member without it gets 0.
    """
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in found:
        groups[entry.model_name].append(entry)
    weights = {}
    for group in groups.values():
        choices = (
            [entry.weight for entry in group],
            *([None if (said := entry.limits.get(name)) is None else Fraction(said) for entry in group] for name in ("rpm", "tpm")),
        )
        shares = next(([share or Fraction(0) for share in one] for one in choices if any(one)), [Fraction(1)] * len(group))
        scale = Fraction(math.lcm(*(share.denominator for share in shares)))
        most = max(shares) * scale
        if most > _MOST_WEIGHT:
            scale *= Fraction(_MOST_WEIGHT) / most
        for entry, share in zip(group, shares, strict=True):
            # A small share is still a share.
            weights[entry.where] = max(int(share * scale), 1 if share else 0)
    return weights


def _ids(found: list[Entry], problems: Problems) -> list[str]:
    """Returns the ids: those that are given, else what tells the entries apart."""
    ids: list[str] = []
    seen: Counter[str] = Counter()
    for entry in found:
        given = entry.info.get("id")
        if given is not None:
            id_ = str(given)
            if id_ in ids:
                problems.error((*entry.where, "model_info", "id"), f"the id {id_!r} is given twice")
        else:
            id_ = usual_id(entry.model_name, entry.params, seen)
            if "#" in id_:
                problems.note(entry.where, f"{id_!r} has its number by its place: with a model_info.id a reload knows it anywhere")
        ids.append(id_)
    return ids


def usual_id(model_name: str, params: Mapping[str, Any], seen: Counter[str]) -> str:
    """Return the id of an entry that names none: its names, its host, and a number if that is not enough.

    Args:
        model_name: Its model name.
        params: Its ``litellm_params``.
        seen: How often such an id was made before. It is counted on.

    Returns:
        The id.
    """
    base = params.get("api_base") or params.get("base_url")
    # Without a user and a password.
    host = urlsplit(base).netloc.rpartition("@")[2] if isinstance(base, str) else ""
    name = f"{model_name}:{params.get('model')}{f'@{host}' if host else ''}"
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"


def _deployment(
    entry: Entry,
    id_: str,
    weight: int,
    priority: int,
    rules: Rules,
    problems: Problems,
) -> Deployment | None:
    params, info = entry.params, entry.info
    try:
        endpoint, model = _endpoint(params)
        return Deployment(
            id_,
            entry.model_name,
            model=model,
            weight=weight,
            priority=priority,
            rpm_limit=entry.limits.get("rpm"),
            tpm_limit=entry.limits.get("tpm"),
            max_parallel_requests=entry.limits.get("max_parallel_requests"),
            limits=_limits(entry, problems),
            tags=_tags(entry, problems),
            metadata={"litellm_params": _kept(params), "model_info": _hidden("", info)},
            health=rules.rules_of(entry, problems),
            retry=rules.retry_of(entry, problems),
            input_price=_price(entry, "input_cost_per_token", problems),
            output_price=_price(entry, "output_cost_per_token", problems),
            endpoint=endpoint,
        )
    except (ValueError, TypeError) as error:
        problems.error(entry.where, str(error))
        return None


def _endpoint(params: Mapping[str, Any]) -> tuple[Endpoint | None, str]:
    """Returns where an entry is reached, if the transports can speak to it, and its model as they name it."""
    named, model = provider_of(params["model"], params.get("custom_llm_provider"))
    provider = known(named)
    base_url = params.get("api_base") or params.get("base_url") or (provider.base_url if provider is not None else None)
    if provider is None or not isinstance(base_url, str):
        return None, params["model"]
    key = params.get("api_key") or (Env(provider.key) if provider.key else None)
    query = {}
    if named == "azure":
        if "*" in model:
            # The name of the model is a part of the address.
            return None, model
        base_url = base_url.rstrip("/")
        if not re.search(r"/openai(/|$)", base_url):
            base_url = f"{base_url}/openai/deployments/{model}"
        if params.get("api_version"):
            query["api-version"] = str(params["api_version"])
    elif provider.dialect == "anthropic":
        base_url = base_url.rstrip("/").removesuffix("/v1")
    said = params.get("extra_headers") or {}
    if not isinstance(said, Mapping):
        raise ConfigurationError(f"extra_headers must be a mapping, not {shown(said)}")
    headers = {str(name): value for name, value in said.items() if isinstance(value, (str, Env))}
    return Endpoint(base_url, api_key=key, headers=headers, query=query, auth=provider.auth, dialect=provider.dialect), model


def _price(entry: Entry, name: str, problems: Problems) -> float | None:
    """Returns the price of a million tokens."""
    for section, part in (("litellm_params", entry.params), ("model_info", entry.info)):
        if part.get(name) is not None:
            price = number(part[name], (*entry.where, section, name), problems)
            return None if price is None else float(price * 1_000_000)
    return None


def _limits(entry: Entry, problems: Problems) -> list[Limit]:
    offset = 0.0
    if (said := entry.params.get("daily_reset_time")) is not None:
        clock = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", str(said))
        if clock is None:
            problems.error(
                (*entry.where, "litellm_params", "daily_reset_time"), f"this must be a time such as '08:00', not {shown(said)}"
            )
        else:
            offset = int(clock[1]) * 3600.0 + int(clock[2]) * 60.0
    of = entry.limits.get
    units = (("input_tokens", "itpm", 60.0), ("output_tokens", "otpm", 60.0), ("requests", "rpd", _DAY), ("tokens", "tpd", _DAY))
    return [
        Limit(**{unit: of(name)}, per=per, offset=offset if per == _DAY else 0.0)  # type: ignore[arg-type]
        for unit, name, per in units
        if of(name) is not None
    ]


def _tags(entry: Entry, problems: Problems) -> list[str]:
    said = entry.params.get("tags") or []
    if not isinstance(said, list) or not all(isinstance(tag, str) and tag for tag in said):
        problems.error((*entry.where, "litellm_params", "tags"), f"this must be a list of texts, not {shown(said)}")
        return []
    region = entry.params.get("region_name")
    return [*said, region] if isinstance(region, str) and region else list(said)


def _kept(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a provider gets, with secrets that no text shows."""
    return {
        name: _hidden(str(name), value)
        for name, value in params.items()
        if name == "model"
        or name not in _KNOWN
        or name in ("api_base", "base_url", "api_key", "api_version", "custom_llm_provider")
    }


def _hidden(name: str, value: Any, *, is_secret: bool = False) -> Any:
    """Returns a setting whose secrets show in no text."""
    is_secret = is_secret or is_credential(name) or name in _HEADERS
    if isinstance(value, Mapping):
        return {key: _hidden(str(key), one, is_secret=is_secret) for key, one in value.items()}
    if isinstance(value, list):
        return [_hidden("", one, is_secret=is_secret) for one in value]
    return SecretStr(value) if is_secret and isinstance(value, str) else value
