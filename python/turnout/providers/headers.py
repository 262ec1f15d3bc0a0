"""What a provider says about its limits in the headers of a response.

Nobody agrees on the names, and less on how to write a time. These are read:

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
  ``requests-minute`` (https://inference-docs.cerebras.ai/support/rate-limits);
- ``x-ratelimit-limit-tokens-prompt`` and ``-tokens-generated``: Fireworks (https://docs.fireworks.ai/guides/quotas_usage/rate-limits);
- ``x-ratelimit-limit``, ``-remaining``, ``-reset`` and ``x-tokenlimit-…``: Together (https://docs.together.ai/docs/rate-limits);
  the former, of requests, is what many gateways send, as are ``ratelimit-limit``, ``-remaining``, ``-reset``
  of earlier drafts of the IETF (draft-ietf-httpapi-ratelimit-headers). Their resets are seconds or a Unix
  time, which its size tells apart;
- any of these behind ``llm_provider-``, where LiteLLM hands on what the provider sent
  (https://docs.litellm.ai/docs/proxy/response_headers).

Budgets of a day or a month that say so in their names (Mistral, Cerebras) are left out: turnout counts
minutes. Azure's ``x-ratelimit-renewalperiod-…`` is the length of the window, not the time left of it, and
left out too.
"""

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import islice
from math import isfinite
from typing import Any, NamedTuple

__all__ = ["Observed", "RateLimits", "read_rate_limits"]


class Observed(NamedTuple):
    """What a provider said about one of its limits.

    Attributes:
        unit: What is counted: ``"requests"``, ``"tokens"``, ``"input_tokens"`` or ``"output_tokens"``.
        limit: How many the provider admits in its window; None if it did not say. The window is a minute with
            most, but no header says so: Groq's requests are those of a day, Together counts seconds.
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
        observed: The limits it named, at most one a unit, in the order requests, tokens, input tokens, output
            tokens; only those of which the limit or what remains of it is known.
    """

    retry_after: float | None
    observed: tuple[Observed, ...]


_NOTHING = RateLimits(None, ())

_MOST_SECONDS = 1e9
_MOST_COUNTED = 1e15
# Servers and clients allow for about a hundred; a stranger's iterator may not end at all.
_MOST_HEADERS = 1000

# Plain numbers from here on are no longer seconds from now (32 years) but Unix times, first in seconds, then
# in milliseconds.
_EPOCH_FROM = 1e9
_EPOCH_MS_FROM = 1e11

_UNITS = ("requests", "tokens", "input_tokens", "output_tokens")
_LIMIT, _REMAINING, _RESET, _WAIT = range(4)
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
    },
    {"x-ratelimit-{field}": "requests", "x-tokenlimit-{field}": "tokens"},
    {"ratelimit-{field}": "requests"},
)
_WAITS_MS = ("retry-after-ms", "x-ms-retry-after-ms")
_WAIT_SECONDS = "retry-after"
# LiteLLM's proxy has limits of its own under the plain names; they bind the caller first.
_PREFIXES = ("", "llm_provider-")

# Where a name's value belongs: its unit, a rank among all families (the lower, the more telling) and the
# field.
_PLACES = {
    prefix + name.format(field=word): (unit, rank + depth * len(_FAMILIES), field)
    for depth, prefix in enumerate(_PREFIXES)
    for rank, family in enumerate(_FAMILIES)
    for name, unit in family.items()
    for word, field in _FIELDS
}
_PLACES |= {prefix + name: ("", 0, _WAIT) for prefix in _PREFIXES for name in (*_WAITS_MS, _WAIT_SECONDS)}

# Go's durations, and days. A µ that was sent in UTF-8 and read in Latin-1 has one letter more.
_DURATION = re.compile(
    "".join(rf"(?:([0-9]+(?:\.[0-9]*)?){unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms", "(?:u|µ|μ|Âµ)s", "ns")), re.IGNORECASE
)
_UNIT_SECONDS = (86_400.0, 3600.0, 60.0, 1.0, 1e-3, 1e-6, 1e-9)
_TIMESTAMP = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})?")


def read_rate_limits(headers: Any, *, now: datetime | None = None) -> RateLimits:
    """Read what a provider says about its limits.

    Never raises for what it is given: what makes no sense (negative, not finite, absurdly large, not a
    number) is as if it were not there.

    Args:
        headers: The headers of a response, as a mapping (the case of its names does not matter) or a list of
            pairs, of `str` or `bytes`; or an object that has them as ``headers``, such as a response, or as
            ``response.headers``, such as an exception.
        now: The time from which moments are counted, without a time zone in UTC; None for the present. Only
            headers that give a moment rather than a duration need it.

    Returns:
        What was said; of several places in an exception, by the first that says anything.

    Example:
        >>> from turnout import read_rate_limits
        >>> headers = {"X-RateLimit-Remaining-Tokens": "149984", "X-RateLimit-Reset-Tokens": "6m0s"}
        >>> limits = read_rate_limits(headers)
        >>> limits.observed
        (Observed(unit='tokens', limit=None, remaining=149984, reset=360.0),)
    """
    for place in (headers, *_headers_of(headers)):
        found = _read(place, now)
        if found != _NOTHING:
            return found
    return _NOTHING


def read_exception_headers(exc: BaseException) -> RateLimits:
    """Read what an exception's headers say, each fact from the first place that tells it.

    Args:
        exc: The exception.

    Returns:
        What was said.
    """
    retry_after: float | None = None
    observed: tuple[Observed, ...] = ()
    for place in _headers_of(exc):
        found = _read(place, None)
        observed = observed or found.observed
        if retry_after is None:
            # A mapping that cannot list its names may still answer for one.
            retry_after = _read_retry_after(place) if found == _NOTHING else found.retry_after
    return RateLimits(_number(_attribute(exc, "retry_after")) if retry_after is None else retry_after, observed)


def _headers_of(holder: Any) -> Iterator[Any]:
    """All that may be the headers of a response or an exception. litellm keeps the provider's in a place of
    their own.
    """
    for place, name in ((_attribute(holder, "response"), "headers"), (holder, "headers"), (holder, "litellm_response_headers")):
        headers = _attribute(place, name)
        if headers is not None:
            yield headers


def _read_retry_after(headers: Any) -> float | None:
    """Seconds to wait as a mapping's headers tell, or None: by a few look-ups, so that it need not be able to
    list its names.
    """
    for name in _WAITS_MS:
        milliseconds = _number(_header(headers, name))
        if milliseconds is not None:
            return milliseconds / 1000
    return _wait(_header(headers, _WAIT_SECONDS), None)


def _number(value: Any, most: float = _MOST_SECONDS) -> float | None:
    """A number from 0 to ``most``, or None."""
    try:
        parsed = float(value)
    except Exception:  # not a number, or a stranger's object
        return None
    return parsed if isfinite(parsed) and 0 <= parsed <= most else None


def _attribute(holder: Any, name: str) -> Any:
    """An attribute, or None: a property of a stranger's object may raise (that of an httpx exception's
    ``request`` does).
    """
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def _text(value: Any) -> str:
    """What an object says of itself, nothing if it fails to."""
    try:
        return str(value)
    except Exception:
        return ""


def _read(headers: Any, now: datetime | None) -> RateLimits:
    waits: dict[str, str] = {}
    # By unit and family: the limit, what remains, the reset.
    said: dict[tuple[str, int], list[Any]] = {}
    try:
        pairs = headers if isinstance(headers, (list, tuple)) else headers.items()
        for name, value in islice(pairs, _MOST_HEADERS):
            plain = (name if isinstance(name, str) else _decoded(name)).lower()
            place = _PLACES.get(plain)
            if place is None:
                continue
            unit, rank, field = place
            if field == _WAIT:
                waits.setdefault(plain, _decoded(value))
                continue
            values = said.setdefault((unit, rank), [None, None, None])
            if values[field] is None:
                values[field] = _seconds(_decoded(value), now) if field == _RESET else _count(_decoded(value))
    except Exception:  # no headers, or a stranger's that fail half-way: what they gave before is as good as any
        pass
    return RateLimits(_first_wait(waits, now), _most_telling(said))


def _most_telling(said: dict[tuple[str, int], list[Any]]) -> tuple[Observed, ...]:
    """Each unit from the first family that knows it."""
    best: dict[str, Observed] = {}
    for unit, rank in sorted(said, key=lambda key: key[1]):
        limit, remaining, reset = said[unit, rank]
        if unit not in best and not (limit is None and remaining is None):
            best[unit] = Observed(unit, limit, remaining, reset)
    return tuple(best[unit] for unit in _UNITS if unit in best)


def _first_wait(waits: dict[str, str], now: datetime | None) -> float | None:
    for prefix in _PREFIXES if waits else ():
        for name in _WAITS_MS:
            milliseconds = _number(waits.get(prefix + name))
            if milliseconds is not None:
                return milliseconds / 1000
        seconds = _wait(waits.get(prefix + _WAIT_SECONDS), now)
        if seconds is not None:
            return seconds
    return None


def _header(headers: Any, name: str) -> str | None:
    """A header's value; the mappings of client libraries ignore case, a plain dict does not."""
    for spelling in (name, name.title()):
        try:
            value = headers[spelling]
        except Exception:  # a stranger's mapping may raise anything for a missing key
            continue
        return _decoded(value)
    return None


def _decoded(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else _text(value)


def _wait(said: str | None, now: datetime | None) -> float | None:
    """Both forms of Retry-After, a number of seconds and an HTTP date."""
    if said is None:
        return None
    seconds = _number(said)
    return _seconds_until_date(said, now) if seconds is None else seconds


def _seconds(said: str, now: datetime | None) -> float | None:
    """A time in any of the ways in which resets are written."""
    plain = _number(said, most=_EPOCH_MS_FROM * 1000)
    if plain is not None:
        if plain < _EPOCH_FROM:
            return plain
        epoch = plain if plain < _EPOCH_MS_FROM else plain / 1000
        return _number(max(epoch - _present(now).timestamp(), 0.0))
    said = said.strip()
    if said and (match := _DURATION.fullmatch(said)) is not None:
        return _number(sum(float(count) * unit for count, unit in zip(match.groups(), _UNIT_SECONDS, strict=True) if count))
    if (match := _TIMESTAMP.fullmatch(said)) is not None:
        return _seconds_until_timestamp(match, now)
    return _seconds_until_date(said, now)


def _count(said: str) -> int | None:
    """A number of requests or tokens. Drafts of the IETF let the limit be followed by windows: ``100,
    100;w=60``.
    """
    counted = _number(said.partition(",")[0].partition(";")[0], most=_MOST_COUNTED)
    return None if counted is None else int(counted)


def _seconds_until_timestamp(match: re.Match[str], now: datetime | None) -> float | None:
    """An RFC 3339 timestamp. Before Python 3.11 `datetime` reads neither its Z nor fractions of any
    length.
    """
    date, time, fraction, zone = match.groups()
    offset = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        left = (datetime.fromisoformat(f"{date}T{time}{offset}") - _present(now)).total_seconds()
    except (ValueError, OverflowError):  # the 31st of February, or one at the end of time
        return None
    return _number(max(left + float(fraction or 0), 0.0))


def _seconds_until_date(date: str, now: datetime | None) -> float | None:
    """An HTTP date (RFC 9110, section 5.6.7)."""
    # Imported here: few providers send dates, and the module brings sockets along.
    from email.utils import parsedate_to_datetime

    try:
        left = (_aware(parsedate_to_datetime(date)) - _present(now)).total_seconds()
    except Exception:  # not a date, or one at the end of time
        return None
    return min(max(left, 0.0), _MOST_SECONDS)


def _present(now: datetime | None) -> datetime:
    return datetime.now(timezone.utc) if now is None else _aware(now)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
