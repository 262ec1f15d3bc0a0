"""`acquire_async` where there is room: it is a coroutine, costs no turn of the loop, and overtakes nobody."""

import asyncio
import inspect
import sys
import threading
import time
import types
from collections.abc import Coroutine
from typing import Any

import anyio
import pytest
import trio
from turnout import (
    ConfigurationError,
    Deployment,
    Event,
    Health,
    Lease,
    ManualClock,
    ModelNotFound,
    NoAvailableDeployment,
    RequestTooLarge,
    Router,
    WaitTimeout,
)

LONG = 60.0


@pytest.fixture
def router() -> Router:
    return Router([Deployment("a", "m", max_parallel_requests=3, tpm_limit=100)])


def minute(clock: ManualClock, *tags: str) -> Router:
    """A router with one request a minute, which is spent."""
    router = Router([Deployment("a", "m", rpm_limit=1, tags=tags), Deployment("b", "other")], clock=clock)
    router.record_success("a")
    return router


def at_once(call: Coroutine[Any, Any, Lease]) -> Lease | None:
    """Takes one step. Returns the lease, or None if the call has to wait."""
    try:
        call.send(None)
    except StopIteration as stop:
        lease: Lease = stop.value
        return lease
    return None


def goes_at_once(call: Coroutine[Any, Any, Lease]) -> bool:
    """Takes one step and no more. Returns whether the call did not have to wait."""
    lease = at_once(call)
    call.close()
    return lease is not None and lease.release()


def idle(router: Router) -> bool:
    metrics = router.metrics()
    return (metrics.in_flight, metrics.waiting) == (0, 0)


# --- a coroutine ---


def test_a_call_is_a_coroutine(router: Router) -> None:
    call = router.acquire_async("m")
    assert inspect.iscoroutine(call)
    assert inspect.isawaitable(call)
    assert asyncio.iscoroutine(call)
    assert type(call) is types.CoroutineType
    assert call.__qualname__ == "Router.acquire_async"
    assert inspect.getcoroutinestate(call) == inspect.CORO_CREATED
    assert router.metrics().in_flight == 0
    call.close()
    assert idle(router)


def test_asyncio_takes_it(router: Router) -> None:
    async def main() -> None:
        leases = [
            await router.acquire_async("m"),
            await asyncio.create_task(router.acquire_async("m"), name="named"),
            await asyncio.wait_for(router.acquire_async("m"), LONG),
        ]
        assert router.metrics().in_flight == 3
        for lease in leases:
            lease.release()
        for lease in await asyncio.gather(router.acquire_async("m"), asyncio.ensure_future(router.acquire_async("m"))):
            lease.release()
        async with await router.acquire_async("m") as lease:
            assert lease.deployment_id == "a"
        with await router.acquire_async("m", tokens=5) as lease:
            assert lease.tokens == 5

    asyncio.run(main())
    assert asyncio.run(router.acquire_async("m")).release()
    assert idle(router)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="task groups are new in 3.11")
def test_a_task_group_of_asyncio_takes_it(router: Router) -> None:
    async def main() -> None:
        group: Any = asyncio.TaskGroup  # type: ignore[attr-defined, unused-ignore]
        async with group() as tasks:
            task = tasks.create_task(router.acquire_async("m"))
        task.result().release()

    asyncio.run(main())
    assert idle(router)


def test_trio_takes_it(router: Router) -> None:
    async def main() -> None:
        (await router.acquire_async("m")).release()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.acquire_async, "m")

    # The nursery drops what a task returns.
    with pytest.warns(ResourceWarning, match="lost without release"):
        trio.run(main)
    trio.run(router.acquire_async, "m").release()
    assert idle(router)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_takes_it(backend: str, router: Router) -> None:
    leases: list[Lease] = []

    async def ask() -> None:
        leases.append(await router.acquire_async("m"))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)

    anyio.run(main, backend=backend)
    assert len(leases) == 3
    for lease in leases:
        lease.release()
    anyio.run(router.acquire_async, "m", backend=backend).release()
    assert idle(router)


def test_what_is_there_is_taken_when_it_is_awaited_and_needs_no_turn_of_a_loop(router: Router) -> None:
    call = router.acquire_async("m", tokens=7, timeout=0.0)
    assert router.stats("a").tpm_current == 0
    lease = at_once(call)
    assert lease is not None
    assert (lease.tokens, router.stats("a").tpm_current) == (7, 7)
    lease.release()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        call.send(None)
    assert idle(router)


def test_what_is_dropped_or_cancelled_before_its_first_step_takes_nothing(router: Router) -> None:
    call = router.acquire_async("m")
    with pytest.warns(RuntimeWarning, match=r"Router\.acquire_async' was never awaited"):
        del call

    async def main() -> None:
        task = asyncio.create_task(router.acquire_async("m"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert idle(router)
    assert router.stats("a").total_requests == 0


# --- nobody is overtaken ---


@pytest.mark.parametrize(
    ("waits", "comes", "is_first"), [(0, 0, True), (0, 5, True), (0, -1, False), (3, 2, False), (-2, -2, True)]
)
def test_a_task_that_waits_is_overtaken_by_a_better_priority_only(
    waits: int, comes: int, is_first: bool, clock: ManualClock
) -> None:
    """There is room, and the one that waits has not run since."""
    router = minute(clock)
    served: list[str] = []

    async def ask(name: str, priority: int) -> None:
        async with await router.acquire_async("m", priority=priority):
            served.append(name)

    async def main() -> None:
        tasks = [asyncio.create_task(ask("waits", waits))]
        await asyncio.sleep(0)
        assert router.waiting("m") == 1
        clock.advance(60.0)
        # Begun before the loop lets the other one look.
        tasks.append(asyncio.create_task(ask("comes", comes)))
        while not served:
            await asyncio.sleep(0)
        assert served == ["waits" if is_first else "comes"]
        clock.advance(60.0)
        await asyncio.gather(*tasks)

    async def directly() -> None:
        """The same in one step of a task, so that no other task runs in between."""
        task = asyncio.create_task(router.acquire_async("m", priority=waits))
        await asyncio.sleep(0)
        clock.advance(60.0)
        assert goes_at_once(router.acquire_async("m", priority=comes)) != is_first
        clock.advance(60.0)
        (await task).release()

    asyncio.run(main())
    assert sorted(served) == ["comes", "waits"]
    clock.advance(60.0)
    router.record_success("a")
    asyncio.run(directly())
    assert idle(router)


def test_a_thread_that_waits_is_not_overtaken(clock: ManualClock) -> None:
    router = minute(clock)
    served: list[str] = []
    may_end = threading.Event()

    def ask() -> None:
        with router.acquire("m", timeout=None):
            served.append("thread")
            may_end.wait(LONG)

    async def main() -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        while router.waiting("m") == 0:
            time.sleep(0.001)
        clock.advance(60.0)  # wakes the thread, which may look before or after the next call
        with pytest.raises(NoAvailableDeployment):
            await router.acquire_async("m", timeout=0)
        may_end.set()
        clock.advance(60.0)
        thread.join()
        (await router.acquire_async("m", timeout=0)).release()

    asyncio.run(main())
    assert served == ["thread"]
    assert idle(router)


def test_tasks_and_calls_without_a_wait_stand_in_one_line(clock: ManualClock) -> None:
    """As `acquire` does not overtake a task, `acquire_async` without time to wait does not."""
    router = minute(clock)

    async def main() -> None:
        task = asyncio.create_task(router.acquire_async("m"))
        await asyncio.sleep(0)
        clock.advance(60.0)
        for priority in (0, 1):
            with pytest.raises(NoAvailableDeployment):
                await router.acquire_async("m", timeout=0, priority=priority)
        with pytest.raises(NoAvailableDeployment):
            router.acquire("m")
        (await task).release()

    asyncio.run(main())
    assert idle(router)


def test_a_large_request_that_waits_is_not_overtaken_by_a_small_one_that_fits(clock: ManualClock) -> None:
    router = Router([Deployment("a", "m", tpm_limit=100, tags=["x"])], clock=clock)

    async def main() -> None:
        router.record_success("a", tokens=50)
        large = asyncio.create_task(router.acquire_async("m", tokens=80))
        await asyncio.sleep(0)
        assert not goes_at_once(router.acquire_async("m", tokens=1))
        # Others may use what it cannot: those of another class, and those before it.
        assert goes_at_once(router.acquire_async("m", tokens=1, tags=["x"]))
        assert goes_at_once(router.acquire_async("m", tokens=1, priority=-1))
        assert router.waiting("m") == 1
        clock.advance(60.0)
        (await large).release()

    asyncio.run(main())
    assert idle(router)


def test_those_who_wait_for_another_model_hold_up_nobody(clock: ManualClock) -> None:
    router = minute(clock)
    router.add_alias("alias", "other")

    async def main() -> None:
        task = asyncio.create_task(router.acquire_async("m"))
        await asyncio.sleep(0)
        for name in ("other", "alias"):
            assert goes_at_once(router.acquire_async(name))
        task.cancel()

    asyncio.run(main())
    assert idle(router)


# --- errors, interruptions, subclasses ---

ASKED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "another model": (ModelNotFound, "n", {}),
    "too large": (RequestTooLarge, "m", {"tokens": 101}),
    "tags": (NoAvailableDeployment, "m", {"tags": ["y"]}),
    "exclude": (NoAvailableDeployment, "m", {"exclude": ["a"]}),
    "tokens": (ConfigurationError, "m", {"tokens": -1}),
    "tokens of another type": (TypeError, "m", {"tokens": "5"}),
    "a part of the tokens": (ConfigurationError, "m", {"input_tokens": 5}),
    "how tags match": (ConfigurationError, "m", {"tags_match": "some"}),
    "timeout": (ConfigurationError, "m", {"timeout": -1.0}),
    "priority": (TypeError, "m", {"priority": 1.5}),
    "another keyword": (TypeError, "m", {"token": 5}),
    "another model name": (TypeError, 5, {}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", ASKED)
def test_errors_are_those_of_acquire(name: str, router: Router) -> None:
    expected, model_name, asked = ASKED[name]
    with pytest.raises(expected) as of_acquire:
        router.acquire(model_name, **asked)

    async def main() -> None:
        await router.acquire_async(model_name, **asked)

    with pytest.raises(expected) as caught:
        asyncio.run(main())
    assert type(caught.value) is type(of_acquire.value)
    assert str(caught.value).replace("acquire_async", "acquire") == str(of_acquire.value)
    assert idle(router)


def test_no_room_without_time_is_no_timeout(router: Router) -> None:
    leases = [router.acquire("m") for _ in range(3)]
    with pytest.raises(NoAvailableDeployment) as refused:
        asyncio.run(router.acquire_async("m", timeout=0))
    with pytest.raises(WaitTimeout) as late:
        asyncio.run(router.acquire_async("m", timeout=0.001))
    assert type(refused.value) is NoAvailableDeployment
    assert refused.value.reasons == late.value.reasons == {"max_parallel_requests": 1}
    for lease in leases:
        lease.release()
    assert idle(router)


def test_a_model_that_goes_between_the_call_and_its_first_step_is_told(router: Router) -> None:
    call = router.acquire_async("m")
    router.remove_deployment("a")
    with pytest.raises(ModelNotFound):
        asyncio.run(call)


def test_an_interruption_right_after_the_pick_leaves_nothing(router: Router) -> None:
    """As a signal's handler may raise it, between two steps of the coroutine."""

    def interrupt(frame: types.FrameType, event: str, what: Any) -> None:
        if event == "c_return" and getattr(what, "__name__", "") == "acquire_at_once":
            sys.setprofile(None)
            raise KeyboardInterrupt

    def step(call: Coroutine[Any, Any, Lease]) -> None:
        sys.setprofile(interrupt)
        try:
            call.send(None)
        finally:
            sys.setprofile(None)

    with (
        pytest.warns(ResourceWarning, match="lost without release"),
        pytest.raises(KeyboardInterrupt) as interrupted,
    ):
        step(router.acquire_async("m"))
    # The traceback has the frame of the coroutine, which does not keep the lease.
    assert "wait_async" in [entry.name for entry in interrupted.traceback]
    assert idle(router)
    assert router.stats("a").total_requests == 1


def test_an_interruption_in_a_callback_of_the_pick_gives_the_lease_back() -> None:
    """To take the place of a probation makes the group panic, which the callback is told."""
    router = Router([Deployment(name, "m") for name in "abc"], health=Health(panic_threshold=0.6), clock=ManualClock(1.0))
    router.report_health("b", False)
    router.report_health("b", True)
    router.cool_down("a", LONG)

    def callback(event: Event) -> None:
        told.append(event.kind)
        if len(told) == 1:
            raise KeyboardInterrupt

    told: list[str] = []
    router.subscribe(callback)
    with pytest.raises(KeyboardInterrupt):
        router.acquire_async("m", exclude={"a", "c"}).send(None)
    assert told == ["panic", "panic_over"]
    assert idle(router)
    assert router.stats("b").total_requests == 0


def test_a_subclass_may_have_methods_of_its_own(router: Router) -> None:
    class Loud(Router):
        def acquire(self, model_name: str, /, **asked: Any) -> Lease:
            raise AssertionError("acquire_async does not call it")

    class Own(Router):
        async def acquire_async(self, model_name: str, /, **asked: Any) -> Lease:
            lease = await super().acquire_async(model_name, **asked)
            own.append(lease.deployment_id)
            return lease

    own: list[str] = []
    for kind in (Loud, Own):
        asyncio.run(kind([Deployment("a", "m")]).acquire_async("m", tokens=5)).release()
    assert own == ["a"]
