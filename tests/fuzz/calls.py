"""Everything that can be called, found by looking, and calls of it."""

import enum
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import turnout

from fuzz.values import RaisedByValue, Values

# What may come out of a call besides what the values themselves raise. `turnout`'s own errors are these too.
EXPECTED = (turnout.RouterError, TypeError, ValueError, OverflowError, RaisedByValue, RecursionError, StopIteration)

# They wait, or belong to other loops, or change Python's own state for good.
LEFT_OUT = {"__class__", "__init_subclass__", "__subclasshook__", "__del__", "__getattribute__", "__dir__", "__getstate__"}


@dataclass(frozen=True)
class Target:
    """Something to call.

    Attributes:
        name: What to write before the arguments.
        owner: The class of the object that the method needs, or the module of the function; None for
            `turnout` itself.
    """

    name: str
    owner: type | ModuleType | None = None


def targets() -> Iterator[Target]:
    """Find all public classes, functions and methods."""
    for name in turnout.__all__:
        value = getattr(turnout, name)
        if inspect.ismodule(value):
            yield from (Target(function, value) for function in value.__all__ if inspect.isroutine(getattr(value, function)))
        if not callable(value) or (isinstance(value, type) and issubclass(value, BaseException)):
            continue
        yield Target(name)
        if isinstance(value, type) and not issubclass(value, enum.Enum):
            for method, _ in inspect.getmembers(value, callable):
                definer = next(each for each in value.__mro__ if method in each.__dict__) if hasattr(value, method) else object
                is_public = not method.startswith("_") or method.startswith("__")
                if is_public and definer.__module__.startswith("turnout") and method not in LEFT_OUT:
                    yield Target(method, value)


def parameters(call: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Return the names of the positional and of the keyword parameters of a call, as far as known."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return ["name", "n"], []
    by_name = signature.parameters.values()
    positional = [each.name for each in by_name if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return positional, [each.name for each in by_name if each.kind is each.KEYWORD_ONLY]


def may_wait(timeout: Any) -> bool:
    """Tell whether a call with this timeout may wait for long."""
    try:
        return timeout is None or bool(timeout > 0)
    except Exception:
        return False


def arguments(call: Callable[..., Any], values: Values, chance: random.Random) -> tuple[list[Any], dict[str, Any]]:
    """Draw the arguments of a call."""
    if isinstance(call, enum.EnumMeta):
        # With more arguments Python would make a new class.
        return [values.any()], {}
    positional, keywords = parameters(call)
    given = [values.fitting(name) for name in positional]
    if chance.random() < 0.1:
        given = given[: chance.randint(0, len(given))]
    if chance.random() < 0.03:
        given.append(values.any())
    named = {name: values.fitting(name) for name in keywords if chance.random() < 0.3}
    if "timeout" in named and may_wait(named["timeout"]):
        # Nobody would end the wait.
        named["timeout"] = 0.0
    if chance.random() < 0.02:
        named["nonsense"] = values.any()
    return given, named
