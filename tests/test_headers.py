"""What providers say about their limits: samples of each as they were seen, and that nothing at all makes the
reader raise.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from itertools import repeat
from time import perf_counter
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from turnout import Observed, RateLimits, classify_exception, read_rate_limits

NOW = datetime(2026, 9, 27, 12, 0, 0, tzinfo=timezone.utc)
NOTHING = RateLimits(None, ())

OPENAI = {
    "date": "Sun, 27 Sep 2026 12:00:00 GMT",
    "content-type": "application/json",
    "openai-processing-ms": "1032",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "8.64s",
    "x-ratelimit-reset-tokens": "6m0s",
    "x-request-id": "req_1",
}
OPENAI_SAYS = (Observed("requests", 10_000, 9_999, 8.64), Observed("tokens", 150_000, 149_984, 360.0))


def unix(ahead: int) -> str:
    return str(int(NOW.timestamp()) + ahead)


SAMPLES: dict[str, tuple[dict[str, str], RateLimits]] = {
    "openai": (OPENAI, RateLimits(None, OPENAI_SAYS)),
    "openai, refused": (
        {
            "retry-after": "1",
            "retry-after-ms": "657",
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "657ms",
        },
        RateLimits(0.657, (Observed("tokens", 30_000, 0, 0.657),)),
    ),
    "azure": (
        {
            "x-ratelimit-limit-requests": "20000",
            "x-ratelimit-remaining-requests": "19999",
            "x-ratelimit-renewalperiod-requests": "60",
            "x-ratelimit-reset-requests": "3",
            "x-ratelimit-limit-tokens": "2000000",
            "x-ratelimit-remaining-tokens": "1999967",
            "x-ratelimit-renewalperiod-tokens": "60",
            "x-ratelimit-reset-tokens": "0",
            "x-ratelimit-abusepenalty-active": "False",
            "x-ratelimit-key": "gpt-4o-mini",
        },
        RateLimits(None, (Observed("requests", 20_000, 19_999, 3.0), Observed("tokens", 2_000_000, 1_999_967, 0.0))),
    ),
    "azure, what remains alone": (
        {"x-ratelimit-remaining-requests": "79", "x-ratelimit-remaining-tokens": "61353", "x-ms-region": "North Central US"},
        RateLimits(None, (Observed("requests", None, 79, None), Observed("tokens", None, 61_353, None))),
    ),
    "azure, refused": (
        {"x-rate-limit-reset-tokens": "55", "x-ratelimit-remaining-requests": "11", "x-ratelimit-remaining-tokens": "0"},
        RateLimits(None, (Observed("requests", None, 11, None), Observed("tokens", None, 0, 55.0))),
    ),
    "azure, provisioned": ({"retry-after": "1", "retry-after-ms": "43"}, RateLimits(0.043, ())),
    "azure, its own clients": ({"x-ms-retry-after-ms": "1500"}, RateLimits(1.5, ())),
    "azure, does not know": (
        {"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"},
        NOTHING,
    ),
    "anthropic": (
        {
            "anthropic-organization-id": "0",
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-09-27T12:00:01Z",
            "anthropic-ratelimit-tokens-limit": "38000",
            "anthropic-ratelimit-tokens-remaining": "37500",
            "anthropic-ratelimit-tokens-reset": "2026-09-27T12:00:02.5Z",
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "29000",
            "anthropic-ratelimit-input-tokens-reset": "2026-09-27T07:00:02-05:00",
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
            "anthropic-ratelimit-output-tokens-reset": "2026-09-27T11:59:59Z",
        },
        RateLimits(
            None,
            (
                Observed("requests", 50, 49, 1.0),
                Observed("tokens", 38_000, 37_500, 2.5),
                Observed("input_tokens", 30_000, 29_000, 2.0),
                Observed("output_tokens", 8_000, 8_000, 0.0),
            ),
        ),
    ),
    "groq, refused": (
        {
            "retry-after": "7.66",
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        RateLimits(7.66, (Observed("requests", 14_400, 14_370, 179.56), Observed("tokens", 18_000, 17_997, 7.66))),
    ),
    "mistral": (
        {
            "x-ratelimit-limit-tokens-minute": "5000000",
            "x-ratelimit-remaining-tokens-minute": "4999911",
            "x-ratelimit-limit-tokens-month": "10000000000",
            "x-ratelimit-remaining-tokens-month": "0",
            "x-ratelimit-tokens-query-cost": "52",
            "x-ratelimit-limit-req-minute": "720",
            "x-ratelimit-remaining-req-minute": "717",
        },
        RateLimits(None, (Observed("requests", 720, 717, None), Observed("tokens", 5_000_000, 4_999_911, None))),
    ),
    "cerebras": (
        {
            "x-ratelimit-limit-requests-day": "14400",
            "x-ratelimit-remaining-requests-day": "14399",
            "x-ratelimit-reset-requests-day": "33011.38",
            "x-ratelimit-limit-tokens-minute": "60000",
            "x-ratelimit-remaining-tokens-minute": "59000",
            "x-ratelimit-reset-tokens-minute": "11.38",
        },
        RateLimits(None, (Observed("tokens", 60_000, 59_000, 11.38),)),
    ),
    "fireworks": (
        {
            "x-ratelimit-limit-requests": "600",
            "x-ratelimit-remaining-requests": "599",
            "x-ratelimit-limit-tokens-prompt": "60000",
            "x-ratelimit-remaining-tokens-prompt": "59989",
            "x-ratelimit-limit-tokens-generated": "6000",
            "x-ratelimit-remaining-tokens-generated": "5990",
        },
        RateLimits(
            None,
            (
                Observed("requests", 600, 599, None),
                Observed("input_tokens", 60_000, 59_989, None),
                Observed("output_tokens", 6_000, 5_990, None),
            ),
        ),
    ),
    "together": (
        {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "9",
            "x-ratelimit-reset": "1",
            "x-tokenlimit-limit": "3000",
            "x-tokenlimit-remaining": "2900",
        },
        RateLimits(None, (Observed("requests", 10, 9, 1.0), Observed("tokens", 3_000, 2_900, None))),
    ),
    "litellm hands on": (
        {
            "x-litellm-version": "1.80.0",
            "llm_provider-retry-after": "2",
            "llm_provider-x-ratelimit-limit-requests": "30000",
            "llm_provider-x-ratelimit-remaining-requests": "29999",
            "llm_provider-anthropic-ratelimit-input-tokens-remaining": "10",
        },
        RateLimits(2.0, (Observed("requests", 30_000, 29_999, None), Observed("input_tokens", None, 10, None))),
    ),
    "litellm's own come first, and whole": (
        {
            "llm_provider-retry-after-ms": "2",
            "retry-after": "3",
            "llm_provider-x-ratelimit-limit-tokens": "30000",
            "llm_provider-x-ratelimit-remaining-tokens": "29999",
            "x-ratelimit-remaining-tokens": "5",
        },
        RateLimits(3.0, (Observed("tokens", None, 5, None),)),
    ),
    "a draft of the ietf": (
        {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "98", "ratelimit-reset": "30"},
        RateLimits(None, (Observed("requests", 100, 98, 30.0),)),
    ),
    "a unix time": (
        {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 42)},
        RateLimits(None, (Observed("requests", 60, 0, 42.0),)),
    ),
    "openrouter, in milliseconds": (
        {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp() * 1000) + 1500)},
        RateLimits(None, (Observed("requests", 20, 0, 1.5),)),
    ),
    "a date": (
        {
            "retry-after": "Sun, 27 Sep 2026 12:00:30 GMT",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": "Sun, 27 Sep 2026 12:01:00 GMT",
        },
        RateLimits(30.0, (Observed("requests", None, 0, 60.0),)),
    ),
    "the more telling first": (
        {"x-ratelimit-remaining": "1", "ratelimit-remaining": "2", "x-ratelimit-remaining-requests": "3"},
        RateLimits(None, (Observed("requests", None, 3, None),)),
    ),
    "drafts of the ietf from 08 on": (
        {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'},
        RateLimits(None, (Observed("requests", 100, 50, 30.0),)),
    ),
    "draft 10, two policies and a partition": (
        {
            "ratelimit": '"a;b,c";r=5;t=9;pk=:cHNvLWRldg==:, "hour";r=0;t=1800, "day";r=0;t=60',
            "ratelimit-policy": '"a;b,c";q=10;w=10;pk=:cHNvLWRldg==:, "hour";q=1000;w=3600;qu="requests"',
        },
        RateLimits(None, (Observed("requests", 1000, 0, 1800.0),)),
    ),
    "draft 10, other units": (
        {"ratelimit": '"b";r=0;t=9, "t";r=7;t=5', "ratelimit-policy": '"b";q=9;qu="content-bytes", "t";q=70;qu="tokens"'},
        RateLimits(None, (Observed("tokens", 70, 7, 5.0),)),
    ),
    "draft 07": (
        {"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit-policy": "100;w=60"},
        RateLimits(None, (Observed("requests", 100, 50, 5.0),)),
    ),
    "a policy alone": ({"ratelimit-policy": '"default";q=100;w=60'}, NOTHING),
    "cohere, a trial": (
        {"x-trial-endpoint-call-limit": "40", "x-trial-endpoint-call-remaining": "39", "x-endpoint-monthly-call-limit": "1000"},
        RateLimits(None, (Observed("requests", 40, 39, None),)),
    ),
    "mistral's gateway": (
        {"ratelimitbysize-limit": "500000", "ratelimitbysize-remaining": "499000", "ratelimitbysize-reset": "31"},
        RateLimits(None, (Observed("tokens", 500_000, 499_000, 31.0),)),
    ),
    "anthropic unified, rejected": (
        {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": unix(100),
            "anthropic-ratelimit-unified-5h-status": "rejected",
            "anthropic-ratelimit-unified-5h-reset": unix(100),
            "anthropic-ratelimit-unified-7d-status": "rejected",
            "anthropic-ratelimit-unified-7d-reset": unix(4000),
            "anthropic-ratelimit-unified-7d_opus-status": "allowed",
            "anthropic-ratelimit-unified-7d_opus-reset": unix(9000),
            "anthropic-ratelimit-unified-overage-status": "rejected",
            "anthropic-ratelimit-unified-overage-reset": unix(99_000),
        },
        RateLimits(4000.0, ()),
    ),
    "anthropic unified, the next chance is named": (
        {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": unix(100),
            "retry-after": "99",
        },
        RateLimits(99.0, ()),
    ),
    "anthropic unified, allowed without overage": (
        {
            "anthropic-ratelimit-unified-status": "allowed_warning",
            "anthropic-ratelimit-unified-reset": unix(100),
            "anthropic-ratelimit-unified-overage-status": "rejected",
            "anthropic-ratelimit-unified-overage-disabled-reason": "org_level_disabled",
        },
        NOTHING,
    ),
    "anthropic unified, one window paid for": (
        {
            "anthropic-ratelimit-unified-status": "allowed",
            "anthropic-ratelimit-unified-5h-status": "rejected",
            "anthropic-ratelimit-unified-5h-reset": unix(100),
        },
        NOTHING,
    ),
    "anthropic unified, a window alone": (
        {"anthropic-ratelimit-unified-5h-status": "rejected", "anthropic-ratelimit-unified-5h-reset": unix(100)},
        RateLimits(100.0, ()),
    ),
    "a zero is no wait beside one": ({"retry-after-ms": "0", "retry-after": "3"}, RateLimits(3.0, ())),
    "a zero alone": ({"retry-after-ms": "0"}, RateLimits(0.0, ())),
    "thousands": (
        {"x-ratelimit-limit-tokens": "1,000,000", "x-ratelimit-remaining-tokens": "30,000"},
        RateLimits(None, (Observed("tokens", 1_000_000, 30_000, None),)),
    ),
    "a budget of a day is no limit to observe": (
        {"x-ratelimit-limit-tokens-day": "9", "x-ratelimit-remaining-tokens-day": "0", "x-ratelimit-reset-tokens-day": "5"},
        NOTHING,
    ),
    "nothing": ({"content-type": "application/json"}, NOTHING),
}


def close(one: RateLimits, other: RateLimits) -> bool:
    def flat(limits: RateLimits) -> list[Any]:
        return [limits.retry_after, *(value for observed in limits.observed for value in observed)]

    return [pytest.approx(value) if isinstance(value, float) else value for value in flat(other)] == flat(one)


@pytest.mark.parametrize(("headers", "expected"), SAMPLES.values(), ids=SAMPLES)
def test_samples(headers: dict[str, str], expected: RateLimits) -> None:
    assert close(read_rate_limits(headers, now=NOW), expected)
    assert close(read_rate_limits({name.title(): value for name, value in headers.items()}, now=NOW), expected)


# --- where headers are ---


class Holder(Exception):
    """A response or an exception."""

    def __init__(self, **facts: object) -> None:
        super().__init__()
        vars(self).update(facts)


def message() -> Message:
    """The headers of `http.client` and urllib."""
    headers = Message()
    for name, value in OPENAI.items():
        headers[name.title()] = value
    return headers


# What a version of openai takes for its response is its own affair.
HTTPX: Any = httpx.Response(200, headers=OPENAI, request=httpx.Request("POST", "http://localhost"))

SHAPES: dict[str, Callable[[], Any]] = {
    "dict": lambda: OPENAI,
    "bytes": lambda: {name.encode(): value.encode() for name, value in OPENAI.items()},
    "pairs": lambda: list(OPENAI.items()),
    "raw pairs": lambda: tuple((name.upper().encode(), value.encode()) for name, value in OPENAI.items()),
    "httpx headers": lambda: HTTPX.headers,
    "httpx raw": lambda: HTTPX.headers.raw,
    "httpx response": lambda: HTTPX,
    "httpx error": lambda: httpx.HTTPStatusError("", request=HTTPX.request, response=HTTPX),
    "openai error": lambda: openai.RateLimitError("", response=HTTPX, body=None),
    "aiohttp": lambda: CIMultiDictProxy(CIMultiDict(OPENAI)),
    "http.client": message,
    "response": lambda: Holder(headers=OPENAI),
    "exception": lambda: Holder(response=Holder(headers=OPENAI)),
    "exception, empty response": lambda: Holder(response=Holder(headers={}), headers=OPENAI),
    "exception of litellm": lambda: Holder(response=Holder(headers={}), litellm_response_headers=OPENAI),
    "lists of values": lambda: {name: [value] for name, value in OPENAI.items()} | OPENAI,
}


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_shapes(make: Callable[[], Any]) -> None:
    assert read_rate_limits(make()) == RateLimits(None, OPENAI_SAYS)


def test_of_repeated_headers_the_first_counts() -> None:
    pairs = [("x-ratelimit-remaining", "1"), ("x-ratelimit-remaining", "2"), ("retry-after", "3"), ("retry-after", "4")]
    expected = RateLimits(3.0, (Observed("requests", None, 1, None),))
    assert read_rate_limits(pairs) == read_rate_limits(CIMultiDict(pairs)) == expected


def test_an_exception_is_understood_alike() -> None:
    """There is one reader of waits."""
    for headers in ({"retry-after": "0.5"}, {"retry-after-ms": "70"}, {"x-ms-retry-after-ms": "1500"}, {"retry-after": "soon"}):
        failure = classify_exception(Holder(headers=headers))
        assert failure is not None
        assert failure.retry_after == read_rate_limits(headers).retry_after


# --- values ---


def reset(said: object, now: datetime | None = NOW) -> float | None:
    limits = read_rate_limits({"x-ratelimit-remaining": "1", "x-ratelimit-reset": said}, now=now)
    return limits.observed[0].reset


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("120ms", 0.12),
        ("1m120ms", 60.12),
        ("0s", 0.0),
        ("17.5µs", 17.5e-6),
        ("17.5μs", 17.5e-6),
        ("17.5us", 17.5e-6),
        ("17.5µs".encode(), 17.5e-6),
        ("7ns", 7e-9),
        ("1d", 86_400.0),
        ("2m", 120.0),
        (" 2m ", 120.0),
        ("30", 30.0),
        ("30.5", 30.5),
        (30, 30.0),
        ("0", 0.0),
        ("2026-09-27T12:00:01.123456789Z", 1.123456789),
        ("2026-09-27 12:00:01", 1.0),
        ("2026-09-27t12:00:01z", 1.0),
        ("2026-09-27T11:00:00Z", 0.0),
        ("1000000001", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("-1s", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("s", None),
        ("1x", None),
        ("1s2m", None),
        ("1s ago", None),
        ("999999999h", None),
        ("9" * 400 + "s", None),
        ("9" * 400, None),
        ("99999999999", None),
        ("2026-02-31T12:00:01Z", None),
        ("2026-09-27T12:00:60Z", None),
        ("9999-12-31T23:59:59Z", None),
        ("0001-01-01T00:00:00+23:59", 0.0),
        (None, None),
        (True, None),
        (b"\xff", None),
    ],
)
def test_resets(said: object, seconds: float | None) -> None:
    assert reset(said) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("0", 0),
        (" 50 ", 50),
        (50, 50),
        ("50.9", 50),
        ("50;w=60", 50),
        ("-1", None),
        ("", None),
        ("many", None),
        ("30,000", 30_000),
        ("30,000, 30,000", 30_000),
        ("5, 5", 5),
        ("5,5", 5),
        ("100, 100;w=60", 100),
        ("100,100;w=60", 100),
        ("3,00", 3),
        ("1_000", None),
        ("1e3", None),
        ("+5", None),
        ("0x10", None),
        ("１２", None),
        ("٣", None),
        ("5" + " " * 256, None),
        ("nan", None),
        ("inf", None),
        ("9" * 30, None),
        (object(), None),
    ],
)
def test_counts(said: object, count: int | None) -> None:
    expected = () if count is None else (Observed("tokens", count, None, None),)
    assert read_rate_limits({"x-ratelimit-limit-tokens": said}).observed == expected


@given(seconds=st.integers(0, 10**9 - 1), nanoseconds=st.integers(0, 10**9 - 1))
def test_a_duration_is_read_as_go_writes_it(seconds: int, nanoseconds: int) -> None:
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    fraction = f".{nanoseconds:09}".rstrip("0").rstrip(".")
    said = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}{fraction}s"
    assert reset(said) == pytest.approx(seconds + nanoseconds / 1e9, rel=1e-12)


@given(ahead=st.timedeltas(timedelta(0), timedelta(days=10_000)), hours=st.integers(-12, 14))
def test_a_moment_is_read_as_it_is_written(ahead: timedelta, hours: int) -> None:
    moment = (NOW + ahead).astimezone(timezone(timedelta(hours=hours)))
    seconds = ahead.total_seconds()
    assert reset(moment.isoformat()) == pytest.approx(seconds, abs=1e-5)
    assert reset(str(moment.timestamp())) == pytest.approx(seconds, abs=1e-5)
    assert reset(format_datetime(moment)) == pytest.approx(seconds, abs=1)


def test_now_is_the_present_and_utc_unless_said() -> None:
    in_a_minute = datetime.now(timezone.utc) + timedelta(seconds=60)
    for said in (in_a_minute.isoformat(), str(in_a_minute.timestamp()), format_datetime(in_a_minute)):
        seconds = reset(said, now=None)
        assert seconds is not None
        assert 30 < seconds <= 60
    assert reset("2026-09-27T12:00:01Z", now=NOW.replace(tzinfo=None)) == 1.0
    with pytest.raises(TypeError, match=r"now must be a datetime or None, not 5 \(int\)"):
        read_rate_limits({}, now=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("5, 5", 5.0),
        ("1m30s", 90.0),
        ("120ms", 0.12),
        ("1d, 1d", 86_400.0),
        ("2026-09-27T12:00:30Z", 30.0),
        ("2026-09-27T12:00:30+0000", 30.0),
        (unix(30), 30.0),
        (unix(30) + "500", 30.5),
        ("Sun, 27 Sep 2026 12:00:30 GMT", 30.0),
        ("Sun, 27 Sep 2026 12:00:30 GMT, Sun, 27 Sep 2026 12:00:40 GMT", 30.0),
        ("Sunday, 27-Sep-26 12:00:30 GMT", 30.0),
        ("Sun Sep 27 12:00:30 2026", 30.0),
        ("Thu Oct  1 12:00:00 2026", 4 * 86_400.0),
        ("Sun, 27 Sep 2026 08:00:30 -0400", 30.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 27 Foo 2026 12:00:30 GMT", None),
        ("Sun, 99 Sep 2026 12:00:30 GMT", None),
        ("1_000", None),
        ("１２", None),
        ("1e3", None),
        ("7 seconds", None),
        ("0" * 300, None),
    ],
)
def test_retry_after(said: str, seconds: float | None) -> None:
    assert read_rate_limits({"retry-after": said}, now=NOW).retry_after == seconds


def test_moments_are_read_by_the_answers_own_date() -> None:
    """So that a clock that is wrong, here or there, does not matter."""
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    for said in ("Wed, 21 Oct 2015 07:28:30 GMT", "2015-10-21T07:28:30Z", "1445412510", "1445412510000"):
        for headers in (
            {"date": date, "retry-after": said},
            {"Retry-After": said, "Date": date},
            [("retry-after", said), ("date", date)],
        ):
            assert read_rate_limits(headers).retry_after == 30.0
        limits = read_rate_limits({"x-ratelimit-remaining": "0", "x-ratelimit-reset": said, "date": date})
        assert limits.observed[0].reset == 30.0
        # The caller knows better, and a date that is none is as if it were not there.
        assert read_rate_limits({"retry-after": said, "date": date}, now=NOW).retry_after == 0.0
        assert read_rate_limits({"retry-after": said, "date": "today"}).retry_after == 0.0


def test_what_is_too_long_is_ignored() -> None:
    name = "anthropic-ratelimit-unified-" + "x" * 300
    assert read_rate_limits({f"{name}-status": "rejected", f"{name}-reset": unix(60)}, now=NOW) == NOTHING
    for said in ("5" * 257, b"5" * 257, "1" * 250 + ".0000000", " " * 256 + "5", '"a";r=1;t=5' + " " * 300):
        assert read_rate_limits({"retry-after": said, "ratelimit": said, "x-ratelimit-remaining": said}, now=NOW) == NOTHING


def test_no_field_costs_more_than_its_length() -> None:
    started = perf_counter()
    for said in ("9" * 256, "1m" * 128, "," * 256, '"' * 256, "a;" * 128, '"a";' * 64, "a;b=1" * 51, "1," * 128, "1,000" * 51):
        for name in ("retry-after", "ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-reset", "date"):
            read_rate_limits({name: said, "retry-after-ms": "5", "x-ratelimit-remaining": "1"})
    read_rate_limits({"x" * 10**7: "5", "retry-after": "5" * 10**7})
    assert perf_counter() - started < 1.0


# --- anything at all ---


class Raising:
    """Every attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisingClass:
    """Asking what it is raises."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("class")


class HalfWay(Mapping[str, str]):
    """It fails after the first of its headers."""

    def __getitem__(self, name: str) -> str:
        return "5"

    def __iter__(self) -> Iterator[str]:
        yield "retry-after"
        raise RuntimeError("half-way")

    def __len__(self) -> int:
        return 2


class Endless:
    """Its headers do not end."""

    def items(self) -> Iterator[tuple[str, str]]:
        return repeat(("retry-after", "5"))


class Silent:
    """It says nothing of itself."""

    def __str__(self) -> str:
        raise RuntimeError("str")


SPEECHLESS: list[Callable[[], object]] = [
    lambda: None,
    lambda: 5,
    lambda: "retry-after: 5",
    lambda: b"",
    object,
    Raising,
    RaisingClass,
    lambda: dict,
    lambda: [1],
    lambda: [("a",)],
    lambda: [("a", "b", "c")],
    lambda: {1: 2},
    lambda: {Silent(): 1},
]


@pytest.mark.parametrize("make", SPEECHLESS, ids=range(len(SPEECHLESS)))
def test_what_has_no_headers_says_nothing(make: Callable[[], object]) -> None:
    thing = make()
    for holder in (thing, Holder(headers=thing), Holder(response=thing), Holder(response=Holder(headers=thing))):
        assert read_rate_limits(holder) == NOTHING


def test_what_was_said_before_a_failure_counts() -> None:
    assert read_rate_limits(HalfWay()).retry_after == 5.0
    assert read_rate_limits(Endless()).retry_after == 5.0
    assert read_rate_limits({"retry-after": Silent(), "retry-after-ms": "5"}).retry_after == 0.005


NAMES = sorted({name for headers, _ in SAMPLES.values() for name in headers})
SAID = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30),
    st.from_regex(r"-?[0-9]{1,400}(\.[0-9]+)?[a-zµ]{0,2}([0-9]+s)?", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})?", fullmatch=True),
    st.datetimes().map(lambda moment: format_datetime(moment)),
    st.floats().map(str),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.builds(Silent), st.lists(st.text(max_size=3), max_size=2)),
)


@given(headers=st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=20), st.binary(max_size=20)), SAID, max_size=8))
def test_no_header_makes_it_raise_or_say_nonsense(headers: dict[Any, Any]) -> None:
    for holder in (headers, list(headers.items()), Holder(response=Holder(headers=headers))):
        limits = read_rate_limits(holder)
        assert limits.retry_after is None or 0 <= limits.retry_after <= 1e9
        units = [observed.unit for observed in limits.observed]
        assert units == [unit for unit in ("requests", "tokens", "input_tokens", "output_tokens") if unit in units]
        for observed in limits.observed:
            assert observed.limit is not None or observed.remaining is not None
            assert all(count is None or (type(count) is int and 0 <= count <= 1e15) for count in observed[1:3])
            assert observed.reset is None or 0 <= observed.reset <= 1e9
