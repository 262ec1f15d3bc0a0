"""What stops a deployment and for how long: the order of the gates, limits and minutes, cooldowns, probation,
and the errors.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import (
    AllDeploymentsInCooldown,
    Deployment,
    FailureKind,
    Lease,
    ManualClock,
    MinuteRules,
    NoAvailableDeployment,
    RateLimitExceeded,
    RequestTooLarge,
    Router,
    Status,
)

AT_ONCE = [FailureKind.RATE_LIMIT, FailureKind.AUTH, FailureKind.NOT_FOUND, FailureKind.TIMEOUT, FailureKind.MANUAL]
COUNTED = [FailureKind.ERROR, FailureKind.CONNECTION]
NEUTRAL = [FailureKind.BAD_REQUEST, FailureKind.CONTENT_POLICY, FailureKind.CONTEXT_WINDOW, FailureKind.CANCELLED]


def one(clock: ManualClock, *, settings: dict[str, Any] | None = None, **facts: Any) -> Router:
    """A router of one deployment, `a` of `m`."""
    return Router([Deployment("a", "m", **facts)], clock=clock, health=MinuteRules(**(settings or {})))


def refused(router: Router, model_name: str = "m", **options: Any) -> NoAvailableDeployment:
    """The error of a pick; select, acquire and explain agree on it."""
    with pytest.raises(NoAvailableDeployment) as caught:
        router.acquire(model_name, **options)
    with pytest.raises(NoAvailableDeployment) as also:
        router.select(model_name, **options)
    assert type(also.value) is type(caught.value)
    assert also.value.args == caught.value.args
    explained = router.explain(model_name, **options)
    assert explained.winner is None
    assert explained.retry_after == caught.value.retry_after
    return caught.value


def admitted(router: Router, most: int = 1000, **options: Any) -> int:
    """How many requests are let in one after the other, each ended at once."""
    for count in range(most):
        try:
            router.acquire("m", **options).release()
        except NoAvailableDeployment:
            return count
    return most


@contextmanager
def held(router: Router, number: int = 1, **options: Any) -> Iterator[list[Lease]]:
    """So many requests in flight, which leave without an outcome at the end."""
    with ExitStack() as stack:
        leases = []
        for _ in range(number):
            leases.append(router.acquire("m", **options))
            stack.callback(leases[-1].release)
        yield leases


# --- the order of the gates ---

GATES = ["tags", "excluded", "cooling_down", "unhealthy", "max_parallel_requests", "rpm_limit", "tpm_limit"]
SUBSETS = [subset for size in range(1, len(GATES) + 1) for subset in combinations(GATES, size)]


@pytest.mark.parametrize("closed", SUBSETS, ids="+".join)
def test_the_first_closed_gate_is_the_one_named(closed: tuple[str, ...], clock: ManualClock) -> None:
    router = one(
        clock,
        max_parallel_requests=1 if "max_parallel_requests" in closed else None,
        rpm_limit=1 if "rpm_limit" in closed else None,
        tpm_limit=1 if "tpm_limit" in closed else None,
    )
    options: dict[str, Any] = {
        "tags": ["eu"] if "tags" in closed else None,
        "exclude": ["a"] if "excluded" in closed else None,
    }
    lease = router.acquire("m", tokens=1)
    if "max_parallel_requests" not in closed:
        lease.release()
    if "cooling_down" in closed:
        router.cool_down("a", 5)
    if "unhealthy" in closed:
        router.report_health("a", False)

    (verdict,) = router.explain("m", **options).verdicts
    assert verdict.gate == closed[0]
    error = refused(router, **options)
    assert error.reasons == {closed[0]: 1}
    expected = {
        "cooling_down": AllDeploymentsInCooldown,
        "rpm_limit": RateLimitExceeded,
        "tpm_limit": RateLimitExceeded,
    }
    assert type(error) is expected.get(closed[0], NoAvailableDeployment)
    lease.release()


def test_a_refusal_leaves_nothing_behind(clock: ManualClock) -> None:
    router = one(clock, rpm_limit=5, tpm_limit=100, max_parallel_requests=2)
    with held(router, tokens=90):
        before = router.snapshot()
        refused(router, tokens=11)
        assert router.snapshot() == before
        with held(router, tokens=10):
            before = router.snapshot()
            refused(router)
            assert router.snapshot() == before


# --- inclusive limits ---


@pytest.mark.parametrize("limit", [1, 2, 5, 10, 60, 1000])
def test_a_request_limit_admits_exactly_that_many(limit: int, clock: ManualClock) -> None:
    router = one(clock, rpm_limit=limit)
    assert admitted(router, 2 * limit) == limit
    assert router.stats("a").rpm_current == limit


@pytest.mark.parametrize("limit", [1, 2, 10, 50])
def test_a_parallel_limit_admits_exactly_that_many(limit: int, clock: ManualClock) -> None:
    router = one(clock, max_parallel_requests=limit)
    with held(router, limit) as leases:
        error = refused(router)
        assert error.reasons == {"max_parallel_requests": 1}
        assert error.retry_after is None
        leases[0].release()
        router.acquire("m").release()
    assert router.stats("a").in_flight == 0


@pytest.mark.parametrize(
    ("limit", "tokens", "expected"),
    [(1, 1, 1), (100, 10, 10), (100, 33, 3), (100, 100, 1), (2**64 - 2, 2**63 - 1, 2), (2**64 - 1, 2**63, 1)],
)
def test_a_token_limit_admits_up_to_it(limit: int, tokens: int, expected: int, clock: ManualClock) -> None:
    router = one(clock, tpm_limit=limit)
    assert admitted(router, tokens=tokens) == expected
    left = limit - expected * tokens
    if left:
        assert admitted(router, 1, tokens=left) == 1
    assert router.stats("a").tpm_current == limit
    # A request of unknown size needs a token at least.
    assert refused(router).reasons == {"tpm_limit": 1}


def test_huge_counts_do_not_wrap(clock: ManualClock) -> None:
    router = one(clock, tpm_limit=2**64 - 1)
    router.record_success("a", tokens=2**64 - 1)
    router.record_success("a", tokens=2**64 - 1)
    assert router.stats("a").tpm_current == 2**64 - 1
    assert router.stats("a").total_tokens == 2**64 - 1
    assert refused(router, tokens=2**64 - 1).reasons == {"tpm_limit": 1}


def test_what_was_reported_counts_too(clock: ManualClock) -> None:
    router = one(clock, rpm_limit=5, tpm_limit=100)
    router.record_success("a", tokens=60)
    router.record_failure("a")
    assert (router.stats("a").rpm_current, router.stats("a").tpm_current) == (2, 60)
    assert admitted(router, tokens=20) == 2
    # What was used may be above the limit; there is just nothing left then.
    router.record_success("a", tokens=1000)
    assert router.stats("a").tpm_current == 1100
    assert refused(router).reasons == {"rpm_limit": 1}


# --- minutes ---


def test_a_new_minute_frees_the_limits(clock: ManualClock) -> None:
    router = one(clock, rpm_limit=3, tpm_limit=10)
    for minute in range(5):
        clock.set(60 * minute + 59.999999)
        assert admitted(router, tokens=2) == 3
        assert refused(router).retry_after == pytest.approx(1e-6, abs=1e-12)
        clock.set(60 * (minute + 1))
        stats = router.stats("a")
        assert (stats.rpm_current, stats.tpm_current, stats.fails_this_minute) == (0, 0, 0)
    assert router.stats("a").total_requests == 15


def test_minutes_are_the_clocks() -> None:
    clock = ManualClock(1030)
    router = one(clock, rpm_limit=1)
    assert admitted(router) == 1
    # 1080 is a multiple of 60, though not a minute after the first request.
    assert refused(router).retry_after == 50
    clock.set(1080)
    assert admitted(router) == 1


def test_a_minute_without_requests_carries_nothing_over(clock: ManualClock) -> None:
    router = one(clock, rpm_limit=2)
    assert admitted(router) == 2
    clock.advance(3600)
    assert admitted(router) == 2


def test_places_in_flight_do_not_roll(clock: ManualClock) -> None:
    router = one(clock, max_parallel_requests=1)
    with held(router):
        for _ in range(20):
            clock.advance(601)
            assert refused(router).retry_after is None
            assert router.stats("a").in_flight == 1


def test_an_outcome_settles_only_in_the_minute_that_reserved(clock: ManualClock) -> None:
    router = one(clock, tpm_limit=100, rpm_limit=10)
    clock.set(59)
    early = [router.acquire("m", tokens=10) for _ in range(4)]
    early[0].success(tokens=25)
    assert router.stats("a").tpm_current == 55
    early[1].success(tokens=0)
    assert router.stats("a").tpm_current == 45
    clock.set(61)
    with held(router, tokens=30):
        early[2].success(tokens=90)
        early[3].release(unused=True)
        assert (router.stats("a").rpm_current, router.stats("a").tpm_current) == (1, 30)
        assert router.stats("a").total_tokens == 115


def test_only_an_unused_release_gives_back(clock: ManualClock) -> None:
    router = one(clock, tpm_limit=100, rpm_limit=10)
    router.acquire("m", tokens=40).release(unused=True)
    assert (router.stats("a").rpm_current, router.stats("a").tpm_current, router.stats("a").total_requests) == (0, 0, 0)
    router.acquire("m", tokens=40).release()
    router.acquire("m", tokens=50).failure()
    assert (router.stats("a").rpm_current, router.stats("a").tpm_current, router.stats("a").total_requests) == (2, 90, 2)


# --- a clock that steps back ---


@pytest.mark.parametrize("back", [0.000001, 6, 59, 60])
def test_a_short_step_back_holds_the_minute(back: float, clock: ManualClock) -> None:
    router = one(clock, rpm_limit=3)
    clock.set(125)
    assert admitted(router) == 3
    clock.set(125 - back)
    assert admitted(router) == 0
    assert router.stats("a").rpm_current == 3
    clock.set(125)
    assert admitted(router) == 0
    clock.set(179.9)
    assert admitted(router) == 0
    clock.set(180)
    assert admitted(router) == 3


@pytest.mark.parametrize("back", [60.000001, 3600, 999_965])
def test_after_a_long_step_back_time_goes_on(back: float) -> None:
    clock = ManualClock(999_965)
    router = one(clock, rpm_limit=3)
    router.cool_down("a", 20)
    clock.set(999_965 - back)
    assert router.stats("a").cooldown_remaining == 20
    clock.advance(20)
    assert router.stats("a").status is Status.DEGRADED
    assert admitted(router) == 3
    # It was 5 seconds into its minute, so 35 remain.
    assert refused(router).retry_after == pytest.approx(35, abs=1e-5)
    clock.advance(35.1)
    assert admitted(router) == 3


def test_a_clock_that_flaps_over_a_minutes_turn_admits_two_minutes_worth(clock: ManualClock) -> None:
    router = one(clock, rpm_limit=3)
    total = 0
    for _ in range(100):
        for reading in (59, 61, 30, 70, 58):
            clock.set(reading)
            total += admitted(router)
    assert total == 6


def test_a_cooldown_does_not_wait_for_the_old_reading(clock: ManualClock) -> None:
    router = one(clock)
    clock.set(1000)
    router.cool_down("a", 5)
    clock.set(990)
    assert refused(router).retry_after == 5
    clock.set(1005)
    assert router.select("m") == "a"


READINGS = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 100_000)), min_size=1, max_size=60)


@given(readings=READINGS, limit=st.integers(1, 3))
def test_no_sequence_of_readings_wedges_or_double_counts(readings: list[int], limit: int) -> None:
    clock = ManualClock(readings[0])
    router = one(clock, rpm_limit=limit)
    # Time as the class describes it: held for a step back of up to a minute, going on from where it was after
    # a longer one.
    time = high = readings[0]
    by_minute: dict[int, int] = {}
    for reading in readings:
        clock.set(reading)
        if reading > high:
            time += reading - high
            high = reading
        elif high - reading > 60:
            high = reading
        by_minute[time // 60] = by_minute.get(time // 60, 0) + admitted(router)
    assert set(by_minute.values()) == {limit}
    # A minute to catch up and a minute to roll.
    clock.advance(120)
    assert admitted(router) == limit


def test_a_latency_is_never_negative(clock: ManualClock) -> None:
    router = one(clock)
    clock.set(100)
    lease = router.acquire("m")
    clock.set(50)
    lease.success()
    assert router.stats("a").avg_latency is None
    lease = router.acquire("m")
    clock.set(102.5)
    lease.success()
    assert router.stats("a").avg_latency == 2.5


# --- cooldowns ---


@pytest.mark.parametrize("kind", AT_ONCE)
@pytest.mark.parametrize("by_lease", [True, False])
def test_one_failure_of_these_kinds_is_enough(kind: FailureKind, by_lease: bool, clock: ManualClock) -> None:
    router = one(clock)
    if by_lease:
        assert router.acquire("m").failure(kind)
    else:
        router.record_failure("a", kind)
    stats = router.stats("a")
    assert (stats.status, stats.cooldown_remaining, stats.total_failures, stats.fails_this_minute) == (Status.COOLING_DOWN, 5, 1, 1)
    error = refused(router)
    assert isinstance(error, AllDeploymentsInCooldown)
    assert error.retry_after == 5
    clock.advance(4.999)
    assert refused(router).retry_after == pytest.approx(0.001)
    clock.advance(0.001)
    assert router.select("m") == "a"


@pytest.mark.parametrize("kind", COUNTED)
def test_failures_of_these_kinds_are_counted(kind: FailureKind, clock: ManualClock) -> None:
    router = one(clock)
    for _ in range(7):
        router.record_success("a")
    router.record_failure("a", kind)
    router.record_failure("a", kind)
    assert router.stats("a").status is Status.DEGRADED
    assert router.stats("a").fails_this_minute == 2
    # The third failure, and the tenth request.
    router.record_failure("a", kind)
    assert router.stats("a").status is Status.COOLING_DOWN


@pytest.mark.parametrize("kind", NEUTRAL)
@pytest.mark.parametrize("by_lease", [True, False])
def test_failures_of_these_kinds_say_nothing(kind: FailureKind, by_lease: bool, clock: ManualClock) -> None:
    router = one(clock, settings={"allowed_fails": 1, "min_requests": 1})
    router.record_success("a", latency=0.25)
    before = router.stats("a")
    for _ in range(30):
        if by_lease:
            assert router.acquire("m").failure(kind, retry_after=90)
        else:
            router.record_failure("a", kind, retry_after=90)
    after = router.stats("a")
    counted = {"rpm_current", "total_requests"}
    assert all(getattr(after, name) == getattr(before, name) for name in before.__slots__ if name not in counted)
    assert after.status is Status.AVAILABLE
    assert (after.rpm_current, after.total_requests) == (31, 31)


@pytest.mark.parametrize(
    ("allowed_fails", "min_requests", "successes", "fails", "cools"),
    [
        (3, 10, 7, 3, True),
        (3, 10, 6, 3, False),
        (3, 10, 20, 2, False),
        (3, 0, 0, 3, True),
        (3, 0, 0, 2, False),
        (0, 0, 0, 1, True),
        (1, 1, 0, 1, True),
        (0, 5, 3, 1, False),
        (0, 5, 4, 1, True),
        # More than half of at least ten.
        (100, 100, 4, 6, True),
        (100, 100, 5, 5, False),
        (100, 100, 5, 6, True),
        (100, 100, 0, 9, False),
        (100, 100, 0, 10, True),
        (2**64 - 1, 2**64 - 1, 50, 50, False),
        (2**64 - 1, 2**64 - 1, 49, 50, True),
    ],
)
def test_how_many_failures_are_too_many(
    allowed_fails: int, min_requests: int, successes: int, fails: int, cools: bool, clock: ManualClock
) -> None:
    router = one(clock, settings={"allowed_fails": allowed_fails, "min_requests": min_requests})
    for _ in range(successes):
        router.record_success("a")
    for _ in range(fails - 1):
        router.record_failure("a")
    # Every case is decided by its last failure.
    assert router.stats("a").status is not Status.COOLING_DOWN
    router.record_failure("a")
    assert (router.stats("a").status is Status.COOLING_DOWN) is cools


def test_failures_of_another_minute_do_not_count(clock: ManualClock) -> None:
    router = one(clock, settings={"allowed_fails": 3, "min_requests": 3})
    clock.set(59)
    router.record_failure("a")
    router.record_failure("a")
    clock.set(60)
    assert router.stats("a").fails_this_minute == 0
    router.record_failure("a")
    router.record_failure("a")
    assert router.stats("a").status is Status.DEGRADED
    router.record_failure("a")
    assert router.stats("a").status is Status.COOLING_DOWN


def test_requests_that_fail_in_the_minute_after_they_were_sent_count(clock: ManualClock) -> None:
    """Else slow failures, each sent in the minute before, would never cool anything down."""
    router = one(clock)
    clock.set(50)
    leases = [router.acquire("m") for _ in range(10)]
    clock.set(70)
    for lease in leases:
        lease.failure()
    assert router.stats("a").status is Status.COOLING_DOWN
    assert router.stats("a").rpm_current == 0


@pytest.mark.parametrize("seconds", [0.05, 0.25, 1, 30, 3600, 1e9])
@pytest.mark.parametrize("kind", AT_ONCE)
def test_the_provider_says_how_long(seconds: float, kind: FailureKind, clock: ManualClock) -> None:
    router = one(clock)
    router.acquire("m").failure(kind, retry_after=seconds)
    seconds = min(seconds, 604_800.0)  # a week is the longest that is taken
    assert router.stats("a").cooldown_remaining == seconds
    assert refused(router).retry_after == seconds


def test_the_provider_says_how_long_when_failures_are_too_many(clock: ManualClock) -> None:
    router = one(clock, settings={"allowed_fails": 2, "min_requests": 2})
    router.record_failure("a", retry_after=50)
    # It starts a cooldown by itself, and none is shortened.
    assert router.stats("a").cooldown_remaining == 50
    router.record_failure("a", retry_after=40)
    assert router.stats("a").cooldown_remaining == 50


def test_a_retry_after_of_0_is_no_wait(clock: ManualClock) -> None:
    clock.set(10)
    router = one(clock)
    router.record_failure("a", retry_after=0)
    assert router.stats("a").status is Status.DEGRADED
    router.record_failure("a", "rate_limit", retry_after=0)
    assert router.stats("a").cooldown_remaining == 5.0


@pytest.mark.parametrize("cooldown_time", [0.5, 5.0, 60, 600])
def test_the_usual_length(cooldown_time: float, clock: ManualClock) -> None:
    router = one(clock, settings={"cooldown_time": cooldown_time})
    router.record_failure("a", "auth")
    assert router.stats("a").cooldown_remaining == cooldown_time


@pytest.mark.parametrize("order", [(60, 1), (1, 60)])
def test_the_latest_end_wins(order: tuple[float, float], clock: ManualClock) -> None:
    by_hand, by_failure = one(clock), one(clock)
    for seconds in order:
        by_hand.cool_down("a", seconds)
        by_failure.record_failure("a", "rate_limit", retry_after=seconds)
    assert by_hand.stats("a").cooldown_remaining == 60
    assert by_failure.stats("a").cooldown_remaining == 60


def test_cooling_down_by_hand(clock: ManualClock) -> None:
    router = one(clock)
    router.cool_down("a", 2.5)
    stats = router.stats("a")
    assert (stats.status, stats.cooldown_remaining) == (Status.COOLING_DOWN, 2.5)
    assert (stats.total_requests, stats.total_failures, stats.fails_this_minute) == (0, 0, 0)
    clock.advance(2.5)
    assert router.stats("a").status is Status.DEGRADED


def test_leases_of_before_go_on_in_a_cooldown(clock: ManualClock) -> None:
    router = one(clock)
    with held(router):
        router.cool_down("a", 5)
        assert router.stats("a").in_flight == 1
        refused(router)
    assert router.stats("a").in_flight == 0


# --- probation ---


@pytest.mark.parametrize("threshold", [1, 2, 3, 10])
def test_successes_in_a_row_end_the_probation(threshold: int, clock: ManualClock) -> None:
    router = one(clock, settings={"success_threshold": threshold})
    router.cool_down("a", 5)
    clock.advance(5)
    for turn in range(threshold):
        assert router.stats("a").status is Status.DEGRADED
        assert router.stats("a").consecutive_successes == turn
        router.acquire("m").success()
    assert router.stats("a").status is Status.AVAILABLE


def test_a_failure_starts_the_count_again(clock: ManualClock) -> None:
    router = one(clock)
    router.record_failure("a")
    assert router.stats("a").status is Status.DEGRADED
    for outcome in "ssfsss":
        assert router.stats("a").status is Status.DEGRADED
        if outcome == "s":
            router.record_success("a")
        else:
            router.record_failure("a")
    assert router.stats("a").status is Status.AVAILABLE


def test_a_success_does_not_end_a_cooldown(clock: ManualClock) -> None:
    router = one(clock, settings={"success_threshold": 1})
    with held(router, 3) as leases:
        router.cool_down("a", 5)
        for lease in leases:
            lease.success()
        assert router.stats("a").status is Status.COOLING_DOWN
    clock.advance(5)
    assert router.stats("a").status is Status.DEGRADED


def test_a_release_neither_helps_nor_harms(clock: ManualClock) -> None:
    router = one(clock)
    router.record_failure("a")
    router.record_success("a")
    router.record_success("a")
    for unused in (True, False):
        router.acquire("m").release(unused=unused)
    assert (router.stats("a").status, router.stats("a").consecutive_successes) == (Status.DEGRADED, 2)
    router.record_success("a")
    assert router.stats("a").status is Status.AVAILABLE


def test_on_probation_it_is_a_candidate_like_others(clock: ManualClock) -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "m")], strategy="round_robin", clock=clock)
    router.cool_down("a", 5)
    assert router.select_many("m", 3) == ["b"] * 3
    clock.advance(5)
    assert sorted(router.select_many("m", 4)) == ["a", "a", "b", "b"]


# --- health checks ---


def test_an_unhealthy_one_waits_for_the_next_check(clock: ManualClock) -> None:
    router = one(clock, settings={"success_threshold": 2})
    with held(router, 3) as leases:
        router.report_health("a", False)
        assert router.stats("a").status is Status.UNHEALTHY
        for lease in leases:
            lease.success()
    clock.advance(1e6)
    error = refused(router)
    assert type(error) is NoAvailableDeployment
    assert error.reasons == {"unhealthy": 1}
    assert error.retry_after is None
    router.report_health("a", True)
    assert (router.stats("a").status, router.stats("a").consecutive_successes) == (Status.DEGRADED, 0)
    router.record_success("a")
    router.record_success("a")
    assert router.stats("a").status is Status.AVAILABLE


def test_a_good_check_ends_a_cooldown(clock: ManualClock) -> None:
    router = one(clock)
    router.cool_down("a", 600)
    router.report_health("a", True)
    assert (router.stats("a").status, router.stats("a").cooldown_remaining) == (Status.DEGRADED, 0)
    assert router.select("m") == "a"


def test_a_bad_check_in_a_cooldown_outlasts_it(clock: ManualClock) -> None:
    router = one(clock)
    router.cool_down("a", 5)
    router.report_health("a", False)
    assert refused(router).reasons == {"cooling_down": 1}
    clock.advance(5)
    assert refused(router).reasons == {"unhealthy": 1}
    router.report_health("a", True)
    assert router.select("m") == "a"


def test_a_good_check_of_one_in_service_changes_nothing(clock: ManualClock) -> None:
    router = one(clock)
    router.record_success("a")
    before = router.stats("a")
    router.report_health("a", True)
    assert router.stats("a") == before
    router.record_failure("a")
    router.record_success("a")
    before = router.stats("a")
    router.report_health("a", True)
    assert router.stats("a") == before


def test_good_checks_do_not_prolong_a_probation(clock: ManualClock) -> None:
    """A check every few seconds would otherwise keep a deployment with little traffic on probation for
    ever.
    """
    router = one(clock, settings={"success_threshold": 3})
    router.cool_down("a", 5)
    clock.advance(5)
    for _ in range(3):
        router.record_success("a")
        router.report_health("a", True)
    assert router.stats("a").status is Status.AVAILABLE


# --- when to come back ---


@pytest.mark.parametrize("seconds", [0.05, 0.001, 1.5, 12.345678, 599.95])
def test_a_wait_is_computed(seconds: float, clock: ManualClock) -> None:
    clock.set(1234.5)
    router = one(clock)
    router.cool_down("a", seconds)
    error = refused(router)
    assert error.retry_after == pytest.approx(seconds, abs=1e-9)
    assert f"try again in {seconds:.3f} s" in str(error)
    clock.advance(error.retry_after or 0)
    assert router.select("m") == "a"


@pytest.mark.parametrize("facts", [{"rpm_limit": 1}, {"tpm_limit": 1}])
def test_a_spent_minute_ends_on_time(facts: dict[str, Any], clock: ManualClock) -> None:
    clock.set(60 * 7 + 47.6)
    router = one(clock, **facts)
    router.acquire("m", tokens=1).release()
    error = refused(router)
    assert isinstance(error, RateLimitExceeded)
    assert error.retry_after == pytest.approx(12.4, abs=1e-9)


def test_the_earliest_deployment_counts(clock: ManualClock) -> None:
    clock.set(50)
    router = Router([Deployment(name, "m", rpm_limit=1) for name in "abc"], clock=clock)
    assert admitted(router) == 3
    router.cool_down("a", 300)
    router.cool_down("b", 3)
    # b cools down for 3 s but its minute lasts 10 more; so does c's.
    assert refused(router).retry_after == 10
    router.cool_down("c", 20)
    assert refused(router).retry_after == 10
    router.report_health("b", False)
    assert refused(router).retry_after == 20
    # What the request itself rules out has no say.
    assert refused(router, exclude=["c"]).retry_after == 300
    assert refused(router, exclude=["a", "c"]).retry_after is None


def test_a_full_one_gives_no_time_and_hides_none(clock: ManualClock) -> None:
    router = Router([Deployment("full", "m", max_parallel_requests=1), Deployment("cool", "m")], clock=clock)
    router.cool_down("cool", 7)
    with held(router):
        error = refused(router)
        assert error.retry_after == 7
        assert type(error) is NoAvailableDeployment
        assert error.reasons == {"cooling_down": 1, "max_parallel_requests": 1}
        assert refused(router, exclude=["cool"]).retry_after is None


@given(
    cooldowns=st.lists(st.floats(0.01, 500), min_size=1, max_size=5),
    spent=st.lists(st.booleans(), min_size=5, max_size=5),
    start=st.floats(0, 1000),
)
def test_nobody_is_available_before_the_wait_is_over(cooldowns: list[float], spent: list[bool], start: float) -> None:
    clock = ManualClock(start)
    router = Router([Deployment(f"d{place}", "m", rpm_limit=1) for place in range(len(cooldowns))], clock=clock)
    for place, seconds in enumerate(cooldowns):
        if spent[place]:
            router.record_success(f"d{place}")
        router.cool_down(f"d{place}", seconds)
    wait = refused(router).retry_after
    assert wait is not None
    clock.advance(max(wait - 1e-6, 0))
    refused(router)
    clock.advance(2e-6)
    router.select("m")


# --- the errors ---


def test_an_error_says_what_stopped_whom(clock: ManualClock) -> None:
    router = Router(
        [
            Deployment("tagless", "m"),
            Deployment("excluded", "m", tags=["t"]),
            Deployment("cool", "m", tags=["t"]),
            Deployment("ill", "m", tags=["t"]),
            Deployment("full", "m", tags=["t"], max_parallel_requests=1),
            Deployment("rpm", "m", tags=["t"], rpm_limit=1),
            Deployment("tpm", "m", tags=["t"], tpm_limit=10),
        ],
        clock=clock,
    )
    router.cool_down("cool", 90)
    router.report_health("ill", False)
    router.record_success("rpm")
    router.record_success("tpm", tokens=8)
    lease = router.acquire("m", tags=["t"], exclude=["excluded"], tokens=3)
    assert lease.deployment_id == "full"
    error = refused(router, tags=["t"], exclude=["excluded"], tokens=3)
    assert error.reasons == dict.fromkeys(GATES, 1)
    assert list(error.reasons) == GATES
    assert error.model_name == "m"
    assert error.retry_after == 60
    assert str(error) == (
        'no deployment of "m" is available: 1 stopped by tags, 1 stopped by excluded, 1 stopped by cooling_down, 1 stopped by '
        "unhealthy, 1 stopped by max_parallel_requests, 1 stopped by rpm_limit, 1 stopped by tpm_limit; try again in 60.000 s"
    )
    lease.release()


def test_which_error_it_is(clock: ManualClock) -> None:
    router = Router(
        [
            Deployment("cool", "m"),
            Deployment("rpm", "m", rpm_limit=1),
            Deployment("tpm", "m", tpm_limit=1),
            Deployment("full", "m", max_parallel_requests=1),
        ],
        clock=clock,
        strategy="priority_based",
    )
    router.cool_down("cool", 5)
    router.record_success("rpm")
    router.record_success("tpm", tokens=1)
    with held(router):
        assert type(refused(router)) is NoAvailableDeployment
        # Those the request rules out have no say in it.
        assert type(refused(router, exclude=["rpm", "tpm", "full"])) is AllDeploymentsInCooldown
        assert type(refused(router, exclude=["cool", "full"])) is RateLimitExceeded
        assert type(refused(router, exclude=["cool", "rpm", "full"])) is RateLimitExceeded
        assert type(refused(router, exclude=["full"])) is NoAvailableDeployment
        assert type(refused(router, exclude=["cool", "rpm", "tpm"])) is NoAvailableDeployment
        assert type(refused(router, exclude=["cool", "rpm", "tpm", "full"])) is NoAvailableDeployment


def test_a_request_that_never_fits(clock: ManualClock) -> None:
    router = Router([Deployment("s", "m", tpm_limit=100), Deployment("l", "m", tpm_limit=1000, tags=["l"])], clock=clock)
    before = router.snapshot()
    router.add_alias("fast", "m")
    for pick in (router.select, router.acquire, lambda name, **options: router.select_many(name, 3, **options)):
        with pytest.raises(RequestTooLarge) as caught:
            pick("fast", tokens=1001)
        error = caught.value
        assert (error.model_name, error.tokens, error.largest_limit) == ("m", 1001, 1000)
        assert "1001" in str(error)
        assert "1000" in str(error)
        assert not isinstance(error, NoAvailableDeployment)
    assert router.snapshot() == before
    assert router.select("m", tokens=1000) == "l"
    explained = router.explain("m", tokens=1001)
    assert (explained.winner, explained.retry_after) == (None, None)
    # Of those it could use.
    with pytest.raises(RequestTooLarge, match="100"):
        router.select("m", tokens=101, exclude=["l"])
    with pytest.raises(RequestTooLarge):
        router.select("m", tokens=1001, tags=["l"])


def test_a_request_that_fits_somewhere_is_not_too_large(clock: ManualClock) -> None:
    router = Router([Deployment("s", "m", tpm_limit=100), Deployment("l", "m", tpm_limit=1000)], clock=clock)
    router.cool_down("s", 1)
    router.cool_down("l", 3)
    error = refused(router, tokens=500)
    # Not when s is back, which it is too large for.
    assert error.retry_after == 3
    clock.advance(3)
    assert router.select("m", tokens=500) == "l"
    # Without a limit nothing is too large.
    router.add_deployment(Deployment("free", "m"))
    assert router.select("m", tokens=2**64 - 1) == "free"
    router.cool_down("free", 4)
    assert refused(router, tokens=2**64 - 1).retry_after == 4


def test_too_large_is_said_in_a_cooldown_too(clock: ManualClock) -> None:
    router = one(clock, tpm_limit=100)
    router.cool_down("a", 5)
    with pytest.raises(RequestTooLarge):
        router.select("m", tokens=101)
    assert refused(router, tokens=100).retry_after == 5
