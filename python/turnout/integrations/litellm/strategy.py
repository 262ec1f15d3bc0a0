"""What LiteLLM's Router asks for a deployment, where turnout picks."""

from __future__ import annotations

import weakref
from typing import Any

import litellm
from litellm.types.router import CustomRoutingStrategyBase

from turnout.integrations.litellm.pending import Pending
from turnout.integrations.litellm.picks import Picks

__all__ = ["Strategy"]


class Strategy(CustomRoutingStrategyBase):  # type: ignore[misc]
    """Answers LiteLLM's Router when it asks for a deployment.

    Args:
        host: LiteLLM's Router. It keeps this object, and is not kept by it.
        picks: What picks.
        pending: Where leases wait for their attempts.
    """

    def __init__(self, host: litellm.Router, picks: Picks, pending: Pending) -> None:
        self._host = weakref.ref(host)
        self._picks = picks
        self._pending = pending

    def pick(self, model: str, request: dict[str, Any]) -> Any:
        """Pick a deployment for one attempt.

        Args:
            model: The name that was asked for.
            request: The request's arguments.

        Returns:
            The deployment, as LiteLLM's Router takes it.

        Raises:
            Refused: No deployment may take it now.
            BadRequestError: No deployment serves the name.
        """
        self._pending.drop()
        lease, deployment = self._picks.named(self._host(), model, request)
        self._pending.put(lease)
        return deployment

    async def async_get_available_deployment(
        self,
        model: str,
        messages: Any = None,
        input: Any = None,  # noqa: A002 # LiteLLM's name
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Pick a deployment for one attempt that is awaited."""
        return self.pick(model, {"messages": messages, "input": input, **(request_kwargs or {})})

    def get_available_deployment(
        self,
        model: str,
        messages: Any = None,
        input: Any = None,  # noqa: A002 # LiteLLM's name
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Pick a deployment for one attempt in plain code."""
        return self.pick(model, {"messages": messages, "input": input, **(request_kwargs or {})})
