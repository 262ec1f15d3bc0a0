"""What stays and what ends when news or other facts come: of what was said, counted and used."""

from dataclasses import replace
from typing import Any

import pytest
from turnout import (
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


class Refused(Exception):
    """What a client raises for a refusal."""

    status_code = 429

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("slow down")
        self.headers = headers


def two(clock: ManualClock, **facts: Any) -> Router:
    deployments = [Deployment("a", "m", **facts), Deployment("b", "m", priority=1)]
    return Router(deployments, strategy="priority_based", health=EXACT, clock=clock, seed=1)


def shared(clock: ManualClock) -> Router:
    quota = Quota("account", Limit(requests=1000))
    return Router([Deployment("a", "m", quotas=[quota])], health=EXACT, clock=clock)


def left(router: Router, deployment_id: str = "a") -> float:
    return router.stats(deployment_id).cooldown_remaining


def paused(router: Router) -> float:
    try:
        router.select("m")
    except NoAvailableDeployment as error:
        return error.retry_after or 0.0
    return 0.0


def used(router: Router, deployment_id: str = "a") -> list[int]:
    return [limit.used for limit in router.stats(deployment_id).limits]


def refuse(router: Router, **said: Any) -> None:
    router.acquire("m").failure("rate_limit", **said)


# --- pauses of a quota ---


@pytest.mark.parametrize("how", ["report_health", "observe", "record_success"])
def test_a_quota_is_paused_again_after_its_pause_was_lifted(how: str) -> None:
    router = shared(clock := ManualClock(1.7e9))
    refuse(router, scope="account")
    assert paused(router) == 5.0
    clock.advance(1.0)
    match how:
        case "report_health":
            router.report_health("a", True)
        case "observe":
            router.observe("a", {"x-ratelimit-limit-requests": "1000", "x-ratelimit-remaining-requests": "10"})
        case _:
            router.record_success("a")
    assert paused(router) == 0.0
    clock.advance(1.0)
    refuse(router, scope="account")
    assert paused(router) == 10.0


def test_refusals_of_before_a_pause_do_not_prolong_it() -> None:
    router = shared(clock := ManualClock(1.7e9))
    leases = [router.acquire("m") for _ in range(5)]
    clock.advance(1.0)
    for lease in leases:
        lease.failure("rate_limit", scope="account")
    assert paused(router) == 5.0
    clock.advance(5.0)
    refuse(router, scope="account")
    assert paused(router) == 10.0


def test_no_refusal_shortens_a_named_pause_unless_it_is_newer() -> None:
    router = shared(clock := ManualClock(1.7e9))
    early = [router.acquire("m") for _ in range(3)]
    clock.advance(1.0)
    early[0].failure("rate_limit", retry_after=60.0, scope="account")
    early[1].failure("rate_limit", scope="account")
    early[2].failure("rate_limit", retry_after=2.0, scope="account")
    router.record_failure("a", "rate_limit", retry_after=3.0, scope="account")
    assert paused(router) == 60.0


# --- named waits of a deployment ---


def test_waits_that_are_too_short_again_and_again_grow() -> None:
    router = two(clock := ManualClock(1.7e9))
    lengths = []
    for _ in range(6):
        with router.acquire("m") as lease:
            assert lease.deployment_id == "a"
            lease.failure("rate_limit", retry_after=0.001)
        lengths.append(left(router))
        clock.advance(left(router))
    assert lengths == pytest.approx([0.001, 0.001, 5.0, 10.0, 20.0, 40.0])
    for _ in range(3):
        router.acquire("m").success()
    refuse(router, retry_after=0.5)
    assert left(router) == 0.5


def test_a_short_wait_of_the_only_deployment_is_taken_at_its_word() -> None:
    router = Router([Deployment("a", "m")], health=EXACT, clock=(clock := ManualClock(1.7e9)))
    for _ in range(6):
        refuse(router, retry_after=0.25)
        assert left(router) == 0.25
        clock.advance(0.25)


@pytest.mark.parametrize("health", [EXACT, MinuteRules()])
def test_better_news_ends_a_named_wait(health: Health | MinuteRules) -> None:
    router = two(clock := ManualClock(1.7e9))
    router.configure(health=health)
    early = router.acquire("m")
    refuse(router, retry_after=60.0)
    clock.advance(1.0)
    early.observe({"x-ratelimit-remaining-requests": "10"})
    assert left(router) == 59.0, "the answer to an earlier request"
    router.observe("a", {"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "10"})
    assert left(router) == 59.0, "something is spent"
    router.observe("a", {"x-ratelimit-remaining-requests": "10"})
    assert (left(router), router.stats("a").status) == (0.0, Status.DEGRADED)
    early.release()
    assert router.select("m") == "a"


def test_news_ends_each_named_wait_also_a_shorter_one() -> None:
    router = two(clock := ManualClock(1.7e9))
    for wait in (60.0, 5.0, 3.0):
        lease = router.acquire("m")
        clock.advance(1.0)
        assert lease.deployment_id == "a"
        lease.failure("rate_limit", retry_after=wait)
        assert left(router) == wait
        clock.advance(1.0)
        router.observe("a", {"x-ratelimit-remaining-requests": "10"})
        assert left(router) == 0.0


def test_news_ends_no_cooldown_that_nobody_named() -> None:
    router = two(ManualClock(1.7e9))
    refuse(router, retry_after=60.0)
    router.cool_down("a", 60.0)
    router.observe("a", {"x-ratelimit-remaining-requests": "10"})
    assert left(router) == 60.0


def test_what_is_spent_names_a_wait_only_if_it_says_until_when() -> None:
    spent = {"x-ratelimit-remaining-requests": "0"}
    router = two(ManualClock(1.7e9))
    with pytest.raises(Refused), router.acquire("m"):
        raise Refused(spent)
    assert left(router) == 5.0, "the length of a cooldown for which no wait is named"
    router = two(ManualClock(1.7e9))
    with pytest.raises(Refused), router.acquire("m"):
        raise Refused(spent | {"x-ratelimit-reset-requests": "17s"})
    assert left(router) == 17.0


@pytest.mark.parametrize(("longest", "holds"), [(0.0, 0.0), (1.0, 1.0), (100.0, 60.0)])
def test_nothing_that_is_said_holds_longer_than_the_longest_wait(longest: float, holds: float) -> None:
    router = Router([Deployment("a", "m")], clock=ManualClock(1.7e9), health=EXACT, learning=Learning(longest_wait=longest))
    router.observe("a", {"x-ratelimit-remaining-tokens": "1"})
    assert [said.resets_in for said in router.stats("a").observed] == ([holds] if holds else [])
    refuse(router, retry_after=30.0)
    assert left(router) == min(longest, 30.0)


@pytest.mark.parametrize("health", [EXACT, MinuteRules()])
@pytest.mark.parametrize(("asked", "named", "stays"), [(3600.0, 7200.0, 3599.0), (4.0, 5.0, 3.0)])
def test_news_leaves_the_cooldowns_of_others(health: Health | MinuteRules, asked: float, named: float, stays: float) -> None:
    router = two(clock := ManualClock(1.7e9))
    router.configure(health=health)
    leases = [router.acquire("m") for _ in range(2)]
    router.cool_down("a", asked)
    leases[0].failure("rate_limit", retry_after=named)
    clock.advance(1.0)
    router.observe("a", {"x-ratelimit-remaining-requests": "10"})
    assert left(router) == stays
    leases[1].release()


@pytest.mark.parametrize("start", [0.0, 1.0, 1.7e9])
def test_the_first_refusal_pauses_a_quota_at_any_time(start: float) -> None:
    router = shared(ManualClock(start))
    refuse(router, scope="account")
    assert paused(router) == 5.0
    router.report_health("a", True)
    refuse(router, scope="account")
    assert paused(router) == 10.0


def test_waits_grow_only_after_two_that_were_too_short() -> None:
    router = two(clock := ManualClock(1.7e9))
    lengths = []
    for _ in range(3):
        router.record_failure("a", "error")
    lengths.append(left(router))
    for _ in range(3):
        clock.advance(left(router))
        refuse(router, retry_after=0.5)
        lengths.append(left(router))
    assert lengths == [5.0, 0.5, 0.5, 5.0]


def test_short_waits_of_the_only_deployment_do_not_grow_whatever_the_rules_cool() -> None:
    health = replace(EXACT, cool_last=True)
    router = Router([Deployment("a", "m")], health=health, clock=(clock := ManualClock(1.7e9)))
    for _ in range(5):
        refuse(router, retry_after=0.5)
        assert left(router) == 0.5
        clock.advance(0.5)


def test_a_deployment_that_news_brought_back_is_announced() -> None:
    events: list[str] = []
    router = two(clock := ManualClock(1.7e9))
    router.configure(health=MinuteRules())
    router.subscribe(lambda event: events.append(event.kind.value))
    refuse(router, retry_after=60.0)
    clock.advance(1.0)
    router.observe("a", {"x-ratelimit-remaining-requests": "10"})
    assert events[-1] == "recovery"


# --- rules that change ---


def test_a_slow_start_that_is_over_stays_over() -> None:
    router = Router([Deployment("a", "m")], health=replace(EXACT, slow_start=10.0), clock=(clock := ManualClock(1.7e9)))
    router.add_deployment(Deployment("b", "m"))
    clock.advance(50.0)
    router.configure(health=replace(EXACT, slow_start=100.0))
    assert router.stats("b").slow_start_share == 1.0


def test_a_window_of_first_use_begins_with_a_request() -> None:
    router = Router([Deployment("a", "m", limits=[Limit(requests=10)])], clock=(clock := ManualClock(1.7e9)), health=EXACT)
    router.add_deployment(Deployment("a", "m", limits=[Limit(requests=10, per=100, start="first_use")]))
    clock.advance(99.0)
    for _ in range(10):
        router.acquire("m").release()
    assert paused(router) == 100.0


def test_outcomes_of_old_facts_are_judged_by_the_new_ones() -> None:
    router = two(clock := ManualClock(1.7e9))
    lease = router.acquire("m")
    router.add_deployment(Deployment("a", "m", health=replace(EXACT, window=600.0, consecutive_failures=2)))
    lease.failure("error")
    clock.advance(300.0)
    assert (router.stats("a").window_failures, left(router)) == (1, 0.0)
    router.record_failure("a", "error")
    assert (router.stats("a").consecutive_failures, left(router)) == (0, 5.0)


def test_windows_go_on_over_rules_that_know_none() -> None:
    router = two(clock := ManualClock(1.7e9))
    router.record_failure("a", "error")
    for health in (MinuteRules(), replace(EXACT, window=600.0, failure_penalty=100.0)):
        router.configure(health=health)
    router.record_failure("a", "error")
    assert router.stats("a").window_failures == 2
    clock.advance(599.0)
    router.record_success("a")
    clock.advance(61.0)
    stats = router.stats("a")
    assert (stats.window_failures, stats.window_successes) == (0, 1)


def test_what_minute_rules_left_is_no_probation() -> None:
    router = two(ManualClock(1.7e9))
    router.configure(health=MinuteRules())
    router.record_failure("a", "error")
    assert router.stats("a").status is Status.DEGRADED
    router.configure(health=EXACT)
    assert router.stats("a").status is Status.AVAILABLE


def test_the_place_of_a_probation_stops_nobody_under_minute_rules() -> None:
    router = two(clock := ManualClock(1.7e9))
    router.cool_down("a", 1.0)
    clock.advance(1.0)
    probe = router.acquire("m")
    assert (probe.deployment_id, router.select("m")) == ("a", "b")
    router.configure(health=MinuteRules())
    assert router.select("m") == "a"
    probe.success()
    assert router.select("m") == "a"


def test_a_domain_leaves_members_with_minute_rules_alone() -> None:
    own: dict[str, Health | MinuteRules | None] = {
        "minute": MinuteRules(),
        "own": replace(EXACT, cooldown_time=9.0),
        "router": None,
    }
    deployments = [Deployment(name, name, domain="zone", health=health) for name, health in own.items()]
    deployments += [Deployment(f"{name} too", name, domain="elsewhere") for name in own]
    router = Router(deployments, health=replace(EXACT, consecutive_failures=2), clock=ManualClock(1.7e9))
    router.record_failure("router", "connection")
    router.record_failure("own", "connection")
    assert {name: left(router, name) for name in own} == {"minute": 0.0, "own": 9.0, "router": 5.0}


def test_who_has_left_says_nothing_more() -> None:
    events: list[Event] = []
    deployments = [Deployment(name, "m", domain="zone") for name in "abc"] + [Deployment("d", "m")]
    router = Router(deployments, health=replace(EXACT, consecutive_failures=2), strategy="round_robin", clock=ManualClock(1.7e9))
    router.subscribe(events.append)
    leases = [router.acquire("m") for _ in range(2)]
    for lease in leases:
        router.remove_deployment(lease.deployment_id)
        lease.failure("connection", retry_after=3.0)
    assert (events, left(router, "c")) == ([], 0.0)


def test_a_panic_is_announced_once() -> None:
    events: list[str] = []
    router = Router([Deployment(name, "m") for name in "abc"], health=replace(EXACT, panic_threshold=0.5), clock=ManualClock(1.7e9))
    router.subscribe(lambda event: events.append(event.kind.value))
    router.cool_down("a", 60.0)
    router.cool_down("b", 60.0)
    router.configure(strategy=Strategy.LEAST_BUSY)
    router.configure(strategy=Strategy.ROUND_ROBIN, health=replace(EXACT, panic_threshold=0.4))
    assert events.count("panic") == 1
    router.configure(health=replace(EXACT, panic_threshold=0.1))
    assert (events.count("panic"), events.count("panic_over")) == (1, 1)


def test_a_slow_start_that_is_made_longer_goes_on() -> None:
    router = Router([Deployment("a", "m")], health=replace(EXACT, slow_start=10.0), clock=(clock := ManualClock(1.7e9)))
    router.add_deployment(Deployment("b", "m"))
    router.configure(health=replace(EXACT, slow_start=100.0))
    clock.advance(50.0)
    picks = [router.select("m") for _ in range(400)]
    assert router.stats("b").slow_start_share == 0.5
    assert picks.count("b") == pytest.approx(100, abs=5)


# --- limits that are written anew ---


@pytest.mark.parametrize(
    ("before", "requests", "after", "expected"),
    [
        ({"rpm_limit": 100}, 90, [Limit(requests=1000, per=1), Limit(requests=100)], [90, 90]),
        ({"limits": [Limit(requests=100)]}, 90, [Limit(requests=1000, per=1), Limit(requests=100, per=61)], [90, 90]),
        (
            {"limits": [Limit(requests=100, per=100), Limit(requests=1000, per=1000)]},
            90,
            [Limit(requests=500, per=600), Limit(requests=1000, per=1000, kind="sliding")],
            [90, 90],
        ),
        ({"limits": [Limit(requests=10_000, per=86_400)]}, 900, [Limit(requests=100, kind="bucket")], [100]),
    ],
)
def test_each_limit_takes_over_the_nearest(before: dict[str, Any], requests: int, after: list[Limit], expected: list[int]) -> None:
    router = Router([Deployment("a", "m", **before)], clock=ManualClock(1.7e9), health=EXACT)
    for _ in range(requests):
        router.acquire("m").release()
    router.add_deployment(Deployment("a", "m", limits=after))
    assert used(router) == expected


def test_a_limit_a_minute_takes_over_the_nearest() -> None:
    limits = [Limit(requests=1000, per=86_400), Limit(requests=100, per=30)]
    router = Router([Deployment("a", "m", limits=limits)], clock=(clock := ManualClock(1.7e9)), health=EXACT)
    for _ in range(50):
        router.acquire("m").release()
    clock.advance(60.0)
    for _ in range(20):
        router.acquire("m").release()
    router.set_deployments([Deployment("a", "m", rpm_limit=100)])
    assert router.stats("a").rpm_current == 20


def test_a_time_zone_has_a_name_that_means_the_same_everywhere() -> None:
    for name in ("localtime", "posixrules", "LocalTime"):
        with pytest.raises(ValueError, match="timezone must be the name of a time zone of the IANA database"):
            Limit(requests=10, per=86_400, timezone=name)
