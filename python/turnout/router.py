"""The class `Router`, and its methods that are written in Python.

The class is the native one, which is open to subclassing. A method in Python is a function of
`turnout.execution.call` that is set on the class. A subclass here could have such methods too, but CPython
calls inherited native methods in a slower way: 10 ns more a `select`
(docs/decisions/0008-a-router-is-the-native-class.md).

The methods are loaded when one is first used: they need dataclasses, which take longer to load than all else.
"""

from typing import Any

from turnout._core import Router as Router

__all__ = ["Router"]

_METHODS = {
    "attempts": "attempts",
    "call": "call",
    "call_async": "call_async",
    "options": "options",
    "on_attempt": "on_attempt",
    "close": "close",
    "aclose": "aclose",
    "__enter__": "enter",
    "__exit__": "exit_",
    "__aenter__": "enter_async",
    "__aexit__": "exit_async",
}


class _Method:
    """Stands for a method until it is first used. Then all methods take their places."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, router: Router | None, owner: type[Router]) -> Any:
        from turnout.execution import call

        for name, function in _METHODS.items():
            setattr(Router, name, getattr(call, function))
        return getattr(owner if router is None else router, self._name)


for _name in _METHODS:
    setattr(Router, _name, _Method(_name))


def _from_config(cls: type[Router], source: Any, *, strict: bool = False, seed: int | None = None, clock: Any = None) -> Router:
    """Make a router from a config."""
    from turnout.config import load

    loaded = load(source, strict=strict)
    loaded.warn(stacklevel=2)
    return loaded.router(cls, seed=seed, clock=clock)


def _reload(self: Router, source: Any, *, strict: bool = False) -> None:
    """Take over a config while the router is in use. Counts, leases, cooldowns and waiters stay."""
    from turnout.config import load

    loaded = load(source, strict=strict)
    loaded.warn(stacklevel=2)
    loaded.put_into(self)


Router.from_config = classmethod(_from_config)  # type: ignore[assignment, method-assign]
Router.reload = _reload  # type: ignore[method-assign]
