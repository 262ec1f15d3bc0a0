"""LiteLLM: turnout in LiteLLM's Router and in its proxy."""
