"""Health options: what trips a deployment, probation, slow start, panic, the last one, domains, penalties,
outliers, events.
"""

import asyncio
import gc
import heapq
import os
import pickle
import random
import sys
import threading
import weakref
from collections import Counter, defaultdict
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import (
    AllDeploymentsInCooldown,
    ConfigurationError,
    Deployment,
    Event,
    EventKind,
    FailureKind,
    Health,
    Lease,
    ManualClock,
    MinuteRules,
    NoAvailableDeployment,
    Router,
    Status,
    Strategy,
)

EXACT = Health(cooldown_jitter=0.0)
"""The defaults, but for chance."""
NEUTRAL = ["bad_request", "content_policy", "context_window", "cancelled"]
REFUSALS = ["rate_limit", "auth", "not_found", "manual"]


def make(n: int, health: Health = EXACT, clock: ManualClock | None = None, **options: Any) -> Router:
    deployments = [Deployment(f"d{i}", "m") for i in range(n)]
    return Router(deployments, health=health, clock=clock or ManualClock(), seed=1, **options)


def fail(router: Router, deployment_id: str, times: int = 1, kind: Any = "error", **options: Any) -> None:
    for _ in range(times):
        router.record_failure(deployment_id, kind, **options)


def succeed(router: Router, deployment_id: str, times: int = 1) -> None:
    for _ in range(times):
        router.record_success(deployment_id)


def verdict(router: Router, deployment_id: str) -> str | None:
    return next(verdict.gate for verdict in router.explain("m").verdicts if verdict.deployment_id == deployment_id)


def only(deployment_id: str, n: int) -> set[str]:
    """What to exclude so that one is left."""
    return {f"d{i}" for i in range(n)} - {deployment_id}


# --- the options ---

BAD = [
    ("consecutive_failures", 0),
    ("failure_rate", 0.0),
    ("failure_rate", 1.01),
    ("window", 0.0),
    ("min_volume", 0),
    ("cooldown_time", -1.0),
    ("cooldown_growth", 0.5),
    ("max_cooldown", float("inf")),
    ("cooldown_jitter", 1.5),
    ("forget_after", 0.0),
    ("success_threshold", 0),
    ("slow_start", float("nan")),
    ("panic_threshold", 1.1),
    ("failure_penalty", -0.1),
    ("outlier_factor", 0.9),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        Health(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", [field.name for field in fields(Health)])
def test_a_wrong_type_is_named(name: str) -> None:
    wrong: dict[str, Any] = {name: "3"}
    with pytest.raises(TypeError, match=name):
        Health(**wrong)


def test_options_are_plain_frozen_data() -> None:
    assert Health() == Health()
    assert hash(Health()) == hash(Health())
    assert replace(Health(), slow_start=30.0).slow_start == 30.0
    assert pickle.loads(pickle.dumps(EXACT)) == EXACT
    with pytest.raises(FrozenInstanceError):
        Health().window = 3.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Health(3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["allowed_fails", "min_requests", "cooldown_time", "success_threshold"])
def test_the_other_rules_cannot_be_given_as_well(name: str) -> None:
    other: dict[str, Any] = {name: 3}
    with pytest.raises(ConfigurationError, match=f"{name} and health"):
        Router(health=Health(), **other)


def test_only_health_is_health() -> None:
    with pytest.raises(TypeError, match="health must be a Health, a MinuteRules or None"):
        Router(health={"window": 3})  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match=r"Router\(allowed_fails=…\) is now Router\(health=MinuteRules"):
        Router(health=None, allowed_fails=1)


@pytest.mark.parametrize("old", [{"allowed_fails": 1}, {"min_requests": 1}, {"cooldown_time": 7.0}, {"success_threshold": 1}])
def test_the_old_numbers_mean_minute_rules(old: dict[str, Any]) -> None:
    clock = ManualClock(30.0)
    deployments = [Deployment("a", "m"), Deployment("b", "m")]
    with pytest.warns(DeprecationWarning, match=next(iter(old))):
        warned = Router(deployments, clock=clock, **old)
    told = Router(deployments, clock=clock, health=MinuteRules(**old))
    for router in (warned, told):
        for kind in ("error", "timeout"):
            router.record_failure("a", kind)
        router.record_success("b")
    assert warned.stats("a") == told.stats("a")
    assert warned.stats("b") == told.stats("b")


def test_health_is_the_default() -> None:
    clock = ManualClock(30.0)
    for router in (
        Router(clock=clock, seed=5),
        Router(health=None, clock=clock, seed=5),
        Router(health=Health(), clock=clock, seed=5),
    ):
        router.set_deployments([Deployment("a", "m"), Deployment("b", "m")])
        for _ in range(3):
            router.record_failure("a", "timeout")
        assert router.stats("a").cooldown_remaining > 5.0, "jitter"
        assert router.stats("a").consecutive_failures == 0, "a cooldown forgets them"
        assert router.stats("a").trips == 1


# --- what trips ---


@pytest.mark.parametrize("kind", ["error", "connection", "timeout"])
def test_so_many_in_a_row_trip(kind: str) -> None:
    router = make(2)
    fail(router, "d0", 2, kind)
    succeed(router, "d0")
    fail(router, "d0", 2, kind)
    assert router.stats("d0").status is Status.AVAILABLE
    assert router.stats("d0").consecutive_failures == 2
    fail(router, "d0", 1, kind)
    assert router.stats("d0").status is Status.COOLING_DOWN
    assert router.stats("d0").cooldown_remaining == 5.0


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_trips_at_once(kind: str) -> None:
    router = make(2)
    fail(router, "d0", 1, kind)
    assert router.stats("d0").status is Status.COOLING_DOWN


@pytest.mark.parametrize("kind", NEUTRAL)
def test_what_says_nothing_counts_for_nothing(kind: str) -> None:
    router = make(2)
    fail(router, "d0", 2)
    fail(router, "d0", 100, kind)
    stats = router.stats("d0")
    assert (stats.status, stats.consecutive_failures, stats.window_failures) == (Status.AVAILABLE, 2, 2)


def test_the_rate_needs_volume_and_forgets() -> None:
    clock = ManualClock()
    router = make(2, replace(EXACT, consecutive_failures=None), clock)
    fail(router, "d0", 5)
    succeed(router, "d0", 4)
    assert router.stats("d0").status is Status.AVAILABLE
    clock.advance(60.0)
    succeed(router, "d0", 5)
    fail(router, "d0", 4)
    assert (router.stats("d0").window_successes, router.stats("d0").window_failures) == (5, 4)
    assert router.stats("d0").status is Status.AVAILABLE
    fail(router, "d0")
    assert router.stats("d0").status is Status.COOLING_DOWN
    assert "failure rate" in next(v.detail or "" for v in router.explain("m").verdicts)


def test_both_rules_can_be_off() -> None:
    router = make(2, replace(EXACT, consecutive_failures=None, failure_rate=None))
    fail(router, "d0", 1000)
    assert router.stats("d0").status is Status.AVAILABLE


@pytest.mark.parametrize("wait", [0.05, 0.5, 30.0, 3600.0])
def test_the_wait_of_the_provider_is_exact(wait: float) -> None:
    router = make(2, Health())
    fail(router, "d0", 1, "rate_limit", retry_after=wait)
    assert router.stats("d0").cooldown_remaining == pytest.approx(wait, abs=1e-9)
    assert router.stats("d0").trips == 0


def test_cooldowns_grow_and_are_forgotten() -> None:
    clock = ManualClock()
    router = make(2, replace(EXACT, max_cooldown=30.0), clock)
    for length in [5.0, 10.0, 20.0, 30.0, 30.0]:
        fail(router, "d0", 3)
        assert router.stats("d0").cooldown_remaining == length
        clock.advance(length)
        succeed(router, "d0", 2)
    assert router.stats("d0").trips == 5
    clock.advance(300.0)
    assert router.stats("d0").trips == 4
    clock.advance(900.0)
    fail(router, "d0", 3)
    assert router.stats("d0").cooldown_remaining == 10.0


def test_what_was_in_flight_when_it_broke_is_one_reason_and_not_many() -> None:
    clock = ManualClock(1.0)
    router = make(2, clock=clock)
    leases = [router.acquire("m", exclude={"d1"}) for _ in range(20)]
    for lease in leases[:10]:
        lease.failure("error")
    assert router.stats("d0").cooldown_remaining == 5.0
    clock.advance(6.0)
    for lease in leases[10:]:
        lease.failure("timeout")
    assert (router.stats("d0").status, router.stats("d0").trips) == (Status.DEGRADED, 1)
    # Nor does what comes in when the probation is over.
    late = router.acquire("m", exclude={"d1"})
    clock.advance(1.0)
    router.cool_down("d0", 1.0)
    clock.advance(1.0)
    succeed(router, "d0", 2)
    for lease in [late, *leases]:
        lease.failure("timeout")
    stats = router.stats("d0")
    assert (stats.status, stats.consecutive_failures, stats.total_failures) == (Status.AVAILABLE, 0, 21)


# --- probation ---


def on_probation(n: int = 2, **options: Any) -> tuple[Router, ManualClock]:
    clock = ManualClock(1.0)
    router = make(n, clock=clock, **options)
    fail(router, "d0", 3)
    clock.advance(5.0)
    return router, clock


def test_one_lease_at_a_time_is_let_through() -> None:
    router, _ = on_probation()
    probe = router.acquire("m", exclude={"d1"})
    assert verdict(router, "d0") == "probation"
    assert {router.select("m") for _ in range(50)} == {"d1"}
    with pytest.raises(AllDeploymentsInCooldown) as caught:
        router.acquire("m", exclude={"d1"})
    assert caught.value.reasons == {"excluded": 1, "probation": 1}
    assert caught.value.retry_after is None
    probe.success()
    assert router.stats("d0").status is Status.DEGRADED
    router.acquire("m", exclude={"d1"}).success()
    assert router.stats("d0").status is Status.AVAILABLE


@pytest.mark.parametrize("kind", ["error", "timeout", "connection"])
def test_one_failure_on_probation_trips_again(kind: str) -> None:
    router, _ = on_probation()
    router.acquire("m", exclude={"d1"}).failure(kind)  # type: ignore[arg-type]
    assert router.stats("d0").cooldown_remaining == 10.0
    assert "probation" in (router.explain("m").verdicts[0].detail or "")


def ended(lease: Lease, how: str) -> None:
    if how == "release":
        lease.release()
    elif how == "unused":
        lease.release(unused=True)
    elif how == "neutral":
        lease.failure("bad_request")
    elif how == "cancelled":
        with pytest.raises(KeyboardInterrupt), lease:
            raise KeyboardInterrupt
    elif how == "lost":
        del lease
        gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("how", ["release", "unused", "neutral", "cancelled", "lost"])
def test_an_end_that_says_nothing_frees_the_probe_and_no_more(how: str) -> None:
    router, _ = on_probation()
    for _ in range(5):
        probes = [router.acquire("m", exclude={"d1"})]
        assert verdict(router, "d0") == "probation"
        ended(probes.pop(), how)
        assert (verdict(router, "d0"), router.stats("d0").status) == (None, Status.DEGRADED)


def test_the_probe_outlives_changes_of_the_registry() -> None:
    router, clock = on_probation()
    probe = router.acquire("m", exclude={"d1"})
    router.set_deployments([Deployment("d1", "m"), Deployment("d0", "m", weight=3)])
    assert verdict(router, "d0") == "probation"
    router.add_deployment(Deployment("d0", "m", weight=4))
    assert verdict(router, "d0") == "probation"
    probe.release()
    assert verdict(router, "d0") is None
    # A place taken before another cooldown still is the one place after it.
    probe = router.acquire("m", exclude={"d1"})
    router.cool_down("d0", 3.0)
    with pytest.raises(AllDeploymentsInCooldown) as caught:
        router.select("m", exclude={"d1"})
    assert caught.value.retry_after is None, "a probe ends when its lease does"
    clock.advance(3.0)
    assert verdict(router, "d0") == "probation"
    probe.success()
    assert (verdict(router, "d0"), router.stats("d0").consecutive_successes) == (None, 0)
    # Removed and added anew, it is another.
    probe = router.acquire("m", exclude={"d1"})
    router.remove_deployment("d0")
    router.add_deployment(Deployment("d0", "m"))
    assert (verdict(router, "d0"), router.stats("d0").status) == (None, Status.AVAILABLE)
    probe.success()


def test_a_health_check_brings_back_on_probation() -> None:
    router = make(2, clock=ManualClock(1.0))
    router.report_health("d0", False)
    router.report_health("d0", True)
    assert router.stats("d0").status is Status.DEGRADED
    probe = router.acquire("m", exclude={"d1"})
    assert verdict(router, "d0") == "probation"
    probe.success()
    succeed(router, "d0")
    assert router.stats("d0").status is Status.AVAILABLE


@pytest.mark.parametrize("strategy", list(Strategy))
def test_threads_never_probe_together_and_never_lose_the_probe(strategy: Strategy) -> None:
    router, _ = on_probation(1, strategy=strategy, health=replace(EXACT, success_threshold=10**6, cool_last=True))
    assert router.stats("d0").status is Status.DEGRADED
    inside, most, got, lock = 0, 0, Counter[int](), threading.Lock()

    def work(thread: int) -> None:
        nonlocal inside, most
        chance = random.Random(thread)
        for _ in range(300):
            try:
                lease = router.acquire("m")
            except NoAvailableDeployment:
                continue
            with lock:
                inside += 1
                most = max(most, inside)
                got[thread] += 1
            with lock:
                inside -= 1
            assert lease.success() if chance.random() < 0.5 else lease.release()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, router.stats("d0").in_flight) == (1, 0)
    assert sum(got.values()) > 0
    router.acquire("m").release()


# --- slow start ---


def shares_in_slow_start(strategy: Strategy, others: int, length: float) -> list[float]:
    """Lets one join that the strategy likes best, under 50 requests a second which take so long. Returns its
    share of the requests in each tenth of its slow start, as a part of a fair share, and after it.
    """
    clock = ManualClock(1.0)
    router = Router(strategy=strategy, health=replace(EXACT, slow_start=100.0), clock=clock, seed=3)
    for i in range(others):
        router.add_deployment(Deployment(f"d{i}", "m", priority=1, tpm_limit=10**4, rpm_limit=10**4))
    ends: list[tuple[float, int, Lease]] = []
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for i in range(50 * 120):
        now = i / 50 - 10.0
        clock.set(11.0 + now)
        while ends and ends[0][0] <= now:
            heapq.heappop(ends)[2].success(latency=1.0 if length == 0.0 else length)
        if i == 500:
            router.add_deployment(Deployment("new", "m", tpm_limit=10**6, rpm_limit=10**6))
            router.record_success("new", latency=0.001)
        lease = router.acquire("m", tokens=1)
        counts[int(now // 10.0)][lease.deployment_id] += 1
        heapq.heappush(ends, (now + length, i, lease))
    for _, _, lease in ends:
        lease.release()
    return [counts[tenth]["new"] / counts[tenth].total() * (others + 1) for tenth in range(11)]


@pytest.mark.parametrize("length", [0.0, 5.0])
@pytest.mark.parametrize("others", [1, 7])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_share_of_requests_grows_under_every_strategy(strategy: Strategy, others: int, length: float) -> None:
    *during, after = shares_in_slow_start(strategy, others, length)
    for tenth, share in enumerate(during):
        assert share == pytest.approx(max(0.1, tenth / 10 + 0.05), abs=0.06), (tenth, during)
    assert after > 0.7


def test_the_share_of_requests_follows_the_weights_where_the_strategy_does() -> None:
    clock = ManualClock(1.0)
    router = Router(health=replace(EXACT, slow_start=100.0), clock=clock, seed=3)
    router.add_deployment(Deployment("old", "m", weight=1))
    router.add_deployment(Deployment("new", "m", weight=9))
    clock.advance(50.0)
    assert Counter(router.select("m") for _ in range(10_000))["new"] / 10_000 == pytest.approx(0.45, abs=0.01)
    router.add_deployment(Deployment("old", "m", weight=3))
    assert Counter(router.select("m") for _ in range(10_000))["new"] / 10_000 == pytest.approx(0.375, abs=0.01)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_who_returns_has_a_small_share(strategy: Strategy) -> None:
    clock = ManualClock(1.0)
    router = make(2, replace(EXACT, slow_start=100.0), clock, strategy=strategy)
    assert router.stats("d0").slow_start_share == 1.0
    fail(router, "d0", 3)
    clock.advance(5.0)
    succeed(router, "d0", 2)
    assert router.stats("d0").slow_start_share == 0.1
    assert {router.select("m") for _ in range(19)} == {"d1"}
    clock.advance(100.0)
    assert (router.stats("d0").slow_start_share, verdict(router, "d0")) == (1.0, None)
    assert router.select("m", exclude={"d1"}) == "d0"


def test_nothing_is_counted_before_and_after_a_slow_start() -> None:
    """A second one begins as the first one did, whatever was picked in between."""
    clock = ManualClock(1.0)
    router = make(2, replace(EXACT, slow_start=10.0), clock, strategy="least_busy")
    for _ in range(3):
        router.add_deployment(Deployment("new", "m"))
        picks = [router.acquire("m") for _ in range(30)]  # a tenth of a third is one in 30
        assert Counter(lease.deployment_id for lease in picks)["new"] == 0
        with router.acquire("m") as lease:
            assert lease.deployment_id == "new"
        for lease in picks:
            lease.release()
        clock.advance(20.0)
        for _ in range(100):
            router.select("m")
        router.remove_deployment("new")


def test_a_slow_start_does_not_go_along_to_another_group() -> None:
    clock = ManualClock(1.0)
    router = make(2, replace(EXACT, slow_start=10.0), clock)
    router.add_deployment(Deployment("new", "m"))
    router.add_deployment(Deployment("new", "alone"))
    assert router.stats("new").slow_start_share == 1.0
    assert router.select("alone") == "new"


@pytest.mark.parametrize("strategy", list(Strategy))
def test_slow_start_is_ignored_where_nobody_else_is_left(strategy: Strategy) -> None:
    clock = ManualClock(1.0)
    router = make(2, replace(EXACT, slow_start=100.0), clock, strategy=strategy)
    fail(router, "d0", 3)
    clock.advance(5.0)
    succeed(router, "d0", 2)
    clock.advance(1.0)
    assert verdict(router, "d0") == "slow_start"
    assert "10 %" in (router.explain("m").verdicts[0].detail or "")
    assert {router.select("m") for _ in range(20)} == {"d1"}
    assert router.select("m", exclude={"d1"}) == "d0"
    with router.acquire("m", exclude={"d1"}) as lease:
        assert lease.deployment_id == "d0"
    router.cool_down("d1", 50.0)
    assert router.select("m") == "d0"
    with router.acquire("m") as lease:
        assert lease.deployment_id == "d0"


def test_who_joins_others_starts_slowly_and_who_comes_with_them_does_not() -> None:
    clock = ManualClock(1.0)
    router = make(2, replace(EXACT, slow_start=10.0), clock)
    router.add_deployment(Deployment("new", "m"))
    router.add_deployment(Deployment("first", "n"))
    router.set_deployments([*router.deployments(), Deployment("newer", "m"), Deployment("o0", "o"), Deployment("o1", "o")])
    shares = dict(zip(router.snapshot()["deployment_id"], router.snapshot()["slow_start_share"], strict=True))
    assert shares == {"d0": 1.0, "d1": 1.0, "new": 0.1, "first": 1.0, "newer": 0.1, "o0": 1.0, "o1": 1.0}
    router.add_deployment(Deployment("d0", "m", weight=2))
    assert router.stats("d0").slow_start_share == 1.0
    router.add_deployment(Deployment("d0", "n"))
    assert router.stats("d0").slow_start_share == 0.1


# --- panic ---


@pytest.mark.parametrize("strategy", list(Strategy))
def test_too_few_in_service_are_as_good_as_none(strategy: Strategy) -> None:
    clock = ManualClock(1.0)
    router = make(4, replace(EXACT, panic_threshold=0.5), clock, strategy=strategy)
    events: list[Event] = []
    router.subscribe(events.append)
    router.cool_down("d0", 10.0)
    router.cool_down("d1", 20.0)
    assert (router.explain("m").panic, router.metrics().panicking) == (False, ())
    router.cool_down("d2", 30.0)
    explanation = router.explain("m")
    assert (explanation.panic, router.metrics().panicking) == (True, ("m",))
    assert "panic" in str(explanation)
    assert explanation.to_dict()["panic"] is True
    assert all(verdict.gate is None for verdict in explanation.verdicts)
    assert router.select("m", exclude={"d1", "d2", "d3"}) == "d0"
    with router.acquire("m", exclude={"d0", "d2", "d3"}) as lease:
        assert lease.deployment_id == "d1"
    clock.advance(10.0)
    assert (router.select("m", exclude={"d0", "d1", "d2"}), router.explain("m").panic) == ("d3", False)
    with pytest.raises(NoAvailableDeployment):
        router.select("m", exclude={"d0", "d3"})
    told = [(event.kind, event.model_name, event.at) for event in events if event.deployment_id is None]
    assert told == [(EventKind.PANIC, "m", 1.0), (EventKind.PANIC_OVER, "m", 11.0)]


def test_a_panic_counts_members_whatever_the_request_wants() -> None:
    router = make(4, replace(EXACT, panic_threshold=0.5))
    router.report_health("d0", False)
    with pytest.raises(NoAvailableDeployment):
        router.select("m", exclude={"d1", "d2", "d3"})
    router.report_health("d1", False)
    router.report_health("d2", False)
    assert router.select("m", exclude={"d1", "d2", "d3"}) == "d0"
    router.remove_deployment("d1")
    router.remove_deployment("d2")
    assert not router.explain("m").panic


# --- the last one ---


def test_the_last_one_is_spared() -> None:
    clock = ManualClock(1.0)
    router = make(2, clock=clock)
    fail(router, "d0", 3)
    fail(router, "d1", 30)
    assert [router.stats(f"d{i}").status for i in range(2)] == [Status.COOLING_DOWN, Status.AVAILABLE]
    # The other is back, on probation: not as good yet.
    clock.advance(5.0)
    fail(router, "d1")
    assert router.stats("d1").status is Status.AVAILABLE
    succeed(router, "d0", 2)
    fail(router, "d1")
    assert router.stats("d1").status is Status.COOLING_DOWN


def test_on_probation_the_last_one_is_spared_too() -> None:
    clock = ManualClock(1.0)
    router = make(2, clock=clock)
    fail(router, "d0", 1, "rate_limit", retry_after=1.0)
    fail(router, "d1", 1, "rate_limit", retry_after=1.0)
    clock.advance(1.0)
    fail(router, "d0")
    assert router.stats("d0").status is Status.COOLING_DOWN
    fail(router, "d1")
    assert router.stats("d1").status is Status.DEGRADED


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_it_says_itself_takes_out_the_last_one(kind: str) -> None:
    router = make(2)
    router.cool_down("d1", 100)
    fail(router, "d0", 1, kind)
    assert router.stats("d0").status is Status.COOLING_DOWN


def test_the_last_one_can_be_taken_out_on_demand() -> None:
    router = make(1, replace(EXACT, cool_last=True))
    fail(router, "d0", 3)
    assert router.stats("d0").status is Status.COOLING_DOWN
    router = make(1)
    router.cool_down("d0", 3.0)
    assert router.stats("d0").status is Status.COOLING_DOWN


def test_threads_never_take_out_all() -> None:
    for round_ in range(30):
        router = make(8, clock=ManualClock(1.0))
        barrier = threading.Barrier(8)

        def work(i: int, router: Router = router, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            fail(router, f"d{i}", 20)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert router.metrics().available == 1, round_


# --- failure domains ---


def zoned(health: Health = EXACT, clock: ManualClock | None = None) -> Router:
    deployments = [Deployment(f"{zone}{i}", "m", domain=zone) for zone in ["eu", "us"] for i in range(3)]
    return Router(deployments, health=health, clock=clock or ManualClock(1.0), seed=1)


def test_a_domain_is_a_fact() -> None:
    deployment = Deployment("a", "m", domain="eu")
    assert (deployment.domain, Deployment("a", "m").domain) == ("eu", None)
    assert repr(deployment) == "Deployment('a', 'm', domain='eu')"
    assert deployment != Deployment("a", "m")
    assert pickle.loads(pickle.dumps(deployment)) == deployment == Deployment("a", "m").replace(domain="eu")
    assert deployment.replace(domain=None) == Deployment("a", "m")
    with pytest.raises(ConfigurationError, match="domain"):
        Deployment("a", "m", domain="")
    with pytest.raises(TypeError, match="domain"):
        Deployment("a", "m", domain=3)  # type: ignore[arg-type]
    assert Router([deployment]).stats("a").domain == "eu"


def test_a_domain_that_cannot_be_reached_is_out_as_a_whole() -> None:
    router = zoned(Health())
    fail(router, "eu0", 2, "connection")
    fail(router, "eu1", 1, "connection")
    stats = {i: router.stats(i) for i in router.snapshot()["deployment_id"]}
    assert {i for i, s in stats.items() if s.status is Status.COOLING_DOWN} == {"eu0", "eu1", "eu2"}
    assert len({s.cooldown_remaining for s in stats.values()}) == 4, "each with its own jitter"
    assert "domain" in (router.explain("m").verdicts[2].detail or "")


def test_any_success_in_the_domain_says_that_it_can_be_reached() -> None:
    router = zoned()
    fail(router, "eu0", 2, "connection")
    succeed(router, "eu2")
    fail(router, "eu1", 2, "connection")
    assert router.metrics().cooling_down == 0


def test_one_deployment_alone_does_not_speak_for_its_domain() -> None:
    router = zoned()
    fail(router, "eu0", 3, "connection")
    assert router.metrics().cooling_down == 1


def test_other_failures_do_not_count_against_the_domain() -> None:
    router = zoned()
    for kind in ["error", "timeout"]:
        fail(router, "eu0", 1, kind)
        fail(router, "eu1", 1, kind)
    assert router.metrics().cooling_down == 0


def test_a_domain_spares_the_last_of_a_group() -> None:
    deployments = [Deployment(deployment_id, "m" if deployment_id < "c" else "n", domain="eu") for deployment_id in "abc"]
    router = Router(deployments, health=EXACT)
    fail(router, "a", 2, "connection")
    fail(router, "c", 1, "connection")
    assert [router.stats(i).status for i in "abc"] == [Status.COOLING_DOWN, Status.AVAILABLE, Status.AVAILABLE]


def test_a_domain_forgets_who_has_left() -> None:
    router = zoned()
    router.remove_deployment("eu2")
    router.set_deployments([Deployment("eu0", "m", domain="eu"), Deployment("eu1", "m", domain="us"), Deployment("x", "m")])
    fail(router, "eu0", 2, "connection")
    fail(router, "eu1", 1, "connection")
    assert router.metrics().cooling_down == 0
    router.add_deployment(Deployment("eu1", "m", domain="eu"))
    fail(router, "eu1", 1, "connection")
    assert [router.stats(i).status for i in ["eu0", "eu1", "x"]] == [Status.COOLING_DOWN, Status.COOLING_DOWN, Status.AVAILABLE]


# --- penalties ---


def test_a_failure_weighs_like_a_request_in_flight() -> None:
    from turnout.strategies import build_routing_contexts

    clock = ManualClock(60.0)
    router = make(2, clock=clock, strategy="least_busy")
    fail(router, "d0", 2)
    assert (router.stats("d0").penalty, router.stats("d0").in_flight) == (2, 0)
    assert build_routing_contexts(router, ["d0"])[0].active_requests == 2
    assert [verdict.score for verdict in router.explain("m").verdicts] == [2.0, 0.0]
    leases = [router.acquire("m") for _ in range(2)]
    assert [lease.deployment_id for lease in leases] == ["d1", "d1"]
    assert {router.select("m") for _ in range(50)} == {"d0", "d1"}
    clock.advance(9.999)
    assert router.stats("d0").penalty == 2
    clock.advance(0.001)
    assert router.stats("d0").penalty == 0
    for lease in leases:
        lease.release()


def test_a_penalty_is_no_place_in_flight() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)], health=EXACT, clock=ManualClock(1.0))
    fail(router, "a", 2)
    with router.acquire("m") as lease:
        assert lease.deployment_id == "a"


# --- outliers ---


def test_an_outlier_is_taken_out_beside_its_peers() -> None:
    router = make(3, replace(EXACT, consecutive_failures=None, failure_rate=None, outlier_factor=3.0))
    for i in range(3):
        succeed(router, f"d{i}", 18)
    fail(router, "d1", 2)
    assert router.metrics().cooling_down == 1, "2 of 20, and the others none of 36"
    router = make(3, replace(EXACT, consecutive_failures=None, failure_rate=None, outlier_factor=3.0))
    for i in range(3):
        succeed(router, f"d{i}", 18)
        fail(router, f"d{i}", 1)
    fail(router, "d0", 1)
    assert router.metrics().cooling_down == 0, "2 of 20, and the others 2 of 38"
    fail(router, "d0", 1)
    assert router.metrics().cooling_down == 0, "3 of 21 is under three times 2 of 38"
    fail(router, "d0", 1)
    assert router.stats("d0").status is Status.COOLING_DOWN
    assert "peers" in (router.explain("m").verdicts[0].detail or "")


# --- events ---


def test_events_tell_what_happens() -> None:
    clock = ManualClock(1.0)
    router = make(2, clock=clock)
    events: list[Event] = []
    end = router.subscribe(events.append)
    fail(router, "d0", 3)
    clock.advance(5.0)
    router.acquire("m", exclude={"d1"}).success()
    router.acquire("m", exclude={"d1"}).success()
    assert events == [
        Event(EventKind.COOLDOWN, "d0", "m", 1.0, "failures in a row, out for 5.000 s"),
        Event(EventKind.RECOVERY, "d0", "m", 6.0, "back in service"),
    ]
    assert isinstance(events[0].kind, EventKind)
    assert events[0].kind == "cooldown"
    end()
    end()
    fail(router, "d0", 3)
    assert len(events) == 2


def test_a_router_without_health_options_tells_too() -> None:
    clock = ManualClock(1.0)
    router = Router([Deployment("a", "m")], clock=clock, health=MinuteRules(success_threshold=1))
    events: list[Event] = []
    router.subscribe(events.append)
    router.record_failure("a", "timeout")
    clock.advance(5.0)
    router.acquire("m").success()
    assert [(event.kind, event.detail) for event in events] == [
        (EventKind.COOLDOWN, "timeout, out for 5.000 s"),
        (EventKind.RECOVERY, "back in service"),
    ]


def test_a_callback_may_use_the_router_and_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    router = make(3)
    seen: list[tuple[str | None, str]] = []
    raised: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: raised.append(args.exc_value))

    def callback(event: Event) -> None:
        if event.deployment_id == "d0":
            router.cool_down("d1", 9.0)
        seen.append((event.deployment_id, router.select("m")))
        raise ValueError(event.deployment_id)

    router.subscribe(callback)
    fail(router, "d0", 3)
    assert seen == [("d0", "d2"), ("d1", "d2")]
    assert [str(error) for error in raised] == ["d0", "d1"]
    with pytest.raises(TypeError, match="callback"):
        router.subscribe(3)  # type: ignore[arg-type]


def test_a_callback_that_ends_its_own_subscription() -> None:
    router = make(3)
    calls: list[Event] = []

    def once(event: Event) -> None:
        calls.append(event)
        end()

    end = router.subscribe(once)
    router.cool_down("d0", 1.0)
    router.cool_down("d0", 2.0)
    assert len(calls) == 1


def test_a_call_tells_no_more_than_its_share() -> None:
    """Behind a callback that hangs, the calls of others go on. They leave their events to later calls."""
    router = make(3)
    told: list[Event] = []
    inside, gate = threading.Event(), threading.Event()

    def callback(event: Event) -> None:
        told.append(event)
        inside.set()
        assert gate.wait(10)

    router.subscribe(callback)
    thread = threading.Thread(target=router.cool_down, args=("d0", 1.0))
    thread.start()
    assert inside.wait(10)
    for i in range(12_000):
        router.cool_down("d1", 2.0 + i)
    assert len(told) == 1
    assert router.metrics().events_dropped == 2_000
    gate.set()
    thread.join()
    assert len(told) == 1
    router.cool_down("d2", 1.0)
    assert len(told) == 101
    # Any call tells, and the oldest are dropped: the first of these was the 2,001st.
    for _ in range(100):
        router.report_health("d0", True)
    assert [len(told), router.metrics().events_dropped] == [10_001, 2_001]
    assert told[-1].deployment_id == "d2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_was_forked_amid_a_callback_tells_its_own_events() -> None:
    router = make(3)
    told: list[str | None] = []
    inside, gate = threading.Event(), threading.Event()

    def callback(event: Event) -> None:
        told.append(event.deployment_id)
        inside.set()
        assert gate.wait(10)

    router.subscribe(callback)
    thread = threading.Thread(target=router.cool_down, args=("d0", 1.0))
    thread.start()
    assert inside.wait(10)
    router.cool_down("d1", 1.0)
    child = os.fork()
    if child == 0:
        gate.set()
        told.clear()
        router.cool_down("d2", 1.0)
        os._exit(0 if told == ["d2"] else 1)
    gate.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    router.cool_down("d2", 1.0)
    assert told == ["d0", "d1", "d2"]


def test_a_callback_and_its_router_are_collected_together() -> None:
    class Holder:
        def __init__(self) -> None:
            self.router = make(2)
            self.end = self.router.subscribe(self.told)

        def told(self, event: Event) -> None: ...

    holder = Holder()
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


def test_subscriptions_end_with_their_router() -> None:
    router = make(1)
    events: list[Event] = []
    end = router.subscribe(events.append)
    lease = router.acquire("m")
    del router
    lease.failure("manual")
    assert events == []
    end()


# --- the pathologies of the simple strategies (QUALITY, section 4) ---


@pytest.mark.parametrize("strategy", list(Strategy))
def test_who_joins_is_not_stampeded(strategy: Strategy) -> None:
    """Row 2: joins under 50 requests a second of 5 s each; gets at most twice its fair share of the first 5
    s.
    """
    clock = ManualClock(1.0)
    router = make(4, replace(EXACT, slow_start=30.0), clock, strategy=strategy)
    ends: list[tuple[float, int, Lease]] = []
    counts: Counter[str] = Counter()
    for i in range(1000):
        now = i / 50
        while ends and ends[0][0] <= now:
            heapq.heappop(ends)[2].success(latency=5.0)
        if i == 750:
            router.add_deployment(Deployment("new", "m"))
        lease = router.acquire("m")
        counts[lease.deployment_id] += i >= 750
        heapq.heappush(ends, (now + 5.0, i, lease))
        clock.advance(1 / 50)
    for _, _, lease in ends:
        lease.release()
    assert counts["new"] / 250 <= 2 / 5


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_black_hole_gets_next_to_nothing(strategy: Strategy) -> None:
    """Row 7: of 8 deployments one answers errors in 50 ms for a third of the run; the others take 1 to 6
    s.
    """
    clock = ManualClock(1.0)
    router = make(8, Health(), clock, strategy=strategy)
    chance = random.Random(7)
    n, rate = 30_000, 16.0
    length = n / rate
    ends: list[tuple[float, int, Lease, bool]] = []
    bad, now = 0, 0.0
    for i in range(n):
        arrives = now + chance.expovariate(rate)
        while ends and ends[0][0] <= arrives:
            at, _, lease, fails = heapq.heappop(ends)
            clock.set(1.0 + at)
            lease.failure("error") if fails else lease.success()
        clock.set(1.0 + arrives)
        now = arrives
        lease = router.acquire("m")
        fails = lease.deployment_id == "d0" and length / 3 <= now < 2 * length / 3
        bad += fails
        heapq.heappush(ends, (now + (0.05 if fails else chance.uniform(1.0, 6.0)), i, lease, fails))
    for _, _, lease, _ in ends:
        lease.release()
    assert bad / n <= 0.003, bad


def test_below_the_threshold_a_black_hole_is_not_the_least_busy() -> None:
    """Row 7 without a cooldown: fails in 20 ms, and the penalty alone keeps its share near a fair one."""
    clock = ManualClock(1.0)
    health = replace(EXACT, consecutive_failures=None, failure_rate=None)
    shares = {}
    for penalty in [0.0, 10.0]:
        router = make(4, replace(health, failure_penalty=penalty), clock, strategy="least_busy")
        ends: list[tuple[float, int, Lease]] = []
        bad, start = 0, clock.now()
        for i in range(2000):
            now = start + i / 8
            while ends and ends[0][0] <= now:
                lease = heapq.heappop(ends)[2]
                lease.failure("error") if lease.deployment_id == "d0" else lease.success()
            clock.set(now)
            lease = router.acquire("m")
            bad += lease.deployment_id == "d0"
            heapq.heappush(ends, (now + (0.02 if lease.deployment_id == "d0" else 3.0), i, lease))
        for _, _, lease in ends:
            lease.release()
        shares[penalty] = bad / 2000
    assert shares[0.0] > 0.5
    assert shares[10.0] < 0.15


def test_all_cooled_together_do_not_return_together() -> None:
    """Row 18: the return is spread by jitter, goes through one probe each, and a provider's wait is kept to
    the millisecond.
    """
    clock = ManualClock(1.0)
    router = make(8, replace(Health(), cool_last=True), clock)
    for i in range(8):
        fail(router, f"d{i}", 3)
    ends = sorted(router.snapshot()["cooldown_remaining"])
    assert len(set(ends)) == 8
    assert ends[0] >= 5.0
    assert ends[-1] <= 6.0
    assert ends[-1] - ends[0] > 0.2
    clock.advance(6.0)
    leases = [router.acquire("m") for _ in range(8)]
    assert sorted(lease.deployment_id for lease in leases) == [f"d{i}" for i in range(8)]
    with pytest.raises(AllDeploymentsInCooldown) as caught:
        router.acquire("m")
    assert caught.value.reasons == {"probation": 8}
    for lease, wait in zip(leases, [0.05, 0.05, 30.0, 30.0, 0.05, 30.0, 0.05, 30.0], strict=True):
        lease.failure("rate_limit", retry_after=wait)
        assert router.stats(lease.deployment_id).cooldown_remaining == pytest.approx(wait, abs=1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_repeats_the_jitter(seed: int) -> None:
    def lengths() -> list[float]:
        router = Router([Deployment(str(i), "m") for i in range(9)], health=Health(), clock=ManualClock(), seed=seed)
        for i in range(8):
            fail(router, str(i), 3)
        return list(router.snapshot()["cooldown_remaining"])

    assert lengths() == lengths()


# --- against a model ---


class Model:
    """One deployment beside another that is always well."""

    def __init__(self, health: Health) -> None:
        self.health, self.now = health, 1.0
        self.outcomes: list[tuple[int, bool]] = []
        self.row = self.streak = self.trips = 0
        self.until, self.last_trip = 0.0, 0.0
        self.probation = False

    def bucket(self) -> int:
        return int(self.now * 10 // self.health.window)

    def counts(self) -> tuple[int, int]:
        current = [failed for number, failed in self.outcomes if number > self.bucket() - 10]
        return len(current) - sum(current), sum(current)

    def level(self) -> int:
        return max(0, self.trips - max(0, int((self.now - self.last_trip) // self.health.forget_after)))

    def success(self) -> None:
        if self.now < self.until:
            return
        self.outcomes.append((self.bucket(), False))
        self.row, self.streak = 0, self.streak + 1
        if self.streak >= self.health.success_threshold:
            self.probation = False

    def failure(self, kind: str, wait: float | None) -> None:
        if kind in NEUTRAL:
            return
        if self.now < self.until:
            if wait is not None:
                self.cool(wait)
            return
        self.outcomes.append((self.bucket(), True))
        self.row, self.streak = self.row + 1, 0
        good, bad = self.counts()
        rate = good + bad >= self.health.min_volume and bad / (good + bad) >= (self.health.failure_rate or 2.0)
        in_a_row = self.row >= (self.health.consecutive_failures or 10**9)
        if kind in REFUSALS or wait is not None or self.probation or in_a_row or rate:
            if wait is None:
                level = self.level()
                wait = min(self.health.cooldown_time * self.health.cooldown_growth**level, self.health.max_cooldown)
                self.trips, self.last_trip = level + 1, self.now + wait
            self.cool(wait)

    def cool(self, seconds: float) -> None:
        self.until = max(self.until, self.now + seconds)
        self.row, self.streak, self.probation = 0, 0, True
        self.outcomes.clear()

    def status(self) -> Status:
        if self.now < self.until:
            return Status.COOLING_DOWN
        return Status.DEGRADED if self.probation else Status.AVAILABLE


WAITS = st.none() | st.sampled_from([0.25, 1.0, 8.0])
STEPS = st.one_of(
    st.tuples(st.just("success")),
    st.tuples(st.just("failure"), st.sampled_from([str(kind) for kind in FailureKind]), WAITS),
    st.tuples(st.just("failure"), st.just("error"), WAITS),
    st.tuples(st.just("advance"), st.sampled_from([0.25, 1.0, 4.0, 16.0, 64.0])),
)


@given(
    st.lists(STEPS, max_size=80),
    st.sampled_from([None, 2, 3]),
    st.sampled_from([None, 0.5, 0.75]),
    st.sampled_from([1, 2, 3]),
)
def test_it_does_what_the_model_does(
    steps: list[tuple[Any, ...]], in_a_row: int | None, rate: float | None, threshold: int
) -> None:
    # Lengths that floats have exactly.
    health = Health(
        consecutive_failures=in_a_row,
        failure_rate=rate,
        window=20.0,
        min_volume=4,
        cooldown_time=2.0,
        max_cooldown=16.0,
        cooldown_jitter=0.0,
        forget_after=32.0,
        success_threshold=threshold,
    )
    clock, model = ManualClock(1.0), Model(health)
    router = make(2, health, clock)
    for step in steps:
        if step[0] == "success":
            model.success()
            router.record_success("d0")
        elif step[0] == "failure":
            model.failure(step[1], step[2])
            router.record_failure("d0", step[1], retry_after=step[2])
        else:
            model.now += step[1]
            clock.advance(step[1])
        stats = router.stats("d0")
        assert (stats.status, stats.consecutive_failures, stats.consecutive_successes) == (model.status(), model.row, model.streak)
        assert (stats.window_successes, stats.window_failures) == model.counts()
        assert stats.cooldown_remaining == max(model.until - model.now, 0.0)
        assert stats.trips == model.level()


def test_numbers_of_other_libraries_are_taken_for_those_of_python() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    three: Any = Three()
    health = Health(consecutive_failures=three, window=Fraction(1, 2))  # type: ignore[arg-type]
    assert health == Health(consecutive_failures=3, window=0.5)
    assert "consecutive_failures=3, failure_rate=0.5, window=0.5," in repr(health)
    assert pickle.loads(pickle.dumps(health)) == health
    with pytest.raises(ConfigurationError, match="window must be a finite number"):
        Health(window=10**400)


# --- nobody else ---


def test_the_only_deployment_is_spared_for_a_rate_limit_without_a_wait() -> None:
    clock = ManualClock(30.0)
    router = Router([Deployment("a", "m"), Deployment("b", "n"), Deployment("c", "n")], clock=clock)
    for _ in range(5):
        router.record_failure("a", "rate_limit")
    assert router.stats("a").cooldown_remaining == 0.0
    assert router.select("m") == "a"
    router.record_failure("a", "rate_limit", retry_after=2.5)
    assert router.stats("a").cooldown_remaining == 2.5, "a named wait holds"
    router.record_failure("b", "rate_limit")
    assert router.stats("b").cooldown_remaining >= 5.0, "another one serves"
    router.record_failure("c", "rate_limit")
    assert router.stats("c").cooldown_remaining >= 5.0, "the last in service says so itself"


@pytest.mark.parametrize("kind", ["auth", "not_found", "manual"])
def test_the_only_deployment_is_not_spared_for_other_refusals(kind: str) -> None:
    router = Router([Deployment("a", "m")], clock=ManualClock(30.0))
    router.record_failure("a", kind)  # type: ignore[arg-type]
    assert router.stats("a").cooldown_remaining >= 5.0


def test_cool_last_spares_nobody() -> None:
    router = Router([Deployment("a", "m")], clock=ManualClock(30.0), health=Health(cool_last=True))
    router.record_failure("a", "rate_limit")
    assert router.stats("a").cooldown_remaining >= 5.0


def test_a_group_that_loses_its_others_becomes_a_group_of_one() -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "m")], clock=ManualClock(30.0))
    router.remove_deployment("b")
    router.record_failure("a", "rate_limit")
    assert router.stats("a").cooldown_remaining == 0.0
    router.add_deployment(Deployment("b", "m"))
    router.record_failure("a", "rate_limit")
    assert router.stats("a").cooldown_remaining >= 5.0


# --- failing open ---


@pytest.mark.parametrize("strategy", Strategy)
def test_if_checks_take_all_out_all_are_served(strategy: Strategy) -> None:
    clock = ManualClock(30.0)
    router = Router([Deployment(name, "m") for name in "abc"], strategy=strategy, clock=clock, seed=1)
    router.report_health("a", False)
    router.report_health("b", False)
    assert router.select("m") == "c"
    router.report_health("c", False)
    assert router.select("m") in set("abc")
    with router.acquire("m", exclude={"a", "b"}) as lease:
        assert lease.deployment_id == "c"
    assert [verdict.gate for verdict in router.explain("m").verdicts] == [None] * 3
    assert router.stats("a").status == "unhealthy"
    router.report_health("b", True)
    assert [router.select("m") for _ in range(5)] == ["b"] * 5
    assert [verdict.gate for verdict in router.explain("m").verdicts] == ["unhealthy", None, "unhealthy"]


def test_failing_open_overrides_no_cooldown() -> None:
    clock = ManualClock(30.0)
    router = Router([Deployment("a", "m"), Deployment("b", "m")], clock=clock)
    for name in "ab":
        router.report_health(name, False)
    router.cool_down("a", 7.0)
    assert [router.select("m") for _ in range(5)] == ["b"] * 5
    router.record_failure("b", "rate_limit", retry_after=3.0)
    with pytest.raises(AllDeploymentsInCooldown) as refused:
        router.acquire("m")
    assert refused.value.retry_after == 3.0
    clock.advance(3.0)
    assert router.select("m") == "b"


@pytest.mark.parametrize("health", [Health(fail_open=False), MinuteRules()])
def test_failing_open_can_be_turned_off(health: Health | MinuteRules) -> None:
    router = Router([Deployment("a", "m")], health=health, clock=ManualClock(30.0))
    router.report_health("a", False)
    with pytest.raises(NoAvailableDeployment) as refused:
        router.acquire("m")
    assert refused.value.reasons == {"unhealthy": 1}


def test_who_waits_is_served_when_the_last_is_reported_out() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1), Deployment("b", "m")], clock=ManualClock(30.0))
    router.report_health("b", False)
    first = router.acquire("m")

    async def main() -> str:
        task = asyncio.create_task(router.acquire_async("m"))
        await asyncio.sleep(0.01)
        assert router.waiting("m") == 1
        router.report_health("a", False)
        async with await asyncio.wait_for(task, 5) as lease:
            return lease.deployment_id

    assert asyncio.run(main()) == "b"
    first.release()


def test_members_that_come_and_go_are_counted() -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "m")], clock=ManualClock(30.0))
    for name in "ab":
        router.report_health(name, False)
    router.add_deployment(Deployment("c", "m"))
    assert [router.select("m") for _ in range(5)] == ["c"] * 5
    router.remove_deployment("c")
    assert router.select("m") in {"a", "b"}
    router.set_deployments([Deployment("b", "m"), Deployment("d", "m")])
    assert [router.select("m") for _ in range(5)] == ["d"] * 5
