"""LiteLLM's proxy, in which turnout picks.

A line of its config is enough::

    litellm_settings:
      callbacks: ["turnout.integrations.litellm.proxy.hook"]

LiteLLM filters the deployments of a model as before: those that cool down, those without the tags. Of the
rest turnout picks one and holds a lease of it, which ends with the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnout._core import Router
from turnout._signals import let_through
from turnout.integrations.litellm.hooks import Hooks
from turnout.integrations.litellm.picks import Picks, of_order, settings_of

__all__ = ["Hook", "hook"]


class Hook(Hooks):
    """The callback that picks.

    A proxy that is to have a turnout router of its own needs a module beside its config::

        import turnout
        from turnout.integrations.litellm.proxy import Hook

        hook = Hook(turnout.Router.from_config("/etc/turnout.yaml"))

    Args:
        turnout_router: The turnout router. The ids of its deployments are those of the proxy
            (``model_info.id``). None makes one from the proxy's deployments and settings at the first
            request, and follows the changes of the deployments.
    """

    def __init__(self, turnout_router: Router | None = None) -> None:
        super().__init__()
        self._given = turnout_router
        self._picks: Picks | None = None

    @property
    def turnout_router(self) -> Router | None:
        """The turnout router, with the deployments that the proxy has now; None before there is one."""
        host = _host()
        return self._given if host is None else self._picks_of(host).router(host)

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[Any]:
        """Pick one of the deployments that LiteLLM has found fit.

        Args:
            model: The name that was asked for.
            healthy_deployments: The deployments.
            messages: The messages of the request.
            request_kwargs: The request's arguments.
            parent_otel_span: Not used.

        Returns:
            The one; all of them if turnout knows none, or if the request is for all.

        Raises:
            Refused: None of them may take the request now.
        """
        self.pending.drop()
        host = _host()
        if host is None or not healthy_deployments:
            return healthy_deployments
        request: Mapping[str, Any] = {"messages": messages, **(request_kwargs or {})}
        if "file" in request and "purpose" in request:
            return healthy_deployments  # an upload goes to all of them
        picks = self._picks_of(host)
        fit = await _fit(host, model, healthy_deployments, request)
        ids = [entry["model_info"]["id"] for entry in of_order(fit, request)]
        if not picks.knows(host, ids):
            return healthy_deployments
        lease = picks.among(host, ids, request, model)
        self.pending.put(lease)
        return [entry for entry in healthy_deployments if entry["model_info"]["id"] == lease.deployment_id]

    def _picks_of(self, host: Any) -> Picks:
        if self._picks is None:
            self._picks = Picks(self._given, settings_of(host))
        return self._picks


async def _fit(host: Any, model: str, found: list[Any], request: Mapping[str, Any]) -> list[Any]:
    """Narrows as LiteLLM does after this filter. Otherwise it might drop the one that is picked."""
    try:
        from litellm.litellm_core_utils.core_helpers import get_metadata_variable_name_from_kwargs
        from litellm.router_api import RoutingContext
        from litellm.router_strategy.tag_based_routing import get_deployments_for_tag

        context, asked = RoutingContext(host), dict(request)
        kept: Any = found
        if host.settings().enable_pre_call_checks:
            kept = context.pre_call_checks(model, list(found), asked.get("messages"), asked.get("input"), asked)
        kept = await get_deployments_for_tag(
            ctx=context,
            model=model,
            healthy_deployments=list(kept),
            request_kwargs=asked,
            metadata_variable_name=get_metadata_variable_name_from_kwargs(asked),
            request_deployments=found,
        )
        return list(kept) or found
    except Exception as error:
        let_through(error)
        return found  # LiteLLM meets the same, and says so itself


def _host() -> Any:
    """Returns the Router of the proxy; None before it has one."""
    from litellm.proxy import proxy_server  # it loads this module while it starts

    return proxy_server.llm_router


hook = Hook()
"""For the config of a proxy."""
