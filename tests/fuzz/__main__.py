"""`python -m fuzz --minutes 10`: calls drawn at random, until the time is over or there is a fault."""

import argparse
import asyncio
import faulthandler
import gc
import inspect
import random
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

import turnout
from turnout import Deployment, Lease, Limit, ManualClock, Quota, Router

from fuzz.calls import EXPECTED, Target, arguments, targets
from fuzz.values import RaisedByValue, Values

CALLS = 400
"""The number of calls that one set of objects gets."""
HANGS = 60.0
"""Seconds after which a call hangs, and the process is ended with a traceback."""


class Objects:
    """The objects whose methods are called, and what has become of the calls."""

    def __init__(self, chance: random.Random) -> None:
        self.clock = ManualClock(1.7e9)
        self.chance = chance
        quota = Quota("q", Limit(requests=50))
        members = [
            Deployment("a", "m", max_parallel_requests=2, rpm_limit=100),
            Deployment("b", "m", limits=[Limit(tokens=500, kind="bucket")], quotas=[quota], tags=["x"]),
            Deployment("c", "n"),
        ]
        # Calls do not wait long here, so that a call which hangs can be told from one that waits.
        timeouts = turnout.Timeouts(total=1.0, capacity=0.1)
        clock, strategy = chance.choice([None, self.clock]), chance.choice(list(turnout.Strategy))
        self.router = Router(members, clock=clock, strategy=strategy, timeouts=timeouts)
        self.router.add_alias("alias", "m")
        self.leases: list[Lease] = []
        self.kept: list[Any] = []

    def owner(self, owner: type | ModuleType) -> Any:
        """Return an object of this class, if there is one."""
        if isinstance(owner, ModuleType):
            return owner
        if owner is Router:
            return self.router
        if owner is Lease:
            with suppress(*EXPECTED):
                self.leases.append(self.router.acquire(self.chance.choice(["m", "n"])))
            return self.chance.choice(self.leases) if self.leases else None
        if owner is ManualClock:
            return self.clock
        found = [each for each in self.kept if isinstance(each, owner)]
        return self.chance.choice(found) if found else None

    def keep(self, result: Any) -> None:
        """Keep a result for later calls, and use what can be used."""
        if inspect.iscoroutine(result):
            try:
                result = asyncio.run(asyncio.wait_for(result, 0.001))
            except (*EXPECTED, asyncio.TimeoutError):
                return
        if isinstance(result, Lease):
            self.leases.append(result)
        elif inspect.isclass(type(result)) and type(result).__module__.startswith("turnout"):
            self.kept = [*self.kept[-50:], result]
            repr(result)

    def check(self) -> None:
        """Look whether the router still does what it must."""
        for lease in self.leases:
            lease.release()
        del self.leases[:]
        self.kept.clear()
        gc.collect()
        assert self.router.metrics().in_flight == 0, self.router.metrics()
        self.router.set_deployments([Deployment("z", "z", max_parallel_requests=1)])
        with self.router.acquire("z") as lease:
            assert (lease.deployment_id, self.router.stats("z").in_flight) == ("z", 1)
        assert self.router.stats("z").in_flight == 0


def shown(values: list[Any], named: dict[str, Any]) -> str:
    """Write arguments, as far as they can be written."""

    def write(value: Any) -> str:
        try:
            return repr(value)[:200]
        except BaseException:
            return f"<{type(value).__name__}>"

    return ", ".join([*map(write, values), *(f"{name}={write(value)}" for name, value in named.items())])


def call(target: Target, objects: Objects, values: Values, counts: Counter[str]) -> str | None:
    """Make one call. Return what is wrong with its outcome; None if nothing is."""
    chance = objects.chance
    if target.owner is None:
        owner = turnout
    else:
        owner = objects.owner(target.owner)
        if owner is None:
            return None
    what = getattr(owner, target.name)
    given, named = arguments(what, values, chance)
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        objects.keep(what(*given, **named))
        counts["returned"] += 1
    except EXPECTED as error:
        counts[f"raised {type(error).__name__}"] += 1
        str(error), repr(error)
    except BaseException as error:
        if isinstance(error, AttributeError) and (is_dataclass(target.owner) or target.name in ("__delattr__", "__setattr__")):
            # The record was made of anything before, or the object is frozen.
            counts["raised AttributeError"] += 1
            return None
        place = f"{target.owner.__name__}.{target.name}" if target.owner else target.name
        return f"{place}({shown(given, named)}) raised {type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    return None


def main(given: list[str] | None = None) -> int:
    """Run, and return the exit status: 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; drawn if it is not given")
    options = parser.parse_args(given)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"CPython {sys.version.split()[0]}, seed {seed}", flush=True)
    warnings.simplefilter("ignore")
    unraised: list[str] = []

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, (RaisedByValue, *EXPECTED)):
            unraised.append(f"in {unraisable.object!r}: {unraisable.exc_value!r}")

    sys.unraisablehook = hook
    chance, until, everything = random.Random(seed), time.monotonic() + 60.0 * options.minutes, list(targets())
    counts, rounds = Counter[str](), 0
    while time.monotonic() < until:
        round_seed = chance.randrange(2**32)
        own = random.Random(round_seed)
        objects = Objects(own)
        values = Values(own, objects.router)
        for nth in range(CALLS):
            fault = call(own.choice(everything), objects, values, counts)
            if fault or unraised:
                print(f"FAULT in call {nth} of round {rounds} of seed {seed}:", fault or unraised, sep="\n", flush=True)
                return 1
        objects.check()
        rounds += 1
    print(f"{rounds * CALLS:,} calls of {len(everything)} targets, no fault")
    print(*(f"  {times:>12,} {what}" for what, times in sorted(counts.items())), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
