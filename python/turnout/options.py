"""Options of a router, in groups. They are frozen, are checked when they are made, and have explained
defaults.
"""

import math
from dataclasses import dataclass

from turnout._checks import flag, number, seconds, whole

__all__ = ["Health", "Learning", "MinuteRules", "Waiting"]

_MOST = 2**32 - 1
_MOST_COUNTED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """When a deployment is taken out, for how long, and how it comes back: ``Router(health=Health())``.

    A router without ``health`` follows these rules with their defaults. ``docs/health.md`` tells the whole
    story. :class:`turnout.MinuteRules` are the other set of rules.

    Args:
        consecutive_failures: The number of failures in a row that starts a cooldown, at least 1; None for no
            such rule.
        failure_rate: The share of failures in the window that starts a cooldown, over 0 to 1; None for no
            such rule.
        window: Seconds for which outcomes count, at least 0.1. They are counted in ten buckets, so they count
            for nine tenths to the whole of this time.
        min_volume: The number of outcomes in the window from which a share of failures says something, at
            least 1.
        cooldown_time: Seconds that the first cooldown lasts, unless the provider names a wait.
        cooldown_growth: The factor by which each further cooldown is longer than the one before, at least 1.
        max_cooldown: Seconds beyond which cooldowns do not grow.
        cooldown_jitter: A cooldown lasts up to this share longer, by chance, 0 to 1. So deployments that were
            taken out together do not return at one instant. A wait that the provider names is taken exactly.
        forget_after: Each time that this many seconds pass without a cooldown, counted from the end of the
            last, one cooldown is forgotten. The next cooldown is then shorter by one step of growth.
        success_threshold: Successes that end the probation after a cooldown, at least 1.
        slow_start: When a deployment returns or joins, its share of requests grows from a tenth of a fair
            share to the whole over this many seconds. 0 by default: hosted APIs have no cold caches. For
            engines of your own, 30 is a start.
        panic_threshold: The least share of a group, 0 to 1, that cooldowns, health checks and probation may
            leave in service. If they would leave less, they are ignored: too few deployments would break
            under the load of all. 0 by default: never.
        cool_last: Whether the last deployment of a group that is in service cools down too. By default it
            stays: requests that may fail are better than no service at all. Its own refusals (rate limit,
            credentials, not found) count in any case, and so does ``cool_down``. A rate limit without a named
            wait does not count for the only deployment of a group.
        fail_open: Whether all deployments of a group serve when health checks (``report_health(id, False)``)
            have taken out every one: the checks may be wrong, and no service is worse. Cooldowns and named
            waits hold in any case.
        failure_penalty: For this many seconds a failure weighs like one more request in flight, where
            strategies compare requests in flight. So a deployment that fails fast is never the least busy
            one. 0 for not at all.
        outlier_factor: A deployment cools down if its share of failures is at least this many times that of
            the rest of its group, at least 1. The share must also be at least a tenth, and both must have
            ``min_volume``. None for no such rule.

    Raises:
        ConfigurationError: A value is out of range.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Deployment, Health, Router
        >>> deployments = [Deployment("a", "m"), Deployment("b", "m")]
        >>> router = Router(deployments, health=Health(panic_threshold=0.5), seed=1)
        >>> for _ in range(3):
        ...     router.record_failure("a", "timeout")
        >>> router.select("m")
        'b'
    """

    consecutive_failures: int | None = 3
    failure_rate: float | None = 0.5
    window: float = 60.0
    min_volume: int = 10
    cooldown_time: float = 5.0
    cooldown_growth: float = 2.0
    max_cooldown: float = 300.0
    cooldown_jitter: float = 0.2
    forget_after: float = 300.0
    success_threshold: int = 2
    slow_start: float = 0.0
    panic_threshold: float = 0.0
    cool_last: bool = False
    fail_open: bool = True
    failure_penalty: float = 10.0
    outlier_factor: float | None = None

    def __post_init__(self) -> None:
        if self.consecutive_failures is not None:
            whole(self, "consecutive_failures", 1, _MOST)
        if self.failure_rate is not None:
            number(self, "failure_rate", math.ulp(0.0), 1.0, "a number over 0, up to 1, or None")
        seconds(self, "window", 0.1)
        whole(self, "min_volume", 1, _MOST)
        seconds(self, "cooldown_time")
        number(self, "cooldown_growth", 1.0, 1e6, "a number from 1 to 1e6")
        seconds(self, "max_cooldown")
        number(self, "cooldown_jitter", 0.0, 1.0, "a number from 0 to 1")
        seconds(self, "forget_after", 0.001)
        whole(self, "success_threshold", 1, _MOST)
        seconds(self, "slow_start")
        number(self, "panic_threshold", 0.0, 1.0, "a number from 0 to 1")
        flag(self, "cool_last")
        flag(self, "fail_open")
        seconds(self, "failure_penalty")
        if self.outlier_factor is not None:
            number(self, "outlier_factor", 1.0, 1e6, "a number from 1 to 1e6, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteRules:
    """The rules of litellm-rs, which count in clock minutes: ``Router(health=MinuteRules())``.

    A failure of kind ``rate_limit``, ``auth``, ``not_found``, ``timeout`` or ``manual`` starts a cooldown at
    once. Another failure starts one by these numbers, or by a majority of failures.

    Args:
        allowed_fails: The number of failures in a clock minute that starts a cooldown, once ``min_requests``
            were made in it, at least 0.
        min_requests: The number of requests in a clock minute from which ``allowed_fails`` counts, at least
            0.
        cooldown_time: Seconds that a cooldown lasts, unless the provider names a wait.
        success_threshold: Consecutive successes that end the probation after a cooldown or a failure, at
            least 1.
        majority: Whether a majority of failures starts a cooldown too: more than half of at least ten
            requests of the minute.

    Raises:
        TypeError: A value is of the wrong type.
        ConfigurationError: A value is out of range.

    Example:
        >>> from turnout import Deployment, MinuteRules, Router
        >>> router = Router([Deployment("a", "m")], health=MinuteRules(allowed_fails=1, min_requests=1))
        >>> router.record_failure("a")
        >>> router.stats("a").cooldown_remaining > 4
        True
    """

    allowed_fails: int = 3
    min_requests: int = 10
    cooldown_time: float = 5.0
    success_threshold: int = 3
    majority: bool = True

    def __post_init__(self) -> None:
        flag(self, "majority")
        whole(self, "allowed_fails", 0, _MOST_COUNTED)
        whole(self, "min_requests", 0, _MOST_COUNTED)
        seconds(self, "cooldown_time")
        whole(self, "success_threshold", 1, _MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What a router learns from providers.

    Args:
        headers: Whether the router takes the limits from the response headers of an exception that leaves a
            lease's block. :meth:`turnout.Lease.observe` takes the limits of any response, with this option or
            without.
        concurrency: Whether refusals (429) teach how many requests a deployment takes at once, if it has no
            limit of any kind. A refusal lowers the cap to seven tenths of the requests that were in flight.
            As many successes as the cap raise it by one. Without this option a refusal only starts a
            cooldown, after which all requests come back at once.
        longest_wait: The longest wait in seconds that is accepted from a provider, a week by default. A
            longer one, for instance from an absurd header, counts as this long.

    Raises:
        ConfigurationError: ``longest_wait`` is out of range.
        TypeError: A value is of the wrong type.
    """

    headers: bool = True
    concurrency: bool = True
    longest_wait: float = 604_800.0

    def __post_init__(self) -> None:
        flag(self, "headers")
        flag(self, "concurrency")
        seconds(self, "longest_wait")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many calls may wait for capacity, and how long they let others go first.

    Args:
        max_waiters: The most calls that wait for one model name at once, 0 to 4,294,967,295. A later call
            gets ``TooManyWaiters`` at once.
        patience: Seconds for which the first of the calls with the same tags and exclusions lets others take
            the tokens or requests that it lacks. Afterwards it reserves those of one deployment, or of a
            quota: calls behind it, whatever their wishes are, cannot take them.

    Raises:
        ConfigurationError: A number is out of range.
        TypeError: ``max_waiters`` is no int, or ``patience`` is no number.
    """

    max_waiters: int = 10_000
    patience: float = 1.0

    def __post_init__(self) -> None:
        whole(self, "max_waiters", 0, _MOST)
        seconds(self, "patience")
