"""LiteLLM: turnout in the place of its Router, in its Router, and in its proxy."""

from turnout.integrations.litellm.router import Router as Router

__all__ = ["Router"]
