"""Fifty situations of LiteLLM's own tests of its router, retold. The numbers are those of docs/litellm.md.
That page says why some of them end in another way here.
"""

import asyncio
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from turnout import (
    ConfigurationError,
    FailureKind,
    Lease,
    ManualClock,
    NoAvailableDeployment,
    RateLimitExceeded,
    Status,
    WaitTimeout,
    classify_exception,
)
from turnout import Router as Core

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")

from hosting import MESSAGES
from turnout.integrations.litellm import Router

pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in ("UserWarning", "DeprecationWarning")]  # litellm's


def entries(*params: dict[str, Any], name: str = "m", info: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """A group of deployments with the ids a, b, c, …"""
    more = [*info, *({} for _ in params[len(info) :])]
    return [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/gpt-4o", "api_key": "any", **one},
            "model_info": {"id": id_, **extra},
        }
        for id_, one, extra in zip("abcdefghij", params, more, strict=False)
    ]


def routed(model_list: list[dict[str, Any]], clock: ManualClock | None = None, **settings: Any) -> Core:
    return Core.from_config({"model_list": model_list, "router_settings": settings}, seed=7, clock=clock)


def classify(error: Exception) -> FailureKind | None:
    failure = classify_exception(error)
    return None if failure is None else failure.kind


def picks(router: Core, number: int, **wishes: Any) -> Counter[str]:
    return Counter(router.select("m", **wishes) for _ in range(number))


def hold(router: Core, **number: int) -> list[Lease]:
    return [router.acquire("m", only={id_}) for id_, many in number.items() for _ in range(many)]


def fail(router: Core, id_: str, kind: Any = "error", times: int = 1, **more: Any) -> None:
    for _ in range(times):
        router.record_failure(id_, kind, **more)


# --- least busy ---


def test_01_three_idle_ones_share_the_picks() -> None:
    counts = picks(routed(entries({}, {}, {}), routing_strategy="least-busy"), 300)
    assert min(counts[id_] for id_ in "abc") > 30


def test_02_a_tie_is_shared() -> None:
    router = routed(entries({}, {}), routing_strategy="least-busy")
    leases = hold(router, a=5, b=5)
    assert min(picks(router, 200).values()) > 40
    assert len(leases) == 10


def test_03_the_least_busy_one_gets_all() -> None:
    router = routed(entries({}, {}, {}), routing_strategy="least-busy")
    leases = hold(router, a=10, b=1, c=50)
    assert picks(router, 50) == {"b": 50}
    assert len(leases) == 61


def test_04_an_idle_one_outside_of_the_candidates_is_never_picked() -> None:
    router = routed(entries({"tags": ["x"]}, {"tags": ["x"]}, {}), routing_strategy="least-busy")
    leases = hold(router, a=3, b=3)
    assert picks(router, 100, tags=["x"]).keys() == {"a", "b"}
    assert len(leases) == 6


def test_05_streams_that_open_in_turn_go_to_different_deployments() -> None:
    router = Router(entries({}, {}, {}), routing_strategy="least-busy")
    streams = [router.completion("m", MESSAGES, stream=True, mock_response="one two") for _ in range(3)]
    assert [router.turnout.stats(id_).in_flight for id_ in "abc"] == [1, 1, 1]
    for stream in streams:
        assert list(stream)
    assert router.turnout.metrics().in_flight == 0


# --- shuffle ---


def test_06_a_weight_that_is_missing_beside_others_is_0() -> None:
    counts = picks(routed(entries({}, {"weight": 1}, {"weight": 99})), 1_000)
    assert counts["a"] == 0
    assert counts["c"] > 2 * counts["b"]


def test_07_without_weights_the_rpm_are_the_weights() -> None:
    counts = picks(routed(entries({"rpm": 900}, {"rpm": 100})), 1_000)
    assert 0.85 < counts["a"] / 1_000 < 0.95


# --- usage ---


def test_08_the_one_with_fewer_tokens_used_is_picked() -> None:
    router = routed(entries({"tpm": 1_000}, {"tpm": 1_000}), ManualClock(), routing_strategy="usage-based-routing-v2")
    router.record_success("a", tokens=50)
    router.record_success("b", tokens=20)
    assert picks(router, 10) == {"b": 10}


def test_09_without_a_limit_of_tokens_there_is_no_usage() -> None:
    """LiteLLM compares the tokens themselves, and picks b."""
    router = routed(entries({"rpm": 100}, {"rpm": 100}), ManualClock(), routing_strategy="usage-based-routing-v2")
    router.record_success("a", tokens=50)
    router.record_success("b", tokens=20)
    assert picks(router, 10) == {"a": 10}


def test_10_equal_ones_share_the_requests() -> None:
    """A pick that is not counted leaves them equal, and then the first is picked."""
    router = routed(entries({"tpm": 100_000}, {"tpm": 100_000}), ManualClock(), routing_strategy="usage-based-routing-v2")
    counts: Counter[str] = Counter()
    for _ in range(1_000):
        with router.acquire("m", tokens=100) as lease:
            counts[lease.deployment_id] += 1
    assert min(counts["a"], counts["b"]) > 400
    assert picks(router, 10).keys() == {"a"}


def test_11_a_prompt_that_does_not_fit_any_more_is_refused_with_a_time() -> None:
    router = routed(entries({"tpm": 1_440}), ManualClock(10.0))
    router.record_success("a", tokens=1_439)
    with pytest.raises(RateLimitExceeded) as refused:
        router.acquire("m", tokens=100)
    assert refused.value.retry_after == 50.0


def test_12_a_limit_of_0_is_out_of_service() -> None:
    assert picks(routed(entries({"tpm": 0}, {})), 100) == {"b": 100}


def test_13_one_over_its_limit_is_left_for_the_other() -> None:
    router = routed(entries({"rpm": 1}, {"rpm": 100}), ManualClock())
    router.record_success("a")
    assert picks(router, 50) == {"b": 50}


def test_14_all_over_their_limits_is_an_error_of_rate_limits() -> None:
    router = Router(entries({"rpm": 1}, {"rpm": 1}))
    for _ in range(2):
        router.completion("m", MESSAGES, mock_response="hi")
    with pytest.raises(litellm.RateLimitError):
        router.completion("m", MESSAGES, mock_response="hi")


def test_15_exactly_the_limits_are_admitted() -> None:
    router = routed(entries(*[{"rpm": 10}] * 10), ManualClock(), routing_strategy="usage-based-routing-v2")
    admitted = 0
    for _ in range(500):
        try:
            router.acquire("m").success()
        except RateLimitExceeded:
            continue
        admitted += 1
    assert admitted == 100


# --- cooldowns ---


@pytest.mark.parametrize("kind", ["rate_limit", "auth"])
def test_16_and_17_a_refusal_takes_one_of_two_out_at_once(kind: str) -> None:
    router = routed(entries({}, {}), ManualClock())
    fail(router, "a", kind)
    assert picks(router, 50) == {"b": 50}


def test_18_one_error_takes_nobody_out() -> None:
    router = routed(entries({}, {}), ManualClock())
    fail(router, "a")
    assert picks(router, 100).keys() == {"a", "b"}


def test_19_five_failures_of_five_requests_take_one_out() -> None:
    router = routed(entries({}, {}), ManualClock())
    fail(router, "a", times=5)
    assert picks(router, 50) == {"b": 50}


def test_20_more_failures_than_successes_take_one_out() -> None:
    router = routed(entries({}, {}), ManualClock())
    for nth in range(81):
        router.record_success("a") if nth % 2 else fail(router, "a")
    assert picks(router, 50) == {"b": 50}


def test_21_three_failures_of_ten_requests_take_nobody_out_unless_they_come_in_a_row() -> None:
    """LiteLLM compares rates alone."""
    mixed, in_a_row = routed(entries({}, {}), ManualClock()), routed(entries({}, {}), ManualClock())
    for good in (True, False, True, True, False, True, True, False, True, True):
        mixed.record_success("a") if good else fail(mixed, "a")
    for nth in range(10):
        in_a_row.record_success("a") if nth < 7 else fail(in_a_row, "a")
    assert picks(mixed, 100).keys() == {"a", "b"}
    assert picks(in_a_row, 50) == {"b": 50}


def test_22_a_lone_one_that_refuses_is_left_alone_until_it_takes_requests_again() -> None:
    """LiteLLM goes on to send to it. For other failures a lone one stays in service here too."""
    router = routed(entries({}), ManualClock())
    fail(router, "a", times=5)
    assert picks(router, 5) == {"a": 5}
    fail(router, "a", "rate_limit", retry_after=3.0)
    with pytest.raises(NoAvailableDeployment) as refused:
        router.select("m")
    assert refused.value.retry_after == pytest.approx(3.0)


def test_23_allowed_fails_are_allowed() -> None:
    router = routed(entries({}, {}), ManualClock(), allowed_fails=100)
    fail(router, "a", times=100)
    assert router.stats("a").status is not Status.COOLING_DOWN
    fail(router, "a")
    assert router.stats("a").status is Status.COOLING_DOWN


def test_24_a_deployment_may_have_allowed_fails_of_its_own() -> None:
    router = routed(entries({}, {}, info=[{"allowed_fails": 0}, {"allowed_fails": 9}]), ManualClock())
    fail(router, "a", times=1)
    fail(router, "b", times=9)
    assert picks(router, 50) == {"b": 50}


def test_25_allowed_fails_by_kind_have_no_counterpart() -> None:
    with pytest.warns(UserWarning, match="allowed_fails_policy"):
        routed(entries({}), allowed_fails_policy={"TimeoutErrorAllowedFails": 3})


def test_26_what_the_provider_asks_for_is_waited() -> None:
    clock = ManualClock()
    router = routed(entries({}, {}), clock)
    fail(router, "a", "rate_limit", retry_after=30.0)
    clock.advance(29.9)
    assert picks(router, 50) == {"b": 50}
    clock.advance(0.2)
    assert "a" in picks(router, 200)


def test_27_a_longer_cooldown_is_not_cut_short_by_an_earlier_one() -> None:
    clock = ManualClock()
    router = routed(entries({}, {}), clock)
    router.cool_down("a", 1.0)
    router.cool_down("a", 60.0)
    clock.advance(1.3)
    assert picks(router, 50) == {"b": 50}


def test_28_only_the_one_that_failed_cools_down() -> None:
    router = routed(entries({"api_base": "https://one.example"}, {"api_base": "https://two.example"}), ManualClock())
    fail(router, "a", "rate_limit")
    assert [router.stats(id_).status for id_ in "ab"] == [Status.COOLING_DOWN, Status.AVAILABLE]


# --- tags ---


def test_29_tags_choose() -> None:
    router = routed(entries({"tags": ["free"]}, {"tags": ["paid"]}))
    assert (picks(router, 20, tags=["free"]), picks(router, 20, tags=["paid"])) == ({"a": 20}, {"b": 20})


def test_30_all_of_the_tags_or_any() -> None:
    router = routed(entries({"tags": ["x", "y"]}, {"tags": ["x"]}, {}))
    assert picks(router, 50, tags=["x", "y"]).keys() == {"a"}
    assert picks(router, 50, tags=["x", "y"], tags_match="any").keys() == {"a", "b"}


def test_31_the_default_tag_serves_what_nobody_else_does() -> None:
    router = routed(entries({"tags": ["free"]}, {"tags": ["default"]}, {}), enable_tag_filtering=True)
    assert picks(router, 20) == {"b": 20}
    assert picks(router, 20, tags=["unknown"]) == {"b": 20}
    assert picks(router, 20, tags=["free"]) == {"a": 20}


def test_32_an_unknown_tag_is_an_error_that_names_tags() -> None:
    with pytest.raises(NoAvailableDeployment, match="tags"):
        routed(entries({"tags": ["free"]}), enable_tag_filtering=True).select("m", tags=["unknown"])


# --- names and strategies ---


def test_33_a_group_may_have_a_strategy_of_its_own() -> None:
    groups = [{"group_name": "g", "models": ["m"], "routing_strategy": "least-busy"}]
    router = routed(entries({}, {}), routing_strategy="latency-based-routing", routing_groups=groups)
    assert str(router.explain("m").strategy) == "least_busy"


def test_34_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='unknown strategy "best"'):
        routed(entries({}), routing_strategy="best")


def test_35_aliases_lead_on_and_not_back() -> None:
    router = routed(entries({}), model_group_alias={"x": "y", "y": "m"})
    assert router.resolve("x") == "m"
    with pytest.raises(ConfigurationError, match="y"):
        routed(entries({}), model_group_alias={"x": "y", "y": "x"})


def test_36_a_star_serves_many_names() -> None:
    router = Router(entries({"model": "bedrock/*"}, name="bedrock/*"))
    assert router.turnout.select("bedrock/x") == "a"
    with pytest.raises(litellm.BadRequestError):
        router.completion("anthropic/x", MESSAGES, mock_response="hi")


def test_37_the_second_order_shares_what_the_first_cannot_serve() -> None:
    router = routed(entries({"order": 1}, {"order": 2}, {"order": 2}), ManualClock())
    assert picks(router, 50) == {"a": 50}
    router.cool_down("a", 60.0)
    assert picks(router, 100).keys() == {"b", "c"}


# --- health checks ---


def test_38_what_a_check_found_unhealthy_is_skipped() -> None:
    router = routed(entries({}, {}))
    router.report_health("a", False)
    assert picks(router, 50) == {"b": 50}


def test_39_if_checks_found_all_unhealthy_all_serve() -> None:
    router = routed(entries({}, {}))
    for id_ in "ab":
        router.report_health(id_, False)
    assert picks(router, 100).keys() == {"a", "b"}


# --- waiting ---


def test_40_a_waiter_that_was_cancelled_takes_nothing() -> None:
    router = routed(entries({"max_parallel_requests": 1}))

    async def run() -> None:
        lease = router.acquire("m")
        waits = asyncio.ensure_future(router.acquire_async("m"))
        while not router.waiting("m"):
            await asyncio.sleep(0)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        lease.release()

    asyncio.run(run())
    assert (router.metrics().in_flight, router.waiting("m")) == (0, 0)
    router.acquire("m").release()


def test_41_a_second_release_counts_nothing() -> None:
    router = routed(entries({}))
    one, other = router.acquire("m"), router.acquire("m")
    assert [one.release(), one.release()] == [True, False]
    assert router.metrics().in_flight == 1
    other.release()


def test_42_a_waiter_whose_time_is_over_is_gone() -> None:
    router = routed(entries({"max_parallel_requests": 1}))
    with router.acquire("m"):
        with pytest.raises(WaitTimeout):
            router.acquire("m", timeout=0.01)
        assert router.waiting("m") == 0
    router.acquire("m").release()


# --- what has no counterpart ---


def test_43_a_reserved_share_for_a_class_of_requests_is_not_there_but_a_priority_is() -> None:
    router = routed(entries({"max_parallel_requests": 1}))
    order: list[str] = []

    def wait(name: str, priority: int) -> None:
        with router.acquire("m", timeout=30, priority=priority):
            order.append(name)

    with router.acquire("m"):
        threads = []
        for nth, (name, priority) in enumerate([("batch", 1), ("chat", -1)]):
            threads.append(threading.Thread(target=wait, args=(name, priority)))
            threads[-1].start()
            while router.waiting("m") <= nth:
                pass
    for thread in threads:
        thread.join()
    assert order == ["chat", "batch"]


def test_44_a_session_is_not_kept_at_a_deployment() -> None:
    with pytest.warns(UserWarning, match="a session is not kept at a deployment"):
        routed(entries({}, {}), optional_pre_call_checks=["session_affinity"])


def test_45_many_routers_do_not_disturb_each_other() -> None:
    routers = [routed(entries({"rpm": 3}), ManualClock()) for _ in range(110)]
    admitted = 0
    for router in routers:
        for _ in range(4):
            try:
                router.acquire("m").success()
            except RateLimitExceeded:
                continue
            admitted += 1
    assert admitted == 330


def test_46_no_limit_of_requests_in_flight_is_made_up() -> None:
    router = routed(entries({"rpm": 30, "tpm": 10_000}))
    assert router.get_deployment("a").max_parallel_requests is None


def test_47_an_upsert_keeps_the_id_and_what_is_not_there_can_be_removed() -> None:
    router = Router(entries({}, {}))
    router.turnout.record_success("a", tokens=5)
    router.upsert_deployment(entries({"rpm": 9})[0])
    assert router.turnout.stats("a").total_tokens == 5
    assert router.delete_deployment("unknown") is None


# --- errors ---


def test_48_a_429_in_an_error_of_connection_is_a_rate_limit() -> None:
    error = litellm.APIConnectionError(message="x", llm_provider="openai", model="m")
    error.response = httpx.Response(429, request=httpx.Request("POST", "https://any.example"))
    assert classify(error) is FailureKind.RATE_LIMIT


def test_49_a_status_may_be_a_text() -> None:
    class Failed(Exception):
        status_code = "404"

    assert classify(Failed()) is FailureKind.NOT_FOUND


KINDS = {
    "AuthenticationError": FailureKind.AUTH,
    "BadRequestError": FailureKind.BAD_REQUEST,
    "ContentPolicyViolationError": FailureKind.CONTENT_POLICY,
    "ContextWindowExceededError": FailureKind.CONTEXT_WINDOW,
    "InternalServerError": FailureKind.ERROR,
    "NotFoundError": FailureKind.NOT_FOUND,
    "PermissionDeniedError": FailureKind.AUTH,
    "RateLimitError": FailureKind.RATE_LIMIT,
    "ServiceUnavailableError": FailureKind.ERROR,
    "Timeout": FailureKind.TIMEOUT,
    "UnprocessableEntityError": FailureKind.BAD_REQUEST,
}


@pytest.mark.parametrize("name", KINDS)
def test_50_litellms_classes_mean_what_they_say(name: str) -> None:
    given: dict[str, Any] = {"message": "x", "llm_provider": "openai", "model": "m"}
    if name in ("PermissionDeniedError", "UnprocessableEntityError"):
        given["response"] = httpx.Response(403 if name[0] == "P" else 422, request=httpx.Request("POST", "https://any.example"))
    assert classify(getattr(litellm, name)(**given)) is KINDS[name]
