"""Whole requests where things go wrong at once: races, interruptions, deadlines of callers, odd arguments."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx2
import pytest
import turnout.httpx2
from turnout import (
    Backoff,
    Budget,
    Deployment,
    Endpoint,
    Env,
    FailureKind,
    Fallbacks,
    Hedge,
    Lease,
    ManualClock,
    Options,
    Retry,
    Router,
    Timeouts,
)
from turnout.testing import Provider, Reply

HELLO = [{"role": "user", "content": "hello"}]


def two(**options: Any) -> Router:
    return Router([Deployment(id_, "m") for id_ in "ab"], strategy="priority_based", **options)


def served(*providers: Provider, **options: Any) -> Router:
    return Router(
        [Deployment(id_, "m", endpoint=Endpoint(one.base_url, api_key="k")) for id_, one in zip("ab", providers, strict=False)],
        strategy="priority_based",
        **options,
    )


@pytest.fixture
def pair() -> Iterator[tuple[Provider, Provider]]:
    with Provider() as one, Provider() as other:
        yield one, other


def ask(router: Router, path: str = "/chat/completions", *, method: str = "POST", headers: Any = None, **body: Any) -> Any:
    with turnout.httpx2.Client(router, default_model="m") as client:
        if method != "POST":
            return client.request(method, path, headers=headers)
        return client.post(path, json={"model": "m", "messages": HELLO, **body}, headers=headers)


# --- races ---


class Stop(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Stop])
@pytest.mark.parametrize("hedge", [None, Hedge(after=1)])
def test_an_interruption_from_what_is_sent_comes_out_as_it_is(error: type[BaseException], hedge: Hedge | None) -> None:
    router, sent = two(), []

    async def send(lease: Lease) -> None:
        sent.append(lease.deployment_id)
        raise error

    async def main() -> None:
        with pytest.raises(error):
            await router.call_async("m", send, hedge=hedge)

    asyncio.run(main())
    assert sent == ["a"]
    assert (router.metrics().in_flight, router.stats("a").total_failures) == (0, 0)


def test_a_request_that_is_kept_is_not_hedged(pair: tuple[Provider, Provider]) -> None:
    one, other = pair
    one.always(Reply.text("slow").delay(head=0.4))
    router = served(one, other, hedge=Hedge(after=0.05))

    async def main() -> None:
        async with turnout.httpx2.AsyncClient(router) as client:
            await client.post("/responses", json={"model": "m", "input": "x", "store": True})

    asyncio.run(main())
    assert (len(one.requests), len(other.requests)) == (1, 0)


def test_a_call_that_is_cancelled_while_the_loser_closes_leaves_nothing() -> None:
    router, records = two(), []  # type: ignore[var-annotated]

    async def send(lease: Lease) -> str:
        if lease.deployment_id == "a":
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(0.3)
        return lease.deployment_id

    async def main() -> None:
        task = asyncio.create_task(router.call_async("m", send, hedge=Hedge(after=0.02), records=records))
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert router.metrics().in_flight == 0
    assert sorted(record.deployment_id for record in records) == ["a", "b"]


class Wrong(Exception):
    status_code = 400


def test_no_attempt_begins_after_the_call_is_decided() -> None:
    router, seen = Router([Deployment(id_, "m") for id_ in "abcd"], strategy="priority_based", retry=Retry(attempts=9)), []

    async def send(lease: Lease) -> None:
        seen.append(lease.deployment_id)
        await asyncio.sleep(0.15 if len(seen) == 1 else 0.5)
        if len(seen) <= 2 and lease.deployment_id == "a":
            raise Wrong

    asyncio.run(router.call_async("m", send, hedge=Hedge(after=0.05)))
    assert seen == ["a", "b"]


def test_refusals_of_hedges_are_counted() -> None:
    router = two(retry=Retry(budget=Budget(share=0.0, per_second=0.0)))

    async def send(lease: Lease) -> str:
        await asyncio.sleep(0.1)
        return lease.deployment_id

    assert asyncio.run(router.call_async("m", send, hedge=Hedge(after=0.02))) == "a"
    assert (router.metrics().budget_refusals, router.metrics().hedges) == (1, 0)


# --- deadlines ---


def test_a_short_deadline_of_a_caller_says_nothing_of_a_deployment(pair: tuple[Provider, Provider]) -> None:
    one, other = pair
    for provider in pair:
        provider.always(Reply.text("fine").delay(head=0.3))
    router = served(one, other)

    async def main() -> None:
        async with turnout.httpx2.AsyncClient(router) as client:
            for _ in range(4):
                with pytest.raises(httpx2.ReadTimeout):
                    await client.post("/chat/completions", json={"model": "m"}, headers={"x-turnout-timeout": "0.05"})

    asyncio.run(main())
    assert router.stats("a").total_failures == 0
    with pytest.raises(httpx2.ReadTimeout):
        ask(router, headers={"x-turnout-timeout": "0.05"})
    assert router.stats("a").total_failures == 0
    # The router's own deadline is what all deployments are given.
    router.configure(timeouts=Timeouts(total=0.05))
    with pytest.raises(httpx2.ReadTimeout):
        ask(router)
    assert router.stats("a").total_failures == 1


def test_a_timeout_in_a_header_leaves_the_other_timeouts(pair: tuple[Provider, Provider]) -> None:
    one, other = pair
    one.always(Reply.text("late").delay(first_event=5))
    router = served(one, other, timeouts=Timeouts(first_token=0.2))
    began = time.monotonic()
    assert ask(router, headers={"x-turnout-timeout": "30"}, stream=True).headers["x-turnout-deployment"] == "b"
    assert time.monotonic() - began < 4


def test_the_pauses_of_a_reader_are_not_silence(pair: tuple[Provider, Provider]) -> None:
    one, _ = pair
    one.always(Reply.text("one two three").delay(between=0.02, trickle=0.01))
    router = served(one, timeouts=Timeouts(idle=0.3))
    body = {"model": "m", "stream": True}
    with turnout.httpx2.Client(router) as client, client.stream("POST", "/chat/completions", json=body) as answer:
        for _ in answer.iter_raw():
            time.sleep(0.02 if one.requests[0].ending else 0.35)
    assert router.stats("a").total_failures == 0


# --- streams by the loop ---


def test_a_stream_by_the_loop_ends_its_deadline_with_its_first_token() -> None:
    router = two(timeouts=Timeouts(total=0.2))

    async def stream() -> AsyncIterator[int]:
        async for attempt in router.attempts("m"):
            async with attempt:
                for nth in range(3):
                    attempt.first_token()
                    yield nth
                return

    async def main() -> list[int]:
        read = []
        async for nth in stream():
            read.append(nth)
            await asyncio.sleep(0.15)
        return read

    assert asyncio.run(main()) == [0, 1, 2]
    assert (router.stats("a").total_successes, router.metrics().in_flight) == (1, 0)


def test_a_stream_by_the_loop_that_is_dropped_loses_nothing() -> None:
    router = two(timeouts=Timeouts(total=1.0))
    told: list[Any] = []

    async def stream() -> AsyncIterator[int]:
        async for attempt in router.attempts("m"):
            async with attempt:
                yield 1
                return

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        dropped: Any = stream()
        await dropped.__anext__()
        dropped = None
        await asyncio.sleep(1.3)  # beyond the deadline, which must not end this task

    asyncio.run(main())
    assert told == []
    assert (router.metrics().in_flight, router.stats("a").total_failures) == (0, 0)


# --- keys ---


def test_a_deployment_without_its_key_is_left_for_another(pair: tuple[Provider, Provider], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNOUT_TEST_NOT_SET", raising=False)
    one, other = pair
    router = Router(
        [
            Deployment("a", "m", endpoint=Endpoint(one.base_url, api_key=Env("TURNOUT_TEST_NOT_SET"))),
            Deployment("b", "m", endpoint=Endpoint(other.base_url)),
        ],
        strategy="priority_based",
    )
    # Nothing was sent, so that even a request that is kept may go on.
    assert ask(router, "/responses", store=True).headers["x-turnout-deployment"] == "b"
    assert router.stats("a").cooldown_remaining > 0
    router.remove_deployment("b")
    router.report_health("a", True)
    refused = ask(router)
    assert (refused.status_code, "TURNOUT_TEST_NOT_SET" in refused.text) == (400, True)


def test_an_error_of_a_rewrite_is_the_callers(pair: tuple[Provider, Provider]) -> None:
    def rewrite(body: dict[str, Any]) -> None:
        raise KeyError("mine")

    async def awaitable(body: dict[str, Any]) -> None: ...

    router = Router([Deployment("a", "m", endpoint=Endpoint(pair[0].base_url, rewrite=rewrite))])
    with pytest.raises(KeyError, match="mine"):
        ask(router)
    assert (router.stats("a").total_failures, router.metrics().attempts) == (0, 1)
    with pytest.raises(TypeError, match="not a coroutine function"):
        Endpoint("https://h.example", rewrite=awaitable)  # type: ignore[arg-type]


# --- paths and bodies ---


def test_what_is_escaped_in_a_path_stays_so(pair: tuple[Provider, Provider]) -> None:
    one, _ = pair
    one.always(Reply.json({"id": "x"}))
    for id_ in ("..%2F..%2Fadmin", "a%3Fpurpose=x", "a%23b", "a%20b"):
        with turnout.httpx2.Client(served(one), default_model="m") as client:
            assert client.get(f"{client.base_url}files/{id_}").status_code == 200
    assert [request.path for request in one.requests] == [
        "/v1/files/../../admin",
        "/v1/files/a?purpose=x",
        "/v1/files/a#b",
        "/v1/files/a b",
    ]
    assert all(request.query == {} for request in one.requests)


def test_a_model_name_with_a_slash_in_the_path_of_azure(pair: tuple[Provider, Provider]) -> None:
    one, _ = pair
    router = Router([Deployment("a", "meta/llama", endpoint=Endpoint(one.base_url))])
    with turnout.httpx2.Client(router) as client:
        path = "https://turnout.invalid/openai/deployments/meta/llama/chat/completions"
        assert client.post(path, json={"messages": HELLO}).headers["x-turnout-deployment"] == "a"


def test_anthropics_other_paths_reach_anthropic_alone(pair: tuple[Provider, Provider]) -> None:
    one, other = pair
    other.always(Reply.json({"data": []}))
    router = Router(
        [
            Deployment("a", "m", endpoint=Endpoint(one.base_url)),
            Deployment("b", "m", endpoint=Endpoint(other.url, dialect="anthropic")),
        ]
    )
    for _ in range(4):
        answer = ask(router, "/files", method="GET", headers={"anthropic-version": "2023-06-01"})
        assert answer.headers["x-turnout-deployment"] == "b"
    assert (other.requests[0].path, one.requests) == ("/v1/files", [])


def test_only_the_reading_of_models_is_answered_here(pair: tuple[Provider, Provider]) -> None:
    pair[0].always(Reply.json({"deleted": True}))
    assert ask(served(pair[0]), "/models/m", method="DELETE").json() == {"deleted": True}
    assert pair[0].requests[0].method == "DELETE"


@pytest.mark.parametrize(
    ("content", "content_type", "status", "said"),
    [
        (b'{"model":"m",}', "application/json", 400, "no JSON object"),
        (b"[1]", "application/json", 400, "no JSON object"),
        (b"", "application/json", 501, "names no model"),
        (b"raw", "audio/wav", 501, "names no model"),
    ],
)
def test_what_cannot_be_routed_says_why(content: bytes, content_type: str, status: int, said: str) -> None:
    router = Router([Deployment("a", "m", endpoint=Endpoint("https://h.example"))])
    with turnout.httpx2.Client(router) as client:
        answer = client.post("/chat/completions", content=content, headers={"content-type": content_type})
    assert (answer.status_code, said in answer.text) == (status, True)


def test_deployments_without_endpoints_are_named() -> None:
    answer = ask(Router([Deployment("a", "m")]))
    assert (answer.status_code, "no deployment of 'm' has an endpoint" in answer.text) == (400, True)


def test_a_form_is_read_in_linear_time() -> None:
    router = Router([Deployment("a", "m", endpoint=Endpoint("https://h.example"))])
    inner = httpx2.MockTransport(lambda request: httpx2.Response(200, json={}))
    with turnout.httpx2.Client(router, inner=inner, default_model="m") as client:
        headers = {"content-type": "Multipart/Form-Data; boundary=x"}
        assert client.post("/audio/transcriptions", content=b"--x\r\n" * 200_000, headers=headers).status_code == 200


@pytest.mark.parametrize("failure", [Reply.error(429, retry_after=60), Reply.error(400), Reply.error(401)])
def test_a_failure_whose_body_is_cut_has_its_status(pair: tuple[Provider, Provider], failure: Reply) -> None:
    for provider in pair:
        provider.always(failure.drop(after=1))
    answer = ask(served(*pair))
    assert answer.status_code == failure.status
    assert len(pair[0].requests) + len(pair[1].requests) == (1 if failure.status == 400 else 2)


# --- tokens ---


def test_a_stream_that_tells_no_usage_pays_for_its_events(pair: tuple[Provider, Provider]) -> None:
    one, _ = pair
    one.always(Reply.text("one two three", usage=False))
    router = served(one)
    ask(router, stream=True, max_tokens=4000)
    assert 0 < router.stats("a").tpm_current < 100


def test_tokens_of_a_block_take_the_place_of_the_estimate(pair: tuple[Provider, Provider]) -> None:
    router = served(pair[0])
    records: list[Any] = []
    router.on_attempt(records.append)
    with router.options(tokens=777):
        ask(router)
    assert records[0].tokens == 777
    ask(router, max_tokens=10**30)
    assert records[1].kind is None


# --- arguments ---


def test_a_coroutine_function_is_no_send_of_a_thread() -> None:
    router = two()

    async def send(lease: Lease) -> str:
        return lease.deployment_id

    for more in ({}, {"tokens": 3}):
        with pytest.raises(TypeError, match="use call_async"):
            router.call("m", send, **more)  # type: ignore[arg-type, unused-coroutine]
    assert (router.stats("a").total_successes, router.metrics().in_flight) == (0, 0)


def test_wishes_may_be_iterators() -> None:
    router, seen = Router([Deployment(id_, "m", tags=["x"]) for id_ in "ab"], retry=Retry(backoff=Backoff(base=0.0))), []

    def send(lease: Lease) -> None:
        seen.append(lease.deployment_id)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        router.call("m", send, only=iter("a"), tags=iter("x"))
    assert seen == ["a", "a", "a"]


def test_odd_arguments_are_refused_before_anything_is_sent() -> None:
    router = two()
    with pytest.raises(TypeError, match=r"records must be a list, not \(\)"):
        router.call("m", lambda lease: 1, records=())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="only must be an iterable of str, not 5"):
        router.options(only=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="router must be a Router, not None"):
        turnout.httpx2.Client(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inner must be a transport for threads or None, not 'aiohttp'"):
        turnout.httpx2.Client(router, inner="aiohttp")  # type: ignore[arg-type]
    assert router.metrics().attempts == 0


def test_an_alias_has_the_options_and_fallbacks_of_its_model_name() -> None:
    once = Options(retry=Retry(attempts=1))
    router = Router([Deployment("a", "m"), Deployment("c", "n")], fallbacks=Fallbacks({"m": ["n"]}), model_options={"m": once})
    router.add_alias("best", "m")
    seen = []

    def send(lease: Lease) -> str:
        seen.append(lease.deployment_id)
        if lease.deployment_id == "a":
            raise ConnectionError
        return lease.deployment_id

    assert router.call("best", send) == "c"
    assert seen == ["a", "c"]


def test_options_of_a_block_hold_for_what_is_called_in_it() -> None:
    router = two()

    async def send(lease: Lease) -> str:
        return lease.deployment_id

    async def main() -> str:
        with router.options(only=["b"]):
            called = router.call_async("m", send)
        return await called

    assert asyncio.run(main()) == "b"


def test_a_loop_that_is_asked_again_after_its_end_tells_nothing_twice() -> None:
    error = ConnectionError()
    router = two(retry=Retry(budget=Budget(share=0, per_second=0)))
    loop = router.attempts("m")
    for _ in range(3):
        with pytest.raises(ConnectionError):  # noqa: PT012 - the loop raises
            for attempt in loop:
                with attempt:
                    raise error
    assert (len(getattr(error, "__notes__", ())), router.metrics().budget_refusals) == (1, 1)


def test_the_routers_own_budget_is_never_forgotten() -> None:
    router = Router([Deployment("a", "m")], clock=ManualClock())
    router.configure(retry=Retry(budget=Budget(share=0.5, per_second=0)))
    for _ in range(100):
        router.call("m", lambda lease: 1)
    for nth in range(100):
        router.call("m", lambda lease: 1, retry=Retry(budget=Budget(share=0.1 + nth / 1000)))
    assert router._budget(0.5, 0.0, 10.0).balance() == pytest.approx(50)


def test_the_kind_of_a_record_is_that_of_a_time_out_of_the_caller() -> None:
    router, records = two(), []  # type: ignore[var-annotated]

    async def send(lease: Lease) -> None:
        await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        asyncio.run(router.call_async("m", send, timeouts=Timeouts(total=0.05), records=records))
    assert [record.kind for record in records] == [FailureKind.TIMEOUT]
    assert router.stats("a").total_failures == 0
