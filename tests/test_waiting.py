"""Waiting for capacity: in which order, woken by what, and that nothing of it stays."""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import trio
from turnout import (
    ConfigurationError,
    Deployment,
    Health,
    Lease,
    Limit,
    ManualClock,
    ModelNotFound,
    NoAvailableDeployment,
    Quota,
    RateLimitExceeded,
    RequestTooLarge,
    Router,
    TooManyWaiters,
    Waiting,
    WaitTimeout,
    waiting,
)

LONG = 60.0


def run_in_asyncio(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def run_in_trio(work: Callable[[], Awaitable[None]]) -> None:
    trio.run(work)


@pytest.fixture(params=[run_in_asyncio, run_in_trio], ids=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Any:
    """Both loops; what runs there uses anyio, which is neither."""
    return request.param


@pytest.fixture
def router() -> Router:
    return Router([Deployment("a", "m", max_parallel_requests=1)])


def assert_nothing_left(router: Router) -> None:
    metrics = router.metrics()
    assert (metrics.in_flight, metrics.waiting) == (0, 0)
    assert all(router.waiting(name) == 0 for name in router.models())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if condition():
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError("it does not come to that")


def until_then(condition: Callable[[], bool]) -> None:
    """In a thread."""
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, "it does not come to that"
        time.sleep(0.001)


@contextmanager
def counting_polls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """Each poll of a waiter from the loops adds an item: they look whether it returned a lease."""
    polls: list[None] = []

    class Counting(type):
        def __instancecheck__(cls, progress: object) -> bool:
            polls.append(None)
            return isinstance(progress, Lease)

    class Counted(metaclass=Counting):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(waiting, "Lease", Counted)
        yield polls


# --- order ---


def test_tasks_are_served_in_the_order_in_which_they_came(run: Any, router: Router) -> None:
    served: list[int] = []

    async def ask(i: int) -> None:
        async with await router.acquire_async("m"):
            served.append(i)
            await anyio.lowlevel.checkpoint()

    async def work() -> None:
        lease = await router.acquire_async("m")
        async with anyio.create_task_group() as tasks:
            for i in range(50):
                tasks.start_soon(ask, i)
                await until(lambda i=i: router.waiting("m") == i + 1)  # type: ignore[misc]
            assert router.metrics().waiting == 50
            lease.release()

    run(work)
    assert served == list(range(50))
    assert_nothing_left(router)


def test_lower_priorities_are_served_first(run: Any, router: Router) -> None:
    served: list[tuple[int, int]] = []
    asked = [(2, 0), (0, 1), (-5, 2), (0, 3), (2, 4), (-5, 5)]

    async def ask(priority: int, i: int) -> None:
        async with await router.acquire_async("m", priority=priority):
            served.append((priority, i))

    async def work() -> None:
        lease = router.acquire("m")
        async with anyio.create_task_group() as tasks:
            for n, who in enumerate(asked):
                tasks.start_soon(ask, *who)
                await until(lambda n=n: router.waiting("m") == n + 1)  # type: ignore[misc]
            lease.release()

    run(work)
    assert served == sorted(asked)


def test_threads_are_served_by_priority_and_arrival(router: Router) -> None:
    served: list[tuple[int, int]] = []
    asked = [(1, 0), (0, 1), (1, 2), (0, 3), (-1, 4)]

    def ask(priority: int, i: int) -> None:
        with router.acquire("m", timeout=LONG, priority=priority):
            served.append((priority, i))

    lease = router.acquire("m")
    threads = [threading.Thread(target=ask, args=who) for who in asked]
    for n, thread in enumerate(threads):
        thread.start()
        until_then(lambda n=n: router.waiting("m") == n + 1)  # type: ignore[misc]
    lease.release()
    for thread in threads:
        thread.join()
    assert served == sorted(asked)
    assert_nothing_left(router)


def test_threads_and_loops_stand_in_one_line(router: Router) -> None:
    served: list[str] = []

    def ask_in_thread() -> None:
        with router.acquire("m", timeout=None):
            served.append("thread")

    async def ask() -> None:
        async with await router.acquire_async("m"):
            served.append(threading.current_thread().name)

    threads = [
        threading.Thread(target=lambda: asyncio.run(ask()), name="asyncio"),
        threading.Thread(target=ask_in_thread),
        threading.Thread(target=lambda: trio.run(ask), name="trio"),
    ]
    lease = router.acquire("m")
    for n, thread in enumerate(threads):
        thread.start()
        until_then(lambda n=n: router.waiting("m") == n + 1)  # type: ignore[misc]
    lease.release()
    for thread in threads:
        thread.join()
    assert served == ["asyncio", "thread", "trio"]


def test_ten_thousand_tasks_wait_and_are_served_in_order(router: Router) -> None:
    served: list[int] = []

    async def ask(i: int) -> None:
        async with await router.acquire_async("m"):
            served.append(i)

    async def main() -> None:
        lease = router.acquire("m")
        tasks = [asyncio.create_task(ask(i)) for i in range(10_000)]
        await asyncio.sleep(0)
        assert router.waiting("m") == 10_000
        with pytest.raises(TooManyWaiters):
            await router.acquire_async("m")
        lease.release()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert served == list(range(10_000))
    assert_nothing_left(router)


def test_a_call_that_does_not_wait_overtakes_nobody(clock: ManualClock) -> None:
    router = Router([Deployment("a", "m", rpm_limit=1)], clock=clock)

    async def main() -> None:
        router.record_success("a")
        task = asyncio.create_task(router.acquire_async("m"))
        await until(lambda: router.waiting("m") == 1)
        # The minute turns, and the loop has not run since.
        clock.advance(60.0)
        with pytest.raises(RateLimitExceeded):
            router.acquire("m")
        with await task as lease:
            assert lease.deployment_id == "a"

    asyncio.run(main())


def test_a_large_request_is_not_overtaken_by_small_ones_of_its_class(clock: ManualClock) -> None:
    router = Router([Deployment("a", "m", tpm_limit=100, tags=["x"])], clock=clock)

    async def main() -> None:
        router.record_success("a", tokens=50)
        large = asyncio.create_task(router.acquire_async("m", tokens=80))
        await until(lambda: router.waiting("m") == 1)
        small = asyncio.create_task(router.acquire_async("m", tokens=10))
        await until(lambda: router.waiting("m") == 2)
        with pytest.raises(NoAvailableDeployment):
            router.acquire("m", tokens=1)
        # One of another class uses what it cannot.
        router.acquire("m", tokens=10, tags=["x"]).release()
        assert router.waiting("m") == 2
        # Before all others by its priority, and it fits.
        router.acquire("m", tokens=10, priority=-1).release()
        clock.advance(60.0)
        (await large).release()
        (await small).release()

    asyncio.run(main())
    assert_nothing_left(router)


def test_classes_do_not_wait_for_each_other() -> None:
    router = Router(
        [Deployment("a", "m", tags=["x"], max_parallel_requests=1), Deployment("b", "m", tags=["y"], max_parallel_requests=1)]
    )

    async def main() -> None:
        a, b = router.acquire("m", tags=["x"]), router.acquire("m", tags=["y"])
        first = asyncio.create_task(router.acquire_async("m", tags=["x"]))
        await until(lambda: router.waiting("m") == 1)
        second = asyncio.create_task(router.acquire_async("m", exclude=["a"]))
        await until(lambda: router.waiting("m") == 2)
        b.release()
        with await second as lease:
            assert lease.deployment_id == "b"
        assert not first.done()
        a.release()
        (await first).release()

    asyncio.run(main())
    assert_nothing_left(router)


# --- what wakes ---


def by_release(router: Router, lease: Lease, clock: ManualClock) -> None:
    lease.release()


def by_success(router: Router, lease: Lease, clock: ManualClock) -> None:
    lease.success()


def by_neutral_failure(router: Router, lease: Lease, clock: ManualClock) -> None:
    lease.failure("bad_request")


def by_another_deployment(router: Router, lease: Lease, clock: ManualClock) -> None:
    router.add_deployment(Deployment("b", "m"))


def by_another_limit(router: Router, lease: Lease, clock: ManualClock) -> None:
    router.add_deployment(Deployment("a", "m"))


def by_other_deployments(router: Router, lease: Lease, clock: ManualClock) -> None:
    router.set_deployments([Deployment("c", "m")])


def by_a_failure_and_the_end_of_its_cooldown(router: Router, lease: Lease, clock: ManualClock) -> None:
    lease.failure("rate_limit", retry_after=2.0)
    clock.advance(2.0)


WAKING = [
    by_release,
    by_success,
    by_neutral_failure,
    by_another_deployment,
    by_another_limit,
    by_other_deployments,
    by_a_failure_and_the_end_of_its_cooldown,
]


@pytest.mark.parametrize("wake", WAKING, ids=lambda wake: wake.__name__)
def test_a_waiter_is_woken(run: Any, wake: Any, clock: ManualClock) -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)], clock=clock)
    leases: list[Lease] = []

    async def ask() -> None:
        leases.append(await router.acquire_async("m"))

    async def work() -> None:
        lease = router.acquire("m")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: router.waiting("m") == 1)
            wake(router, lease, clock)
        lease.release()

    run(work)
    leases.pop().release()
    assert_nothing_left(router)


def test_a_waiter_is_woken_by_a_health_check(run: Any) -> None:
    router = Router([Deployment("a", "m")], health=Health(fail_open=False))

    async def ask() -> None:
        (await router.acquire_async("m")).release()

    async def work() -> None:
        router.report_health("a", False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: router.waiting("m") == 1)
            router.report_health("a", True)
            await until(lambda: router.waiting("m") == 0)
            router.cool_down("a", 1000.0)
            tasks.start_soon(ask)
            await until(lambda: router.waiting("m") == 1)
            router.report_health("a", True)

    run(work)
    assert_nothing_left(router)


def test_a_waiter_is_woken_where_the_deployment_has_moved_to() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1), Deployment("b", "n", max_parallel_requests=1)])

    async def main() -> None:
        lease, other = router.acquire("m"), router.acquire("n")
        router.add_deployment(Deployment("a", "n", max_parallel_requests=1))
        task = asyncio.create_task(router.acquire_async("n"))
        await until(lambda: router.waiting("n") == 1)
        lease.release()
        with await task as got:
            assert got.deployment_id == "a"
        other.release()

    asyncio.run(main())


def test_a_new_minute_wakes_as_many_as_it_has_room_for(run: Any, clock: ManualClock) -> None:
    router = Router([Deployment("a", "m", rpm_limit=3)], clock=clock)
    served: list[int] = []

    async def ask(i: int) -> None:
        async with await router.acquire_async("m"):
            served.append(i)

    async def work() -> None:
        for _ in range(3):
            router.record_success("a")
        async with anyio.create_task_group() as tasks:
            for i in range(7):
                tasks.start_soon(ask, i)
                await until(lambda i=i: router.waiting("m") == i + 1)  # type: ignore[misc]
            for passed in (3, 6, 7):
                clock.advance(59.0)
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                assert len(served) < passed
                clock.advance(1.0)
                await until(lambda passed=passed: len(served) == passed)  # type: ignore[misc]

    run(work)
    # Tasks that trio wakes at once run in any order.
    assert [sorted(served[:3]), sorted(served[3:6]), served[6:]] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_end_of_a_cooldown_wakes_at_its_time(run: Any, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        router.cool_down("a", 0.05)
        started = time.monotonic()
        (await router.acquire_async("m")).release()
        assert 0.04 < time.monotonic() - started < 5

    with counting_polls(monkeypatch) as polls:
        run(work)
        assert len(polls) <= 4  # 2, and timers may be early
        router.cool_down("a", 0.05)
        started = time.monotonic()
        router.acquire("m", timeout=LONG).release()
        assert 0.04 < time.monotonic() - started < 5
        assert len(polls) <= 8


def test_the_alarm_passes_to_the_next(run: Any, router: Router) -> None:
    """The first sleeps for the end of the cooldown; when it is cancelled, another one has to."""

    async def ask(scope: Any) -> None:
        with scope:
            (await router.acquire_async("m")).release()

    async def work() -> None:
        router.cool_down("a", 0.1)
        first, second = anyio.CancelScope(), anyio.CancelScope()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, first)
                await until(lambda: router.waiting("m") == 1)
                tasks.start_soon(ask, second)
                await until(lambda: router.waiting("m") == 2)
                first.cancel()

    run(work)
    assert_nothing_left(router)


def test_an_earlier_alarm_reaches_the_sleeper() -> None:
    """The first of all sleeps for all: it must hear that a later one may be served before."""
    router = Router([Deployment("a", "m"), Deployment("b", "m")])

    async def main() -> None:
        router.cool_down("a", 1000.0)
        router.cool_down("b", 0.1)
        late = asyncio.create_task(router.acquire_async("m", exclude=["b"]))
        await until(lambda: router.waiting("m") == 1)
        (await asyncio.wait_for(router.acquire_async("m"), 10)).release()
        assert router.waiting("m") == 1
        late.cancel()

    asyncio.run(main())
    assert_nothing_left(router)


def test_nobody_polls(run: Any, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        (await router.acquire_async("m")).release()

    async def work() -> None:
        lease = router.acquire("m")
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(ask)
            await until(lambda: router.waiting("m") == 100)
            assert len(polls) == 100
            await anyio.sleep(0.05)
            assert len(polls) == 100
            # What concerns others wakes nobody.
            router.acquire("other").release()
            router.record_success("b")
            await anyio.sleep(0.01)
            assert len(polls) == 100
            lease.release()

    router.add_deployment(Deployment("b", "other"))
    with counting_polls(monkeypatch) as polls:
        run(work)
        # Each once on arrival and once when served or rung for, some twice.
        assert len(polls) <= 400


# --- time ---


def test_the_time_is_up(run: Any, router: Router) -> None:
    async def work() -> None:
        with router.acquire("m"):
            started = time.monotonic()
            with pytest.raises(WaitTimeout) as caught:
                await router.acquire_async("m", timeout=0.05)
            assert 0.04 < time.monotonic() - started < 5
            error = caught.value
            assert isinstance(error, TimeoutError)
            assert (error.model_name, error.retry_after, error.reasons) == ("m", None, {"max_parallel_requests": 1})
            assert "in vain" in str(error)
            assert str(pickle.loads(pickle.dumps(error))) == str(error)

    run(work)
    assert_nothing_left(router)


def test_the_time_is_up_in_a_thread(router: Router) -> None:
    router.cool_down("a", 1000.0)
    with pytest.raises(WaitTimeout) as caught:
        router.acquire("m", timeout=0.02)
    assert caught.value.reasons == {"cooling_down": 1}
    assert caught.value.retry_after == pytest.approx(1000.0, abs=5)
    assert_nothing_left(router)


def test_deadlines_are_in_the_time_of_the_router(run: Any, clock: ManualClock) -> None:
    router = Router([Deployment("a", "m", rpm_limit=1)], clock=clock)
    errors: list[WaitTimeout] = []

    async def ask(timeout: float) -> None:
        try:
            (await router.acquire_async("m", timeout=timeout)).release()
        except WaitTimeout as error:
            errors.append(error)

    async def work() -> None:
        router.record_success("a")
        async with anyio.create_task_group() as tasks:
            for timeout in (10.0, 5.0, 20.0):
                tasks.start_soon(ask, timeout)
            await until(lambda: router.waiting("m") == 3)
            for seconds, ended in ((4.9, 0), (0.2, 1), (5.0, 2), (100.0, 2)):
                clock.advance(seconds)
                await until(lambda ended=ended: len(errors) == ended)  # type: ignore[misc]
            await until(lambda: router.waiting("m") == 0)

    run(work)
    assert [error.retry_after for error in errors] == pytest.approx([54.9, 49.9])


@pytest.mark.parametrize("timeout", [0, 0.0])
def test_without_time_nothing_waits(timeout: float, router: Router) -> None:
    async def main() -> None:
        with pytest.raises(NoAvailableDeployment) as caught:
            await router.acquire_async("m", timeout=timeout)
        assert type(caught.value) is NoAvailableDeployment

    with router.acquire("m", timeout=timeout):
        with pytest.raises(NoAvailableDeployment) as caught:
            router.acquire("m", timeout=timeout)
        assert type(caught.value) is NoAvailableDeployment
        asyncio.run(main())


# --- what waiting does not mend ---


@pytest.mark.parametrize(
    ("expected", "model_name", "asked"),
    [
        (ModelNotFound, "n", {}),
        (RequestTooLarge, "m", {"tokens": 11}),
        (NoAvailableDeployment, "m", {"tags": ["y"]}),
        (NoAvailableDeployment, "m", {"exclude": ["a", "b"]}),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_what_waiting_does_not_mend_is_raised_at_once(
    expected: type[Exception], model_name: str, asked: dict[str, Any], others: int
) -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1, tpm_limit=10)])

    async def main() -> None:
        with router.acquire("m"):
            waits = [asyncio.create_task(router.acquire_async("m")) for _ in range(others)]
            await until(lambda: router.waiting("m") == others)
            with pytest.raises(expected) as caught:
                await router.acquire_async(model_name, **asked)
            assert type(caught.value) is expected
            for timeout in (0.0, LONG, None):
                with pytest.raises(expected):
                    router.acquire(model_name, timeout=timeout, **asked)
        for lease in await asyncio.gather(*waits):
            lease.release()

    asyncio.run(main())
    assert_nothing_left(router)


def test_whoever_waits_for_a_model_that_goes_is_told(run: Any, router: Router) -> None:
    told: list[str] = []

    async def ask() -> None:
        with pytest.raises(ModelNotFound) as caught:
            await router.acquire_async("m")
        told.append(caught.value.model_name)

    async def work() -> None:
        with router.acquire("m"):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
                await until(lambda: router.waiting("m") == 3)
                router.remove_deployment("a")

    run(work)
    assert told == ["m"] * 3
    assert router.metrics().waiting == 0


# --- the bound ---


def test_more_than_the_bound_are_shed() -> None:
    router = Router(
        [Deployment("a", "m", max_parallel_requests=1), Deployment("b", "n", max_parallel_requests=1)],
        waiting=Waiting(max_waiters=2),
    )

    async def main() -> None:
        leases = [router.acquire("m"), router.acquire("n")]
        waits = [asyncio.create_task(router.acquire_async(name)) for name in ("m", "m", "n", "n")]
        await until(lambda: router.metrics().waiting == 4)
        with pytest.raises(TooManyWaiters, match="2 wait for it, and max_waiters allows no more") as caught:
            await router.acquire_async("m", priority=-1)
        assert caught.value.reasons == {"max_parallel_requests": 1}
        with pytest.raises(TooManyWaiters):
            router.acquire("n", timeout=LONG)
        with pytest.raises(NoAvailableDeployment) as refused:
            router.acquire("m")
        assert type(refused.value) is NoAvailableDeployment
        for lease in leases:
            lease.release()
        for wait in waits:
            (await wait).release()

    asyncio.run(main())
    assert_nothing_left(router)


def test_a_bound_of_none_sheds_all_that_would_wait() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)], waiting=Waiting(max_waiters=0))
    with router.acquire("m", timeout=LONG), pytest.raises(TooManyWaiters):
        router.acquire("m", timeout=LONG)


@pytest.mark.parametrize("bad", [-1, 2**32])
def test_a_bound_out_of_range_is_refused(bad: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"max_waiters must be an int from 0 to 4294967295, not {bad} \(int\)"):
        Waiting(max_waiters=bad)


@pytest.mark.parametrize("bad", [None, 1.0, "5"])
def test_a_bound_of_another_type_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="max_waiters must be an int"):
        Waiting(max_waiters=bad)


def test_a_bound_is_plain_data() -> None:
    assert Waiting() == Waiting(max_waiters=10_000) == pickle.loads(pickle.dumps(Waiting()))
    with pytest.raises(AttributeError):
        Waiting().max_waiters = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match="waiting must be a Waiting or None, not 5"):
        Router(waiting=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["acquire", "acquire_async"])
@pytest.mark.parametrize(
    ("argument", "bad", "expected"),
    [
        ("timeout", -0.1, ConfigurationError),
        ("timeout", float("nan"), ConfigurationError),
        ("timeout", float("inf"), ConfigurationError),
        ("timeout", "5", TypeError),
        ("priority", 2**31, ConfigurationError),
        ("priority", -(2**31) - 1, ConfigurationError),
        ("priority", 1.5, TypeError),
    ],
)
def test_bad_values_are_refused(call: str, argument: str, bad: Any, expected: type[Exception], router: Router) -> None:
    with pytest.raises(expected, match=argument):
        getattr(router, call)("m", **{argument: bad})


# --- nothing stays ---


def test_cancelled_tasks_leave_nothing(run: Any, router: Router) -> None:
    scopes: list[anyio.CancelScope] = []

    async def ask() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            (await router.acquire_async("m")).release()

    async def work() -> None:
        lease = router.acquire("m")
        async with anyio.create_task_group() as tasks:
            for _ in range(1_000):
                tasks.start_soon(ask)
            await until(lambda: router.waiting("m") == 1_000)
            lease.release()
            for scope in scopes:
                scope.cancel()

    run(work)
    assert_nothing_left(router)


def test_a_lease_given_to_a_cancelled_task_goes_to_the_next(clock: ManualClock) -> None:
    router = Router([Deployment("a", "m", rpm_limit=1, tpm_limit=10)], clock=clock)

    async def main() -> None:
        router.record_success("a")
        first = asyncio.create_task(router.acquire_async("m", tokens=7))
        await until(lambda: router.waiting("m") == 1)
        second = asyncio.create_task(router.acquire_async("m", tokens=6))
        await until(lambda: router.waiting("m") == 2)
        clock.advance(60.0)
        # Serves the first, which has not run since.
        with pytest.raises(RateLimitExceeded):
            router.acquire("m")
        assert router.stats("a").tpm_current == 7
        first.cancel()
        with await second:
            stats = router.stats("a")
            assert (stats.in_flight, stats.rpm_current, stats.tpm_current, stats.total_requests) == (1, 1, 6, 2)

    asyncio.run(main())
    assert_nothing_left(router)


def test_asyncio_timeouts_leave_nothing(router: Router) -> None:
    async def main() -> None:
        with router.acquire("m"):
            for _ in range(20):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(router.acquire_async("m"), 0.001)
                assert router.waiting("m") == 0

    asyncio.run(main())
    assert_nothing_left(router)


def test_what_is_never_awaited_leaves_nothing(router: Router) -> None:
    coroutine = router.acquire_async("m")
    assert router.metrics().in_flight == 0
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del coroutine
    with router.acquire("m"):
        assert router.waiting("m") == 0


def test_a_task_that_is_collected_leaves_nothing(router: Router) -> None:
    lease = router.acquire("m")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it says that a task was destroyed

    async def ask() -> None:
        await router.acquire_async("m")

    task = loop.create_task(ask())
    loop.run_until_complete(asyncio.sleep(0))
    assert router.waiting("m") == 1
    del task
    gc.collect()
    assert router.waiting("m") == 0
    loop.close()
    lease.release()
    assert_nothing_left(router)


def test_a_loop_that_has_ended_holds_up_nobody(router: Router) -> None:
    lease = router.acquire("m")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(router.acquire_async("m"))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    got: list[Lease] = []
    thread = threading.Thread(target=lambda: got.append(router.acquire("m", timeout=LONG)))
    thread.start()
    until_then(lambda: router.waiting("m") == 2)
    lease.release()
    thread.join()
    got.pop().release()
    assert not task.done()
    del task
    gc.collect()
    assert_nothing_left(router)


class Token:
    """Something that a weak reference can watch."""


def test_a_router_dropped_while_tasks_wait_serves_them_and_goes() -> None:
    token = Token()
    watch = weakref.ref(token)
    router = Router([Deployment("a", "m", max_parallel_requests=1, metadata={"token": token})])

    async def main(router: Router) -> None:
        lease = router.acquire("m")
        waits = [asyncio.create_task(router.acquire_async("m")) for _ in range(3)]
        await asyncio.sleep(0)
        assert router.waiting("m") == 3
        del router
        gc.collect()
        lease.release()
        for wait in waits:
            (await wait).release()

    running = main(router)
    del router, token
    asyncio.run(running)
    del running
    gc.collect()
    assert watch() is None


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process there, whatever the signal")
def test_ctrl_c_ends_waiting_and_leaves_nothing() -> None:
    script = """
import os, signal, threading, time, turnout
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
router = turnout.Router([turnout.Deployment("a", "m", max_parallel_requests=1)])
lease = router.acquire("m")
def interrupt():
    while router.waiting("m") == 0: time.sleep(0.001)
    time.sleep(0.1)  # a signal on the way into a lock's wait does not end it: Python looks before
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    router.acquire("m", timeout=None)
except KeyboardInterrupt:
    lease.release()
    print(router.metrics().in_flight, router.metrics().waiting)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0 0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_none_of_its_parents_waiters() -> None:
    script = """
import os, threading, time, turnout
router = turnout.Router([turnout.Deployment("a", "m", max_parallel_requests=1)])
lease = router.acquire("m")
thread = threading.Thread(target=lambda: router.acquire("m", timeout=60).release())
thread.start()
while router.waiting("m") == 0: time.sleep(0.001)
child = os.fork()
if child == 0:
    ok = router.waiting("m") == 0
    lease.release()
    router.acquire("m").release()
    router.acquire("m", timeout=60).release()
    os._exit(0 if ok and router.metrics().waiting == 0 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert router.waiting("m") == 1
lease.release()
thread.join()
assert router.metrics().in_flight == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_nothing_is_lost_among_many_threads() -> None:
    router = Router(
        [Deployment("a", "m", max_parallel_requests=2, tags=["x"]), Deployment("b", "m", max_parallel_requests=1)],
    )
    served = []

    def ask(i: int) -> None:
        for _ in range(200):
            with router.acquire("m", timeout=None, tags=["x"] if i % 3 == 0 else None, priority=i % 2):
                served.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(served) == 1_600
    assert_nothing_left(router)


def test_importing_looks_for_no_loop() -> None:
    script = "import sys, turnout; print([name for name in ('trio', 'sniffio', 'anyio') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_who_waits_tells_events_without_holding_anything() -> None:
    """A callback may use the router, also if what happened was found by one who looks for a place."""
    clock = ManualClock(1.0)
    deployments = [Deployment(name, "m", max_parallel_requests=1) for name in ("a", "b")]
    router = Router(deployments, health=Health(panic_threshold=0.6), clock=clock)
    first, second = router.acquire("m"), router.acquire("m")
    router.cool_down(first.deployment_id, 10.0)
    told: list[tuple[str, int]] = []
    router.subscribe(lambda event: told.append((event.kind, router.waiting("m"))))
    done: list[bool] = []
    waiting = threading.Thread(target=lambda: done.append(router.acquire("m", timeout=LONG).release()), daemon=True)
    waiting.start()
    until_then(lambda: router.waiting("m") == 1)
    clock.advance(10.0)
    first.release()
    until_then(lambda: done == [True])
    second.release()
    assert ("panic_over", 0) in told or ("panic_over", 1) in told
    assert_nothing_left(router)


def test_a_panic_that_an_outage_elsewhere_begins_wakes_those_who_wait() -> None:
    deployments = [
        Deployment(name, "m", max_parallel_requests=1, domain=domain)
        for name, domain in zip("abcd", (None, None, "z", None), strict=True)
    ]
    deployments += [Deployment(name, "other", domain="z") for name in ("y", "z")]
    router = Router(deployments, health=Health(panic_threshold=0.5), clock=ManualClock(1.0))
    router.cool_down("a", LONG)
    router.cool_down("b", LONG)
    held = [router.acquire("m"), router.acquire("m")]
    done: list[bool] = []
    waiting = threading.Thread(target=lambda: done.append(router.acquire("m", timeout=LONG).release()), daemon=True)
    waiting.start()
    until_then(lambda: router.waiting("m") == 1)
    for name in ("y", "z", "y"):
        router.record_failure(name, "connection")
    until_then(lambda: done == [True])
    assert router.metrics().panicking == ("m",)
    for lease in held:
        lease.release()
    assert_nothing_left(router)


def test_a_waiting_call_has_the_name_that_was_called(router: Router) -> None:
    waiting = router.acquire_async("m")
    assert repr(waiting).startswith("<coroutine object Router.acquire_async at ")
    waiting.close()
    assert_nothing_left(router)


def test_a_panic_that_one_who_is_served_begins_lets_those_before_try_again() -> None:
    """To serve one may take the place of a probation, and that was the last straw."""
    deployments = [Deployment(name, "m", max_parallel_requests=1) for name in "abc"]
    router = Router(deployments, health=Health(panic_threshold=0.6), clock=ManualClock(1.0))
    held = {name: router.acquire("m", exclude=set("abc") - {name}) for name in "abc"}
    router.report_health("b", False)
    router.report_health("b", True)
    router.cool_down("a", LONG)
    held.pop("a").release()
    assert router.metrics().panicking == ()

    async def main() -> None:
        without_b = asyncio.create_task(router.acquire_async("m", exclude={"b"}))
        anywhere = asyncio.create_task(router.acquire_async("m"))
        await until(lambda: router.waiting("m") == 2)
        held.pop("b").release()
        for lease in await asyncio.gather(without_b, anywhere):
            lease.release()

    asyncio.run(asyncio.wait_for(main(), 20))
    held.pop("c").release()
    assert_nothing_left(router)


# --- classes and quotas ---


def test_an_id_that_no_deployment_has_does_not_overtake() -> None:
    clock = ManualClock(0.0)
    router = Router([Deployment("a", "m", limits=[Limit(tokens=1000, per=1.0, kind="bucket")])], clock=clock)
    router.acquire("m", tokens=1000).success()

    async def main() -> None:
        large = asyncio.create_task(router.acquire_async("m", tokens=900))
        await asyncio.sleep(0)
        for _ in range(8):
            clock.advance(0.1)
            with pytest.raises(NoAvailableDeployment):
                router.acquire("m", tokens=50, exclude={"nobody"})
        clock.advance(0.1)
        (await asyncio.wait_for(large, LONG)).release()

    asyncio.run(main())
    assert_nothing_left(router)


def test_an_id_that_is_registered_later_makes_a_class_of_its_own() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)])

    async def main() -> None:
        lease = router.acquire("m")
        without = asyncio.create_task(router.acquire_async("m", exclude={"late"}))
        await asyncio.sleep(0)
        other = asyncio.create_task(router.acquire_async("m"))
        await asyncio.sleep(0)
        assert router.waiting("m") == 2
        router.add_deployment(Deployment("late", "m", max_parallel_requests=1))
        late = await asyncio.wait_for(other, LONG)
        assert late.deployment_id == "late"
        assert not without.done()
        late.release()
        await asyncio.sleep(0.01)
        assert not without.done()
        lease.release()
        (await asyncio.wait_for(without, LONG)).release()

    asyncio.run(main())
    assert_nothing_left(router)


def test_a_release_wakes_those_of_other_groups_only_if_a_quota_stops_them(monkeypatch: pytest.MonkeyPatch) -> None:
    quota = Quota("q", Limit(requests=3, per=60.0))
    router = Router(
        [Deployment(name, name, max_parallel_requests=1, quotas=[quota]) for name in ("one", "two")], clock=ManualClock(0.0)
    )

    async def main(polls: list[None]) -> None:
        one, two = router.acquire("one"), router.acquire("two")
        waits = asyncio.create_task(router.acquire_async("two"))
        await asyncio.sleep(0)
        polls.clear()
        one.release(unused=True)
        await asyncio.sleep(0.01)
        assert polls == [], "its own place is taken, and the quota has room"
        spent = [router.acquire("one")]
        spent[0].success()
        spent.append(router.acquire("one"))
        two.success()  # three requests of three
        await asyncio.sleep(0.01)
        assert not waits.done()
        polls.clear()
        spent[1].release(unused=True)
        (await asyncio.wait_for(waits, LONG)).release()

    with counting_polls(monkeypatch) as polls:
        asyncio.run(main(polls))
    assert_nothing_left(router)
