"""Limits of providers: an amount of something in a length of time."""

from dataclasses import dataclass, field
from typing import Any, Literal

from turnout._checks import number, seconds, whole
from turnout._core import _time_zone
from turnout.exceptions import ConfigurationError

__all__ = ["Limit", "Quota"]

_UNITS = ("requests", "tokens", "input_tokens", "output_tokens")
_MOST = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An amount of one unit in a length of time, counted as the provider counts it.

    Exactly one of the first four is given. A deployment may have several limits. docs/limits.md tells the
    kinds of the providers' limits.

    Args:
        requests: Most requests.
        tokens: Most tokens, prompt and answer together.
        input_tokens: Most tokens of prompts.
        output_tokens: Most tokens of answers.
        per: The length of time in seconds, at least 0.001, rounded to a nanosecond. 1.0 for slices of a
            second, 86400.0 for a day.
        kind: ``"fixed"``: windows of that length; at the end of a window all its units are free again.
            ``"sliding"``: no stretch of that length has more, at any time that it begins. It is counted in
            sixtieths of the length, so that it is up to a sixtieth stricter than a log of all requests.
            ``"bucket"``: refills continuously (GCRA, ITU-T I.371).
        burst: For a bucket only: the most that can be used at once. It is at most what refills in 1e9
            seconds; None for the whole limit. A bucket is full in the beginning.
        start: For fixed windows only. ``"clock"`` begins them at multiples of their length since 1970 (UTC).
            ``"first_use"`` begins a window with the first request after the window before.
        offset: For fixed windows that start with the clock: they begin this many seconds after multiples of
            their length, or before them if the number is negative. It is less than ``per`` either way. 28800
            begins days at 08:00 UTC. It is kept as a number from 0 up, rounded to a nanosecond.
        timezone: For fixed windows of whole days that start with the clock: they begin at midnight in this
            time zone, such as ``"America/Los_Angeles"``. A day is as long as it is there: 23 or 25 hours
            where the clocks are changed. Windows of several days begin at multiples of their length since
            1970.

    Raises:
        ConfigurationError: A number is out of range, none or several of the units are given, ``kind``,
            ``start`` or ``timezone`` is unknown, or ``burst``, ``start``, ``offset`` or ``timezone`` does not
            go with the others.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Limit
        >>> Limit(requests=600, per=60, kind="bucket", burst=100)
        Limit(requests=600, per=60.0, kind='bucket', burst=100)
    """

    requests: int | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    per: float = 60.0
    kind: Literal["fixed", "sliding", "bucket"] = "fixed"
    burst: int | None = None
    start: Literal["clock", "first_use"] = "clock"
    offset: float = 0.0
    timezone: str | None = None

    def __post_init__(self) -> None:
        given = [unit for unit in _UNITS if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ConfigurationError(f"a Limit must have exactly one of {', '.join(_UNITS)}, not {' and '.join(given) or 'none'}")
        whole(self, self.unit, 1, _MOST)
        seconds(self, "per", 0.001)
        # Rounded as the core counts it, so that a limit that comes back from the core is equal.
        object.__setattr__(self, "per", round(self.per * 1e9) / 1e9)
        _one_of("kind", self.kind, ("fixed", "sliding", "bucket"))
        _one_of("start", self.start, ("clock", "first_use"))
        if self.burst is not None:
            whole(self, "burst", 1, _MOST)
            if self.kind != "bucket":
                raise ConfigurationError(f"burst must be None for a limit of kind {self.kind!r}, not {self.burst}")
        if self.start != "clock" and self.kind != "fixed":
            raise ConfigurationError(f"start must be 'clock' for a limit of kind {self.kind!r}, not {self.start!r}")
        self._check_beginning()
        if self.kind == "bucket" and self.amount > self.per * 1e9:
            raise ConfigurationError(f"{self.unit} of a bucket must be at most one a nanosecond, not {self.amount} in {self.per} s")
        if self.burst is not None and self.burst * self.per > 1e9 * self.amount:
            refill = f"{self.burst} at {self.amount} in {self.per} s"
            raise ConfigurationError(f"burst must be at most what refills in 1e9 seconds, not {refill}")
        if self.burst == self.amount:
            # Equal limits are written in one way, so that they compare equal.
            object.__setattr__(self, "burst", None)

    def _check_beginning(self) -> None:
        follows_clock = self.kind == "fixed" and self.start == "clock"
        number(self, "offset", -1e9, 1e9, "a number of seconds less than per, or more than -per")
        if self.offset:
            if not follows_clock or self.timezone is not None:
                clock = "fixed windows that start with the clock, without a timezone"
                raise ConfigurationError(f"offset is for {clock}, not {self.offset}")
            if abs(self.offset) >= self.per:
                raise ConfigurationError(f"offset must be less than per, {self.per}, not {self.offset}")
            # Equal limits are written in one way, so that they compare equal.
            object.__setattr__(self, "offset", round(self.offset % self.per * 1e9) / 1e9 % self.per)
        if self.timezone is not None:
            object.__setattr__(self, "timezone", _time_zone(self.timezone))
            if not follows_clock:
                raise ConfigurationError(f"timezone is for fixed windows that start with the clock, not {self.timezone!r}")
            if self.per % 86_400:
                raise ConfigurationError(f"per must be whole days of 86400 seconds where timezone is given, not {self.per}")

    @property
    def unit(self) -> Literal["requests", "tokens", "input_tokens", "output_tokens"]:
        """The unit that it counts."""
        if self.requests is not None:
            return "requests"
        if self.tokens is not None:
            return "tokens"
        return "input_tokens" if self.input_tokens is not None else "output_tokens"

    @property
    def amount(self) -> int:
        """The amount of that unit."""
        amount: int = getattr(self, self.unit)
        return amount

    def __repr__(self) -> str:
        usual: dict[str, Any] = {"kind": "fixed", "burst": None, "start": "clock", "offset": 0.0, "timezone": None}
        facts = {self.unit: self.amount, "per": self.per}
        facts |= {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        return f"Limit({', '.join(f'{name}={value!r}' for name, value in facts.items())})"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Quota:
    """Limits that several deployments share, such as those of one account. They are given to each of the
    deployments and counted once.

    Within a router, the id tells quotas apart. A deployment may be under several.

    Args:
        quota_id: Its id, not empty.
        *limits: Its limits, at least one.

    Raises:
        ConfigurationError: The id is empty or there is no limit.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Deployment, Limit, Quota
        >>> organisation = Quota("our-organisation", Limit(requests=10_000), Limit(tokens=2_000_000))
        >>> deployments = [Deployment(region, "gpt-4o", quotas=[organisation]) for region in ("eu", "us")]
    """

    quota_id: str
    limits: tuple[Limit, ...] = field(default=())

    def __init__(self, quota_id: str, *limits: Limit) -> None:
        if not isinstance(quota_id, str):
            raise TypeError(f"quota_id must be a str, not {quota_id!r} ({type(quota_id).__name__})")
        if not quota_id:
            raise ConfigurationError("quota_id must be a string with at least one character, not ''")
        if not limits:
            raise ConfigurationError(f"the quota {quota_id!r} must have at least one limit")
        for limit in limits:
            if not isinstance(limit, Limit):
                raise TypeError(f"a limit of the quota {quota_id!r} must be a Limit, not {limit!r} ({type(limit).__name__})")
        object.__setattr__(self, "quota_id", quota_id)
        object.__setattr__(self, "limits", limits)

    def __repr__(self) -> str:
        return f"Quota({', '.join(map(repr, (self.quota_id, *self.limits)))})"


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r} ({type(value).__name__})")
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
