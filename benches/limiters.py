"""Rate limiters as providers run them, in simulated time and whole numbers.

`Window` is a counter that starts anew at multiples of its length. `Bucket` refills all the time up to a
burst. An `Account` is the limits that a provider promises one customer. A `Provider` judges by it.

Providers charge a request in different ways:

- ``estimate``: prompt and ``max_tokens`` are charged when a request arrives, and nothing changes later. Azure
  OpenAI does so, and OpenAI too as far as its documentation says.
- ``actual``: a request must fit with its estimate when it arrives, since its answer is not known yet. When it
  has ended, the difference to its actual use is given back: to the window that took it, if that still runs,
  or to the bucket. Anthropic does so for output tokens. A limiter without an estimate could be overrun by the
  requests in flight, so it would be no limit.

A refused request is charged no tokens. Some providers (OpenAI) still count it as a request.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from simulation import MINUTE

Kind: TypeAlias = Literal["fixed", "slices", "bucket"]
Charge: TypeAlias = Literal["estimate", "actual"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHARGES: tuple[Charge, ...] = get_args(Charge)
SLICES = 6  # in a minute, 10 s each; a bucket holds as much as one of them


class Limiter(ABC):
    """An amount for each period.

    Attributes:
        lapsed: The part of the limit that can no longer be used, although a request waited.
    """

    lapsed: float = 0.0

    @property
    @abstractmethod
    def left(self) -> float:
        """The amount that can be taken now."""

    @abstractmethod
    def advance(self, now: int, *, waited: bool) -> None:
        """Go on to a time; until then requests waited, or none did."""

    @abstractmethod
    def take(self, amount: float) -> None:
        """Take an amount, even if it is more than there is."""

    @abstractmethod
    def give_back(self, amount: int, taken_at: int) -> None:
        """Give back some of what was taken."""

    @abstractmethod
    def wait(self, amount: int) -> int:
        """Say how long it takes until the amount can be taken; 0 if it can be now."""


class Window(Limiter):
    """A counter that starts anew at multiples of its length."""

    def __init__(self, limit: int, length: int, now: int) -> None:
        self._limit = limit
        self._length = length
        self._now = now
        self._start = now - now % length
        self._left: float = limit

    @property
    def left(self) -> float:
        """How much of the window is left."""
        return self._left

    def advance(self, now: int, *, waited: bool) -> None:
        """Begin a new window if it is time."""
        over = (now - self._start) // self._length
        if over:
            if waited:
                self.lapsed += max(self._left, 0) + (over - 1) * self._limit
            self._start += over * self._length
            self._left = self._limit
        self._now = now

    def take(self, amount: float) -> None:
        """Count it."""
        self._left -= amount

    def give_back(self, amount: int, taken_at: int) -> None:
        """Give it to the window that took it, if that still runs."""
        if taken_at >= self._start:
            self._left += amount

    def wait(self, amount: int) -> int:
        """Wait for the next window."""
        return 0 if amount <= self._left else self._start + self._length - self._now


class Bucket(Limiter):
    """Refills all the time, up to a burst."""

    def __init__(self, limit: int, length: int, burst: int, now: int) -> None:
        # The level is counted in parts of 1/length, of which every microsecond brings `limit`.
        self._limit = limit
        self._length = length
        self._now = now
        self._full = burst * length
        self._level: float = self._full

    @property
    def left(self) -> float:
        """How much is in it."""
        return self._level / self._length

    def advance(self, now: int, *, waited: bool) -> None:
        """Refill it."""
        self._fill(self._limit * (now - self._now), waited)
        self._now = now

    def take(self, amount: float) -> None:
        """Take it out."""
        self._level -= amount * self._length

    def give_back(self, amount: int, taken_at: int) -> None:
        """Put it back, as far as there is room."""
        self._fill(amount * self._length, waited=False)

    def wait(self, amount: int) -> int:
        """Wait for the refill."""
        return max(0, -int((self._level - amount * self._length) // self._limit))

    def _fill(self, parts: int, waited: bool) -> None:
        level = self._level + parts
        if level > self._full and waited:
            self.lapsed += (level - self._full) / self._length
        self._level = min(level, self._full)


@dataclass(frozen=True, slots=True)
class Account:
    """The limits that a provider promises one customer.

    Attributes:
        kind: ``fixed``: two counters of the clock's minutes. ``slices``: the same for tokens; requests are
            judged by a sixth of their limit every 10 seconds. ``bucket``: two buckets, each of which holds a
            sixth of its limit.
        requests: The requests a minute, a multiple of six.
        tokens: The tokens a minute.
    """

    kind: Kind
    requests: int
    tokens: int

    def limiters(self, now: int) -> tuple[Limiter, Limiter]:
        """Make the limiters of its requests and its tokens, with nothing used."""
        if self.kind == "bucket":
            per_minute = (self.requests, self.tokens)
            requests, tokens = (Bucket(limit, MINUTE, limit // SLICES, now) for limit in per_minute)
            return requests, tokens
        slices = SLICES if self.kind == "slices" else 1
        return Window(self.requests // slices, MINUTE // slices, now), Window(self.tokens, MINUTE, now)


class Provider:
    """Judges requests by an account's limits when they arrive.

    Args:
        account: The limits.
        refused_count: Whether a request that is refused counts as one.
        now: The time it begins.
    """

    def __init__(self, account: Account, refused_count: bool, now: int) -> None:
        self.requests, self.tokens = account.limiters(now)
        self._refused_count = refused_count

    def advance(self, now: int, *, waited: bool) -> None:
        """Go on to a time; until then requests waited, or none did."""
        self.requests.advance(now, waited=waited)
        self.tokens.advance(now, waited=waited)

    def retry_after(self, estimate: int) -> int | None:
        """Take a request, or refuse it.

        Returns:
            None if it is taken. Otherwise the time after which it would be taken if no other request came.
        """
        wait = max(self.requests.wait(1), self.tokens.wait(estimate))
        if not wait:
            self.requests.take(1)
            self.tokens.take(estimate)
            return None
        if self._refused_count:
            self.requests.take(1)
            wait = max(wait, self.requests.wait(1))
        return wait
