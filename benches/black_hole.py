"""Measures how much traffic goes to a deployment that fails fast: the traffic into the hole.

    python benches/black_hole.py
    python benches/black_hole.py --quick --seed 7 --json target/black_hole.json

60,000 requests in simulated time go to eight deployments with eight places each (``max_parallel_requests``).
In the middle third of the run the first deployment answers every request with an error after 50 ms. Otherwise
all of them take 6 s on average, lognormal with a sigma of 1. Requests that were sent before the hole opened
still end well. Poisson arrivals load the other seven to 0.85. The first is the worst place for a hole:
several rules give ties to it, and a deployment that fails fast always has a free place.

A request that failed asks again at once, before those in line, and excludes the deployment that it tried.
When there is no place, requests wait in line. The first of them asks again when another request ends, or at
the time that the router told.

The share is that of the attempts in the hole among all attempts while there is a hole, retries included. The
first failures of an outage do not depend on its length. ``--quick`` has 2,000 requests and so a thirtieth of
the outage: it has a larger bound.

The hole's answers also name waits that must not help it. Zero and a date that is past are no waits. In one
case the host's clock is 60 s behind and the host asks for a minute: the moment that it names has come by our
clock. With the answer's own ``Date`` (RFC 9110, section 6.6.1) that is a minute, and without it no wait. A
wait that is named is taken exactly, but a deployment that is back too early twice waits longer and longer.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from math import inf, log
from random import Random
from typing import Any

from budgets import Budget
from simulation import SECOND, Line, Simulation, conclude, options_of, poisson
from turnout import Deployment, Lease, MinuteRules, NoAvailableDeployment, Router, Strategy

MODEL = "gpt-4o"
REQUESTS, FEW_REQUESTS = 60_000, 2_000
BOUND, BOUND_OF_FEW = 0.3, 2.0  # percent
DEPLOYMENTS, PLACES = 8, 8
LOAD = 0.85
MEAN, SIGMA = 6.0, 1.0  # seconds
TOKENS_PER_SECOND = 50
TPM_LIMIT = 10_000_000  # never reached: two of the rules look at the share that is used
HOLE, FAILS_AFTER = "0", SECOND // 20


def from_now(seconds: float) -> str:
    """Write a moment as headers do."""
    return formatdate(time.time() + seconds, usegmt=True)


class Answer(Exception):
    """An answer of the hole as a client raises it."""

    def __init__(self, status_code: int, headers: Mapping[str, str]) -> None:
        """Take its status and its headers."""
        self.status_code, self.headers = status_code, headers


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of router, and the hole's answer to it."""

    options: Mapping[str, Any] = field(default_factory=dict)
    status: int = 500
    headers: Callable[[], dict[str, str]] = dict


CASES: Mapping[str, Case] = {
    "MinuteRules()": Case({"health": MinuteRules()}),
    "Router()": Case(),
    "Retry-After: 0": Case(status=503, headers=lambda: {"Retry-After": "0"}),
    "429, 0": Case(status=429, headers=lambda: {"Retry-After": "0"}),
    "a past date": Case(status=503, headers=lambda: {"Retry-After": from_now(-3600), "Date": from_now(0)}),
    "clock behind": Case(status=503, headers=lambda: {"Retry-After": from_now(60 - 60), "Date": from_now(-60)}),
    "1 ms": Case(status=429, headers=lambda: {"retry-after-ms": "1"}),
    "1 s": Case(status=503, headers=lambda: {"Retry-After": "1"}),
    "without Date": Case(status=503, headers=lambda: {"Retry-After": from_now(60 - 60)}),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it comes, how long its answer takes, and where it has failed."""

    arrival: int
    duration: int
    tried: tuple[str, ...] = ()


def draw_requests(seed: int, n: int) -> list[Request]:
    """Draw when requests come and how long they take."""
    random = Random(f"durations {seed}")
    per_second = LOAD * (DEPLOYMENTS - 1) * PLACES / MEAN
    arrivals = poisson(Random(f"arrivals {seed}"), per_second, n, 0)
    mu = log(MEAN) - SIGMA**2 / 2
    return [Request(arrival, round(random.lognormvariate(mu, SIGMA) * SECOND)) for arrival in arrivals]


class Run:
    """Sends requests through one router.

    Attributes:
        attempts: The attempts that were made while there was a hole.
        swallowed: The attempts that went into it.
    """

    def __init__(self, requests: Sequence[Request], strategy: Strategy, case: Case, seed: int) -> None:
        self.attempts = self.swallowed = 0
        self._case = case
        self._simulation = Simulation()
        deployments = [Deployment(str(i), MODEL, tpm_limit=TPM_LIMIT, max_parallel_requests=PLACES) for i in range(DEPLOYMENTS)]
        self._router = Router(deployments, strategy=strategy, seed=seed, clock=self._simulation.clock, **case.options)
        self._line = Line(self._simulation, self._send)
        end = requests[-1].arrival
        self._hole = range(end // 3, 2 * end // 3)
        for request in requests:
            self._simulation.at(request.arrival, partial(self._arrive, request))

    def to_the_end(self) -> None:
        """Run it."""
        self._simulation.run()

    def _arrive(self, request: Request) -> None:
        self._line.waiting.append(request)
        if len(self._line.waiting) == 1:
            self._line.move()

    def _send(self, request: Request) -> float | None:
        tokens = request.duration * TOKENS_PER_SECOND // SECOND
        try:
            lease = self._router.acquire(MODEL, tokens=tokens, exclude=request.tried)
        except NoAvailableDeployment as refusal:
            return inf if refusal.retry_after is None else refusal.retry_after
        now = self._simulation.now
        there_is_a_hole = now in self._hole
        self.attempts += there_is_a_hole
        if there_is_a_hole and lease.deployment_id == HOLE:
            self.swallowed += 1
            self._simulation.at(now + FAILS_AFTER, partial(self._fail, request, lease))
        else:
            self._simulation.at(now + request.duration, partial(self._end, lease))
        return None

    def _end(self, lease: Lease) -> None:
        lease.success()
        self._line.move()

    def _fail(self, request: Request, lease: Lease) -> None:
        with suppress(Answer), lease:
            raise Answer(self._case.status, self._case.headers())
        self._line.waiting.appendleft(Request(request.arrival, request.duration, (*request.tried, lease.deployment_id)))
        self._line.move()


def measure(requests: Sequence[Request], strategy: Strategy, seed: int) -> dict[str, dict[str, float]]:
    """Run one strategy in every case.

    Returns:
        The attempts, the swallowed ones, and their share in percent.
    """
    figures = {}
    for name, case in CASES.items():
        run = Run(requests, strategy, case, seed)
        run.to_the_end()
        figures[name] = {"attempts": run.attempts, "swallowed": run.swallowed, "percent": 100 * run.swallowed / run.attempts}
    return figures


def report(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """Write the figures as text, line by line."""
    yield f"{'% of attempts':<18}" + "".join(f"{name:>16}" for name in CASES)
    for strategy, by_case in rows.items():
        shares = (f"{each['percent']:.2f} ({each['swallowed']:,})" for each in by_case.values())
        yield f"{strategy:<18}" + "".join(f"{share:>16}" for share in shares)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every strategy, print the table and the verdict."""
    options = options_of(__doc__, arguments)
    n, bound = (FEW_REQUESTS, BOUND_OF_FEW) if options.quick else (REQUESTS, BOUND)
    requests = draw_requests(options.seed, n)
    rows = {str(strategy): measure(requests, strategy, options.seed) for strategy in Strategy}
    print("\n".join(report(rows)))
    shares = {
        f"{strategy}, {name}": each["percent"]
        for strategy, by_case in rows.items()
        for name, each in by_case.items()
        if name != "MinuteRules()"
    }
    return conclude({"rows": rows}, [Budget("traffic into the hole", bound, "% of the attempts", figures=shares)], options)


if __name__ == "__main__":
    sys.exit(main())
