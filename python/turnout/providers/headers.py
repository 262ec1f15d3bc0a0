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

A time is a number of seconds, a duration as Go writes it (``6m0s``, ``120ms``), a Unix time in seconds or
milliseconds (its size tells which), an RFC 3339 timestamp, or an HTTP date in any of its three forms (RFC
9110, section 5.6.7). Moments are read by the answer's own ``Date``: then it does not matter if a clock is
wrong, here or there. Digits are those of ASCII. If a header came twice, clients join its values with a comma:
the first value counts. Names and values of more than 256 characters are ignored.

Some names tell budgets of an hour, a day or a month (Mistral, Cerebras). They are no limits to observe:
turnout counts minutes. If such a budget is spent, it tells how long a refusal lasts. Azure's
``x-ratelimit-renewalperiod-…`` is left out: it is the length of the window, not the time that is left of it.

This module finds the headers, and takes texts out of strangers' objects. The texts are read in ``src/said/``.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from turnout._core import _is_read, _read_header_pairs, _read_plain_headers
from turnout._signals import let_through
from turnout.providers.strangers import MOST_CHARACTERS, attribute, entry, number, text

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

# Servers and clients allow for about a hundred; a stranger's iterator may not end at all.
_MOST_HEADERS = 1000

# The ways to say how long to wait. These are asked for where headers cannot be listed.
_WAITS = ("retry-after-ms", "x-ms-retry-after-ms", "retry-after")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


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
    present = None if now is None else _microseconds(now)
    for place in chain((headers,), _headers_of(headers)):
        found = _read(place, present)
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
    said = [(name, said) for name in (*_WAITS, "date") if (said := _header(headers, name)) is not None]
    return _read_header_pairs(said, None)[0]


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


def _microseconds(now: datetime) -> int:
    """A moment in microseconds since the epoch."""
    return ((now if now.tzinfo is not None else now.replace(tzinfo=timezone.utc)) - _EPOCH) // _MICROSECOND


def _read(headers: Any, now: str | int | None) -> _Heard:
    """All that a mapping or pairs say. The present is a ``Date``, or in microseconds since the epoch. If it
    is None, their own ``Date`` tells it.
    """
    # The first one takes most headers, and runs no code of strangers.
    retry_after, observed, renewed, scope = _read_plain_headers(headers, now) or _read_header_pairs(_texts(headers), now)
    return _Heard(retry_after, tuple(map(Observed._make, observed)), renewed, scope)


def _texts(headers: Any) -> list[tuple[str, str]]:
    """The headers of a stranger's mapping or pairs that are read, as texts."""
    texts: list[tuple[str, str]] = []
    try:
        pairs = headers if isinstance(headers, (list, tuple)) else headers.items()
        for name, value in islice(pairs, _MOST_HEADERS):
            if not issubclass(type(name), str):
                name = text(name)
            if _is_read(name) and (said := _short(value)) is not None:
                texts.append((name, said))
    except Exception as error:  # no headers, or a stranger's that fail half-way: what they gave before is as good as any
        let_through(error)
    return texts
