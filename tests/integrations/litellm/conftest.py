"""LiteLLM's Router without what it does beside requests."""

import gc
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator

import pytest
from turnout.testing import Provider

# It would look for prices on the network.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def pytest_configure(config: pytest.Config) -> None:
    if importlib.util.find_spec("litellm") is not None:
        # It leaves connections open, which are collected at any time.
        config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module", autouse=True)
def _connections_of_litellm() -> Iterator[None]:
    """LiteLLM keeps clients of loops that are over. They are collected here, and not heard."""
    yield
    litellm = sys.modules.get("litellm")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed", ResourceWarning)
        if litellm is not None:
            litellm.in_memory_llm_clients_cache.flush_cache()
        for _ in range(5):  # what one round finalizes, a later one frees
            gc.collect()
