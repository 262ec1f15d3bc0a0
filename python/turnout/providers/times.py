"""Reads numbers and times as providers write them.

A time is a number of seconds, a duration as Go writes it (``6m0s``, ``120ms``), a Unix time in seconds or
milliseconds (its size tells which), an RFC 3339 timestamp, or an HTTP date in any of its three forms (RFC
9110, section 5.6.7). Digits are those of ASCII. If a header came twice, clients join its values with a comma:
the first value counts.
"""

import re
from datetime import datetime, timedelta, timezone
from math import isfinite
from typing import Any

from turnout._signals import let_through

__all__: list[str] = []

# The longest time that is believed: 32 years.
MOST_SECONDS = 1e9
# No field that is read is longer. A longer one would only cost time.
MOST_CHARACTERS = 256

# From here on a plain number is a Unix time and not seconds from now: first in seconds, then in milliseconds.
_EPOCH_FROM = 1e9
_EPOCH_MS_FROM = 1e11

_NUMBER = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?")
# A comma between values, not between thousands. Three digits and a semicolon are the window of a policy:
# `100,100;w=60`.
_JOINT = re.compile(r",(?![0-9]{3}(?![0-9;]))")
# Go's durations, and days. A µ that was sent in UTF-8 and read in Latin-1 has one letter more.
_DURATION = re.compile(
    "".join(rf"(?:([0-9]+(?:\.[0-9]*)?){unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms", "(?:u|µ|μ|Âµ)s", "ns")), re.IGNORECASE
)
_UNIT_SECONDS = (86_400.0, 3600.0, 60.0, 1.0, 1e-3, 1e-6, 1e-9)
# These are not compiled with the package: most programs never see a date, and `re` keeps what it has
# compiled.
_TIME = r"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_ZONE = r"(?:GMT|UTC?|Z|([+-])([0-9]{2}):?([0-9]{2}))?"
_TIMESTAMP = rf"([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})[T ]{_TIME}(\.[0-9]+)?{_ZONE}"
_DATE = rf"(?:[a-z]+, ?)?([0-9]{{1,2}})[ -]([a-z]{{3}})[ -]([0-9]{{4}}|[0-9]{{2}}) {_TIME} ?{_ZONE}"
_ASCTIME = rf"[a-z]{{3}} ([a-z]{{3}}) {{1,2}}([0-9]{{1,2}}) {_TIME} ([0-9]{{4}})"
_MONTHS = {
    name: 1 + i for i, name in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"))
}

# The present: as the caller gives it, as the answer's `Date` tells, or None for that of the clock.
Now = datetime | str | None


def number(value: Any, most: float = MOST_SECONDS) -> float | None:
    """Reads a plain number.

    Args:
        value: A number, or text.
        most: The largest that makes sense.

    Returns:
        The number; None if it is no number, or not one from 0 to ``most``.
    """
    try:
        if type(value) is str:
            value = value.strip()
            if _NUMBER.fullmatch(value) is None:
                return None
            value = value.replace(",", "")
        parsed = None if value is True or value is False else float(value)
    except Exception as error:  # no number, or a stranger's object
        let_through(error)
        return None
    return parsed if parsed is not None and isfinite(parsed) and 0 <= parsed <= most else None


def first(said: str) -> str:
    """Takes the first of several values that were joined. A date has a comma of its own.

    Args:
        said: The values.

    Returns:
        The first of them.
    """
    if "," not in said:
        return said
    values = _JOINT.split(said, 2)
    return ",".join(values[:2]) if values[0].strip().isalpha() else values[0]


def seconds(said: str, now: Now) -> float | None:
    """Reads a time in any of the ways in which it is written.

    Args:
        said: The time.
        now: The present.

    Returns:
        Seconds from now, 0.0 for the past; None if it is no time.
    """
    said = first(said).strip()
    # Most end in a unit. Text that ends in a letter is no number.
    plain = None if said[-1:].isalpha() else number(said, most=_EPOCH_MS_FROM * 1000)
    if plain is not None:
        if plain < _EPOCH_FROM:
            return plain
        epoch = plain if plain < _EPOCH_MS_FROM else plain / 1000
        return number(max(epoch - _present(now).timestamp(), 0.0))
    if not said:
        return None
    if (parts := _DURATION.fullmatch(said)) is not None:
        total = 0.0
        for count, unit in zip(parts.groups(), _UNIT_SECONDS, strict=True):
            if count is not None:
                total += float(count) * unit
        return total if total <= MOST_SECONDS else None
    try:
        moment, rest = _moment(said)
        return number(max((moment - _present(now)).total_seconds() + rest, 0.0))
    except (ValueError, OverflowError):  # no date, the 31st of February, or one at the end of time
        return None


def _moment(said: str) -> tuple[datetime, float]:
    """A date as if it were one of UTC, and the seconds to add to it for the true moment."""
    fraction = None
    if (parts := re.fullmatch(_TIMESTAMP, said, re.IGNORECASE)) is not None:
        year, month, day, *time, fraction, sign, hours, minutes = parts.groups()
    elif (parts := re.fullmatch(_DATE, said, re.IGNORECASE)) is not None:
        day, name, year, *time, sign, hours, minutes = parts.groups()
        month = _MONTHS.get(name.lower(), 0)
        if len(year) == 2:
            year = int(year) + (1900 if int(year) > 68 else 2000)
    elif (parts := re.fullmatch(_ASCTIME, said, re.IGNORECASE)) is not None:
        name, day, *time, year = parts.groups()
        month, sign = _MONTHS.get(name.lower(), 0), None
    else:
        raise ValueError(said)
    hour, minute, second = map(int, time)
    moment = datetime(int(year), int(month), int(day), hour, minute, second, tzinfo=timezone.utc)
    ahead = 0 if sign is None else (int(hours) * 60 + int(minutes)) * (60 if sign == "+" else -60)
    return moment, float(fraction or 0) - ahead


def _present(now: Now) -> datetime:
    if isinstance(now, str):
        try:
            moment, rest = _moment(now.strip())
            return moment + timedelta(seconds=rest)
        except (ValueError, OverflowError):
            return datetime.now(timezone.utc)
    if now is None:
        return datetime.now(timezone.utc)
    return now if now.tzinfo is not None else now.replace(tzinfo=timezone.utc)
