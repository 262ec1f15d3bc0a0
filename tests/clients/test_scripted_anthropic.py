"""Anthropic's client reads the answers and errors of turnout.testing's provider."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from turnout.testing import Provider, Reply

anthropic = pytest.importorskip("anthropic", reason="the client libraries are in an environment of their own: make test-clients")

# Their own warnings are their own affair.
pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = "one two three"
ASK: Any = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def client(provider: Provider) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=provider.url, api_key="any", max_retries=0, timeout=5.0) as client:
        yield client


def test_a_message(provider: Provider, client: Any) -> None:
    provider.script(Reply.text(WORDS, input_tokens=50, output_tokens=7, cached_tokens=20, finish_reason="length"))
    message = client.messages.create(**ASK)
    assert (message.model, message.content[0].text, message.stop_reason) == ("claude", WORDS, "max_tokens")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (30, 20, 7)
    assert message._request_id == "req_scripted"
    assert provider.requests[0].path == "/v1/messages"


def test_a_stream(provider: Provider, client: Any) -> None:
    provider.always(Reply.text(WORDS, input_tokens=50, output_tokens=7).encode(chunk_size=1, line_end="\r\n"))
    kinds = [event.type for event in client.messages.create(**ASK, stream=True)]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    with client.messages.stream(**ASK) as stream:
        message = stream.get_final_message()
    assert (message.content[0].text, message.stop_reason) == (WORDS, "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (50, 7)


def test_calls_of_tools(provider: Provider, client: Any) -> None:
    provider.always(Reply.tool_call("weather", {"place": "Bern"}))
    with client.messages.stream(**ASK) as stream:
        streamed = stream.get_final_message()
    for message in (client.messages.create(**ASK), streamed):
        assert (message.stop_reason, message.content[0].name, message.content[0].input) == (
            "tool_use",
            "weather",
            {"place": "Bern"},
        )


def test_tokens_and_models(provider: Provider, client: Any) -> None:
    if hasattr(client.messages, "count_tokens"):  # not in the oldest version
        assert client.messages.count_tokens(model="claude", messages=ASK["messages"]).input_tokens == 12
    if hasattr(client, "models"):
        assert [model.id for model in client.models.list()] == ["scripted-model"]
        assert client.models.retrieve("claude").id == "claude"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "name"),
    [
        (400, "invalid_request_error", "BadRequestError"),
        (401, "authentication_error", "AuthenticationError"),
        (403, "permission_error", "PermissionDeniedError"),
        (404, "not_found_error", "NotFoundError"),
        (413, "request_too_large", "APIStatusError"),
        (429, "rate_limit_error", "RateLimitError"),
        (500, "api_error", "InternalServerError"),
        (529, "overloaded_error", "InternalServerError"),
    ],
)
def test_statuses(provider: Provider, client: Any, status: int, kind: str, name: str, streamed: bool) -> None:
    provider.script(Reply.error(status, retry_after=3))
    with pytest.raises(getattr(anthropic, name)) as raised:
        client.messages.create(**ASK, stream=streamed)
    assert raised.value.status_code == status
    assert raised.value.body["type"] == "error"
    assert raised.value.body["error"]["type"] == kind
    assert raised.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("context_length_exceeded", "prompt is too long"),
        ("content_filter", "content filtering policy"),
        ("insufficient_quota", "credit balance is too low"),
    ],
)
def test_codes(provider: Provider, client: Any, code: str, words: str) -> None:
    provider.script(Reply.error(400, code=code))
    with pytest.raises(anthropic.BadRequestError, match=words):
        client.messages.create(**ASK)


def test_an_unknown_path(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.get("/v1/files", cast_to=object)
    assert raised.value.body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(("after", "seen"), [(0, 0), (5, 4)])
def test_streams_that_fail(provider: Provider, client: Any, after: int, seen: int) -> None:
    """A ping is an event too, but this client hides it."""
    provider.script(Reply.text(WORDS).fail(after=after, status=529))
    stream = client.messages.create(**ASK, stream=True)
    for _ in range(seen):
        next(stream)
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        next(stream)


def test_streams_that_are_cut(provider: Provider, client: Any) -> None:
    provider.script(Reply.text(WORDS).truncate())
    kinds = [event.type for event in client.messages.create(**ASK, stream=True)]
    assert (kinds.count("content_block_delta"), kinds[-1]) == (3, "content_block_stop")


@pytest.mark.parametrize("after", ["request", "head", 4])
def test_connections_that_drop_and_answers_that_hang(provider: Provider, client: Any, after: str | int) -> None:
    # An error in the middle of a stream comes from the HTTP client in some versions.
    for reply in (Reply.text(WORDS).drop(after=after), Reply.text(WORDS).hang(after=after)):
        provider.script(reply)
        with pytest.raises(Exception, match=r".") as raised:
            list(client.messages.create(**ASK, stream=True, timeout=0.1))
        modules = {error.__module__.split(".")[0] for error in type(raised.value).__mro__}
        assert modules & {"anthropic", "httpx", "httpx2"}
    assert provider.requests[1].wait()
    assert [request.ending for request in provider.requests] == ["cut", "left"]


def test_pings_trickle(provider: Provider, client: Any) -> None:
    provider.always(Reply.text(WORDS).delay(first_event=1.2, trickle=0.02))
    assert len(list(client.messages.create(**ASK, stream=True, timeout=0.8))) == 8


def test_asyncio() -> None:
    async def main() -> None:
        async with (
            Provider() as provider,
            anthropic.AsyncAnthropic(base_url=provider.url, api_key="any", max_retries=0, timeout=5.0) as client,
        ):
            provider.script(Reply.text(WORDS), Reply.text(WORDS), Reply.error(429))
            assert (await client.messages.create(**ASK)).content[0].text == WORDS
            async with client.messages.stream(**ASK) as stream:
                assert await stream.get_final_text() == WORDS
            with pytest.raises(anthropic.RateLimitError):
                await client.messages.create(**ASK)

    asyncio.run(main())
