"""Configs in LiteLLM's form: what each setting comes to, and what has no effect here."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from turnout import (
    Backoff,
    ConfigurationError,
    Deployment,
    Endpoint,
    Env,
    FailureKind,
    Fallbacks,
    Health,
    Limit,
    ManualClock,
    MinuteRules,
    Router,
    Status,
    Strategy,
    Timeouts,
)
from turnout.config import Loaded, check, load
from turnout.execution.options import RETRIED


def entry(name: str = "m", model: str = "openai/gpt-x", info: Any = None, **params: Any) -> dict[str, Any]:
    made = {"model_name": name, "litellm_params": {"model": model, **params}}
    return made if info is None else {**made, "model_info": info}


def loaded(*entries: dict[str, Any], **settings: Any) -> Loaded:
    return check({"model_list": list(entries) or [entry()], "router_settings": settings})


def said(found: Loaded, level: str | None = None) -> list[str]:
    return [f"{one.where}: {one.text}" for one in found.problems if level in (None, one.level)]


def one(**params: Any) -> Deployment:
    return loaded(entry(**params)).deployments[0]


# --- entries ---


def test_an_entry_is_a_deployment_with_an_endpoint() -> None:
    (deployment,) = loaded(
        entry("gpt", "azure/gpt-eu", api_base="https://eu.azure.com/", api_key="os.environ/KEY", api_version="2024-10-21", rpm=6)
    ).deployments
    endpoint = deployment.endpoint
    assert endpoint == Endpoint(
        "https://eu.azure.com/openai/deployments/gpt-eu", api_key=Env("KEY"), auth="api-key", query={"api-version": "2024-10-21"}
    )
    assert (deployment.deployment_id, deployment.model_name) == ("gpt:azure/gpt-eu@eu.azure.com", "gpt")
    assert (deployment.model, deployment.rpm_limit) == ("gpt-eu", 6)
    assert deployment.metadata["litellm_params"]["model"] == "azure/gpt-eu"


@pytest.mark.parametrize(
    ("model", "params", "endpoint", "name"),
    [
        ("openai/gpt-4o", {}, Endpoint("https://api.openai.com/v1", api_key=Env("OPENAI_API_KEY")), "gpt-4o"),
        ("gpt-4o", {"api_key": "sk-1"}, Endpoint("https://api.openai.com/v1", api_key="sk-1"), "gpt-4o"),
        ("claude-x", {}, Endpoint("https://api.anthropic.com", api_key=Env("ANTHROPIC_API_KEY"), dialect="anthropic"), "claude-x"),
        (
            "anthropic/c",
            {"api_base": "https://h.example/v1"},
            Endpoint("https://h.example", api_key=Env("ANTHROPIC_API_KEY"), dialect="anthropic"),
            "c",
        ),
        ("groq/llama", {}, Endpoint("https://api.groq.com/openai/v1", api_key=Env("GROQ_API_KEY")), "llama"),
        (
            "hosted_vllm/org/m",
            {"api_base": "http://h:8000/v1"},
            Endpoint("http://h:8000/v1", api_key=Env("HOSTED_VLLM_API_KEY")),
            "org/m",
        ),
        ("m", {"custom_llm_provider": "vllm", "api_base": "http://h/v1"}, Endpoint("http://h/v1"), "m"),
        ("bedrock/anthropic.c", {}, None, "bedrock/anthropic.c"),
        ("unknown", {}, None, "unknown"),
        ("hosted_vllm/m", {}, None, "hosted_vllm/m"),
    ],
)
def test_where_a_provider_is(model: str, params: dict[str, Any], endpoint: Endpoint | None, name: str) -> None:
    deployment = loaded(entry("m", model, **params)).deployments[0]
    assert (deployment.endpoint, deployment.model) == (endpoint, name)


def test_limits_of_all_kinds() -> None:
    deployment = one(rpm="10", tpm=10.0, max_parallel_requests="3", itpm=5, otpm=6, rpd=7, tpd=8, daily_reset_time="08:30")
    assert (deployment.rpm_limit, deployment.tpm_limit, deployment.max_parallel_requests) == (10, 10, 3)
    assert deployment.limits == (
        Limit(input_tokens=5),
        Limit(output_tokens=6),
        Limit(requests=7, per=86400, offset=30600),
        Limit(tokens=8, per=86400, offset=30600),
    )
    # What stands beside the model name comes first.
    assert loaded({**entry(rpm=5), "rpm": 9}).deployments[0].rpm_limit == 9
    assert loaded(entry(rpm=5), default_max_parallel_requests=4).deployments[0].max_parallel_requests == 4


WRONG = [
    ({"rpm": 10.5}, "litellm_params.rpm: this must be a whole number, not 10.5"),
    ({"rpm": "ten"}, "litellm_params.rpm: this must be a number, not 'ten'"),
    ({"rpm": True}, "litellm_params.rpm: this must be a number, not True"),
    ({"tpm": -1}, "litellm_params.tpm: this must be 0 or more, not -1"),
    ({"weight": "heavy"}, "litellm_params.weight: this must be a number, not 'heavy'"),
    ({"tags": "eu"}, "litellm_params.tags: this must be a list of texts, not 'eu'"),
    ({"daily_reset_time": "25:00"}, "daily_reset_time: this must be a time such as '08:00', not '25:00'"),
    (
        {"rpm": "os.environ/NOT_THERE"},
        "litellm_params.rpm: the environment variable 'NOT_THERE' is not set, and a limit must not vanish",
    ),
    ({"model": ""}, "litellm_params.model must be a text with at least one character, not ''"),
]


@pytest.mark.parametrize(("params", "words"), WRONG, ids=[words[:40] for _, words in WRONG])
def test_wrong_values_of_an_entry(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as failed:
        load({"model_list": [entry(**params)]})
    assert words in str(failed.value)


@pytest.mark.parametrize(
    "model_list", [5, [5], [{"model_name": "m"}], [{"litellm_params": {"model": "x"}}], [{"model_name": "m", "litellm_params": 5}]]
)
def test_a_list_of_another_shape(model_list: Any) -> None:
    with pytest.raises(ConfigurationError, match="model_list"):
        load({"model_list": model_list})


def test_weights_are_by_weight_else_by_requests_else_by_tokens() -> None:
    def weights(*params: dict[str, Any]) -> list[int]:
        return [deployment.weight for deployment in loaded(*(entry(**one) for one in params)).deployments]

    assert weights({}, {}) == [1, 1]
    assert weights({"weight": 1}, {}, {"weight": "99"}) == [1, 0, 99]
    assert weights({"weight": 0.5}, {"weight": 2}) == [1, 4]
    assert weights({"rpm": 900}, {"rpm": 100}, {"tpm": 5}) == [900, 100, 0]
    assert weights({"tpm": 3}, {"tpm": 1}) == [3, 1]
    assert weights({"rpm": 900, "weight": 1}, {"rpm": 100, "weight": 1}) == [1, 1]
    assert weights({"weight": 10**12}, {"weight": 1}) == [2**32 - 1, 1]
    found = loaded(entry("x", weight=3), entry("y"))
    assert [deployment.weight for deployment in found.deployments] == [3, 1]


def test_what_is_out_of_service_is_left_out_and_named() -> None:
    found = loaded(entry(tpm=0), entry(info={"blocked": True}), entry(rpm=1))
    assert [deployment.rpm_limit for deployment in found.deployments] == [1]
    assert sum("is out of service" in one for one in said(found, "note")) == 2


def test_an_order_turns_tiers_on() -> None:
    found = loaded(entry(order=2), entry(order="1"), entry(), entry("other"))
    assert found.options["tiers"] is True
    assert [deployment.priority for deployment in found.deployments] == [2, 1, 2**32 - 1, 0]
    assert found.router().get_deployment(found.router().select("m")).priority == 1


def test_ids_are_given_or_tell_the_entries_apart() -> None:
    found = loaded(entry(info={"id": 7}), entry(), entry(), entry(api_base="https://h.example/v1"))
    ids = [deployment.deployment_id for deployment in found.deployments]
    assert ids == ["7", "m:openai/gpt-x", "m:openai/gpt-x#2", "m:openai/gpt-x@h.example"]
    with pytest.raises(ConfigurationError, match="the id '7' is given twice"):
        load({"model_list": [entry(info={"id": 7}), entry(info={"id": "7"})]})


def test_what_goes_to_the_provider_is_kept_and_secrets_do_not_show() -> None:
    deployment = one(model="bedrock/x", temperature=0.5, aws_secret_access_key="very-secret", timeout=5)
    params = deployment.metadata["litellm_params"]
    assert (params["temperature"], params["timeout"]) == (0.5, 5)
    assert params["aws_secret_access_key"] == SecretStr("very-secret")
    assert "very-secret" not in repr(deployment)
    assert one(tags=["a"], region_name="eu").tags == ("a", "eu")


def test_rules_of_one_entry() -> None:
    assert one(cooldown_time="7").health == Health(cooldown_time=7)
    assert one(info={"allowed_fails": 2}).health == MinuteRules(allowed_fails=3, min_requests=0, majority=False)
    assert loaded(entry(cooldown_time=9), allowed_fails=1).deployments[0].health == MinuteRules(
        allowed_fails=2, min_requests=0, cooldown_time=9, majority=False
    )
    assert one().health is None
    assert loaded({**entry(), "model_info": None}).deployments[0].health is None


# --- settings ---


def test_settings_of_the_router() -> None:
    found = loaded(
        entry("a"),
        entry("b"),
        routing_strategy="latency-based-routing",
        routing_groups=[{"group_name": "g", "models": ["b"], "routing_strategy": "least-busy"}],
        model_group_alias={"x": "a", "y": {"model": "b", "hidden": True}},
        num_retries=4,
        retry_after=2,
        timeout=30,
        stream_timeout="5",
        allowed_fails=3,
        cooldown_time=60,
    )
    options = found.options
    assert (options["strategy"], options["strategies"]) == (Strategy.LATENCY_BASED, {"b": Strategy.LEAST_BUSY})
    assert found.aliases == {"x": "a", "y": "b"}
    assert (options["retry"].attempts, options["retry"].backoff) == (5, Backoff(base=2, factor=1.0, jitter="none"))
    assert options["timeouts"] == Timeouts(attempt=30, first_token=5)
    # LiteLLM allows so many; here it is the number that is too many.
    assert options["health"] == MinuteRules(allowed_fails=4, min_requests=0, cooldown_time=60, majority=False)
    assert said(found) == []
    assert found.router().resolve("y") == "b"


def test_cooldowns() -> None:
    assert loaded(cooldown_time=9).options["health"] == Health(cooldown_time=9)
    found = loaded(cooldown_time=0)
    assert found.options["health"] == Health(cooldown_time=5.0)
    assert said(found, "note") == ["router_settings.cooldown_time: LiteLLM takes 0 for 5 seconds: disable_cooldowns is for none"]
    never = loaded(disable_cooldowns=True).router()
    for _ in range(20):
        never.record_failure("m:openai/gpt-x")
    assert never.stats("m:openai/gpt-x").cooldown_remaining == 0.0


def test_policies_of_retries() -> None:
    policy = {"TimeoutErrorRetries": 0, "RateLimitErrorRetries": 4, "BadRequestErrorRetries": 2, "Timeout": 1}
    found = loaded(retry_policy=policy, model_group_retry_policy={"m": {"InternalServerErrorRetries": 1}})
    retry = found.options["retry"]
    assert (retry.attempts, retry.kinds) == (5, RETRIED - {FailureKind.TIMEOUT})
    # LiteLLM makes two retries for the kinds that a policy does not name.
    assert found.options["model_options"]["m"].retry.attempts == 3
    named = dict.fromkeys(("AuthenticationErrorRetries", "TimeoutErrorRetries", "RateLimitErrorRetries"), 0)
    none = loaded(retry_policy={**named, "InternalServerErrorRetries": 1}).options["retry"]
    assert none.attempts == 2
    assert [one.partition(":")[0] for one in said(found, "warning")] == [
        "router_settings.retry_policy.BadRequestErrorRetries",
        "router_settings.retry_policy.Timeout",
    ]


def test_fallbacks_of_all_kinds() -> None:
    found = loaded(
        entry("a"),
        entry("b"),
        entry("c"),
        fallbacks=[{"a": ["b", {"model": "c"}]}, {"*": ["c"]}],
        context_window_fallbacks=[{"a": ["c"]}],
        content_policy_fallbacks=[{"b": ["c"]}],
    )
    assert found.options["fallbacks"] == Fallbacks(
        {"a": ["b", "c"], "b": ["c"]}, context_window={"a": ["c"]}, content_policy={"b": ["c"]}
    )
    default = loaded(entry("a"), entry("b"), default_fallbacks=["b"]).options["fallbacks"]
    assert default == Fallbacks({"a": ["b"]})
    short = loaded(entry("a"), entry("b"), entry("c"), fallbacks=[{"a": ["b", "c"]}], max_fallbacks=1).options["fallbacks"]
    assert short == Fallbacks({"a": ["b"]})


@pytest.mark.parametrize(
    ("settings", "level", "words"),
    [
        ({"fallbacks": [{"model": "m", "fallback_models": ["n"]}]}, "error", "not model and fallback_models"),
        ({"fallbacks": [{"m": "n"}]}, "error", "must be a list of model names, not 'n'"),
        ({"fallbacks": "m"}, "error", "must be a list of {name: [names]}, not 'm'"),
        ({"fallbacks": {"m": ["n"]}}, "warning", "LiteLLM takes no mapping here"),
        ({"fallbacks": [{"m": ["m"]}]}, "note", "'m' falls back to itself"),
        ({"fallbacks": [{"m": ["nn"]}]}, "warning", "nobody serves 'nn', which is a fallback"),
        ({"model_group_alias": ["m"]}, "error", "must map names to model names"),
        ({"model_group_alias": {"x": 5}}, "error", "must be a model name, not 5"),
        ({"routing_strategy": "lar1"}, "error", 'unknown strategy "lar1"'),
        ({"enable_load_balancing": True}, "warning", "it is always on"),
        ({"fallback_models": []}, "warning", "did you mean 'fallbacks'?"),
        ({"rpm": 5}, "warning", "it belongs into litellm_params of each entry"),
        ({"redis_host": "h"}, "warning", "each process counts for itself"),
        ({"num_retrys": 5}, "warning", "did you mean 'num_retries'?"),
        ({"num_retries": 10**12}, "error", "router_settings.num_retries: attempts must be an int from 1"),
        ({"cooldown_time": 10**12}, "error", "router_settings.cooldown_time: cooldown_time must be a finite number"),
        ({"routing_groups": "g"}, "error", "this must be a list of groups, not 'g'"),
        ({"num_retries": "many"}, "error", "must be a number, not 'many'"),
    ],
)
def test_slips_are_named(settings: dict[str, Any], level: str, words: str) -> None:
    found = loaded(**settings)
    assert any(words in one for one in said(found, level)), said(found)
    if level == "warning":
        with pytest.raises(ConfigurationError):
            load({"model_list": [entry()], "router_settings": settings}, strict=True)


def test_slips_of_an_entry_are_named() -> None:
    found = loaded(entry(rpm_limit=5, tag_regex=["x"]), entry("n", model="openai/*"))
    assert [one.partition(": ")[2] for one in said(found, "warning")] == [
        "LiteLLM knows no such setting: did you mean 'rpm'?",
        "this has no effect: tags are compared as a whole here",
        "this '*' stands for nothing: model_name has none",
    ]


def test_settings_of_the_router_come_before_those_of_litellm() -> None:
    config = {
        "model_list": [entry("a"), entry("b")],
        "litellm_settings": {"num_retries": 9, "request_timeout": 7, "drop_params": True, "fallbacks": [{"a": ["b"]}]},
        "router_settings": {"num_retries": 1},
        "general_settings": {"master_key": "sk-1"},
        "environment_variables": {},
    }
    options = load(config, strict=True).options
    assert (options["retry"].attempts, options["timeouts"], options["fallbacks"]) == (
        2,
        Timeouts(attempt=7),
        Fallbacks({"a": ["b"]}),
    )


def test_a_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "gpt")
    path = tmp_path / "litellm_config.yaml"
    path.write_text("""\
model_list:
  - model_name: os.environ/NAME
    litellm_params: &shared
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 600
  - model_name: other
    litellm_params:
      <<: *shared
      rpm: 6
router_settings:
  routing_strategy: least-busy
""")
    router = Router.from_config(path, strict=True)
    assert [(one.model_name, one.rpm_limit) for one in router.deployments()] == [("gpt", 600), ("other", 6)]
    assert router.strategy is Strategy.LEAST_BUSY


# --- names with *, the default tag, prices, retries ---


def test_a_name_with_a_star_is_a_pattern() -> None:
    found = loaded(
        entry("openai/*", model="openai/*"),
        entry("*", model="anthropic/*"),
        entry("azure/*", model="azure/*", api_base="https://eu.example.com"),
        fallbacks=[{"openai/large": ["claude"]}, {"openai/*": ["azure/gpt"]}],
    )
    assert said(found) == []
    router = found.router()
    for name, model, has_endpoint in (("openai/gpt", "gpt", True), ("claude", "claude", True), ("azure/gpt", "gpt", False)):
        with router.acquire(name) as lease:
            assert (lease.model, lease.deployment.endpoint is not None) == (model, has_endpoint)


def test_the_strategy_of_one_name_of_a_pattern_has_no_effect() -> None:
    found = loaded(
        entry("openai/*", model="openai/*"),
        routing_groups=[{"group_name": "g", "models": ["openai/gpt"], "routing_strategy": "least-busy"}],
    )
    assert any("the strategy of 'openai/gpt' has no effect: name 'openai/*'" in one for one in said(found, "warning"))


@pytest.mark.parametrize(("enabled", "tag"), [(True, "default"), (None, None), (False, None)])
def test_filtering_by_tags_has_a_default_tag(enabled: bool | None, tag: str | None) -> None:
    found = loaded(entry(tags=["default"]), entry("m", api_base="https://b.example"), enable_tag_filtering=enabled)
    assert found.router().default_tag == tag
    assert bool(said(found, "warning")) == (enabled is False)


def test_costs_of_tokens_are_prices_of_a_million() -> None:
    found = loaded(
        entry("m", input_cost_per_token=1.5e-07, output_cost_per_token="6e-7"),
        {**entry("m", api_base="https://b.example"), "model_info": {"input_cost_per_token": 2.5e-06}},
        routing_strategy="cost-based-routing",
    )
    first, second = found.deployments
    assert (first.input_price, first.output_price) == (0.15, 0.6)
    assert (second.input_price, second.output_price) == (2.5, None)
    assert said(found) == []
    assert found.router().strategy is Strategy.CHEAPEST
    assert found.router().select("m") == first.deployment_id
    without = loaded(entry("m"), routing_strategy="cost-based-routing")
    assert any("has no price, so it is picked last" in one for one in said(without, "warning"))
    wrong = loaded(entry("m", input_cost_per_token="free"))
    assert any("input_cost_per_token: this must be a number, not 'free'" in one for one in said(wrong, "error"))


def test_retries_of_an_entry_are_its_own() -> None:
    found = loaded(entry("m", num_retries=0), entry("m", api_base="https://b.example"), num_retries=3, retry_after=1)
    first, second = found.deployments
    assert first.retry is not None
    assert (first.retry.attempts, first.retry.backoff, second.retry) == (1, Backoff(base=1, factor=1.0, jitter="none"), None)
    assert found.options["retry"].attempts == 4


def test_allowed_fails_are_allowed_whatever_the_rate() -> None:
    router = loaded(entry("m"), entry("m", api_base="https://b.example"), allowed_fails=100).router(clock=ManualClock())
    [id_, _] = [one.deployment_id for one in router.deployments()]
    for _ in range(100):
        router.record_failure(id_)
    assert router.stats(id_).status is not Status.COOLING_DOWN
    router.record_failure(id_)
    assert router.stats(id_).status is Status.COOLING_DOWN
