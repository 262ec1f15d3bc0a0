"""Simulated time for benches that judge decisions: events in order, random arrivals, and a line of requests.

It uses no wall time, and only seeded randomness: the same seed gives the same run, byte for byte.
"""

import argparse
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Any, Generic, TypeAlias, TypeVar

import budgets
from budgets import Budget
from turnout import ManualClock

SECOND = 1_000_000
"""Times are whole microseconds: so sums of them are exact, and so are the amounts that a limiter refills."""
MINUTE = 60 * SECOND

Action: TypeAlias = Callable[[], None]
T = TypeVar("T")


class Simulation:
    """Runs the planned actions, in order of time and then of planning, and moves a router's clock along."""

    def __init__(self, start: int = 0) -> None:
        self.now = start
        self.clock = ManualClock(start / SECOND)
        self._events: list[tuple[int, int, Action]] = []
        self._planned = 0

    def at(self, time: int, action: Action) -> None:
        """Plan an action."""
        heappush(self._events, (time, self._planned, action))
        self._planned += 1

    def run(self) -> None:
        """Go on until nothing is planned any more."""
        while self._events:
            self.now, _, action = heappop(self._events)
            self.clock.set(self.now / SECOND)
            action()


class Line(Generic[T]):
    """Requests that wait in the order in which they came.

    Only the first request asks for a deployment. It asks when it gets to the front, when it is told that
    something has changed, and after the time that it was told to wait. So no request is overtaken, and a
    large request does not starve behind small ones.

    Args:
        simulation: The simulation in which they wait.
        ask: Sends a request and returns None, or returns the seconds after which to ask again.
    """

    def __init__(self, simulation: Simulation, ask: Callable[[T], float | None]) -> None:
        self.waiting: deque[T] = deque()
        self._simulation = simulation
        self._ask = ask
        self._wake_at = math.inf

    def move(self) -> None:
        """Let the first one ask, and the next ones for as long as they are sent."""
        while self.waiting:
            seconds = self._ask(self.waiting[0])
            if seconds is not None:
                self._wake_after(seconds)
                return
            self.waiting.popleft()

    def _wake_after(self, seconds: float) -> None:
        if math.isinf(seconds):
            return  # only the end of another request can help
        # Routers count in nanoseconds. To ask a moment too late is better than too early.
        at = self._simulation.now + max(1, math.ceil(round(seconds * 1e9) / 1000))
        if at < self._wake_at:
            self._wake_at = at
            self._simulation.at(at, self._wake)

    def _wake(self) -> None:
        if self._simulation.now == self._wake_at:  # else it was called for earlier in the meantime
            self._wake_at = math.inf
            self.move()


def poisson(random: Random, per_second: float, n: int, start: int) -> Iterator[int]:
    """Draw the arrivals of requests that do not depend on each other."""
    time = float(start)
    for _ in range(n):
        time += random.expovariate(per_second) * SECOND
        yield round(time)


def lognormal_sigma(p50: float, p90: float, p99: float) -> float:
    """Fit the spread of a lognormal distribution with this median to two more percentiles, by least squares
    of their logarithms.
    """
    scores = [(NormalDist().inv_cdf(share), math.log(value / p50)) for share, value in ((0.90, p90), (0.99, p99))]
    return sum(z * log for z, log in scores) / sum(z * z for z, _ in scores)


# --- from the command line to the verdict ---


def options_of(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of every random draw")
    parser.add_argument("--quick", action="store_true", help="a part of it, in seconds")
    parser.add_argument("--json", type=Path, help="where the result goes as JSON")
    return parser.parse_args(arguments)


def conclude(result: Mapping[str, Any], held: Sequence[Budget], options: argparse.Namespace) -> int:
    """Print the budgets and write the result as JSON.

    Returns:
        The exit code: 1 if a budget is missed.
    """
    print("", *budgets.table(held), sep="\n")
    if options.json:
        verdicts = [{**asdict(budget), "worst": budget.worst, "met": budget.met} for budget in held]
        whole = {"seed": options.seed, "quick": options.quick, **result, "budgets": verdicts}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 0 if all(budget.met for budget in held) else 1
