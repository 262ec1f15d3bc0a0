"""Guarded looks at strangers' objects: any look may raise, and no answer is trusted."""

from typing import Any

from turnout._core import _read_number
from turnout._signals import let_through

__all__: list[str] = []

# No field that is read is longer. A longer one would only cost time.
MOST_CHARACTERS = 256


def attribute(holder: Any, name: str) -> Any:
    """Reads an attribute. A property may raise; that of an httpx exception's ``request`` does.

    Args:
        holder: The object that has it.
        name: Its name.

    Returns:
        The attribute; None if there is none or it raises.
    """
    try:
        return getattr(holder, name, None)
    except Exception as error:
        let_through(error)
        return None


def entry(holder: Any, name: str) -> Any:
    """Reads an entry of a dict.

    Args:
        holder: Anything.
        name: The key.

    Returns:
        The entry; None if there is none, or if this is no dict.
    """
    try:
        return holder.get(name) if issubclass(type(holder), dict) else None
    except Exception as error:
        let_through(error)
        return None


def text(value: Any) -> str:
    """Turns a value into text.

    Args:
        value: The value. Bytes are read as HTTP writes them (Latin-1).

    Returns:
        Its text; an empty string if it fails to give one.
    """
    try:
        return value.decode("latin-1") if type(value) is bytes else str(value)
    except Exception as error:
        let_through(error)
        return ""


def number(value: Any) -> float | None:
    """Reads a plain number.

    Args:
        value: A number, or text.

    Returns:
        The number; None if it is no number, or not one from 0 to 1e9.
    """
    try:
        if value is True or value is False:
            return None
        return _read_number(value if type(value) is str else float(value))
    except Exception as error:
        let_through(error)
        return None


def called(function: Any, **keywords: Any) -> Any:
    """Calls a method.

    Args:
        function: The method, or anything else.
        **keywords: The arguments of the call.

    Returns:
        The result; None if it raises, or cannot be called.
    """
    try:
        return None if function is None else function(**keywords)
    except Exception as error:
        let_through(error)
        return None
