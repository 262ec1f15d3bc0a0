"""Active health checks: against servers that go down and come back, in a thread and in an event loop, and
whatever checks do.
"""

import asyncio
import logging
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from turnout import ConfigurationError, Deployment, DeploymentNotFound, ManualClock, Router, Status
from turnout.probe import Probes

SOON = 20.0
"""Seconds after which something that should happen does not."""


def router_of(*deployment_ids: str, **options: Any) -> Router:
    return Router([Deployment(each, "m") for each in deployment_ids], **options)


def status(router: Router, deployment_id: str = "a") -> Status:
    return router.stats(deployment_id).status


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


class Verdicts:
    """A check that says what it is told to, and remembers who was checked, and when."""

    def __init__(self, **said: Any) -> None:
        self.said = said
        self.calls: list[tuple[str, float]] = []
        self.under_way = 0
        self.most_under_way = 0

    def __call__(self, deployment: Deployment) -> bool | None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.calls.append((deployment.deployment_id, time.monotonic()))
        time.sleep(0.0005)
        self.under_way -= 1
        said = self.said.get(deployment.deployment_id, True)
        if isinstance(said, BaseException):
            raise said
        verdict: bool | None = said
        return verdict

    def count(self, deployment_id: str = "a") -> int:
        return sum(called == deployment_id for called, _ in self.calls)


def asynchronous(check: Callable[[Deployment], bool | None]) -> Callable[[Deployment], Awaitable[bool | None]]:
    async def call(deployment: Deployment) -> bool | None:
        await asyncio.sleep(0)
        return check(deployment)

    return call


# --- real servers ---


class Replica:
    """A local HTTP server whose health can be switched."""

    def __init__(self) -> None:
        replica = self
        self.healthy = True

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if replica.healthy and self.path == "/health" else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def replicas() -> Iterator[dict[str, Replica]]:
    started = {each: Replica() for each in ("a", "b")}
    yield started
    for replica in started.values():
        replica.close()


def get_health(deployment: Deployment) -> bool:
    try:
        with urllib.request.urlopen(deployment.metadata["url"] + "/health", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False


@contextmanager
def in_a_thread(probes: Probes) -> Iterator[None]:
    with probes:
        yield


@contextmanager
def in_a_loop(probes: Probes) -> Iterator[None]:
    """Runs them in an event loop of another thread until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = asyncio.run_coroutine_threadsafe(probes.run(), loop)
    try:
        yield
        assert not running.done()
    finally:
        running.cancel()
        with suppress(FutureCancelledError):
            running.result(SOON)
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(SOON)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SOON)
        loop.close()


WAYS = pytest.mark.parametrize(
    ("runs", "wrapped"),
    [(in_a_thread, lambda check: check), (in_a_loop, lambda check: check), (in_a_loop, asynchronous)],
    ids=["thread", "loop", "loop, async"],
)


@WAYS
def test_a_server_goes_down_and_comes_back(runs: Any, wrapped: Any, replicas: dict[str, Replica]) -> None:
    deployments = [Deployment(name, "m", metadata={"url": replica.url}) for name, replica in replicas.items()]
    router = Router(deployments, strategy="round_robin")
    with runs(Probes(router, wrapped(get_health), interval=0.01)):
        assert {router.select("m") for _ in range(4)} == {"a", "b"}
        replicas["a"].healthy = False
        until(lambda: status(router) is Status.UNHEALTHY)
        assert {router.select("m") for _ in range(4)} == {"b"}
        replicas["a"].healthy = True
        until(lambda: status(router) is Status.DEGRADED)
        assert {router.select("m") for _ in range(4)} == {"a", "b"}
        replicas["b"].close()
        until(lambda: status(router, "b") is Status.UNHEALTHY)
        assert {router.select("m") for _ in range(4)} == {"a"}


# --- verdicts ---


class Unsure:
    """A verdict that is none."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


BAD = [False, 0, "", ValueError("no"), TimeoutError(), FutureCancelledError(), Unsure()]


def round_of(probes: Probes, wrapped: Any) -> dict[str, bool | None]:
    return asyncio.run(probes.run_once_async()) if wrapped is asynchronous else probes.run_once()


ROUNDS = pytest.mark.parametrize("wrapped", [lambda check: check, asynchronous], ids=["plain", "async"])


@ROUNDS
@pytest.mark.parametrize("said", BAD, ids=repr)
def test_failures_in_a_row_take_a_deployment_out_and_one_success_brings_it_back(said: object, wrapped: Any) -> None:
    check = Verdicts(a=said)
    router = router_of("a", "b")
    probes = Probes(router, wrapped(check), failures=3)
    for expected in (Status.AVAILABLE, Status.AVAILABLE, Status.UNHEALTHY, Status.UNHEALTHY):
        assert round_of(probes, wrapped) == {"a": False, "b": True}
        assert status(router) is expected
    check.said = {"a": None}
    assert round_of(probes, wrapped) == {"a": None, "b": True}
    assert status(router) is Status.UNHEALTHY
    check.said = {"a": "yes"}
    assert round_of(probes, wrapped) == {"a": True, "b": True}
    assert status(router) is Status.DEGRADED
    # The count begins anew.
    check.said = {"a": said}
    round_of(probes, wrapped)
    assert status(router) is Status.DEGRADED


def test_a_success_between_failures_or_no_verdict_among_them() -> None:
    check = Verdicts()
    router = router_of("a")
    probes = Probes(router, check)
    for said in (False, True, False, None):
        check.said["a"] = said
        probes.run_once()
        assert status(router) is Status.AVAILABLE
    check.said["a"] = False
    probes.run_once()
    assert status(router) is Status.UNHEALTHY


def test_what_is_reported_elsewhere_is_taken_up() -> None:
    router = router_of("a")
    router.report_health("a", False)
    assert Probes(router, Verdicts()).run_once() == {"a": True}
    assert status(router) is Status.DEGRADED


def test_a_cooldown_is_not_cut_short_unless_asked() -> None:
    clock = ManualClock()
    router = router_of("a", clock=clock)
    router.record_failure("a", "rate_limit", retry_after=60)
    router.report_health("a", False)
    probes = Probes(router, Verdicts())
    assert probes.run_once() == {"a": True}
    assert status(router) is Status.COOLING_DOWN
    clock.advance(60)
    assert status(router) is Status.UNHEALTHY
    probes.run_once()
    assert status(router) is Status.DEGRADED
    router.record_failure("a", "rate_limit", retry_after=60)
    Probes(router, Verdicts(), end_cooldowns=True).run_once()
    assert status(router) is Status.DEGRADED


def test_only_unhealthy() -> None:
    check = Verdicts()
    router = router_of("a", "b", "c")
    router.report_health("b", False)
    router.cool_down("c", 60)
    assert Probes(router, check, only_unhealthy=True).run_once() == {"a": None, "b": True, "c": None}
    router.report_health("b", False)
    assert Probes(router, check, only_unhealthy=True, end_cooldowns=True).run_once() == {"a": None, "b": True, "c": True}
    assert [called for called, _ in check.calls] == ["b", "b", "c"]


def test_a_check_for_each() -> None:
    first, second = Verdicts(a=False), Verdicts()
    router = router_of("a", "b", "c")
    assert Probes(router, {"a": first, "b": second, "x": second}).run_once() == {"a": False, "b": True, "c": None}
    assert [called for called, _ in first.calls + second.calls] == ["a", "b"]


def test_what_changes_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="turnout.probe")
    check = Verdicts(a=ValueError("no answer"))
    probes = Probes(router_of("a", "b"), check)
    for _ in range(4):
        probes.run_once()
    check.said = {}
    for _ in range(2):
        probes.run_once()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "deployment 'a' is unhealthy, its check said ValueError('no answer')"),
        ("INFO", "deployment 'a' is healthy again"),
    ]


# --- time ---


def test_a_plain_check_that_is_late_failed() -> None:
    def slow(_: Deployment) -> bool:
        time.sleep(0.02)
        return True

    router = router_of("a")
    probes = Probes(router, slow, timeout=0.01, failures=1)
    assert probes.run_once() == {"a": False}
    assert asyncio.run(probes.run_once_async()) == {"a": False}
    assert status(router) is Status.UNHEALTHY


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_async_check_that_is_late_is_cancelled(stubborn: bool) -> None:
    cancelled = []

    async def hangs(deployment: Deployment) -> bool:
        try:
            await asyncio.sleep(SOON)
        except asyncio.CancelledError:
            cancelled.append(deployment.deployment_id)
            if not stubborn:
                raise
        return True

    router = router_of("a", "b")
    assert asyncio.run(Probes(router, hangs, timeout=0.01).run_once_async()) == {"a": False, "b": False}
    assert cancelled == ["a", "b"]


@WAYS
def test_one_at_a_time_and_each_in_turn(runs: Any, wrapped: Any) -> None:
    names = [f"d{number}" for number in range(20)]
    check = Verdicts()
    with runs(Probes(router_of(*names), wrapped(check), interval=0.05)):
        until(lambda: all(check.count(each) >= 3 for each in names))
    assert check.most_under_way == 1
    counts = [check.count(each) for each in names]
    assert max(counts) <= 3 * min(counts)


def waits(**options: Any) -> tuple[float, list[float]]:
    """When one deployment is first checked, and the seconds between its checks, as the schedule has them."""
    now = [1000.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("turnout.probe.time.monotonic", lambda: now[0])
        checks = []
        for turn in Probes(router_of("a"), Verdicts(), interval=10, **options)._turns():
            if isinstance(turn, float):
                assert turn > 0
                now[0] += turn
            else:
                checks.append(now[0])
            if len(checks) == 500:
                return checks[0] - 1000, [after - before for before, after in pairwise(checks)]
    raise AssertionError


def test_jitter_spreads_the_intervals() -> None:
    first, between = waits(jitter=0.2, seed=1)
    assert 0 <= first <= 10
    assert 8 <= min(between) < 8.1 < 11.9 < max(between) <= 12
    assert statistics.mean(between) == pytest.approx(10, abs=0.3)
    assert waits(jitter=0.2, seed=1) == (first, between)
    assert waits(jitter=0.2, seed=2) != (first, between)
    assert waits(jitter=0)[1] == pytest.approx([10] * 499)


def test_first_checks_are_spread_over_an_interval() -> None:
    names = [f"d{number}" for number in range(200)]
    first = sorted(waits(seed=seed)[0] for seed in range(len(names)))
    assert first[0] < 1
    assert first[-1] > 9
    assert statistics.mean(first) == pytest.approx(5, abs=1)


# --- what comes and goes ---


@WAYS
def test_deployments_are_found_and_dropped(runs: Any, wrapped: Any) -> None:
    check = Verdicts()
    router = Router()
    with runs(Probes(router, wrapped(check), interval=0.01)):
        router.add_deployment(Deployment("a", "m"))
        until(lambda: check.count("a"))
        router.set_deployments([Deployment("b", "m")])
        until(lambda: check.count("b") >= 2)
        dropped = check.count("a")
        until(lambda: check.count("b") >= 6)
        assert check.count("a") <= dropped + 1
        router.add_deployment(Deployment("a", "m"))
        until(lambda: check.count("a") > dropped + 1)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_deployment_may_go_while_it_is_checked(verdict: bool) -> None:
    router = router_of("a", "b")

    def remove(deployment: Deployment) -> bool:
        with suppress(DeploymentNotFound):
            router.remove_deployment("a")
        return verdict

    assert Probes(router, remove, failures=1).run_once() == {"a": verdict, "b": verdict}
    with pytest.raises(DeploymentNotFound):
        router.stats("a")


def test_what_is_known_of_a_deployment_goes_with_it() -> None:
    router = router_of("a")
    probes = Probes(router, Verdicts(a=False))
    probes.run_once()
    deployment = router.remove_deployment("a")
    assert probes.run_once() == {}
    router.add_deployment(deployment)
    probes.run_once()
    assert status(router) is Status.AVAILABLE


# --- start and stop ---


def test_stop_wakes_the_thread() -> None:
    probes = Probes(router_of("a"), Verdicts(), interval=1e6)
    began = time.monotonic()
    for _ in range(3):
        probes.start()
        assert probes.stop()
    assert time.monotonic() - began < SOON / 2
    assert probes.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "turnout-probes"]


def test_stop_without_a_start() -> None:
    probes = Probes(router_of("a"), Verdicts())
    assert probes.stop()
    with probes:
        pass


def test_a_check_that_hangs_is_left_to_itself_and_not_heard() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hangs(_: Deployment) -> bool:
        entered.set()
        go_on.wait(SOON)
        return False

    router = router_of("a")
    probes = Probes(router, hangs, interval=0.01, timeout=0.01, failures=1)
    probes.start()
    assert entered.wait(SOON)
    assert not probes.stop()
    for start in (probes.start, probes.run_once):
        with pytest.raises(RuntimeError, match="has not returned"):
            start()
    go_on.set()
    until(probes.stop)
    assert status(router) is Status.AVAILABLE
    with probes:
        until(lambda: status(router) is Status.UNHEALTHY)


def test_a_check_may_stop_its_own_thread() -> None:
    stopped = []

    def stop(_: Deployment) -> bool:
        stopped.append(probes.stop())
        return False

    router = router_of("a")
    probes = Probes(router, stop, interval=0.01, failures=1)
    probes.start()
    until(lambda: stopped and probes.stop())
    assert stopped == [False]
    assert status(router) is Status.AVAILABLE


def test_they_run_once_at_a_time() -> None:
    probes = Probes(router_of("a"), Verdicts(), interval=1e6)
    with probes:
        with pytest.raises(RuntimeError, match="running"):
            probes.start()
        with pytest.raises(RuntimeError, match="running"):
            probes.run_once()
        with pytest.raises(RuntimeError, match="running"):
            asyncio.run(probes.run_once_async())
        with pytest.raises(RuntimeError, match="running"):
            asyncio.run(probes.run())
    assert probes.run_once() == {"a": True}


def test_a_thread_that_cannot_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    probes = Probes(router_of("a"), Verdicts())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            probes.start()
    assert probes.run_once() == {"a": True}


def test_cancellation_ends_a_run_at_once() -> None:
    async def main() -> None:
        for check in (asynchronous(Verdicts()), hangs):
            probes = Probes(router_of("a"), check, interval=0.01 if check is hangs else 1e6)
            task = asyncio.ensure_future(probes.run())
            if check is hangs:
                await asyncio.wait_for(entered.wait(), SOON)
            else:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, SOON)
            assert probes._running.acquire(blocking=False)

    entered = asyncio.Event()

    async def hangs(_: Deployment) -> bool:
        entered.set()
        await asyncio.sleep(2 * SOON)
        return True

    asyncio.run(main())


# --- what is not a verdict ---


class Abort(BaseException):
    """As KeyboardInterrupt, which pytest would take for one of ours."""


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Abort()], ids=repr)
def test_what_is_no_error_propagates(error: BaseException) -> None:
    router = router_of("a")
    probes = Probes(router, Verdicts(a=error), failures=1)
    with pytest.raises(type(error)):
        probes.run_once()
    with pytest.raises(type(error)):
        asyncio.run(probes.run_once_async())
    assert status(router) is Status.AVAILABLE


def test_an_interrupt_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    hooked: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)
    probes = Probes(router_of("a"), Verdicts(a=Abort()), interval=0.01)
    probes.start()
    until(lambda: hooked)
    assert hooked[0].exc_type is Abort
    assert probes.stop()


def test_an_async_check_needs_a_loop() -> None:
    check = asynchronous(Verdicts())
    router = router_of("a")
    for probes in (Probes(router, check), Probes(router, {"a": check})):
        with pytest.raises(TypeError, match="event loop"):
            probes.start()
        with pytest.raises(TypeError, match="event loop"):
            probes.run_once()
    hidden = Probes(router, lambda deployment: check(deployment))
    with pytest.raises(TypeError, match="event loop"):
        hidden.run_once()
    assert asyncio.run(hidden.run_once_async()) == {"a": True}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": -1}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"interval": float("inf")}, "interval"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 1e7}, "timeout"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"failures": 0}, "failures"),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{said} must be .*, not {next(iter(options.values()))}"):
        Probes(Router(), Verdicts(), **options)


def test_a_check_must_be_callable() -> None:
    check: Any = "a"
    with pytest.raises(TypeError, match="callable"):
        Probes(Router(), check)
