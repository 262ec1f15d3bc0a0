"""Who is served before whom among calls with different wishes and sizes, and what a call may reserve."""

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any

import pytest
from turnout import Deployment, Lease, Limit, ManualClock, NoAvailableDeployment, Quota, Router, Strategy, Waiting


async def settle() -> None:
    """Let all tasks run as far as they get."""
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Calls that wait for the model ``m``, by their names."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.tasks: dict[str, asyncio.Task[Lease]] = {}

    async def join(self, name: str, **wishes: Any) -> None:
        call: Coroutine[Any, Any, Lease] = self.router.acquire_async("m", **wishes)
        self.tasks[name] = asyncio.create_task(call)
        await settle()

    async def served(self) -> list[str]:
        """Let waiters look. Return those that have a lease, and take them off."""
        await settle()
        done = [name for name, task in self.tasks.items() if task.done()]
        for name in done:
            self.tasks.pop(name).result().release()
        return done

    async def leave(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def bucket(clock: ManualClock, n: int = 1, **options: Any) -> Router:
    limit = Limit(tokens=1000, per=1.0, kind="bucket")
    return Router([Deployment(name, "m", limits=[limit]) for name in "abc"[:n]], clock=clock, strategy="priority_based", **options)


def drain(router: Router) -> None:
    while True:
        try:
            router.acquire("m", tokens=100).success()
        except NoAvailableDeployment:
            return


# --- reservations ---


@pytest.mark.parametrize("exclude", [None, {"nobody"}, {"gone"}])
def test_who_lacks_tokens_for_longer_than_its_patience_reserves_them(exclude: set[str] | None) -> None:
    async def main() -> None:
        clock = ManualClock(1.7e9)
        router = bucket(clock, waiting=Waiting(patience=2.0))
        router.add_deployment(Deployment("gone", "m", limits=[Limit(tokens=1, per=1e6)]))
        drain(router)
        crowd = Crowd(router)
        await crowd.join("large", tokens=900, priority=-1)
        taken = 0
        while not await crowd.served():
            clock.advance(0.1)
            await settle()
            if clock.now() < 1.7e9 + 2.0 and exclude == {"gone"}:
                router.acquire("m", tokens=100, exclude=exclude).success()
                taken += 1
            elif not crowd.tasks["large"].done():
                with pytest.raises(NoAvailableDeployment, match="stopped by limit"):
                    router.acquire("m", tokens=100, exclude=exclude)
        # Nine tenths of a second fill the bucket once nobody else takes from it.
        assert clock.now() - 1.7e9 <= 2.0 + 0.9 + 0.2
        assert (taken > 0) == (exclude == {"gone"})

    asyncio.run(main())


def test_better_priorities_take_what_others_have_reserved() -> None:
    async def main() -> None:
        clock = ManualClock(1.7e9)
        router = bucket(clock, 2, waiting=Waiting(patience=0.0))
        drain(router)
        crowd = Crowd(router)
        await crowd.join("large", tokens=900, priority=5, exclude={"b"})
        clock.advance(0.5)
        for priority, is_served in [(4, True), (5, False), (6, False), (-1, True)]:
            try:
                router.acquire("m", tokens=100, priority=priority, tags=[], exclude={"b", "c"}).success()
                assert is_served, priority
            except NoAvailableDeployment:
                assert not is_served, priority
        await crowd.leave()

    asyncio.run(main())


def test_only_one_deployment_is_reserved() -> None:
    async def main() -> None:
        clock = ManualClock(1.7e9)
        router = bucket(clock, 3, waiting=Waiting(patience=0.0))
        drain(router)
        crowd = Crowd(router)
        await crowd.join("large", tokens=900)
        clock.advance(0.5)
        with router.acquire("m", tokens=100, exclude={"c"}) as lease:
            assert lease.deployment_id == "b"
        with pytest.raises(NoAvailableDeployment) as refused:
            router.acquire("m", tokens=100, exclude={"b", "c"})
        assert refused.value.reasons == {"excluded": 2, "limit": 1}
        await crowd.leave()
        assert router.acquire("m", tokens=100, exclude={"b", "c"}).release()

    asyncio.run(main())


def test_when_it_gives_up_others_are_served() -> None:
    async def main() -> None:
        clock = ManualClock(1.7e9)
        router = bucket(clock, 2, waiting=Waiting(patience=0.0))
        drain(router)
        crowd = Crowd(router)
        await crowd.join("large", tokens=900, exclude={"b"})
        await crowd.join("small", tokens=100, exclude={"b", "c"})
        clock.advance(0.5)
        assert await crowd.served() == []
        crowd.tasks.pop("large").cancel()
        await settle()
        clock.advance(0.0)
        assert await crowd.served() == ["small"]

    asyncio.run(main())


def test_places_are_not_reserved() -> None:
    async def main() -> None:
        router = Router(
            [Deployment(name, "m", max_parallel_requests=1, tags=[name]) for name in "ab"],
            clock=(clock := ManualClock(1.7e9)),
            waiting=Waiting(patience=0.0),
        )
        crowd, held = Crowd(router), router.acquire("m", tags=["a"])
        await crowd.join("first", tags=["a"])
        clock.advance(10.0)
        router.acquire("m").release()
        held.release()
        assert await crowd.served() == ["first"]

    asyncio.run(main())


@pytest.mark.parametrize("patience", [-1.0, float("nan"), float("inf"), 1e30])
def test_patience_is_a_time(patience: float) -> None:
    with pytest.raises(ValueError, match="patience must be"):
        Waiting(patience=patience)


# --- what a release tries ---


@pytest.mark.parametrize("strategy", [Strategy.ROUND_ROBIN, Strategy.LEAST_BUSY])
def test_a_release_serves_the_first_that_can_use_it(strategy: Strategy) -> None:
    async def main() -> None:
        router = Router([Deployment(name, "m", max_parallel_requests=1) for name in "abc"], strategy=strategy)
        held = {lease.deployment_id: lease for lease in (router.acquire("m") for _ in range(3))}
        crowd = Crowd(router)
        await crowd.join("not a", exclude={"a"})
        await crowd.join("not b", exclude={"b"})
        await crowd.join("neither", exclude={"a", "b"})
        await crowd.join("any")
        await crowd.join("urgent", exclude={"a"}, priority=-1)
        order = []
        for name in "abc":
            held.pop(name).release()
            await settle()
            while served := await crowd.served():
                order.extend(served)
        assert order == ["not b", "any", "urgent", "not a", "neither"]
        assert router.metrics().in_flight == 0

    asyncio.run(main())


def test_when_a_large_one_leaves_a_small_one_behind_it_is_served() -> None:
    async def main() -> None:
        router = bucket(ManualClock(1.7e9))
        router.acquire("m", tokens=500).success()
        crowd = Crowd(router)
        await crowd.join("large", tokens=900)
        await crowd.join("small", tokens=100)
        assert await crowd.served() == []
        crowd.tasks.pop("large").cancel()
        assert await crowd.served() == ["small"]

    asyncio.run(main())


def test_time_serves_those_behind_a_release_that_did_not_suffice() -> None:
    async def main() -> None:
        clock = ManualClock(1.7e9)
        deployments = [Deployment("a", "m", rpm_limit=1), Deployment("b", "m", max_parallel_requests=1)]
        router = Router(deployments, clock=clock, strategy="priority_based")
        first, second = router.acquire("m"), router.acquire("m")
        assert (first.deployment_id, second.deployment_id) == ("a", "b")
        crowd = Crowd(router)
        await crowd.join("one", exclude={"b"})
        first.release()
        assert await crowd.served() == []
        clock.advance(60.0)
        assert await crowd.served() == ["one"]
        second.release()

    asyncio.run(main())


# --- calls that need not wait ---


def test_where_there_is_room_a_coroutine_ends_at_its_first_step() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)])
    call = router.acquire_async("m")
    assert inspect.iscoroutine(call)
    assert router.metrics().in_flight == 0, "it has not begun"
    with pytest.raises(StopIteration) as end:
        call.send(None)
    lease = end.value.value
    assert (lease.deployment_id, router.metrics().in_flight) == ("a", 1)
    lease.release()
    router.acquire_async("m").close()
    assert router.metrics().in_flight == 0


@pytest.mark.parametrize("priority", [0, 1])
def test_a_coroutine_that_finds_room_overtakes_nobody(priority: int) -> None:
    async def main() -> None:
        router = bucket(ManualClock(1.7e9))
        router.acquire("m", tokens=500).success()
        crowd = Crowd(router)
        await crowd.join("large", tokens=900)
        await crowd.join("small", tokens=100, priority=priority)
        assert await crowd.served() == []
        await crowd.join("urgent", tokens=100, priority=-1)
        assert await crowd.served() == ["urgent"]
        await crowd.leave()

    asyncio.run(main())


# --- quotas ---


def test_a_quota_that_opens_serves_other_groups() -> None:
    async def main() -> None:
        clock = ManualClock(1.7e9)
        quotas = {name: Quota(name, Limit(requests=1, per=1e6)) for name in ("x", "y")}
        deployments = [Deployment("a", "m", quotas=[quotas["x"]]), Deployment("b", "n", quotas=[quotas["x"], quotas["y"]])]
        router = Router(deployments, clock=clock)
        held = router.acquire("m")
        crowd = Crowd(router)
        crowd.tasks["n"] = asyncio.create_task(router.acquire_async("n"))
        assert await crowd.served() == []
        held.release(unused=True)
        assert await crowd.served() == ["n"]

    asyncio.run(main())


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("n", [3, 70])
def test_a_spent_quota_stops_its_members_and_nobody_else(strategy: Strategy, n: int) -> None:
    clock = ManualClock(1.7e9)
    quotas = [Quota(f"q{i}", Limit(requests=2, per=60)) for i in range(n)]
    deployments = [Deployment(f"d{i}", "m", quotas=[quotas[i], quotas[(i + 1) % n]]) for i in range(n)]
    router = Router([*deployments, Deployment("free", "m", max_parallel_requests=2 * n)], clock=clock, strategy=strategy, seed=3)
    leases = []
    while router.explain("m").winner is not None:
        stopped = {verdict.deployment_id for verdict in router.explain("m").verdicts if verdict.gate}
        assert not stopped & {router.select("m") for _ in range(5)}
        leases.append(router.acquire("m"))
    with pytest.raises(NoAvailableDeployment) as refused:
        router.acquire("m")
    assert refused.value.reasons == {"quota": n, "max_parallel_requests": 1}
    assert refused.value.retry_after == pytest.approx(60.0 - 1.7e9 % 60)
    assert sum(lease.deployment_id == "free" for lease in leases) == 2 * n
    used = {limit.quota: limit.used for each in router.deployments() for limit in router.stats(each.deployment_id).limits}
    # Each of the others takes from two quotas, and stops when one of them is spent.
    assert max(used.values()) == 2
    assert all(max(used[f"q{i}"], used[f"q{(i + 1) % n}"]) == 2 for i in range(n))
    clock.advance(60.0)
    assert router.select("m")
    for lease in leases:
        lease.release()
