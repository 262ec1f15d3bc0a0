"""Counts what a router admits, and says what is over a limit. It is written from the documentation alone.

It sees a router from outside: a request was admitted at some moment between the call and its return. So a
charge has the earliest and the latest time that it may have happened. A rule counts a charge only where it is
certain to belong. So what the ledger reports is a fault for sure, however the threads ran:

- In flight: a place counts from the return of `acquire` until the call that ends the lease begins.
- Units: a charge counts as estimated until the call that ends the lease begins, and from then on as the
  smaller of the estimate and what was really used. Charges that ended as unused then count nothing.
- A window that starts with the clock: what was charged in it for certain is never over the amount.
- A sliding window: the same for every stretch of its length that ends with a charge.
- A window of first use: the earliest and the latest beginning of each window follow from the one before.
- A bucket: no stretch of time takes more than the burst and what refills in it.
"""

import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from zoneinfo import ZoneInfo

from turnout import Deployment, Limit, ManualClock

Units = dict[str, int]

# The system's clock that the router reads moves in steps of up to ten milliseconds.
COARSE = 0.03
EXACT = 1e-6


@dataclass
class Charge:
    """A request that was admitted."""

    deployment_id: str
    earliest: float
    latest: float
    admitted: int
    """Its place in the order of all that the ledger was told."""
    units: Units
    kept: Units
    """What is left of the units after the end."""
    ended: float = math.inf

    def __post_init__(self) -> None:
        self.open = True


@dataclass(frozen=True)
class Maybe:
    """A request of which the ledger cannot know whether it was admitted."""

    earliest: float
    latest: float


class RealTime:
    """The router's time without a clock of its own, as far as it can be known from outside."""

    margin = COARSE

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._ahead

    def was_set(self) -> bool:
        """Whether somebody has set the machine's clock: then windows begin elsewhere."""
        return abs(time.time() - time.monotonic() - self._ahead) > 0.005


class ManualTime:
    """The time of a manual clock, which is the same inside and outside."""

    margin = EXACT

    def __init__(self, clock: ManualClock) -> None:
        self.now = clock.now

    def was_set(self) -> bool:
        return False


Time = RealTime | ManualTime


def units_of(tokens: int | None, split: tuple[int, int] | None) -> Units:
    """What a request takes. Without a split each part may be all of it."""
    prompt, answer = split if split is not None else (tokens or 0, tokens or 0)
    return {
        "requests": 1,
        "tokens": tokens if tokens is not None else prompt + answer,
        "input_tokens": prompt,
        "output_tokens": answer,
    }


class Ledger:
    """What a router has admitted."""

    def __init__(self, router_time: Time, fault: Callable[[str], None]) -> None:
        self.time = router_time
        self.charges: list[Charge] = []
        self.maybes: list[Maybe] = []
        self.most_parallel: dict[str, int | None] = {}
        self._fault = fault
        self._order = count()
        self._lock = threading.Lock()
        self._in_flight: defaultdict[str, int] = defaultdict(int)

    # --- what the workers tell ---

    def allow(self, deployment_id: str, most: int | None) -> None:
        """Says how many may be in flight, before the router is told. The most that was ever allowed counts,
        since a lower limit ends no lease.
        """
        with self._lock:
            known = self.most_parallel.get(deployment_id, 0)
            self.most_parallel[deployment_id] = None if known is None or most is None else max(known, most)

    def admitted(self, deployment_id: str, earliest: float, units: Units) -> Charge:
        """Counts a lease, right after the call that returned it."""
        margin = self.time.margin
        charge = Charge(deployment_id, earliest - margin, self.time.now() + margin, next(self._order), units, units)
        with self._lock:
            self._in_flight[deployment_id] += 1
            in_flight, most = self._in_flight[deployment_id], self.most_parallel.get(deployment_id)
            self.charges.append(charge)
        if most is not None and in_flight > most:
            self._fault(f"{in_flight} in flight on {deployment_id!r}, which allows {most}")
        return charge

    def ending(self, charge: Charge, used: Units | None = None) -> None:
        """Takes the end of a lease down, right before the call that ends it."""
        with self._lock:
            if charge.open:
                charge.open = False
                self._in_flight[charge.deployment_id] -= 1
                charge.ended = next(self._order)
                if used is not None:
                    charge.kept = {unit: min(taken, used.get(unit, 0)) for unit, taken in charge.units.items()}

    def maybe(self, earliest: float) -> None:
        """Takes down that a request was cut off, and may have been admitted for a moment."""
        self.maybes.append(Maybe(earliest - self.time.margin, self.time.now() + self.time.margin))

    def total_in_flight(self) -> int:
        with self._lock:
            return sum(self._in_flight.values())

    # --- what the ledger knows at the end ---

    def check(self, deployments: Iterable[Deployment]) -> None:
        """Looks at every limit of deployments whose facts did not change."""
        by_id: dict[str, list[Charge]] = defaultdict(list)
        for charge in self.charges:
            by_id[charge.deployment_id].append(charge)
        quotas: dict[tuple[str, Limit], list[Charge]] = defaultdict(list)
        for deployment in deployments:
            charges = by_id[deployment.deployment_id]
            for limit in limits_of(deployment):
                self._check(deployment.deployment_id, limit, charges)
            for quota in deployment.quotas:
                for limit in set(quota.limits):
                    quotas[quota.quota_id, limit] += charges
        for (quota_id, limit), charges in quotas.items():
            self._check(f"quota {quota_id}", limit, sorted(charges, key=lambda charge: charge.admitted))

    def _check(self, name: str, limit: Limit, charges: list[Charge]) -> None:
        if limit.kind == "bucket":
            over = bucket(limit, charges)
        elif limit.kind == "sliding":
            over = sliding(limit, charges)
        elif limit.start == "first_use":
            over = first_use(limit, charges, self.maybes)
        elif self.time.was_set():
            return
        else:
            over = fixed(limit, charges)
        if over is not None:
            self._fault(f"{name!r} has {limit}, and {over} {limit.unit} were admitted in it for certain")

    def least_used(self, deployment: Deployment, limit: Limit) -> int:
        """What is certain to be used of a limit now, of a window that follows the clock."""
        now = self.time.now()
        margin = self.time.margin
        if self.time.was_set() or window(limit, now - margin) != window(limit, now + margin):
            return 0
        mine = (charge for charge in self.charges if charge.deployment_id == deployment.deployment_id)
        current = (one for one in mine if window(limit, one.earliest) == window(limit, one.latest) == window(limit, now))
        return sum(charge.kept[limit.unit] for charge in current)


def limits_of(deployment: Deployment) -> Iterator[Limit]:
    """The limits of its own, those of the minute among them."""
    yield from deployment.limits
    if deployment.rpm_limit is not None:
        yield Limit(requests=deployment.rpm_limit)
    if deployment.tpm_limit is not None:
        yield Limit(tokens=deployment.tpm_limit)


def window(limit: Limit, at: float) -> object:
    """The window of a time, among those that follow the clock."""
    if limit.timezone is not None:
        return datetime.fromtimestamp(at, ZoneInfo(limit.timezone)).date()
    return (at - limit.offset) // limit.per


def peak(unit: str, charges: Iterable[Charge]) -> int:
    """The most that charges of one window took at once, those given back by then left out."""
    steps: list[tuple[float, int]] = []
    for charge in charges:
        steps.append((charge.admitted, charge.units[unit]))
        if charge.ended < math.inf:
            steps.append((charge.ended, charge.kept[unit] - charge.units[unit]))
    most = now = 0
    for _, step in sorted(steps):
        now += step
        most = max(most, now)
    return most


def fixed(limit: Limit, charges: list[Charge]) -> int | None:
    windows: dict[object, list[Charge]] = defaultdict(list)
    for charge in charges:
        begins = window(limit, charge.earliest)
        if begins == window(limit, charge.latest):
            windows[begins].append(charge)
    return max((most for each in windows.values() if (most := peak(limit.unit, each)) > limit.amount), default=None)


def sliding(limit: Limit, charges: list[Charge]) -> int | None:
    """Of each stretch that ends with a charge: the last of its requests was admitted no later than `end`. So
    what was admitted after `end - per` was in the window when that one was checked.
    """
    unit, end = limit.unit, -math.inf
    steps: list[tuple[float, Charge]] = [(charge.admitted, charge) for charge in charges]
    steps += [(charge.ended, charge) for charge in charges if charge.ended < math.inf]
    inside: dict[int, tuple[float, int]] = {}
    for at, charge in sorted(steps, key=lambda step: step[0]):
        if at == charge.admitted:
            end = max(end, charge.latest)
            inside[charge.admitted] = (charge.earliest, charge.units[unit])
            inside = {nth: one for nth, one in inside.items() if one[0] > end - limit.per}
            taken = sum(units for _, units in inside.values())
            if taken > limit.amount:
                return taken
        elif charge.admitted in inside:
            inside[charge.admitted] = (charge.earliest, charge.kept[unit])
    return None


def bucket(limit: Limit, charges: list[Charge]) -> int | None:
    unit, rate = limit.unit, limit.amount / limit.per
    full = limit.burst or limit.amount
    taken = [charge for charge in charges if charge.kept[unit]]
    by_end = sorted(taken, key=lambda charge: charge.latest)
    # A long run has too many stretches to look at all of them.
    for first in taken if len(taken) < 1_000 else random.sample(taken, 1_000):
        units = 0
        for charge in by_end:
            if charge.earliest >= first.earliest:
                units += charge.kept[unit]
                # A hundredth of a unit for the rounding of floats.
                if units > full + (charge.latest - first.earliest) * rate + 0.01:
                    return units
    return None


def first_use(limit: Limit, charges: list[Charge], maybes: list[Maybe]) -> int | None:
    """Each window begins with the first request after the one before. A request that went unused, and one of
    which nothing is known, may have begun a window, or not.
    """
    unit = limit.unit
    solid = sorted((charge.earliest, charge.latest) for charge in charges if charge.kept["requests"])
    possible = sorted([(charge.earliest, charge.latest) for charge in charges] + [(one.earliest, one.latest) for one in maybes])
    earliest_end = latest_end = -math.inf
    while True:
        beginnings = [max(earliest, earliest_end) for earliest, latest in possible if latest >= earliest_end]
        surely_begun = [latest for earliest, latest in solid if earliest >= latest_end]
        if not beginnings or not surely_begun:
            return None
        earliest_begin, latest_begin = min(beginnings), min(surely_begun)
        earliest_end, latest_end = earliest_begin + limit.per, latest_begin + limit.per
        most = peak(unit, (one for one in charges if one.earliest >= latest_begin and one.latest <= earliest_end))
        if most > limit.amount:
            return most
