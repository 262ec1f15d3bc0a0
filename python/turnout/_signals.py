"""Lets the handlers of signals run, and tells which exceptions come from one.

A handler runs between two steps of the main thread. An exception that it raises, such as
``KeyboardInterrupt`` or the soft time limit of a task queue, is meant for the program. So code that catches
the exceptions of a stranger's object must let it through.
"""

import sys
from types import CodeType, TracebackType
from typing import Any

__all__: list[str] = []


def pause() -> None:
    """Do nothing. Where it begins, the interpreter lets other threads and the handlers of signals run."""


def is_interruption(error: BaseException, trace: TracebackType | None) -> bool:
    """Tell whether an exception is meant for the program.

    Args:
        error: The exception, as it was caught.
        trace: Its traceback. Before CPython 3.12 an exception that native code has caught does not have it.

    Returns:
        True if it is a ``KeyboardInterrupt``, or if the code of a signal's handler has raised it.
    """
    if isinstance(error, KeyboardInterrupt):
        return True  # Python's own handler is a function in C, which leaves no trace
    # A program that has not imported it has set no handler.
    signal = sys.modules.get("signal")
    if signal is None:
        return False
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def let_through(error: Exception) -> None:
    """Raise an exception again if it is meant for the program.

    Args:
        error: The exception, as it was caught.

    Raises:
        Exception: It is an interruption.
    """
    trace = error.__traceback__
    # Most exceptions, such as a KeyError, are raised by the very frame that caught them. Those of a handler
    # never are.
    if trace is not None and trace.tb_next is not None and is_interruption(error, trace):
        raise error


def _code(handler: Any) -> CodeType | None:
    """The code that runs when a handler is called: of a function, a method, a partial or another callable."""
    for _ in range(8):  # partials of partials
        handler = getattr(handler, "func", handler)
        handler = getattr(handler, "__func__", handler)
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            return code
        if not callable(handler):
            return None
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - its code is wanted
    return None
