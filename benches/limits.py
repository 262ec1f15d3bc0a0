"""Within the provider's limits: the 429s that a router gets, and the work that it does of what is allowed.

    python benches/limits.py
    python benches/limits.py --quick --seed 7 --json target/limits.json

2,000 requests in simulated time, the same for every client, go to hosted deployments. These refuse requests
that are over their limits (see limiters.py). There are three kinds of limiters. They charge estimates or
actual use, and count refused requests or not. The load is 0.85 and 1.1 of the load that the limits on tokens
can carry. There are two fleets:

- ``four``: four deployments with accounts of their own, 0.4, 0.3, 0.2 and 0.1 of 600,000 tokens a minute.
- ``shared``: two deployments of one account, which has all of it.

The limit on requests is a quarter above the requests that the tokens allow, rounded to whole requests a
slice. Over a minute tokens are short, in a burst requests are. Requests are like those of the Azure
conversation trace of 2023. Prompts and answers are lognormal with its medians (1,020 and 129 tokens) and
spreads fitted to its 90th and 99th percentiles (2,735 and 4,142; 424 and 601), cut at 6,000 and at
``max_tokens`` of 1,000. Poisson arrivals begin 25 s into a minute. The first token takes 0.6 s (±30 %), and
60 tokens a second follow. Nothing is lost on the way to the provider, and its clock is ours.

Requests wait in line, for at most 15 s. The first asks again when another request ends, or at the time that
the router told. (With more patience the line could hold all requests that are too many at 1.1. In the end
every client would serve everything.) A request that gets a 429 stays at the front; the provider says exactly
when to come back. There are three clients:

- ``matching``: turnout with the limits that the provider has, kind for kind. If the provider charges actual
  tokens, they are reported at the end (``lease.success(tokens=…)``) and the rest of the estimate is free
  again. If it charges the estimate, nothing is reported (``lease.success()``), and so the estimate stays in
  the window.
- ``minute``: the same with only ``rpm_limit`` and ``tpm_limit``. Two deployments that share an account get
  half of it each.
- ``counting``: for contrast, a client without reservations. Requests and tokens are counted when they end, as
  LiteLLM's usage-based routing does. The next request goes to the deployment with the fewest tokens this
  minute that has room for the estimate. After a 429 a deployment rests as long as the provider said. (That is
  kinder than LiteLLM 1.109, which gives away a request a minute and cools down for whole seconds.)

The limits allow as much as an omniscient dispatcher would get done, with the same arrivals and patience, if
requests could be divided. In steps of 0.1 s it serves the line from its front. It serves as much of a request
as the deployments have left together, until either limit is used up. It needs no estimates and wastes
nothing, so no client gets more through one limit. Work is the tokens that the provider charged for served
requests, as a share of the dispatcher's. The other columns are:

- 429: refused requests.
- over: the tokens of refused requests, which the provider was sent beyond its limits, as a share of what the
  limits allow.
- idle: tokens that lapsed while a request waited, at the end of a minute or from a full bucket, as the same
  share. (With slices this includes tokens for which the last slice had no requests left.)
- served: requests served, as a share of those that the dispatcher serves. It may be over 100 %: when a large
  request gives up, there is room for more than one small one.
"""

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from math import inf, log
from random import Random
from typing import Any, Literal, Protocol, TypeAlias

from budgets import Budget
from limiters import CHARGES, KINDS, SLICES, Account, Charge, Kind, Provider
from simulation import MINUTE, SECOND, Line, Simulation, conclude, lognormal_sigma, options_of, poisson
from turnout import Deployment, Limit, NoAvailableDeployment, Quota, Router

MODEL = "gpt-4o"
REQUESTS = 2000
LOADS = (0.85, 1.1)
TOKENS = 600_000  # a minute, over all deployments
HEADROOM = 1.25  # of the limit on requests
START = 25 * SECOND
PATIENCE = 15 * SECOND

PROMPT, ANSWER = (1020, 2735, 4142), (129, 424, 601)  # 50th, 90th and 99th percentile
MOST_PROMPT, MAX_TOKENS = 6000, 1000
FIRST_TOKEN, TOKENS_PER_SECOND = 0.6, 60.0

FLEETS = {"four": (4, 3, 2, 1), "shared": (10,)}
"""The accounts, in tenths of the limits."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. All of it is known beforehand, but no client is told.

    Attributes:
        arrival: When it comes.
        estimate: The tokens of its prompt and ``max_tokens``.
        tokens: The tokens of its prompt and its answer.
        duration: How long the answer takes.
    """

    arrival: int
    estimate: int
    tokens: int
    duration: int

    def charged(self, charge: Charge) -> int:
        """Return the tokens for which a provider charges it in the end."""
        return self.estimate if charge == "estimate" else self.tokens


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting of all that varies."""

    fleet: str
    kind: Kind
    charge: Charge
    refused_count: bool
    load: float

    @property
    def labels(self) -> tuple[str, ...]:
        """The setting in words."""
        return (self.fleet, self.kind, self.charge, "counted" if self.refused_count else "free", str(self.load))


def draw_requests(seed: int, load: float, charge: Charge) -> list[Request]:
    """Draw requests whose charges are a share of the limit on tokens. Their sizes do not depend on the
    load.
    """
    random = Random(f"sizes {seed}")
    sigmas = [lognormal_sigma(*percentiles) for percentiles in (PROMPT, ANSWER)]
    sizes = []
    for _ in range(REQUESTS):
        prompt, answer = (
            max(1, min(round(random.lognormvariate(log(percentiles[0]), sigma)), most))
            for percentiles, sigma, most in zip((PROMPT, ANSWER), sigmas, (MOST_PROMPT, MAX_TOKENS), strict=True)
        )
        seconds = FIRST_TOKEN * random.lognormvariate(0, 0.3) + answer / TOKENS_PER_SECOND
        sizes.append((prompt + MAX_TOKENS, prompt + answer, round(seconds * SECOND)))
    mean = sum(estimate if charge == "estimate" else tokens for estimate, tokens, _ in sizes) / REQUESTS
    arrivals = poisson(Random(f"arrivals {seed}"), load * TOKENS / mean / 60, REQUESTS, START)
    return [Request(arrival, *size) for arrival, size in zip(arrivals, sizes, strict=True)]


def accounts_of(cell: Cell, requests: Sequence[Request]) -> list[Account]:
    """Return the accounts of a fleet."""
    mean = sum(request.charged(cell.charge) for request in requests) / len(requests)
    # A tenth of a sixth is still a whole number of requests.
    most_requests = 60 * round(HEADROOM * TOKENS / mean / 60)
    return [Account(cell.kind, most_requests * tenths // 10, TOKENS * tenths // 10) for tenths in FLEETS[cell.fleet]]


# --- the clients ---


class Grant(Protocol):
    """Permission to send one request: a lease, or the like of a client without leases."""

    @property
    def deployment_id(self) -> str:
        """The id of the deployment to send it to."""

    def success(self, tokens: int | None = None) -> object:
        """Report its end."""

    def failure(self, kind: Literal["rate_limit"], retry_after: float) -> object:
        """Report a 429."""


class Client(Protocol):
    """Decides where a request goes, and when."""

    def ask(self, request: Request) -> Grant | float:
        """Return permission to send a request, or the seconds after which to ask again."""


class WithRouter:
    """Asks a router."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def ask(self, request: Request) -> Grant | float:
        """Reserve the estimate."""
        try:
            return self._router.acquire(MODEL, tokens=request.estimate)
        except NoAvailableDeployment as refusal:
            return inf if refusal.retry_after is None else refusal.retry_after


def matching(accounts: Sequence[Account], simulation: Simulation, seed: int) -> Client:
    """Make a client that is told the provider's own limits."""

    def limits(account: Account) -> tuple[Limit, Limit]:
        requests, tokens = account.requests, account.tokens
        if account.kind == "bucket":
            return (
                Limit(requests=requests, per=60.0, kind="bucket", burst=requests // SLICES),
                Limit(tokens=tokens, per=60.0, kind="bucket", burst=tokens // SLICES),
            )
        slices = SLICES if account.kind == "slices" else 1
        return (
            Limit(requests=requests // slices, per=60.0 / slices, kind="fixed"),
            Limit(tokens=tokens, per=60.0, kind="fixed"),
        )

    if len(accounts) == 1:
        quota = Quota("org", *limits(accounts[0]))
        deployments = [Deployment(str(i), MODEL, quotas=(quota,)) for i in range(2)]
    else:
        deployments = [
            Deployment(str(i), MODEL, weight=account.tokens, limits=limits(account)) for i, account in enumerate(accounts)
        ]
    return WithRouter(Router(deployments, seed=seed, clock=simulation.clock))


def split(accounts: Sequence[Account]) -> list[tuple[int, int]]:
    """Return requests and tokens a minute for each deployment; two that share an account get half each."""
    parts = 2 if len(accounts) == 1 else 1
    return [(account.requests // parts, account.tokens // parts) for account in accounts for _ in range(parts)]


def minute(accounts: Sequence[Account], simulation: Simulation, seed: int) -> Client:
    """Make a client that knows the provider's limits a minute, and takes them for the clock's minutes."""
    deployments = [
        Deployment(str(i), MODEL, weight=tokens, rpm_limit=requests, tpm_limit=tokens)
        for i, (requests, tokens) in enumerate(split(accounts))
    ]
    return WithRouter(Router(deployments, seed=seed, clock=simulation.clock))


class Tally:
    """The counts of one deployment this minute, as a client keeps them that counts at the end."""

    def __init__(self, deployment_id: str, requests: int, tokens: int, simulation: Simulation) -> None:
        self.deployment_id = deployment_id
        self.most_requests, self.most_tokens = requests, tokens
        self.requests = self.tokens = 0
        self.rests_until = 0
        self._minute = 0
        self._simulation = simulation

    def turn(self) -> None:
        """Begin a new minute if it is time."""
        now = self._simulation.now // MINUTE
        if now != self._minute:
            self._minute, self.requests, self.tokens = now, 0, 0

    def count(self, tokens: int) -> None:
        """Count a request that has ended."""
        self.turn()
        self.requests += 1
        self.tokens += tokens

    def rest(self, seconds: float) -> None:
        """Leave the deployment alone for a while."""
        self.rests_until = self._simulation.now + round(seconds * SECOND)


@dataclass(frozen=True, slots=True)
class CountedAtTheEnd:
    """Permission to send a request that is not counted until it ends."""

    tally: Tally
    estimate: int

    @property
    def deployment_id(self) -> str:
        """The id of the deployment to send it to."""
        return self.tally.deployment_id

    def success(self, tokens: int | None = None) -> None:
        """Count it."""
        self.tally.count(self.estimate if tokens is None else tokens)

    def failure(self, kind: Literal["rate_limit"], retry_after: float) -> None:
        """Wait as the provider says."""
        self.tally.rest(retry_after)


class Counting:
    """Counts requests when they end."""

    def __init__(self, tallies: Sequence[Tally], simulation: Simulation) -> None:
        self._tallies = tallies
        self._simulation = simulation

    def ask(self, request: Request) -> Grant | float:
        """Look for the fewest tokens."""
        now = self._simulation.now
        open_tallies = []
        for tally in self._tallies:
            tally.turn()
            fits = tally.requests < tally.most_requests and tally.tokens + request.estimate <= tally.most_tokens
            if fits and tally.rests_until <= now:
                open_tallies.append(tally)
        if open_tallies:
            return CountedAtTheEnd(min(open_tallies, key=lambda tally: tally.tokens), request.estimate)
        ends = [tally.rests_until for tally in self._tallies if tally.rests_until > now]
        return (min([*ends, now - now % MINUTE + MINUTE]) - now) / SECOND


def counting(accounts: Sequence[Account], simulation: Simulation, seed: int) -> Client:
    """Make a client that counts at the end."""
    return Counting([Tally(str(i), *limits, simulation) for i, limits in enumerate(split(accounts))], simulation)


CLIENTS = {"matching": matching, "minute": minute, "counting": counting}


# --- a run ---


@dataclass(slots=True)
class Outcome:
    """The results of the requests.

    Attributes:
        refused: 429s.
        refused_tokens: The estimates of the requests that got them, each time.
        idle_tokens: The tokens that lapsed while requests waited.
        served: The requests that were served.
        served_tokens: The tokens that were charged for them.
        gave_up: Requests whose patience ended.
    """

    refused: int = 0
    refused_tokens: int = 0
    idle_tokens: float = 0
    served: int = 0
    served_tokens: int = 0
    gave_up: int = 0


class Run:
    """Sends a cell's requests through a client."""

    def __init__(self, cell: Cell, requests: Sequence[Request], accounts: Sequence[Account], client: str, seed: int) -> None:
        self.outcome = Outcome()
        self._charge = cell.charge
        self._simulation = Simulation(START)
        self._client = CLIENTS[client](accounts, self._simulation, seed)
        self._providers = [Provider(account, cell.refused_count, START) for account in accounts]
        self._line = Line(self._simulation, self._send)
        for request in requests:
            self._simulation.at(request.arrival, partial(self._arrive, request))
            self._simulation.at(request.arrival + PATIENCE, partial(self._give_up, request))

    def to_the_end(self) -> Outcome:
        """Run it."""
        self._simulation.run()
        self.outcome.idle_tokens = sum(provider.tokens.lapsed for provider in self._providers)
        return self.outcome

    def _advance(self) -> None:
        for provider in self._providers:
            provider.advance(self._simulation.now, waited=bool(self._line.waiting))

    def _arrive(self, request: Request) -> None:
        self._advance()
        self._line.waiting.append(request)
        if len(self._line.waiting) == 1:
            self._line.move()

    def _give_up(self, request: Request) -> None:
        # All are equally patient, so the first in line leaves first.
        if self._line.waiting and self._line.waiting[0] is request:
            self._advance()
            self._line.waiting.popleft()
            self.outcome.gave_up += 1
            self._line.move()

    def _send(self, request: Request) -> float | None:
        self._advance()
        while not isinstance(grant := self._client.ask(request), float):
            # Deployments that share an account have one provider.
            provider = self._providers[int(grant.deployment_id) % len(self._providers)]
            wait = provider.retry_after(request.estimate)
            if wait is None:
                now = self._simulation.now
                self._simulation.at(now + request.duration, partial(self._end, request, grant, provider, now))
                return None
            self.outcome.refused += 1
            self.outcome.refused_tokens += request.estimate
            grant.failure("rate_limit", retry_after=wait / SECOND)
        return grant

    def _end(self, request: Request, grant: Grant, provider: Provider, sent_at: int) -> None:
        self._advance()
        if self._charge == "actual":
            provider.tokens.give_back(request.estimate - request.tokens, sent_at)
        grant.success(tokens=request.tokens if self._charge == "actual" else None)
        self.outcome.served += 1
        self.outcome.served_tokens += request.charged(self._charge)
        self._line.move()


def allowed(requests: Sequence[Request], accounts: Sequence[Account], charge: Charge) -> tuple[float, float]:
    """Compute the work of an omniscient dispatcher.

    Returns:
        The requests and the tokens.
    """
    whole = Account(accounts[0].kind, sum(each.requests for each in accounts), sum(each.tokens for each in accounts))
    most_requests, most_tokens = whole.limiters(START)
    step = SECOND // 10
    coming, waiting = deque(requests), deque[tuple[Request, float]]()
    served = tokens = 0.0
    now = START
    while coming or waiting:
        most_requests.advance(now, waited=bool(waiting))
        most_tokens.advance(now, waited=bool(waiting))
        # Both ends are rounded in its favour: a request counts from the start of its first step, and what
        # refills in its last one is there when the next begins.
        while coming and coming[0].arrival < now + step:
            waiting.append((coming.popleft(), 1.0))
        while waiting and waiting[0][0].arrival + PATIENCE <= now - step:
            waiting.popleft()
        while waiting:
            request, rest = waiting[0]
            size = request.charged(charge)
            part = min(rest, most_requests.left, most_tokens.left / size)
            most_requests.take(part)
            most_tokens.take(part * size)
            served += part
            tokens += part * size
            if part < rest:
                waiting[0] = (request, rest - part)
                break
            waiting.popleft()
        now += step
    return served, tokens


# --- what comes of it ---

Row: TypeAlias = Mapping[str, Any]


def cells_of(*, quick: bool) -> Iterator[Cell]:
    """List the cells, or with ``quick`` those that are hard."""
    loads, counts = ((1.1,), (True,)) if quick else (LOADS, (True, False))
    return (Cell(*values) for values in product(FLEETS, KINDS, CHARGES, counts, loads))


def measure(cell: Cell, seed: int) -> Row:
    """Run all clients in one cell."""
    requests = draw_requests(seed, cell.load, cell.charge)
    accounts = accounts_of(cell, requests)
    served, tokens = allowed(requests, accounts, cell.charge)
    clients = {}
    for client in CLIENTS:
        outcome = Run(cell, requests, accounts, client, seed).to_the_end()
        clients[client] = {
            **asdict(outcome),
            "over": outcome.refused_tokens / tokens,
            "idle": outcome.idle_tokens / tokens,
            "work": outcome.served_tokens / tokens,
            "served_share": outcome.served / served,
        }
    return {"cell": asdict(cell), "labels": cell.labels, "allowed": {"requests": served, "tokens": tokens}, "clients": clients}


def label(words: Sequence[str]) -> str:
    """Write the labels of a cell in columns."""
    fleet, kind, charge, refused, load = words
    return f"{fleet:<7}{kind:<7}{charge:<9}{refused:<8}{load:<4}"


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Write the rows as text, line by line."""
    columns = f"{'429':>8}{'over':>7}{'idle':>7}{'work':>7}{'served':>8}"
    yield " " * 35 + "".join(f"{client:^37}  " for client in CLIENTS)
    yield label(("fleet", "kind", "charge", "429s", "load")) + "".join(f"{columns}  " for _ in CLIENTS)
    for row in rows:
        line = label(row["labels"])
        for each in row["clients"].values():
            shares = f"{each['over']:>7.1%}{each['idle']:>7.1%}{each['work']:>7.1%}{each['served_share']:>8.1%}"
            line += f"{each['refused']:>8,}{shares}  "
        yield line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cells, print the table and the verdicts."""
    options = options_of(__doc__, arguments)
    rows = [measure(cell, options.seed) for cell in cells_of(quick=options.quick)]
    print("\n".join(report(rows)))
    of_matching = {" ".join(row["labels"]): row["clients"]["matching"] for row in rows}
    refused = {name: each["refused"] for name, each in of_matching.items()}
    work = {name: 100 * each["work"] for name, each in of_matching.items()}
    held = [
        Budget("429s with matching limits", 0, "in a cell", figures=refused),
        Budget("work with matching limits", 98, "% of what is possible", at_least=True, figures=work),
    ]
    return conclude({"rows": rows}, held, options)


if __name__ == "__main__":
    sys.exit(main())
