"""How a thread, an asyncio task and a trio task wait for a lease. The order in which they are served is the
core's.

A waiter is polled. It returns its lease, or the seconds after which it wants to be polled again. It may call
the function that it was given before that time. Each loop sleeps that long. A loop that is left in any way
gives up the place, and a lease that was not returned.
"""

import math
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from turnout._core import Lease, _Waiter

__all__ = ["wait", "wait_async"]


def wait(waiter: _Waiter) -> Lease:
    """Wait in this thread.

    Args:
        waiter: The waiter.

    Returns:
        The lease.
    """
    bell = threading.Lock()
    bell.acquire()

    def wake() -> None:
        with suppress(RuntimeError):  # rung already
            bell.release()

    try:
        while not isinstance(progress := waiter.poll(wake), Lease):
            # Releases the GIL, and lets Ctrl-C through.
            bell.acquire(timeout=-1 if progress == math.inf else min(progress, threading.TIMEOUT_MAX))
        return progress
    finally:
        waiter.cancel()


async def wait_async(waiter: _Waiter) -> Lease:
    """Wait in this task.

    Args:
        waiter: The waiter.

    Returns:
        The lease.
    """
    return await (_wait_in_trio if _runs_in_trio() else _wait_in_asyncio)(waiter)


# By which tasks and Python's own warnings call it.
wait_async.__qualname__ = "Router.acquire_async"


def _runs_in_trio() -> bool:
    # trio brings sniffio along, so without it the loop is another one.
    sniffio = sys.modules.get("sniffio")
    if sniffio is None or "trio" not in sys.modules:
        return False
    try:
        return bool(sniffio.current_async_library() == "trio")
    except sniffio.AsyncLibraryNotFoundError:
        return False


async def _wait_in_asyncio(waiter: _Waiter) -> Lease:
    # Imported here, where it is already: a program without a loop need not load it.
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        while True:
            woken = loop.create_future()
            progress = waiter.poll(partial(_wake, waiter, loop.call_soon_threadsafe, _set, woken))
            if isinstance(progress, Lease):
                return progress
            timer = None if progress == math.inf else loop.call_later(progress, _set, woken)
            try:
                await woken
            finally:
                if timer is not None:
                    timer.cancel()
    finally:
        waiter.cancel()


async def _wait_in_trio(waiter: _Waiter) -> Lease:
    trio: Any = sys.modules["trio"]
    token = trio.lowlevel.current_trio_token()
    try:
        while True:
            woken = trio.Event()
            progress = waiter.poll(partial(_wake, waiter, token.run_sync_soon, woken.set))
            if isinstance(progress, Lease):
                return progress
            with trio.move_on_after(progress):
                await woken.wait()
    finally:
        waiter.cancel()


def _wake(waiter: _Waiter, call_soon: Callable[..., object], *call: object) -> None:
    try:
        call_soon(*call)
    except RuntimeError:
        # The loop has ended, and with it the tasks that waited there. Others must not wait behind them.
        waiter.cancel()


def _set(woken: Any) -> None:
    if not woken.done():
        woken.set_result(None)
