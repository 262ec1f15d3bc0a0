"""What a program of LiteLLM's Router counts on when another import is all that changes."""

import asyncio
import gc
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from turnout.testing import Provider, Reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")
    import openai

from hosting import MESSAGES, counted, entry, in_flight
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


# --- streams ---


def read(router: Router, is_async: bool, parts: list[Any] | None = None) -> list[Any]:
    """Reads a stream to its end, or up to its failure."""
    parts = [] if parts is None else parts

    async def read_async() -> None:
        async for part in await router.acompletion("m", MESSAGES, stream=True):
            parts.append(part)

    if is_async:
        asyncio.run(read_async())
    else:
        parts.extend(part for part in router.completion("m", MESSAGES, stream=True))
    return parts


def text_of(parts: list[Any]) -> str:
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


@both
@pytest.mark.parametrize("reply", [Reply.text("no").fail(after=0, status=529), Reply.text("no").drop(after="head")])
def test_a_stream_that_fails_before_its_first_event_is_tried_elsewhere(provider: Provider, is_async: bool, reply: Reply) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b")], num_retries=1)
    provider.script(reply)
    provider.always(Reply.text("one two"))
    assert text_of(read(router, is_async)) == "one two"
    assert counted(router.turnout) == (2, 1, 1)
    assert in_flight(router.turnout) == 0


@both
@pytest.mark.parametrize(
    "reply", [Reply.text("one two three").drop(after=2), Reply.text("one two three").fail(after=2, status=429)]
)
def test_a_stream_that_breaks_raises_what_litellms_router_raises(provider: Provider, is_async: bool, reply: Reply) -> None:
    raised = []
    routers = [made(model_list=[entry(provider, "a")], num_retries=0) for made in (litellm.Router, Router)]
    for router in routers:
        provider.script(reply)
        with pytest.raises(openai.OpenAIError) as found:
            read(router, is_async)
        raised.append(type(found.value).__name__)
    assert raised[0] == raised[1] != "MidStreamFallbackError"
    assert in_flight(routers[1].turnout) == 0
    assert counted(routers[1].turnout) == (1, 0, 1)


def test_a_stream_that_is_left_at_its_last_part_is_a_success(provider: Provider) -> None:
    router = Router([entry(provider, "a")])
    stream = router.completion("m", MESSAGES, stream=True, mock_response="one two")
    while next(stream).choices[0].finish_reason is None:
        pass
    del stream
    deadline = time.monotonic() + 20
    while in_flight(router.turnout):  # a thread of LiteLLM's may still have it
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.001)
    assert counted(router.turnout) == (1, 1, 0)
