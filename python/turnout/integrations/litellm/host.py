"""LiteLLM's own Router, in which turnout picks for every attempt and holds an exact lease.

LiteLLM's Router reaches the provider through a host. The one here is LiteLLM's, and ends a lease where the
attempt ends: by its answer, its exception, its cancellation, or the end of its stream.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import Any

import litellm
from litellm.router import router_arguments
from litellm.router_config import build_router_config
from litellm.router_python_host import PythonHost

from turnout._core import Lease, Router
from turnout.integrations.litellm.leases import deployment_id, fail, follow
from turnout.integrations.litellm.pending import Pending
from turnout.integrations.litellm.picks import Picks
from turnout.integrations.litellm.strategy import Strategy

__all__ = ["routed", "turnout_of"]


def routed(*args: Any, turnout_router: Router | None = None, **kwargs: Any) -> litellm.Router:
    """Make a Router of LiteLLM in which turnout picks.

    LiteLLM goes on to do all else: retries, fallbacks, timeouts, caches, logging. Its own choice is not
    asked: its strategies, its cooldowns and its ``order``. turnout has those. A deployment that failed in a
    call is tried again only if no other one may be.

    Args:
        *args: As for ``litellm.Router``.
        turnout_router: The turnout router. The ids of its deployments are those of LiteLLM
            (``model_info.id``). None makes one from the arguments, as :meth:`turnout.Router.from_config`
            does, and follows the deployments that LiteLLM's Router gets later.
        **kwargs: As for ``litellm.Router``.

    Returns:
        The Router. :func:`turnout_of` tells what turnout counts.

    Raises:
        ConfigurationError: turnout cannot route these deployments.
        TypeError: LiteLLM's Router has no such argument.
    """
    arguments = router_arguments(*args, **kwargs)
    picks = Picks(turnout_router, arguments)
    pending = Pending()
    router = litellm.Router.from_config(build_router_config(arguments), host=_Host(pending))
    router.register_plugin(Strategy(router, picks, pending))
    picks.router(router)  # what is wrong shows here, and not at the first request
    _routers[router] = picks
    return router


def turnout_of(router: litellm.Router) -> Router:
    """Return the turnout router that picks in a Router of LiteLLM.

    Args:
        router: What :func:`routed` returned.

    Returns:
        The turnout router.

    Raises:
        LookupError: :func:`routed` has not made this Router.
    """
    picks = _routers.get(router)
    if picks is None:
        raise LookupError("turnout does not pick in this Router: make it by turnout.integrations.litellm.host.routed")
    return picks.router(router)


_routers: weakref.WeakKeyDictionary[litellm.Router, Picks] = weakref.WeakKeyDictionary()


class _Host(PythonHost):  # type: ignore[misc]
    """LiteLLM's host, whose endpoints hold the lease of their attempt."""

    __slots__ = ("_pending",)

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def invoke(self, op: str) -> Any:
        """Return a function of litellm."""
        return _leased(super().invoke(op), self._pending)


def _leased(endpoint: Any, pending: Pending) -> Any:
    """Returns an endpoint that ends the lease of its attempt. Calls that are no attempt have none."""

    @functools.wraps(endpoint)
    async def called_async(*args: Any, **kwargs: Any) -> Any:
        lease = pending.take(deployment_id(kwargs))
        if lease is None:
            return await endpoint(*args, **kwargs)
        return await _awaited(lease, endpoint(*args, **kwargs))

    @functools.wraps(endpoint)
    def called(*args: Any, **kwargs: Any) -> Any:
        lease = pending.take(deployment_id(kwargs))
        if lease is None:
            return endpoint(*args, **kwargs)
        try:
            answer = endpoint(*args, **kwargs)
            return _awaited(lease, answer) if inspect.isawaitable(answer) else follow(lease, answer)
        except BaseException as error:
            fail(lease, error)
            raise

    return called_async if inspect.iscoroutinefunction(endpoint) else called


async def _awaited(lease: Lease, answer: Any) -> Any:
    try:
        return follow(lease, await answer)
    except BaseException as error:
        fail(lease, error)
        raise
