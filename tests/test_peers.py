"""What goes wrong in other routers. One test a trap: each is named in words, and shows that this router does
not fall into it.
"""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import (
    AllDeploymentsInCooldown,
    Deployment,
    Lease,
    ManualClock,
    ModelNotFound,
    NoAvailableDeployment,
    RateLimitExceeded,
    Router,
    Status,
    Strategy,
)

AssertShares = Callable[[Sequence[int], Sequence[float]], None]

EVERY_STRATEGY = pytest.mark.parametrize("strategy", Strategy)


def alike(number: int, strategy: Strategy = Strategy.SIMPLE_SHUFFLE, *, seed: int = 1, **facts: Any) -> Router:
    """A router of so many equal deployments, `d0` and up."""
    return Router(
        [Deployment(f"d{place}", "m", **facts) for place in range(number)], strategy=strategy, seed=seed, clock=ManualClock()
    )


def burst(router: Router, requests: int, leases: ExitStack, **options: Any) -> Counter[str]:
    """Requests that all come before the first one ends; how many each deployment got, the refused ones left
    out.
    """
    got: Counter[str] = Counter()
    for _ in range(requests):
        try:
            lease = router.acquire("m", **options)
        except NoAvailableDeployment:
            continue
        leases.callback(lease.release)
        got[lease.deployment_id] += 1
    return got


def raised(router: Router) -> NoAvailableDeployment:
    with pytest.raises(NoAvailableDeployment) as caught:
        router.acquire("m")
    return caught.value


# --- load that is counted too late, and herds ---


def test_a_burst_spreads_evenly_because_load_is_counted_when_it_is_given() -> None:
    """Counting at the provider's call or at its answer shows everyone in a burst the same picture: all go to
    one.
    """
    router = alike(10, Strategy.LEAST_BUSY)
    with ExitStack() as leases:
        assert burst(router, 1000, leases) == {f"d{place}": 100 for place in range(10)}
    assert router.metrics().in_flight == 0


def test_a_burst_from_threads_and_tasks_spreads_evenly() -> None:
    router = alike(10, Strategy.LEAST_BUSY)
    with ExitStack() as leases, ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: router.acquire("m"), range(500)))

        async def one() -> Lease:
            await asyncio.sleep(0)
            return router.acquire("m")

        async def all_at_once() -> list[Lease]:
            return await asyncio.gather(*(one() for _ in range(500)))

        taken += asyncio.run(all_at_once())
        for lease in taken:
            leases.callback(lease.release)
        assert Counter(lease.deployment_id for lease in taken) == {f"d{place}": 100 for place in range(10)}


def test_usage_counts_the_estimate_at_once_so_that_a_burst_does_not_pile_up() -> None:
    """A slow deployment whose tokens are counted later looks emptier and gets more."""
    router = alike(10, Strategy.USAGE_BASED, tpm_limit=10_000)
    with ExitStack() as leases:
        assert burst(router, 50, leases, tokens=1000) == {f"d{place}": 5 for place in range(10)}


def test_a_request_is_in_flight_to_its_very_end() -> None:
    """Where load ends with the response's headers, a long stream looks idle."""
    router = alike(2, Strategy.LEAST_BUSY)

    def stream() -> Generator[int, None, None]:
        with router.acquire("m"):
            yield from range(3)

    streams = [stream() for _ in range(4)]
    for reader in streams:
        next(reader)
    assert [router.stats(name).in_flight for name in ("d0", "d1")] == [2, 2]
    assert list(streams[0]) == [1, 2]
    assert router.metrics().in_flight == 3
    for reader in streams[1:]:
        reader.close()
    assert router.metrics().in_flight == 0


def test_every_way_in_feeds_the_same_counts() -> None:
    """Load fed by one kind of endpoint only leaves the balance blind to the others."""
    router = alike(2, Strategy.LEAST_BUSY, max_parallel_requests=2)
    router.add_alias("fast", "m")
    with ExitStack() as leases:
        for name in ("m", "fast", "m", "fast"):
            leases.callback(router.acquire(name).release)
        assert [router.stats(name).in_flight for name in ("d0", "d1")] == [2, 2]
        with pytest.raises(NoAvailableDeployment):
            router.acquire("fast")


# --- ties and shares ---


def test_ties_do_not_always_go_to_the_first(assert_shares: AssertShares) -> None:
    """Requests one after the other all find everyone idle; half of them at one deployment of ten is not a
    balance.
    """
    router = alike(10, Strategy.LEAST_BUSY)
    counts: Counter[str] = Counter()
    for _ in range(5000):
        with router.acquire("m") as lease:
            counts[lease.deployment_id] += 1
    assert_shares([counts[f"d{place}"] for place in range(10)], [0.1] * 10)


def test_weights_do_not_overflow_when_summed(assert_shares: AssertShares) -> None:
    router = alike(9, weight=2**32 - 1)
    counts = Counter(router.select_many("m", 9000))
    assert_shares([counts[f"d{place}"] for place in range(9)], [1 / 9] * 9)


def test_a_strategy_without_data_is_not_silently_random() -> None:
    for strategy in (Strategy.LATENCY_BASED, Strategy.USAGE_BASED, Strategy.RATE_LIMIT_AWARE, Strategy.PRIORITY_BASED):
        assert set(alike(10, strategy).select_many("m", 100)) == {"d0"}


def test_a_reload_does_not_start_the_round_from_the_first_again() -> None:
    """Schedulers in phase after each reload send all their first requests to the same deployment."""
    deployments = [Deployment(f"d{place}", "m") for place in range(5)]
    router = Router(deployments, strategy="round_robin")
    picks = []
    for _ in range(20):
        router.set_deployments(deployments)
        picks += router.select_many("m", 2)
    assert Counter(picks) == {f"d{place}": 8 for place in range(5)}


def test_nobody_starves_in_a_round() -> None:
    router = alike(7, Strategy.ROUND_ROBIN)
    assert Counter(router.select_many("m", 700)) == {f"d{place}": 100 for place in range(7)}


# --- who cannot be chosen has no say ---


@EVERY_STRATEGY
@pytest.mark.parametrize("stopped_by", ["excluded", "tags", "cooling_down", "unhealthy", "max_parallel_requests", "rpm_limit"])
def test_an_ineligible_deployment_does_not_change_the_choice_among_the_eligible(strategy: Strategy, stopped_by: str) -> None:
    def candidates() -> list[Deployment]:
        return [
            Deployment(f"d{place}", "m", weight=place + 1, priority=5 - place, tpm_limit=10**6, tags=["t"]) for place in range(4)
        ]

    def prepare(router: Router) -> None:
        for place in range(4):
            router.record_success(f"d{place}", tokens=100 * place, latency=0.1 * place)

    alone = Router(candidates(), strategy=strategy, seed=3, clock=ManualClock())
    odd = Deployment(
        "odd",
        "m",
        weight=2**32 - 1,
        priority=0,
        rpm_limit=2 if stopped_by == "rpm_limit" else None,
        max_parallel_requests=1 if stopped_by == "max_parallel_requests" else None,
        tags=[] if stopped_by == "tags" else ["t", "odd"],
    )
    with_odd = Router([odd, *candidates()], strategy=strategy, seed=3, clock=ManualClock())
    prepare(alone)
    prepare(with_odd)
    with_odd.record_success("odd", latency=1e-6)
    options: dict[str, Any] = {"tags": ["t"], "exclude": ["odd"] if stopped_by == "excluded" else None}
    with ExitStack() as leases:
        match stopped_by:
            case "cooling_down":
                with_odd.cool_down("odd", 60)
            case "unhealthy":
                with_odd.report_health("odd", False)
            case "max_parallel_requests":
                leases.callback(with_odd.acquire("m", tags=["odd"]).release)
            case "rpm_limit":
                with_odd.record_success("odd")
        assert with_odd.explain("m", **options).verdicts[0].gate == stopped_by
        assert with_odd.select_many("m", 200, **options) == alone.select_many("m", 200, **options)


@EVERY_STRATEGY
@given(tried=st.sets(st.integers(0, 5)))
def test_what_was_tried_is_left_out_before_the_choice(strategy: Strategy, tried: set[int]) -> None:
    """An exclusion that is looked at after the choice gives the excluded one or nobody."""
    router = alike(6, strategy)
    exclude = [f"d{place}" for place in tried]
    if len(tried) == 6:
        with pytest.raises(NoAvailableDeployment):
            router.select("m", exclude=exclude)
    else:
        assert not set(router.select_many("m", 20, exclude=exclude)) & set(exclude)
        lease = router.acquire("m", exclude=exclude)
        lease.release()
        assert lease.deployment_id not in exclude


def test_an_empty_group_is_an_error_of_its_own_and_passes() -> None:
    """An empty pool that is a hard error stays one when the pool fills again."""
    router = Router()
    with pytest.raises(ModelNotFound):
        router.acquire("m")
    router.add_deployment(Deployment("a", "m"))
    assert router.select("m") == "a"
    router.set_deployments([])
    with pytest.raises(ModelNotFound):
        router.acquire("m")
    router.add_deployment(Deployment("b", "m"))
    assert router.select("m") == "b"


# --- limits ---


@pytest.mark.parametrize("limit", [1, 2, 5, 10, 60])
def test_a_limit_is_not_off_by_one(limit: int) -> None:
    """`count + 1 < limit` loses half the quota of a limit of 2."""
    router = alike(1, rpm_limit=limit)
    with ExitStack() as leases:
        assert sum(burst(router, limit + 5, leases).values()) == limit


@EVERY_STRATEGY
def test_all_limits_are_used_up_and_none_is_passed(strategy: Strategy) -> None:
    """Whichever the strategy: not 494 of 100 because a limit is only a weight, nor 10 of 100 while nine stand
    idle.
    """
    router = alike(10, strategy, rpm_limit=10)
    with ExitStack() as leases:
        assert burst(router, 500, leases) == {f"d{place}": 10 for place in range(10)}
    assert isinstance(raised(router), RateLimitExceeded)


@EVERY_STRATEGY
def test_tokens_in_flight_count(strategy: Strategy) -> None:
    """Tokens that are counted with the answer let a burst use five times the limit."""
    router = alike(10, strategy, tpm_limit=10_000)
    with ExitStack() as leases:
        assert burst(router, 500, leases, tokens=1000) == {f"d{place}": 10 for place in range(10)}
    assert sum(router.snapshot()["tpm_current"]) == 100_000


@EVERY_STRATEGY
@pytest.mark.parametrize("number", [30, 100, 400])
def test_limits_hold_for_any_number_of_deployments(strategy: Strategy, number: int) -> None:
    """Counters in a cache of 200 entries are forgotten from some thirty deployments on, and limits with
    them.
    """
    router = alike(number, strategy, rpm_limit=5)
    with ExitStack() as leases:
        assert burst(router, 6 * number, leases) == {f"d{place}": 5 for place in range(number)}


@EVERY_STRATEGY
def test_the_choice_sees_free_places(strategy: Strategy) -> None:
    """Eight requests fit four deployments of two places, whichever the strategy."""
    router = alike(4, strategy, max_parallel_requests=2)
    with ExitStack() as leases:
        assert burst(router, 20, leases) == {f"d{place}": 2 for place in range(4)}
        assert raised(router).reasons == {"max_parallel_requests": 4}


def test_a_place_in_flight_does_not_expire() -> None:
    """A counter with a time to live lets a second one in after ten minutes."""
    clock = ManualClock()
    router = Router([Deployment("a", "m", max_parallel_requests=1)], clock=clock)
    with router.acquire("m"):
        clock.advance(601)
        assert raised(router).reasons == {"max_parallel_requests": 1}


def test_places_are_remembered_for_hundreds_of_deployments() -> None:
    router = alike(300, Strategy.LEAST_BUSY, max_parallel_requests=1)
    with ExitStack() as leases:
        assert burst(router, 400, leases) == {f"d{place}": 1 for place in range(300)}


@given(
    start=st.integers(0, 100),
    gaps=st.lists(st.sampled_from([0.0, 0.4, 7.0, 29.0, 31.0, 60.0]), max_size=60),
    limit=st.integers(1, 4),
)
def test_no_clock_minute_gets_more_than_its_limit(start: int, gaps: list[float], limit: int) -> None:
    """A counter that tumbles at its own pace, or is not reset, admits too much or too little."""
    clock = ManualClock(start)
    router = Router([Deployment("a", "m", rpm_limit=limit)], clock=clock)
    admitted: Counter[int] = Counter()
    asked: Counter[int] = Counter()
    for gap in gaps:
        clock.advance(gap)
        minute = int(clock.now() // 60)
        asked[minute] += 1
        try:
            router.acquire("m").release()
        except RateLimitExceeded:
            continue
        admitted[minute] += 1
    assert admitted == {minute: min(count, limit) for minute, count in asked.items()}


# --- leaks and state that is shared ---


def test_cancelled_requests_leave_no_count_behind(assert_shares: AssertShares) -> None:
    """Forty cancelled calls counted for ever leave their deployment with no traffic at all."""
    router = alike(2, Strategy.LEAST_BUSY)

    async def call(only: str) -> None:
        with router.acquire("m", exclude={"d0", "d1"} - {only}):
            await asyncio.sleep(3600)

    async def cancel_all() -> None:
        tasks = [asyncio.create_task(call("d0")) for _ in range(40)]
        await asyncio.sleep(0)
        assert router.stats("d0").in_flight == 40
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(cancel_all())
    assert router.stats("d0").in_flight == 0
    assert router.stats("d0").status is Status.AVAILABLE
    counts: Counter[str] = Counter()
    for _ in range(400):
        with router.acquire("m") as lease:
            counts[lease.deployment_id] += 1
    assert_shares([counts["d0"], counts["d1"]], [0.5, 0.5])


def test_streams_that_are_dropped_leave_no_count_behind() -> None:
    router = alike(1)

    def stream() -> Generator[int, None, None]:
        with router.acquire("m"):
            yield from range(100)

    for _ in range(40):
        reader = stream()
        next(reader)
        del reader
    assert router.stats("d0").in_flight == 0
    assert router.stats("d0").total_failures == 0


def test_two_routers_share_nothing() -> None:
    """Counters and callbacks in global lists let one router enforce the limits of another."""
    deployments = [Deployment("a", "m", rpm_limit=3)]
    one = Router([Deployment("a", "m")])
    other = Router(deployments)
    third = Router(deployments)
    one.select_many("m", 20)
    for _ in range(20):
        one.acquire("m").release()
    with ExitStack() as leases:
        assert burst(other, 20, leases) == {"a": 3}
        other.cool_down("a", 60)
        other.add_alias("fast", "m")
        assert burst(third, 20, leases) == {"a": 3}
    assert one.stats("a").total_requests == 20
    assert one.stats("a").status is Status.AVAILABLE
    assert third.aliases() == {}
    third.remove_deployment("a")
    assert "a" in other


def test_the_hundredth_router_works_like_the_first() -> None:
    """A bounded global list of callbacks left later routers without cooldowns."""
    routers = [alike(3) for _ in range(111)]
    last = routers[-1]
    for place in range(3):
        last.record_failure(f"d{place}", "rate_limit")
    assert last.metrics().cooling_down == 3
    assert all(router.metrics().cooling_down == 0 for router in routers[:-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_workers_do_not_draw_alike() -> None:
    """Workers that inherit one generator all pick the same deployment at the same time."""
    script = """
import os, turnout
deployments = [turnout.Deployment(str(number), "m") for number in range(1000)]
router = turnout.Router(deployments)
router.select("m")
for _ in range(4):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ",".join(router.select_many("m", 20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    print(os.read(reader, 10_000).decode())
print(",".join(router.select_many("m", 20)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    draws = done.stdout.split()
    assert len(draws) == 5
    assert all(len(draw.split(",")) == 20 for draw in draws)
    # Two of 20 draws from 1000 agree in one of 10^60 cases.
    assert len(set(draws)) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_seed_holds_across_a_fork() -> None:
    script = """
import os, turnout
router = turnout.Router([turnout.Deployment(str(number), "m") for number in range(1000)], seed=5)
router.select("m")
if os.fork() == 0:
    print(*router.select_many("m", 5), flush=True)
    os._exit(0)
os.wait()
print(*router.select_many("m", 5))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    one, other = done.stdout.splitlines()
    assert one == other


def test_routers_without_a_seed_do_not_draw_alike() -> None:
    one, other = (Router([Deployment(str(number), "m") for number in range(1000)]) for _ in range(2))
    assert one.select_many("m", 20) != other.select_many("m", 20)


# --- cooldowns ---


def test_every_cooldown_is_remembered() -> None:
    """Of 400 cooled ones a cache of 200 entries remembers 200."""
    router = alike(400)
    for place in range(400):
        router.record_failure(f"d{place}", "rate_limit", retry_after=30)
    assert router.metrics().cooling_down == 400
    error = raised(router)
    assert isinstance(error, AllDeploymentsInCooldown)
    assert error.reasons == {"cooling_down": 400}
    assert error.retry_after == 30


@pytest.mark.parametrize("seconds", [(1, 60), (60, 1)])
def test_a_short_cooldown_does_not_end_a_long_one(seconds: tuple[float, float]) -> None:
    """The first to end frees the deployment where each cooldown has a timer of its own."""
    clock = ManualClock()
    router = Router([Deployment("a", "m")], clock=clock)
    for length in seconds:
        router.record_failure("a", "rate_limit", retry_after=length)
    clock.advance(59.9)
    assert raised(router).retry_after == pytest.approx(0.1)
    clock.advance(0.1)
    assert router.select("m") == "a"


def test_a_single_deployment_is_cooled_too() -> None:
    """Without cooldown for the only one, each request goes out three times to be refused."""
    router = alike(1)
    with router.acquire("m") as lease:
        lease.failure("rate_limit", retry_after=30)
    for _ in range(20):
        error = raised(router)
        assert isinstance(error, AllDeploymentsInCooldown)
        assert error.retry_after == 30


@EVERY_STRATEGY
def test_the_others_answer_while_one_is_cooling(strategy: Strategy) -> None:
    router = alike(3, strategy)
    router.record_failure("d0", "rate_limit")
    picks = Counter(router.select_many("m", 300))
    assert set(picks) <= {"d1", "d2"}
    assert sum(picks.values()) == 300


def test_a_check_that_finds_it_well_ends_the_wait() -> None:
    """A provider that has recovered should not be refused for the rest of its cooldown."""
    router = alike(1)
    router.record_failure("d0", "rate_limit", retry_after=600)
    router.report_health("d0", True)
    assert router.select("m") == "d0"


def test_a_client_error_cools_nobody_down() -> None:
    """A caller with a broken request must not take the model away from all others."""
    router = alike(3)
    for _ in range(100):
        with router.acquire("m") as lease:
            lease.failure("bad_request")
    assert router.metrics().available == 3


def test_failures_do_not_make_a_deployment_attractive() -> None:
    """A deployment that fails fast is never busy, so it would get everything. Its failures stop that."""
    router = alike(2, Strategy.LEAST_BUSY)
    failed = 0
    with ExitStack() as leases:
        for _ in range(200):
            lease = router.acquire("m")
            if lease.deployment_id == "d0":
                lease.failure("error")
                failed += 1
            else:
                leases.callback(lease.release)
    assert failed <= 10
    assert router.stats("d0").status is Status.COOLING_DOWN


# --- errors ---


def test_the_refusal_says_how_long_to_wait() -> None:
    """`Try again in 5 seconds` is a guess where the number comes from the settings."""
    router = alike(3)
    for place, seconds in enumerate((30.0, 12.5, 0.05)):
        router.record_failure(f"d{place}", "rate_limit", retry_after=seconds)
    error = raised(router)
    assert error.retry_after == 0.05
    assert "try again in 0.050 s" in str(error)
    assert "3 stopped by cooling_down" in str(error)
