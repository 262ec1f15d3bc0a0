"""Options that are changed on a router in use, and rules of health that a deployment has for itself."""

import contextlib
import pickle
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from turnout import (
    AllDeploymentsInCooldown,
    ConfigurationError,
    Deployment,
    Event,
    Health,
    Learning,
    Limit,
    ManualClock,
    MinuteRules,
    NoAvailableDeployment,
    Quota,
    Router,
    Status,
    Strategy,
)

EXACT = Health(cooldown_jitter=0.0)


def two(clock: ManualClock, health: Health | MinuteRules | None = EXACT, **facts: Any) -> Router:
    deployments = [Deployment("a", "m", **facts), Deployment("b", "m", priority=1)]
    return Router(deployments, strategy="priority_based", health=health, clock=clock, seed=1)


def fail(router: Router, deployment_id: str, times: int, kind: Any = "error") -> None:
    for _ in range(times):
        router.record_failure(deployment_id, kind)


# --- rules of a deployment's own ---


def test_a_deployment_may_have_rules_of_its_own() -> None:
    router = two(ManualClock(1000), health=replace(EXACT, consecutive_failures=5), limits=[Limit(requests=100)])
    router.add_deployment(
        router.get_deployment("a").replace(health=Health(consecutive_failures=1, cooldown_time=9.0, cooldown_jitter=0.0))
    )
    fail(router, "a", 1)
    fail(router, "b", 1)
    assert (router.stats("a").cooldown_remaining, router.stats("b").cooldown_remaining) == (9.0, 0.0)


@pytest.mark.parametrize("routers", [EXACT, MinuteRules()])
def test_both_kinds_of_rules_may_stand_in_one_group(routers: Health | MinuteRules) -> None:
    clock = ManualClock(1000)
    deployments = [
        Deployment("minute", "m", health=MinuteRules(allowed_fails=2, min_requests=2, cooldown_time=7.0, success_threshold=1)),
        Deployment("health", "m", health=replace(EXACT, consecutive_failures=2, cooldown_time=4.0)),
        Deployment("router's", "m"),
    ]
    router = Router(deployments, health=routers, clock=clock)
    fail(router, "minute", 2)
    fail(router, "health", 2)
    assert (router.stats("minute").cooldown_remaining, router.stats("health").cooldown_remaining) == (7.0, 4.0)
    clock.advance(4.0)
    # By Health one probe at a time.
    with router.acquire("m", exclude={"router's"}) as probe:
        assert probe.deployment_id == "health"
        with pytest.raises(NoAvailableDeployment):
            router.acquire("m", exclude={"router's"})
    clock.advance(3.0)
    with router.acquire("m", exclude={"router's", "health"}), router.acquire("m", exclude={"router's", "health"}):
        pass


def test_the_last_of_a_group_stays_whatever_its_rules_are() -> None:
    deployments = [Deployment("a", "m", health=replace(EXACT, consecutive_failures=1)), Deployment("b", "m", health=MinuteRules())]
    router = Router(deployments, health=MinuteRules(), clock=ManualClock(1000))
    router.cool_down("b", 100.0)
    fail(router, "a", 5)
    assert router.stats("a").status is Status.AVAILABLE
    router.report_health("b", True)
    fail(router, "a", 1)
    assert router.stats("a").status is Status.COOLING_DOWN


def test_slow_start_may_be_a_deployments_own() -> None:
    router = two(ManualClock(1000))
    router.add_deployment(Deployment("slow", "m", health=replace(EXACT, slow_start=30.0)))
    router.add_deployment(Deployment("quick", "m"))
    assert (router.stats("slow").slow_start_share, router.stats("quick").slow_start_share) == (0.1, 1.0)
    assert router.explain("m").verdicts[2].gate == "slow_start"


def test_outliers_are_looked_for_among_those_with_the_same_window() -> None:
    clock = ManualClock(1000)
    rules = replace(EXACT, consecutive_failures=None, failure_rate=None, outlier_factor=3.0, window=60.0)
    other = replace(rules, window=30.0)
    router = Router([Deployment(f"d{i}", "m", health=other if i == 3 else None) for i in range(5)], health=rules, clock=clock)

    def let(deployment_id: str, successes: int, failures: int) -> None:
        for _ in range(successes):
            router.record_success(deployment_id)
        fail(router, deployment_id, failures)

    for i in range(3):
        let(f"d{i}", 50, 0)
    let("d3", 10, 10)
    assert router.stats("d3").status is Status.AVAILABLE
    let("d4", 20, 10)
    assert router.stats("d4").status is Status.COOLING_DOWN
    # What it has counted is kept when it comes under the router's rules.
    router.add_deployment(Deployment("d3", "m"))
    assert (router.stats("d3").window_successes, router.stats("d3").window_failures) == (10, 10)
    fail(router, "d3", 1)
    assert router.stats("d3").status is Status.COOLING_DOWN


@pytest.mark.parametrize("health", [5, "Health", {"cooldown_time": 3}, Learning()])
def test_a_deployment_takes_rules_and_nothing_else(health: Any) -> None:
    with pytest.raises(TypeError, match="health must be a Health, a MinuteRules or None, not "):
        Deployment("a", "m", health=health)


def test_rules_are_facts_like_others() -> None:
    rules = replace(EXACT, cooldown_time=3.0)
    deployment = Deployment("a", "m", health=rules)
    assert deployment.health == rules
    assert Deployment("a", "m").health is None
    assert deployment == Deployment("a", "m", health=replace(EXACT, cooldown_time=3.0)) != Deployment("a", "m", health=EXACT)
    assert deployment != Deployment("a", "m")
    assert pickle.loads(pickle.dumps(deployment)) == deployment
    assert deployment.replace(weight=2).health == rules
    assert deployment.replace(health=None) == Deployment("a", "m")
    assert "health=Health(" in repr(deployment)


# --- options of a router in use ---


@pytest.mark.parametrize("after", list(Strategy))
@pytest.mark.parametrize("before", list(Strategy))
def test_a_strategy_is_changed_and_nothing_else(before: Strategy, after: Strategy) -> None:
    clock = ManualClock(1000)
    facts: list[dict[str, Any]] = [{"weight": 1, "priority": 2}, {"weight": 5, "priority": 1}, {"weight": 2, "priority": 3}]
    deployments = [Deployment(f"d{i}", "m", rpm_limit=50, tpm_limit=1000 + i, tags=["t"], **facts[i]) for i in range(3)]
    router, like = (Router(deployments, strategy=strategy, clock=clock, seed=4) for strategy in (before, after))
    for one in (router, like):
        for i in range(3):
            one.record_success(f"d{i}", tokens=i * 100, latency=3.0 - i)
            one.acquire("m", exclude={f"d{j}" for j in range(3) if j != i}).release()
        one.cool_down("d2", 7.0)
    lease = router.acquire("m", exclude={"d1", "d2"})
    like.acquire("m", exclude={"d1", "d2"}).release()
    router.configure(strategy=after)
    assert (router.strategy, router.explain("m").strategy) == (after, after)
    assert router.stats("d0").in_flight == 1
    lease.release()
    assert router.snapshot() == like.snapshot()
    for _ in range(2):
        picks = [Counter(one.select("m", tags=tags) for tags in [(), ("t",)] for _ in range(50)) for one in (router, like)]
        assert set(picks[0]) == set(picks[1])
        assert "d2" not in picks[0]
        clock.advance(7.0)
        router.report_health("d2", False)
        like.report_health("d2", False)


def test_rules_of_single_models_are_replaced() -> None:
    router = Router(
        [Deployment("a", "m"), Deployment("b", "n"), Deployment("c", "o")],
        strategy="least_busy",
        strategies={"m": "round_robin", "n": "usage_based"},
    )
    router.configure(strategies={"n": "latency_based", "later": "round_robin"})
    assert router.strategies == {"n": Strategy.LATENCY_BASED, "later": Strategy.ROUND_ROBIN}
    router.add_deployment(Deployment("d", "later"))
    followed = {model_name: router.explain(model_name).strategy.value for model_name in ("m", "n", "o", "later")}
    assert followed == {"m": "least_busy", "n": "latency_based", "o": "least_busy", "later": "round_robin"}
    router.configure(strategy="simple-shuffle", strategies={})
    assert (router.strategy, router.strategies) == (Strategy.SIMPLE_SHUFFLE, {})


def test_other_rules_of_health_judge_what_comes_and_what_was_counted() -> None:
    clock = ManualClock(1000)
    router = two(clock)
    fail(router, "a", 2)
    router.record_success("a")
    router.configure(
        health=replace(EXACT, window=600.0, min_volume=4, failure_rate=0.7, consecutive_failures=None, cooldown_time=9.0)
    )
    stats = router.stats("a")
    assert (stats.window_failures, stats.window_successes) == (2, 1)
    fail(router, "a", 1)
    assert router.stats("a").cooldown_remaining == 9.0
    # A cooldown that has begun goes on, also by rules that know no probation.
    router.configure(health=MinuteRules(success_threshold=1))
    assert router.stats("a").cooldown_remaining == 9.0
    clock.advance(9.0)
    first, second = router.acquire("m"), router.acquire("m")
    assert (first.deployment_id, second.deployment_id) == ("a", "a")
    first.success()
    second.success()
    assert router.stats("a").status is Status.AVAILABLE


def test_a_probe_that_is_out_when_the_rules_change_comes_back() -> None:
    clock = ManualClock(1000)
    router = two(clock)
    router.cool_down("a", 5.0)
    clock.advance(5.0)
    probe = router.acquire("m")
    assert (probe.deployment_id, router.explain("m").verdicts[0].gate) == ("a", "probation")
    router.configure(health=MinuteRules())
    probe.success()
    router.configure(health=EXACT)
    assert router.select("m") == "a"


def test_a_panic_begins_and_ends_with_the_rules() -> None:
    router = two(ManualClock(1000))
    events: list[Event] = []
    router.subscribe(events.append)
    for deployment_id in ("a", "b"):
        router.cool_down(deployment_id, 50.0)
    with pytest.raises(AllDeploymentsInCooldown):
        router.select("m")
    router.configure(health=replace(EXACT, panic_threshold=0.5))
    assert (router.select("m"), router.metrics().panicking) == ("a", ("m",))
    router.configure(health=EXACT)
    with pytest.raises(AllDeploymentsInCooldown):
        router.select("m")
    assert [event.kind.value for event in events[-2:]] == ["panic", "panic_over"]


def test_learning_is_changed() -> None:
    clock = ManualClock(1000)
    router = Router([Deployment("a", "m")], clock=clock)
    router.configure(learning=Learning(concurrency=False, longest_wait=10.0))
    leases = [router.acquire("m") for _ in range(4)]
    leases[0].failure("rate_limit", 60.0)
    stats = router.stats("a")
    assert (stats.learnt_parallel_requests, stats.cooldown_remaining) == (None, 10.0)
    for lease in leases:
        lease.release()


def test_what_is_left_out_stays() -> None:
    router = two(ManualClock(1000), health=replace(EXACT, consecutive_failures=1))
    router.configure()
    router.configure(strategy=None, strategies=None, health=None, learning=None)
    router.configure(learning=Learning(headers=False))
    router.configure(strategy="round_robin")
    fail(router, "a", 1)
    assert (router.strategy, router.stats("a").status) == (Strategy.ROUND_ROBIN, Status.COOLING_DOWN)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "fastest"}, ConfigurationError, "unknown strategy"),
        ({"strategies": {"m": "fastest"}}, ConfigurationError, "unknown strategy"),
        ({"strategies": ["m"]}, TypeError, "strategies must be a mapping"),
        ({"health": "Health"}, TypeError, "health must be a Health, a MinuteRules or None"),
        ({"learning": True}, TypeError, "learning must be a Learning or None"),
        ({"seed": 1}, TypeError, "seed"),
    ],
)
def test_what_makes_no_sense_changes_nothing(options: dict[str, Any], error: type[Exception], message: str) -> None:
    router = two(ManualClock(1000))
    good: dict[str, Any] = {"strategy": "round_robin", "health": MinuteRules(), "strategies": {"n": "least_busy"}}
    with pytest.raises(error, match=message):
        router.configure(**(good | options))
    assert (router.strategy, router.strategies) == (Strategy.PRIORITY_BASED, {})
    fail(router, "a", 3)
    assert router.stats("a").trips == 1


def test_waiters_go_on_waiting_and_are_woken_by_what_lets_them_through() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)])
    first = router.acquire("m")
    got: list[str] = []

    def wait() -> None:
        with router.acquire("m", timeout=30.0) as lease:
            got.append(lease.deployment_id)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while router.waiting("m") < 3:
        time.sleep(0.001)
    router.configure(strategy="least_busy", health=MinuteRules())
    assert router.waiting("m") == 3
    first.release()
    for thread in threads:
        thread.join(30.0)
    assert got == ["a"] * 3

    # Out by a health check, and served by rules that then ignore it.
    router.configure(health=Health(fail_open=False))
    router.report_health("a", False)
    thread = threading.Thread(target=wait)
    thread.start()
    while router.waiting("m") < 1:
        time.sleep(0.001)
    router.configure(health=Health())
    thread.join(30.0)
    assert len(got) == 4


def test_options_may_change_under_traffic() -> None:
    """No request is admitted over a limit, and none is lost, whatever is changed meanwhile."""
    quota = Quota("q", Limit(requests=100_000))
    deployments = [
        Deployment(f"d{i}", "m", max_parallel_requests=2, quotas=[quota], health=EXACT if i == 2 else None) for i in range(4)
    ]
    router = Router(deployments)
    done, counts = threading.Event(), Counter[str]()

    def work() -> None:
        mine: Counter[str] = Counter()
        while not done.is_set():
            with contextlib.suppress(NoAvailableDeployment), router.acquire("m") as lease:
                mine["acquired"] += 1
                assert router.stats(lease.deployment_id).in_flight <= 2
                if mine["acquired"] % 7 == 0:
                    lease.failure()
        counts.update(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    changes: list[dict[str, Any]] = [
        *({"strategy": strategy} for strategy in Strategy),
        {"health": Health(window=10.0, outlier_factor=2.0, slow_start=1.0)},
        {"health": MinuteRules()},
        {"health": Health(panic_threshold=0.5, failure_penalty=1.0)},
        {"learning": Learning(headers=False)},
    ]
    for _ in range(20):
        for change in changes:
            router.configure(**change)
    done.set()
    for thread in threads:
        thread.join()
    assert router.metrics().in_flight == 0
    assert router.metrics().total_requests == counts["acquired"] == router.stats("d0").limits[0].used
