"""Checks of the options' numbers. Numbers of any library are accepted and kept as Python's own."""

from numbers import Real
from operator import index
from typing import cast

from turnout.exceptions import ConfigurationError


def whole(options: object, name: str, least: int, most: int) -> None:
    """Refuse an attribute that is no int from least to most.

    Args:
        options: The object that has the attribute.
        name: Its name.
        least: The least.
        most: The most.
    """
    value = getattr(options, name)
    said = f"{name} must be an int from {least} to {most}, not {value!r} ({type(value).__name__})"
    try:
        number = index(value)
    except TypeError:
        raise TypeError(said) from None
    if isinstance(value, bool):
        raise TypeError(said)
    if not least <= number <= most:
        raise ConfigurationError(said)
    object.__setattr__(options, name, number)


def number(options: object, name: str, least: float, most: float, allowed: str) -> None:
    """Refuse an attribute that is no number from least to most.

    Args:
        options: The object that has the attribute.
        name: Its name.
        least: The least.
        most: The most.
        allowed: What is allowed, in words.
    """
    value = getattr(options, name)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {allowed}, not {value!r} ({type(value).__name__})")
    # This comes before the conversion to a float: an int may be too large for that.
    if not least <= cast("float", value) <= most:
        raise ConfigurationError(f"{name} must be {allowed}, not {value!r}")
    object.__setattr__(options, name, float(value))


def seconds(options: object, name: str, least: float = 0.0) -> None:
    """Refuse an attribute that is no time.

    Args:
        options: The object that has the attribute.
        name: Its name.
        least: The least.
    """
    number(options, name, least, 1e9, f"a finite number of seconds from {least:g} to 1e9")


def flag(options: object, name: str) -> None:
    """Refuse an attribute that is no bool.

    Args:
        options: The object that has the attribute.
        name: Its name.
    """
    value = getattr(options, name)
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {value!r} ({type(value).__name__})")
