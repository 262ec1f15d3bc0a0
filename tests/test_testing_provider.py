"""The scripted provider of turnout.testing: real clients read its answers, and its errors at every stage."""

import asyncio
import contextlib
import errno
import gc
import gzip
import json
import logging
import random
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import trio
from turnout import ConfigurationError
from turnout.testing import Provider, ReceivedRequest, Reply
from turnout.testing._answers import Answer

HELLO: Any = [{"role": "user", "content": "hello"}]
WORDS = "one two three"
# Older versions of OpenAI's client let errors of httpx in the middle of a stream through.
BROKEN = (openai.APIConnectionError, httpx.TransportError)
SILENT = (openai.APITimeoutError, httpx.ReadTimeout)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.base_url, api_key="any", max_retries=0, timeout=5.0) as client:
        yield client


@pytest.fixture
def http(provider: Provider) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=provider.url, timeout=5.0) as http:
        yield http


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **fields}


def data_of(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def stream(client: openai.OpenAI, **options: Any) -> str:
    """Reads a stream of chat completions; returns its text."""
    chunks = client.chat.completions.create(model="m", messages=HELLO, stream=True, **options)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def whole(client: openai.OpenAI, **options: Any) -> str:
    """Reads a chat completion; returns its text."""
    return client.chat.completions.create(model="m", messages=HELLO, **options).choices[0].message.content or ""


def port_of(provider: Provider) -> int:
    return int(provider.url.rpartition(":")[2])


# --- good answers, read by OpenAI's client ---


def test_a_chat_completion(provider: Provider, client: openai.OpenAI) -> None:
    provider.script(Reply.text("hi", input_tokens=5, output_tokens=7, cached_tokens=2, finish_reason="length"))
    answer = client.chat.completions.create(model="gpt", messages=HELLO)
    assert (answer.model, answer.choices[0].message.content, answer.choices[0].finish_reason) == ("gpt", "hi", "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 7, 12)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer._request_id == "req_scripted"


def test_a_stream_tells_its_usage_only_if_asked(provider: Provider, client: openai.OpenAI) -> None:
    provider.always(Reply.text(WORDS, output_tokens=7))
    plain = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain) == WORDS
    assert [chunk.usage for chunk in plain] == [None] * len(plain)
    assert "usage" not in plain[0].model_fields_set
    asked = list(client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}))
    assert all("usage" in chunk.model_fields_set for chunk in asked)
    assert [chunk.usage for chunk in asked[:-1]] == [None] * len(plain)
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 7


def test_an_answer_without_usage(provider: Provider, client: openai.OpenAI) -> None:
    provider.always(Reply.text(usage=False))
    assert client.chat.completions.create(model="m", messages=HELLO).usage is None
    assert client.responses.create(model="m", input="hello").usage is None
    chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)


def test_calls_of_tools(provider: Provider, client: openai.OpenAI) -> None:
    provider.always(Reply.tool_call("weather", {"place": "Bern", "days": 2}))
    choice = client.chat.completions.create(model="m", messages=HELLO).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"place": "Bern", "days": 2})
    with client.chat.completions.stream(model="m", messages=HELLO) as chunks:
        streamed = chunks.get_final_completion().choices[0].message.tool_calls
    assert streamed is not None
    assert json.loads(streamed[0].function.arguments) == {"place": "Bern", "days": 2}
    item = client.responses.create(model="m", input="hello").output[0]
    assert item.type == "function_call"
    assert json.loads(item.arguments) == {"place": "Bern", "days": 2}
    with client.responses.stream(model="m", input="hello") as events:
        kinds = [event.type for event in events]
    assert "response.function_call_arguments.done" in kinds


def test_responses(provider: Provider, client: openai.OpenAI) -> None:
    provider.always(Reply.text(WORDS, input_tokens=5, output_tokens=7))
    answer = client.responses.create(model="m", input="hello")
    assert (answer.output_text, answer.status) == (WORDS, "completed")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (5, 7, 12)
    with client.responses.stream(model="m", input="hello") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert final.output_text == WORDS
    assert final.usage is not None
    assert final.usage.output_tokens == 7


@pytest.mark.parametrize(("reason", "detail"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_responses_that_stay_incomplete(provider: Provider, client: openai.OpenAI, reason: str, detail: str) -> None:
    provider.always(Reply.text(finish_reason=reason))
    answer = client.responses.create(model="m", input="hello")
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == detail
    assert [event.type for event in client.responses.create(model="m", input="hello", stream=True)][-1] == "response.incomplete"


def test_embeddings(provider: Provider, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="e", input=["a", "b", "c"], dimensions=4)
    assert [each.embedding for each in answer.data] == [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    assert answer.usage.total_tokens == 12
    assert provider.requests[0].json["encoding_format"] == "base64"
    assert len(client.embeddings.create(model="e", input=[1, 2, 3], encoding_format="float").data) == 1
    assert len(client.embeddings.create(model="e", input="a", encoding_format="float").data[0].embedding) == 8


def test_models(provider: Provider, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["scripted-model"]
    assert client.models.retrieve("gpt").id == "gpt"
    assert [request.method for request in provider.requests] == ["GET", "GET"]


def test_azure(provider: Provider) -> None:
    with openai.AzureOpenAI(azure_endpoint=provider.url, api_key="any", api_version="2024-10-21", max_retries=0) as client:
        assert client.chat.completions.create(model="deployed", messages=HELLO).choices[0].message.content == "All aboard."
        chunks = list(client.chat.completions.create(model="deployed", messages=HELLO, stream=True))
        assert chunks[0].choices == []  # as Azure does: it tells of the prompt
        assert len(client.embeddings.create(model="deployed", input="a").data) == 1
        assert client.responses.create(model="m", input="hello").output_text == "All aboard."
        provider.script(Reply.error(400, code="content_filter"))
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model="deployed", messages=HELLO)
    assert raised.value.code == "content_filter"
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    first = provider.requests[0]
    assert (first.path, first.query) == ("/openai/deployments/deployed/chat/completions", {"api-version": "2024-10-21"})
    assert first.model == "deployed"


def test_the_model_of_azures_path(provider: Provider, http: httpx.Client) -> None:
    http.post("/openai/deployments/my%20model/chat/completions", json={"messages": HELLO})
    assert provider.requests[0].model == "my model"


# --- errors that come as a status ---

STATUSES: list[tuple[int, type[openai.APIStatusError], str | None]] = [
    (400, openai.BadRequestError, None),
    (401, openai.AuthenticationError, "invalid_api_key"),
    (403, openai.PermissionDeniedError, None),
    (404, openai.NotFoundError, "model_not_found"),
    (409, openai.ConflictError, None),
    (418, openai.APIStatusError, None),
    (422, openai.UnprocessableEntityError, None),
    (429, openai.RateLimitError, "rate_limit_exceeded"),
    (500, openai.InternalServerError, None),
    (503, openai.InternalServerError, None),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("status", "kind", "code"), STATUSES)
def test_statuses(
    provider: Provider, client: openai.OpenAI, status: int, kind: type[openai.APIStatusError], code: str | None, streamed: bool
) -> None:
    provider.script(Reply.error(status))
    with pytest.raises(kind) as raised:
        client.chat.completions.create(model="m", messages=HELLO, stream=streamed)
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert isinstance(raised.value.body, dict)
    assert set(raised.value.body) == {"message", "type", "param", "code"}
    assert client.chat.completions.create(model="m", messages=HELLO).usage is not None
    assert provider.connections == 1  # an error does not cost the connection


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (400, "context_length_exceeded", "invalid_request_error", "maximum context length"),
        (400, "content_filter", "invalid_request_error", "content management policy"),
        (429, "insufficient_quota", "insufficient_quota", "exceeded your current quota"),
        (400, "something_else", "invalid_request_error", "invalid"),
    ],
)
def test_codes(provider: Provider, client: openai.OpenAI, status: int, code: str, kind: str, words: str) -> None:
    provider.script(Reply.error(status, code=code), Reply.error(status, code=code, error_type="t", message="words", param="p"))
    with pytest.raises(openai.APIStatusError, match=words) as raised:
        client.responses.create(model="m", input="hello")
    assert (raised.value.code, raised.value.type) == (code, kind)
    with pytest.raises(openai.APIStatusError) as raised:
        client.embeddings.create(model="m", input="hello")
    assert raised.value.body == {"message": "words", "type": "t", "param": "p", "code": code}


def test_headers(provider: Provider, client: openai.OpenAI) -> None:
    limits = {"x-ratelimit-remaining-requests": "0", "X-RateLimit-Reset-Requests": "1s"}
    provider.script(
        Reply.error(429, retry_after=2, retry_after_ms=1500.5, headers=limits),
        Reply.error(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
    )
    with pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(model="m", messages=HELLO)
    got = raised.value.response.headers
    assert (got["retry-after"], got["retry-after-ms"]) == ("2", "1500.5")
    assert (got["x-ratelimit-remaining-requests"], got["x-ratelimit-reset-requests"]) == ("0", "1s")
    with pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(model="m", messages=HELLO)
    assert raised.value.response.headers["retry-after"] == "Wed, 21 Oct 2026 07:28:00 GMT"
    provider.script(Reply.text("hi").with_headers({"x-a": "1"}).with_headers({"X-A": "2", "X-Request-Id": "mine"}))
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert (raw.headers["x-a"], raw.headers["x-request-id"]) == ("2", "mine")


def test_the_clients_own_retries(provider: Provider, client: openai.OpenAI) -> None:
    provider.script(Reply.error(500, retry_after_ms=1), Reply.text().drop(), Reply.text("at last"))
    answer = client.with_options(max_retries=2).chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "at last"
    assert [request.ending for request in provider.requests] == ["finished", "cut", "finished"]
    assert provider.unused == 0


# --- errors of the connection ---


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", ["request", "head", 0, 1])
def test_connections_that_drop(provider: Provider, client: openai.OpenAI, after: str | int, reset: bool) -> None:
    provider.script(Reply.text(WORDS).drop(after=after, reset=reset))
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="m", messages=HELLO)
    [request] = provider.requests
    assert request.wait()
    assert (request.ending, request.disconnected_at, request.finished) == ("cut", None, False)


@pytest.mark.parametrize(("after", "seen"), [("head", ""), (1, ""), (2, "one"), (3, "one two"), (1000, WORDS)])
def test_streams_that_drop(provider: Provider, client: openai.OpenAI, after: str | int, seen: str) -> None:
    """The chunks are those of the role, three words, the finish reason and [DONE]."""
    provider.script(Reply.text(WORDS).drop(after=after))
    with client.chat.completions.create(model="m", messages=HELLO, stream=True) as chunks:
        got, is_broken = "", False
        try:
            for chunk in chunks:
                got += chunk.choices[0].delta.content or ""
        except BROKEN:
            is_broken = True
    # Most versions of this client stop reading at [DONE].
    assert is_broken or after == 1000
    assert got == seen
    assert provider.requests[0].wait()
    assert provider.requests[0].events_sent == {"head": 0, 1000: 6}.get(after, after)
    provider.script(Reply.text(WORDS).drop(after=after))
    with httpx.Client() as http, pytest.raises(httpx.RemoteProtocolError):
        http.post(f"{provider.base_url}/chat/completions", json=body(stream=True))


def test_a_reset_is_one(provider: Provider, http: httpx.Client) -> None:
    provider.script(Reply.text().drop(reset=True))
    with pytest.raises(httpx.ReadError, match="reset"):
        http.post("/v1/chat/completions", json=body())


def test_errors_drop_too(provider: Provider, client: openai.OpenAI) -> None:
    provider.script(Reply.error(500).drop(after="head"))
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="m", messages=HELLO)


def test_nobody_listens(provider: Provider) -> None:
    for base_url in (provider.refused_url, provider.refused_url):
        with (
            openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client,
            pytest.raises(openai.APIConnectionError) as raised,
        ):
            client.models.list()
        assert type(raised.value.__cause__).__name__ == "ConnectError"


# --- answers that do not come ---


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("after", ["request", "head", 1, 3])
def test_answers_that_hang(provider: Provider, client: openai.OpenAI, after: str | int, streamed: bool) -> None:
    provider.script(Reply.text(WORDS).hang(after=after))
    ask: Callable[..., object] = stream if streamed else whole
    with pytest.raises(SILENT):
        ask(client, timeout=0.1)
    left = time.monotonic()
    [request] = provider.requests
    assert request.wait()
    assert request.ending == "left"
    assert request.disconnected_at is not None
    assert request.disconnected_at - left < 0.1
    assert request.disconnected_at - request.arrived_at >= 0.05


def test_that_a_client_left_is_noted_at_once(provider: Provider) -> None:
    provider.always(Reply.text().hang(after=1))
    late = []
    for number in range(20):
        with httpx.Client() as http:
            with http.stream("POST", f"{provider.base_url}/chat/completions", json=body(stream=True)) as answer:
                next(answer.iter_lines())
                time.sleep(random.Random(number).uniform(0.0, 0.005))
                left = time.monotonic()
            assert provider.requests[-1].wait()
            noted = provider.requests[-1].disconnected_at
            assert noted is not None
            late.append(noted - left)
    assert sorted(late)[10] < 0.01


@pytest.mark.parametrize("delay", [{"head": 60.0}, {"first_event": 60.0}, {"between": 60.0}])
def test_a_client_that_leaves_during_a_delay(provider: Provider, http: httpx.Client, delay: dict[str, float]) -> None:
    provider.script(Reply.text(WORDS).delay(**delay))
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=body(stream=True), timeout=0.05)
    assert provider.requests[0].wait()
    assert provider.requests[0].ending == "left"


def test_a_client_that_leaves_amid_a_long_body(provider: Provider, http: httpx.Client) -> None:
    provider.script(Reply.raw(b"x" * 50_000_000))
    with http.stream("GET", "/v1/models") as answer:
        assert answer.status_code == 200
        assert not provider.requests[0].wait(0.05)
    assert provider.requests[0].wait()
    assert provider.requests[0].ending == "left"


def test_delays(provider: Provider, http: httpx.Client) -> None:
    provider.script(
        Reply.text("hi").delay(head=0.05), Reply.text("hi").delay(first_event=0.05), Reply.text(WORDS).delay(between=0.02)
    )
    for streamed, least in ((False, 0.05), (False, 0.05), (True, 0.1)):
        began = time.monotonic()
        assert http.post("/v1/chat/completions", json=body(stream=streamed)).status_code == 200
        assert time.monotonic() - began >= least
    provider.script(Reply.text("hi").delay(first_event=0.1))
    began = time.monotonic()
    with http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        assert time.monotonic() - began < 0.1  # the head is there already
        answer.read()
    assert time.monotonic() - began >= 0.1


def test_comments_trickle(provider: Provider, client: openai.OpenAI, http: httpx.Client) -> None:
    slow = Reply.text(WORDS).delay(first_event=1.0, between=0.02, trickle=0.01)
    provider.always(slow)
    assert stream(client) == WORDS
    text = http.post("/v1/chat/completions", json=body(stream=True)).text
    assert text.startswith(": keep-alive\n\n: keep-alive\n\n")
    assert text.rindex(": keep-alive") > text.index("data: ")
    assert stream(client, timeout=0.8) == WORDS  # each comment begins the client's timeout anew
    # Without a stream these are empty lines.
    assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == WORDS
    assert http.post("/v1/chat/completions", json=body()).text.startswith("\n\n")


def test_what_trickles_hides_a_hang_from_timeouts(provider: Provider, http: httpx.Client) -> None:
    provider.always(Reply.text(WORDS).hang(after=2).delay(trickle=0.01))
    with http.stream("POST", "/v1/chat/completions", json=body(stream=True), timeout=0.5) as answer:
        lines = answer.iter_lines()
        until = time.monotonic() + 0.7
        seen = []
        while time.monotonic() < until:
            seen.append(next(lines))
    assert len([line for line in seen if line.startswith("data: ")]) == 2
    assert seen.count(": keep-alive") > 10
    assert provider.requests[0].wait()
    assert provider.requests[0].ending == "left"


# --- errors in the body ---


@pytest.mark.parametrize(("after", "seen"), [(0, ""), (3, "one two")])
def test_streams_that_fail(provider: Provider, client: openai.OpenAI, after: int, seen: str) -> None:
    provider.script(Reply.text(WORDS).fail(after=after, status=429, code="insufficient_quota"))
    chunks = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert "".join(next(chunks).choices[0].delta.content or "" for _ in range(after)) == seen
    with pytest.raises(openai.APIError, match="exceeded your current quota") as raised:
        next(chunks)
    assert not isinstance(raised.value, openai.APIStatusError | openai.APIConnectionError)
    assert raised.value.code == "insufficient_quota"
    assert provider.requests[0].ending == "cut"


def test_responses_that_fail(provider: Provider, client: openai.OpenAI, http: httpx.Client) -> None:
    provider.always(Reply.text(WORDS).fail(after=2, code="server_error", message="broken"))
    with pytest.raises(openai.APIError, match="broken"):
        list(client.responses.create(model="m", input="hello", stream=True))
    events = [json.loads(data) for data in data_of(http.post("/v1/responses", json=body(stream=True)).text)]
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "error", "response.failed"]
    assert [event["sequence_number"] for event in events] == [0, 1, 2, 3]
    answer = client.responses.create(model="m", input="hello")
    assert answer.status == "failed"
    assert answer.error is not None
    assert (answer.error.code, answer.error.message) == ("server_error", "broken")


def test_a_good_status_with_an_error_for_a_body(provider: Provider, http: httpx.Client) -> None:
    provider.script(Reply.text().fail(status=502, message="upstream"))
    answer = http.post("/v1/chat/completions", json=body())
    assert (answer.status_code, answer.json()["error"]["message"]) == (200, "upstream")


def test_streams_that_are_cut(provider: Provider, client: openai.OpenAI, http: httpx.Client) -> None:
    provider.always(Reply.text(WORDS).truncate())
    assert stream(client) == WORDS
    text = http.post("/v1/chat/completions", json=body(stream=True)).text
    assert "[DONE]" not in text
    assert '"finish_reason":"stop"' not in text
    assert provider.requests[-1].ending == "cut"
    kinds = [event.type for event in client.responses.create(model="m", input="hello", stream=True)]
    assert kinds[-1] == "response.output_item.done"
    provider.always(Reply.text(WORDS).truncate(after=0))
    assert stream(client) == ""
    provider.always(Reply.text(WORDS).truncate(after=2))
    assert stream(client) == "one"
    assert provider.connections <= 2  # the connections live on


def test_bodies_that_are_cut(provider: Provider, http: httpx.Client) -> None:
    provider.always(Reply.text(WORDS).truncate())
    answer = http.post("/v1/chat/completions", json=body())
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


# --- how the body is written ---


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings(provider: Provider, client: openai.OpenAI, streamed: bool, packed: bool, size: int | None, end: str) -> None:
    provider.script(Reply.text("Grüße, 世界 dort").encode(gzip=packed, chunk_size=size, line_end=end))
    if streamed:
        assert stream(client) == "Grüße, 世界 dort"
    else:
        assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == "Grüße, 世界 dort"
    assert provider.requests[0].wait()
    # OpenAI's client stops reading at [DONE], and what ends the compressed data comes behind that.
    assert provider.requests[0].finished or (streamed and packed and size)


def test_the_bytes_of_encodings(provider: Provider, http: httpx.Client) -> None:
    provider.script(
        Reply.text("hi").encode(gzip=True),
        Reply.error(500).encode(gzip=True),
        Reply.text("hi").encode(line_end="\r\n"),
        Reply.text("hi").encode(chunk_size=3),
    )
    for status in (200, 500):
        with http.stream("POST", "/v1/chat/completions", json=body()) as answer:
            raw = b"".join(answer.iter_raw())
        assert (answer.status_code, answer.headers["content-encoding"]) == (status, "gzip")
        assert json.loads(gzip.decompress(raw))
    text = http.post("/v1/chat/completions", json=body(stream=True)).content
    assert text.count(b"\r\n") == text.count(b"\n") > 4
    with http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        assert max(map(len, answer.iter_raw())) == 3


# --- other answers ---


def test_any_json_bytes_and_events(provider: Provider, http: httpx.Client) -> None:
    provider.script(
        Reply.json({"a": [1]}, status=202),
        Reply.raw(b"<html>", status=502),
        Reply.raw(b"", status=204),
        Reply.events({"a": 1}, "two\nlines", ("name", {"b": 2}), "[DONE]"),
        Reply.events(*"abc").truncate(),
        Reply.events(*"abc").fail(after=1),
    )
    answer = http.post("/v1/chat/completions", json=body())
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (202, {"a": [1]}, "application/json")
    answer = http.post("/v1/chat/completions", json=body(stream=True))
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (502, "<html>", "text/html")
    answer = http.post("/v1/chat/completions", json=body())
    assert (answer.status_code, answer.content) == (204, b"")
    answer = http.post("/v1/chat/completions", json=body())
    assert answer.text == 'data: {"a": 1}\n\ndata: two\ndata: lines\n\nevent: name\ndata: {"b": 2}\n\ndata: [DONE]\n\n'
    assert data_of(http.post("/v1/chat/completions", json=body()).text) == ["a", "b"]
    assert len(data_of(http.post("/v1/chat/completions", json=body()).text)) == 2
    assert provider.connections == 1


def test_functions(provider: Provider, client: openai.OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    provider.always(lambda request: Reply.text(f"I am {request.model}"))
    assert client.chat.completions.create(model="one", messages=HELLO).choices[0].message.content == "I am one"

    def broken(request: ReceivedRequest) -> Reply:
        raise LookupError("no such thing")

    not_a_reply: Any = lambda request: "hello"  # noqa: E731 - what the type checker would refuse
    provider.script(broken, not_a_reply)
    for words in ("no such thing", "must return a Reply, not 'hello'"):
        caplog.clear()
        with pytest.raises(openai.InternalServerError, match=words):
            client.chat.completions.create(model="one", messages=HELLO)
        assert words in caplog.text


def test_an_answer_that_cannot_be_made_is_told(
    provider: Provider, http: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(request: ReceivedRequest) -> Answer:
        raise RuntimeError("a mistake in the provider")

    http.get("/v1/models")
    monkeypatch.setattr(next(iter(provider._connections)), "_choose", fails)
    with caplog.at_level(logging.ERROR), pytest.raises(httpx.RemoteProtocolError):
        http.get("/v1/models")
    assert "a mistake in the provider" in caplog.text


def test_what_no_provider_understands(provider: Provider, client: openai.OpenAI, http: httpx.Client) -> None:
    provider.script(Reply.text("kept"))
    for method, path in (("POST", "/v1/chat"), ("POST", "/chat/completions"), ("GET", "/v1/chat/completions"), ("DELETE", "/")):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    with pytest.raises(openai.NotFoundError, match="POST /v1/images/generations"):
        client.images.generate(prompt="a cat")
    for content in (b"{", b"[]", b"\xff"):
        answer = http.post("/v1/chat/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert (provider.requests[-1].model, provider.requests[-1].stream) == (None, False)
    assert http.head("/v1/models").status_code == 404
    assert provider.unused == 1
    assert http.post("/v1/chat/completions", json=body()).json()["choices"][0]["message"]["content"] == "kept"


def test_what_is_no_http(provider: Provider) -> None:
    with socket.create_connection(("127.0.0.1", port_of(provider)), timeout=5.0) as raw:
        raw.sendall(b"hello there\r\n\r\n")
        got = b""
        while more := raw.recv(1000):
            got += more
    assert got.startswith(b"HTTP/1.1 400 ")


def test_pipelining_expectations_and_old_clients(provider: Provider) -> None:
    address = ("127.0.0.1", port_of(provider))
    with socket.create_connection(address, timeout=5.0) as raw:
        raw.sendall(
            b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n" * 2 + b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        got = b""
        while more := raw.recv(1000):
            got += more
    assert got.count(b"HTTP/1.1 200 ") == 3
    with socket.create_connection(address, timeout=5.0) as raw:
        raw.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 100 ")
        raw.sendall(b"{}")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(address, timeout=5.0) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: 15\r\n\r\n" + b'{"stream":true}')
        got = b""
        while more := raw.recv(1000):
            got += more
    assert got.endswith(b"data: [DONE]\n\n")


# --- what it saw ---


def test_requests(provider: Provider, http: httpx.Client) -> None:
    http.post("/v1/chat/completions?a=1&b=&a=2", json=body(stream=True), headers={"X-Tag": "eu"})
    [request] = provider.requests
    assert (request.method, request.path, request.endpoint) == ("POST", "/v1/chat/completions", "chat/completions")
    assert (request.query, request.headers["x-tag"]) == ({"a": "2", "b": ""}, "eu")
    assert (request.model, request.stream, request.json, json.loads(request.body)) == ("m", True, *[body(stream=True)] * 2)
    assert (request.finished, request.ending, request.disconnected_at) == (True, "finished", None)
    assert repr(request) == "<POST /v1/chat/completions for 'm', finished>"
    assert repr(provider) == f"<Provider at {provider.url}, 1 requests>"
    provider.script(Reply.error(500))
    provider.always(Reply.error(501))
    provider.requests.clear()  # a copy
    assert (len(provider.requests), provider.unused) == (1, 1)
    provider.reset()
    assert (provider.requests, provider.unused) == ([], 0)
    assert http.get("/v1/models").status_code == 200


def test_a_request_is_finished_when_its_client_has_read_it(provider: Provider, http: httpx.Client) -> None:
    for number in range(300):
        http.post("/v1/chat/completions", json=body(stream=number % 2 == 0))
        assert provider.requests[-1].finished


def test_waiting_for_requests(provider: Provider) -> None:
    with pytest.raises(TimeoutError, match=r"0 requests arrived within 0.01 s, not 1"):
        provider.wait_for_requests(timeout=0.01)
    provider.always(Reply.text().delay(head=0.2))
    with httpx.Client() as http:
        thread = threading.Thread(target=http.get, args=(f"{provider.base_url}/models",))
        thread.start()
        [request] = provider.wait_for_requests(1)
        assert request.ending is None
        assert repr(request) == "<GET /v1/models for None, not answered yet>"
        assert not request.wait(0.01)
        thread.join()
        assert request.finished


# --- its life ---


def test_it_stops_cleanly_whatever_goes_on() -> None:
    before = set(threading.enumerate())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        provider = Provider().start()
        url = provider.base_url
        provider.script(
            Reply.text().hang(), Reply.text().hang(after=1), Reply.text().delay(head=60), Reply.text().delay(first_event=60)
        )
        with httpx.Client() as http:

            def ask() -> None:
                with pytest.raises(httpx.TransportError):
                    http.post(f"{url}/chat/completions", json=body(stream=True))

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            requests = provider.wait_for_requests(4)
            idle = socket.create_connection(("127.0.0.1", port_of(provider)))
            provider.stop()
            for thread in threads:
                thread.join()
            idle.close()
        assert [request.ending for request in requests] == ["stopped"] * 4
        assert all(request.wait(0) and request.disconnected_at is None for request in requests)
        assert (provider.connections, set(threading.enumerate()) - before) == (0, set())
        provider.stop()
        assert repr(provider) == "<Provider not running, 4 requests>"
        del provider, requests
        gc.collect()


def test_it_comes_back_at_the_same_port() -> None:
    provider = Provider()
    with pytest.raises(RuntimeError, match="no address before it is started"):
        _ = provider.base_url
    with provider:
        url = provider.base_url
        with pytest.raises(RuntimeError, match="is running"):
            provider.start()
        with pytest.raises(OSError, match=r".") as raised:
            Provider(port=port_of(provider)).start()
        assert raised.value.errno == errno.EADDRINUSE
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models")
    with provider:
        assert provider.base_url == url
        assert httpx.get(f"{url}/models").status_code == 200


def test_a_reply_cannot_stop_its_provider(provider: Provider, http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    def stops(request: ReceivedRequest) -> Reply:
        provider.stop()
        return Reply.text()

    provider.script(stops)
    assert "cannot stop its provider" in http.get("/v1/models").json()["error"]["message"]


def test_importing_turnout_does_not_load_it_and_it_loads_no_h11() -> None:
    script = """
import sys, turnout
assert not [name for name in sys.modules if name.startswith("turnout.testing")]
sys.modules["h11"] = None
import turnout.testing
turnout.testing.Reply.text()
try:
    turnout.testing.Provider()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 'turnout.testing.Provider needs h11: pip install "turnout[testing]"\n'


def test_an_interpreter_ends_with_a_running_provider_and_no_noise() -> None:
    script = """
import socket
from turnout.testing import Provider
provider = Provider().start()
open_ = socket.create_connection(("127.0.0.1", int(provider.url.rpartition(":")[2])))
while not provider.connections:
    pass
open_.close()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_stops_cleanly_while_connections_come() -> None:
    def knock(port: int, stopped: threading.Event) -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5.0).close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            stopped = threading.Event()
            with Provider() as provider:
                threads = [threading.Thread(target=knock, args=(port_of(provider), stopped)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                time.sleep(0.01)
            stopped.set()
            for thread in threads:
                thread.join()
            assert provider.connections == 0
        gc.collect()


# --- event loops, and many at once ---


def test_asyncio() -> None:
    async def main() -> None:
        async with (
            Provider() as provider,
            openai.AsyncOpenAI(base_url=provider.base_url, api_key="any", max_retries=0, timeout=5.0) as client,
        ):
            provider.script(Reply.text(WORDS), Reply.error(429), Reply.text(WORDS).drop(after=2), Reply.text().hang())
            answer = await client.chat.completions.create(model="m", messages=HELLO)
            assert answer.choices[0].message.content == WORDS
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="m", messages=HELLO)
            chunks = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == ["", "one"]
            with pytest.raises(BROKEN):
                await anext(chunks)
            task = asyncio.ensure_future(client.responses.create(model="m", input="hello"))
            await asyncio.to_thread(provider.wait_for_requests, 4)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(provider.requests[-1].wait)
            assert provider.requests[-1].ending == "left"

    asyncio.run(main())


def test_trio() -> None:
    async def main() -> None:
        async with Provider() as provider, httpx.AsyncClient(base_url=provider.url) as http:
            provider.script(Reply.text("hi"), Reply.text("hi").hang())
            assert (await http.post("/v1/chat/completions", json=body())).json()["model"] == "m"
            with trio.move_on_after(0.1):
                await http.post("/v1/chat/completions", json=body())
            assert await trio.to_thread.run_sync(provider.requests[-1].wait)
            assert provider.requests[-1].ending == "left"

    trio.run(main)


def test_hundreds_of_connections(provider: Provider) -> None:
    asked = json.dumps(body(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(asked)}\r\n\r\n".encode()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + asked)
        assert (await reader.readuntil(b"\r\n0\r\n\r\n")).count(b"data: ") == 6

    async def main() -> None:
        provider.always(Reply.text(WORDS).delay(head=0.05, between=0.005))
        ways = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port_of(provider)) for _ in range(400)))
        for _ in range(2):
            await asyncio.gather(*(ask(*way) for way in ways))
            assert provider.connections == 400
        for _, writer in ways:
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())
    assert len(provider.requests) == 800
    assert all(request.finished for request in provider.requests)


# --- wrong arguments ---

anything: Any = None


def unlike(value: Any) -> Any:
    """Of a type that the type checker does not know."""
    return value


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Reply.error(200), ConfigurationError, "status must be an int from 400 to 599, not 200"),
    (lambda: Reply.error(429, code=unlike(5)), TypeError, "code must be a str or None, not 5"),
    (lambda: Reply.error(429, retry_after=True), TypeError, "retry_after must be a number or a str, not True"),
    (lambda: Reply.error(429, headers={"a b": "1"}), ConfigurationError, "letters, digits and hyphens, not 'a b'"),
    (lambda: Reply.error(429, headers={"a": "1\r\nb: 2"}), ConfigurationError, "one line"),
    (lambda: Reply.error(429, headers={"a": unlike(1)}), TypeError, "must be str, not 1"),
    (lambda: Reply.error(429, headers=unlike("a")), TypeError, "headers must be a mapping"),
    (lambda: Reply.text().with_headers(anything), TypeError, "must be a mapping"),
    (lambda: Reply.text().with_headers({"Content-Length": "5"}), ConfigurationError, "follows from the body"),
    (lambda: Reply.text(anything), TypeError, "content must be a str, not None"),
    (lambda: Reply.text(input_tokens=-1), ConfigurationError, "input_tokens must be an int from 0"),
    (lambda: Reply.text(output_tokens=unlike(1.5)), TypeError, "output_tokens must be an int"),
    (lambda: Reply.text(cached_tokens=13), ConfigurationError, "cached_tokens must be an int from 0 to 12, not 13"),
    (
        lambda: Reply.text(finish_reason="end_turn"),
        ConfigurationError,
        "one of stop, length, .*, not 'end_turn'",
    ),
    (lambda: Reply.text(usage=anything), TypeError, "usage must be a bool"),
    (lambda: Reply.tool_call(anything), TypeError, "name must be a str"),
    (lambda: Reply.raw(unlike("text")), TypeError, "body must be bytes"),
    (lambda: Reply.raw(b"", content_type="a\nb"), ConfigurationError, "content-type"),
    (lambda: Reply.json({}, status=600), ConfigurationError, "status must be an int from 200 to 599, not 600"),
    (lambda: Reply.events(("a", 1, 2)), ConfigurationError, "a name and its data"),
    (
        lambda: Reply.text().drop(after="end"),
        ConfigurationError,
        "'request' or 'head' or a number of events, not 'end'",
    ),
    (lambda: Reply.text().hang(after=-1), ConfigurationError, "after must be an int from 0"),
    (lambda: Reply.text().truncate(after=unlike("head")), ConfigurationError, "after must be a number of events, not 'head'"),
    (lambda: Reply.text().fail(after=anything), TypeError, "after must be an int"),
    (lambda: Reply.text().fail(status=200), ConfigurationError, "status must be an int from 400"),
    (lambda: Reply.text().drop(reset=anything), TypeError, "reset must be a bool"),
    (lambda: Reply.text().drop().hang(), ConfigurationError, "at most one fault: 'hang' cannot follow 'drop'"),
    (lambda: Reply.error(500).truncate(), ConfigurationError, "an error cannot truncate"),
    (lambda: Reply.text().delay(head=-1), ConfigurationError, "head must be a finite number of seconds from 0"),
    (lambda: Reply.text().delay(between=anything), TypeError, "between must be a finite number of seconds"),
    (lambda: Reply.text().delay(trickle=0.0), ConfigurationError, "trickle must be None or a number of seconds from 0.001"),
    (lambda: Reply.text().encode(chunk_size=0), ConfigurationError, "chunk_size must be an int from 1"),
    (lambda: Reply.text().encode(gzip=anything), TypeError, "gzip must be a bool"),
    (lambda: Reply.text().encode(line_end=" "), ConfigurationError, r"line_end must be '\\n', '\\r\\n' or '\\r', not ' '"),
    (lambda: Provider(port=65536), ConfigurationError, "port must be an int from 0 to 65535, not 65536"),
    (lambda: Provider(port=anything), TypeError, "port must be an int"),
    (
        lambda: Provider().script(unlike("hello")),
        TypeError,
        "a Reply or a function that returns one, not 'hello'",
    ),
    (lambda: Provider().always(anything), TypeError, "a reply must be a Reply"),
]


@pytest.mark.parametrize(("call", "kind", "words"), WRONG, ids=[words[:40] for _, _, words in WRONG])
def test_wrong_arguments(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_a_refused_script_changes_nothing(provider: Provider) -> None:
    with pytest.raises(TypeError):
        provider.script(Reply.text(), anything)
    assert provider.unused == 0
