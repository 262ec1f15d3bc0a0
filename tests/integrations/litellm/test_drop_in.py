"""What a program of LiteLLM's Router counts on when another import is all that changes."""

import asyncio
import gc
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from turnout import Hedge
from turnout.testing import Provider, Reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")
    import openai

from hosting import MESSAGES, QUIET, counted, entry, in_flight
from turnout.integrations.litellm import NoDeployments, Router

pytestmark = QUIET


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


# --- settings ---


def test_tags_are_for_callbacks_alone_unless_they_filter(provider: Provider) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b", tags=["x"])])
    assert router.completion("m", MESSAGES, metadata={"tags": ["team-x"]}).choices


@pytest.mark.parametrize(("matches_any", "expected"), [(None, {"a", "b"}), (True, {"a", "b"}), (False, {"b"})])
def test_one_tag_is_enough_unless_all_are_asked_for(provider: Provider, matches_any: bool | None, expected: set[str]) -> None:
    entries = [entry(provider, "a", tags=["x"]), entry(provider, "b", tags=["x", "y"])]
    router = Router(entries, enable_tag_filtering=True, tag_filtering_match_any=matches_any)
    answers = [router.completion("m", MESSAGES, metadata={"tags": ["x", "y"]}, mock_response="hi") for _ in range(40)]
    assert {answer._hidden_params["model_id"] for answer in answers} == expected


def test_default_params_are_for_what_a_request_does_not_say(provider: Provider) -> None:
    router = Router([entry(provider, "a")], default_litellm_params={"temperature": 0.25})
    router.completion("m", MESSAGES)
    router.completion("m", MESSAGES, temperature=0.5)
    assert [request.json["temperature"] for request in provider.requests] == [0.25, 0.5]


@both
def test_the_time_of_a_deployment_comes_before_that_of_the_router(provider: Provider, is_async: bool) -> None:
    router = Router([entry(provider, "patient", timeout=20), entry(provider, "usual")], timeout=0.2, num_retries=0)
    provider.always(Reply.text("late").delay(head=0.6))
    assert called(router, is_async, model="patient").choices
    with pytest.raises(litellm.Timeout):
        called(router, is_async, model="usual")
    with pytest.raises(litellm.Timeout):
        called(router, is_async, model="patient", timeout=0.2)


def test_prices_of_a_deployment_make_the_cost_of_an_answer(provider: Provider) -> None:
    priced = entry(provider, "a", input_cost_per_token=1.0, output_cost_per_token=2.0)
    costs = [made(model_list=[priced]).completion(model="m", messages=MESSAGES) for made in (litellm.Router, Router)]
    assert costs[0]._hidden_params["response_cost"] == costs[1]._hidden_params["response_cost"] > 1


def test_a_request_leaves_the_settings_as_they_are(provider: Provider) -> None:
    router = Router([entry(provider, "a", extra_body={"seed": 7}, extra_headers={"x-a": "1"})])
    before = repr(router.turnout.get_deployment("a").metadata["litellm_params"])
    router.completion("m", MESSAGES, extra_body={"user": "u"})
    assert repr(router.turnout.get_deployment("a").metadata["litellm_params"]) == before


# --- deployments and settings that change ---


def test_deployments_are_of_litellms_class(provider: Provider) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b", "n")])
    deployment = router.get_deployment("a")
    assert (deployment.model_name, deployment.litellm_params.model, deployment.model_info.id) == ("m", "openai/gpt-4o", "a")
    assert router.get_deployment_by_model_group_name("n").model_info.id == "b"
    assert router.delete_deployment("b").model_info.id == "b"
    assert router.get_deployment_by_model_group_name("n") is router.get_deployment("b") is router.get_model_info("b") is None
    assert (router.has_model_id("a"), router.has_model_id("b")) == (True, False)
    names = [router.resolve_model_name_from_model_id(name) for name in ("a", "openai/gpt-4o", "m", "unknown", None)]
    assert names == ["m", "m", "m", None, None]


def test_aliases_are_listed_as_litellms_router_lists_them(provider: Provider) -> None:
    aliases = {"al": "m", "secret": {"model": "m", "hidden": True}}
    listed = []
    for made in (litellm.Router, Router):
        router = made(model_list=[entry(provider, "a")], model_group_alias=aliases)
        found = (router.get_model_list(), router.get_model_list(model_name="al"), router.get_model_list(model_name="unknown"))
        listed.append([[(one["model_name"], one["model_info"]["id"]) for one in part] for part in found])
    assert listed[0] == listed[1]
    assert router.get_model_names() == ["al", "m"]


def test_settings_change_while_the_router_is_in_use(provider: Provider) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b")], num_retries=0)
    with router.turnout.acquire("m", only=["a"]):
        router.update_settings(routing_strategy="least-busy", num_retries=1)
        assert router.get_available_deployment("m")["model_info"]["id"] == "b"
    assert (router.routing_strategy, router.get_settings()["num_retries"]) == ("least-busy", 1)
    provider.script(Reply.error(500))
    assert router.completion("m", MESSAGES).choices
    with pytest.raises(ValueError, match="by-feeling"):
        router.update_settings(routing_strategy="by-feeling")
    assert router.routing_strategy == "least-busy"


def test_batches_of_completions(provider: Provider) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b", "n")], num_retries=0)

    async def run() -> tuple[Any, Any, Any, Any]:
        return (
            await router.abatch_completion(["m", "unknown"], MESSAGES),
            await router.abatch_completion(["m", "n"], [MESSAGES, MESSAGES, MESSAGES]),
            await router.abatch_completion_one_model_multiple_requests("m", [MESSAGES, MESSAGES]),
            await router.schedule_acompletion("m", MESSAGES, priority=1),
        )

    one, many, same, scheduled = asyncio.run(run())
    assert [type(answer).__name__ for answer in one] == ["ModelResponse", "BadRequestError"]
    assert [[answer._hidden_params["model_id"] for answer in answers] for answers in many] == [["a", "b"]] * 3
    assert len(same) == 2
    assert scheduled.choices
    assert in_flight(router.turnout) == 0


@pytest.mark.parametrize("streams", [False, True])
def test_messages_of_anthropic(provider: Provider, streams: bool) -> None:
    if streams:
        pytest.importorskip("fastapi", reason="LiteLLM reads these streams with a part of its proxy")
    router = Router([entry(provider, "a", model="anthropic/claude-sonnet-4-5", api_base=provider.url)])

    async def run() -> None:
        answer = await router.anthropic_messages(model="m", messages=MESSAGES, max_tokens=10, stream=streams)
        if streams:
            assert [part async for part in answer]
        else:
            assert answer["content"][0]["text"]

    asyncio.run(run())
    assert counted(router.turnout) == (1, 1, 0)
    assert router.turnout.metrics().total_tokens > 0


# --- requests ---


@both
def test_the_model_of_a_deployment_names_it(provider: Provider, is_async: bool) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b", model="openai/gpt-4.1")])
    for specific in (True, False):
        answer = called(router, is_async, model="openai/gpt-4.1", specific_deployment=specific)
        assert answer._hidden_params["model_id"] == "b"


@both
def test_a_fallback_may_have_keywords_of_its_own(provider: Provider, is_async: bool) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b", "n")], num_retries=0)
    provider.script(Reply.error(500))
    called(router, is_async, temperature=0.1, fallbacks=[{"model": "n", "temperature": 0.9}])
    assert [request.json["temperature"] for request in provider.requests] == [0.1, 0.9]


@pytest.mark.parametrize(
    ("asked", "setting", "error"),
    [
        ("mock_testing_fallbacks", "fallbacks", "InternalServerError"),
        ("mock_testing_context_fallbacks", "context_window_fallbacks", "ContextWindowExceededError"),
        ("mock_testing_content_policy_fallbacks", "content_policy_fallbacks", "ContentPolicyViolationError"),
    ],
)
def test_a_failure_can_be_simulated(provider: Provider, asked: str, setting: str, error: str) -> None:
    settings: dict[str, Any] = {setting: [{"m": ["n"]}]}
    router = Router([entry(provider, "a"), entry(provider, "b", "n")], **settings)
    answer = router.completion("m", MESSAGES, **{asked: True})
    assert answer._hidden_params["model_id"] == "b"
    assert router.turnout.stats("a").total_requests == 0
    with pytest.raises(getattr(litellm, error)):
        router.completion("n", MESSAGES, **{asked: True})


def test_a_refusal_is_of_both_classes_that_litellms_router_raises(provider: Provider) -> None:
    from litellm.types.router import RouterRateLimitError

    router = Router([entry(provider, "a", rpm=1)], num_retries=0)
    router.completion("m", MESSAGES)
    for expected in (NoDeployments, RouterRateLimitError, litellm.RateLimitError, openai.RateLimitError, ValueError):
        with pytest.raises(expected) as refused:
            router.completion("m", MESSAGES)
    assert 0 < refused.value.cooldown_time <= 60
    assert "rpm_limit" in str(refused.value)


@both
def test_an_answer_says_where_it_comes_from(provider: Provider, is_async: bool) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b", "n")], num_retries=0, fallbacks=[{"m": ["n"]}])
    provider.script(Reply.error(500))
    hidden = called(router, is_async)._hidden_params
    assert hidden["model_id"] == "b"
    names = ("model-group", "attempted-retries", "attempted-fallbacks")
    assert [hidden["additional_headers"][f"x-litellm-{name}"] for name in names] == ["n", 0, 1]
    retried = Router([entry(provider, "a"), entry(provider, "b")], num_retries=1)
    provider.script(Reply.error(500))
    assert called(retried, is_async)._hidden_params["additional_headers"]["x-litellm-attempted-retries"] == 1


def test_callbacks_are_told_of_the_deployment(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    from litellm.integrations.custom_logger import CustomLogger

    class Logger(CustomLogger):  # type: ignore[misc] # its types are not read
        def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
            seen.append(kwargs["litellm_params"]["metadata"])

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(litellm, "callbacks", [Logger()])
    router = Router([entry(provider, "a"), entry(provider, "b", "n")], num_retries=0, fallbacks=[{"m": ["n"]}])
    provider.script(Reply.error(500))
    router.completion("m", MESSAGES, metadata={"mine": 1})
    assert [(one["model_group"], one["model_info"]["id"], one["mine"]) for one in seen] == [("m", "a", 1), ("n", "b", 1)]


@both
@pytest.mark.parametrize("settings", [{}, {"timeout": 30}])
def test_requests_share_a_connection(provider: Provider, is_async: bool, settings: dict[str, Any]) -> None:
    router = Router([entry(provider, "a")], **settings)

    async def run() -> None:
        for _ in range(10):
            await router.acompletion("m", MESSAGES)

    if is_async:
        asyncio.run(run())
    else:
        for _ in range(10):
            router.completion("m", MESSAGES)
    assert provider.connections == 1


@pytest.mark.parametrize(("left", "expected"), [(599.97, 600.0), (600.0, 600.0), (29.2, 30.0), (0.123, 0.13), (0.0, 0.001)])
def test_the_rest_of_the_time_is_rounded_up(left: float, expected: float) -> None:
    from turnout.integrations.litellm.params import _rounded

    assert _rounded(left) == pytest.approx(expected)


@both
@pytest.mark.parametrize("settings", [{"default_fallbacks": ["n", "o"]}, {"fallbacks": [{"*": ["n", "o"]}]}])
def test_default_fallbacks_serve_a_name_that_nobody_serves(provider: Provider, is_async: bool, settings: dict[str, Any]) -> None:
    entries = [entry(provider, "a"), entry(provider, "b", "n"), entry(provider, "c", "o")]
    router = Router(entries, num_retries=0, **settings)
    assert called(router, is_async, model="unknown")._hidden_params["model_id"] == "b"
    provider.script(Reply.error(500))
    assert called(router, is_async, model="unknown")._hidden_params["model_id"] == "c"


@pytest.mark.parametrize("streams", [False, True])
def test_a_slow_attempt_gets_a_hedge(provider: Provider, streams: bool) -> None:
    router = Router([entry(provider, "a"), entry(provider, "b")])
    router.turnout.configure(hedge=Hedge(after=0.1))
    provider.script(Reply.text("late").hang(after="request"), Reply.text("in time"))

    async def run() -> str:
        answer = await router.acompletion("m", MESSAGES, stream=streams)
        return text_of([part async for part in answer]) if streams else str(answer.choices[0].message.content)

    assert asyncio.run(run()) == "in time"
    assert router.turnout.metrics().hedges == 1
    assert in_flight(router.turnout) == 0


def test_deployments_change_while_requests_run() -> None:
    def mocked(id_: str, **params: Any) -> dict[str, Any]:
        return {
            "model_name": "m",
            "litellm_params": {"model": "openai/m", "mock_response": id_, **params},
            "model_info": {"id": id_},
        }

    router = Router([mocked("a"), mocked("b")], num_retries=0)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(router.completion, "m", MESSAGES) for _ in range(100)]
        for nth in range(30):
            router.upsert_deployment(mocked("c", rpm=1000 + nth))
            router.delete_deployment("c")
        assert {answer.result().choices[0].message.content for answer in answers} <= {"a", "b", "c"}
    assert router.get_model_ids() == ["a", "b"]
    assert in_flight(router.turnout) == 0
