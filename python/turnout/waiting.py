"""The wait of asyncio and trio tasks for a lease. The core keeps the order in which they are served. Threads
wait in the core.

A waiter is polled. It returns its lease, or the seconds after which it wants to be polled again. Before that
time, it may call the function that it was given. The task sleeps until one of the two happens. If the task
leaves its wait in any way, it gives up its place, and a lease that was not returned.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from turnout._core import Lease, _Waiter

__all__ = ["runs_in_trio", "wait_async"]


async def wait_async(waiter: _Waiter) -> Lease:
    """Wait in this task, if there is need to.

    Args:
        waiter: The waiter.

    Returns:
        The lease.
    """
    # No variable holds the lease. So if a signal's handler raises here, the lease ends at once, and not with
    # the traceback.
    return waiter.acquire_at_once() or await (_wait_in_trio if runs_in_trio() else _wait_in_asyncio)(waiter)


# Tasks and Python's own warnings call it by this name.
wait_async.__qualname__ = "Router.acquire_async"


def runs_in_trio() -> bool:
    """Tell whether this task runs in trio, and not in asyncio."""
    # trio brings sniffio along, so without it the loop is another one.
    sniffio = sys.modules.get("sniffio")
    if sniffio is None or "trio" not in sys.modules:
        return False
    try:
        return bool(sniffio.current_async_library() == "trio")
    except sniffio.AsyncLibraryNotFoundError:
        return False


async def _wait_in_asyncio(waiter: _Waiter) -> Lease:
    # They are imported here, where they are loaded already: a program without a loop need not load them.
    # Each import is of a module: that of a name from a module costs ten times as much.
    import asyncio
    import weakref

    loop = asyncio.get_running_loop()
    try:
        while True:
            woken = loop.create_future()
            progress = waiter.poll(partial(_wake, waiter, loop.is_closed, loop.call_soon_threadsafe, _set, woken))
            if isinstance(progress, Lease):
                return progress
            # A loop keeps its timers. A timer must not keep a task alive that nothing else knows.
            timer = loop.call_later(progress, _set_if_alive, weakref.ref(woken))
            try:
                await woken
            finally:
                timer.cancel()
    finally:
        waiter.cancel()


async def _wait_in_trio(waiter: _Waiter) -> Lease:
    trio: Any = sys.modules["trio"]
    token = trio.lowlevel.current_trio_token()

    def is_over() -> bool:
        try:
            token.run_sync_soon(int, idempotent=True)
        except trio.RunFinishedError:
            return True
        return False

    try:
        while True:
            woken = trio.Event()
            progress = waiter.poll(partial(_wake, waiter, is_over, token.run_sync_soon, woken.set))
            if isinstance(progress, Lease):
                return progress
            with trio.move_on_after(progress):
                await woken.wait()
    finally:
        waiter.cancel()


def _wake(waiter: _Waiter, is_over: Callable[[], bool], call_soon: Callable[..., object], *call: object) -> None:
    try:
        call_soon(*call)
    except RuntimeError:
        # A RecursionError is a RuntimeError too, and says nothing of the loop.
        if not is_over():
            raise
        # The loop has ended, and with it the tasks that waited there. Others must not wait behind them.
        waiter.cancel()


def _set_if_alive(woken: Callable[[], Any]) -> None:
    future = woken()
    if future is not None:
        _set(future)


def _set(woken: Any) -> None:
    if not woken.done():
        woken.set_result(None)
