"""Reports of a router about itself: plain frozen data, made on request."""

from dataclasses import asdict, dataclass
from typing import Any

from turnout.enums import EventKind, Status, Strategy
from turnout.limits import Limit

__all__ = ["DeploymentStats", "Event", "Explanation", "LimitStats", "ObservedStats", "RouterMetrics", "Verdict"]


@dataclass(frozen=True, slots=True)
class LimitStats:
    """The state of a limit.

    Attributes:
        limit: The limit.
        quota: The id of the quota it belongs to; None for a deployment's own.
        used: The units that are used of it, reservations included. It may be over the limit, if requests used
            more than was estimated.
        remaining: The units that can be used now.
        resets_in: Seconds until all of the limit can be used, if nothing more is used.
        held: If the limit is shared (``Router(shared=…)``), the units that this process may still use without
            asking the store; else None.
        granted: If it is shared, the units that all processes together were granted, by the last answer of
            the store; else None.
    """

    limit: Limit
    quota: str | None
    used: int
    remaining: int
    resets_in: float
    held: int | None = None
    granted: int | None = None


@dataclass(frozen=True, slots=True)
class ObservedStats:
    """What a provider said is left.

    Attributes:
        unit: ``requests``, ``tokens``, ``input_tokens`` or ``output_tokens``.
        quota: The id of the quota that this is about; None for the deployment itself.
        remaining: The units that it said are left, less those that were reserved since. While the provider
            wants no requests, no requests are left.
        resets_in: Seconds until this is out of date.
        limit: The units that it said may be used in all; None if it did not say.
    """

    unit: str
    quota: str | None
    remaining: int
    resets_in: float
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class DeploymentStats:
    """A deployment's state at one moment.

    Attributes:
        deployment_id: Its id.
        model_name: The model name whose group it is in.
        status: Its status.
        in_flight: Leases that have not ended.
        max_parallel_requests: Most leases in flight at once; None for no limit.
        rpm_current: Requests counted in the current clock minute.
        rpm_limit: Most requests in a minute; None for no limit.
        tpm_current: Tokens counted in the current clock minute, reserved ones included.
        tpm_limit: Most tokens in a minute; None for no limit.
        fails_this_minute: Failures in the current clock minute that count towards a cooldown.
        cooldown_remaining: Seconds until its cooldown ends; 0.0 if it is not cooling down.
        avg_latency: Smoothed latency in seconds (an exponential average, each sample weighing 1/5); None
            before the first sample.
        consecutive_successes: Successes since the last failure.
        total_requests: Requests counted since it was added.
        total_successes: Successes since it was added.
        total_failures: Failures since it was added, those that say nothing about its health left out.
        total_tokens: Tokens of successes since it was added. Where no tokens were reported, the estimate
            counts.
        limits: Its limits beside ``rpm_limit`` and ``tpm_limit``, those of its quotas included.
        observed: What the provider said is left, as far as that still holds.
        learnt_parallel_requests: The most requests in flight, as learnt from refusals; None if nothing was
            learnt.
        domain: Its failure domain. The fields below are counted with :class:`turnout.Health` only:
        consecutive_failures: Failures since the last success or cooldown.
        window_successes: Successes in the window, since the last cooldown.
        window_failures: Failures in the window, since the last cooldown.
        trips: Cooldowns that are not forgotten: the next one lasts ``cooldown_time * cooldown_growth **
            trips``.
        penalty: Failures that weigh on it like requests in flight.
        slow_start_share: The part of its fair share of requests that slow start lets it have, 1.0 outside of
            one.
        avg_first_token: Smoothed time to the first token in seconds, averaged as ``avg_latency`` is; None
            before the first :meth:`turnout.Lease.first_token`.
        in_flight_all: Leases that have not ended, those of other processes included that share the deployment
            (``Router(shared=…)``), as of the last answer of the store.
    """

    deployment_id: str
    model_name: str
    status: Status
    in_flight: int
    max_parallel_requests: int | None
    rpm_current: int
    rpm_limit: int | None
    tpm_current: int
    tpm_limit: int | None
    fails_this_minute: int
    cooldown_remaining: float
    avg_latency: float | None
    consecutive_successes: int
    total_requests: int
    total_successes: int
    total_failures: int
    total_tokens: int
    limits: tuple[LimitStats, ...] = ()
    observed: tuple[ObservedStats, ...] = ()
    learnt_parallel_requests: int | None = None
    domain: str | None = None
    consecutive_failures: int = 0
    window_successes: int = 0
    window_failures: int = 0
    trips: int = 0
    penalty: int = 0
    slow_start_share: float = 1.0
    avg_first_token: float | None = None
    in_flight_all: int = 0


@dataclass(frozen=True, slots=True)
class RouterMetrics:
    """Totals over the deployments that are registered now. A counter falls when a deployment that added to it
    is removed.

    Attributes:
        models: Model names with a deployment.
        deployments: Deployments, and of these:
        available: in service,
        degraded: in service on probation,
        cooling_down: out of service until their cooldown ends,
        unhealthy: out of service until a health check reports them well.
        in_flight: Leases that have not ended.
        waiting: Calls that wait for capacity.
        total_requests: Requests counted.
        total_successes: Successes.
        total_failures: Failures, those that say nothing about a deployment's health left out.
        total_tokens: Tokens of successes.
        panicking: The model names whose groups have so few members in service that their health is ignored,
            sorted.
        events_dropped: Events that were dropped, since more than 10,000 waited to be told.
        attempts: Attempts of whole requests since the router was made, and of these:
        retries: those that followed a failed one on the same model name,
        fallbacks: the first ones on another model name,
        hedges: those that began beside a slow one.
        budget_refusals: Attempts that the budget of retries refused.
        processes: Processes that share limits through the store, this one included; 0 without ``shared=``.
        syncs: Messages that the store has answered.
        sync_errors: How often the store did not answer.
        store_age: Seconds since the store last answered; None if it never did.
        recovering: Whether the store has lost what it knew, and learns it from the processes. It grants
            nothing meanwhile.
        store_lost: Whether the store does not answer.
    """

    models: int
    deployments: int
    available: int
    degraded: int
    cooling_down: int
    unhealthy: int
    in_flight: int
    waiting: int
    total_requests: int
    total_successes: int
    total_failures: int
    total_tokens: int
    panicking: tuple[str, ...] = ()
    events_dropped: int = 0
    attempts: int = 0
    retries: int = 0
    fallbacks: int = 0
    hedges: int = 0
    budget_refusals: int = 0
    processes: int = 0
    syncs: int = 0
    sync_errors: int = 0
    store_age: float | None = None
    recovering: bool = False
    store_lost: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a deployment or to a group, as :meth:`turnout.Router.subscribe` tells
    it.

    Attributes:
        kind: What has happened.
        deployment_id: The deployment that it happened to; None if it happened to a group.
        model_name: The model name of the group.
        at: The time, in seconds of the router's clock: Unix time, unless it has a
            :class:`turnout.ManualClock`.
        detail: More about it, for people to read.
    """

    kind: EventKind
    deployment_id: str | None
    model_name: str
    at: float
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a pick makes of one deployment of the group.

    Attributes:
        deployment_id: The deployment.
        gate: The first gate that stopped it: ``dialect``, ``tags``, ``only``, ``excluded``, ``cooling_down``,
            ``unhealthy``, ``probation``, ``max_parallel_requests``, ``rpm_limit``, ``tpm_limit``, ``limit``,
            ``learnt_parallel_requests``, ``observed_limit``, ``slow_start``, ``shared`` or ``quota``;
            ``tier`` if none did, but the router has tiers and others of a lower priority are left; None if it
            is a candidate.
        detail: Why that gate stopped it, with the numbers; None if it is a candidate.
        score: The value that the strategy compares (see ``Explanation.score_name``); None if a gate stopped
            it.
        probability: The probability that the strategy picks it, 0.0 if a gate stopped it.
    """

    deployment_id: str
    gate: str | None
    detail: str | None
    score: float | None
    probability: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a pick would do, and why.

    Attributes:
        model_name: The model name whose group was asked.
        strategy: The rule in force.
        score_name: What the scores are, such as ``active requests``.
        winner: The id that a pick right now takes; None if no deployment is available.
        retry_after: If there is no winner, the seconds that the error would give; else None.
        verdicts: One verdict for each deployment, in registration order.
        panic: Whether so few members of the group are in service that the gates of health are ignored.
    """

    model_name: str
    strategy: Strategy
    score_name: str
    winner: str | None
    retry_after: float | None
    verdicts: tuple[Verdict, ...]
    panic: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain data that `json.dumps` takes.

        Returns:
            The attributes as a dict, the verdicts as a list of dicts. An infinite score, that of an unknown
            price, is None: JSON has no such number.
        """
        plain = asdict(self)
        plain["strategy"] = str(self.strategy)
        plain["verdicts"] = list(plain["verdicts"])
        for verdict in plain["verdicts"]:
            if verdict["score"] == float("inf"):
                verdict["score"] = None
        return plain

    def __str__(self) -> str:
        chosen = f"picks {self.winner!r}" if self.winner is not None else "no deployment is available"
        if self.retry_after is not None:
            chosen += f" for {self.retry_after:.1f} s"
        if self.panic:
            chosen += " (panic: health is ignored)"
        lines = [f"{self.model_name!r} by {self.strategy}: {chosen}"]
        width = max((len(verdict.deployment_id) for verdict in self.verdicts), default=0)
        for verdict in self.verdicts:
            mark = "→" if verdict.deployment_id == self.winner else " "
            if verdict.score is None:
                said = f"{verdict.gate}: {verdict.detail}"
            else:
                said = f"{self.score_name} {verdict.score:g}, chance {verdict.probability:.1%}"
            lines.append(f"{mark} {verdict.deployment_id:<{width}}  {said}")
        return "\n".join(lines)
