"""Requests are tried as often as the router says, in the time that it says, whatever the SDK would do by
itself.
"""

import asyncio
import importlib
import itertools
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import turnout
from turnout import Backoff, Budget, Deployment, Endpoint, FailureKind, Health, ManualClock, Retry, Router, Timeouts, attempts_of
from turnout.testing import Provider, Reply

from families.adapters import ADAPTERS, HELLO, Adapter, Asked, family
from families.modes import MODES, Mode, Sends

GOOD = Reply.text("All aboard: this train goes down the right line.")

# The SDKs themselves. What is built on them is tried with the scenarios.
SDKS = [
    pytest.param(
        adapter, id=adapter.name, marks=pytest.mark.skipif(not adapter.is_there, reason=f"{adapter.needs} is not installed")
    )
    for adapter in ADAPTERS
    if adapter.name in ("openai chat", "openai chat, task", "anthropic messages", "anthropic messages, task")
]


class Line:
    """Three providers, and a router that asks them in their order."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.sdk = adapter, importlib.import_module(adapter.needs)
        self.providers = [Provider().start() for _ in range(3)]
        self.make()

    def make(self, **options: Any) -> Router:
        dialect: Any = self.adapter.dialect
        self.router = Router(
            [
                Deployment(
                    f"the-{nth}",
                    "m",
                    priority=nth,
                    endpoint=Endpoint(provider.url if dialect == "anthropic" else provider.base_url, api_key="k", dialect=dialect),
                )
                for nth, provider in enumerate(self.providers)
            ],
            strategy="priority_based",
            **options,
        )
        return self.router

    def always(self, reply: Reply) -> None:
        for provider in self.providers:
            provider.always(reply)

    @property
    def hits(self) -> list[int]:
        return [len(provider.requests) for provider in self.providers]

    def ask(self, stream: bool = False) -> str:
        return self.adapter.ask(Asked(self.router, stream=stream))

    def fails(self, name: str, stream: bool = False) -> BaseException:
        with pytest.raises(getattr(self.sdk, name)) as failed:
            self.ask(stream)
        error: BaseException = failed.value
        return error


@pytest.fixture(params=SDKS)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    made = Line(request.param)
    yield made
    assert made.router.metrics().in_flight == 0
    for provider in made.providers:
        provider.stop()


@pytest.fixture(params=[False, True], ids=["plain", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def fastest(work: Callable[[], object], enough: float) -> float:
    """The seconds that something takes. Others use the machine too, so it may be tried three times."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        work()
        took.append(time.monotonic() - began)
        if took[-1] < enough:
            break
    return min(took)


# --- all attempts drop ---


def test_all_drop(line: Line, stream: bool) -> None:
    line.always(GOOD.drop(after="request"))
    errors: list[BaseException] = []

    def work() -> None:
        line.make()
        for provider in line.providers:
            provider.reset()
        line.always(GOOD.drop(after="request"))
        errors.append(line.fails("APIConnectionError", stream))
        assert line.hits == [1, 1, 1]

    assert fastest(work, 1.0) < 1.0
    error = errors[-1]
    assert not isinstance(error, line.sdk.APITimeoutError)
    assert [(record.deployment_id, record.kind) for record in attempts_of(error)] == [
        (f"the-{nth}", FailureKind.CONNECTION) for nth in range(3)
    ]
    if sys.version_info >= (3, 11):
        printed = "".join(traceback.format_exception(error))
        assert all(f"'the-{nth}': connection after " in printed for nth in range(3)), printed
        assert "all attempts are spent (3)" in printed


def plain_client(line: Line, name: str, retries: int) -> Any:
    """The SDK's own client over our transport, as someone makes it who does not know `turnout.clients`."""
    routed = family() if line.adapter.needs == "openai" else importlib.import_module("turnout.httpx2")
    http = getattr(routed, "AsyncClient" if "Async" in name else "Client")
    base_url = turnout.BASE_URL if line.adapter.needs == "openai" else turnout.BASE_URL.removesuffix("/v1")
    made = getattr(line.sdk, name)(http_client=http(line.router), base_url=base_url, api_key="-", max_retries=retries)
    # Half a second and more, for nothing.
    made._calculate_retry_timeout = lambda *_, **__: 0.0
    return made


def send(line: Line, client: Any, name: str, times: int) -> list[BaseException]:
    """Sends requests that fail, and closes the client."""
    given: dict[str, Any] = {"model": "m", "messages": HELLO, "max_tokens": 9}
    create = client.messages.create if line.adapter.needs == "anthropic" else client.chat.completions.create
    errors: list[BaseException] = []

    async def in_task() -> None:
        async with client:
            for _ in range(times):
                try:
                    await create(**given)
                except line.sdk.APIError as error:
                    errors.append(error)

    if "Async" in name:
        asyncio.run(in_task())
    else:
        with client:
            for _ in range(times):
                try:
                    create(**given)
                except line.sdk.APIError as error:
                    errors.append(error)
    return errors


def name_of(adapter: Adapter) -> str:
    name = "OpenAI" if adapter.needs == "openai" else "Anthropic"
    return f"Async{name}" if "task" in adapter.name else name


def test_an_sdk_that_retries_too_is_warned_of_once(line: Line) -> None:
    line.always(GOOD.drop(after="request"))
    line.make(retry=Retry(budget=None))
    name = name_of(line.adapter)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        errors = send(line, plain_client(line, name, 2), name, 2)
    assert [type(error) for error in errors] == [line.sdk.APIConnectionError] * 2
    # What the warning is about: three attempts of ours for each of three tries.
    assert sum(line.hits) == 2 * 9
    ours = [one for one in warned if "max_retries=0" in str(one.message)]
    assert [one.category for one in ours] == [RuntimeWarning]


def test_a_failure_with_an_answer_is_not_tried_again_by_the_sdk(line: Line) -> None:
    line.always(Reply.error(500))
    name = name_of(line.adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        errors = send(line, plain_client(line, name, 2), name, 1)
    assert [getattr(error, "status_code", None) for error in errors] == [500]
    assert line.hits == [1, 1, 1]


# --- deadlines ---


def test_three_that_hang(line: Line, stream: bool) -> None:
    line.always(GOOD.hang(after="request"))

    def work() -> None:
        line.make(timeouts=Timeouts(total=0.9, attempt=0.3))
        began = time.monotonic()
        error = line.fails("APITimeoutError", stream)
        assert time.monotonic() - began >= 0.88
        records = attempts_of(error)
        assert {record.kind for record in records} == {FailureKind.TIMEOUT}
        assert [record.deployment_id for record in records] == ["the-0", "the-1", "the-2"]

    assert fastest(work, 1.1) < 1.1


def test_a_wait_for_a_cooldown_counts(line: Line) -> None:
    line.always(GOOD.hang(after="request"))

    def work() -> None:
        line.make(timeouts=Timeouts(total=0.6))
        for nth in range(3):
            line.router.cool_down(f"the-{nth}", 0.3)
        (record,) = attempts_of(line.fails("APITimeoutError"))
        assert 0.25 < record.waited < 0.6
        assert record.seconds < 0.4

    assert fastest(work, 0.8) < 0.8


def test_a_cooldown_that_ends_too_late_is_said_at_once(line: Line) -> None:
    line.make(timeouts=Timeouts(total=5.0))
    for nth in range(3):
        line.router.cool_down(f"the-{nth}", 60.0)
    assert fastest(lambda: line.fails("RateLimitError"), 1.0) < 1.0
    error: Any = line.fails("RateLimitError")
    assert 50_000 < int(error.response.headers["retry-after-ms"]) <= 60_000
    assert line.hits == [0, 0, 0]


def test_comments_are_no_first_token(line: Line) -> None:
    def work() -> None:
        line.make(timeouts=Timeouts(first_token=0.3))
        records: list[turnout.AttemptRecord] = []
        line.router.on_attempt(records.append)
        line.providers[0].script(GOOD.delay(first_event=30.0, trickle=0.02))
        assert line.ask(stream=True) == "All aboard."
        assert [record.kind for record in records] == [FailureKind.TIMEOUT, None]
        assert records[0].seconds > 0.25

    assert fastest(work, 0.5) < 0.5


# --- the budget, in simulated time ---


@pytest.mark.parametrize("mode", MODES)
def test_a_storm_over_a_transport_is_bounded_and_ends(mode: Mode) -> None:
    """1,000 calls a second. All of them fail for six seconds, then one in twenty does, then all again."""
    clock, budget = ManualClock(), Budget()
    # Cooldowns are another means against a storm. Here the budget must do.
    router = Router(
        [Deployment(id_, "m", endpoint=Endpoint(f"https://{id_}.example/v1", api_key="k")) for id_ in "abc"],
        clock=clock,
        seed=0,
        health=Health(consecutive_failures=None, failure_rate=None),
        retry=Retry(budget=budget, backoff=Backoff(base=0.0)),
    )
    per_second = 1000
    calls = hits = 0
    is_first = False

    def broken(second: int) -> bool:
        return second < 6 or second >= 9

    def provides(_: Any) -> Sends:
        nonlocal hits, is_first
        hits += 1
        fails, is_first = broken(calls // per_second) or (is_first and calls % 20 == 0), False
        return Sends([b"{}"], "application/json", 500 if fails else 200)

    def before() -> Iterator[dict[str, Any]]:
        """Makes requests, and looks at the numbers between them."""
        nonlocal calls, is_first
        for nth in range(11 * per_second):
            calls, is_first = nth, True
            if nth % per_second == 0:
                metrics = router.metrics()
                seconds.append((metrics.retries, metrics.budget_refusals))
            yield {"method": "POST", "url": "/chat/completions", "json": {"model": "m", "messages": []}}
            clock.advance(1 / per_second)
            assert hits <= (nth + 1) * (1 + budget.share) + budget.per_second * max(clock.now(), 1.0)

    seconds: list[tuple[int, int]] = []
    got = mode.ask(mode.client(router, inner=mode.inner(provides)), before())
    metrics = router.metrics()
    assert metrics.attempts == hits == len(got) + metrics.retries
    retries = [later[0] - earlier[0] for earlier, later in itertools.pairwise(seconds)]
    refusals = [later[1] - earlier[1] for earlier, later in itertools.pairwise(seconds)]
    # What calls and time pay for is used, and no more than that.
    paid = per_second * budget.share + budget.per_second
    assert all(0.8 * paid <= found <= 1.2 * paid for found in retries[2:5]), retries
    assert all(found > 500 for found in refusals[2:5]), refusals
    # A few failures are mended again, each by one attempt.
    assert retries[6:9] == [per_second // 20] * 3
    assert refusals[6:9] == [0] * 3
    assert [answer.status for answer in got[6 * per_second : 9 * per_second]] == [200] * (3 * per_second)
    assert refusals[-1] > 500


def test_one_budget_bounds_threads_exactly() -> None:
    """Whatever their order, all that was paid in was either taken out or is still there."""
    share, window = 0.5, 3600.0
    budget = Budget(share=share, per_second=0.0, window=window)
    router = Router(
        [Deployment("a", "m"), Deployment("b", "m")], retry=Retry(budget=budget, attempts=2), clock=ManualClock(), seed=0
    )
    calls, threads = 250, 8
    start = threading.Barrier(threads)

    def fail(lease: turnout.Lease) -> None:
        raise ConnectionError(lease.deployment_id)

    def work() -> None:
        start.wait()
        for _ in range(calls):
            with pytest.raises(ConnectionError):
                router.call("m", fail)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    metrics = router.metrics()
    assert metrics.attempts == threads * calls + metrics.retries
    assert metrics.retries + metrics.budget_refusals == threads * calls
    assert metrics.retries + router._budget(share, 0.0, window).balance() == share * threads * calls
    assert metrics.retries > 0
