"""The plugin for LiteLLM's Router: nothing stays in flight, and each attempt counts once."""

import asyncio
import gc
import time
import warnings
from typing import Any

import pytest
from turnout import Deployment, Router
from turnout.testing import Provider, Reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")
    pytest.importorskip("litellm.router_python_host", reason="litellm is older than 1.110")

from hosting import MESSAGES, QUIET, counted, entry, in_flight, nothing_in_flight
from turnout.integrations.litellm.hooks import Hooks
from turnout.integrations.litellm.plugin import Plugin

pytestmark = QUIET


def three(provider: Provider, mine: Router | None = None, **more: Any) -> tuple[Any, Router]:
    entries = [entry(provider, id_) for id_ in "abc"]
    settings = {"model_list": entries, "routing_strategy": "least-busy", "num_retries": 0, "retry_after": 0, **more}
    router = litellm.Router(**settings)
    plugin = Plugin(router, turnout_router=mine)
    router.register_plugin(plugin)
    return router, plugin.turnout_router


def ended(router: Router) -> None:
    """Waits for what LiteLLM tells from a thread of its own."""
    deadline = time.monotonic() + 20
    while in_flight(router):
        assert time.monotonic() < deadline, router.snapshot()
        gc.collect()
        time.sleep(0.001)


def test_success(provider: Provider) -> None:
    router, mine = three(provider)

    async def run() -> list[Any]:
        answers = [await router.acompletion("m", MESSAGES) for _ in range(9)]
        assert in_flight(mine) == 0  # at once
        return answers

    answers = asyncio.run(run())
    assert counted(mine) == (9, 9, 0)
    assert mine.metrics().total_tokens == sum(answer.usage.total_tokens for answer in answers) > 0


def test_success_in_plain_code(provider: Provider) -> None:
    router, mine = three(provider)
    for _ in range(3):
        router.completion("m", MESSAGES)
    ended(mine)
    assert counted(mine) == (3, 3, 0)


@pytest.mark.parametrize("op", ["aembedding", "aresponses"])
def test_other_endpoints(provider: Provider, op: str) -> None:
    router, mine = three(provider)
    asyncio.run(getattr(router, op)(model="m", input="a"))
    assert in_flight(mine) == 0
    assert counted(mine) == (1, 1, 0)


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
def test_a_failure_is_of_its_kind(provider: Provider, reply: Reply, failures: int, cooling: int, sync: bool) -> None:
    router, mine = three(provider, Router([Deployment(id_, "m") for id_ in "abc"]))
    provider.always(reply)
    with pytest.raises(Exception, match="litellm"):
        router.completion("m", MESSAGES) if sync else asyncio.run(router.acompletion("m", MESSAGES))
    ended(mine)
    assert counted(mine) == (1, 0, failures)
    assert mine.metrics().cooling_down == cooling


def test_retries_go_to_other_deployments(provider: Provider) -> None:
    router, mine = three(provider, num_retries=2)
    provider.script(Reply.error(500), Reply.error(500))
    asyncio.run(router.acompletion("m", MESSAGES))
    assert in_flight(mine) == 0
    assert counted(mine) == (3, 1, 2)
    assert [mine.stats(id_).total_requests for id_ in "abc"] == [1, 1, 1]


def test_retries_in_plain_code(provider: Provider) -> None:
    router, mine = three(provider, num_retries=2)
    provider.script(Reply.error(500), Reply.error(500))
    router.completion("m", MESSAGES)
    ended(mine)
    assert counted(mine) == (3, 1, 2)


def test_cancelled(provider: Provider) -> None:
    router, mine = three(provider)
    provider.always(Reply.text().hang(after="request"))

    async def run() -> None:
        calls = [asyncio.create_task(router.acompletion("m", MESSAGES)) for _ in range(9)]
        await asyncio.to_thread(provider.wait_for_requests, 9)
        assert [mine.stats(id_).in_flight for id_ in "abc"] == [3, 3, 3]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)  # callbacks of tasks
        assert in_flight(mine) == 0

    asyncio.run(run())
    assert counted(mine) == (9, 0, 0)


def test_cancelled_in_a_task_that_goes_on(provider: Provider) -> None:
    router, mine = three(provider)
    provider.always(Reply.text().hang(after="request"))

    async def run() -> None:
        for _ in range(3):
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.2, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await router.acompletion("m", MESSAGES)
            await nothing_in_flight(mine)

    asyncio.run(run())
    assert counted(mine) == (3, 0, 0)


def test_a_stream_that_is_read(provider: Provider) -> None:
    router, mine = three(provider)

    async def run() -> None:
        for _ in range(6):
            stream = await router.acompletion("m", MESSAGES, stream=True)
            assert in_flight(mine) >= 1
            assert [part async for part in stream]
        await nothing_in_flight(mine)

    asyncio.run(run())
    assert counted(mine) == (6, 6, 0)
    assert mine.metrics().total_tokens > 0
    assert any(mine.stats(id_).avg_first_token for id_ in "abc")


def test_a_stream_that_is_read_in_plain_code(provider: Provider) -> None:
    router, mine = three(provider)
    assert list(router.completion("m", MESSAGES, stream=True))
    ended(mine)
    assert counted(mine) == (1, 1, 0)


@pytest.mark.parametrize("reads", [0, 1])
def test_streams_that_are_dropped(provider: Provider, reads: int) -> None:
    router, mine = three(provider)
    provider.always(Reply.text("one two three four").hang(after=3))

    async def run() -> None:
        streams = [await router.acompletion("m", MESSAGES, stream=True) for _ in range(6)]
        for stream in streams:
            for _ in range(reads):
                await stream.__anext__()
        assert in_flight(mine) == 6
        del streams, stream
        await nothing_in_flight(mine)

    asyncio.run(run())
    assert counted(mine) == (6, 0, 0)


def test_a_stream_that_is_dropped_in_plain_code(provider: Provider) -> None:
    router, mine = three(provider)
    provider.always(Reply.text("one two three four").hang(after=3))
    stream = router.completion("m", MESSAGES, stream=True)
    next(stream)
    assert in_flight(mine) == 1
    del stream
    ended(mine)
    assert counted(mine) == (1, 0, 0)


def test_a_stream_that_is_opened_in_a_task_of_its_own(provider: Provider) -> None:
    router, mine = three(provider)

    async def run() -> None:
        stream = await asyncio.wait_for(router.acompletion("m", MESSAGES, stream=True), 20)
        await asyncio.sleep(0)
        assert in_flight(mine) == 1
        assert [part async for part in stream]
        await nothing_in_flight(mine)

    asyncio.run(run())
    assert counted(mine) == (1, 1, 0)


def test_a_stream_that_breaks(provider: Provider) -> None:
    router, mine = three(provider)
    provider.always(Reply.text("one two three four").drop(after=3))

    async def run() -> None:
        stream = await router.acompletion("m", MESSAGES, stream=True)
        with pytest.raises(Exception, match="litellm"):
            async for _ in stream:
                pass
        await nothing_in_flight(mine)

    asyncio.run(run())
    assert counted(mine)[:2] == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_what_litellm_tells_late_is_about_the_attempt_before(provider: Provider, stream: bool) -> None:
    router, mine = three(provider, num_retries=1)
    provider.script(Reply.error(500), Reply.text("one two three four").delay(head=0.3, between=0.1))

    async def run() -> None:
        answer = await router.acompletion("m", MESSAGES, stream=stream)
        if stream:
            assert [part async for part in answer]
        await nothing_in_flight(mine)

    asyncio.run(run())
    assert counted(mine) == (2, 1, 1)


def test_a_refused_pick_falls_back(provider: Provider) -> None:
    router = litellm.Router(
        model_list=[entry(provider, "a", rpm=1), entry(provider, "spare", "n")], fallbacks=[{"m": ["n"]}], num_retries=0
    )
    plugin = Plugin(router)
    router.register_plugin(plugin)

    async def run() -> list[Any]:
        return [await router.acompletion("m", MESSAGES) for _ in range(3)]

    asyncio.run(run())
    mine = plugin.turnout_router
    assert [mine.stats(id_).total_requests for id_ in ("a", "spare")] == [1, 2]
    assert in_flight(mine) == 0


def test_orders(provider: Provider) -> None:
    router = litellm.Router(model_list=[entry(provider, str(nth), order=nth) for nth in (1, 2)], num_retries=0)
    plugin = Plugin(router)
    router.register_plugin(plugin)
    mine = plugin.turnout_router
    router.completion("m", MESSAGES)
    assert [mine.stats(id_).total_requests for id_ in "12"] == [1, 0]
    provider.script(Reply.error(500))
    asyncio.run(router.acompletion("m", MESSAGES))
    assert [mine.stats(id_).total_requests for id_ in "12"] == [2, 1]


def test_a_task_that_makes_many_calls(provider: Provider) -> None:
    router, mine = three(provider)

    async def run() -> None:
        for _ in range(20):
            await router.acompletion("m", MESSAGES)
        task: Any = asyncio.current_task()
        # What would run at its end: a callback for all calls, and those of the loop.
        assert repr(task).count("cb=") == 1
        assert "more" not in repr(task)
        assert not hooks_of(task)

    asyncio.run(run())
    assert counted(mine) == (20, 20, 0)


def hooks_of(task: Any) -> list[Any]:
    gc.collect()
    [hooks] = [callback for callback in litellm.callbacks if isinstance(callback, Hooks)]
    return list(hooks._tasks[task])


def test_an_answer_from_the_cache_was_never_asked_for(provider: Provider) -> None:
    pytest.importorskip("fastapi", reason="litellm's cache needs fastapi")
    litellm.cache = None
    router, mine = three(provider, cache_responses=True)

    async def run() -> None:
        for _ in range(3):
            await router.acompletion("m", MESSAGES)
            await asyncio.sleep(0.05)  # LiteLLM fills its cache in a task of its own
        await nothing_in_flight(mine)

    try:
        asyncio.run(run())
    finally:
        litellm.cache = None
    assert counted(mine)[1] == len(provider.requests) == 1
    assert sum(mine.stats(id_).rpm_current for id_ in "abc") == 1


def test_a_program_that_replaces_the_callbacks(provider: Provider) -> None:
    router, mine = three(provider)
    litellm.callbacks = []
    asyncio.run(router.acompletion("m", MESSAGES))
    assert counted(mine) == (1, 1, 0)


def test_many_routers_are_one_callback(provider: Provider) -> None:
    for _ in range(3):
        asyncio.run(three(provider)[0].acompletion("m", MESSAGES))
    assert sum(isinstance(callback, Hooks) for callback in litellm.callbacks) == 1


def test_no_warning_of_what_nobody_has_set(provider: Provider) -> None:
    router = litellm.Router(model_list=[entry(provider, "a")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Plugin(router).turnout_router.strategy == "simple_shuffle"
