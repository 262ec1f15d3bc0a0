"""A large request that waits is not starved: by smaller ones of its group, by a place that is taken at each
of its looks, by a quota that others drain. And a lease that nobody collects is not kept.
"""

import asyncio
import contextlib
import time
from typing import Any

import pytest
from turnout import Deployment, Limit, ManualClock, NoAvailableDeployment, Quota, Router, Waiting


def bucket(tokens: int = 1000, per: float = 1.0) -> Limit:
    return Limit(tokens=tokens, per=per, kind="bucket")


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("other", [False, True], ids=["same model name", "another model name"])
def test_a_quota_is_reserved_for_a_large_request(other: bool) -> None:
    clock = ManualClock()
    quota = Quota("account", bucket())
    router = Router([Deployment("d1", "m", quotas=[quota]), Deployment("d2", "n" if other else "m", quotas=[quota])], clock=clock)

    async def main() -> float:
        router.acquire("m", tokens=1000).success()
        large = asyncio.create_task(router.acquire_async("m", tokens=900))
        await turns()
        for _ in range(100):
            clock.advance(0.1)
            await turns()
            if large.done():
                large.result().success()
                return clock.now()
            try:
                router.acquire("n" if other else "m", tokens=100, exclude=None if other else {"d1"}).success()
            except NoAvailableDeployment as refused:
                assert refused.reasons  # noqa: PT017 - any is right
        large.cancel()
        raise AssertionError("starved")

    # A second of patience, and nine tenths of one for the tokens.
    assert asyncio.run(main()) <= 2.5


def test_those_who_waited_for_a_reserved_quota_get_it_afterwards() -> None:
    clock = ManualClock()
    quota = Quota("account", bucket())
    router = Router([Deployment("d1", "m", quotas=[quota]), Deployment("d2", "n", quotas=[quota])], clock=clock)

    async def main() -> None:
        router.acquire("m", tokens=1000).success()
        large = asyncio.create_task(router.acquire_async("m", tokens=900))
        await turns()
        clock.advance(1.5)
        await turns()
        if not large.done():
            small = asyncio.create_task(router.acquire_async("n", tokens=100))
            await turns()
            large.cancel()
            await turns(10)
            (await small).success()
        else:
            large.result().success()

    asyncio.run(main())
    assert router.metrics().waiting == router.metrics().in_flight == 0


def test_patience_begins_although_a_place_is_taken_at_each_look() -> None:
    limits = [bucket()]
    clock = ManualClock()
    router = Router([Deployment("d", "m", max_parallel_requests=1, limits=limits), Deployment("x", "m")], clock=clock)
    router.cool_down("x", 1e5)

    async def main() -> float:
        router.acquire("m", tokens=1000).success()
        clock.advance(0.3)
        lease: Any = router.acquire("m", tokens=100, exclude={"x"})
        large = asyncio.create_task(router.acquire_async("m", tokens=900))
        for _ in range(100):
            clock.advance(0.1)
            await turns()
            if large.done():
                large.result().success()
                return clock.now()
            if lease is not None:
                lease.success()
                lease = None
                await turns()
            with contextlib.suppress(NoAvailableDeployment):
                lease = router.acquire("m", tokens=100, exclude={"x"})
        large.cancel()
        raise AssertionError("starved")

    assert asyncio.run(main()) < 4.0


def test_the_rest_of_a_fixed_window_is_not_kept_idle() -> None:
    """All of a fixed window comes at once: to leave its rest to a large request brings that nowhere."""
    clock = ManualClock()
    router = Router([Deployment("d", "m", limits=[Limit(tokens=1000, per=3600.0)]), Deployment("x", "m")], clock=clock)
    router.cool_down("x", 1e6)

    async def main() -> int:
        router.acquire("m", tokens=200).success()
        large = asyncio.create_task(router.acquire_async("m", tokens=900))
        await turns()
        clock.advance(2.0)
        served = 0
        for _ in range(20):
            await turns()
            try:
                router.acquire("m", tokens=100, exclude={"x"}).success()
                served += 100
            except NoAvailableDeployment:
                pass
            clock.advance(1.0)
        clock.set(3601.0)
        await turns(5)
        assert large.done()
        large.result().success()
        return served

    assert asyncio.run(main()) == 800


def test_a_refusal_because_of_a_reservation_names_a_time() -> None:
    clock = ManualClock()
    router = Router([Deployment("d", "m", limits=[bucket()]), Deployment("x", "m")], clock=clock)
    router.cool_down("x", 1e6)

    async def main() -> None:
        router.acquire("m", tokens=1000).success()
        large = asyncio.create_task(router.acquire_async("m", tokens=1000))
        await turns()
        clock.advance(0.5)
        await turns()
        clock.advance(0.501)
        await turns()
        if not large.done():
            with pytest.raises(NoAvailableDeployment) as refused:
                router.acquire("m", tokens=100, exclude={"x"})
            assert refused.value.retry_after is not None
        large.cancel()
        await turns()
        if large.done() and not large.cancelled():
            large.result().success()

    asyncio.run(main())


def test_a_lease_that_a_loop_does_not_collect_is_given_to_a_call_that_does_not_wait() -> None:
    router = Router([Deployment("d", "m", max_parallel_requests=1)])
    lease = router.acquire("m")
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(router.acquire_async("m"))
        loop.run_until_complete(asyncio.sleep(0.01))
        lease.release()  # from now on the loop stands still
        served = []
        for _ in range(40):
            try:
                with router.acquire("m") as lease:
                    served.append(lease)
                break
            except NoAvailableDeployment:
                time.sleep(0.1)
        assert served
        loop.run_until_complete(task)
        task.result().release()
    finally:
        loop.close()
    assert router.metrics().in_flight == router.metrics().waiting == 0


@pytest.mark.parametrize("share", [False, True], ids=["buckets", "a quota"])
def test_a_release_serves_although_many_have_no_more_patience(share: bool) -> None:
    """300 classes and 1,000 members. What it costs is measured by benches/lines.py."""
    quota = Quota("account", bucket(1000, 6000.0))

    def deployment(nth: int) -> Deployment:
        limits: dict[str, Any] = {"quotas": [quota]} if share else {"limits": [bucket(1000, 6000.0)]}
        return Deployment(f"d{nth}", "m", **limits)

    router = Router([deployment(nth) for nth in range(1000)], waiting=Waiting(patience=0.2))
    got: list[Any] = []

    async def main() -> None:
        held = [router.acquire("m", tokens=1000) for _ in range(1 if share else 1000)]

        async def ask(nth: int) -> None:
            got.append(await router.acquire_async("m", tokens=900, exclude={f"d{nth}"}))

        tasks = [asyncio.create_task(ask(nth)) for nth in range(300)]
        await asyncio.sleep(0.5)
        for nth in range(8):
            (got if share and got else held).pop().release(unused=True)
            while len(got) < (1 if share else nth + 1):
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lease in held + got:
            lease.release(unused=True)

    asyncio.run(main())
    assert router.metrics().waiting == router.metrics().in_flight == 0
