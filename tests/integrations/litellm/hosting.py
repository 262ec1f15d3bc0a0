"""What the tests of turnout inside of LiteLLM share."""

import asyncio
import gc
from typing import Any

import pytest
from turnout import Router
from turnout.testing import Provider

# The warnings of LiteLLM are not heard. A lease that is lost is: pytest tells of that by a UserWarning too.
QUIET = pytest.mark.filterwarnings(
    "ignore::UserWarning",
    "ignore::DeprecationWarning",
    "ignore:unclosed:ResourceWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
    "error::pytest.PytestUnraisableExceptionWarning",
)
MESSAGES = [{"role": "user", "content": "hi"}]


def entry(provider: Provider, id_: str, name: str = "m", **params: Any) -> dict[str, Any]:
    """An entry of a model list, at the provider."""
    params = {"model": "openai/gpt-4o", "api_base": provider.base_url, "api_key": "sk-any", "max_retries": 0, **params}
    return {"model_name": name, "litellm_params": params, "model_info": {"id": id_}}


def in_flight(router: Router) -> int:
    return router.metrics().in_flight


def counted(router: Router) -> tuple[int, int, int]:
    """How many requests were admitted, how many succeeded, and how many failed."""
    metrics = router.metrics()
    return metrics.total_requests, metrics.total_successes, metrics.total_failures


async def nothing_in_flight(router: Router) -> None:
    """Waits until all that was dropped is collected. Async generators are closed by the event loop, later."""
    deadline = asyncio.get_running_loop().time() + 20
    while in_flight(router):
        assert asyncio.get_running_loop().time() < deadline, router.snapshot()
        gc.collect()
        await asyncio.sleep(0.001)
