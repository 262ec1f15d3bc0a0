"""Calls that are carried to their end: the methods of a router that are written in Python.

The documentation of the methods stands in ``_core.pyi``, as that of the native ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from turnout.execution.attempts import Attempts, Run
from turnout.execution.options import NOTHING, Options
from turnout.execution.race import Race
from turnout.execution.record import AttemptRecord
from turnout.execution.state import scope, scoped

if TYPE_CHECKING:
    from turnout._core import Lease, Router

__all__: list[str] = []

_T = TypeVar("_T")

# The keywords of calls: their options, what `acquire` takes, and where records go.
_OPTIONS = ("retry", "fallbacks", "timeouts")
_WISHES = ("tokens", "tags", "tags_match", "exclude", "only", "priority")
_REQUEST = (*_WISHES, "input_tokens", "output_tokens", "dialect")
_CALL = frozenset((*_OPTIONS, *_REQUEST, "records"))
_CALL_ASYNC = _CALL | {"hedge"}
_SCOPE = frozenset((*_OPTIONS, *_WISHES, "hedge"))


def begin(
    router: Router,
    model_name: str,
    given: dict[str, Any],
    *,
    usual: dict[str, Any] | None = None,
    repeats: bool = True,
    streams: bool = False,
    total: float | None = None,
    pays: bool = True,
) -> Run:
    """Begin a call.

    Args:
        router: The router.
        model_name: The model name that is asked for.
        given: The keywords of the call. What is None counts as not given.
        usual: Keywords that hold where neither the call nor a block has them.
        repeats: Whether the request can be sent again after a deployment may have got it.
        streams: Whether the answer is a stream, whose first event has a time limit of its own.
        total: The seconds that the request itself allows, in place of those of the options.
        pays: Whether the call has yet to pay its share into the budget.

    Returns:
        The call.
    """
    merged = {**usual, **scoped(router)} if usual else scoped(router)
    merged.update({name: value for name, value in given.items() if value is not None})
    options = {name: merged.pop(name) for name in (*_OPTIONS, "hedge") if name in merged}
    call = Options(**options) if options else NOTHING
    copies = merged.pop("records", None)
    if copies is not None and not hasattr(copies, "append"):
        raise TypeError(f"records must be a list, not {copies!r} ({type(copies).__name__})")
    return Run(router, model_name, call, merged, copies=copies, repeats=repeats, streams=streams, total=total, pays=pays)


def _check(method: str, given: dict[str, Any], allowed: frozenset[str]) -> None:
    for name in given:
        if name not in allowed:
            raise TypeError(f"{method}() has no keyword {name!r}; it has {', '.join(sorted(allowed))}")


def attempts(self: Router, model_name: str, /, **given: Any) -> Attempts:
    """Loop over the attempts of one request, with ``for`` in a thread and ``async for`` in a task."""
    _check("attempts", given, _CALL)
    return Attempts(begin(self, model_name, given))


def call(self: Router, model_name: str, send: Callable[[Lease], _T], /, **given: Any) -> _T:
    """Send a request, and carry it to its end in this thread: other deployments, pauses and fallbacks."""
    if not callable(send):
        raise TypeError(f"send must be a callable, not {send!r} ({type(send).__name__})")
    if not given:
        # Most calls need one attempt, and no plan for further ones. To make a plan takes several times as
        # long as all the rest.
        lease = self._begin(model_name)
        if lease is not None:
            try:
                result = send(lease)
            except BaseException as error:
                run = begin(self, model_name, {}, pays=False)
                if not run.attempt(model_name, lease, 0.0).__exit__(type(error), error, None):
                    raise
            else:
                if type(result) is CoroutineType:
                    _refuse(result, send, lease)
                lease.success()
                return result
            return _call(run, send)
    _check("call", given, _CALL)
    return _call(begin(self, model_name, given), send)


def _call(run: Run, send: Callable[[Lease], _T]) -> _T:
    while True:
        with run.acquire() as lease:
            result = send(lease)
            if type(result) is CoroutineType:
                _refuse(result, send, lease)
            return result


def _refuse(coroutine: Any, send: object, lease: Lease) -> NoReturn:
    """Refuses a function that would have to be awaited, before it has sent anything."""
    coroutine.close()
    lease.release(unused=True)
    raise TypeError(f"send must not be a coroutine function here, as {send!r} is: use call_async")


def call_async(self: Router, model_name: str, send: Callable[[Lease], Awaitable[_T]], /, **given: Any) -> Coroutine[Any, Any, _T]:
    """Do what :meth:`call` does, in a task of asyncio or trio. An attempt that takes too long is
    cancelled.
    """
    if not callable(send):
        raise TypeError(f"send must be a callable, not {send!r} ({type(send).__name__})")
    _check("call_async", given, _CALL_ASYNC)
    self.resolve(model_name)
    # Options of a block hold for what is called in it, wherever it is awaited.
    return _call_async(self, model_name, send, {**scoped(self), **given})


async def _call_async(router: Router, model_name: str, send: Callable[[Lease], Awaitable[_T]], given: dict[str, Any]) -> _T:
    run = begin(router, model_name, given)
    while True:
        attempt = await run.acquire_async()
        if run.options.hedge is None:
            async with attempt as lease:
                return await send(lease)
        elif won := await Race(run, lambda attempt: send(attempt.lease), attempt).run():
            attempt, result = won
            attempt.succeed()
            return result


def options(self: Router, /, **given: Any) -> AbstractContextManager[None]:
    """Let options hold for the requests that begin in a block: in this thread or task, and in tasks that it
    starts. They reach calls that other libraries make. Inner blocks come before outer ones.
    """
    _check("options", given, _SCOPE)
    values = {name: value for name, value in given.items() if value is not None}
    Options(**{name: values[name] for name in (*_OPTIONS, "hedge") if name in values})
    for name in ("tags", "exclude", "only"):
        if name in values:
            if isinstance(values[name], str) or not isinstance(values[name], Iterable):
                raise TypeError(f"{name} must be an iterable of str, not {values[name]!r} ({type(values[name]).__name__})")
            values[name] = tuple(values[name])  # it is read more than once
    self._use_plans()
    return scope(self, values)


def on_attempt(self: Router, callback: Callable[[AttemptRecord], object], /) -> Callable[[], None]:
    """Call ``callback`` with the record of each attempt that ends."""
    unsubscribe = self._execution.listen(callback)
    self._use_plans()
    return unsubscribe


def close(self: Router) -> None:
    """Close the connections that clients have opened for the router, and end the callbacks of
    :meth:`on_attempt`. What is held of shared limits goes back to the store. The deployments, counts and
    leases stay. Leaving a ``with`` block of the router does the same.
    """
    for client in self._execution.take_clients():
        if hasattr(client, "close"):
            client.close()
    if self._carrier is not None:
        self._carrier.close()


async def aclose(self: Router) -> None:
    """Do what :meth:`close` does in a task, for clients of tasks. Leaving an ``async with`` block of the
    router does the same.
    """
    for client in self._execution.take_clients():
        if hasattr(client, "aclose"):
            await client.aclose()
        else:
            client.close()
    if self._carrier is not None:
        self._carrier.close()  # it takes as long as one exchange, at most a second


def enter(self: Router) -> Router:
    """Enter a block that ends with :meth:`turnout.Router.close`."""
    return self


def exit_(
    self: Router, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
) -> None:
    """Close what was opened for the router."""
    self.close()


async def enter_async(self: Router) -> Router:
    """Enter a block that ends with :meth:`turnout.Router.aclose`."""
    return self


async def exit_async(
    self: Router, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
) -> None:
    """Close what was opened for the router."""
    await self.aclose()
