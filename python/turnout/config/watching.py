"""Takes the changes of a config over into a running router."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

import turnout.logs  # noqa: F401 - without it the logger is not quiet by default
from turnout.exceptions import ConfigurationError

if TYPE_CHECKING:
    from turnout._core import Router

__all__ = ["watch"]

_log = logging.getLogger("turnout.config")


def watch(
    router: Router, path: str | Path, *, interval: float = 2.0, on_error: Callable[[Exception], object] | None = None
) -> Callable[[], None]:
    """Reload a config whenever its file changes, in a thread of its own.

    The file is known by its content, so that a link that turns to another file counts: Kubernetes does so
    with mounted maps. A change that is wrong changes nothing.

    Args:
        router: The router. It is not kept alive: the thread ends with it.
        path: The file.
        interval: Seconds between two looks, at least 0.01.
        on_error: Is told why a change was not taken over; None to log it.

    Returns:
        A function that ends the watch.

    Raises:
        ConfigurationError: ``interval`` is out of range.
        TypeError: A value is of the wrong type.
    """
    if isinstance(interval, bool) or not isinstance(interval, (int, float)):
        raise TypeError(f"interval must be a number of seconds, not {interval!r} ({type(interval).__name__})")
    if not 0.01 <= interval <= threading.TIMEOUT_MAX:
        raise ConfigurationError(f"interval must be from 0.01 to {threading.TIMEOUT_MAX:.0f} seconds, not {interval!r}")
    ended, weak, file = threading.Event(), ref(router), Path(path)
    seen = _content(file)

    def look() -> None:
        nonlocal seen
        while not ended.wait(interval) and weak() is not None:
            now = _content(file)
            if now is not None and now != seen:
                seen = now
                _take_over(weak(), file, on_error)

    thread = threading.Thread(target=look, name="turnout-config", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        if thread is not threading.current_thread():
            thread.join()

    return end


def _take_over(router: Router | None, file: Path, on_error: Callable[[Exception], object] | None) -> None:
    if router is None:
        return
    try:
        router.reload(file)
    except Exception as error:
        try:
            if on_error is None:
                _log.error("the config %s was not taken over: %s", file, error)
            else:
                on_error(error)
        except Exception:
            _log.exception("what was to be told of the config %s failed", file)
    else:
        _log.info("the config %s was taken over", file)


def _content(file: Path) -> bytes | None:
    """Returns what stands for the content of a file; None while there is none."""
    with suppress(OSError):
        return hashlib.sha256(file.read_bytes()).digest()
    return None
