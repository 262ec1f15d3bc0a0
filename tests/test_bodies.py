"""What bodies and sentences say: each by itself, and that no stranger's object makes the reader raise or take
long.
"""

import json
from collections.abc import Iterator
from time import perf_counter
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import FailureKind
from turnout.providers.bodies import Body, asks_too_much, code, wait_in_words
from turnout.providers.wordings import refined


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("please try again in 7m12s.", 432.0),
        ("please try again in 4.77s. visit https://console.groq.com", 4.77),
        ("please try again in 2m59.56s.", 179.56),
        ("try again in 1h2m3s", 3723.0),
        ("try again in 120ms.", 0.12),
        ("try again in 26 seconds", 26.0),
        ("try again after 1 second", 1.0),
        ("try again in 5 milliseconds", 0.005),
        ("try again in 2 minutes and 5 seconds", 125.0),
        ("try again in 1 day, 2 hours", 93_600.0),
        ("try again in about 3 hrs", 10_800.0),
        ("please retry after 5 secs.", 5.0),
        ("please retry in 58.934310785s.", 58.934310785),
        ("please wait 30 seconds and try again", 30.0),
        ("wait for 10s", 10.0),
        ("try again in 0s", 0.0),
        ("try again in 7", None),
        ("try again in 5 months", None),
        ("try again in 5 stones", None),
        ("try again in １２s", None),
        ("try again later", None),
        ("try again in 999999999999 days", None),
        ("it took 5 seconds", None),
        ("", None),
    ],
)
def test_waits_in_words(said: str, seconds: float | None) -> None:
    assert wait_in_words(said) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"retryDelay": "58s"}, 58.0),
        ({"retryDelay": "0.5s"}, 0.5),
        ({"retryDelay": "0s"}, 0.0),
        ({"retry_delay": {"seconds": 58}}, 58.0),
        ({"retryDelay": {"seconds": "58", "nanos": 500_000_000}}, 58.5),
        ({"retryDelay": {"seconds": -1}}, None),
        ({"retryDelay": {}}, None),
        ({"retryDelay": "-5s"}, None),
        ({"retryDelay": "9" * 300 + "s"}, None),
        ({"retryDelay": None}, None),
        ({"retryDelay": object()}, None),
        ({"error": {"details": [{}, {"retryDelay": "5s"}]}}, 5.0),
        ([{"error": {"details": [{"retryDelay": "5s"}]}}], 5.0),
        ({"error": {"type": "usage_limit_reached", "resets_in_seconds": 3600}}, 3600.0),
        ({"error": {"retry_after": 5}}, 5.0),
        ({"error": {"retry_after": "5"}}, 5.0),
        ({"retry_after_ms": 1500}, 1.5),
        ({"retry_after": True}, None),
        ({}, None),
    ],
)
def test_waits_in_fields(body: Any, seconds: float | None) -> None:
    assert Body([body]).wait == seconds


def test_codes() -> None:
    body = {"type": "error", "error": {"type": "Overloaded_Error", "code": 529, "status": "UNAVAILABLE", "message": "Slow Down"}}
    read = Body([body])
    assert read.codes == ["error", "overloadederror", "unavailable"]
    assert read.statuses == [529]
    assert read.words("It failed") == "it failed\nslow down"
    assert read.words(str(body)) == str(body).lower()
    text = Body([json.dumps(body)])
    text.read_text(text.words(""))
    assert text.codes == ["error", "overloadederror", "unavailable"]
    assert code("com.amazonaws#Throttling_Exception") == "throttlingexception"


@pytest.mark.parametrize(
    ("said", "is_too_much"),
    [
        ("limit 10000, requested 12000", True),
        ("limit 10000, used 500, requested 12000", True),
        ("limit: 10000, used: 500, requested: 12000", True),
        ("limit 10000, used 9500, requested 800", False),
        ("limit 10000, requested 10000", False),
        ("limit 10000", False),
    ],
)
def test_a_request_that_no_time_makes_fit(said: str, is_too_much: bool) -> None:
    assert asks_too_much(said) is is_too_much


# --- anything at all ---


class Hostile:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise ValueError(name)


class Endless(dict[str, Any]):
    """Its items do not end."""

    def items(self) -> Any:
        while True:
            yield "code", "invalid_model"


class EndlessList(list[Any]):
    """Nor do these."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield {"code": "x"}


class HalfWay(dict[str, Any]):
    """It fails after the first of its items."""

    def items(self) -> Any:
        yield "code", "invalid_model"
        raise ValueError


def circle() -> dict[str, Any]:
    found: dict[str, Any] = {"code": "x"}
    found["error"] = [found, found]
    return found


def test_strangers_bodies() -> None:
    for body in (
        Hostile(),
        [Hostile()],
        {"code": Hostile(), "error": Hostile(), "retryDelay": Hostile()},
        {Hostile(): 1},
        5,
        object(),
    ):
        assert Body([body]).codes == []
    assert Body([HalfWay()]).codes == ["invalidmodel"]
    started = perf_counter()
    for body in (Endless(), EndlessList(), circle(), {"error": [{}] * 10**6}, {"message": "x" * 10**7}, "y" * 10**7, b"z" * 10**7):
        read = Body([body])
        assert len(read.codes) <= 200
        assert len(read.words("x" * 10**6)) <= 10_000
    assert Body([{"code": "x" * 257, "type": "y" * 256}]).codes == ["y" * 256]
    deep: Any = {"code": "deep"}
    for _ in range(10**5):
        deep = [deep]
    assert Body([deep]).codes == []
    assert perf_counter() - started < 1.0


def test_no_sentence_costs_more_than_its_length() -> None:
    started = perf_counter()
    parts = (
        "model ",
        "model x ",
        "try again in ",
        "try again in 1s ",
        "1s ",
        "limit 1",
        "limit 1, used 1, ",
        "'code': '",
        "'code'" + " " * 9,
        "a" * 99,
    )
    for part in parts:
        said = (part * 4096)[:8192]
        wait_in_words(said)
        asks_too_much(said)
        Body([]).read_text(said)
        for kind in FailureKind:
            refined(kind, 500, [], said, False)
    assert perf_counter() - started < 1.0


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("5s")),
    lambda below: st.one_of(
        st.lists(below, max_size=4),
        st.dictionaries(
            st.sampled_from(["error", "code", "status", "retryDelay", "seconds", "message", "metadata"]), below, max_size=4
        ),
    ),
)


@given(body=JSON)
def test_no_body_makes_it_raise_or_say_nonsense(body: Any) -> None:
    read = Body([body])
    assert read.wait is None or 0 <= read.wait <= 1e9
    assert all(type(said) is str for said in read.codes)
    assert type(read.words("")) is str
