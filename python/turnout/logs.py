"""Logging: a router's events and attempts as lines of a log.

All loggers of the package are ``turnout`` or below it. They are quiet unless the application configures them:
without a handler, not even warnings reach the standard error.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from turnout.enums import EventKind

if TYPE_CHECKING:
    from turnout.execution.record import AttemptRecord
    from turnout.records import Event
    from turnout.router import Router

__all__ = ["log_attempts", "log_events"]

_log = logging.getLogger("turnout")
_log.addHandler(logging.NullHandler())

_LEVELS = {
    EventKind.COOLDOWN: logging.WARNING,
    EventKind.RECOVERY: logging.INFO,
    EventKind.PANIC: logging.WARNING,
    EventKind.PANIC_OVER: logging.INFO,
    EventKind.LIMIT_LEARNT: logging.DEBUG,
    EventKind.STORE_LOST: logging.WARNING,
    EventKind.STORE_BACK: logging.INFO,
}


def log_events(router: "Router", logger: logging.Logger = _log) -> Callable[[], None]:
    """Log the events of a router.

    A cooldown and the begin of a panic are warnings. A recovery and the end of a panic are of level INFO. A
    limit that was learnt is of level DEBUG. A shared store that does not answer is a warning, and its return
    is of level INFO. The record has the event as its attribute ``turnout_event``.

    Args:
        router: The router. It is not kept alive.
        logger: Where to log; the logger ``turnout`` by default.

    Returns:
        A function that ends that.

    Raises:
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout import Deployment, Router
        >>> from turnout.logs import log_events
        >>> router = Router([Deployment("eu", "gpt-4o")])
        >>> end = log_events(router)
    """
    _check(logger)

    def log(event: "Event") -> None:
        whose = "" if event.deployment_id is None else f"deployment {event.deployment_id!r} of "
        logger.log(
            _LEVELS[event.kind],
            "%s%s: %s: %s",
            whose,
            f"group {event.model_name!r}" if event.model_name else "router",
            event.kind,
            event.detail,
            extra={"turnout_event": event},
        )

    return router.subscribe(log)


def log_attempts(router: "Router", logger: logging.Logger = _log) -> Callable[[], None]:
    """Log the attempts of whole requests: of :meth:`turnout.Router.call` and its like, and of the clients.

    A failed attempt is of level INFO, since another one may follow. A success is of level DEBUG. The record
    has the attempt as its attribute ``turnout_attempt``. Nothing of a request or of an answer is in it.

    Args:
        router: The router. It is not kept alive.
        logger: Where to log; the logger ``turnout`` by default.

    Returns:
        A function that ends that. The end of the router's ``with`` block does so too.

    Raises:
        TypeError: A value is of the wrong type.
    """
    _check(logger)

    def log(record: "AttemptRecord") -> None:
        level = logging.DEBUG if record.kind is None else logging.INFO
        logger.log(level, "attempt of %r: %s", record.model_name, record, extra={"turnout_attempt": record})

    return router.on_attempt(log)


def _check(logger: object) -> None:
    if not isinstance(logger, logging.Logger):
        raise TypeError(f"logger must be a logging.Logger, not {logger!r} ({type(logger).__name__})")
