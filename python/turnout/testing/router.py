"""A router that never sleeps."""

from collections.abc import Iterable
from typing import Any

from turnout._core import Deployment, ManualClock, Router

__all__ = ["sleepless_router"]


def sleepless_router(deployments: Iterable[Deployment] = (), **options: Any) -> Router:
    """Make a router for tests, which never sleeps and always does the same.

    It has a clock that is moved by hand, and a seed. A pause of a call, and its wait for a cooldown or a
    limit, move that clock instead of taking time. Where nobody knows when a deployment becomes available, a
    call is refused. :meth:`turnout.Router.acquire` with a timeout is no call: it waits until the clock is
    moved.

    Args:
        deployments: As for :class:`turnout.Router`.
        **options: As for :class:`turnout.Router`. ``clock`` and ``seed`` may be given too.

    Returns:
        The router.

    Example:
        >>> from turnout import Deployment, ManualClock
        >>> from turnout.testing import sleepless_router
        >>> clock = ManualClock()
        >>> router = sleepless_router([Deployment("a", "m")], clock=clock)
        >>> router.cool_down("a", 20.0)
        >>> router.call("m", lambda lease: f"served after {clock.now():.0f} s")
        'served after 20 s'
    """
    options.setdefault("clock", ManualClock())
    options.setdefault("seed", 0)
    return Router(deployments, **options)
