"""Limits of every kind, quotas that deployments share, and settling: exact at the edges, with the clock moved
by hand.
"""

import contextlib
import copy
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import datetime
from fractions import Fraction
from typing import Any, Literal, cast

import pytest
from turnout import (
    ConfigurationError,
    Deployment,
    Lease,
    Limit,
    LimitStats,
    ManualClock,
    NoAvailableDeployment,
    Quota,
    RateLimitExceeded,
    RequestTooLarge,
    Router,
    Strategy,
    strategies,
)

LARGEST = 2**64 - 1
KINDS = ["fixed", "sliding", "bucket"]
UNITS = ["requests", "tokens", "input_tokens", "output_tokens"]

Kind = Literal["fixed", "sliding", "bucket"]


def limited(*limits: Limit, clock: ManualClock, **facts: Any) -> Router:
    """A router of one deployment ``d`` of the model ``m``."""
    return Router([Deployment("d", "m", limits=limits, **facts)], clock=clock, seed=1)


def make_limit(kind: Kind, unit: str, amount: int, per: float = 60.0) -> Limit:
    return Limit(**{unit: amount}, per=per, kind=kind)  # type: ignore[arg-type]  # the names of units


def acquire(router: Router, model_name: str = "m", **facts: Any) -> str:
    """Counts a request, and returns the id of who got it."""
    with router.acquire(model_name, **facts) as lease:
        lease.release()
    return lease.deployment_id


def used(router: Router, nth: int = 0, deployment_id: str = "d") -> int:
    return router.stats(deployment_id).limits[nth].used


def admits(router: Router, model_name: str = "m", **facts: Any) -> bool:
    """Whether a request passes; it stays counted."""
    try:
        router.acquire(model_name, **facts).release()
    except RateLimitExceeded:
        return False
    return True


def wait_for(router: Router, model_name: str = "m", **facts: Any) -> float:
    """Seconds that a refusal asks to wait for."""
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire(model_name, **facts)
    assert refused.value.retry_after is not None
    assert router.explain(model_name, **facts).retry_after == refused.value.retry_after
    return refused.value.retry_after


# --- bad input ---


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "a Limit must have exactly one of requests, tokens, input_tokens, output_tokens, not none"),
        (
            {"requests": 1, "tokens": 2},
            "a Limit must have exactly one of requests, tokens, input_tokens, output_tokens, not requests and tokens",
        ),
        ({"requests": 0}, f"requests must be an int from 1 to {LARGEST}, not 0 (int)"),
        ({"tokens": -1}, f"tokens must be an int from 1 to {LARGEST}, not -1 (int)"),
        ({"input_tokens": LARGEST + 1}, f"input_tokens must be an int from 1 to {LARGEST}, not {LARGEST + 1} (int)"),
        ({"requests": 1, "per": 0}, "per must be a finite number of seconds from 0.001 to 1e9, not 0"),
        ({"requests": 1, "per": 0.0009}, "per must be a finite number of seconds from 0.001 to 1e9, not 0.0009"),
        ({"requests": 1, "per": -60}, "per must be a finite number of seconds from 0.001 to 1e9, not -60"),
        ({"requests": 1, "per": float("nan")}, "per must be a finite number of seconds from 0.001 to 1e9, not nan"),
        ({"requests": 1, "per": float("inf")}, "per must be a finite number of seconds from 0.001 to 1e9, not inf"),
        ({"requests": 1, "per": 1.1e9}, "per must be a finite number of seconds from 0.001 to 1e9, not 1100000000.0"),
        ({"requests": 1, "kind": "window"}, "kind must be one of 'fixed', 'sliding', 'bucket', not 'window'"),
        ({"requests": 1, "start": "now"}, "start must be one of 'clock', 'first_use', not 'now'"),
        ({"requests": 1, "kind": "bucket", "burst": 0}, f"burst must be an int from 1 to {LARGEST}, not 0 (int)"),
        ({"requests": 1, "burst": 5}, "burst must be None for a limit of kind 'fixed', not 5"),
        ({"requests": 1, "kind": "sliding", "burst": 5}, "burst must be None for a limit of kind 'sliding', not 5"),
        (
            {"requests": 1, "kind": "sliding", "start": "first_use"},
            "start must be 'clock' for a limit of kind 'sliding', not 'first_use'",
        ),
        (
            {"requests": 10**9 + 1, "kind": "bucket", "per": 1},
            "requests of a bucket must be at most one a nanosecond, not 1000000001 in 1.0 s",
        ),
        (
            {"requests": 1, "kind": "bucket", "per": 86_400, "burst": 10**12},
            "burst must be at most what refills in 1e9 seconds, not 1000000000000 at 1 in 86400.0 s",
        ),
        ({"requests": 1, "offset": 60}, "offset must be less than per, 60.0, not 60.0"),
        ({"requests": 1, "offset": -60}, "offset must be less than per, 60.0, not -60.0"),
        (
            {"requests": 1, "offset": float("inf")},
            "offset must be a number of seconds less than per, or more than -per, not inf",
        ),
        (
            {"requests": 1, "offset": 5, "start": "first_use"},
            "offset is for fixed windows that start with the clock, without a timezone, not 5.0",
        ),
        (
            {"requests": 1, "offset": 5, "timezone": "UTC", "per": 86_400},
            "offset is for fixed windows that start with the clock, without a timezone, not 5.0",
        ),
        (
            {"requests": 1, "timezone": "Nowhere"},
            "timezone must be the name of a time zone of the IANA database, such as 'America/Los_Angeles', not \"Nowhere\"",
        ),
        ({"requests": 1, "timezone": "UTC"}, "per must be whole days of 86400 seconds where timezone is given, not 60.0"),
        (
            {"requests": 1, "timezone": "UTC", "per": 86_400, "kind": "sliding"},
            "timezone is for fixed windows that start with the clock, not 'UTC'",
        ),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        Limit(**facts)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"requests": 1.5}, f"requests must be an int from 1 to {LARGEST}, not 1.5 (float)"),
        ({"tokens": "9"}, f"tokens must be an int from 1 to {LARGEST}, not '9' (str)"),
        ({"output_tokens": True}, f"output_tokens must be an int from 1 to {LARGEST}, not True (bool)"),
        ({"requests": 1, "per": "60"}, "per must be a finite number of seconds from 0.001 to 1e9, not '60' (str)"),
        ({"requests": 1, "per": None}, "per must be a finite number of seconds from 0.001 to 1e9, not None (NoneType)"),
        ({"requests": 1, "kind": 3}, "kind must be a str, not 3 (int)"),
        ({"requests": 1, "start": b"clock"}, "start must be a str, not b'clock' (bytes)"),
        ({"requests": 1, "offset": "1"}, "offset must be a number of seconds less than per, or more than -per, not '1' (str)"),
        ({"requests": 1, "timezone": 8}, "timezone must be a str, not 8 (int)"),
        ({"requests": 1, "kind": "bucket", "burst": 2.0}, f"burst must be an int from 1 to {LARGEST}, not 2.0 (float)"),
    ],
)
def test_a_limit_of_a_wrong_type_is_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Limit(**facts)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("", Limit(requests=1)), ConfigurationError, "quota_id must be a string with at least one character, not ''"),
        (("q",), ConfigurationError, "the quota 'q' must have at least one limit"),
        ((7, Limit(requests=1)), TypeError, "quota_id must be a str, not 7 (int)"),
        (("q", 5), TypeError, "a limit of the quota 'q' must be a Limit, not 5 (int)"),
        (
            ("q", [Limit(requests=1)]),
            TypeError,
            "a limit of the quota 'q' must be a Limit, not [Limit(requests=1, per=60.0)] (list)",
        ),
    ],
)
def test_a_quota_that_makes_no_sense_is_refused(args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Quota(*args)


@pytest.mark.parametrize(
    ("facts", "error", "message"),
    [
        ({"limits": 5}, TypeError, "limits must be an iterable of Limit, not 5"),
        ({"limits": [5]}, TypeError, "an item of limits must be a Limit, not 5"),
        ({"limits": Limit(requests=1)}, TypeError, "limits must be an iterable of Limit, not Limit(requests=1, per=60.0)"),
        ({"limits": [Quota("q", Limit(requests=1))]}, TypeError, "an item of limits must be a Limit, not Quota('q',"),
        ({"quotas": "q"}, TypeError, "an item of quotas must be a Quota, not 'q'"),
        ({"quotas": [Limit(requests=1)]}, TypeError, "an item of quotas must be a Quota, not Limit("),
        ({"quotas": [Quota("q", Limit(requests=1))] * 2}, ConfigurationError, 'the quota "q" is given twice to "d"'),
    ],
)
def test_a_deployment_takes_limits_and_quotas_and_nothing_else(facts: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Deployment("d", "m", **facts)


@pytest.mark.parametrize("call", ["select", "acquire", "explain"])
@pytest.mark.parametrize(
    ("facts", "error", "message"),
    [
        ({"input_tokens": -1}, ConfigurationError, f"input_tokens must be an int from 0 to {LARGEST}, not -1 (int)"),
        (
            {"output_tokens": LARGEST + 1},
            ConfigurationError,
            f"output_tokens must be an int from 0 to {LARGEST}, not {LARGEST + 1}",
        ),
        ({"input_tokens": 1.5}, TypeError, f"input_tokens must be an int from 0 to {LARGEST}, not 1.5"),
        ({"output_tokens": "5"}, TypeError, f"output_tokens must be an int from 0 to {LARGEST}, not '5'"),
        (
            {"tokens": 5, "input_tokens": 3, "output_tokens": 3},
            ConfigurationError,
            "tokens must be at least input_tokens + output_tokens (6), not 5",
        ),
        ({"tokens": 5, "input_tokens": 6}, ConfigurationError, "tokens must be at least input_tokens + output_tokens (6), not 5"),
    ],
)
def test_tokens_that_do_not_add_up_are_refused(call: str, facts: dict[str, Any], error: type[Exception], message: str) -> None:
    router = limited(Limit(tokens=100), clock=ManualClock())
    with pytest.raises(error, match=re.escape(message)):
        getattr(router, call)("m", **facts)
    assert used(router) == 0


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"tokens": 5, "input_tokens": 3, "output_tokens": 3}, ConfigurationError),
        ({"input_tokens": -1}, ConfigurationError),
        ({"output_tokens": 1.5}, TypeError),
    ],
)
def test_a_success_that_does_not_add_up_leaves_the_lease_as_it_is(facts: dict[str, Any], error: type[Exception]) -> None:
    router = limited(Limit(tokens=100), clock=ManualClock())
    lease = router.acquire("m", tokens=10)
    with pytest.raises(error):
        lease.success(**facts)
    assert not lease.released
    assert lease.success(7)
    assert used(router) == 7


# --- values ---


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Limit(requests=600), "Limit(requests=600, per=60.0)"),
        (Limit(tokens=9, per=86_400), "Limit(tokens=9, per=86400.0)"),
        (Limit(input_tokens=9, kind="sliding"), "Limit(input_tokens=9, per=60.0, kind='sliding')"),
        (Limit(output_tokens=9, kind="bucket", burst=3), "Limit(output_tokens=9, per=60.0, kind='bucket', burst=3)"),
        (Limit(requests=9, start="first_use", per=0.5), "Limit(requests=9, per=0.5, start='first_use')"),
    ],
)
def test_limits_and_quotas_are_values(limit: Limit, said: str) -> None:
    assert repr(limit) == said
    assert eval(said, {"Limit": Limit}) == limit
    quota = Quota("q", limit, Limit(requests=5))
    assert repr(quota) == f"Quota('q', {said}, Limit(requests=5, per=60.0))"
    deployment = Deployment("d", "m", limits=[limit], quotas=[quota])
    assert repr(deployment) == f"Deployment('d', 'm', limits=({said},), quotas=({quota!r},))"
    for value in (limit, quota, deployment):
        for same in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
            assert same == value
            assert hash(same) == hash(value)
    assert deployment.replace(weight=2).limits == (limit,)
    assert deployment.replace(weight=2).quotas == (quota,)
    assert deployment.replace(limits=()) == Deployment("d", "m", quotas=[quota])
    assert replace(limit, per=7.0) != limit
    with pytest.raises(FrozenInstanceError):
        limit.per = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        quota.limits = ()  # type: ignore[misc]


def test_limits_that_differ_in_anything_are_different() -> None:
    limits = [
        Limit(requests=5),
        Limit(tokens=5),
        Limit(requests=6),
        Limit(requests=5, per=61),
        Limit(requests=5, kind="sliding"),
        Limit(requests=5, start="first_use"),
        Limit(requests=5, offset=1),
        Limit(requests=5, per=86_400),
        Limit(requests=5, per=86_400, timezone="Etc/GMT"),
        Limit(requests=5, per=86_400, timezone="Asia/Tokyo"),
        Limit(requests=5, kind="bucket"),
        Limit(requests=5, kind="bucket", burst=4),
    ]
    deployments = [Deployment("d", "m", limits=[limit]) for limit in limits] + [
        Deployment("d", "m"),
        Deployment("d", "m", limits=limits),
    ]
    assert len(set(limits)) == len(limits)
    assert all((one == other) == (i == j) for i, one in enumerate(deployments) for j, other in enumerate(deployments))


@pytest.mark.parametrize(
    "limit",
    [
        Limit(requests=5, kind="bucket", burst=5),
        Limit(tokens=7, per=1 / 3),
        Limit(requests=3, per=0.1),
        Limit(requests=3, per=1e9 / 7),
        Limit(requests=3, per=1 / 3, offset=-1 / 9),
        Limit(requests=3, per=7 * 86_400, timezone="asia/kolkata"),
    ],
)
def test_a_limit_comes_back_from_the_core_as_it_was(limit: Limit) -> None:
    assert limited(limit, clock=ManualClock()).stats("d").limits[0].limit == limit


def test_a_burst_of_all_is_the_same_as_none() -> None:
    assert Limit(requests=5, kind="bucket", burst=5) == Limit(requests=5, kind="bucket")


def test_what_iterables_a_deployment_is_given_it_keeps_as_tuples() -> None:
    quota = Quota("q", Limit(requests=1))
    deployment = Deployment("d", "m", limits=iter([Limit(requests=1)]), quotas={quota})
    assert (deployment.limits, deployment.quotas) == ((Limit(requests=1),), (quota,))
    assert (Deployment("d", "m").limits, Deployment("d", "m", limits=[], quotas=[]).quotas) == ((), ())


# --- each kind at its edges ---


def test_the_short_form_and_a_fixed_limit_do_the_same() -> None:
    """Side by side through the same random history."""
    chance = random.Random(5)
    clock = ManualClock(1000)
    short = Router([Deployment("d", "m", rpm_limit=8, tpm_limit=300)], clock=clock)
    long = limited(Limit(requests=8), Limit(tokens=300), clock=clock)
    leases: list[tuple[Lease, Lease]] = []
    refused = Counter[bool]()
    for _ in range(2_000):
        clock.advance(chance.choice([0, 0, 0, 0.5, 3, 11]))
        if leases and chance.random() < 0.4:
            pair = leases.pop(chance.randrange(len(leases)))
            tokens, unused = chance.randrange(80), chance.random() < 0.3
            ends = [lease.release(True) if unused else lease.success(tokens) for lease in pair]
            assert ends == [True, True]
        else:
            tokens = chance.randrange(90)
            errors, pair_or_none = [], []
            for router in (short, long):
                try:
                    pair_or_none.append(router.acquire("m", tokens=tokens))
                except RateLimitExceeded as error:
                    errors.append(error.retry_after)
            refused[bool(errors)] += 1
            assert len(errors) in (0, 2)
            assert len(set(errors)) <= 1
            if pair_or_none:
                leases.append((pair_or_none[0], pair_or_none[1]))
        stats = short.stats("d")
        assert (used(long), used(long, 1)) == (stats.rpm_current, stats.tpm_current)
    for lease in [lease for pair in leases for lease in pair]:
        lease.release()
    assert min(refused.values()) > 100, "both are met"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("per", [1.0, 60.0, 86_400.0])
def test_a_limit_fills_exactly_and_frees_when_it_says(kind: Kind, unit: str, per: float) -> None:
    clock = ManualClock(1_000_000.125)
    amount: dict[str, Any] = {unit: 10}
    router = limited(Limit(per=per, kind=kind, **amount), clock=clock)
    facts: dict[str, Any] = (
        {} if unit == "requests" else {"tokens": 1} if unit == "tokens" else {"input_tokens": 1, "output_tokens": 1}
    )
    for count in range(10):
        assert used(router) == count
        router.acquire("m", **facts).release()
    wait = wait_for(router, **facts)
    bound = {"fixed": per, "sliding": per * 61 / 60, "bucket": per / 10}[kind]
    assert 0 < wait <= bound
    clock.advance(wait - 1e-6)
    assert not admits(router, **facts)
    clock.advance(1e-6)
    assert admits(router, **facts)


def test_windows_begin_with_the_clock_or_with_their_first_use() -> None:
    clock = ManualClock(50)
    router = Router(
        [
            Deployment("clock", "clock", limits=[Limit(requests=1)]),
            Deployment("first_use", "first_use", limits=[Limit(requests=1, start="first_use")]),
        ],
        clock=clock,
    )
    assert admits(router, "clock")
    assert admits(router, "first_use")
    assert (wait_for(router, "clock"), wait_for(router, "first_use")) == (10.0, 60.0)
    clock.set(60)
    assert admits(router, "clock")
    assert wait_for(router, "first_use") == 50.0
    # The next begins when it is used again, and not when this one ends.
    clock.set(130)
    assert admits(router, "first_use")
    assert wait_for(router, "first_use") == 60.0


def test_a_day_begins_at_midnight_utc() -> None:
    day = 86_400
    clock = ManualClock(20_000 * day + day - 30)
    router = limited(Limit(requests=2, per=day), clock=clock)
    assert [admits(router), admits(router)] == [True, True]
    assert wait_for(router) == 30.0
    clock.advance(30)
    assert admits(router)


def test_a_window_may_begin_somewhere_else() -> None:
    """Gemini's days begin at midnight in California: https://ai.google.dev/gemini-api/docs/rate-limits."""
    eight = Limit(requests=1, per=86_400, offset=8 * 3600)
    california = Limit(requests=1, per=86_400, timezone="America/Los_Angeles")
    for limit, day, hour, opens in [
        (eight, "2026-01-15", 7, "2026-01-15T08:00"),
        (eight, "2026-01-15", 8, "2026-01-16T08:00"),
        (california, "2026-01-15", 7, "2026-01-15T08:00"),
        (california, "2026-07-15", 6, "2026-07-15T07:00"),
        (california, "2026-03-08", 8, "2026-03-09T07:00"),  # 23 hours
        (california, "2026-11-01", 7, "2026-11-02T08:00"),  # 25 hours
    ]:
        at = [datetime.fromisoformat(f"{text}+00:00").timestamp() for text in (f"{day}T{hour:02}:00", opens)]
        router = Router([Deployment("a", "m", limits=[limit])], clock=ManualClock(at[0]))
        router.acquire("m").release()
        with pytest.raises(NoAvailableDeployment) as refused:
            router.select("m")
        assert refused.value.retry_after == at[1] - at[0], (limit, day)


def test_a_beginning_is_written_in_one_way() -> None:
    assert Limit(requests=1, per=60, offset=-20) == Limit(requests=1, per=60, offset=40)
    assert Limit(requests=1, per=86_400, timezone="europe/berlin").timezone == "Europe/Berlin"
    assert Limit(requests=1, per=60, offset=-0.0) == Limit(requests=1, per=60)


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("per", [10, 60, 61, 3600])
def test_a_limit_that_is_written_anew_keeps_what_was_used(before: Kind, after: Kind, per: float) -> None:
    clock = ManualClock(7200.0)
    router = Router([Deployment("a", "m", limits=[make_limit(before, "requests", 100)])], clock=clock)
    for _ in range(80):
        router.acquire("m").release()
    for _ in range(3):
        router.set_deployments([Deployment("a", "m", limits=[make_limit(after, "requests", 100, per)])])
        assert router.stats("a").limits[0].used == 80
    # Only what a limit has used may go over to another: the tokens are not limited before.
    both = [make_limit(after, "tokens", 1000, per), make_limit(after, "requests", 90, per)]
    router.add_deployment(Deployment("a", "m", limits=both))
    assert [limit.used for limit in router.stats("a").limits] == [0, 80]
    for _ in range(10):
        router.acquire("m").release()
    with pytest.raises(NoAvailableDeployment):
        router.select("m")


def test_a_quota_that_is_written_anew_keeps_what_was_used() -> None:
    clock = ManualClock(7200.0)
    for after in [Limit(requests=100, per=61), Limit(requests=100, kind="bucket"), Limit(requests=100, kind="sliding", per=3600)]:
        router = Router([Deployment("a", "m", quotas=[Quota("q", Limit(requests=100))])], clock=clock)
        for _ in range(80):
            router.acquire("m").release()
        router.set_deployments([Deployment("a", "m", quotas=[Quota("q", after)])])
        assert router.stats("a").limits[0].used == 80


@pytest.mark.parametrize(
    ("short", "long", "facts"),
    [
        ({"rpm_limit": 100}, Limit(requests=100), {}),
        ({"rpm_limit": 100}, Limit(requests=100, kind="sliding"), {}),
        ({"rpm_limit": 100}, Limit(requests=100, per=3600, kind="bucket"), {}),
        ({"tpm_limit": 1000}, Limit(tokens=1000), {"tokens": 10}),
        ({"tpm_limit": 1000}, Limit(tokens=1000, per=61, start="first_use"), {"tokens": 10}),
    ],
    ids=str,
)
def test_the_short_form_and_a_limit_go_over_into_each_other(short: dict[str, Any], long: Limit, facts: dict[str, Any]) -> None:
    """Eighty hundredths are used, written one way, then the other, and back."""
    router = Router([Deployment("a", "m", **short)], clock=ManualClock(7200.0))
    for _ in range(80):
        router.acquire("m", **facts).release()
    for _ in range(2):
        router.set_deployments([Deployment("a", "m", limits=[long])])
        assert router.stats("a").limits[0].remaining * 100 == long.amount * 20
        router.set_deployments([Deployment("a", "m", **short)])
        stats = router.stats("a")
        assert (stats.rpm_current if "rpm_limit" in short else stats.tpm_current) * 100 == long.amount * 80
    assert router.stats("a").total_requests == 80


def test_of_several_limits_the_nearest_in_time_goes_on() -> None:
    clock = ManualClock(7200.0)
    day, minute = Limit(requests=1000, per=86_400), Limit(requests=100, per=60)
    router = Router([Deployment("a", "m", limits=[day, minute])], clock=clock)
    for _ in range(50):
        router.acquire("m").release()
    clock.advance(60.0)
    for _ in range(7):
        router.acquire("m").release()
    router.set_deployments([Deployment("a", "m", limits=[Limit(requests=100, per=30), Limit(requests=1000, per=7 * 86_400)])])
    assert [limit.used for limit in router.stats("a").limits] == [7, 57]


def test_a_sliding_window_has_no_edge() -> None:
    clock = ManualClock(59)
    router = limited(Limit(requests=10, kind="sliding"), clock=clock)
    assert sum(admits(router) for _ in range(12)) == 10
    clock.set(61)
    assert not admits(router), "a fixed one would begin anew"
    # In slices of a second: what the 59th took goes with the 120th.
    assert wait_for(router) == 59.0
    clock.set(120)
    assert sum(admits(router) for _ in range(12)) == 10


def test_a_bucket_refills_bit_by_bit() -> None:
    clock = ManualClock(1000)
    router = limited(Limit(requests=60, kind="bucket", burst=5), clock=clock)
    assert sum(admits(router) for _ in range(9)) == 5
    assert wait_for(router) == 1.0
    clock.advance(2.5)
    assert sum(admits(router) for _ in range(9)) == 2
    assert wait_for(router) == 0.5
    clock.advance(1000)
    assert sum(admits(router) for _ in range(9)) == 5


def test_a_clock_that_is_set_back_frees_nothing_early() -> None:
    for kind in KINDS:
        clock = ManualClock(1000)
        router = limited(Limit(requests=2, kind=cast(Kind, kind)), clock=clock)
        assert [admits(router), admits(router), admits(router)] == [True, True, False]
        clock.set(970)
        assert not admits(router)
        wait = wait_for(router)
        clock.set(1000 + wait)
        assert admits(router)


# --- too large ---


@pytest.mark.parametrize(
    ("limit", "facts", "largest"),
    [
        (Limit(tokens=100), {"tokens": 101}, 100),
        (Limit(tokens=100, kind="sliding"), {"tokens": 101}, 100),
        (Limit(tokens=100, kind="bucket"), {"tokens": 101}, 100),
        (Limit(tokens=100, kind="bucket", burst=7), {"tokens": 8}, 7),
        (Limit(input_tokens=50), {"tokens": 51}, 50),
        (Limit(input_tokens=50), {"tokens": 60, "input_tokens": 51}, 50),
        (Limit(output_tokens=50, kind="bucket", burst=5), {"tokens": 60, "input_tokens": 54}, 5),
    ],
)
def test_what_never_fits_is_said_to(limit: Limit, facts: dict[str, Any], largest: int) -> None:
    quota = Quota("q", limit)
    for deployment in (Deployment("d", "m", limits=[limit]), Deployment("d", "m", quotas=[quota])):
        router = Router([deployment], clock=ManualClock(1000))
        with pytest.raises(RequestTooLarge) as refused:
            router.acquire("m", **facts)
        assert (refused.value.tokens, refused.value.largest_limit) == (facts["tokens"], largest)
        assert router.explain("m", **facts).retry_after is None
        # One that fits elsewhere is not too large.
        router.add_deployment(Deployment("e", "m"))
        assert router.select("m", **facts) == "e"


def test_a_split_request_fits_by_its_parts() -> None:
    """Its sum is above the limit of its answers, and its answer is not."""
    clock = ManualClock(990)
    router = limited(Limit(requests=1), Limit(output_tokens=20), Limit(input_tokens=95), clock=clock)
    facts: dict[str, Any] = {"input_tokens": 90, "output_tokens": 10}
    assert admits(router, **facts)
    assert wait_for(router, **facts) == 30.0
    clock.advance(30)
    assert admits(router, **facts)


@pytest.mark.parametrize("unit", ["input_tokens", "output_tokens"])
def test_a_part_that_is_not_known_counts_as_the_whole(unit: str) -> None:
    amount: dict[str, Any] = {unit: 100}
    router = limited(Limit(**amount), clock=ManualClock())
    router.acquire("m", tokens=60).release()
    assert used(router) == 60
    assert not admits(router, tokens=41)
    # Known, it takes what it is.
    assert admits(router, tokens=41, input_tokens=20, output_tokens=21)
    assert used(router) == 60 + (20 if unit == "input_tokens" else 21)


def test_what_is_not_given_of_a_split_is_the_rest() -> None:
    router = limited(Limit(tokens=1000), Limit(input_tokens=1000), Limit(output_tokens=1000), clock=ManualClock())

    def takes(**facts: Any) -> list[int]:
        before = [limit.used for limit in router.stats("d").limits]
        lease = router.acquire("m", **facts)
        taken = [limit.used - was for limit, was in zip(router.stats("d").limits, before, strict=True)]
        assert lease.tokens == taken[0]
        lease.release(unused=True)
        return taken

    assert takes(tokens=10, input_tokens=7) == [10, 7, 3]
    assert takes(tokens=10, output_tokens=7) == [10, 3, 7]
    assert takes(input_tokens=7, output_tokens=4) == [11, 7, 4]
    for part, other in ("input_tokens", "output_tokens"), ("output_tokens", "input_tokens"):
        with pytest.raises(ConfigurationError, match=f"{part} must come with {other} or with tokens"):
            takes(**{part: 7})
    # Some are neither, such as tokens of reasoning that a provider counts apart.
    assert takes(tokens=20, input_tokens=7, output_tokens=4) == [20, 7, 4]
    assert takes(tokens=9) == [9, 9, 9]


def test_an_embedding_passes_where_answers_are_spent() -> None:
    """It has no answer. It is picked there, however large the group."""
    deployments = [Deployment(f"d{i}", "m", priority=i, limits=[Limit(output_tokens=10)]) for i in range(40)]
    router = Router(deployments, strategy="priority_based", clock=ManualClock())
    router.acquire("m", tokens=10).release()
    assert router.select("m", tokens=5) == "d1"
    assert router.explain("m", input_tokens=5, output_tokens=0).winner == "d0"
    assert router.select("m", input_tokens=5, output_tokens=0) == "d0"
    assert acquire(router, input_tokens=5, output_tokens=0) == "d0"


# --- settling ---


@pytest.mark.parametrize("kind", KINDS)
def test_usage_that_never_arrives_keeps_the_estimate(kind: Kind) -> None:
    router = limited(Limit(tokens=100, kind=kind), clock=ManualClock(1000))
    with router.acquire("m", tokens=30):
        pass  # a stream whose last chunk had no usage
    assert used(router) == 30
    with pytest.raises(ZeroDivisionError), router.acquire("m", tokens=30):
        raise ZeroDivisionError
    assert used(router) == 60
    router.acquire("m", tokens=30).release()
    assert used(router) == 90


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_that_was_too_low_is_made_up_for(kind: Kind) -> None:
    clock = ManualClock(1000)
    router = limited(Limit(tokens=100, kind=kind), clock=clock)
    router.acquire("m", tokens=10).success(tokens=150)
    stats = router.stats("d").limits[0]
    assert (stats.used, stats.remaining) == (150, 0)
    wait = wait_for(router, tokens=1)
    # A bucket pays the excess back; a window forgets it.
    assert wait == {"fixed": 20.0, "sliding": 61.0, "bucket": pytest.approx(51 * 0.6)}[kind]
    clock.advance(wait)
    assert admits(router, tokens=1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_that_was_too_high_is_given_back(kind: Kind) -> None:
    router = limited(Limit(tokens=100, kind=kind), Limit(requests=9, kind=kind), clock=ManualClock(1000))
    lease = router.acquire("m", tokens=100)
    assert not admits(router, tokens=1)
    lease.success(tokens=30)
    assert (used(router), used(router, 1)) == (30, 1)
    assert admits(router, tokens=69)
    assert not admits(router, tokens=2)
    # A request that was never sent is no request.
    router.acquire("m", tokens=1).release(unused=True)
    assert (used(router), used(router, 1)) == (99, 2)


@pytest.mark.parametrize(
    ("kind", "later", "given_back"),
    [
        ("fixed", 19, 80),  # from 1000 to 1020
        ("fixed", 20, 0),
        ("sliding", 60, 80),
        ("sliding", 61, 0),
        ("bucket", 30, 50),  # half of it has refilled, and the other half is missing when the other comes
        ("bucket", 61, 0),
    ],
)
def test_what_a_window_took_is_given_back_to_that_window(kind: Kind, later: float, given_back: int) -> None:
    clock = ManualClock(1000)
    router = limited(Limit(tokens=100, kind=kind), clock=clock)
    lease = router.acquire("m", tokens=100)
    clock.advance(later)
    # What is in the window by now is another's.
    others = used(router) <= 80 and admits(router, tokens=20)
    taken = used(router)
    lease.success(tokens=20)
    assert used(router) == taken - given_back
    assert others == (given_back == 0 or kind == "bucket")


def test_a_bucket_gives_back_no_more_than_had_it_never_been_charged() -> None:
    """The bucket would have been full after 5 s and spilled from then on, had the first request not been
    there.
    """
    clock = ManualClock(1000)
    router = limited(Limit(tokens=60, kind="bucket", burst=20), clock=clock)
    unused = router.acquire("m", tokens=10)
    clock.advance(5)
    router.acquire("m", tokens=10).release()
    clock.advance(3)
    unused.release(unused=True)
    # As a bucket that was full at 1005, when ten were taken.
    assert used(router) == 7
    clock.advance(2)
    assert wait_for(router, tokens=20) == 5.0


def test_the_parts_of_a_success() -> None:
    router = limited(Limit(tokens=1000), Limit(input_tokens=1000), Limit(output_tokens=1000), clock=ManualClock())

    def settles(lease: Lease, **facts: int) -> list[int]:
        before = [limit.used for limit in router.stats("d").limits]
        lease.success(**facts)
        return [limit.used - was for limit, was in zip(router.stats("d").limits, before, strict=True)]

    def split() -> Lease:
        return router.acquire("m", input_tokens=30, output_tokens=20)

    assert settles(split()) == [0, 0, 0]
    assert settles(split(), input_tokens=25, output_tokens=5) == [-20, -5, -15]
    # The prompt is what it was estimated to be, the answer is the rest.
    assert settles(split(), tokens=37) == [-13, 0, -13]
    assert settles(split(), tokens=10) == [-40, -20, -20]
    assert settles(router.acquire("m", tokens=50), tokens=20) == [-30, -30, -30]
    assert settles(router.acquire("m", tokens=50), input_tokens=8, output_tokens=2) == [-40, -42, -48]
    assert router.stats("d").total_tokens == 50 + 30 + 37 + 10 + 20 + 10


# --- quotas ---


def shared(*quotas: Quota, clock: ManualClock, **facts: Any) -> Router:
    """Deployments a and b of the model m, c of the model n."""
    names = {"a": "m", "b": "m", "c": "n"}
    return Router([Deployment(i, m, quotas=quotas, **facts) for i, m in names.items()], clock=clock, seed=1, strategy="round_robin")


@pytest.mark.parametrize("kind", KINDS)
def test_a_quota_is_counted_once_for_all_that_are_under_it(kind: Kind) -> None:
    clock = ManualClock(1000)
    router = shared(Quota("q", Limit(requests=3, kind=kind)), clock=clock)
    assert [admits(router, name) for name in "mnm"] == [True, True, True]
    assert [used(router, 0, i) for i in "abc"] == [3, 3, 3]
    # Available together, and together not.
    waits = {name: wait_for(router, name) for name in "mn"}
    assert len(set(waits.values())) == 1
    verdicts = router.explain("m").verdicts
    assert [verdict.gate for verdict in verdicts] == ["quota", "quota"]
    assert all(verdict.detail is not None and 'quota "q": 3 requests per 60 s' in verdict.detail for verdict in verdicts)
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m")
    assert refused.value.reasons == {"quota": 2}
    clock.advance(waits["m"] - 1e-6)
    assert not admits(router, "n")
    clock.advance(1e-6)
    assert admits(router, "n")
    if kind == "bucket":
        assert not admits(router, "m"), "one refilled, and the other group has it"


def test_a_deployment_under_two_quotas_waits_for_both() -> None:
    clock = ManualClock(1000)
    minute, day = Quota("minute", Limit(requests=2)), Quota("day", Limit(tokens=100, per=86_400))
    router = Router([Deployment("a", "m", quotas=[minute, day]), Deployment("b", "n", quotas=[day])], clock=clock)
    assert [admits(router, tokens=10), admits(router, tokens=10), admits(router, tokens=10)] == [True, True, False]
    assert wait_for(router, tokens=10) == 20.0
    assert admits(router, "n", tokens=80), "which is not under the minute's"
    day_ends = 86_400 - 1000
    assert (wait_for(router, "n", tokens=10), wait_for(router, tokens=10)) == (day_ends, day_ends)
    clock.advance(20)
    assert 'quota "day"' in str(router.explain("m", tokens=10).verdicts[0].detail)


def test_one_deployment_with_room_outside_a_spent_quota_is_picked() -> None:
    router = shared(Quota("q", Limit(requests=1)), clock=ManualClock())
    router.add_deployment(Deployment("d", "m"))
    assert admits(router)
    assert {router.select("m") for _ in range(9)} == {"d"}
    assert {acquire(router) for _ in range(9)} == {"d"}


def test_all_that_share_a_quota_give_it_the_same_limits() -> None:
    router = shared(Quota("q", Limit(requests=3)), clock=ManualClock())
    admits(router)
    other = Quota("q", Limit(requests=4))
    message = 'the quota "q" of deployment "d" has other limits than that of'
    with pytest.raises(ConfigurationError, match=message):
        router.add_deployment(Deployment("d", "m", quotas=[other]))
    with pytest.raises(ConfigurationError, match='the quota "q" of deployment "b" has other limits than that of "a"'):
        router.set_deployments([Deployment("a", "m", quotas=[other]), Deployment("b", "m", quotas=[Quota("q", Limit(requests=3))])])
    with pytest.raises(ConfigurationError, match="other limits"):
        Router([Deployment("a", "m", quotas=[other]), Deployment("b", "m", quotas=[Quota("q", Limit(requests=3))])])
    # Nothing is changed by what was refused.
    assert [deployment.deployment_id for deployment in router.deployments()] == ["a", "b", "c"]
    assert used(router, 0, "a") == 1
    # The only deployment under a quota may change it.
    router.remove_deployment("b")
    router.remove_deployment("c")
    router.add_deployment(Deployment("a", "m", quotas=[other]))
    assert (used(router, 0, "a"), router.stats("a").limits[0].remaining) == (1, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quota_that_is_replaced_goes_on(kind: Kind) -> None:
    router = shared(Quota("q", Limit(tokens=100, kind=kind)), clock=ManualClock(1000))
    settled, unused = router.acquire("m", tokens=40), router.acquire("n", tokens=30)
    other = Quota("q", Limit(tokens=200, kind=kind), Limit(requests=9))
    router.set_deployments([Deployment(i, "m", quotas=[other]) for i in "abx"])
    assert [(limit.used, limit.remaining) for limit in router.stats("x").limits] == [(70, 130), (0, 9)]
    # Leases of before settle there.
    settled.success(tokens=90)
    unused.release(unused=True)
    assert used(router, 0, "x") == 90
    assert admits(router, tokens=110)
    assert not admits(router, tokens=1)


def test_a_quota_lives_as_long_as_anybody_or_a_lease_is_under_it() -> None:
    quota = Quota("q", Limit(tokens=100))
    router = Router([Deployment("a", "m", quotas=[quota])], clock=ManualClock(1000))
    lease = router.acquire("m", tokens=60)
    router.remove_deployment("a")
    router.add_deployment(Deployment("b", "m", quotas=[quota]))
    assert used(router, 0, "b") == 60
    lease.success(tokens=20)
    assert used(router, 0, "b") == 20
    del lease
    router.remove_deployment("b")
    router.add_deployment(Deployment("c", "m", quotas=[quota]))
    assert used(router, 0, "c") == 0


def test_facts_that_are_replaced_keep_what_is_used() -> None:
    router = limited(Limit(tokens=100, kind="sliding"), Limit(requests=5), clock=ManualClock(1000))
    router.acquire("m", tokens=40).release()
    router.add_deployment(Deployment("d", "m", limits=[Limit(requests=9), Limit(tokens=50, kind="sliding"), Limit(tokens=50)]))
    assert [limit.used for limit in router.stats("d").limits] == [1, 40, 0]
    # Moved to another model name as well.
    router.add_deployment(Deployment("d", "n", limits=[Limit(requests=9)]))
    assert used(router) == 1


def test_two_limits_that_count_alike_stay_apart() -> None:
    router = limited(Limit(requests=5), Limit(requests=7), clock=ManualClock())
    admits(router)
    router.add_deployment(Deployment("d", "m", limits=[Limit(requests=6), Limit(requests=8)]))
    admits(router)
    assert (used(router), used(router, 1)) == (2, 2)


def test_requests_without_a_lease_count() -> None:
    router = shared(Quota("q", Limit(tokens=100), Limit(requests=3)), clock=ManualClock(), limits=[Limit(tokens=50)])
    router.record_success("a", tokens=70)
    router.record_failure("b")
    assert [limit.used for limit in router.stats("a").limits] == [70, 70, 2]
    assert [limit.used for limit in router.stats("b").limits] == [0, 70, 2]
    assert not admits(router, "n", tokens=31)


# --- what there is to see ---


def test_stats_and_snapshots_show_every_limit() -> None:
    clock = ManualClock(1000)
    own, account = Limit(tokens=100, kind="bucket", burst=50), Limit(requests=9, kind="sliding")
    router = Router([Deployment("d", "m", limits=[own], quotas=[Quota("q", account)]), Deployment("e", "m", weight=0)], clock=clock)
    router.acquire("m", tokens=30).release()
    expected = (LimitStats(own, None, 30, 20, 18.0), LimitStats(account, "q", 1, 8, 61.0 - 1000 % 1))
    assert router.stats("d").limits == expected
    assert router.snapshot()["limits"] == [expected, ()]
    clock.advance(6)
    assert router.stats("d").limits[0] == LimitStats(own, None, 20, 30, 12.0)


def test_an_explanation_has_the_numbers() -> None:
    router = limited(Limit(tokens=100, kind="sliding"), clock=ManualClock(1000))
    router.acquire("m", tokens=80).release()
    explained = router.explain("m", tokens=30)
    verdict = explained.verdicts[0]
    assert (verdict.gate, verdict.detail) == ("limit", "100 tokens per 60 s (sliding): 80 used, 30 asked for, frees in 61.0 s")
    assert "limit: 100 tokens" in str(explained)
    assert router.explain("m", tokens=101).verdicts[0].detail == "100 tokens per 60 s (sliding): 101 asked for, never fits"
    with pytest.raises(RateLimitExceeded, match=r"1 stopped by limit; try again in 61\.000 s"):
        router.acquire("m", tokens=30)


def test_routing_contexts_show_the_fullest_limit() -> None:
    router = limited(
        Limit(tokens=1000, kind="sliding"),
        Limit(input_tokens=100),
        Limit(requests=50, kind="bucket"),
        clock=ManualClock(),
        tpm_limit=10_000,
    )
    router.acquire("m", input_tokens=60, output_tokens=40).release()
    context = strategies.build_routing_contexts(router, ["d"])[0]
    assert (context.tpm_current, context.tpm_limit, context.rpm_current, context.rpm_limit) == (60, 100, 1, 50)


@pytest.mark.parametrize("strategy", [Strategy.USAGE_BASED, Strategy.RATE_LIMIT_AWARE])
@pytest.mark.parametrize("kind", KINDS)
def test_strategies_that_look_at_usage_follow_limits_of_any_kind(strategy: Strategy, kind: Kind) -> None:
    clock = ManualClock(1000)
    router = Router([Deployment(i, "m", limits=[Limit(tokens=1000, kind=kind)]) for i in "ab"], strategy=strategy, clock=clock)
    picks = Counter(acquire(router, tokens=100) for _ in range(20))
    assert picks == {"a": 10, "b": 10}
    # As time lets go of what one of them used, it is picked again; the index has noted when.
    router = Router([Deployment(i, "m", limits=[Limit(tokens=1000, kind=kind)]) for i in "ab"], strategy=strategy, clock=clock)
    router.record_success("a", tokens=200)
    clock.advance(5)
    router.record_success("b", tokens=100 if kind != "bucket" else 50)
    picked = []
    for _ in range(80):
        picked.append(router.select("m"))
        assert picked[-1] == router.explain("m").winner
        clock.advance(1)
    assert (picked[0], picked[-1]) == ("b", "a")


# --- QUALITY.md, section 4 ---


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_flight_counts(kind: Kind) -> None:
    """Row 11: a limit of 60 a minute, 200 arrivals in a second, responses that take 10 s."""
    clock = ManualClock(1000)
    router = limited(Limit(requests=60, kind=kind), clock=clock)
    leases = []
    for _ in range(200):
        with contextlib.suppress(RateLimitExceeded):
            leases.append(router.acquire("m"))
        clock.advance(0.005)
    assert len(leases) == 60
    clock.advance(10)
    assert all(lease.success() for lease in leases)


@pytest.mark.parametrize(("kind", "most"), [("fixed", 120), ("sliding", 60), ("bucket", 62)])
def test_a_burst_across_the_reset(kind: Kind, most: int) -> None:
    """Row 12: what a fixed window admits twice at its edge, the others do not."""
    clock = ManualClock(1019)
    router = limited(Limit(requests=60, kind=kind), clock=clock)
    admitted = sum(admits(router) for _ in range(100))
    clock.advance(2)
    assert admitted + sum(admits(router) for _ in range(100)) == most


def test_slices_of_ten_seconds() -> None:
    """Row 12: Azure counts 60 requests a minute as ten in 10 s, and sees no more of them than that."""
    clock = ManualClock(1000)
    router = limited(Limit(requests=60), Limit(requests=10, per=10), clock=clock)
    slices: Counter[int] = Counter()
    while clock.now() < 1120:
        slices[int(clock.now() // 10)] += admits(router)
        clock.advance(0.5)
    assert slices == dict.fromkeys(range(100, 112), 10)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_of_ten(kind: Kind) -> None:
    """Row 13: LiteLLM uses nine."""
    router = limited(Limit(requests=10, kind=kind), Limit(tokens=100, kind=kind), clock=ManualClock(1000))
    assert sum(admits(router, tokens=10) for _ in range(20)) == 10
    assert (used(router), used(router, 1)) == (10, 100)


@pytest.mark.parametrize(
    "end", [lambda lease: lease.release(), lambda lease: lease.success(), lambda lease: lease.failure("bad_request")]
)
def test_a_lease_that_ended_settles_nothing_more(end: Callable[[Lease], bool]) -> None:
    router = limited(Limit(tokens=100), clock=ManualClock())
    lease = router.acquire("m", tokens=30)
    assert end(lease)
    assert not lease.success(tokens=90)
    assert not lease.release(unused=True)
    assert used(router) == 30
    with pytest.raises(NoAvailableDeployment):
        router.acquire("m", tokens=71)


def test_a_busy_bucket_gets_back_what_was_estimated_too_much() -> None:
    """Some forty requests are in flight at any time, at seven tenths of the limit; the estimates are twice as
    much.
    """
    clock, draw = ManualClock(1.0), random.Random(1)
    router = Router([Deployment("a", "m", limits=[Limit(tokens=600_000, kind="bucket", burst=100_000)])], clock=clock)
    in_flight: list[tuple[float, int, Lease]] = []
    for _ in range(5_000):
        clock.advance(draw.expovariate(7.0))
        for ends_at, tokens, lease in in_flight:
            if ends_at <= clock.now():
                lease.success(tokens=tokens)
        in_flight = [each for each in in_flight if not each[2].released]
        tokens = draw.randrange(500, 1_500)
        in_flight.append((clock.now() + draw.uniform(2.0, 10.0), tokens, router.acquire("m", tokens=2 * tokens)))
    for *_, lease in in_flight:
        lease.release()


def test_numbers_of_other_libraries_are_taken_for_those_of_python() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    three: Any = Three()
    limit = Limit(requests=three, per=Fraction(1, 2), kind="bucket", burst=three)  # type: ignore[arg-type]
    assert limit == Limit(requests=3, per=0.5, kind="bucket")
    assert repr(limit) == "Limit(requests=3, per=0.5, kind='bucket')"
    with pytest.raises(ConfigurationError, match="per must be a finite number"):
        Limit(requests=1, per=10**400)
