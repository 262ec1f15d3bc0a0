"""LiteLLM's own Router, in which turnout picks: nothing stays in flight, and each attempt counts once."""

import asyncio
import gc
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from turnout import Deployment, Router, Status
from turnout.testing import Provider, Reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")
    pytest.importorskip("litellm.router_python_host", reason="litellm is older than 1.110")

from hosting import MESSAGES, QUIET, counted, entry, in_flight, nothing_in_flight
from turnout.integrations.litellm.host import routed, turnout_of

pytestmark = QUIET


def three(provider: Provider, **more: Any) -> Any:
    entries = [entry(provider, id_) for id_ in "abc"]
    return routed(**{"model_list": entries, "routing_strategy": "least-busy", "num_retries": 0, "retry_after": 0, **more})


class TestAttempts:
    def test_success(self, provider: Provider) -> None:
        router = three(provider)

        async def run() -> list[Any]:
            return [await router.acompletion("m", MESSAGES) for _ in range(9)]

        answers = asyncio.run(run())
        mine = turnout_of(router)
        assert in_flight(mine) == 0
        assert counted(mine) == (9, 9, 0)
        assert mine.metrics().total_tokens == sum(answer.usage.total_tokens for answer in answers) > 0

    def test_success_in_plain_code(self, provider: Provider) -> None:
        router = three(provider)
        for _ in range(3):
            router.completion("m", MESSAGES)
        router.embedding("m", input=["a"])
        assert in_flight(turnout_of(router)) == 0
        assert counted(turnout_of(router)) == (4, 4, 0)
        assert len(provider.requests) == 4

    @pytest.mark.parametrize("op", ["aembedding", "aresponses"])
    def test_other_endpoints(self, provider: Provider, op: str) -> None:
        router = three(provider)
        asyncio.run(getattr(router, op)(model="m", input="a"))
        assert in_flight(turnout_of(router)) == 0
        assert counted(turnout_of(router)) == (1, 1, 0)

    @pytest.mark.parametrize(
        ("reply", "failures", "cooling"),
        [
            (Reply.error(500), 1, 0),
            (Reply.text().drop(after="request"), 1, 0),
            (Reply.error(429, retry_after=30), 1, 1),
            (Reply.error(401), 1, 1),
            (Reply.error(400), 0, 0),
        ],
    )
    @pytest.mark.parametrize("sync", [False, True])
    def test_a_failure_is_of_its_kind(self, provider: Provider, reply: Reply, failures: int, cooling: int, sync: bool) -> None:
        mine = Router([Deployment(id_, "m") for id_ in "abc"])
        router = three(provider, turnout_router=mine)
        provider.always(reply)
        with pytest.raises(Exception, match="litellm"):
            router.completion("m", MESSAGES) if sync else asyncio.run(router.acompletion("m", MESSAGES))
        assert in_flight(mine) == 0
        assert counted(mine) == (1, 0, failures)
        assert mine.metrics().cooling_down == cooling

    def test_retries_go_to_other_deployments(self, provider: Provider) -> None:
        router = three(provider, num_retries=2)
        provider.script(Reply.error(500), Reply.error(500))
        asyncio.run(router.acompletion("m", MESSAGES))
        mine = turnout_of(router)
        assert in_flight(mine) == 0
        assert counted(mine) == (3, 1, 2)
        assert [mine.stats(id_).total_requests for id_ in "abc"] == [1, 1, 1]

    def test_cancelled(self, provider: Provider) -> None:
        router = three(provider)
        provider.always(Reply.text().hang(after="request"))

        async def run() -> None:
            calls = [asyncio.create_task(router.acompletion("m", MESSAGES)) for _ in range(9)]
            await asyncio.to_thread(provider.wait_for_requests, 9)
            assert [turnout_of(router).stats(id_).in_flight for id_ in "abc"] == [3, 3, 3]
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert in_flight(turnout_of(router)) == 0

        asyncio.run(run())
        assert counted(turnout_of(router)) == (9, 0, 0)

    def test_cancelled_in_a_task_that_goes_on(self, provider: Provider) -> None:
        router = three(provider)
        provider.always(Reply.text().hang(after="request"))

        async def run() -> None:
            for _ in range(3):
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_later(0.2, task.cancel)
                with pytest.raises(asyncio.CancelledError):
                    await router.acompletion("m", MESSAGES)
                assert in_flight(turnout_of(router)) == 0

        asyncio.run(run())


class TestStreams:
    @pytest.mark.parametrize("include_usage", [False, True])
    def test_read_to_the_end(self, provider: Provider, include_usage: bool) -> None:
        router = three(provider)
        more = {"stream_options": {"include_usage": True}} if include_usage else {}

        async def run() -> None:
            for _ in range(6):
                stream = await router.acompletion("m", MESSAGES, stream=True, **more)
                assert in_flight(turnout_of(router)) == 1
                assert "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
            assert in_flight(turnout_of(router)) == 0

        asyncio.run(run())
        mine = turnout_of(router)
        assert counted(mine) == (6, 6, 0)
        assert mine.metrics().total_tokens > 0
        assert any(mine.stats(id_).avg_first_token for id_ in "abc")

    def test_read_in_plain_code(self, provider: Provider) -> None:
        router = three(provider)
        stream = router.completion("m", MESSAGES, stream=True)
        assert in_flight(turnout_of(router)) == 1
        assert list(stream)
        assert counted(turnout_of(router)) == (1, 1, 0)
        assert in_flight(turnout_of(router)) == 0

    def test_of_responses(self, provider: Provider) -> None:
        router = three(provider)

        async def run() -> None:
            stream = await router.aresponses(model="m", input="hi", stream=True)
            assert in_flight(turnout_of(router)) == 1
            assert [event async for event in stream]

        asyncio.run(run())
        assert counted(turnout_of(router)) == (1, 1, 0)
        assert turnout_of(router).metrics().total_tokens > 0
        assert in_flight(turnout_of(router)) == 0

    @pytest.mark.parametrize("reads", [0, 1])
    def test_dropped(self, provider: Provider, reads: int) -> None:
        router = three(provider)
        provider.always(Reply.text("one two three four").hang(after=3))

        async def run() -> None:
            streams = [await router.acompletion("m", MESSAGES, stream=True) for _ in range(6)]
            for stream in streams:
                for _ in range(reads):
                    await stream.__anext__()
            assert in_flight(turnout_of(router)) == 6
            del streams, stream
            await nothing_in_flight(turnout_of(router))

        asyncio.run(run())
        assert counted(turnout_of(router)) == (6, 0, 0)

    def test_of_responses_dropped(self, provider: Provider) -> None:
        router = three(provider)
        provider.always(Reply.text("one two three four").hang(after=3))

        async def run() -> None:
            stream = await router.aresponses(model="m", input="hi", stream=True)
            assert in_flight(turnout_of(router)) == 1
            del stream
            await nothing_in_flight(turnout_of(router))

        asyncio.run(run())
        assert counted(turnout_of(router)) == (1, 0, 0)

    def test_dropped_in_plain_code(self, provider: Provider) -> None:
        router = three(provider)
        provider.always(Reply.text("one two three four").hang(after=3))
        stream = router.completion("m", MESSAGES, stream=True)
        next(stream)
        assert in_flight(turnout_of(router)) == 1
        del stream
        gc.collect()
        assert in_flight(turnout_of(router)) == 0

    def test_closed(self, provider: Provider) -> None:
        router = three(provider)
        provider.always(Reply.text("one two three four").hang(after=3))

        async def run() -> None:
            stream = await router.acompletion("m", MESSAGES, stream=True)
            await stream.__anext__()
            await stream.aclose()
            await nothing_in_flight(turnout_of(router))

        asyncio.run(run())
        assert counted(turnout_of(router)) == (1, 0, 0)

    def test_cancelled_while_it_is_read(self, provider: Provider) -> None:
        router = three(provider)
        provider.always(Reply.text("one two three four").hang(after=3))

        async def read() -> None:
            async for _ in await router.acompletion("m", MESSAGES, stream=True):
                pass

        async def run() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(read(), 0.3)
            await nothing_in_flight(turnout_of(router))

        asyncio.run(run())
        assert counted(turnout_of(router)) == (1, 0, 0)

    def test_that_breaks(self, provider: Provider) -> None:
        router = three(provider)
        provider.always(Reply.text("one two three four").drop(after=3))

        async def run() -> None:
            stream = await router.acompletion("m", MESSAGES, stream=True)
            with pytest.raises(Exception, match="litellm"):
                async for _ in stream:
                    pass

        asyncio.run(run())
        assert in_flight(turnout_of(router)) == 0
        assert counted(turnout_of(router)) == (1, 0, 1)

    def test_that_fails_at_its_start_is_tried_again(self, provider: Provider) -> None:
        router = three(provider, num_retries=1)
        provider.script(Reply.text("one").drop(after="head"))

        async def run() -> None:
            stream = await router.acompletion("m", MESSAGES, stream=True)
            assert [part async for part in stream]

        asyncio.run(run())
        assert in_flight(turnout_of(router)) == 0
        assert counted(turnout_of(router)) == (2, 1, 1)


class TestPicks:
    def test_a_refused_pick_falls_back(self, provider: Provider) -> None:
        entries = [entry(provider, "a", rpm=1), entry(provider, "spare", "n")]
        router = routed(model_list=entries, fallbacks=[{"m": ["n"]}], num_retries=0)
        mine = turnout_of(router)

        async def run() -> list[Any]:
            return [await router.acompletion("m", MESSAGES) for _ in range(3)]

        asyncio.run(run())
        assert in_flight(mine) == 0
        assert [mine.stats(id_).total_requests for id_ in ("a", "spare")] == [1, 2]

    def test_a_refused_pick_is_what_litellm_raises(self, provider: Provider) -> None:
        from litellm.types.router import RouterRateLimitError

        router = routed(model_list=[entry(provider, "a", rpm=1)], num_retries=0)
        router.completion("m", MESSAGES)
        with pytest.raises(RouterRateLimitError, match="rpm") as caught:
            router.completion("m", MESSAGES)
        assert caught.value.status_code == 429
        assert 0 < caught.value.cooldown_time <= 60
        assert len(provider.requests) == 1

    def test_limits_hold_exactly(self, provider: Provider) -> None:
        mine = Router([Deployment(id_, "m", max_parallel_requests=2) for id_ in "abc"])
        router = three(provider, turnout_router=mine)
        provider.always(Reply.text().delay(head=0.2))

        async def run() -> list[Any]:
            return await asyncio.gather(*(router.acompletion("m", MESSAGES) for _ in range(30)), return_exceptions=True)

        answers = asyncio.run(run())
        assert sum(isinstance(answer, Exception) for answer in answers) == 24
        assert len(provider.requests) == 6
        assert in_flight(mine) == 0

    def test_names(self, provider: Provider) -> None:
        entries = [entry(provider, "a"), entry(provider, "any", "openai/*", model="openai/*")]
        router = routed(model_list=entries, model_group_alias={"alias": "m"}, num_retries=0)
        for name in ("alias", "a", "openai/gpt-4o-mini"):
            router.completion(name, MESSAGES)
        assert [request.model for request in provider.requests] == ["gpt-4o", "gpt-4o", "gpt-4o-mini"]
        mine = turnout_of(router)
        assert [mine.stats(id_).total_requests for id_ in ("a", "any")] == [2, 1]
        with pytest.raises(litellm.BadRequestError, match="nope"):
            router.completion("nope", MESSAGES)

    def test_deployments_that_come_and_go(self, provider: Provider) -> None:
        from litellm.router_api import ChangeSet
        from litellm.types.router import Deployment as LiteLLMDeployment

        router = routed(model_list=[entry(provider, "a")], num_retries=0)
        router.completion("m", MESSAGES)
        router.apply(ChangeSet(upsert=[LiteLLMDeployment(**entry(provider, "b"))]))
        for _ in range(20):
            router.completion("m", MESSAGES)
        mine = turnout_of(router)
        assert mine.stats("b").total_requests > 0
        router.apply(ChangeSet(delete=["a"]))
        before = mine.stats("b").total_requests
        router.completion("m", MESSAGES)
        assert turnout_of(router).models() == ["m"]
        assert mine.stats("b").total_requests == before + 1
        assert "a" not in mine

    @pytest.mark.parametrize(("tags", "ids"), [(["paid"], {"a"}), (None, {"b"}), (["unknown"], {"b"})])
    def test_tags(self, provider: Provider, tags: Any, ids: set[str]) -> None:
        entries = [entry(provider, "a", tags=["paid"]), entry(provider, "b", tags=["default"]), entry(provider, "c")]
        router = routed(model_list=entries, enable_tag_filtering=True, num_retries=0)
        for _ in range(10):
            router.completion("m", MESSAGES, **({"metadata": {"tags": tags}} if tags else {}))
        mine = turnout_of(router)
        assert {id_ for id_ in "abc" if mine.stats(id_).total_requests} == ids

    def test_secrets_stay_with_litellm(self, provider: Provider) -> None:
        router = three(provider)
        assert "sk-any" not in repr([(d, dict(d.metadata), d.endpoint) for d in turnout_of(router).deployments()])

    def test_a_router_of_another_maker(self, provider: Provider) -> None:
        with pytest.raises(LookupError, match="routed"):
            turnout_of(litellm.Router(model_list=[entry(provider, "a")]))

    def test_a_pick_without_an_attempt(self, provider: Provider) -> None:
        router = three(provider)

        async def run() -> None:
            for _ in range(3):
                await router.select("m", {})
                assert in_flight(turnout_of(router)) == 1  # it may be followed by an attempt

        asyncio.run(run())
        assert in_flight(turnout_of(router)) == 0
        assert counted(turnout_of(router))[1:] == (0, 0)


def test_threads(provider: Provider) -> None:
    router = three(provider)

    def ask(_: int) -> Any:
        return router.completion("m", MESSAGES)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(ask, range(40)))) == 40
    assert in_flight(turnout_of(router)) == 0
    assert counted(turnout_of(router)) == (40, 40, 0)


def test_cooling_down(provider: Provider) -> None:
    router = three(provider, num_retries=3)
    provider.script(Reply.error(429, retry_after=30))
    router.completion("m", MESSAGES)
    mine = turnout_of(router)
    assert sorted(mine.stats(id_).status for id_ in "abc").count(Status.COOLING_DOWN) == 1


def test_an_answer_from_the_cache_was_never_asked_for(provider: Provider) -> None:
    pytest.importorskip("fastapi", reason="litellm's cache needs fastapi")
    from litellm.caching.caching import Cache

    litellm.cache = None
    router = three(provider, cache_responses=True)

    async def run() -> None:
        for _ in range(3):
            await router.acompletion("m", MESSAGES)
            await asyncio.sleep(0.05)  # LiteLLM fills its cache in a task of its own

    try:
        assert isinstance(litellm.cache, Cache)
        asyncio.run(run())
    finally:
        litellm.cache = None
    mine = turnout_of(router)
    assert in_flight(mine) == 0
    assert counted(mine)[1] == len(provider.requests) == 1
    assert sum(mine.stats(id_).rpm_current for id_ in "abc") == 1
