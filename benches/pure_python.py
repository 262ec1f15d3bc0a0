"""A router in plain Python: turnout's gates, strategies and outcomes, as a good Python programmer would write
them.

Benchmarks and the demo measure it beside the native router. So it imports nothing from turnout, is readable,
and is exact where the two must agree.

It is smaller where agreement needs no more. It has one strategy a router, the rules of the minute, no aliases
and no validation. It has one exception where turnout tells several causes apart. Every exception that leaves
a ``with`` block is an ``"error"``. A lease that is lost without being ended keeps its place. The clock must
not run back; `time.monotonic` does not.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from operator import attrgetter
from threading import Lock
from types import TracebackType
from typing import Any, Literal

MINUTE = 60
NO_LIMIT = sys.maxsize
ALLOWED_FAILS, MIN_REQUESTS, MAJORITY_OF = 3, 10, 10
COOLDOWN_TIME = 5.0
SUCCESS_THRESHOLD = 3

# For each kind of failure: whether one failure is enough for a cooldown; None if it says nothing about the
# deployment.
FAILURE_KINDS: dict[str, bool | None] = {
    **dict.fromkeys(("error", "connection"), False),
    **dict.fromkeys(("rate_limit", "auth", "not_found", "timeout", "manual"), True),
    **dict.fromkeys(("bad_request", "content_policy", "context_window", "cancelled")),
}


class NoAvailableDeployment(Exception):
    """Every deployment of the group was stopped by a gate; ``reasons`` counts them by gate."""

    def __init__(self, model_name: str, reasons: Mapping[str, int]) -> None:
        super().__init__(model_name, reasons)
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Deployment:
    """One concrete target that can serve a model."""

    deployment_id: str
    model_name: str
    _: KW_ONLY
    model: str | None = None
    weight: int = 1
    priority: int = 0
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class State:
    """One deployment's counters, with the facts that gates and strategies read beside them."""

    deployment: Deployment
    in_flight: int = 0
    minute: float = 0.0  # the one that the next four count
    requests: int = 0
    tokens: int = 0
    fails: int = 0
    carried: int = 0  # outcomes of requests that an earlier minute counted
    avg_latency_us: int = 0  # 0 is unknown
    consecutive_successes: int = 0
    cooldown_until: float = 0.0
    degraded: bool = False
    unhealthy: bool = False
    deployment_id: str = field(init=False)
    weight: int = field(init=False)
    priority: int = field(init=False)
    tags: frozenset[str] = field(init=False)
    rpm_limit: int | None = field(init=False)
    tpm_limit: int | None = field(init=False)
    max_requests: int = field(init=False)
    max_tokens: int = field(init=False)
    max_in_flight: int = field(init=False)

    def __post_init__(self) -> None:
        """Copy the facts. Limits are copied twice: a comparison with a number is quicker than one that first
        checks for None.
        """
        facts = self.deployment
        self.deployment_id, self.weight, self.priority = facts.deployment_id, facts.weight, facts.priority
        self.tags, self.rpm_limit, self.tpm_limit = frozenset(facts.tags), facts.rpm_limit, facts.tpm_limit
        self.max_requests, self.max_tokens = facts.rpm_limit or NO_LIMIT, facts.tpm_limit or NO_LIMIT
        self.max_in_flight = facts.max_parallel_requests or NO_LIMIT

    def roll(self, minute: float) -> None:
        """Count anew if another minute has begun."""
        if self.minute < minute:
            self.minute = minute
            self.requests = self.tokens = self.fails = self.carried = 0

    def succeed(self, latency: float | None, now: float) -> None:
        """Record a success and the seconds that it took, if they are known."""
        if latency is not None:
            sample = round(latency * 1e9) // 1000
            average = self.avg_latency_us
            self.avg_latency_us = (4 * average + sample) // 5 if average else sample
        self.consecutive_successes += 1
        if self.consecutive_successes >= SUCCESS_THRESHOLD and now >= self.cooldown_until:
            self.degraded, self.cooldown_until = False, 0.0

    def fail(self, at_once: bool, retry_after: float | None, now: float) -> None:
        """Record a failure. Cool down if its kind does so at once, or if it is one too many."""
        self.fails += 1
        self.consecutive_successes, self.degraded = 0, True
        fails, requests = self.fails, self.requests + self.carried
        too_many = (fails >= ALLOWED_FAILS and requests >= MIN_REQUESTS) or (requests >= MAJORITY_OF and 2 * fails > requests)
        if at_once or too_many:
            self.cool_down(COOLDOWN_TIME if retry_after is None else retry_after, now)

    def cool_down(self, seconds: float, now: float) -> None:
        """Take it out for this long, then put it on probation. A longer cooldown is not shortened."""
        self.consecutive_successes, self.degraded = 0, True
        self.cooldown_until = max(self.cooldown_until, round(now + seconds, 9))  # to the nanosecond, as the clock can show it


@dataclass(slots=True)
class Group:
    """The deployments of one model name in registration order, and whose turn it is."""

    states: list[State] = field(default_factory=list)
    turn: int = 0


def weighted_random(candidates: Sequence[State], rng: random.Random, _group: Group) -> State:
    """Pick at random in proportion to the weights, uniformly if all are 0."""
    weights = [state.weight for state in candidates]
    return rng.choices(candidates, weights)[0] if any(weights) else rng.choice(candidates)


def least_busy(candidates: Sequence[State], rng: random.Random, _group: Group) -> State:
    """Pick the candidate with the fewest requests in flight, ties at random."""
    fewest = min([state.in_flight for state in candidates])
    return rng.choice([state for state in candidates if state.in_flight == fewest])


def lowest_usage(candidates: Sequence[State], _rng: random.Random, _group: Group) -> State:
    """Pick the candidate that has used the least of its token limit, in whole percent, ties to the first."""
    return min(candidates, key=lambda state: state.tokens * 100 // state.tpm_limit if state.tpm_limit else 0)


def lowest_latency(candidates: Sequence[State], _rng: random.Random, _group: Group) -> State:
    """Pick the quickest candidate, ties to the first. An unknown latency counts as the mean of the known
    ones.
    """
    known = [state.avg_latency_us for state in candidates if state.avg_latency_us]
    mean = sum(known) // len(known) if known else 0
    return min(candidates, key=lambda state: state.avg_latency_us or mean)


def lowest_priority(candidates: Sequence[State], _rng: random.Random, _group: Group) -> State:
    """Pick the candidate with the lowest priority number, ties to the first."""
    return min(candidates, key=attrgetter("priority"))


def rate_limit_aware(candidates: Sequence[State], _rng: random.Random, _group: Group) -> State:
    """Pick the candidate with the largest share left of its nearest limit, ties to the first."""

    def headroom(state: State) -> float:
        tokens = (state.tpm_limit - state.tokens) / state.tpm_limit if state.tpm_limit else 1.0
        requests = (state.rpm_limit - state.requests) / state.rpm_limit if state.rpm_limit else 1.0
        return max(min(tokens, requests), 0.0)

    return max(candidates, key=headroom)


def round_robin(candidates: Sequence[State], _rng: random.Random, group: Group) -> State:
    """Pick in turn; a single candidate takes no turn."""
    if len(candidates) == 1:
        return candidates[0]
    chosen = candidates[group.turn % len(candidates)]
    group.turn += 1
    return chosen


STRATEGIES: dict[str, Callable[[Sequence[State], random.Random, Group], State]] = {
    "simple_shuffle": weighted_random,
    "least_busy": least_busy,
    "usage_based": lowest_usage,
    "latency_based": lowest_latency,
    "priority_based": lowest_priority,
    "rate_limit_aware": rate_limit_aware,
    "round_robin": round_robin,
}


@dataclass(slots=True, eq=False)
class Lease:
    """One acquired place on a deployment. It ends once. Later ends do nothing and return False."""

    router: "PurePythonRouter"
    state: State
    tokens: int
    since: float
    minute: float
    released: bool = False

    @property
    def deployment_id(self) -> str:
        """The id of the chosen deployment."""
        return self.state.deployment_id

    def success(self, tokens: int | None = None, latency: float | None = None) -> bool:
        """End with a success. Actual tokens replace the estimate, if the minute that took it is not over."""
        with self.router.lock:
            now = self._leave()
            if now is None:
                return False
            if self.state.minute != self.minute:
                self.state.carried += 1
            elif tokens is not None:
                self.state.tokens += tokens - self.tokens
            self.state.succeed(now - self.since if latency is None else latency, now)
            return True

    def failure(self, kind: str = "error", retry_after: float | None = None) -> bool:
        """End with a failure. The reservation stays counted."""
        at_once = FAILURE_KINDS[kind]
        with self.router.lock:
            now = self._leave()
            if now is None:
                return False
            if at_once is not None:
                self.state.carried += self.state.minute != self.minute
                self.state.fail(at_once, retry_after, now)
            return True

    def release(self, *, unused: bool = False) -> bool:
        """End without an outcome; only an unused reservation is given back to the minute that took it."""
        with self.router.lock:
            if self._leave() is None:
                return False
            if unused and self.state.minute == self.minute:
                self.state.requests -= 1
                self.state.tokens -= self.tokens
            return True

    def _leave(self) -> float | None:
        """Give back the place in flight and return the time, or None if that was done before."""
        if self.released:
            return None
        self.released = True
        self.state.in_flight -= 1
        now = self.router.clock()
        self.state.roll(now // MINUTE)
        return now

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if exc_type is None:
            self.success()
        elif issubclass(exc_type, Exception):
            self.failure()
        else:
            self.release()  # cancelled, which says nothing about the deployment
        return False


class PurePythonRouter:
    """Picks one deployment of a model for every request. Safe to use from any number of threads."""

    def __init__(
        self,
        deployments: Iterable[Deployment],
        *,
        strategy: str = "simple_shuffle",
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.lock = Lock()
        self.states: dict[str, State] = {}
        self._groups: dict[str, Group] = {}
        self._choose = STRATEGIES[strategy]
        self._rng = random.Random(seed)
        for deployment in deployments:
            state = self.states[deployment.deployment_id] = State(deployment)
            self._groups.setdefault(deployment.model_name, Group()).states.append(state)

    def select(
        self, model_name: str, *, tokens: int = 0, tags: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> str:
        """Pick a deployment and reserve nothing; return its id.

        Args:
            model_name: The name that the deployments serve.
            tokens: The tokens the request is expected to use.
            tags: Labels the deployment must have, every one of them.
            exclude: Ids that must not be picked.

        Raises:
            KeyError: No deployment serves the model.
            NoAvailableDeployment: No deployment passes every gate.
        """
        with self.lock:
            return self._pick(model_name, self.clock(), tokens, tags, exclude).deployment_id

    def acquire(
        self, model_name: str, *, tokens: int = 0, tags: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> Lease:
        """Pick as `select` does and reserve a place in flight, one request and the tokens, in one step."""
        with self.lock:
            now = self.clock()
            state = self._pick(model_name, now, tokens, tags, exclude)
            state.in_flight += 1
            state.requests += 1
            state.tokens += tokens
            return Lease(self, state, tokens, now, minute=state.minute)

    def _pick(self, model_name: str, now: float, tokens: int, tags: Iterable[str] | None, exclude: Iterable[str] | None) -> State:
        """Let the strategy choose among the deployments that pass every gate."""
        group = self._groups[model_name]
        wanted, banned = frozenset(tags or ()), frozenset(exclude or ())
        needed = tokens or 1  # a spent limit stops a request that does not say what it takes, too
        minute = now // MINUTE
        candidates, stopped = [], []
        for state in group.states:
            if state.minute < minute:
                state.roll(minute)
            if wanted and not wanted <= state.tags:
                stopped.append("tags")
            elif banned and state.deployment_id in banned:
                stopped.append("excluded")
            elif now < state.cooldown_until:
                stopped.append("cooling_down")
            elif state.unhealthy:
                stopped.append("unhealthy")
            elif state.in_flight >= state.max_in_flight:
                stopped.append("max_parallel_requests")
            elif state.requests >= state.max_requests:
                stopped.append("rpm_limit")
            elif state.tokens + needed > state.max_tokens:
                stopped.append("tpm_limit")
            else:
                candidates.append(state)
        if not candidates:
            raise NoAvailableDeployment(model_name, Counter(stopped))
        return self._choose(candidates, self._rng, group)

    def record_success(self, deployment_id: str, *, tokens: int = 0, latency: float | None = None) -> None:
        """Record the success of a request that was sent without a lease: it counts in this minute."""
        with self.lock:
            now = self.clock()
            state = self.states[deployment_id]
            state.roll(now // MINUTE)
            state.requests += 1
            state.tokens += tokens
            state.succeed(latency, now)

    def cool_down(self, deployment_id: str, seconds: float) -> None:
        """Take a deployment out for this long."""
        with self.lock:
            self.states[deployment_id].cool_down(seconds, self.clock())

    def report_health(self, deployment_id: str, healthy: bool) -> None:
        """Take a deployment out until it is reported healthy. A healthy report ends a cooldown too and starts
        the probation.
        """
        with self.lock:
            state = self.states[deployment_id]
            if healthy and (state.unhealthy or state.cooldown_until):
                state.cooldown_until, state.consecutive_successes, state.degraded = 0.0, 0, True
            state.unhealthy = not healthy
