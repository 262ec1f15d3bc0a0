"""What a router learns from providers: their headers, and their refusals."""

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from turnout import (
    AllDeploymentsInCooldown,
    ConfigurationError,
    Deployment,
    Health,
    Learning,
    Lease,
    Limit,
    ManualClock,
    MinuteRules,
    NoAvailableDeployment,
    ObservedStats,
    Quota,
    RateLimitExceeded,
    Router,
    Status,
    Strategy,
)


def says(
    remaining: int | None = None, reset: str = "30s", unit: str = "requests", wait_ms: int | None = None, limit: int | None = None
) -> dict[str, str]:
    """Headers as OpenAI writes them."""
    headers = {f"x-ratelimit-remaining-{unit}": str(remaining), f"x-ratelimit-reset-{unit}": reset} if remaining is not None else {}
    if limit is not None:
        headers[f"x-ratelimit-limit-{unit}"] = str(limit)
    return headers | ({"retry-after-ms": str(wait_ms)} if wait_ms is not None else {})


class Refused(Exception):
    """A 429 as client libraries raise it."""

    status_code = 429

    def __init__(self, headers: dict[str, str] | None = None) -> None:
        super().__init__("too many requests")
        self.headers = headers or {}


def one(clock: ManualClock, learning: Learning | None = None, **facts: Any) -> Router:
    """A router of one deployment ``d`` of the model ``m``."""
    return Router([Deployment("d", "m", **facts)], clock=clock, learning=learning or Learning(), health=MinuteRules())


def left(router: Router, deployment_id: str = "d") -> dict[str, int]:
    return {observed.unit: observed.remaining for observed in router.stats(deployment_id).observed}


def admitted(router: Router, model_name: str = "m", **facts: Any) -> int:
    """How many requests pass before one is refused; none of them ends with an outcome."""
    for count in range(1000):
        try:
            router.acquire(model_name, **facts).release()
        except RateLimitExceeded:
            return count
    raise AssertionError("no end")


def refuse(lease: Lease, headers: dict[str, str] | None = None) -> None:
    """Ends a lease with a refusal, as an exception that leaves its block does."""
    with pytest.raises(Refused), lease:
        raise Refused(headers)


# --- options ---


def test_learning_is_a_value() -> None:
    assert Learning() == Learning(headers=True, concurrency=True, longest_wait=604_800)
    assert repr(Learning(headers=False)) == "Learning(headers=False, concurrency=True, longest_wait=604800.0)"
    assert len({Learning(), Learning(headers=False), Learning(concurrency=False), Learning(longest_wait=1)}) == 4


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e10])
def test_the_longest_wait_is_a_time(value: float) -> None:
    with pytest.raises(ConfigurationError, match="longest_wait must be a finite number of seconds from 0 to 1e9, not "):
        Learning(longest_wait=value)


@pytest.mark.parametrize("name", ["headers", "concurrency"])
@pytest.mark.parametrize("value", [1, None, "yes"])
def test_learning_takes_bools(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a bool, not "):
        Learning(**{name: value})


@pytest.mark.parametrize("learning", [True, {"headers": False}, "headers"])
def test_a_router_takes_learning_and_nothing_else(learning: Any) -> None:
    with pytest.raises(TypeError, match="learning must be a Learning or None, not "):
        Router(learning=learning)


# --- headers ---


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {
                "X-RateLimit-Remaining-Requests": "9",
                "X-RateLimit-Reset-Requests": "8.64s",
                "x-ratelimit-remaining-tokens": "149",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            [("requests", 9, 8.64), ("tokens", 149, 360.0)],
        ),
        # Azure: plain seconds.
        (
            {
                "x-ratelimit-remaining-requests": "7",
                "x-ratelimit-reset-requests": "3",
                "x-ratelimit-remaining-tokens": "70",
                "x-ratelimit-reset-tokens": "20",
            },
            [("requests", 7, 3.0), ("tokens", 70, 20.0)],
        ),
        # What is not said to reset holds for a minute.
        ({"x-ratelimit-remaining-requests": "3"}, [("requests", 3, 60.0)]),
        ({"x-ratelimit-limit-requests": "3"}, []),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "0s"}, []),
        ({"content-type": "text/html"}, []),
    ],
)
@pytest.mark.parametrize("form", [dict, httpx.Headers, lambda headers: list(headers.items())])
def test_what_headers_say_holds(
    headers: dict[str, str], expected: list[tuple[str, int, float]], form: Callable[[Any], Any]
) -> None:
    router = one(ManualClock(1000))
    with router.acquire("m") as lease:
        lease.observe(form(headers))
    assert router.stats("d").observed == tuple(ObservedStats(unit, None, left, reset) for unit, left, reset in expected)
    router.observe("d", form(headers))
    assert router.snapshot()["observed"] == [tuple(ObservedStats(unit, None, left, reset) for unit, left, reset in expected)]


def test_anthropic_tells_parts_and_timestamps() -> None:
    router = one(ManualClock(1000))
    headers = {
        "anthropic-ratelimit-requests-remaining": "4",
        "anthropic-ratelimit-requests-reset": "2126-01-01T00:00:00Z",
        "anthropic-ratelimit-input-tokens-remaining": "100",
        "anthropic-ratelimit-input-tokens-reset": "2126-01-01T00:00:00Z",
        "anthropic-ratelimit-output-tokens-remaining": "20",
        "anthropic-ratelimit-output-tokens-reset": "2126-01-01T00:00:00Z",
    }
    # A timestamp is read by the wall clock: a century away, beyond what a length of time may be.
    router.observe("d", {name: value for name, value in headers.items() if "reset" not in name})
    assert left(router) == {"requests": 4, "input_tokens": 100, "output_tokens": 20}
    router.acquire("m", input_tokens=90, output_tokens=10).release()
    assert left(router) == {"requests": 3, "input_tokens": 10, "output_tokens": 10}
    assert router.explain("m", input_tokens=11, output_tokens=1).verdicts[0].gate == "observed_limit"
    assert router.select("m", input_tokens=10, output_tokens=10) == "d"
    # Of unknown parts either may be all.
    with pytest.raises(RateLimitExceeded):
        router.select("m", tokens=11)


def test_observe_takes_whatever_has_headers_and_never_raises_for_what_it_is_given() -> None:
    router = one(ManualClock(1000))
    lease = router.acquire("m")
    for headers in (None, 5, "text", object(), [], {}, {5: 6}, [("a",)], {"x-ratelimit-remaining-requests": "many"}, Refused()):
        lease.observe(headers)
    assert router.stats("d").observed == ()
    lease.observe(httpx.Response(200, headers=says(5)))
    assert left(router) == {"requests": 5}
    lease.release()
    # After the end as well.
    lease.observe(Refused(says(2)))
    assert left(router) == {"requests": 2}


@pytest.mark.parametrize("remaining", [0, 1, 4])
def test_the_stricter_of_configured_and_observed_stops_a_request(remaining: int) -> None:
    for limit in (2, 100):
        clock = ManualClock(1000)
        router = one(clock, limits=[Limit(requests=limit, per=10)])
        router.observe("d", says(remaining, "15s"))
        assert admitted(router) == min(limit, remaining)
        # 5 s later the one has let go and the other has not.
        clock.advance(10)
        assert admitted(router) == min(limit, max(remaining - limit, 0))
        # What was said is out of date.
        clock.advance(5 - 1e-6)
        assert bool(left(router))
        clock.advance(1e-6)
        assert left(router) == {}
        clock.advance(10)
        assert admitted(router) == limit


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_refusal_says_when_and_the_index_knows(strategy: Strategy) -> None:
    clock = ManualClock(1000)
    router = Router([Deployment(i, "m", weight=1) for i in "abc"], strategy=strategy, clock=clock, seed=3)
    for deployment_id, reset in [("a", "2s"), ("b", "500ms"), ("c", "1m0s")]:
        router.observe(deployment_id, says(0, reset))
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m")
    assert (refused.value.retry_after, refused.value.reasons) == (0.5, {"observed_limit": 3})
    clock.advance(0.5 - 1e-6)
    with pytest.raises(RateLimitExceeded):
        router.select("m")
    clock.advance(1e-6)
    assert router.select("m") == "b"
    clock.advance(1.5)
    assert {router.select("m") for _ in range(40)} <= {"a", "b"}
    detail = router.explain("m").verdicts[2].detail
    assert detail == "the provider left 0 requests, 1 asked for, resets in 58.0 s"


def test_what_is_left_of_tokens_stops_larger_requests_only() -> None:
    router = Router(
        [Deployment(i, "m", priority=p) for i, p in (("a", 0), ("b", 1))], strategy="priority_based", clock=ManualClock()
    )
    router.observe("a", says(50, unit="tokens"))
    assert [router.select("m", tokens=tokens) for tokens in (0, 50, 51)] == ["a", "a", "b"]
    router.acquire("m", tokens=40).release()
    assert [router.select("m", tokens=tokens) for tokens in (0, 10, 11)] == ["a", "a", "b"]


def test_a_split_request_is_compared_by_its_parts() -> None:
    """As a walk does, so does the index, though what is left of prompts is less than the request's tokens."""
    router = Router(
        [Deployment(i, "m", priority=p) for i, p in (("a", 0), ("b", 1))], strategy="priority_based", clock=ManualClock()
    )
    router.observe("a", {"anthropic-ratelimit-input-tokens-remaining": "5"})
    assert router.explain("m", input_tokens=5, output_tokens=95).winner == "a"
    assert router.select("m", input_tokens=5, output_tokens=95) == "a"
    assert router.select("m", input_tokens=6, output_tokens=0) == "b"
    router.observe("a", {"anthropic-ratelimit-input-tokens-remaining": "0"})
    assert router.select("m") == "b"
    assert router.explain("m", input_tokens=0, output_tokens=9).winner == router.select("m", input_tokens=0, output_tokens=9) == "a"


def test_late_answers_of_older_requests_do_not_undo_newer_ones() -> None:
    clock = ManualClock(1000)
    router = one(clock)
    old = router.acquire("m")
    clock.advance(1)
    new = router.acquire("m")
    clock.advance(1)
    new.observe(says(3))
    old.observe(says(50))
    assert left(router) == {"requests": 3}
    # What it says of another unit is the latest about that.
    old.observe(says(70, unit="tokens"))
    assert left(router) == {"requests": 3, "tokens": 70}
    # An old one tells more than none.
    clock.advance(30)
    old.observe(says(50))
    assert left(router) == {"requests": 50}
    for lease in (old, new):
        lease.release()


@pytest.mark.parametrize("quotas", [[], [Quota("q", Limit(requests=1000))]])
def test_what_was_reserved_since_the_request_was_sent_counts(quotas: list[Quota]) -> None:
    clock = ManualClock(1000)
    router = one(clock, quotas=quotas)
    router.observe("d", says(100) | says(1000, unit="tokens"))
    sent = router.acquire("m", tokens=10)
    for _ in range(4):
        clock.advance(0.1)
        router.acquire("m", tokens=20).release()
    assert left(router) == {"requests": 95, "tokens": 910}
    # The provider counted this one and did not know of the four.
    sent.observe(says(50) | says(500, unit="tokens"))
    assert left(router) == {"requests": 46, "tokens": 420}
    sent.release()


@pytest.mark.parametrize(("wait_ms", "seconds"), [(43, 0.043), (1500, 1.5), (0, 0.0)])
def test_a_wait_is_kept_to_the_millisecond(wait_ms: int, seconds: float) -> None:
    clock = ManualClock(1000)
    router = one(clock)
    router.observe("d", says(wait_ms=wait_ms))
    if not seconds:
        assert router.select("m") == "d"
        return
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m")
    assert refused.value.retry_after == seconds
    assert router.stats("d").observed == (ObservedStats("requests", None, 0, seconds),)
    clock.advance(seconds - 1e-6)
    assert router.explain("m").verdicts[0].gate == "observed_limit"
    clock.advance(1e-6)
    assert router.select("m") == "d"


def test_what_was_observed_belongs_to_the_id() -> None:
    router = one(ManualClock(1000))
    router.observe("d", says(5))
    router.add_deployment(Deployment("d", "m", weight=3))
    assert left(router) == {"requests": 5}
    router.remove_deployment("d")
    router.add_deployment(Deployment("d", "m"))
    assert left(router) == {}


# --- exceptions ---


@pytest.mark.parametrize("kind", [Refused, type("Failed", (Exception,), {"status_code": 500})])
def test_the_headers_of_an_exception_are_read(kind: type[Exception]) -> None:
    for learning, expected in [(Learning(), {"requests": 7}), (Learning(headers=False), {})]:
        router = one(ManualClock(1000), learning)
        error = kind()
        error.headers = says(7)  # type: ignore[attr-defined]
        with pytest.raises(kind), router.acquire("m"):
            raise error
        assert left(router) == expected
        # By hand whatever the option says.
        router.observe("d", says(3))
        assert left(router) == {"requests": 3}


def test_the_wait_of_a_refusal_is_the_length_of_its_cooldown() -> None:
    clock = ManualClock(1000)
    router = one(clock)
    refuse(router.acquire("m"), says(wait_ms=43))
    assert router.stats("d").cooldown_remaining == 0.043
    with pytest.raises(AllDeploymentsInCooldown) as refused:
        router.acquire("m")
    assert refused.value.retry_after == 0.043
    clock.advance(0.043)
    router.acquire("m").release()


# --- quotas ---


def under(clock: ManualClock, *quotas: Quota) -> Router:
    """Deployments a and b under the quotas, and c of the same model under none."""
    deployments = [Deployment("a", "m", quotas=quotas), Deployment("b", "m", quotas=quotas), Deployment("c", "m", priority=1)]
    return Router(deployments, strategy="priority_based", clock=clock, health=MinuteRules())


def test_what_is_said_of_a_quotas_limit_goes_to_that_quota() -> None:
    """It is told by the unit and the amount."""
    clock = ManualClock(1000)
    loose, tight = Quota("loose", Limit(requests=1000)), Quota("tight", Limit(requests=10))
    router = under(clock, loose, tight)
    with router.acquire("m") as lease:
        lease.observe(says(2, "15s", limit=10))
    expected = (ObservedStats("requests", "tight", 2, 15.0, 10),)
    assert (router.stats("a").observed, router.stats("b").observed, router.stats("c").observed) == (expected, expected, ())
    assert [router.acquire("m").release() for _ in range(2)] == [True, True]
    verdicts = router.explain("m").verdicts
    assert [verdict.gate for verdict in verdicts] == ["quota", "quota", None]
    assert verdicts[0].detail == 'quota "tight": the provider left 0 requests, 1 asked for, resets in 15.0 s'
    assert router.select("m") == "c"
    clock.advance(15)
    assert router.select("m") == "a"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, says(0)),  # of what it does not say
        ({}, says(0, limit=500)),  # of another limit
        ({}, says(0, unit="tokens", limit=1000)),  # of another unit
        ({"rpm_limit": 1000}, says(0, limit=1000)),  # of one that may be either's
        ({"limits": [Limit(requests=1000, per=10)]}, says(0, limit=1000)),
    ],
)
def test_what_cannot_be_told_to_be_the_accounts_is_the_deployments(own: dict[str, Any], said: dict[str, str]) -> None:
    account = Quota("account", Limit(requests=1000))
    router = Router(
        [Deployment("a", "m", quotas=[account], **own), Deployment("b", "m", quotas=[account])], clock=ManualClock(1000)
    )
    router.observe("a", said)
    assert [observed.quota for observed in router.stats("a").observed] == [None]
    assert router.stats("b").observed == ()
    assert router.select("m", tokens=1) == "b"


@pytest.mark.parametrize("wait_ms", [None, 250])
@pytest.mark.parametrize("said", [{}, says(0, limit=500), says(5, limit=100), says(0, limit=100) | says(0, unit="tokens")])
def test_a_refusal_that_may_be_the_deployments_cools_the_deployment(said: dict[str, str], wait_ms: int | None) -> None:
    clock = ManualClock(1000)
    router = under(clock, Quota("q", Limit(requests=100)))
    refuse(router.acquire("m"), said | says(wait_ms=wait_ms))
    wait = 0.25 if wait_ms is not None else 30.0 if "0" in said.values() else 5.0
    assert (router.stats("a").status, router.stats("a").cooldown_remaining) == (Status.COOLING_DOWN, wait)
    assert router.stats("a").learnt_parallel_requests is None
    assert router.stats("b").status is Status.AVAILABLE


ACCOUNT = says(0, "30s", limit=100)
"""The requests of the account are spent."""


@pytest.mark.parametrize("wait_ms", [None, 250])
@pytest.mark.parametrize("how", ["said", "lease", "record"])
def test_a_refusal_for_the_account_pauses_the_quota_and_cools_nobody(how: str, wait_ms: int | None) -> None:
    clock = ManualClock(1000)
    router = under(clock, Quota("q", Limit(requests=100)))
    wait = None if wait_ms is None else wait_ms / 1000
    if how == "said":
        refuse(router.acquire("m"), ACCOUNT | says(wait_ms=wait_ms))
    elif how == "lease":
        router.acquire("m").failure("rate_limit", wait, scope="account")
    else:
        router.record_failure("a", "rate_limit", retry_after=wait, scope="account")
    # Without a wait of the provider's own it lasts until the limit is new, or as long as a cooldown.
    seconds = wait or (30.0 if how == "said" else 5.0)
    stats = router.stats("a")
    assert (stats.status, stats.cooldown_remaining, stats.total_failures, stats.fails_this_minute) == (Status.AVAILABLE, 0.0, 1, 0)
    assert stats.learnt_parallel_requests is None
    assert {(observed.quota, observed.remaining, observed.resets_in) for observed in stats.observed} == {("q", 0, seconds)}
    assert [verdict.gate for verdict in router.explain("m").verdicts] == ["quota", "quota", None]
    with router.acquire("m") as other:
        assert other.deployment_id == "c"
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m", exclude={"c"})
    assert refused.value.retry_after == seconds
    clock.advance(seconds)
    assert router.select("m") == "a"


def test_a_scope_is_one_of_two() -> None:
    router = under(ManualClock(1000), Quota("q", Limit(requests=100)))
    with router.acquire("m") as lease:
        with pytest.raises(ConfigurationError, match='unknown scope "team": must be one of deployment, account'):
            lease.failure("rate_limit", scope="team")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="scope must be a str, not 3"):
            router.record_failure("a", "rate_limit", scope=3)  # type: ignore[arg-type]
        assert not lease.released
        assert lease.failure("rate_limit", scope="deployment")
    assert router.stats("a").status is Status.COOLING_DOWN
    router.record_failure("c", "rate_limit", scope="account")
    assert router.stats("c").status is Status.COOLING_DOWN, "it has no quota"


def test_anthropics_subscription_is_the_account() -> None:
    clock = ManualClock(1000)
    router = under(clock, Quota("q", Limit(requests=100)))
    refuse(router.acquire("m"), {"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": "8000"})
    assert [observed.quota for observed in router.stats("b").observed] == ["q"]
    assert router.select("m") == "c"


def test_pauses_of_a_quota_grow_and_are_forgotten() -> None:
    """As cooldowns do: 5 s, doubled each time, up to 300 s."""
    clock = ManualClock(1000)
    quota = Quota("q", Limit(requests=10**6))
    router = Router([Deployment("a", "m", quotas=[quota])], clock=clock, health=Health(cooldown_jitter=0.0))

    def paused() -> float:
        leases = [router.acquire("m") for _ in range(3)]
        for lease in leases:  # three refusals at once are one reason
            lease.failure("rate_limit", scope="account")
        with pytest.raises(RateLimitExceeded) as refused:
            router.select("m")
        assert refused.value.retry_after is not None
        clock.advance(refused.value.retry_after)
        return refused.value.retry_after

    assert [paused() for _ in range(8)] == [5, 10, 20, 40, 80, 160, 300, 300]
    clock.advance(300 * 6)
    assert [paused(), paused()] == [20, 40]
    # A wait of the provider's own is taken as it is, and counts for nothing.
    router.acquire("m").failure("rate_limit", 7, scope="account")
    clock.advance(7)
    assert paused() == 80


# --- better news ---


def out(router: Router, model_name: str = "m") -> float:
    try:
        router.select(model_name)
    except NoAvailableDeployment as refused:
        return refused.retry_after or 0.0
    return 0.0


@pytest.mark.parametrize("quotas", [[], [Quota("q", Limit(requests=1000))]])
def test_a_health_check_that_passes_ends_what_was_said(quotas: list[Quota]) -> None:
    router = one(ManualClock(1000), quotas=quotas)
    for said in [says(0, "6h"), says(0, "6h", limit=1000), says(wait_ms=3_600_000), says(0, "6h", "tokens")]:
        router.observe("d", said)
        assert out(router) > 0
        router.report_health("d", False)
        router.report_health("d", True)
        assert out(router) == 0
    router.record_failure("d", "rate_limit", retry_after=3600, scope="account")
    assert out(router) == 3600
    router.report_health("d", True)
    assert out(router) == 0


def test_a_pause_ends_when_a_later_request_is_served() -> None:
    clock = ManualClock(1000)
    router = one(clock)
    early = [router.acquire("m") for _ in range(2)]
    clock.advance(1)
    with early[0] as lease:
        lease.observe(says(wait_ms=3_600_000))
    # What was sent before knows nothing of it.
    early[1].success()
    assert out(router) == 3600
    router.record_success("d")
    assert out(router) == 0
    router.observe("d", says(wait_ms=3_600_000))
    router.observe("d", says(7))
    assert out(router) == 0
    router.observe("d", says(wait_ms=3_600_000))
    router.observe("d", says(wait_ms=5000))
    assert out(router) == 5


def test_a_quotas_pause_ends_when_a_later_request_is_served() -> None:
    clock = ManualClock(1000)
    quota = Quota("q", Limit(requests=1000))
    router = Router([Deployment("a", "m", quotas=[quota]), Deployment("b", "n", quotas=[quota])], clock=clock)
    early = router.acquire("n")
    router.acquire("m").failure("rate_limit", 3600, scope="account")
    early.success()
    assert (out(router), out(router, "n")) == (3600, 3600)
    router.record_success("b")
    assert (out(router), out(router, "n")) == (0, 0)


@pytest.mark.parametrize(
    ("longest", "said", "expected"),
    [
        (604_800.0, {"retry-after": "999999999"}, 604_800.0),
        (60.0, {"retry-after": "61"}, 60.0),
        (60.0, {"retry-after": "59"}, 59.0),
        (60.0, says(0, "2m"), 60.0),
        (60.0, says(0, "2m", "tokens"), 60.0),
        (0.0, {"retry-after": "61"}, 0.0),
    ],
)
def test_no_wait_is_longer_than_the_longest(longest: float, said: dict[str, str], expected: float) -> None:
    clock = ManualClock(1000)
    router = one(clock, learning=Learning(longest_wait=longest))
    router.observe("d", said)
    assert out(router) == expected
    if "retry-after" in said and expected:
        router = Router([Deployment("d", "m")], clock=clock, learning=Learning(longest_wait=longest))
        refuse(router.acquire("m"), said)
        assert out(router) == expected


def test_a_wait_rules_over_the_reset_of_what_is_spent() -> None:
    """OpenAI's resets say when all is back: https://platform.openai.com/docs/guides/rate-limits."""
    clock = ManualClock(1000)
    router = one(clock)
    with router.acquire("m", tokens=5) as lease:
        lease.observe(says(0, "6m0s", "tokens") | says(wait_ms=2500))
    assert out(router) == 2.5
    clock.advance(2.5)
    assert out(router) == 0
    refuse(router.acquire("m", tokens=5), says(0, "6m0s", "tokens") | says(wait_ms=4000))
    assert out(router) == 4
    clock.advance(4)
    refuse(router.acquire("m", tokens=5), says(0, "6m0s", "tokens"))
    assert out(router) == 360


def test_other_failures_under_a_quota_are_the_deployments_own() -> None:
    router = under(ManualClock(1000), Quota("q", Limit(requests=100)))
    router.acquire("m").failure("auth")
    assert router.stats("a").status is Status.COOLING_DOWN
    assert router.select("m") == "b"


def test_what_a_quota_was_told_outlives_the_replacement_of_its_limits() -> None:
    router = under(ManualClock(1000), Quota("q", Limit(requests=100)))
    router.observe("a", says(0, limit=100))
    router.set_deployments([Deployment("x", "m", quotas=[Quota("q", Limit(requests=200))])])
    assert router.stats("x").observed == (ObservedStats("requests", "q", 0, 30.0, 100),)
    assert router.explain("m").winner is None


# --- the cap on what is in flight ---


def taken(router: Router, n: int) -> list[Lease]:
    return [router.acquire("m") for _ in range(n)]


def test_a_refusal_lowers_the_cap_once_a_round_and_successes_raise_it() -> None:
    clock = ManualClock(1000)
    router = one(clock)
    leases = taken(router, 10)
    clock.advance(1)
    refuse(leases[0])
    assert router.stats("d").learnt_parallel_requests == 7
    # The others were sent before that.
    for lease in leases[1:]:
        refuse(lease)
    assert router.stats("d").learnt_parallel_requests == 7
    clock.advance(5)
    leases = taken(router, 7)
    with pytest.raises(NoAvailableDeployment) as refused:
        router.acquire("m")
    assert (type(refused.value), refused.value.retry_after) == (NoAvailableDeployment, None)
    assert refused.value.reasons == {"learnt_parallel_requests": 1}
    verdict = router.explain("m").verdicts[0]
    assert (verdict.gate, verdict.detail) == ("learnt_parallel_requests", "in flight 7/7, learnt from refusals")
    # As many successes as the cap, with the cap holding others back, raise it by one.
    for count in range(7):
        assert router.stats("d").learnt_parallel_requests == 7, count
        leases.pop(0).success()
        leases += taken(router, 1)
    assert router.stats("d").learnt_parallel_requests == 8
    leases += taken(router, 1)
    # The next round.
    clock.advance(1)
    refuse(leases.pop())
    assert router.stats("d").learnt_parallel_requests == 5
    for lease in leases:
        lease.release()


def test_a_cap_that_holds_nobody_back_does_not_grow() -> None:
    clock = ManualClock(1000)
    router = one(clock)
    leases = taken(router, 10)
    for lease in leases:
        refuse(lease)
        clock.advance(0.001)
    clock.advance(5)
    for _ in range(50):
        router.acquire("m").success()
    assert router.stats("d").learnt_parallel_requests == 7


def test_a_cap_is_at_least_one() -> None:
    clock = ManualClock(1000)
    router = one(clock)
    for _ in range(3):
        lease = router.acquire("m")
        clock.advance(1)
        refuse(lease)
        assert router.stats("d").learnt_parallel_requests == 1
        clock.advance(5)
    with router.acquire("m"), pytest.raises(NoAvailableDeployment):
        router.acquire("m")
    # It served what it holds back at: the next round has one more.
    assert router.stats("d").learnt_parallel_requests == 2


@pytest.mark.parametrize(
    "facts",
    [
        {"rpm_limit": 1000},
        {"tpm_limit": 1000},
        {"max_parallel_requests": 100},
        {"limits": [Limit(requests=1000)]},
        {"quotas": [Quota("q", Limit(requests=1000))]},
    ],
)
def test_a_cap_is_learnt_only_where_nothing_is_configured(facts: dict[str, Any]) -> None:
    clock = ManualClock(1000)
    router = one(clock, **facts)
    for lease in taken(router, 10):
        clock.advance(0.1)
        refuse(lease)
    clock.advance(5)
    assert router.stats("d").learnt_parallel_requests is None
    for lease in taken(router, 10):
        lease.release()
    # Nor does one that was learnt before stand beside it.
    free = one(clock)
    for lease in taken(free, 2):
        refuse(lease)
    assert free.stats("d").learnt_parallel_requests == 1
    free.add_deployment(Deployment("d", "m", **facts))
    clock.advance(5)
    assert free.stats("d").learnt_parallel_requests is None
    for lease in taken(free, 3):
        lease.release()


def test_without_learning_a_refusal_teaches_no_cap() -> None:
    clock = ManualClock(1000)
    router = one(clock, Learning(concurrency=False))
    for lease in taken(router, 10):
        refuse(lease)
    clock.advance(5)
    assert router.stats("d").learnt_parallel_requests is None
    for lease in taken(router, 20):
        lease.release()


def test_other_failures_and_requests_without_a_lease_teach_no_cap() -> None:
    router = one(ManualClock(1000))
    leases = taken(router, 10)
    leases.pop().failure("error")
    leases.pop().failure("timeout")
    router.record_failure("d", "rate_limit")
    assert router.stats("d").learnt_parallel_requests is None
    for lease in leases:
        lease.release()


# --- real clients ---


class Provider(http.server.ThreadingHTTPServer):
    """Answers everything with what it is told to."""

    daemon_threads = True
    status = 200
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One answer."""

    server: Provider
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the name that http.server looks for
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}).encode()
        self.send_response(self.server.status)
        for name, value in (self.server.headers | {"content-type": "application/json", "content-length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object, **kwargs: object) -> None:
        """Says nothing."""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with Provider(("127.0.0.1", 0), Handler) as server:
        server.headers = {}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def by_openai(url: str) -> Any:
    with openai.OpenAI(base_url=url, api_key="key", max_retries=0) as client:
        return client.chat.completions.with_raw_response.create(model="m", messages=[{"role": "user", "content": "hello"}])


def by_httpx(url: str) -> Any:
    return httpx.post(url, json={}).raise_for_status()


@pytest.mark.parametrize(("call", "error"), [(by_openai, openai.RateLimitError), (by_httpx, httpx.HTTPStatusError)])
@pytest.mark.parametrize("quotas", [[], [Quota("q", Limit(requests=100))]])
def test_real_clients_teach_a_router(
    provider: Provider, call: Callable[[str], Any], error: type[Exception], quotas: list[Quota]
) -> None:
    clock = ManualClock(1000)
    router = one(clock, quotas=quotas)
    provider.headers = says(9, "8.64s") | says(149_984, "6m0s", "tokens")
    with router.acquire("m", tokens=20) as lease:
        lease.observe(call(provider.url))
    # They do not say that the requests are the quota's.
    requests, tokens = ObservedStats("requests", None, 9, 8.64), ObservedStats("tokens", None, 149_984, 360.0)
    assert set(router.stats("d").observed) == {requests, tokens}

    provider.status, provider.headers = 429, says(0, "657ms", "tokens", wait_ms=657)
    with pytest.raises(error), router.acquire("m", tokens=20):
        call(provider.url)
    stats = router.stats("d")
    assert {
        observed.unit: (observed.remaining, observed.resets_in) for observed in stats.observed if observed.unit == "tokens"
    } == {"tokens": (0, 0.657)}
    assert stats.cooldown_remaining == 0.657
    with pytest.raises(AllDeploymentsInCooldown) as refused:
        router.acquire("m", tokens=20)
    assert refused.value.retry_after == 0.657
    clock.advance(0.657)
    router.acquire("m", tokens=20).release()
