"""The thread that carries the talk between a router and its shared store.

The core decides what to say, and when. The store is the user's: its client may block. So one daemon thread a
router asks it, and no pick waits for it. The thread is started when a request first lacks something. So
importing, making a router and forking before that are safe. A forked child starts a thread of its own.
"""

import atexit
import contextlib
import logging
import os
import threading
import weakref
from typing import Any

from turnout._core import _Batch, _Desk

__all__ = ["Carrier"]

_log = logging.getLogger("turnout")

# The pauses after a store that did not answer, in seconds.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0

_carriers: "weakref.WeakSet[Carrier]" = weakref.WeakSet()


class Carrier:
    """Carries the talk of one router with its store."""

    def __init__(self, desk: _Desk, store: Any) -> None:
        self._desk = desk
        self._store = store
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        _carriers.add(self)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if self._thread is not None and self._thread.is_alive():
                return
            self._desk.open()
            self._thread = threading.Thread(target=_carry, args=(self._desk, self._store), name="turnout-shared", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Give everything back to the store, but for the places of requests in flight. A later request that
        lacks something asks for it again.
        """
        thread = self._thread
        if thread is not None:
            # The thread may be amid an exchange: it gives back when that has ended.
            self._desk.close()
            thread.join(timeout=1.0)

    def forget(self) -> None:
        """Forget the thread, in a forked child: it is the parent's, and so is the lock."""
        self._thread = None
        self._starting = threading.Lock()


def _carry(desk: _Desk, store: Any) -> None:
    stop = _listen(desk, store)
    look = getattr(store, "news", None)
    known, pause = None, 0.0
    try:
        while not desk.is_closed:
            if look is not None:
                with contextlib.suppress(Exception):
                    news = look()
                    if news != known:
                        known = news
                        desk.hear_news()
            batch = desk.batch()
            if batch is not None:
                if _exchange(desk, store, batch):
                    pause = 0.0
                    continue
                desk.fend()
                pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                desk.sleep(pause)
                continue
            if pause:
                desk.fend()
            desk.rest(look is not None)
        farewell = desk.farewell()
        if farewell is not None:
            _exchange(desk, store, farewell)
    finally:
        if stop is not None:
            stop()


def _listen(desk: _Desk, store: Any) -> Any:
    """Let the store call when it has news, if it can."""
    listen = getattr(store, "listen", None)
    if listen is None:
        return None

    def wake(owner: object = None) -> None:
        desk.hear_news()
        desk.ring()

    with contextlib.suppress(Exception):
        return listen(wake)
    return None


def _exchange(desk: _Desk, store: Any, batch: _Batch) -> bool:
    """Let the store answer a batch. Return whether it did."""
    try:
        desk.take(batch, store.exchange(batch.messages))
    except Exception as error:
        # The core tells of it once, by an event. Whatever the store raised, it has not answered.
        _log.debug("the shared store did not answer: %s", type(error).__name__)
        desk.lose(batch)
        return False
    return True


@atexit.register
def _close_all() -> None:
    for carrier in list(_carriers):
        carrier.close()


def _forget_all() -> None:
    for carrier in list(_carriers):
        carrier.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
