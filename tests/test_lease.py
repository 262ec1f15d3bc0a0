"""A lease ends exactly once, however its block is left, and records what that says."""

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest
import trio
from turnout import (
    ConfigurationError,
    Deployment,
    DeploymentNotFound,
    DeploymentStats,
    FailureKind,
    Lease,
    ManualClock,
    MinuteRules,
    NoAvailableDeployment,
    Router,
    Status,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(30)


@pytest.fixture
def router(clock: ManualClock) -> Router:
    return Router([Deployment("d", "m")], clock=clock, seed=1, health=MinuteRules())


def outcomes(router: Router, deployment_id: str = "d") -> tuple[int, int, int, int]:
    """In flight, requests counted, successes, failures."""
    stats = router.stats(deployment_id)
    return stats.in_flight, stats.total_requests, stats.total_successes, stats.total_failures


STARTED = (1, 1, 0, 0)
SUCCESS = (0, 1, 1, 0)
FAILURE = (0, 1, 0, 1)
RELEASE = (0, 1, 0, 0)


class OddError(Exception):
    """An exception that nobody knows."""


# --- what it says ---


def test_properties() -> None:
    deployment = Deployment("d", "m", metadata={"base_url": "http://localhost"})
    router = Router([deployment])
    router.add_alias("fast", "m")
    with router.acquire("fast", tokens=900) as lease:
        assert lease.deployment is deployment
        assert lease.deployment_id == "d"
        assert lease.deployment_id is deployment.deployment_id
        assert lease.model_name == "m"
        assert lease.tokens == 900
        assert not lease.released
        assert "'d'" in repr(lease).replace('"', "'")
    assert lease.released
    assert lease.deployment is deployment


def test_every_lease_is_on_the_object_that_was_given() -> None:
    deployments = [Deployment(f"d{i}", "m") for i in range(5)]
    router = Router(deployments, strategy="round_robin")
    for expected in deployments * 3:
        with router.acquire("m") as lease:
            assert lease.deployment is expected


def test_it_cannot_be_made_changed_or_copied(router: Router) -> None:
    with pytest.raises(TypeError):
        Lease()
    with router.acquire("m", tokens=5) as lease:
        for name in ("deployment", "deployment_id", "model_name", "tokens", "released", "anything"):
            with pytest.raises(AttributeError):
                setattr(lease, name, 1)
        for double in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                double(lease)
    assert outcomes(router) == SUCCESS


# --- blocks ---


def test_a_block_that_ends_is_a_success(router: Router, clock: ManualClock) -> None:
    with router.acquire("m", tokens=7) as lease:
        assert isinstance(lease, Lease)
        assert outcomes(router) == STARTED
        clock.advance(0.25)
    assert outcomes(router) == SUCCESS
    assert router.stats("d").avg_latency == 0.25
    assert router.stats("d").total_tokens == 7


def test_an_exception_is_a_failure_and_goes_on(router: Router) -> None:
    error = OddError("mine")
    with pytest.raises(OddError) as caught, router.acquire("m"):
        raise error
    assert caught.value is error
    assert error.__context__ is None
    assert outcomes(router) == FAILURE
    assert router.stats("d").avg_latency is None


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OddError(), FAILURE),
        (TimeoutError(), FAILURE),
        (StopIteration(1), FAILURE),
        (MemoryError(), FAILURE),
        (BaseException("neither"), RELEASE),
        (asyncio.CancelledError(), RELEASE),
        (GeneratorExit(), RELEASE),
        (KeyboardInterrupt(), RELEASE),
        (SystemExit(3), RELEASE),
        (NoAvailableDeployment("none"), RELEASE),
        (ConfigurationError("mine"), RELEASE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_exception_is_swallowed(router: Router, error: BaseException, outcome: tuple[int, ...]) -> None:
    with pytest.raises(type(error)) as caught, router.acquire("m"):
        raise error
    assert caught.value is error
    assert outcomes(router) == outcome


def test_leaving_early_is_a_success(router: Router) -> None:
    def early() -> int:
        for _ in range(3):
            with router.acquire("m"):
                break
        with router.acquire("m"):
            return 5
        return 6

    assert early() == 5
    assert outcomes(router) == (0, 2, 2, 0)


def test_exit_stacks(router: Router) -> None:
    with contextlib.ExitStack() as stack:
        leases = [stack.enter_context(router.acquire("m")) for _ in range(5)]
        assert router.stats("d").in_flight == 5
    assert all(lease.released for lease in leases)
    assert outcomes(router) == (0, 5, 5, 0)


def test_asyncio_block(router: Router, clock: ManualClock) -> None:
    async def main() -> None:
        async with router.acquire("m", tokens=7) as lease:
            assert isinstance(lease, Lease)
            await asyncio.sleep(0)
            clock.advance(0.5)
        assert outcomes(router) == SUCCESS
        with pytest.raises(OddError):
            async with router.acquire("m"):
                raise OddError
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(router.acquire("m"))

    asyncio.run(main())
    assert outcomes(router) == (0, 3, 2, 1)


def test_trio_block(router: Router) -> None:
    async def main() -> None:
        async with router.acquire("m"):
            await trio.lowlevel.checkpoint()
        assert outcomes(router) == SUCCESS
        with pytest.raises(OddError):
            async with router.acquire("m"):
                raise OddError

    trio.run(main)
    assert outcomes(router) == (0, 2, 1, 1)


def test_async_blocks_never_suspend(router: Router) -> None:
    async def body() -> str:
        async with router.acquire("m") as lease:
            return lease.deployment_id

    with pytest.raises(StopIteration) as done:
        body().send(None)
    assert done.value.value == "d"
    assert outcomes(router) == SUCCESS


# --- once ---

ENDS: dict[str, Callable[[Lease], object]] = {
    "success": Lease.success,
    "failure": lambda lease: lease.failure("timeout"),
    "neutral failure": lambda lease: lease.failure("bad_request"),
    "release": Lease.release,
    "unused": lambda lease: lease.release(unused=True),
    "block": lambda lease: lease.__exit__(None, None, None),
    "failed block": lambda lease: lease.__exit__(OddError, OddError(), None),
}


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
def test_what_comes_after_the_end_does_nothing(router: Router, first: str, second: str) -> None:
    lease = router.acquire("m", tokens=10)
    other = router.acquire("m", tokens=1)
    assert not lease.released
    returned = ENDS[first](lease)
    assert returned is ("block" not in first)
    assert lease.released
    after = router.stats("d")
    assert ENDS[second](lease) is False
    assert router.stats("d") == after
    assert after.in_flight == 1
    other.release()


@pytest.mark.parametrize("name", [name for name in ENDS if "block" not in name])
def test_the_end_of_the_block_does_not_override_an_explicit_outcome(router: Router, name: str) -> None:
    with router.acquire("m") as lease:
        ENDS[name](lease)
        after = router.stats("d")
    assert router.stats("d") == after
    router.report_health("d", True)
    before = router.stats("d")
    with pytest.raises(OddError):
        release_and_raise(router.acquire("m"))
    assert router.stats("d") == before


def release_and_raise(lease: Lease) -> NoReturn:
    with lease:
        lease.release(unused=True)
        raise OddError


def test_one_of_many_threads_ends_it(router: Router) -> None:
    leases = [router.acquire("m") for _ in range(500)]
    start = threading.Barrier(8)

    def end(_: int) -> list[bool]:
        start.wait()
        return [lease.success() for lease in leases]

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(end, range(8)))
    assert [sum(column) for column in zip(*ended, strict=True)] == [1] * 500
    assert outcomes(router) == (0, 500, 500, 0)


def test_another_thread_may_end_it(router: Router) -> None:
    lease = router.acquire("m")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lease.success).result()
    assert not lease.success()
    assert outcomes(router) == SUCCESS


def test_another_thread_may_lose_it(router: Router) -> None:
    box = [router.acquire("m")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        thread = threading.Thread(target=box.clear)
        thread.start()
        thread.join()
    assert outcomes(router) == RELEASE


# --- arguments ---


def test_success_takes_tokens_and_latency(router: Router, clock: ManualClock) -> None:
    lease = router.acquire("m", tokens=100)
    clock.advance(3)
    assert lease.success(tokens=40, latency=0.001)
    stats = router.stats("d")
    assert (stats.tpm_current, stats.total_tokens, stats.avg_latency) == (40, 40, 0.001)


@pytest.mark.parametrize("kind", FailureKind)
def test_failure_takes_every_kind(router: Router, kind: FailureKind) -> None:
    neutral = kind in ("bad_request", "content_policy", "context_window", "cancelled")
    assert router.acquire("m").failure(kind, retry_after=0.05)
    stats = router.stats("d")
    assert outcomes(router) == (RELEASE if neutral else FAILURE)
    assert stats.cooldown_remaining == (0.0 if neutral else 0.05)
    assert stats.status is (Status.AVAILABLE if neutral else Status.COOLING_DOWN)


def test_arguments_may_be_given_by_position(router: Router) -> None:
    assert router.acquire("m", tokens=9).success(40, 0.25)
    assert router.acquire("m", tokens=9).release(True)
    assert router.acquire("m", tokens=9).failure("rate_limit", 0.5)
    stats = router.stats("d")
    assert (stats.tpm_current, stats.avg_latency, stats.cooldown_remaining) == (49, 0.25, 0.5)


def test_failure_is_an_error_unless_told_otherwise(router: Router) -> None:
    router.acquire("m").failure()
    assert outcomes(router) == FAILURE
    assert router.stats("d").cooldown_remaining == 0.0


WRONG: list[tuple[str, Callable[[Any], object], type[Exception]]] = [
    ("negative tokens", lambda lease: lease.success(tokens=-1), ConfigurationError),
    ("too many tokens", lambda lease: lease.success(tokens=2**64), ConfigurationError),
    ("tokens of another type", lambda lease: lease.success(tokens="5"), TypeError),
    ("negative latency", lambda lease: lease.success(latency=-0.1), ConfigurationError),
    ("endless latency", lambda lease: lease.success(latency=float("inf")), ConfigurationError),
    ("latency that is no number", lambda lease: lease.success(latency=float("nan")), ConfigurationError),
    ("latency of another type", lambda lease: lease.success(latency="1"), TypeError),
    ("too many arguments", lambda lease: lease.success(5, 0.1, 2), TypeError),
    ("unknown kind", lambda lease: lease.failure("5xx"), ConfigurationError),
    ("kind of another type", lambda lease: lease.failure(500), TypeError),
    ("negative wait", lambda lease: lease.failure("rate_limit", retry_after=-1), ConfigurationError),
    ("endless wait", lambda lease: lease.failure("rate_limit", retry_after=float("inf")), ConfigurationError),
    ("unknown keyword", lambda lease: lease.release(quietly=True), TypeError),
    ("unused of another type", lambda lease: lease.release(unused="yes"), TypeError),
]


@pytest.mark.parametrize(("call", "error"), [wrong[1:] for wrong in WRONG], ids=[wrong[0] for wrong in WRONG])
def test_wrong_arguments_leave_it_alive(router: Router, call: Callable[[Lease], object], error: type[Exception]) -> None:
    lease = router.acquire("m", tokens=10)
    before = router.stats("d")
    with pytest.raises(error):
        call(lease)
    assert not lease.released
    assert router.stats("d") == before
    assert lease.success()


def test_latency_is_measured_with_the_routers_clock(router: Router, clock: ManualClock) -> None:
    for seconds, average in [(1.0, 1.0), (2.0, 1.2), (0.0, 0.96), (0.5, 0.868)]:
        with router.acquire("m"):
            clock.advance(seconds)
        assert router.stats("d").avg_latency == average


def test_latency_is_never_negative(router: Router, clock: ManualClock) -> None:
    with router.acquire("m"):
        clock.set(0)
    assert router.stats("d").avg_latency is None
    assert outcomes(router) == SUCCESS


# --- cancellation ---


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancelled_task_releases(router: Router, asynchronous: bool) -> None:
    async def request() -> None:
        if asynchronous:
            async with router.acquire("m", tokens=9):
                await asyncio.Event().wait()
        with router.acquire("m", tokens=9):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        assert outcomes(router) == STARTED
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert outcomes(router) == RELEASE
    # What was sent may have been counted by the provider.
    assert router.stats("d").tpm_current == 9
    assert router.stats("d").status is Status.AVAILABLE


def test_a_cancellation_that_is_turned_down_is_a_success(router: Router) -> None:
    async def request() -> None:
        with router.acquire("m"), contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(main())
    assert outcomes(router) == SUCCESS


def test_a_timeout_around_the_block_releases(router: Router) -> None:
    async def request() -> None:
        async with router.acquire("m"):
            await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(request(), 0.001)

    asyncio.run(main())
    assert outcomes(router) == RELEASE


def test_a_timeout_within_the_block_is_a_failure(router: Router) -> None:
    async def main() -> None:
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            async with router.acquire("m"):
                await asyncio.wait_for(asyncio.Event().wait(), 0.001)

    asyncio.run(main())
    assert outcomes(router) == FAILURE
    assert router.stats("d").cooldown_remaining == 5.0


def test_timeout_scopes_and_task_groups_of_asyncio(router: Router) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout and asyncio.TaskGroup are new in Python 3.11")

    async def request() -> None:
        async with router.acquire("m"):
            await asyncio.Event().wait()

    async def fail() -> NoReturn:
        raise OddError

    async def in_time() -> None:
        async with asyncio.timeout(0.001):
            await request()

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(request())
            group.create_task(fail())

    with pytest.raises(TimeoutError):
        asyncio.run(in_time())
    assert outcomes(router) == RELEASE
    with pytest.raises(Exception, match="TaskGroup"):
        asyncio.run(together())
    assert outcomes(router) == (0, 6, 0, 0)


def test_scopes_of_trio_release(router: Router) -> None:
    async def request() -> None:
        async with router.acquire("m"):
            await trio.sleep_forever()

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await request()
        assert scope.cancelled_caught
        assert outcomes(router) == RELEASE
        with trio.move_on_after(0.001):
            await request()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(request)
            await trio.testing.wait_all_tasks_blocked()
            assert router.stats("d").in_flight == 5
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert outcomes(router) == (0, 7, 0, 0)


def test_a_hundred_thousand_cancelled_tasks_leave_nothing_in_flight() -> None:
    router = Router([Deployment(f"d{i}", "m") for i in range(10)], strategy="least_busy", clock=ManualClock(30), seed=1)

    async def request() -> None:
        with router.acquire("m", tokens=3):
            await asyncio.Event().wait()

    async def batch(size: int) -> None:
        tasks = [asyncio.create_task(request()) for _ in range(size)]
        await asyncio.sleep(0)
        assert router.metrics().in_flight == size
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    async def main() -> None:
        for _ in range(50):
            await batch(2000)

    asyncio.run(main())
    metrics = router.metrics()
    assert (metrics.in_flight, metrics.total_requests) == (0, 100_000)
    assert (metrics.total_successes, metrics.total_failures, metrics.available) == (0, 0, 10)


# --- generators ---


def stream(router: Router) -> Iterator[int]:
    with router.acquire("m"):
        yield from range(100)


async def astream(router: Router) -> AsyncIterator[int]:
    async with router.acquire("m"):
        for i in range(100):
            yield i


def test_a_stream_that_is_read_to_its_end_is_a_success(router: Router) -> None:
    assert len(list(stream(router))) == 100
    assert outcomes(router) == SUCCESS


def test_a_stream_that_is_closed_midway_releases(router: Router) -> None:
    chunks = stream(router)
    assert next(chunks) == 0
    assert outcomes(router) == STARTED
    chunks.close()  # type: ignore[attr-defined]  # it is a generator
    assert outcomes(router) == RELEASE


def test_a_stream_that_is_dropped_midway_releases(router: Router) -> None:
    for _ in stream(router):
        break
    gc.collect()
    assert outcomes(router) == RELEASE


def test_an_exception_that_is_thrown_into_a_stream_is_a_failure(router: Router) -> None:
    chunks = stream(router)
    next(chunks)
    with pytest.raises(OddError):
        chunks.throw(OddError())  # type: ignore[attr-defined]  # it is a generator
    assert outcomes(router) == FAILURE


def test_an_asynchronous_stream_that_is_closed_midway_releases(router: Router) -> None:
    async def main() -> None:
        async with contextlib.aclosing(astream(router)) as chunks:  # type: ignore[type-var]  # it is a generator
            async for _ in chunks:
                break
            assert outcomes(router) == STARTED

    asyncio.run(main())
    assert outcomes(router) == RELEASE


def test_an_asynchronous_stream_that_is_dropped_midway_releases(router: Router) -> None:
    async def main() -> None:
        async for _ in astream(router):
            break
        gc.collect()
        # The loop closes what was dropped in a task of its own.
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert outcomes(router) == RELEASE


def test_a_stream_whose_reader_is_cancelled_releases(router: Router) -> None:
    async def read() -> None:
        async for _ in astream(router):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert outcomes(router) == RELEASE


# --- lost ---


def test_a_lost_lease_releases_itself_and_warns(router: Router) -> None:
    lease = router.acquire("m", tokens=5)
    with pytest.warns(ResourceWarning, match="'d'|\"d\""):
        del lease
    assert outcomes(router) == RELEASE
    assert router.stats("d").tpm_current == 5


def test_a_lease_that_has_ended_is_lost_quietly(router: Router) -> None:
    for end in ENDS.values():
        router.report_health("d", True)
        end(router.acquire("m"))
    assert router.stats("d").in_flight == 0


def test_a_lease_that_nobody_took_is_lost(router: Router) -> None:
    with pytest.warns(ResourceWarning):
        router.acquire("m")
    assert outcomes(router) == RELEASE


def test_a_lease_in_a_cycle_is_lost_when_the_garbage_is_collected(router: Router) -> None:
    holder: dict[str, Any] = {"lease": router.acquire("m")}
    holder["itself"] = holder
    del holder
    with pytest.warns(ResourceWarning):
        gc.collect()
    assert outcomes(router) == RELEASE


def test_a_lease_that_its_own_deployment_leads_to_is_garbage_once_nobody_else_holds_it() -> None:
    class Client:
        """What an application may well attach to a deployment, busy with a request."""

        lease: Lease

    client = Client()
    gone = weakref.ref(client)
    router = Router([Deployment("d", "m", metadata={"client": client})])
    client.lease = router.acquire("m")
    router.remove_deployment("d")
    del client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert gone() is None


def test_losing_one_while_an_exception_is_handled(router: Router) -> None:
    error = OddError("mine")

    def lose(lease: Lease) -> None:
        try:
            raise error
        except OddError:
            del lease
            raise

    with pytest.warns(ResourceWarning), pytest.raises(OddError) as caught:
        lose(router.acquire("m"))
    assert caught.value is error
    assert error.__context__ is None
    assert outcomes(router) == RELEASE


def test_losing_one_while_an_exception_is_on_its_way(router: Router) -> None:
    def lose() -> tuple[Lease, float]:
        # The lease is on the interpreter's stack only, and goes while the stack is unwound.
        return (router.acquire("m"), 1 / 0)

    with pytest.warns(ResourceWarning), pytest.raises(ZeroDivisionError):
        lose()
    assert outcomes(router) == RELEASE


def test_losing_one_with_the_frame_that_failed(router: Router) -> None:
    def fail() -> NoReturn:
        lease = router.acquire("m")
        raise OddError(lease.deployment_id)

    def lose() -> None:
        try:
            fail()
        except OddError:
            # The exception holds the frame, and the frame holds the lease.
            assert outcomes(router) == STARTED

    with pytest.warns(ResourceWarning):
        lose()
    assert outcomes(router) == RELEASE


@pytest.mark.parametrize("handling", [False, True])
def test_a_warning_that_is_an_error_goes_to_the_unraisable_hook(
    router: Router, handling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_value))
    error = OddError("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        if handling:
            with pytest.raises(OddError) as caught:
                lose_on_the_way(error, router.acquire("m"))
            assert caught.value is error
            del caught
            error.__traceback__ = None
        else:
            router.acquire("m")
        gc.collect()
    assert [type(value) for value in unraisable] == [ResourceWarning]
    assert outcomes(router) == RELEASE


def lose_on_the_way(error: Exception, lease: Lease) -> NoReturn:
    """Raises while a lease is lost."""
    try:
        raise error
    finally:
        del lease


def test_the_warning_says_where(router: Router) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        router.acquire("m")
    assert [os.path.basename(warning.filename) for warning in caught] == [os.path.basename(__file__)]


# --- outliving ---


def test_it_outlives_its_deployment(router: Router) -> None:
    deployment = router.get_deployment("d")
    leases = [router.acquire("m", tokens=5) for _ in range(4)]
    assert router.remove_deployment("d") is deployment
    assert leases[0].success(tokens=3)
    assert leases[1].failure("rate_limit")
    with pytest.raises(DeploymentNotFound):
        router.stats("d")
    router.add_deployment(deployment)
    fresh = router.stats("d")
    assert outcomes(router) == (0, 0, 0, 0)
    assert leases[2].failure("auth")
    assert leases[3].release(unused=True)
    assert router.stats("d") == fresh
    assert all(lease.deployment is deployment for lease in leases)


def test_it_counts_for_a_deployment_that_is_replaced(clock: ManualClock) -> None:
    old = Deployment("d", "m", max_parallel_requests=1)
    router = Router([old], clock=clock)
    lease = router.acquire("m", tokens=5)
    new = Deployment("d", "n", max_parallel_requests=1)
    router.add_deployment(new)
    assert lease.deployment is old
    assert lease.model_name == "m"
    with pytest.raises(NoAvailableDeployment):
        router.acquire("n")
    assert lease.success(tokens=2)
    assert outcomes(router) == SUCCESS
    assert router.stats("d").tpm_current == 2
    with router.acquire("n") as lease:
        assert lease.deployment is new


def test_it_outlives_a_replacement_of_all(router: Router) -> None:
    lease = router.acquire("m")
    router.set_deployments([Deployment("e", "m")])
    assert lease.success()
    assert outcomes(router, "e") == (0, 0, 0, 0)
    lease = router.acquire("m")
    router.set_deployments([Deployment("f", "m"), Deployment("e", "n")])
    assert lease.failure("connection")
    assert outcomes(router, "e") == FAILURE


@pytest.mark.parametrize("name", ENDS)
def test_it_outlives_its_router(name: str) -> None:
    deployment = Deployment("d", "m", metadata={"key": object()})
    router = Router([deployment])
    lease = router.acquire("m", tokens=5)
    del router
    gc.collect()
    assert lease.deployment is deployment
    assert (lease.deployment_id, lease.model_name, lease.tokens) == ("d", "m", 5)
    ENDS[name](lease)
    assert lease.released


def test_it_keeps_its_routers_clock(clock: ManualClock) -> None:
    lease = Router([Deployment("d", "m")], clock=clock).acquire("m")
    clock.advance(1)
    del clock
    gc.collect()
    assert lease.success()


# --- processes ---


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of its own, without what the surroundings say about warnings."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60, env=surroundings, check=False
    )


PRELUDE = """
import asyncio, atexit, gc, os, sys, threading
from turnout import Deployment, Router
router = Router([Deployment("d", "m")])
"""

LIVE_AT_EXIT = {
    "a global": "lease = router.acquire('m')",
    "many": "leases = [router.acquire('m') for _ in range(1000)]",
    "entered": "lease = router.acquire('m').__enter__()",
    "without its router": "lease = router.acquire('m'); del router",
    "in a cycle": "box = []; box.append((box, router.acquire('m'))); del box; gc.disable()",
    "kept by a module": "sys.kept = router.acquire('m')",
    "kept until the last": "lease = router.acquire('m'); atexit.register(lambda lease: None, lease)",
    "in a thread that never ends": (
        "def work(ready):\n"
        "    with router.acquire('m'):\n"
        "        ready.set()\n"
        "        threading.Event().wait()\n"
        "ready = threading.Event()\n"
        "threading.Thread(target=work, args=(ready,), daemon=True).start()\n"
        "ready.wait()"
    ),
    "in the local data of a thread": "local = threading.local(); local.lease = router.acquire('m')",
    "in a generator": "def stream():\n    with router.acquire('m'):\n        yield 1\nchunks = stream(); next(chunks)",
    "in a loop that stops": (
        "async def main():\n"
        "    async def request():\n"
        "        async with router.acquire('m'):\n"
        "            await asyncio.Event().wait()\n"
        "    tasks = [asyncio.create_task(request()) for _ in range(10)]\n"
        "    await asyncio.sleep(0)\n"
        "asyncio.run(main())"
    ),
    "at the end of the program": "with router.acquire('m'):\n    sys.exit(0)",
}


@pytest.mark.parametrize("case", LIVE_AT_EXIT)
def test_the_interpreter_may_exit_with_live_leases(case: str) -> None:
    done = run(PRELUDE + LIVE_AT_EXIT[case])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("case", LIVE_AT_EXIT)
@pytest.mark.parametrize("options", [("-W", "error::ResourceWarning"), ("-X", "dev")], ids=["error", "dev"])
def test_the_interpreter_may_exit_with_live_leases_and_strict_warnings(case: str, options: tuple[str, ...]) -> None:
    done = run(PRELUDE + LIVE_AT_EXIT[case], *options)
    assert done.returncode == 0
    assert done.stdout == ""
    assert "panicked" not in done.stderr
    assert "Fatal" not in done.stderr


def test_an_exit_with_an_exception_keeps_its_status() -> None:
    done = run(PRELUDE + "with router.acquire('m'):\n    sys.exit(7)")
    assert (done.returncode, done.stderr) == (7, "")
    done = run(PRELUDE + "lease = router.acquire('m')\nraise KeyError('mine')")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("KeyError: 'mine'")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_has_its_own_count() -> None:
    done = run(
        PRELUDE
        + "lease = router.acquire('m', tokens=5)\n"
        + "child = os.fork()\n"
        + "if child == 0:\n"
        + "    assert router.stats('d').in_flight == 0\n"
        + "    assert lease.released and not lease.success(tokens=3)\n"
        + "    with router.acquire('m'):\n"
        + "        pass\n"
        + "    assert (router.stats('d').in_flight, router.stats('d').total_successes) == (0, 1)\n"
        + "    os._exit(0)\n"
        + "assert os.waitpid(child, 0)[1] == 0\n"
        + "assert (router.stats('d').in_flight, router.stats('d').total_successes) == (1, 0)\n"
        + "assert lease.success()\n"
        + "assert (router.stats('d').in_flight, router.stats('d').total_successes) == (0, 1)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_outlives_any_number_of_replacements() -> None:
    # In a process of its own, since a chain of replaced deployments that is taken down by recursion overflows
    # the stack.
    done = run(
        PRELUDE
        + "def work():\n"
        + "    lease = router.acquire('m')\n"
        + "    for _ in range(20_000):\n"
        + "        router.add_deployment(Deployment('d', 'm'))\n"
        + "    assert lease.success()\n"
        + "    del lease\n"
        + "    assert router.stats('d').in_flight == 0\n"
        + "    print('done')\n"
        + "threading.stack_size(256 * 1024)\n"
        + "thread = threading.Thread(target=work)\n"
        + "thread.start()\n"
        + "thread.join()\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# --- memory ---


def test_leases_leave_no_references_behind(router: Router) -> None:
    deployment = router.get_deployment("d")
    error = OddError()

    def cycle() -> None:
        with router.acquire("m", tokens=5) as lease:
            assert lease.deployment is deployment
            _ = lease.deployment_id
        router.acquire("m").success(tokens=1, latency=0.1)
        router.acquire("m").release()
        router.acquire("m").failure("rate_limit", retry_after=1.5)
        router.report_health("d", True)
        with contextlib.suppress(OddError), router.acquire("m"):
            raise error
        error.__traceback__ = None
        router.cool_down("d", 1)
        router.report_health("d", True)

    def counts() -> tuple[int, ...]:
        return tuple(sys.getrefcount(thing) for thing in (deployment, deployment.deployment_id, router, error))

    cycle()
    before = counts()
    for _ in range(10_000):
        cycle()
    assert counts() == before


def test_leases_leave_no_memory_behind(router: Router) -> None:
    def cycles(number: int) -> None:
        for _ in range(number):
            with router.acquire("m", tokens=5):
                pass
            with contextlib.suppress(OddError), router.acquire("m"):
                raise OddError
            router.cool_down("d", 1)
            router.report_health("d", True)

    cycles(1000)
    tracemalloc.start()
    try:
        cycles(100)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        cycles(10_000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A tenth of a byte a lease: whatever the interpreter itself keeps.
    assert after - before < 2000


def test_an_idle_router_looks_as_before(router: Router) -> None:
    before = router.stats("d")
    for _ in range(1000):
        router.acquire("m", tokens=5).release(unused=True)
    after = router.stats("d")
    assert isinstance(after, DeploymentStats)
    assert after == before
