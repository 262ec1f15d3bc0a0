"""How a router behaves, in groups of options: frozen, checked where they are made, and each with a default that is explained."""

from dataclasses import dataclass
from operator import index

from turnout.exceptions import ConfigurationError

__all__ = ["Learning", "Waiting"]

_MOST = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What a router learns from providers.

    Args:
        headers: Take the limits that an exception's response headers tell, when it leaves a lease's block.
            :meth:`turnout.Lease.observe` takes those of any response, whatever this says.
        concurrency: Where a deployment has no limit of any kind, let its refusals (429) teach how many requests it takes at once: a
            refusal lowers the cap to seven tenths of what was in flight, as many successes as the cap raise it by one. Without it
            the only lesson of a refusal is a cooldown, after which everything comes back at once.

    Raises:
        TypeError: A value is not a bool.
    """

    headers: bool = True
    concurrency: bool = True

    def __post_init__(self) -> None:
        for name in ("headers", "concurrency"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be a bool, not {value!r} ({type(value).__name__})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many may wait for capacity.

    Args:
        max_waiters: The most that wait for one model name at once, 0 to 4,294,967,295. Whoever comes after them gets
            ``TooManyWaiters`` at once.

    Raises:
        ConfigurationError: ``max_waiters`` is out of range.
        TypeError: It is no int.
    """

    max_waiters: int = 10_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_waiters", _whole("max_waiters", self.max_waiters, 0, _MOST))


def _whole(name: str, value: object, least: int, most: int) -> int:
    said = f"{name} must be an int from {least} to {most}, not {value!r} ({type(value).__name__})"
    try:
        number = index(value)  # type: ignore[arg-type]  # what it is for
    except TypeError:
        raise TypeError(said) from None
    if not least <= number <= most:
        raise ConfigurationError(said)
    return number
