"""What a program of LiteLLM's Router counts on when another import is all that changes."""

import asyncio
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from turnout.testing import Provider

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")

from hosting import MESSAGES, entry
from turnout.integrations.litellm import Router

pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in ("UserWarning", "DeprecationWarning")]  # litellm's


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def called(router: Router, is_async: bool, name: str = "completion", **keywords: Any) -> Any:
    keywords = {"model": "m", **({"messages": MESSAGES} if name == "completion" else {}), **keywords}
    if not is_async:
        return getattr(router, name)(**keywords)
    return asyncio.run(getattr(router, f"a{name}")(**keywords))


both = pytest.mark.parametrize("is_async", [False, True])


# --- what the provider gets ---


@both
def test_the_metadata_of_a_response_are_the_callers_alone(provider: Provider, is_async: bool) -> None:
    router = Router([entry(provider, "a")])
    called(router, is_async, "responses", input="hi")
    called(router, is_async, "responses", input="hi", metadata={"user": "u1"})
    assert [request.json.get("metadata") for request in provider.requests] == [None, {"user": "u1"}]
