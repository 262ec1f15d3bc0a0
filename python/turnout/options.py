"""How a router behaves, in groups: frozen data that `Router` takes."""

from dataclasses import dataclass
from operator import index

from turnout.exceptions import ConfigurationError

__all__ = ["Waiting"]

_MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
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
