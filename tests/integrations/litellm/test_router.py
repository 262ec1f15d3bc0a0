"""The Router in place of LiteLLM's: nothing stays in flight, and each attempt counts once."""

import asyncio
import contextlib
import gc
import pickle
import time
import warnings
from typing import Any

import pytest
from turnout import ConfigurationError, FailureKind, Status, attempts_of
from turnout.testing import Provider, Reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")

from hosting import MESSAGES, QUIET, counted, entry, in_flight, nothing_in_flight
from turnout.integrations.litellm import Router

pytestmark = QUIET


def three(provider: Provider, **more: Any) -> Router:
    entries = [entry(provider, id_) for id_ in "abc"]
    return Router(**{"model_list": entries, "routing_strategy": "least-busy", "num_retries": 0, **more})


# Each way to call: as plain code and as a task.
def called(router: Router, is_async: bool, name: str = "completion", **keywords: Any) -> Any:
    keywords = {"model": "m", **({"messages": MESSAGES} if name == "completion" else {}), **keywords}
    if not is_async:
        return getattr(router, name)(**keywords)
    return asyncio.run(getattr(router, f"a{name}")(**keywords))


both = pytest.mark.parametrize("is_async", [False, True])


# --- answers ---


@both
def test_a_success_settles_the_tokens(provider: Provider, is_async: bool) -> None:
    router = three(provider)
    answers = [called(router, is_async) for _ in range(6)]
    assert in_flight(router.turnout) == 0
    assert counted(router.turnout) == (6, 6, 0)
    assert router.turnout.metrics().total_tokens == sum(answer.usage.total_tokens for answer in answers) > 0
    assert {type(answer).__name__ for answer in answers} == {"ModelResponse"}
    assert {answer._hidden_params["model_id"] for answer in answers} <= {*"abc"}


@both
@pytest.mark.parametrize(
    ("name", "keywords"),
    [("embedding", {"input": ["a"]}), ("responses", {"input": "a"}), ("text_completion", {"prompt": "a"})],
)
def test_other_endpoints(provider: Provider, is_async: bool, name: str, keywords: dict[str, Any]) -> None:
    if name == "text_completion":
        keywords["mock_response"] = "hi"  # the scripted provider has no such endpoint
    router = three(provider)
    called(router, is_async, name, **keywords)
    assert in_flight(router.turnout) == 0
    assert counted(router.turnout) == (1, 1, 0)


def test_the_deployments_settings_and_the_requests_reach_the_provider(provider: Provider) -> None:
    router = Router([entry(provider, "a", temperature=0.5, top_p=0.9, rpm=5, weight=2, order=1, tags=["x"])])
    router.completion("m", MESSAGES, top_p=0.1, metadata={"tags": ["x"]})
    [request] = provider.requests
    assert (request.json["temperature"], request.json["top_p"], request.json["model"]) == (0.5, 0.1, "gpt-4o")
    assert not {"rpm", "weight", "order", "tags", "metadata", "num_retries"} & request.json.keys()
    assert request.headers["authorization"] == "Bearer sk-any"


def test_a_name_with_a_star_is_filled_in(provider: Provider) -> None:
    router = Router([entry(provider, "a", "openai/*", model="openai/*")])
    router.completion("openai/gpt-4.1-mini", MESSAGES)
    assert provider.requests[0].json["model"] == "gpt-4.1-mini"


def test_a_key_from_the_environment_is_read_at_each_use(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    router = Router([entry(provider, "a", api_key="os.environ/TURNOUT_TEST_KEY")])
    for key in ("sk-one", "sk-two"):
        monkeypatch.setenv("TURNOUT_TEST_KEY", key)
        router.completion("m", MESSAGES)
    assert [request.headers["authorization"] for request in provider.requests] == ["Bearer sk-one", "Bearer sk-two"]


# --- failures ---


@both
@pytest.mark.parametrize(
    ("reply", "error", "kind"),
    [
        (Reply.error(500), "InternalServerError", FailureKind.ERROR),
        (Reply.error(429, retry_after=30), "RateLimitError", FailureKind.RATE_LIMIT),
        (Reply.error(401), "AuthenticationError", FailureKind.AUTH),
        (Reply.error(400), "BadRequestError", FailureKind.BAD_REQUEST),
        (Reply.error(400, code="context_length_exceeded"), "ContextWindowExceededError", FailureKind.CONTEXT_WINDOW),
    ],
)
def test_the_last_error_is_raised_as_it_is(provider: Provider, is_async: bool, reply: Reply, error: str, kind: FailureKind) -> None:
    router = three(provider)
    provider.always(reply)
    with pytest.raises(getattr(litellm, error)) as raised:
        called(router, is_async)
    assert [record.kind for record in attempts_of(raised.value)] == [kind]
    assert in_flight(router.turnout) == 0
    assert len(provider.requests) == 1


@both
def test_a_failure_is_tried_again_elsewhere(provider: Provider, is_async: bool) -> None:
    router = three(provider, num_retries=2)
    provider.script(Reply.error(500), Reply.error(503))
    answer = called(router, is_async)
    assert len(provider.requests) == 3
    assert counted(router.turnout) == (3, 1, 2)
    assert in_flight(router.turnout) == 0
    failed = {id_ for id_ in "abc" if router.turnout.stats(id_).total_failures}
    assert answer._hidden_params["model_id"] not in failed
    assert len(failed) == 2


@both
def test_retries_of_the_request_come_first(provider: Provider, is_async: bool) -> None:
    router = three(provider, num_retries=2)
    provider.always(Reply.error(500))
    with pytest.raises(litellm.InternalServerError):
        called(router, is_async, num_retries=0)
    assert len(provider.requests) == 1


@both
def test_fallbacks_of_the_router_and_of_the_request(provider: Provider, is_async: bool) -> None:
    entries = [entry(provider, "a", "m"), entry(provider, "b", "n"), entry(provider, "c", "o")]
    router = Router(entries, num_retries=0, fallbacks=[{"m": ["n"]}])
    provider.script(Reply.error(500))
    assert called(router, is_async)._hidden_params["model_id"] == "b"
    provider.script(Reply.error(500))
    assert called(router, is_async, fallbacks=["o"])._hidden_params["model_id"] == "c"
    provider.script(Reply.error(500))
    assert called(router, is_async, fallbacks=[{"m": ["o"]}])._hidden_params["model_id"] == "c"
    provider.script(Reply.error(500))
    with pytest.raises(litellm.InternalServerError):
        called(router, is_async, disable_fallbacks=True)


@both
def test_a_prompt_that_is_too_long_has_fallbacks_of_its_own(provider: Provider, is_async: bool) -> None:
    entries = [entry(provider, "a", "m"), entry(provider, "b", "n")]
    router = Router(entries, context_window_fallbacks=[{"m": ["n"]}])
    provider.script(Reply.error(400, code="context_length_exceeded"))
    assert called(router, is_async)._hidden_params["model_id"] == "b"


@both
def test_refusals_are_errors_of_litellm(provider: Provider, is_async: bool) -> None:
    router = Router([entry(provider, "a", rpm=1)])
    called(router, is_async)
    with pytest.raises(litellm.RateLimitError, match="rpm_limit") as refused:
        called(router, is_async)
    assert 0 < float(refused.value.response.headers["retry-after"]) <= 60
    with pytest.raises(litellm.BadRequestError, match="no deployment serves the model"):
        called(router, is_async, model="unknown")
    assert len(provider.requests) == 1


@both
def test_a_deployment_is_named_by_its_id(provider: Provider, is_async: bool) -> None:
    router = three(provider)
    for id_ in "abc":
        assert called(router, is_async, model=id_)._hidden_params["model_id"] == id_
    assert called(router, is_async, model="b", specific_deployment=True)._hidden_params["model_id"] == "b"


@both
def test_tags_choose(provider: Provider, is_async: bool) -> None:
    router = Router([entry(provider, "a", tags=["free"]), entry(provider, "b", tags=["paid"])], enable_tag_filtering=True)
    for tag, id_ in (("free", "a"), ("paid", "b")):
        assert called(router, is_async, metadata={"tags": [tag]})._hidden_params["model_id"] == id_
    with pytest.raises(litellm.RateLimitError, match="tags"):
        called(router, is_async, metadata={"tags": ["unknown"]})


# --- time ---


@both
def test_an_attempt_that_takes_too_long_is_tried_elsewhere(provider: Provider, is_async: bool) -> None:
    router = three(provider, num_retries=1, timeout=0.5)
    provider.script(Reply.text("late").hang(after="request"))
    called(router, is_async)
    assert in_flight(router.turnout) == 0
    assert counted(router.turnout)[1:] == (1, 1)


@both
def test_a_timeout_is_litellms(provider: Provider, is_async: bool) -> None:
    router = three(provider)
    provider.always(Reply.text("late").hang(after="request"))
    with pytest.raises(litellm.Timeout):
        called(router, is_async, timeout=0.3)
    assert in_flight(router.turnout) == 0


def test_a_cancelled_call_leaves_nothing(provider: Provider) -> None:
    router = three(provider)
    provider.always(Reply.text("late").hang(after="request"))

    async def run() -> None:
        tasks = [asyncio.create_task(router.acompletion("m", MESSAGES)) for _ in range(9)]
        while in_flight(router.turnout) < 9:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await nothing_in_flight(router.turnout)

    asyncio.run(run())
    assert counted(router.turnout) == (9, 0, 0)


# --- streams ---


def test_a_stream_holds_its_lease_until_its_end(provider: Provider) -> None:
    router = three(provider)
    provider.always(Reply.text("one two three"))
    stream = router.completion("m", MESSAGES, stream=True, stream_options={"include_usage": True})
    assert isinstance(stream, litellm.CustomStreamWrapper)
    assert in_flight(router.turnout) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert (text, in_flight(router.turnout)) == ("one two three", 0)
    assert router.turnout.metrics().total_tokens > 0


@pytest.mark.parametrize("ending", ["read", "dropped", "closed", "cancelled", "broken"])
def test_a_stream_of_a_task_gives_its_place_back(provider: Provider, ending: str) -> None:
    router = three(provider)
    reply = Reply.text("one two three four")
    provider.always(reply.drop(after=2) if ending == "broken" else reply.hang(after=2) if ending == "cancelled" else reply)

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    async def run() -> None:
        streams = [await router.acompletion("m", MESSAGES, stream=True) for _ in range(6)]
        assert in_flight(router.turnout) == 6
        for stream in streams:
            with contextlib.suppress(*([Exception] if ending == "broken" else [])):
                await stream.__anext__()
        if ending == "closed":
            for stream in streams:
                await stream.aclose()
        elif ending == "cancelled":
            tasks = [asyncio.create_task(read(stream)) for stream in streams]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        elif ending != "dropped":
            await asyncio.gather(*map(read, streams), return_exceptions=True)
        streams.clear()
        del stream
        await nothing_in_flight(router.turnout)

    asyncio.run(run())
    requests, successes, failures = counted(router.turnout)
    expected = {"read": (6, 0), "broken": (0, 6)}.get(ending, (0, 0))
    assert (requests, (successes, failures)) == (6, expected)


def test_a_dropped_stream_of_plain_code_gives_its_place_back(provider: Provider) -> None:
    router = three(provider)
    # Its connections are left out: a frame of LiteLLM's may keep one for a while.
    stream = router.completion("m", MESSAGES, stream=True, mock_response="one two three")
    next(stream)
    assert in_flight(router.turnout) == 1
    del stream
    deadline = time.monotonic() + 20
    while in_flight(router.turnout):  # a thread of LiteLLM's may still have it
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.001)
    assert counted(router.turnout) == (1, 0, 0)


@both
def test_a_stream_that_does_not_open_is_tried_elsewhere(provider: Provider, is_async: bool) -> None:
    router = three(provider, num_retries=1)
    provider.script(Reply.error(429, retry_after=30))
    provider.always(Reply.text("one two"))

    async def run() -> int:
        return len([chunk async for chunk in await router.acompletion("m", MESSAGES, stream=True)])

    assert (asyncio.run(run()) if is_async else len(list(router.completion("m", MESSAGES, stream=True)))) > 0
    assert in_flight(router.turnout) == 0
    assert counted(router.turnout) == (2, 1, 1)
    assert sum(router.turnout.stats(id_).status is Status.COOLING_DOWN for id_ in "abc") == 1


# --- deployments ---


def test_the_deployments_can_be_listed_and_changed(provider: Provider) -> None:
    router = three(provider)
    assert [one["model_info"]["id"] for one in router.get_model_list()] == [*"abc"]
    assert router.get_model_names() == router.model_names == ["m"]
    assert router.get_model_ids("m") == [*"abc"]
    assert router.get_model_list("unknown") == []
    assert router.get_model_ids("unknown") == []
    router.turnout.record_success("a", tokens=7)
    router.upsert_deployment(entry(provider, "a", rpm=3))
    assert router.turnout.stats("a").total_tokens == 7, "it keeps what was counted"
    assert router.turnout.get_deployment("a").rpm_limit == 3
    assert router.add_deployment(entry(provider, "a")) is None
    router.add_deployment(entry(provider, "d", "n"))
    assert router.get_model_names() == ["m", "n"]
    deleted = router.delete_deployment("d")
    assert deleted is not None
    assert deleted["model_name"] == "n"
    assert router.delete_deployment("unknown") is None
    assert router.get_deployment("d") is None
    with pytest.raises(ConfigurationError, match="'x' is given twice"):
        router.set_model_list([entry(provider, "x"), entry(provider, "x")])
    assert router.get_model_ids() == [*"bca"] or router.get_model_ids() == [*"abc"]


def test_deployments_of_litellms_class_are_taken(provider: Provider) -> None:
    from litellm.types.router import Deployment, LiteLLM_Params

    made = Deployment(
        model_name="m", litellm_params=LiteLLM_Params(model="openai/gpt-4o", api_base=provider.base_url, api_key="sk-any", rpm=9)
    )
    router = Router([made])
    router.completion("m", MESSAGES)
    assert len(provider.requests) == 1


def test_a_pick_without_a_call(provider: Provider) -> None:
    router = three(provider)
    assert router.get_available_deployment("m", messages=MESSAGES)["model_info"]["id"] in {*"abc"}
    assert asyncio.run(router.async_get_available_deployment("m", request_kwargs={}))["model_name"] == "m"
    assert in_flight(router.turnout) == 0


def test_a_method_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match=r"docs/litellm\.md"):
        Router().acreate_batch  # noqa: B018


def test_settings_without_effect_are_named() -> None:
    with pytest.warns(UserWarning, match="optional_pre_call_checks"):
        Router([], optional_pre_call_checks=["x"])
    with pytest.raises(ConfigurationError, match="optional_pre_call_checks"):
        Router([], strict=True, optional_pre_call_checks=["x"])


def test_keys_show_nowhere(provider: Provider) -> None:
    router = Router([entry(provider, "a", api_key="sk-very-secret")])
    for text in (repr(router), repr(router.turnout.deployments()), str(router.turnout.explain("m"))):
        assert "sk-very-secret" not in text
    provider.always(Reply.error(500))
    with pytest.raises(litellm.InternalServerError) as raised:
        router.completion("m", MESSAGES, num_retries=0)
    assert "sk-very-secret" not in f"{raised.value}{getattr(raised.value, '__notes__', '')}"


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"num_retries": "two"}, "num_retries must be an int, not 'two'"),
        ({"num_retries": -1}, "num_retries must be at least 0, not -1"),
        ({"fallbacks": "n"}, "fallbacks must be a list"),
        ({"fallbacks": [{"m": "n"}]}, "fallbacks must be a list of model names or of mappings"),
        ({"model": 5}, "model must be a str, not 5"),
    ],
)
def test_bad_arguments_are_named(provider: Provider, keywords: dict[str, Any], words: str) -> None:
    router = three(provider)
    with pytest.raises((TypeError, ConfigurationError), match=words):
        router.completion(**{"model": "m", "messages": MESSAGES, **keywords})
    assert provider.requests == []
    assert in_flight(router.turnout) == 0


def test_an_error_can_be_pickled_with_its_attempts(provider: Provider) -> None:
    router = three(provider)
    provider.always(Reply.error(500))
    with pytest.raises(litellm.InternalServerError) as raised:
        router.completion("m", MESSAGES)
    assert pickle.loads(pickle.dumps(attempts_of(raised.value)))[0].kind is FailureKind.ERROR


def test_secrets_within_settings_reach_the_provider(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_TEST_TOKEN", "from-env")
    headers = {"x-one": "sk-literal-secret", "x-two": "os.environ/TURNOUT_TEST_TOKEN"}
    router = Router([entry(provider, "a", extra_headers=headers, extra_body={"user_token": "sk-in-body"})])
    router.completion("m", MESSAGES)
    [request] = provider.requests
    assert (request.headers["x-one"], request.headers["x-two"]) == ("sk-literal-secret", "from-env")
    assert request.json["user_token"] == "sk-in-body"
    assert "secret" not in repr(router.turnout.deployments())
    assert "sk-in-body" not in repr(router.turnout.deployments())
