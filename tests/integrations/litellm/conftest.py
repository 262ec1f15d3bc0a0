"""LiteLLM's Router without what it does beside requests."""

import os

# It would look for prices on the network.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
