"""How a transport waits: in a task or in a thread. One body of code serves both.

That code is written as coroutines. In a thread, whatever they await is done when it is asked for. So they
never suspend, and `run` takes them from begin to end.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Timer
from typing import Any, NamedTuple, Protocol, TypeVar

from turnout.execution.attempts import Attempt, Run, need_anyio

__all__ = ["Driver", "Family", "Tasks", "Threads", "run"]

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Take a coroutine that never suspends from its begin to its end.

    Args:
        coroutine: The coroutine.

    Returns:
        What it returns.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a coroutine for threads was suspended")


class Driver(Protocol):
    """What waits."""

    is_task: bool

    async def acquire(self, run: Run) -> Attempt:
        """Go on to the next attempt."""

    async def key(self, key: Any) -> Any:
        """Wait for a key, if it is an awaitable."""

    async def read(self, request: Any) -> bytes:
        """Read the body of a request."""

    async def send(self, transport: Any, request: Any) -> Any:
        """Send a request."""

    def chunks(self, stream: Any) -> Any:
        """Return an iterator over a body."""

    async def next(self, chunks: Any) -> bytes | None:
        """Return the next chunk; None at the end."""

    async def close(self, closes: Any) -> None:
        """Close a body or a transport."""

    def scope(self, seconds: float | None) -> Any:
        """Return a scope that is cancelled after this time; None for never."""

    def cut(self, response: Any, seconds: float | None) -> AbstractContextManager[None]:
        """Return a context that ends a wait for bytes after this time; None for never."""


class Family(NamedTuple):
    """An HTTP library, for tasks or for threads.

    Attributes:
        http: The module httpx2 or httpx.
        request: The class of requests to deployments.
        stream: The class of bodies that are read while they come; it is made of a `Body`.
        driver: What waits.
    """

    http: Any
    request: Any
    stream: Any
    driver: Driver


class Tasks:
    """Waits in tasks of asyncio and trio."""

    is_task = True

    async def acquire(self, run: Run) -> Attempt:
        """Go on to the next attempt."""
        return await run.acquire_async()

    async def key(self, key: Any) -> Any:
        """Wait for a key, if it is an awaitable."""
        return await key if inspect.isawaitable(key) else key

    async def read(self, request: Any) -> bytes:
        """Read the body of a request."""
        return await request.aread()  # type: ignore[no-any-return]

    async def send(self, transport: Any, request: Any) -> Any:
        """Send a request."""
        return await transport.handle_async_request(request)

    def chunks(self, stream: Any) -> Any:
        """Return an iterator over a body."""
        return stream.__aiter__()

    async def next(self, chunks: Any) -> bytes | None:
        """Return the next chunk; None at the end."""
        try:
            return await chunks.__anext__()  # type: ignore[no-any-return]
        except StopAsyncIteration:
            return None

    async def close(self, closes: Any) -> None:
        """Close a body or a transport."""
        await closes.aclose()

    def scope(self, seconds: float | None) -> Any:
        """Return a scope that is cancelled after this time; None for never."""
        if seconds is None:
            return nullcontext()
        anyio = need_anyio()
        return anyio.CancelScope(deadline=anyio.current_time() + seconds)

    def cut(self, response: Any, seconds: float | None) -> AbstractContextManager[None]:
        """Return a context. A task is cancelled by its scope, so it does nothing."""
        return nullcontext()


class Threads:
    """Waits in threads."""

    is_task = False

    async def acquire(self, run: Run) -> Attempt:
        """Go on to the next attempt."""
        return run.acquire()

    async def key(self, key: Any) -> Any:
        """Return a key."""
        if inspect.isawaitable(key):
            if inspect.iscoroutine(key):
                key.close()
            raise TypeError("api_key gives an awaitable, which only a client of tasks can wait for: use an asynchronous client")
        return key

    async def read(self, request: Any) -> bytes:
        """Read the body of a request."""
        return request.read()  # type: ignore[no-any-return]

    async def send(self, transport: Any, request: Any) -> Any:
        """Send a request."""
        return transport.handle_request(request)

    def chunks(self, stream: Any) -> Any:
        """Return an iterator over a body."""
        return iter(stream)

    async def next(self, chunks: Any) -> bytes | None:
        """Return the next chunk; None at the end."""
        return next(chunks, None)

    async def close(self, closes: Any) -> None:
        """Close a body or a transport."""
        closes.close()

    def scope(self, seconds: float | None) -> Any:
        """Return a scope. A thread cannot be cancelled, so it does nothing."""
        return nullcontext()

    def cut(self, response: Any, seconds: float | None) -> AbstractContextManager[None]:
        """Return a context in which the connection is shut down after this time: nothing else ends a thread's
        wait for bytes. A connection that other requests share is left alone.
        """
        connection = response.extensions.get("network_stream")
        if seconds is None or connection is None or response.extensions.get("http_version") == b"HTTP/2":
            return nullcontext()
        connected = connection.get_extra_info("socket")
        return nullcontext() if connected is None else _shut_down_after(connected, seconds)


@contextmanager
def _shut_down_after(connected: socket.socket, seconds: float) -> Iterator[None]:
    def shut_down() -> None:
        with suppress(OSError):  # it is closed already
            # Not that of the ssl module, which also changes the object that the other thread uses.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = Timer(max(seconds, 0.0), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
