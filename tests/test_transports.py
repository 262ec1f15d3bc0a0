"""The transports of httpx2 and httpx, in threads and in tasks, against a scripted provider: what reaches a
deployment, what comes back, and that nothing is left.
"""

import asyncio
import gc
import json
import os
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import turnout.httpx
import turnout.httpx2
from turnout import (
    Deployment,
    Endpoint,
    FailureKind,
    Fallbacks,
    Hedge,
    Retry,
    Router,
    Timeouts,
    attempts_of,
)
from turnout.testing import Provider, Reply

FAMILIES = [turnout.httpx2, turnout.httpx]
HELLO = [{"role": "user", "content": "hello"}]
KEY_A, KEY_B = "key-of-a", "key-of-b"


class World:
    """Two providers, a router over them, and a client of a family and a mode."""

    def __init__(self, family: Any, is_task: bool) -> None:
        self.family, self.is_task = family, is_task
        self.a, self.b = Provider(), Provider()
        self.a.start()
        self.b.start()
        self.router = self.make()

    def make(self, **options: Any) -> Router:
        endpoints = [Endpoint(self.a.base_url, api_key=KEY_A), Endpoint(self.b.base_url, api_key=KEY_B)]
        self.router = Router(
            [
                Deployment("a", "m", model="model-a", tpm_limit=10**6, endpoint=endpoints[0]),
                Deployment("b", "m", model="model-b", tpm_limit=10**6, priority=1, endpoint=endpoints[1]),
            ],
            strategy="priority_based",
            **options,
        )
        return self.router

    def ask(self, path: str = "/chat/completions", *, method: str = "POST", leave_after: int | None = None, **more: Any) -> Any:
        """Sends a request and reads the answer; leaves its stream after so many chunks, if that is given."""
        if "content" not in more and "files" not in more and method == "POST":
            more["json"] = {"model": "m", "messages": HELLO, **more.pop("json", {})}
        options = {"default_model": more.pop("default_model", None), "tokens": more.pop("tokens", None)}
        if self.is_task:
            return asyncio.run(self._ask_in_task(path, method, leave_after, more, options))
        with self.family.Client(self.router, **options) as client, client.stream(method, path, **more) as answer:
            for nth, _ in enumerate(answer.iter_raw() if leave_after is not None else ()):
                if nth + 1 == leave_after:
                    return answer
            answer.read()
            return answer

    async def _ask_in_task(self, path: str, method: str, leave_after: int | None, more: Any, options: Any) -> Any:
        async with self.family.AsyncClient(self.router, **options) as client, client.stream(method, path, **more) as answer:
            if leave_after is not None:
                nth = 0
                async for _ in answer.aiter_raw():
                    nth += 1
                    if nth == leave_after:
                        return answer
            await answer.aread()
            return answer

    def stop(self) -> None:
        self.a.stop()
        self.b.stop()


@pytest.fixture(params=[(family, is_task) for family in FAMILIES for is_task in (False, True)], ids=str)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(*request.param)
    yield made
    gc.collect()
    assert made.router.metrics().in_flight == 0
    made.stop()


def by(answer: Any) -> tuple[int, str, str]:
    return answer.status_code, answer.headers["x-turnout-deployment"], answer.headers["x-turnout-attempts"]


# --- what reaches a deployment ---


def test_a_request_is_rewritten_for_its_deployment(world: World) -> None:
    headers = {
        "authorization": "Bearer dummy",
        "x-api-key": "dummy",
        "api-key": "dummy",
        "cookie": "session=1",
        "openai-organization": "org",
        "openai-project": "project",
        "x-turnout-tags": "",
        "x-mine": "kept",
    }
    answer = world.ask(headers=headers, json={"temperature": 0.5})
    assert by(answer) == (200, "a", "1")
    (got,) = world.a.requests
    assert (got.method, got.path) == ("POST", "/v1/chat/completions")
    assert got.json == {"model": "model-a", "messages": HELLO, "temperature": 0.5}
    assert got.headers["authorization"] == f"Bearer {KEY_A}"
    assert got.headers["x-mine"] == "kept"
    assert got.headers["host"] == world.a.url.removeprefix("http://")
    assert not {name for name in got.headers if name.startswith("x-turnout") or "openai" in name or name == "cookie"}
    assert "dummy" not in str(got.headers)


def test_headers_query_and_rewrite_of_an_endpoint(world: World) -> None:
    def rewrite(body: dict[str, Any]) -> dict[str, Any]:
        assert body["model"] == "m"
        return {**body, "max_completion_tokens": body["max_tokens"]}

    endpoint = Endpoint(
        world.a.url + "/openai/v1",
        api_key=KEY_A,
        auth="api-key",
        headers={"X-Mine": "theirs"},
        query={"api-version": "1"},
        rewrite=rewrite,
    )
    world.router.set_deployments([Deployment("a", "m", endpoint=endpoint)])
    world.ask("/chat/completions?x=2", headers={"x-mine": "ours"}, json={"max_tokens": 9})
    (got,) = world.a.requests
    assert (got.path, dict(got.query)) == ("/openai/v1/chat/completions", {"x": "2", "api-version": "1"})
    assert (got.headers["api-key"], got.headers["x-mine"]) == (KEY_A, "theirs")
    assert got.json["max_completion_tokens"] == 9


def test_the_model_name_is_found_in_path_and_form(world: World) -> None:
    world.ask(turnout.BASE_URL.removesuffix("/v1") + "/openai/deployments/m/chat/completions", json={"model": "other"})
    assert (world.a.requests[-1].path, world.a.requests[-1].model) == ("/v1/chat/completions", "model-a")
    world.ask("/audio/transcriptions", files={"file": ("a.wav", b"\x00" * 500)}, data={"model": "m", "prompt": "p"})
    got = world.a.requests[-1]
    assert got.path == "/v1/audio/transcriptions"
    assert b'name="model"\r\n\r\nmodel-a\r\n' in got.body
    assert len(got.body) == int(got.headers["content-length"])
    assert got.body.count(b"\x00") == 500


def test_a_large_body_passes_whole(world: World) -> None:
    text = 'wörds and \\ " quotes ' * 100_000
    world.ask(json={"messages": [{"role": "user", "content": text}]})
    assert world.a.requests[-1].json == {"model": "model-a", "messages": [{"role": "user", "content": text}]}


def test_requests_that_name_no_model(world: World) -> None:
    answer = world.ask("/files", method="GET")
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_routable")
    world.ask("/files", method="GET", default_model="m")
    assert world.a.requests[-1].path == "/v1/files"
    world.router.add_alias("fast", "m")
    listed = world.ask("/models", method="GET").json()
    assert [model["id"] for model in listed["data"]] == ["fast", "m"]
    assert world.ask("/models/m", method="GET").json()["id"] == "m"
    assert world.ask("/models/none", method="GET").status_code == 404


def test_paths_of_azure_without_a_deployment(world: World) -> None:
    at = turnout.BASE_URL.removesuffix("/v1") + "/openai"
    world.ask(f"{at}/responses?api-version=1", json={"input": "hi"})
    assert (world.a.requests[-1].path, world.a.requests[-1].model) == ("/v1/responses", "model-a")
    world.ask(f"{at}/v1/responses", json={"input": "hi"})
    assert world.a.requests[-1].path == "/v1/responses"
    assert world.ask(f"{at}/models", method="GET").json()["data"][0]["id"] == "m"


def test_limits_are_learnt_by_all_their_names(world: World) -> None:
    """So also behind a proxy, under the names that only its own headers have."""
    for name in ("x-ratelimit-remaining-tokens", "x-tokenlimit-remaining", "llm_provider-anthropic-ratelimit-tokens-remaining"):
        world.a.always(Reply.text("x", input_tokens=1, output_tokens=1).with_headers({name: "700000"}))
        world.make()
        world.ask()
        assert [(said.unit, said.remaining) for said in world.router.stats("a").observed] == [("tokens", 700_000)]


# --- tokens ---


def test_tokens_are_estimated_and_settled(world: World) -> None:
    seen: list[int] = []
    world.router.on_attempt(lambda record: seen.append(record.tokens))
    world.a.always(Reply.text("hi", input_tokens=30, output_tokens=12))
    world.ask(json={"max_tokens": 500})
    length = len(world.a.requests[-1].body) - len("model-a") + len("m")
    assert seen == [length // 4 + 500]
    assert world.router.stats("a").tpm_current == 42
    world.ask(json={"stream": True})
    assert world.router.stats("a").tpm_current == 84
    world.ask(tokens=len)
    assert seen[-1] > 3 * seen[-2]
    assert world.router.stats("a").tpm_current == 126


def test_the_usage_chunk_that_was_asked_for_is_taken_out(world: World) -> None:
    answer = world.ask(json={"stream": True})
    assert world.a.requests[-1].json["stream_options"] == {"include_usage": True}
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert all(chunk["choices"] for chunk in chunks)
    own = world.ask(json={"stream": True, "stream_options": {"include_usage": True}})
    assert '"choices":[]' in own.text.replace(" ", "")
    assert world.router.stats("a").avg_first_token is not None


def test_who_leaves_a_stream_pays_for_what_came(world: World) -> None:
    world.a.always(Reply.text("one two three four five six seven eight nine ten").delay(between=0.02))
    began = time.monotonic()
    world.ask(json={"stream": True, "max_tokens": 4000}, leave_after=3)
    assert time.monotonic() - began < 5
    stats = world.router.stats("a")
    assert 0 < stats.tpm_current < 100
    assert (stats.in_flight, stats.total_successes, stats.total_failures) == (0, 0, 0)
    (got,) = world.a.requests
    got.wait(5)
    assert got.ending == "left"


# --- failures ---


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply.error(500), FailureKind.ERROR),
        (Reply.error(429, retry_after=30), FailureKind.RATE_LIMIT),
        (Reply.error(401), FailureKind.AUTH),
        (Reply.text("x").drop(after="request"), FailureKind.CONNECTION),
        (Reply.text("x").drop(after="head"), FailureKind.CONNECTION),
    ],
    ids=["500", "429", "401", "no head", "no body"],
)
def test_another_deployment_answers(world: World, reply: Reply, kind: FailureKind, stream: bool) -> None:
    world.a.always(reply)
    answer = world.ask(json={"stream": stream})
    assert by(answer) == (200, "b", "2")
    assert [record.kind for record in attempts_of(answer)] == [kind, None]
    assert world.b.requests[-1].headers["authorization"] == f"Bearer {KEY_B}"


def test_an_error_as_the_first_event_is_a_failure(world: World) -> None:
    world.a.always(Reply.text("x").fail(after=0, status=503))
    answer = world.ask(json={"stream": True})
    assert by(answer) == (200, "b", "2")
    assert "error" not in answer.text


def test_an_error_in_the_middle_passes_and_counts(world: World) -> None:
    world.a.always(Reply.text("one two three").fail(after=2, status=500))
    answer = world.ask(json={"stream": True})
    assert by(answer) == (200, "a", "1")
    assert '"error"' in answer.text
    assert world.router.stats("a").total_failures == 1


def test_the_last_failure_comes_back_as_it_was(world: World) -> None:
    for provider in (world.a, world.b):
        provider.always(Reply.error(500, code="boom", message="all broken").with_headers({"x-their": "header"}).encode(gzip=True))
    answer = world.ask()
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "boom"
    assert (answer.headers["x-should-retry"], answer.headers["x-their"]) == ("false", "header")
    assert len(attempts_of(answer)) == 3
    world.make()
    world.a.always(Reply.error(400, message="wrong"))
    assert by(world.ask()) == (400, "a", "1")


def test_answers_that_the_router_makes(world: World) -> None:
    unknown = world.ask(json={"model": "n"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    world.make(timeouts=Timeouts(capacity=0.0))
    for id_ in "ab":
        world.router.cool_down(id_, 50.0)
    refused = world.ask()
    assert refused.status_code == 429
    assert 45_000 < int(refused.headers["retry-after-ms"]) <= 50_000
    assert "cooling_down" in refused.json()["error"]["message"]
    large = world.ask(json={"max_tokens": 10**7})
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    bad = world.ask(headers={"x-turnout-priority": "high"})
    assert (bad.status_code, "must be a number, not 'high'" in bad.text) == (400, True)
    assert "x-turnout-tags" in world.ask(headers={"x-turnout-tag": "eu"}).json()["error"]["message"]
    assert world.a.requests == world.b.requests == []


def test_a_connection_that_fails_everywhere_is_an_error_of_the_family(world: World) -> None:
    for provider in (world.a, world.b):
        provider.always(Reply.text("x").drop(after="request"))
    began = time.monotonic()
    with pytest.raises(world.family._http.RemoteProtocolError) as failed:
        world.ask()
    assert time.monotonic() - began < 2
    assert [record.deployment_id for record in attempts_of(failed.value)] == ["a", "b", "a"]
    assert "all attempts are spent (3)" in getattr(failed.value, "__notes__")[0]  # noqa: B009 - since Python 3.11
    assert KEY_A not in str(failed.value.request.headers.raw)


def test_a_stream_that_ends_without_its_end_is_an_error(world: World) -> None:
    world.a.always(Reply.text("one two three").truncate())
    with pytest.raises(world.family._http.RemoteProtocolError, match="without its end"):
        world.ask(json={"stream": True})
    assert world.router.stats("a").total_failures == 1


ERRORS_WITH_STATUS_200 = {
    "chat": ("/chat/completions", {"error": {"code": 502, "message": "the provider returned an error"}}),
    "responses": ("/responses", {"id": "resp_1", "status": "failed", "error": {"code": "server_error", "message": "no"}}),
}


@pytest.mark.parametrize("case", ERRORS_WITH_STATUS_200)
@pytest.mark.parametrize("gzip", [False, True])
def test_an_error_with_status_200_is_a_failure(world: World, case: str, gzip: bool) -> None:
    path, body = ERRORS_WITH_STATUS_200[case]
    world.a.always(Reply.json(body).encode(gzip=gzip))
    assert by(world.ask(path, json={"input": "x"})) == (200, "b", "2")
    assert world.router.stats("a").total_failures == 1
    world.b.always(Reply.json(body))
    last = world.ask(path, json={"input": "x"})
    assert (last.status_code, last.json()) == (200, body)


def test_an_old_failure_that_is_looked_up_is_an_answer(world: World) -> None:
    world.a.always(Reply.json({"id": "resp_1", "status": "failed", "error": {"code": "server_error"}}))
    assert by(world.ask("/responses/resp_1", method="GET", default_model="m")) == (200, "a", "1")
    assert world.router.stats("a").total_failures == 0


def test_an_unknown_path_harms_no_deployment(world: World) -> None:
    world.a.always(Reply.json({"error": {"message": "Unknown request URL: POST /v1/x", "code": "unknown_url"}}, status=404))
    answer = world.ask("/x")
    assert (answer.status_code, len(world.a.requests), len(world.b.requests)) == (404, 1, 0)
    assert world.router.stats("a").cooldown_remaining == 0.0


def test_a_deployment_that_routes_too_is_not_mistaken_for_ours(world: World) -> None:
    theirs = {"x-turnout-deployment": "theirs", "x-turnout-attempts": "7"}
    world.a.always(Reply.text("x").with_headers(theirs))
    assert by(world.ask()) == (200, "a", "1")
    for provider in (world.a, world.b):
        provider.always(Reply.error(400).with_headers(theirs))
    assert by(world.ask()) == (400, "a", "1")


def test_redirects_are_not_followed_elsewhere(world: World) -> None:
    for provider in (world.a, world.b):
        provider.always(Reply.raw(b"", content_type="text/plain", status=302).with_headers({"location": "https://other.example/"}))
    answer = world.ask()
    assert (answer.status_code, "other.example" in answer.json()["error"]["message"]) == (502, True)


def test_cookies_do_not_cross(world: World) -> None:
    world.a.always(Reply.text("x").with_headers({"set-cookie": "session=of-a; Path=/"}))
    assert "set-cookie" not in world.ask().headers


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("inner", [None, "aiohttp"])
def test_cookies_do_not_cross_within_one_host(family: Any, inner: Any) -> None:
    world = World(family, is_task=True)
    world.a.always(Reply.text("x").with_headers({"set-cookie": "session=of-a; Path=/"}))
    # aiohttp keeps no cookies of an address that is a number.
    url = world.a.base_url.replace("127.0.0.1", "localhost")
    world.router.set_deployments([Deployment(id_, "m", endpoint=Endpoint(url, api_key=f"key-of-{id_}")) for id_ in "ab"])

    async def main() -> None:
        async with family.AsyncClient(world.router, inner=inner) as client:
            for _ in range(3):
                answer = await client.post("/chat/completions", json={"model": "m", "messages": HELLO})
                assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)

    asyncio.run(main())
    assert [got.headers.get("cookie") for got in world.a.requests] == [None] * 3
    world.stop()


# --- time ---


def test_a_slow_first_event_is_left_for_another_deployment(world: World) -> None:
    world.make(timeouts=Timeouts(first_token=0.3))
    world.a.always(Reply.text("late").delay(first_event=20, trickle=0.02))
    began = time.monotonic()
    answer = world.ask(json={"stream": True})
    assert by(answer) == (200, "b", "2")
    assert time.monotonic() - began < 3


def test_the_bound_of_the_first_event_bounds_no_later_one(world: World) -> None:
    world.make(timeouts=Timeouts(first_token=0.3))
    world.a.always(Reply.text("one two").delay(between=0.5))
    assert by(world.ask(json={"stream": True})) == (200, "a", "1")


def test_silence_after_the_head_is_left_for_another_deployment(world: World) -> None:
    world.make(timeouts=Timeouts(first_token=0.3))
    world.a.always(Reply.text("slow").hang(after="head"))
    began = time.monotonic()
    assert by(world.ask(json={"stream": True})) == (200, "b", "2")
    assert time.monotonic() - began < 3
    assert world.router.stats("a").total_failures == 1


def test_the_deadline_holds(world: World) -> None:
    world.make(timeouts=Timeouts(total=0.9, attempt=0.3))
    for provider in (world.a, world.b):
        provider.always(Reply.text("x").hang(after="request"))
    began = time.monotonic()
    with pytest.raises(world.family._http.TimeoutException) as late:
        world.ask()
    assert 0.85 < time.monotonic() - began < 3
    assert len(attempts_of(late.value)) == 3


def test_silence_in_a_stream_ends_it(world: World) -> None:
    world.make(timeouts=Timeouts(idle=0.3))
    world.a.always(Reply.text("one two three").hang(after=2).delay(trickle=0.02))
    with pytest.raises(world.family._http.ReadTimeout):
        world.ask(json={"stream": True})
    assert world.router.stats("a").total_failures == 1


# --- options, fallbacks, stored responses ---


def test_options_of_a_request_and_of_a_block(world: World) -> None:
    assert by(world.ask(headers={"x-turnout-exclude": "a"}))[1] == "b"
    assert by(world.ask(headers={"x-turnout-only": "b, c"}))[1] == "b"
    with world.router.options(exclude={"a"}, retry=Retry(attempts=1)):
        assert by(world.ask())[1] == "b"
    assert by(world.ask())[1] == "a"


def test_a_fallback_for_prompts_that_are_too_long(world: World) -> None:
    world.make(fallbacks=Fallbacks(context_window={"m": ["large"]}))
    world.router.add_deployment(Deployment("l", "large", model="model-l", endpoint=Endpoint(world.b.base_url, api_key=KEY_B)))
    world.a.always(Reply.error(400, code="context_length_exceeded"))
    assert by(world.ask()) == (200, "l", "2")
    assert world.b.requests[-1].model == "model-l"


def test_a_response_that_follows_another_goes_to_its_deployment(world: World) -> None:
    world.a.script(Reply.error(500))
    stored = world.ask("/responses", json={"input": "hi", "messages": None})
    assert by(stored)[1] == "b"
    follow = world.ask("/responses", json={"input": "more", "messages": None, "previous_response_id": stored.json()["id"]})
    assert by(follow) == (200, "b", "1")
    world.ask(f"/responses/{stored.json()['id']}", method="GET")
    assert world.b.requests[-1].path.endswith(stored.json()["id"])


@pytest.mark.parametrize("gzip", [False, True])
def test_what_is_in_a_conversation_goes_to_its_deployment(world: World, gzip: bool) -> None:
    for provider in (world.a, world.b):
        provider.always(Reply.json({"id": "conv_1", "object": "conversation"}).encode(gzip=gzip))
    world.a.script(Reply.error(429))
    # Nothing says which deployments could hold a conversation, but for the model name.
    assert by(world.ask("/conversations", json={})) == (429, "a", "1")
    assert by(world.ask("/conversations", json={})) == (200, "b", "1")
    assert by(world.ask("/responses", json={"input": "x", "conversation": "conv_1"})) == (200, "b", "1")
    assert by(world.ask("/responses", json={"input": "x", "conversation": {"id": "conv_1"}})) == (200, "b", "1")
    assert by(world.ask("/conversations/conv_1/items", method="GET")) == (200, "b", "1")


@pytest.mark.parametrize("path", ["/assistants", "/containers", "/conversations", "/evals", "/files", "/batches", "/videos"])
def test_what_a_provider_keeps_is_sent_once(world: World, path: str) -> None:
    world.a.always(Reply.error(500))
    assert by(world.ask(path)) == (500, "a", "1")
    assert world.b.requests == []


def test_closing_a_client_amid_a_stream_is_no_failure(world: World) -> None:
    world.a.always(Reply.text("one two three four").delay(between=0.2))
    records: list[Any] = []
    world.router.on_attempt(records.append)
    body = {"model": "m", "messages": HELLO, "stream": True}

    async def in_task() -> None:
        client = world.family.AsyncClient(world.router)
        with pytest.raises(Exception):  # noqa: B017, PT011, PT012 - the classes of a closed connection are many
            async with client.stream("POST", "/chat/completions", json=body) as answer:
                async for _ in answer.aiter_raw():
                    await client.aclose()

    if world.is_task:
        asyncio.run(in_task())
    else:
        client = world.family.Client(world.router)
        with pytest.raises(Exception), client.stream("POST", "/chat/completions", json=body) as answer:  # noqa: B017, PT011, PT012
            for _ in answer.iter_raw():
                client.close()
    assert [record.kind for record in records] == [FailureKind.CANCELLED]
    assert world.router.stats("a").total_failures == 0


# --- tasks alone ---


@pytest.mark.parametrize("hedge", [None, Hedge(after=5.0)])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_closing_a_client_amid_a_request_is_no_failure(family: Any, hedge: Hedge | None) -> None:
    world = World(family, is_task=True)
    world.make(hedge=hedge)
    world.a.always(Reply.text("x").delay(head=20))

    async def main() -> None:
        client = family.AsyncClient(world.router)
        asked = asyncio.create_task(client.post("/chat/completions", json={"model": "m", "messages": HELLO}))
        await asyncio.to_thread(world.a.wait_for_requests)
        await client.aclose()
        with pytest.raises(Exception):  # noqa: B017, PT011 - the classes of a closed connection are many
            await asked

    asyncio.run(main())
    assert (len(world.a.requests), len(world.b.requests)) == (1, 0)
    assert (world.router.stats("a").total_failures, world.router.metrics().in_flight) == (0, 0)
    world.stop()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_client_keeps_no_loop_that_is_closed(family: Any) -> None:
    world = World(family, is_task=True)
    client: Any = family.AsyncClient(world.router)
    loops = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await client.post("/chat/completions", json={"model": "m", "messages": HELLO})

    with warnings.catch_warnings():
        # The connections of a loop that ended without a close cannot be closed any more.
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(3):
            asyncio.run(main())
            gc.collect()
        alive = [loop() is not None for loop in loops]
        client = None
        gc.collect()
    assert alive == [False, False, True]
    world.stop()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_the_loser_of_a_race_is_closed_at_once(family: Any) -> None:
    world = World(family, is_task=True)
    world.make(hedge=Hedge(after=0.05))
    world.a.always(Reply.text("slow").delay(first_event=20, trickle=0.02))

    async def main() -> Any:
        async with family.AsyncClient(world.router) as client:
            answer = await client.post("/chat/completions", json={"model": "m", "messages": HELLO, "stream": True})
            won_at = time.monotonic()
            await asyncio.to_thread(world.a.requests[0].wait, 5)
            return answer, time.monotonic() - won_at

    answer, closed_after = asyncio.run(main())
    assert by(answer)[1] == "b"
    assert closed_after < 1
    stats = world.router.stats("a")
    assert (stats.in_flight, stats.total_failures, world.router.metrics().hedges) == (0, 0, 1)
    world.stop()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_cancelled_request_leaves_nothing(family: Any) -> None:
    world = World(family, is_task=True)
    world.a.always(Reply.text("one two three four five").delay(head=0.01, first_event=0.02, between=0.01))

    async def main() -> None:
        async with family.AsyncClient(world.router) as client:

            async def read() -> None:
                body = {"model": "m", "messages": HELLO, "stream": True}
                async with client.stream("POST", "/chat/completions", json=body) as answer:
                    async for _ in answer.aiter_raw():
                        pass

            async def leave(after: float) -> None:
                task = asyncio.create_task(read())
                await asyncio.sleep(after)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            await asyncio.gather(*(leave(nth * 0.002) for nth in range(60)))
            assert world.router.metrics().in_flight == 0
            assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(0.1)
        assert world.a.connections == 0

    asyncio.run(main())
    world.stop()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_an_awaitable_key_is_awaited_in_tasks_only(family: Any) -> None:
    world = World(family, is_task=True)

    async def key() -> str:
        await asyncio.sleep(0)
        return "fresh"

    endpoint = Endpoint(world.a.base_url, api_key=key)
    world.router.set_deployments([Deployment("a", "m", endpoint=endpoint)])
    world.ask()
    assert world.a.requests[-1].headers["authorization"] == "Bearer fresh"
    world.is_task = False
    with pytest.raises(TypeError, match="asynchronous client"):
        world.ask()
    world.stop()


# --- processes and proxies ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own() -> None:
    world = World(turnout.httpx2, is_task=False)
    with world.family.Client(world.router) as client:
        ask = {"model": "m", "messages": HELLO}
        client.post("/chat/completions", json=ask)
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, str(client.post("/chat/completions", json=ask).status_code).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reads, 10) == b"200"
        os.close(reads)
        os.close(writes)
        assert client.post("/chat/completions", json=ask).status_code == 200
        assert len(world.a.requests) == 3
    world.stop()


def test_proxies_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(turnout.httpx2, is_task=False)
    world.router.set_deployments([Deployment("a", "m", endpoint=Endpoint("http://far.example/v1", api_key=KEY_A))])
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", world.b.url)
    world.ask()
    assert world.b.requests[-1].headers["host"] == "far.example"
    world.stop()


def test_answers_that_are_compressed_are_read(world: World) -> None:
    world.a.always(Reply.text("hi", input_tokens=5, output_tokens=6).encode(gzip=True))
    answer = world.ask()
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    assert world.router.stats("a").tpm_current == 11
    assert world.a.requests[-1].headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_stream_that_is_compressed_though_nobody_asked_is_read(world: World, chunk_size: int | None) -> None:
    reply = Reply.text("one two three", input_tokens=5, output_tokens=6)
    world.a.always(reply)
    plain = [line for line in world.ask(json={"stream": True}).text.splitlines() if "delta" in line]
    world.a.always(reply.encode(gzip=True, chunk_size=chunk_size))
    answer = world.ask(json={"stream": True})
    assert by(answer) == (200, "a", "1")
    assert world.a.requests[-1].headers["accept-encoding"] == "identity"
    texts = [json.loads(line[6:])["choices"][0]["delta"] for line in answer.text.splitlines() if line.startswith("data: {")]
    assert texts == [json.loads(line[6:])["choices"][0]["delta"] for line in plain]
    assert world.router.stats("a").tpm_current == 22


def test_a_stream_whose_compression_is_broken_is_a_failure(world: World) -> None:
    packed = Reply.raw(b"this is no gzip", content_type="text/event-stream").with_headers({"content-encoding": "gzip"})
    world.a.always(packed)
    assert by(world.ask(json={"stream": True})) == (200, "b", "2")
    # What cannot be unpacked here is handed on as it is.
    world.make()
    raw = Reply.raw(b"data: [DONE]\n\n", content_type="text/event-stream").with_headers({"content-encoding": "x-other"})
    world.a.always(raw)
    answer = world.ask(json={"stream": True})
    assert (by(answer), answer.text) == ((200, "a", "1"), "data: [DONE]\n\n")
    assert world.router.stats("a").total_successes == 1
