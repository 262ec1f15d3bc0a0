"""Limits and quotas against a model that keeps every charge in a log and looks at all of them anew."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from turnout import Deployment, Lease, Limit, ManualClock, Quota, RateLimitExceeded, Router

SLICES = 60
"""Of a sliding window: what a slice took goes when all of it is as old as the window is long."""


@dataclass
class Charge:
    """What a request took of a limit."""

    at: Fraction
    units: int


@dataclass
class Log:
    """A limit, and every charge of it in the order in which they came."""

    limit: Limit
    charges: list[Charge] = field(default_factory=list)
    windows: list[Fraction] = field(default_factory=list)
    """When windows of first use began."""

    @property
    def per(self) -> Fraction:
        return Fraction(self.limit.per)

    @property
    def capacity(self) -> int:
        return self.limit.burst or self.limit.amount

    def window(self, at: Fraction) -> Fraction:
        """Where the fixed window of a time begins."""
        if self.limit.start == "clock":
            return at // self.per * self.per
        return max((began for began in self.windows if began <= at), default=at)

    def goes_at(self, charge: Charge) -> Fraction:
        """When a window lets go of a charge."""
        if self.limit.kind == "fixed":
            return self.window(charge.at) + self.per
        length = self.per / SLICES
        return (charge.at // length + SLICES + 1) * length

    def used(self, now: Fraction) -> Fraction:
        """What is used; of a bucket what is missing, a fraction of a unit included."""
        if self.limit.kind != "bucket":
            return Fraction(sum(charge.units for charge in self.charges if self.goes_at(charge) > now))
        missing, last = Fraction(0), Fraction(0)
        for charge in self.charges:
            missing = max(missing - (charge.at - last) * self.limit.amount / self.per, Fraction(0)) + charge.units
            last = charge.at
        return max(missing - (now - last) * self.limit.amount / self.per, Fraction(0))

    def has(self, now: Fraction, units: int) -> bool:
        return units == 0 or self.used(now) + units <= self.capacity

    def has_at(self, now: Fraction, units: int) -> Fraction:
        """When so many units are left, if nothing more is taken."""
        if self.has(now, units):
            return now
        if self.limit.kind == "bucket":
            return now + (self.used(now) + units - self.capacity) * self.per / self.limit.amount
        return next(at for at in sorted(map(self.goes_at, self.charges)) if at > now and self.has(at, units))

    def charge(self, now: Fraction, units: int) -> Charge:
        if self.limit.start == "first_use" and (not self.windows or now >= self.windows[-1] + self.per):
            self.windows.append(now)
        self.charges.append(Charge(now, units))
        return self.charges[-1]

    def settle(self, now: Fraction, charge: Charge, units: int) -> None:
        """A bucket is charged what was too little when that is known. All else is as if it had been known at
        once.
        """
        if self.limit.kind == "bucket" and units > charge.units:
            self.charge(now, units - charge.units)
        else:
            charge.units = units


@dataclass
class Held:
    """A lease, and what it was charged."""

    lease: Lease
    split: tuple[int, int]
    charges: list[tuple[Log, Charge]]


def demand(limit: Limit, split: tuple[int, int]) -> int:
    return {"requests": 1, "tokens": sum(split), "input_tokens": split[0], "output_tokens": split[1]}[limit.unit]


def least(limit: Limit, split: tuple[int, int]) -> int:
    """A request without any token needs one to be left, where it is not known to need none."""
    return max(demand(limit, split), 1 if limit.unit == "tokens" else 0)


def ceil(number: Fraction) -> int:
    return -(-number.numerator // number.denominator)


# Lengths of which sixtieths and intervals are whole nanoseconds and exact in binary: the model knows no
# rounding.
PERS = [1.875, 15.0, 60.0]


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    kind = draw(st.sampled_from(["fixed", "sliding", "bucket"]))
    facts: dict[str, Any] = {"per": draw(st.sampled_from(PERS)), "kind": kind}
    # Powers of two divide the lengths into whole nanoseconds.
    facts[draw(st.sampled_from(["requests", "tokens", "input_tokens", "output_tokens"]))] = 2 ** draw(st.integers(0, 6))
    if kind == "bucket":
        facts["burst"] = draw(st.sampled_from([None, 1, 3, 40]))
    if kind == "fixed":
        facts["start"] = draw(st.sampled_from(["clock", "first_use"]))
    return Limit(**facts)


splits = st.tuples(st.integers(0, 40), st.integers(0, 40)) | st.tuples(st.integers(0, 3), st.integers(0, 3))


class LimitsMachine(RuleBasedStateMachine):
    """Three deployments, each the only one of its model, with limits of their own and quotas that they
    share.
    """

    held = Bundle("held")

    @initialize(
        own=st.lists(st.lists(limits(), max_size=2), min_size=3, max_size=3),
        quotas=st.lists(st.lists(limits(), min_size=1, max_size=2), min_size=2, max_size=2),
        under=st.lists(st.permutations([0, 1]).map(lambda order: order[:2]) | st.just([0]) | st.just([]), min_size=3, max_size=3),
    )
    def start(self, own: Sequence[Sequence[Limit]], quotas: Sequence[Sequence[Limit]], under: Sequence[Sequence[int]]) -> None:
        self.now = Fraction(1000)
        self.clock = ManualClock(1000)
        shared = [Quota(f"q{nth}", *quota) for nth, quota in enumerate(quotas)]
        deployments = [
            Deployment(f"d{nth}", f"m{nth}", limits=own[nth], quotas=[shared[quota] for quota in under[nth]]) for nth in range(3)
        ]
        self.router = Router(deployments, clock=self.clock)
        logs = {quota.quota_id: [Log(limit) for limit in quota.limits] for quota in shared}
        self.logs: list[list[tuple[str | None, Log]]] = []
        for deployment in deployments:
            mine: list[tuple[str | None, Log]] = [(None, Log(limit)) for limit in deployment.limits]
            mine += [(quota.quota_id, log) for quota in deployment.quotas for log in logs[quota.quota_id]]
            self.logs.append(mine)
        self.open: list[Held] = []

    def all_of(self, nth: int) -> Iterable[Log]:
        return (log for _, log in self.logs[nth])

    @rule(target=held, nth=st.integers(0, 2), split=splits)
    def acquire(self, nth: int, split: tuple[int, int]) -> Held | None:
        asked = [(log, least(log.limit, split)) for log in self.all_of(nth)]
        facts: dict[str, Any] = {"input_tokens": split[0], "output_tokens": split[1]}
        if any(units > log.capacity for log, units in asked):
            assert self.router.explain(f"m{nth}", **facts).winner is None
            return None
        if not all(log.has(self.now, units) for log, units in asked):
            with pytest.raises(RateLimitExceeded) as refused:
                self.router.acquire(f"m{nth}", **facts)
            wait = max(log.has_at(self.now, units) for log, units in asked) - self.now
            assert refused.value.retry_after == float(wait)
            return None
        lease = self.router.acquire(f"m{nth}", **facts)
        held = Held(lease, split, [(log, log.charge(self.now, demand(log.limit, split))) for log in self.all_of(nth)])
        self.open.append(held)
        return held

    @rule(held=consumes(held), split=st.none() | splits)
    def succeed(self, held: Held | None, split: tuple[int, int] | None) -> None:
        if held is None:
            return
        if split is None:
            assert held.lease.success()
            return
        assert held.lease.success(input_tokens=split[0], output_tokens=split[1])
        for log, charge in held.charges:
            log.settle(self.now, charge, demand(log.limit, split))

    @rule(held=consumes(held), unused=st.booleans())
    def release(self, held: Held | None, unused: bool) -> None:
        if held is None:
            return
        assert held.lease.release(unused)
        for log, charge in held.charges if unused else ():
            log.settle(self.now, charge, 0)

    @rule(sixteenths=st.integers(0, 40) | st.integers(0, 1200))
    def wait(self, sixteenths: int) -> None:
        self.now += Fraction(sixteenths, 16)
        self.clock.set(float(self.now))

    @rule(nth=st.integers(0, 2), split=splits)
    def wait_for(self, nth: int, split: tuple[int, int]) -> None:
        """Until just before a request fits, and then until it does."""
        facts: dict[str, Any] = {"input_tokens": split[0], "output_tokens": split[1]}
        after = self.router.explain(f"m{nth}", **facts).retry_after
        if after is None or after < 0.001:
            return
        self.clock.set(float(self.now) + after - 1e-6)
        assert self.router.explain(f"m{nth}", **facts).winner is None
        self.now += Fraction(after)
        self.clock.set(float(self.now))
        assert self.router.select(f"m{nth}", **facts) == f"d{nth}"

    @invariant()
    def stats_are_those_of_the_logs(self) -> None:
        for nth, mine in enumerate(self.logs if hasattr(self, "logs") else ()):
            stats = self.router.stats(f"d{nth}").limits
            # Own ones first, then those of quotas, in the order of their first use.
            assert sorted(map(repr, ((limit.quota, limit.limit) for limit in stats))) == sorted(
                map(repr, ((quota, log.limit) for quota, log in mine))
            )
            seen = sorted((str(limit.quota), repr(limit.limit), limit.used, limit.remaining) for limit in stats)
            known = []
            for quota, log in mine:
                used = log.used(self.now)
                left = max((log.capacity - used) // 1, 0)
                known.append((str(quota), repr(log.limit), ceil(used), left))
            assert seen == sorted(known)

    def teardown(self) -> None:
        for held in getattr(self, "open", ()):
            held.lease.release()


TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(stateful_step_count=40)
