"""What workers admitted, written down so that it outlives them, and what of it is over a limit.

A worker writes a record before it goes on, into a file of its own. One write of 32 bytes is whole or not
there, and stays when the worker is killed. A request was admitted at some moment between the call and its
return. A window counts it only if all of that time is within the window. So what is over a limit is over it
for sure.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

# The number of the request, the nanoseconds before the call and after its return, and the units. At the end
# of a request its number is negative, and the units are those that it used.
_RECORD = Struct("<qqqq")


class Writer:
    """Writes down what one worker admits."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._last = 0

    def admit(self, earliest: int, latest: int, units: int) -> int:
        """Write that a request was admitted, and return its number."""
        self._last += 1
        os.write(self._file, _RECORD.pack(self._last, earliest, latest, units))
        return self._last

    def end(self, number: int, at: int, units: int) -> None:
        """Write that a request has ended, and the units that it used. The provider counts no others."""
        os.write(self._file, _RECORD.pack(-number, at, at, units))


@dataclass(slots=True)
class Admission:
    """A request that was admitted, with times of the machine's monotonic clock in nanoseconds."""

    worker: str
    earliest: int
    latest: int
    units: int
    ended: int | None = None


def read(folder: Path) -> list[Admission]:
    """Read what all workers wrote."""
    admissions: list[Admission] = []
    for path in sorted(folder.glob("*.admitted")):
        own: dict[int, Admission] = {}
        for number, earliest, latest, units in _RECORD.iter_unpack(path.read_bytes()):
            if number > 0:
                own[number] = Admission(path.stem, earliest, latest, units)
            else:
                own[-number].ended, own[-number].units = earliest, units
        admissions.extend(own.values())
    return admissions


def has_any(path: Path) -> bool:
    """Whether a worker has admitted anything."""
    return path.exists() and path.stat().st_size > 0


class StoreClock:
    """The clock of a store of this machine: the wall clock. It turns monotonic times into the store's.

    The wall clock may be slewed meanwhile. So a time is known up to the difference between two looks.
    """

    def __init__(self) -> None:
        self._aheads = [_ahead()]

    def look(self) -> None:
        """Compare the clocks again."""
        self._aheads.append(_ahead())

    def windows(self, admission: Admission, per: float) -> range:
        """Return the numbers of the windows in which a request may have been admitted."""
        length = round(per * 1e9)
        first = (admission.earliest + min(self._aheads)) // length
        last = (admission.latest + max(self._aheads)) // length
        return range(first, last + 1)

    def now(self) -> float:
        """Return the store's time in seconds."""
        return (time.monotonic_ns() + self._aheads[-1]) / 1e9


def _ahead() -> int:
    # The reading of the wall clock is between two of the other. The nearest pair tells most.
    looks = []
    for _ in range(50):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        looks.append((after - before, wall - (before + after) // 2))
    return min(looks)[1]


def used_at_least(admissions: list[Admission], clock: StoreClock, per: float) -> dict[int, int]:
    """Return the units that were used for certain in each window, by its number."""
    windows: Counter[int] = Counter()
    for admission in admissions:
        possible = clock.windows(admission, per)
        if len(possible) == 1:
            windows[possible[0]] += admission.units
    return dict(sorted(windows.items()))


def used_at_most(admissions: list[Admission], clock: StoreClock, per: float) -> dict[int, int]:
    """Return the units of each window, with all those that may have been used in it."""
    windows: Counter[int] = Counter()
    for admission in admissions:
        for window in clock.windows(admission, per):
            windows[window] += admission.units
    return dict(windows)


def most_in_stretch(admissions: list[Admission], length: float) -> int:
    """Return the most units that were used for certain in any stretch of this length."""
    ordered = sorted(admissions, key=lambda admission: admission.earliest)
    most = 0
    for place, first in enumerate(ordered):
        end = first.earliest + round(length * 1e9)
        inside = 0
        for other in ordered[place:]:
            if other.earliest >= end:
                break
            inside += other.units if other.latest < end else 0
        most = max(most, inside)
    return most


def most_in_flight(admissions: list[Admission], killed: Mapping[str, int]) -> int:
    """Return the most requests that were in flight at once for certain.

    Args:
        admissions: The requests.
        killed: When a worker was killed: its requests ended then.
    """
    now = most = 0
    for _, change in sorted(_changes(admissions, killed)):
        now += change
        most = max(most, now)
    return most


def _changes(admissions: list[Admission], killed: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    for admission in admissions:
        ended = admission.ended if admission.ended is not None else killed.get(admission.worker)
        if ended is None:
            yield admission.latest, 1
        elif ended > admission.latest:
            yield from ((admission.latest, 1), (ended, -1))
