"""What the calls of one router share: its options, the callbacks for attempts, and what is closed with it."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any
from weakref import WeakSet

from turnout._core import _write_unraisable
from turnout._signals import let_through
from turnout.exceptions import ModelNotFound
from turnout.execution.options import DEFAULTS, Budget, Fallbacks, Hedge, Options, Retry, Timeouts
from turnout.execution.record import AttemptRecord

__all__ = ["Execution", "resolver", "scope", "scoped"]

Listener = Callable[[AttemptRecord], object]

_NAMES = ("retry", "fallbacks", "timeouts", "hedge")


class Execution:
    """What the calls of one router share. A router makes it.

    Args:
        retry: See :class:`turnout.Router`.
        fallbacks: Likewise.
        timeouts: Likewise.
        hedge: Likewise.
        model_options: Likewise.
    """

    __slots__ = ("_clients", "_lock", "_reloading", "listeners", "model_options", "options", "stored")

    def __init__(
        self,
        retry: Retry | None = None,
        fallbacks: Fallbacks | None = None,
        timeouts: Timeouts | None = None,
        hedge: Hedge | None = None,
        model_options: Mapping[str, Options] | None = None,
    ) -> None:
        self._lock = Lock()
        self._clients: WeakSet[Any] = WeakSet()
        self.stored = Stored()
        self.listeners: tuple[Listener, ...] = ()
        self.options = Options(retry=retry, fallbacks=fallbacks, timeouts=timeouts, hedge=hedge).over(DEFAULTS)
        self.model_options = _model_options(model_options)
        self._reloading = (os.getpid(), Lock())

    @property
    def reloading(self) -> Lock:
        """The lock of a reload, which has several steps. A forked child has its own: a thread that held
        it is in the parent.
        """
        if self._reloading[0] != os.getpid():
            self._reloading = (os.getpid(), Lock())
        return self._reloading[1]

    def configure(
        self,
        retry: Retry | None,
        fallbacks: Fallbacks | None,
        timeouts: Timeouts | None,
        hedge: Hedge | None,
        model_options: Mapping[str, Options] | None,
    ) -> "Execution":
        """Return the same with other options. What is None stays.

        Args:
            retry: See :class:`turnout.Router`.
            fallbacks: Likewise.
            timeouts: Likewise.
            hedge: Likewise.
            model_options: Likewise.

        Returns:
            What the calls share from now on.
        """
        changed = Execution(model_options=self.model_options if model_options is None else model_options)
        changed.options = Options(retry=retry, fallbacks=fallbacks, timeouts=timeouts, hedge=hedge).over(self.options)
        return changed

    def take(self, changed: "Execution") -> None:
        """Take over the options of another one.

        Args:
            changed: The other one.
        """
        self.options, self.model_options = changed.options, changed.model_options

    def budget(self) -> Budget | None:
        """Return the budget of calls without options of their own."""
        assert self.options.retry is not None
        return self.options.retry.budget

    def of(self, router: Any, model_name: str, call: Options) -> Options:
        """Return the options of one call.

        Args:
            router: The router.
            model_name: The model name.
            call: The options of the call itself.

        Returns:
            The options, without None where there are defaults.
        """
        of_model = None
        if self.model_options:
            # An alias may have its own. Otherwise it has those of its model name.
            of_model = self.model_options.get(model_name) or self.model_options.get(resolver(router)(model_name))
        return call.over(self.options if of_model is None else of_model.over(self.options))

    # --- callbacks ---

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Tell a callback of each attempt that ends.

        Args:
            callback: The callback.

        Returns:
            A function that ends that.
        """
        if not callable(callback):
            raise TypeError(f"callback must be a callable, not {callback!r} ({type(callback).__name__})")

        def unsubscribe() -> None:
            with self._lock:
                self.listeners = tuple(listener for listener in self.listeners if listener is not heard)

        # A callback that is given twice is told twice, so it is not known by itself.
        def heard(record: AttemptRecord) -> None:
            callback(record)

        with self._lock:
            self.listeners = (*self.listeners, heard)
        return unsubscribe

    def tell(self, record: AttemptRecord) -> None:
        """Tell the callbacks of an attempt. An exception of a callback is reported as unraisable: the call
        has no part in it.

        Args:
            record: The attempt.
        """
        for listener in self.listeners:
            try:
                listener(record)
            except Exception as error:
                let_through(error)
                _write_unraisable(error, listener)

    # --- the end ---

    def on_close(self, client: Any) -> None:
        """Close a client when the router is closed. It is not kept alive for that.

        Args:
            client: What has a method ``close``, or a coroutine function ``aclose``.
        """
        with self._lock:
            self._clients.add(client)

    def take_clients(self) -> list[Any]:
        """Return the clients, once, and end the callbacks."""
        with self._lock:
            clients, self._clients, self.listeners = list(self._clients), WeakSet(), ()
        return clients


def resolver(router: Any) -> Callable[[str], str]:
    """Return a function that resolves aliases. A name that nobody has is what it is.

    Args:
        router: The router.

    Returns:
        The function.
    """

    def resolve(name: str) -> str:
        try:
            return str(router.resolve(name))
        except ModelNotFound:
            return name

    return resolve


def _model_options(given: object) -> dict[str, Options]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"model_options must map model names to Options, not {given!r} ({type(given).__name__})")
    for name, options in given.items():
        if not isinstance(name, str):
            raise TypeError(f"a key of model_options must be a str, not {name!r} ({type(name).__name__})")
        if not isinstance(options, Options):
            raise TypeError(f"model_options[{name!r}] must be an Options, not {options!r} ({type(options).__name__})")
    return dict(given)


class Stored:
    """Where providers keep responses that later requests follow. The oldest are forgotten."""

    __slots__ = ("_known", "_lock")

    MOST = 10_000

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def put(self, response_id: str, at: tuple[str, str]) -> None:
        """Remember where a response is.

        Args:
            response_id: Its id.
            at: The model name and the id of the deployment.
        """
        with self._lock:
            self._known[response_id] = at
            if len(self._known) > self.MOST:
                self._known.popitem(last=False)

    def get(self, response_id: str) -> tuple[str, str] | None:
        """Return where a response is.

        Args:
            response_id: Its id.

        Returns:
            The model name and the id of the deployment; None if that is not known.
        """
        with self._lock:
            return self._known.get(response_id)


# --- options of a block ---


class _Scope:
    __slots__ = ("outer", "router", "values")

    def __init__(self, router: object, values: dict[str, Any], outer: "_Scope | None") -> None:
        self.router, self.values, self.outer = router, values, outer


_SCOPE: ContextVar[_Scope | None] = ContextVar("turnout_options", default=None)


@contextmanager
def scope(router: object, values: dict[str, Any]) -> Iterator[None]:
    """Let values hold for the calls of a router in this context.

    Args:
        router: The router.
        values: The keywords of calls.

    Yields:
        Nothing.
    """
    token = _SCOPE.set(_Scope(router, values, _SCOPE.get()))
    try:
        yield
    finally:
        _SCOPE.reset(token)


def scoped(router: object) -> dict[str, Any]:
    """Return the values that hold for the calls of a router in this context.

    Args:
        router: The router.

    Returns:
        The keywords of calls; those of inner blocks take the place of those of outer blocks.
    """
    found: dict[str, Any] = {}
    at = _SCOPE.get()
    while at is not None:
        if at.router is router:
            for name, value in at.values.items():
                found.setdefault(name, value)
        at = at.outer
    return found
