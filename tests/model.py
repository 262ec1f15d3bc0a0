"""A router in plain Python: slow, simple, and written apart from the one it is compared with.

It keeps every minute that was ever counted, looks at everything anew for each pick, and knows no threads.
Where a strategy draws, it says who may be drawn. Times are whole nanoseconds.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from turnout import (
    AliasCycle,
    AllDeploymentsInCooldown,
    ConfigurationError,
    Deployment,
    DeploymentNotFound,
    DeploymentStats,
    ModelNotFound,
    NoAvailableDeployment,
    RateLimitExceeded,
    RequestTooLarge,
    Status,
    Strategy,
)

SECOND = 10**9
MINUTE = 60 * SECOND

NEUTRAL = {"bad_request", "content_policy", "context_window", "cancelled"}
AT_ONCE = {"rate_limit", "auth", "not_found", "timeout", "manual"}
RATE_LIMITS = {"rpm_limit", "tpm_limit"}


def nanos(seconds: float) -> int:
    return round(seconds * 1e9)


class Clock:
    """What a router makes of a clock that may be set back: it holds its time for a step of up to a minute."""

    def __init__(self, reading: int) -> None:
        self.reading = self.caught_up = self.time = reading

    def set(self, reading: int) -> None:
        self.reading = reading
        if reading > self.caught_up:
            self.time += reading - self.caught_up
            self.caught_up = reading
        elif self.caught_up - reading > MINUTE:
            self.caught_up = reading

    @property
    def minute(self) -> int:
        return self.time // MINUTE


@dataclass(frozen=True)
class Rules:
    """When deployments cool down and come back."""

    allowed_fails: int
    min_requests: int
    cooldown_time: float
    success_threshold: int


@dataclass(frozen=True)
class Request:
    """What a pick is for."""

    tokens: int = 0
    tags: tuple[str, ...] = ()
    tags_match: str = "all"
    exclude: Collection[str] = ()

    def accepts(self, deployment: Deployment) -> str | None:
        """The gate that stops a deployment whatever its state."""
        has = [tag in deployment.tags for tag in self.tags]
        if has and not (any(has) if self.tags_match == "any" else all(has)):
            return "tags"
        return "excluded" if deployment.deployment_id in self.exclude else None


@dataclass
class Minute:
    """What one minute counted."""

    requests: int = 0
    tokens: int = 0
    fails: int = 0
    """Those that count towards a cooldown."""
    carried: int = 0
    """Outcomes of requests that an earlier minute counted."""


@dataclass
class State:
    """The counters of a deployment, from when its id is added until it is removed."""

    rules: Rules
    clock: Clock
    minutes: dict[int, Minute] = field(default_factory=dict)
    in_flight: int = 0
    cooldown_until: int | None = None
    degraded: bool = False
    unhealthy: bool = False
    streak: int = 0
    latency_us: int = 0
    total_requests: int = 0
    total_successes: int = 0
    total_failures: int = 0
    total_tokens: int = 0

    def minute(self, number: int | None = None) -> Minute:
        return self.minutes.setdefault(self.clock.minute if number is None else number, Minute())

    def count(self, tokens: int) -> int:
        """Counts a request, and returns the minute that took it."""
        self.minute().requests += 1
        self.minute().tokens += tokens
        self.total_requests += 1
        return self.clock.minute

    def uncount(self, minute: int, tokens: int) -> None:
        self.minute(minute).requests -= 1
        self.minute(minute).tokens -= tokens
        self.total_requests -= 1

    def success(self, counted_in: int, tokens: int, latency_us: int | None) -> None:
        self.total_successes += 1
        self.total_tokens += tokens
        self.minute().carried += counted_in != self.clock.minute
        if latency_us is not None:
            self.latency_us = (self.latency_us * 4 + latency_us) // 5 if self.latency_us else latency_us
        if self.cooling_down():
            return
        self.streak += 1
        if self.streak >= self.rules.success_threshold:
            self.degraded, self.cooldown_until = False, None

    def failure(self, counted_in: int, kind: str, retry_after: float | None) -> None:
        if kind in NEUTRAL:
            return
        self.total_failures += 1
        minute = self.minute()
        minute.carried += counted_in != self.clock.minute
        minute.fails += 1
        self.streak, self.degraded = 0, True
        requests = minute.requests + minute.carried
        if (
            retry_after  # 0 is no wait
            or kind in AT_ONCE
            or (minute.fails >= self.rules.allowed_fails and requests >= self.rules.min_requests)
            or (requests >= 10 and minute.fails * 2 > requests)
        ):
            self.cool_down(retry_after or self.rules.cooldown_time)

    def cool_down(self, seconds: float) -> None:
        self.streak, self.degraded = 0, True
        self.cooldown_until = max(self.cooldown_until or 0, self.clock.time + nanos(seconds))

    def checked(self, healthy: bool) -> None:
        if healthy and (self.unhealthy or self.cooling_down()):
            self.streak, self.degraded, self.cooldown_until = 0, True, None
        self.unhealthy = not healthy

    def cooling_down(self) -> bool:
        return self.cooldown_until is not None and self.clock.time < self.cooldown_until

    def status(self) -> Status:
        if self.cooling_down():
            return Status.COOLING_DOWN
        if self.unhealthy:
            return Status.UNHEALTHY
        return Status.DEGRADED if self.degraded else Status.AVAILABLE

    def stats(self, deployment: Deployment) -> DeploymentStats:
        minute = self.minute()
        return DeploymentStats(
            deployment_id=deployment.deployment_id,
            model_name=deployment.model_name,
            status=self.status(),
            in_flight=self.in_flight,
            in_flight_all=self.in_flight,
            max_parallel_requests=deployment.max_parallel_requests,
            rpm_current=minute.requests,
            rpm_limit=deployment.rpm_limit,
            tpm_current=minute.tokens,
            tpm_limit=deployment.tpm_limit,
            fails_this_minute=minute.fails,
            cooldown_remaining=max((self.cooldown_until or 0) - self.clock.time, 0) / 1e9,
            avg_latency=self.latency_us / 1e6 if self.latency_us else None,
            consecutive_successes=self.streak,
            total_requests=self.total_requests,
            total_successes=self.total_successes,
            total_failures=self.total_failures,
            total_tokens=self.total_tokens,
        )


@dataclass
class Lease:
    """A reservation; every way to end it returns whether it did."""

    deployment: Deployment
    state: State
    tokens: int
    minute: int
    acquired_at: int
    ended: bool = False

    def _end(self) -> bool:
        ends, self.ended = not self.ended, True
        self.state.in_flight -= ends
        return ends

    def success(self, tokens: int | None = None, latency: float | None = None) -> bool:
        ends = self._end()
        if ends:
            actual = self.tokens if tokens is None else tokens
            latency_ns = self.state.clock.time - self.acquired_at if latency is None else nanos(latency)
            self.state.minute(self.minute).tokens += actual - self.tokens
            self.state.success(self.minute, actual, latency_ns // 1000)
        return ends

    def failure(self, kind: str, retry_after: float | None = None) -> bool:
        ends = self._end()
        if ends:
            self.state.failure(self.minute, kind, retry_after)
        return ends

    def release(self, unused: bool = False) -> bool:
        ends = self._end()
        if ends and unused:
            self.state.uncount(self.minute, self.tokens)
        return ends


class Router:
    """The whole of it. Errors are turnout's own, with their attributes but without messages."""

    def __init__(self, strategy: Strategy, strategies: dict[str, Strategy], tiers: bool, rules: Rules, clock: Clock) -> None:
        self.strategy, self.strategies, self.tiers, self.rules, self.clock = strategy, strategies, tiers, rules, clock
        self.deployments: dict[str, Deployment] = {}
        """In registration order."""
        self.states: dict[str, State] = {}
        self.aliases: dict[str, str] = {}
        self.turns: Counter[str] = Counter()

    # --- registry ---

    def add(self, deployment: Deployment) -> None:
        self._must_not_be_aliases([deployment])
        known = self.deployments.get(deployment.deployment_id)
        if known is not None and known.model_name != deployment.model_name:
            del self.deployments[deployment.deployment_id]
        self.deployments[deployment.deployment_id] = deployment
        self._tidy()

    def remove(self, deployment_id: str) -> Deployment:
        self.state(deployment_id)
        deployment = self.deployments.pop(deployment_id)
        self._tidy()
        return deployment

    def replace_all(self, deployments: Sequence[Deployment]) -> None:
        self._must_not_be_aliases(deployments)
        by_id = {deployment.deployment_id: deployment for deployment in deployments}
        if len(by_id) < len(deployments):
            raise ConfigurationError
        self.deployments = by_id
        self._tidy()

    def _must_not_be_aliases(self, deployments: Iterable[Deployment]) -> None:
        if any(deployment.model_name in self.aliases for deployment in deployments):
            raise ConfigurationError

    def _tidy(self) -> None:
        """State goes with its id, and turns with the last deployment of their group."""
        for deployment_id in self.states.keys() - self.deployments.keys():
            del self.states[deployment_id]
        for deployment_id in self.deployments.keys() - self.states.keys():
            self.states[deployment_id] = State(self.rules, self.clock)
        for model_name in self.turns.keys() - set(self.models()):
            del self.turns[model_name]

    def models(self) -> list[str]:
        return sorted({deployment.model_name for deployment in self.deployments.values()})

    def add_alias(self, alias: str, target: str) -> None:
        if alias in self.models():
            raise ConfigurationError
        name: str | None = target
        while name is not None:
            if name == alias:
                raise AliasCycle
            name = self.aliases.get(name)
        self.aliases[alias] = target

    def remove_alias(self, alias: str) -> str:
        if alias not in self.aliases:
            raise ModelNotFound("", alias)
        return self.aliases.pop(alias)

    def resolve(self, name: str) -> str:
        model_name = name
        while model_name in self.aliases:
            model_name = self.aliases[model_name]
        if model_name not in self.models():
            raise ModelNotFound("", name)
        return model_name

    def group(self, name: str) -> list[Deployment]:
        model_name = self.resolve(name)
        return [deployment for deployment in self.deployments.values() if deployment.model_name == model_name]

    def state(self, deployment_id: str) -> State:
        if deployment_id not in self.states:
            raise DeploymentNotFound("", deployment_id)
        return self.states[deployment_id]

    def stats(self, deployment_id: str) -> DeploymentStats:
        return self.state(deployment_id).stats(self.deployments[deployment_id])

    # --- picks ---

    def gate(self, deployment: Deployment, request: Request) -> str | None:
        """The first gate that stops a deployment."""
        ruled_out = request.accepts(deployment)
        if ruled_out is not None:
            return ruled_out
        state = self.state(deployment.deployment_id)
        if state.cooling_down():
            return "cooling_down"
        if state.unhealthy:
            return "unhealthy"
        if deployment.max_parallel_requests is not None and state.in_flight >= deployment.max_parallel_requests:
            return "max_parallel_requests"
        if deployment.rpm_limit is not None and state.minute().requests >= deployment.rpm_limit:
            return "rpm_limit"
        if deployment.tpm_limit is not None and state.minute().tokens + max(request.tokens, 1) > deployment.tpm_limit:
            return "tpm_limit"
        return None

    def gates(self, name: str, request: Request) -> dict[str, str | None]:
        """What stops each deployment of a group, its tier included."""
        group = self.group(name)
        gates = {deployment.deployment_id: self.gate(deployment, request) for deployment in group}
        left = [deployment.priority for deployment in group if gates[deployment.deployment_id] is None]
        if self.tiers and left:
            for deployment in group:
                if gates[deployment.deployment_id] is None and deployment.priority > min(left):
                    gates[deployment.deployment_id] = "tier"
        return gates

    def choices(self, name: str, request: Request, turn: bool = False) -> set[str]:
        """The ids that a pick may take: one, unless the strategy draws. ``turn`` takes the turn of round
        robin.
        """
        group = self.group(name)
        gates = self.gates(name, request)
        candidates = [deployment for deployment in group if gates[deployment.deployment_id] is None]
        if not candidates:
            raise self.refusal(name, request)
        model_name = group[0].model_name
        strategy = self.strategies.get(model_name, self.strategy)
        if strategy is Strategy.ROUND_ROBIN:
            chosen = candidates[self.turns[model_name] % len(candidates)]
            self.turns[model_name] += turn and len(candidates) > 1
            return {chosen.deployment_id}
        if strategy is Strategy.SIMPLE_SHUFFLE:
            weighted = [deployment for deployment in candidates if deployment.weight > 0]
            return {deployment.deployment_id for deployment in weighted or candidates}
        keys = [self._key(strategy, deployment, candidates) for deployment in candidates]
        best = [deployment.deployment_id for deployment, key in zip(candidates, keys, strict=True) if key == min(keys)]
        return set(best if strategy in (Strategy.LEAST_BUSY, Strategy.CHEAPEST) else best[:1])

    def _key(self, strategy: Strategy, deployment: Deployment, candidates: list[Deployment]) -> float:
        """What a strategy takes the least of."""
        state = self.state(deployment.deployment_id)
        requests, tokens = state.minute().requests, state.minute().tokens
        if strategy is Strategy.LEAST_BUSY:
            return state.in_flight
        if strategy is Strategy.PRIORITY_BASED:
            return deployment.priority
        if strategy is Strategy.CHEAPEST:
            # One half of the tokens is the prompt.
            prices = (deployment.input_price, deployment.output_price)
            return math.inf if prices == (None, None) else sum(price or 0 for price in prices)
        if strategy is Strategy.USAGE_BASED:
            return tokens * 100 // deployment.tpm_limit if deployment.tpm_limit else 0
        if strategy is Strategy.LATENCY_BASED:
            latencies = [self.state(candidate.deployment_id).latency_us for candidate in candidates]
            known = [latency for latency in latencies if latency]
            return state.latency_us or (sum(known) // len(known) if known else 0)
        shares = [
            max(limit - current, 0) / limit if limit else 1.0
            for current, limit in ((tokens, deployment.tpm_limit), (requests, deployment.rpm_limit))
        ]
        return -min(shares)

    def refusal(self, name: str, request: Request) -> NoAvailableDeployment | RequestTooLarge:
        """Why no deployment of a group is available."""
        group = self.group(name)
        model_name = group[0].model_name
        usable = [deployment for deployment in group if request.accepts(deployment) is None]
        limits = [deployment.tpm_limit for deployment in usable if deployment.tpm_limit is not None]
        if usable and len(limits) == len(usable) and request.tokens > max(limits):
            return RequestTooLarge("", model_name, request.tokens, max(limits))
        reasons = Counter(gate for deployment in group if (gate := self.gate(deployment, request)) is not None)
        causes = set(reasons) - {"tags", "excluded"}
        error = NoAvailableDeployment
        if causes == {"cooling_down"}:
            error = AllDeploymentsInCooldown
        elif causes and causes <= RATE_LIMITS:
            error = RateLimitExceeded
        return error("", model_name, self.retry_after(name, request), reasons)

    def retry_after(self, name: str, request: Request) -> float | None:
        """Seconds to the first known time at which a deployment that is stopped may be available."""
        times = [self._frees_at(deployment, request) for deployment in self.group(name)]
        known = [time - self.clock.time for time in times if time is not None]
        return min(known) / 1e9 if known else None

    def _frees_at(self, deployment: Deployment, request: Request) -> int | None:
        state = self.state(deployment.deployment_id)
        asked = max(request.tokens, 1)
        fits = deployment.tpm_limit is None or asked <= deployment.tpm_limit
        if request.accepts(deployment) is not None or state.unhealthy or not fits:
            return None
        spent = (deployment.rpm_limit is not None and state.minute().requests >= deployment.rpm_limit) or (
            deployment.tpm_limit is not None and state.minute().tokens + asked > deployment.tpm_limit
        )
        next_minute = (self.clock.minute + 1) * MINUTE if spent else 0
        time = max(next_minute, state.cooldown_until or 0)
        return time if time > self.clock.time else None

    def reserve(self, deployment_id: str, tokens: int) -> Lease:
        state = self.state(deployment_id)
        state.in_flight += 1
        return Lease(self.deployments[deployment_id], state, tokens, state.count(tokens), self.clock.time)

    # --- outcomes ---

    def record_success(self, deployment_id: str, tokens: int, latency: float | None) -> None:
        state = self.state(deployment_id)
        state.success(state.count(tokens), tokens, None if latency is None else nanos(latency) // 1000)

    def record_failure(self, deployment_id: str, kind: str, retry_after: float | None) -> None:
        state = self.state(deployment_id)
        state.failure(state.count(0), kind, retry_after)
