"""Reads what a provider says about its limits in the headers of a response.

Providers do not agree on the names, and even less on the way to write a time. These are read:

- how long to wait: ``Retry-After`` in seconds or as a date (RFC 9110, section 10.2.3), and in milliseconds
  ``retry-after-ms`` (Azure OpenAI; understood by the openai and anthropic clients) and
  ``x-ms-retry-after-ms`` (Azure's own clients);
- ``x-ratelimit-limit-requests``, ``-remaining-``, ``-reset-``, and the same of ``tokens``: OpenAI
  (https://platform.openai.com/docs/guides/rate-limits) and those that follow it, such as Groq (https://console.groq.com/docs/rate-limits)
  and OpenRouter. Resets are durations as Go writes them, ``6m0s`` or ``120ms``; Azure OpenAI and GitHub
  Models write plain seconds, and Azure has sent the reset as ``x-rate-limit-reset-tokens``
  (openai/openai-python#937), and -1 for what it does not know;
- ``anthropic-ratelimit-requests-limit``, ``-remaining``, ``-reset``, and the same of ``tokens``,
  ``input-tokens`` and ``output-tokens``, with resets as RFC 3339 timestamps
  (https://docs.anthropic.com/en/api/rate-limits);
- ``x-ratelimit-limit-req-minute`` and ``-tokens-minute``: Mistral (mistralai/client-ts#169); Cerebras writes
  ``requests-minute`` (https://inference-docs.cerebras.ai/support/rate-limits). Mistral's gateway has also
  written ``ratelimitbysize-limit`` for tokens;
- ``x-ratelimit-limit-tokens-prompt`` and ``-tokens-generated``: Fireworks (https://docs.fireworks.ai/guides/quotas_usage/rate-limits);
- ``x-ratelimit-limit``, ``-remaining``, ``-reset`` and ``x-tokenlimit-…``: Together
  (https://docs.together.ai/docs/rate-limits). Many gateways send the former, for requests. They also send
  ``ratelimit-limit``, ``-remaining``, ``-reset`` of earlier drafts of the IETF
  (draft-ietf-httpapi-ratelimit-headers). These resets are seconds or a Unix time; the size tells which;
- ``x-trial-endpoint-call-limit`` and ``-remaining``: Cohere's trial keys;
- ``RateLimit`` and ``RateLimit-Policy`` of the IETF's drafts from 07 on, in both their forms;
- ``anthropic-ratelimit-unified-…-status`` and ``-reset``: windows of hours and days. A rejected window is a
  wait until its reset; of several, the latest counts;
- any of these behind ``llm_provider-``, where LiteLLM hands on what the provider sent
  (https://docs.litellm.ai/docs/proxy/response_headers).

Times are read as `turnout.providers.times` says. Moments are read by the answer's own ``Date``: then it does
not matter if a clock is wrong, here or there. Names and values of more than 256 characters are ignored.

Some names tell budgets of an hour, a day or a month (Mistral, Cerebras). They are no limits to observe:
turnout counts minutes. If such a budget is spent, it tells how long a refusal lasts. Azure's
``x-ratelimit-renewalperiod-…`` is left out: it is the length of the window, not the time that is left of it.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from turnout._signals import let_through
from turnout.providers.strangers import attribute, entry, text
from turnout.providers.times import MOST_CHARACTERS, Now, first, number, seconds

__all__ = ["Observed", "RateLimits", "read_rate_limits"]


class Observed(NamedTuple):
    """What a provider said about one of its limits.

    Attributes:
        unit: What is counted: ``"requests"``, ``"tokens"``, ``"input_tokens"`` or ``"output_tokens"``.
        limit: How many the provider admits in its window; None if it did not say. The window is a minute with
            most providers, but no header says so: Groq's requests are those of a day, Together counts
            seconds.
        remaining: How many are left; None if it did not say.
        reset: Seconds until the window begins anew or is full again, 0.0 if that is past; None if it did not
            say.
    """

    unit: str
    limit: int | None
    remaining: int | None
    reset: float | None


class RateLimits(NamedTuple):
    """What a response says about the provider's limits.

    Attributes:
        retry_after: Seconds after which the provider wants to be asked again; None if it did not say.
        observed: The limits that it named, at most one for each unit, in the order requests, tokens, input
            tokens, output tokens. Limits of which neither the amount nor the rest is known are left out.
    """

    retry_after: float | None
    observed: tuple[Observed, ...]


class _Heard(NamedTuple):
    """All that headers say.

    Attributes:
        retry_after: Seconds after which the provider wants to be asked again; None if it did not say.
        observed: The limits it named.
        renewed: Seconds until the last of the spent limits begins anew; None if none is spent, or its reset
            is not known.
        scope: ``"account"`` if the wait is about the whole account; None if that is not known.
    """

    retry_after: float | None
    observed: tuple[Observed, ...]
    renewed: float | None
    scope: Literal["account"] | None = None


_NOTHING = _Heard(None, (), None)

_MOST_COUNTED = 1e15
# Servers and clients allow for about a hundred; a stranger's iterator may not end at all.
_MOST_HEADERS = 1000

_UNITS = ("requests", "tokens", "input_tokens", "output_tokens")
_LIMIT, _REMAINING, _RESET, _WAIT, _DATE, _STRUCTURED = range(6)
_FIELDS = (("limit", _LIMIT), ("remaining", _REMAINING), ("reset", _RESET))

# The families of names, the most telling first: a unit is taken whole from the first family that knows its
# limit or what remains.
_FAMILIES = (
    {
        "x-ratelimit-{field}-requests": "requests",
        "x-ratelimit-{field}-tokens": "tokens",
        "x-rate-limit-{field}-requests": "requests",
        "x-rate-limit-{field}-tokens": "tokens",
    },
    {
        "anthropic-ratelimit-requests-{field}": "requests",
        "anthropic-ratelimit-tokens-{field}": "tokens",
        "anthropic-ratelimit-input-tokens-{field}": "input_tokens",
        "anthropic-ratelimit-output-tokens-{field}": "output_tokens",
    },
    {
        "x-ratelimit-{field}-req-minute": "requests",
        "x-ratelimit-{field}-requests-minute": "requests",
        "x-ratelimit-{field}-tokens-minute": "tokens",
        "x-ratelimit-{field}-tokens-prompt": "input_tokens",
        "x-ratelimit-{field}-tokens-generated": "output_tokens",
        "x-ratelimitbysize-{field}-minute": "tokens",
        "ratelimitbysize-{field}": "tokens",
    },
    {"x-ratelimit-{field}": "requests", "x-tokenlimit-{field}": "tokens"},
    {"ratelimit-{field}": "requests"},
    {"x-trial-endpoint-call-{field}": "requests"},
    # These are read only for the time at which a spent one begins anew.
    {
        f"x-ratelimit-{{field}}-{unit}-{per}": f"{unit} a {per}"
        for unit in ("requests", "tokens")
        for per in ("hour", "day", "month")
    },
)
# The ways to say how long to wait, the most exact first, and how many of its units make a second.
_WAITS = (("retry-after-ms", 1000.0), ("x-ms-retry-after-ms", 1000.0), ("retry-after", 1.0))
# LiteLLM's proxy has limits of its own under the plain names; they bind the caller first.
_PREFIXES = ("", "llm_provider-")
# Anthropic's windows of hours and days, each with a status and a reset (Wei-Shaw/sub2api#3249,
# router-for-me/CLIProxyAPI#3148).
_UNIFIED = tuple(prefix + "anthropic-ratelimit-unified-" for prefix in _PREFIXES)

# The place of a name's value: its unit, a rank among all families (the lower, the more telling) and the
# field.
_PLACES = {
    prefix + name.format(field=word): (unit, rank + depth * len(_FAMILIES), field)
    for depth, prefix in enumerate(_PREFIXES)
    for rank, family in enumerate(_FAMILIES)
    for name, unit in family.items()
    for word, field in _FIELDS
}
_PLACES |= {prefix + name: ("", 0, _WAIT) for prefix in _PREFIXES for name, _ in _WAITS}
_PLACES |= dict.fromkeys(("ratelimit", "ratelimit-policy"), ("", 0, _STRUCTURED))
_PLACES["date"] = ("", 0, _DATE)

# An item of a structured field (RFC 9651), as far as the drafts use it, and its parameters.
_ITEM = re.compile(r'("[^"]*"|[A-Za-z][\w.-]*)((?:;\s*[a-z]+=[^;,]*)*)')
_PARAMETER = re.compile(r'([a-z]+)="?([\w.-]+)')
# The units that a policy may count (its `qu`). Others, such as bytes, are not turnout's.
_COUNTED = {"requests": "requests", "tokens": "tokens"}


def read_rate_limits(headers: Any, *, now: datetime | None = None) -> RateLimits:
    """Read what a provider says about its limits.

    It raises for no headers. A value that makes no sense (negative, not finite, absurdly large, not a number)
    is ignored.

    Args:
        headers: The headers of a response, as a mapping (the case of its names does not matter) or a list of
            pairs, of `str` or `bytes`; or an object that has them as ``headers``, such as a response, or as
            ``response.headers``, such as an exception.
        now: The time from which moments are counted, without a time zone in UTC; None for the present. Only
            headers that give a moment, not a duration, need it. If it is None and the headers have a
            ``Date``, that is the present.

    Returns:
        What was said. If an exception has several places for headers, the first place that says anything
        counts.

    Raises:
        TypeError: ``now`` is no datetime.

    Example:
        >>> from turnout import read_rate_limits
        >>> headers = {"X-RateLimit-Remaining-Tokens": "149984", "X-RateLimit-Reset-Tokens": "6m0s"}
        >>> limits = read_rate_limits(headers)
        >>> limits.observed
        (Observed(unit='tokens', limit=None, remaining=149984, reset=360.0),)
    """
    if now is not None and not isinstance(now, datetime):
        raise TypeError(f"now must be a datetime or None, not {now!r} ({type(now).__name__})")
    for place in chain((headers,), _headers_of(headers)):
        found = _read(place, now)
        if found.retry_after is not None or found.observed:
            return RateLimits(found.retry_after, found.observed)
    return RateLimits(None, ())


def read_exception_headers(exc: BaseException, more: Iterable[Any] = ()) -> _Heard:
    """Read what an exception's headers say, each fact from the first place that tells it.

    Args:
        exc: The exception.
        more: Headers that were found elsewhere.

    Returns:
        What was said.
    """
    heard, present = _NOTHING, None
    # A gateway's answer hands on the headers of the provider's, whose moments are read by its own `Date`.
    for place, is_more in chain(((place, False) for place in _headers_of(exc)), ((place, True) for place in more)):
        if not is_more and present is None:
            present = _header(place, "date") if more else None
        found = _read(place, present if is_more else None)
        if found == _NOTHING:
            # A mapping that cannot list its names may still answer for one.
            found = found._replace(retry_after=_looked_up(place))
        heard = (
            found
            if heard == _NOTHING
            else _Heard(
                found.retry_after if heard.retry_after is None else heard.retry_after,
                heard.observed or found.observed,
                found.renewed if heard.renewed is None else heard.renewed,
                heard.scope or found.scope,
            )
        )
    return heard if heard.retry_after is not None else heard._replace(retry_after=number(attribute(exc, "retry_after")))


def _headers_of(holder: Any) -> Iterator[Any]:
    """All that may be the headers of a response or an exception. litellm keeps the provider's headers in a
    place of its own, mistralai keeps those of its raw response, and botocore's response is a dict.
    """
    response = attribute(holder, "response")
    yield from (
        headers
        for headers in (
            attribute(response, "headers"),
            entry(entry(response, "ResponseMetadata"), "HTTPHeaders"),
            attribute(holder, "headers"),
            attribute(holder, "litellm_response_headers"),
            attribute(attribute(holder, "raw_response"), "headers"),
        )
        if headers is not None
    )


def _looked_up(headers: Any) -> float | None:
    """Seconds to wait, as a mapping's headers tell, or None. It makes a few look-ups, so the mapping need not
    be able to list its names.
    """
    waits = {name: said for name, _ in _WAITS if (said := _header(headers, name)) is not None}
    return _first_wait(waits, _header(headers, "date")) if waits else None


def _header(headers: Any, name: str) -> str | None:
    """A header's value; the mappings of client libraries ignore case, a plain dict does not."""
    for spelling in (name, name.title()):
        try:
            value = headers[spelling]
        except Exception as error:  # a stranger's mapping may raise anything for a missing key
            let_through(error)
            continue
        return _short(value)
    return None


def _short(value: Any) -> str | None:
    """A value as text, or None for one that is too long."""
    if type(value) is not str:
        # It need not be decoded to see that it is too long.
        value = text(value) if type(value) is not bytes or len(value) <= MOST_CHARACTERS else None
    return value if value is None or len(value) <= MOST_CHARACTERS else None


def _read(headers: Any, now: Now = None) -> _Heard:
    """All that a mapping or pairs say. If ``now`` is None, their ``Date`` is the present."""
    known: list[tuple[str, int, int, str]] = []
    waits: dict[str, str] = {}
    unified: dict[str, str] = {}
    structured: dict[str, str] = {}
    try:
        pairs = headers if isinstance(headers, (list, tuple)) else headers.items()
        for name, value in islice(pairs, _MOST_HEADERS):
            # Most clients write names in small letters.
            place = _PLACES.get(name)
            if place is None:
                name = (name if type(name) is str else text(name))[: MOST_CHARACTERS + 1].lower()
                place = _PLACES.get(name)
                if place is None:
                    if name.startswith(_UNIFIED) and len(name) <= MOST_CHARACTERS and (said := _short(value)) is not None:
                        unified.setdefault(name.partition("unified-")[2], said)
                    continue
            said = value if type(value) is str and len(value) <= MOST_CHARACTERS else _short(value)
            if said is None:
                continue
            unit, rank, field = place
            if field <= _RESET:
                known.append((unit, rank, field, said))
            elif field == _WAIT:
                waits.setdefault(name, said)
            elif field == _STRUCTURED:
                structured.setdefault(name, said)
            else:
                now = now or said
    except Exception as error:  # no headers, or a stranger's that fail half-way: what they gave before is as good as any
        let_through(error)
    limits = _limits(known, now)
    if structured:
        _add_structured(limits, structured)
    named = _first_wait(waits, now) if waits else None
    rejected = _rejected_until(unified, now) if unified else None
    # These windows belong to a subscription, for any model.
    scope: Literal["account"] | None = "account" if rejected is not None else None
    named = named or rejected or named
    if not limits:
        return _NOTHING if named is None else _Heard(named, (), None, scope)
    return _Heard(named, _most_telling(limits), _renewed(limits), scope)


# By unit and family: the limit, what remains, the reset.
Limits = dict[tuple[str, int], list[Any]]


def _limits(known: list[tuple[str, int, int, str]], now: Now) -> Limits:
    limits: Limits = {}
    for unit, rank, field, said in known:
        values = limits.setdefault((unit, rank), [None, None, None])
        if values[field] is None:
            values[field] = seconds(said, now) if field == _RESET else _count(said)
    return limits


def _count(said: str) -> int | None:
    """A number of requests or tokens. In IETF drafts, windows may follow the limit: ``100, 100;w=60``."""
    if said.isascii() and said.isdigit() and len(said) <= 15:
        return int(said)
    counted = number(first(said).partition(";")[0], most=_MOST_COUNTED)
    return None if counted is None else int(counted)


def _most_telling(limits: Limits) -> tuple[Observed, ...]:
    """Each unit from the first family that knows it."""
    best: dict[str, Observed] = {}
    for (unit, _), (limit, remaining, reset) in sorted(limits.items(), key=_rank) if len(limits) > 1 else limits.items():
        if unit not in best and not (limit is None and remaining is None):
            best[unit] = Observed(unit, limit, remaining, reset)
    return tuple(best[unit] for unit in _UNITS if unit in best)


def _rank(one: tuple[tuple[str, int], list[Any]]) -> int:
    return one[0][1]


def _renewed(limits: Limits) -> float | None:
    """Seconds until the last of the spent limits begins anew. The reset of a limit that is not spent tells
    when it will be full again. That is not the time of the next request.
    """
    spent = [reset for _, remaining, reset in limits.values() if remaining == 0 and reset is not None]
    return max(spent) if spent else None


def _first_wait(waits: dict[str, str], now: Now) -> float | None:
    """The first wait that is not zero. A zero is the answer only if no other wait is named."""
    none = None
    for prefix in _PREFIXES:
        for name, parts in _WAITS:
            said = waits.get(prefix + name)
            if said is None:
                continue
            wait = seconds(said, now) if parts == 1.0 else number(first(said))
            if wait:
                return wait / parts
            none = wait if none is None else none
    return none


def _rejected_until(windows: dict[str, str], now: Now) -> float | None:
    """Seconds until the last of Anthropic's rejected windows begins anew; None if no window is rejected.

    If the status of all windows together lets requests pass, no window counts: paid usage goes on. The
    overage tells whether paid usage may go on. It is no window that ends.
    """
    if windows.get("status", "rejected").strip().lower() != "rejected":
        return None
    waits = (
        seconds(windows.get(name.removesuffix("status") + "reset", ""), now)
        for name, status in windows.items()
        if name.endswith("status") and not name.startswith("overage") and status.strip().lower() == "rejected"
    )
    return max((wait for wait in waits if wait is not None), default=None)


def _add_structured(limits: Limits, fields: dict[str, str]) -> None:
    """Adds what the IETF's ``RateLimit`` says. Of several policies of a unit, the strictest one counts.

    Draft 07 writes ``limit=100, remaining=0, reset=30``. Drafts from 08 on write ``"name";r=0;t=30``, and the
    limit of that name in ``RateLimit-Policy``: ``"name";q=100``.
    """
    said = fields.get("ratelimit", "")
    if "remaining=" in said:
        named = dict(_PARAMETER.findall(said))
        found = [("requests", _count(named.get("limit", "")), _count(named["remaining"]), number(named.get("reset", "")))]
    else:
        policies = {name: dict(_PARAMETER.findall(rest)) for name, rest in _ITEM.findall(fields.get("ratelimit-policy", ""))}
        found = []
        for name, rest in _ITEM.findall(said):
            policy, named = policies.get(name, {}), dict(_PARAMETER.findall(rest))
            unit = _COUNTED.get(policy.get("qu", "requests"))
            if unit is not None:
                found.append((unit, _count(policy.get("q", "")), _count(named.get("r", "")), number(named.get("t", ""))))
    last = sorted((one for one in found if one[2] is not None), key=lambda one: (one[2], -(one[3] or 0.0)))
    for unit, *values in last:
        limits.setdefault((unit, len(_FAMILIES)), values)
