"""A plugin with which turnout picks in a Router of LiteLLM that exists already."""

from __future__ import annotations

from typing import Any

import litellm

from turnout._core import Router
from turnout.integrations.litellm.hooks import Hooks
from turnout.integrations.litellm.picks import Picks, settings_of
from turnout.integrations.litellm.strategy import Strategy

__all__ = ["Plugin"]

_hooks = Hooks()


class Plugin(Strategy):
    """Picks for a Router of LiteLLM.

    It is registered there::

        router = litellm.Router(model_list=…)
        router.register_plugin(Plugin(router))

    LiteLLM goes on to do all else: retries, fallbacks, timeouts, caches, logging. Leases end by what LiteLLM
    tells its callbacks. So the end of a stream is known a moment after its last part, and a stream that was
    dropped when it is collected. :func:`turnout.integrations.litellm.host.routed` makes a Router that knows
    both at once.

    Args:
        router: LiteLLM's Router.
        turnout_router: The turnout router. The ids of its deployments are those of LiteLLM
            (``model_info.id``). None makes one from the deployments of LiteLLM's Router, and follows their
            changes.

    Raises:
        ConfigurationError: turnout cannot route these deployments.
    """

    def __init__(self, router: litellm.Router, *, turnout_router: Router | None = None) -> None:
        super().__init__(router, Picks(turnout_router, settings_of(router)), _hooks.pending)
        self.turnout_router  # noqa: B018 # what is wrong shows here, and not at the first request

    @property
    def turnout_router(self) -> Router:
        """The turnout router, with the deployments that LiteLLM's Router has now."""
        return self._picks.router(self._host())

    def pick(self, model: str, request: dict[str, Any]) -> Any:
        """Pick a deployment for one attempt, and see to it that LiteLLM tells of the attempt."""
        if _hooks not in litellm.callbacks:
            # Programs replace the whole list at times.
            litellm.logging_callback_manager.add_litellm_callback(_hooks)
        return super().pick(model, request)
