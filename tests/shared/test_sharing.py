"""Routers that share limits through a store in memory, under a clock that is moved by hand."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
from turnout import (
    AllDeploymentsInCooldown,
    Deployment,
    FailureKind,
    Health,
    Limit,
    ManualClock,
    NoAvailableDeployment,
    Quota,
    RateLimitExceeded,
    Retry,
    Router,
    RouterError,
)
from turnout.execution.options import Budget
from turnout.shared import Memory

_BEGIN = 1_700_000_100.0


class Fleet:
    """Routers that share, each as in a process of its own."""

    def __init__(self, deployments: list[Deployment], routers: int = 3, **options: Any) -> None:
        self.clock = ManualClock(_BEGIN)
        store = Memory()
        self.routers = [Router(deployments, shared=store, clock=self.clock, seed=nth, **options) for nth in range(routers)]

    def admitted(self, calls: int, tokens: int = 0) -> int:
        """Let the routers ask in turn. Return how many requests were admitted."""
        count = 0
        for router, _ in zip(cycle(self.routers), range(calls), strict=False):
            try:
                router.acquire("m", tokens=tokens).success()
                count += 1
            except RateLimitExceeded:
                pass
        return count

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


_LIMITS: list[tuple[str, Callable[[], dict[str, Any]]]] = [
    ("rpm", lambda: {"rpm_limit": 20}),
    ("clock", lambda: {"limits": [Limit(requests=20, per=10)]}),
    ("first use", lambda: {"limits": [Limit(requests=20, per=10, start="first_use")]}),
    ("sliding", lambda: {"limits": [Limit(requests=20, per=10, kind="sliding")]}),
    ("bucket", lambda: {"limits": [Limit(requests=20, per=10, kind="bucket")]}),
    ("quota", lambda: {"quotas": [Quota("account", Limit(requests=20, per=10))]}),
]


@pytest.mark.parametrize("limits", [limits for _, limits in _LIMITS], ids=[name for name, _ in _LIMITS])
def test_all_kinds_of_limits_are_one_limit_for_all(limits: Callable[[], dict[str, Any]]) -> None:
    fleet = Fleet([Deployment("a", "m", **limits())])
    assert fleet.admitted(90) == 20
    fleet.wait(70)
    assert fleet.admitted(90) == 20


def test_tokens_are_one_limit_for_all_and_what_is_left_comes_back() -> None:
    fleet = Fleet([Deployment("a", "m", tpm_limit=1000)])
    assert fleet.admitted(60, tokens=100) == 10
    fleet.wait(60)
    leases = [fleet.routers[nth % 3].acquire("m", tokens=100) for nth in range(10)]
    for lease in leases:
        lease.success(tokens=40)
    assert fleet.admitted(60, tokens=100) == 6


def test_places_in_flight_are_one_limit_for_all() -> None:
    fleet = Fleet([Deployment("a", "m", max_parallel_requests=4)])
    leases = []
    for router in cycle(fleet.routers):
        try:
            leases.append(router.acquire("m"))
        except RouterError:
            break
    assert len(leases) == 4
    leases.pop().release()
    # For a second a place is kept for the request that was refused.
    fleet.wait(1.1)
    leases.append(fleet.routers[2].acquire("m"))
    assert all(lease.release() for lease in leases)


def test_the_same_calls_give_the_same_picks() -> None:
    def picks() -> list[str]:
        fleet = Fleet([Deployment(name, "m", rpm_limit=30) for name in "abc"])
        made = []
        for router, _ in zip(cycle(fleet.routers), range(60), strict=False):
            with router.acquire("m") as lease:
                made.append(lease.deployment_id)
            fleet.wait(0.01)
        return made

    assert picks() == picks()


def test_explain_says_what_is_held_and_granted() -> None:
    fleet = Fleet([Deployment("a", "m", rpm_limit=4)], routers=2)
    assert fleet.admitted(12) == 4
    said = str(fleet.routers[0].explain("m"))
    assert "shared: 4 requests per 60 s (fixed): 0 left here, 1 asked for" in said
    assert "4 of 4 granted to 2 processes" in said
    metrics = fleet.routers[0].metrics()
    assert (metrics.processes, metrics.sync_errors, metrics.recovering, metrics.store_lost) == (2, 0, False, False)
    assert metrics.syncs > 0
    assert Router([]).metrics().processes == 0


def test_stats_say_what_is_held_here_and_granted_to_all() -> None:
    fleet = Fleet([Deployment("a", "m", limits=[Limit(requests=20, per=10)])], routers=2)
    fleet.routers[0].acquire("m").release()
    (limit,) = fleet.routers[0].stats("a").limits
    assert limit.held is not None
    assert limit.granted is not None
    assert 1 <= limit.granted <= 20
    (unshared,) = Router([Deployment("a", "m", limits=[Limit(requests=20, per=10)])]).stats("a").limits
    assert (unshared.held, unshared.granted) == (None, None)


def test_requests_of_others_in_flight_count_for_least_busy() -> None:
    fleet = Fleet([Deployment("a", "m"), Deployment("b", "m")], routers=2, strategy="least_busy")
    one, other = fleet.routers
    leases = [one.acquire("m", only={"a"}) for _ in range(3)]
    other.acquire("m").release()
    fleet.wait(0.3)
    assert [other.select("m") for _ in range(5)] == ["b"] * 5
    assert other.stats("a").in_flight_all == 3
    for lease in leases:
        lease.release()
    fleet.wait(0.3)
    one.select("m")
    assert other.stats("a").in_flight_all == 0


def test_a_cooldown_is_heard_by_all_and_so_is_its_end() -> None:
    rules = Health(success_threshold=1, slow_start=0)
    fleet = Fleet([Deployment("a", "m"), Deployment("b", "m")], routers=3, health=rules)
    fleet.admitted(6)
    told: list[str] = []
    fleet.routers[1].subscribe(lambda event: told.append(str(event.kind)))
    lease = fleet.routers[0].acquire("m", only={"a"})
    lease.failure(FailureKind.RATE_LIMIT, retry_after=20)
    for router in fleet.routers:
        assert router.stats("a").cooldown_remaining == pytest.approx(20, abs=0.01)
        assert [router.select("m") for _ in range(4)] == ["b"] * 4
    assert told == ["cooldown"]
    fleet.wait(21)
    for router in fleet.routers:
        router.acquire("m", only={"b"}).release()
    for router in fleet.routers:
        router.acquire("m", only={"a"}).success()  # one tries it, and the others hear that it is back
    assert [str(router.stats("a").status) for router in fleet.routers] == ["available"] * 3


def test_a_manual_cooldown_is_heard_by_all() -> None:
    fleet = Fleet([Deployment("a", "m")])
    fleet.admitted(3)
    fleet.routers[0].cool_down("a", 30)
    with pytest.raises(AllDeploymentsInCooldown):
        fleet.routers[1].acquire("m")
    fleet.routers[0].report_health("a", True)
    assert fleet.routers[1].acquire("m").release()


def test_one_process_tries_a_deployment_on_probation() -> None:
    fleet = Fleet([Deployment("a", "m")], health=Health(success_threshold=1, slow_start=0))
    fleet.admitted(3)
    fleet.routers[0].cool_down("a", 5)
    fleet.routers[1].stats("a")
    fleet.wait(6)
    probe = fleet.routers[1].acquire("m")
    for router in (fleet.routers[0], fleet.routers[2]):
        with pytest.raises(NoAvailableDeployment):
            router.acquire("m")
    probe.success()
    fleet.wait(0.3)
    assert fleet.routers[0].acquire("m").release()


def test_the_pause_of_a_quota_is_heard_by_all() -> None:
    quota = Quota("account", Limit(requests=100, per=60))
    fleet = Fleet([Deployment("a", "m", quotas=[quota]), Deployment("b", "m", quotas=[quota])])
    fleet.admitted(6)
    lease = fleet.routers[0].acquire("m")
    lease.failure(FailureKind.RATE_LIMIT, retry_after=12, scope="account")
    for router in fleet.routers:
        with pytest.raises(NoAvailableDeployment) as refused:
            router.acquire("m")
        assert refused.value.reasons == {"quota": 2}
    fleet.wait(12.1)
    assert fleet.routers[1].acquire("m").release()


def test_what_the_provider_said_is_heard_by_all() -> None:
    fleet = Fleet([Deployment("a", "m")])
    fleet.admitted(3)
    headers = {"x-ratelimit-limit-requests": "50", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}
    fleet.routers[0].observe("a", headers)
    fleet.wait(0.3)
    fleet.routers[0].stats("a")
    for router in fleet.routers:
        with pytest.raises(RateLimitExceeded):
            router.acquire("m")
        assert [said.remaining for said in router.stats("a").observed] == [0]


def test_failures_of_all_trip_together() -> None:
    rules = Health(consecutive_failures=100, failure_rate=0.5, min_volume=12)
    fleet = Fleet([Deployment("a", "m"), Deployment("b", "m")], routers=4, health=rules)
    for _ in range(3):
        for router in fleet.routers:
            router.acquire("m", only={"a"}).failure(FailureKind.ERROR)
        fleet.wait(0.3)
    # Four routers have seen three failures each: by its own count none has enough.
    for _ in range(2):
        fleet.admitted(4)
        fleet.wait(0.3)
    fleet.routers[0].acquire("m", only={"a"}).failure(FailureKind.ERROR)
    assert [str(router.stats("a").status) for router in fleet.routers] == ["cooling_down"] * 4


def test_the_steady_rate_of_the_retry_budget_is_shared() -> None:
    retry = Retry(budget=Budget(share=0.0, per_second=12.0, window=10))
    fleet = Fleet([Deployment("a", "m", rpm_limit=1000)], routers=3, retry=retry)
    fleet.admitted(9)
    budgets = [router._budget(0.0, 12.0, 10.0) for router in fleet.routers]
    for budget in budgets:
        while budget.withdraw(1):
            pass
    fleet.wait(6)
    assert sum(budget.balance() for budget in budgets) == pytest.approx(60, abs=12)


@pytest.mark.parametrize(
    ("store", "said"),
    [(3, "shared must be a store of turnout.shared"), (object(), "shared must be a store"), ("file", "shared must be a store")],
)
def test_what_is_no_store_is_refused(store: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Router([], shared=store)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ttl": 0}, "ttl must be at least 0.1"),
        ({"horizon": 0}, "horizon must be above 0"),
        ({"on_loss": "panic"}, "'closed', 'share' or 'open', not 'panic'"),
        ({"patience": -1}, "patience must be a finite number"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Memory(**options)
