"""Which deployments a router has: all that changes or lists them, and what a pick makes of tags, exclusions
and aliases.
"""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import (
    AliasCycle,
    ConfigurationError,
    Deployment,
    DeploymentNotFound,
    Limit,
    ManualClock,
    ModelNotFound,
    NoAvailableDeployment,
    Quota,
    Router,
    Status,
    Strategy,
)

LITELLM = {
    "simple-shuffle": Strategy.SIMPLE_SHUFFLE,
    "least-busy": Strategy.LEAST_BUSY,
    "usage-based-routing": Strategy.USAGE_BASED,
    "usage-based-routing-v2": Strategy.USAGE_BASED,
    "latency-based-routing": Strategy.LATENCY_BASED,
    "cost_based": Strategy.PRIORITY_BASED,
    "cost-based-routing": Strategy.PRIORITY_BASED,
}


def ids(router: Router, model_name: str | None = None) -> list[str]:
    return [deployment.deployment_id for deployment in router.deployments(model_name)]


def facts(router: Router) -> dict[str, Any]:
    """All that a change that was refused must leave as it was."""
    return {
        "deployments": router.deployments(),
        "models": router.models(),
        "groups": {name: router.deployments(name) for name in router.models()},
        "aliases": router.aliases(),
        "snapshot": router.snapshot(),
        "strategies": (router.strategy, router.strategies),
    }


def used(deployment_id: str = "a", model_name: str = "m", **more: Any) -> tuple[Router, ManualClock]:
    """A router with a neighbour `z` and a deployment that has a state."""
    clock = ManualClock()
    router = Router([Deployment(deployment_id, model_name, **more), Deployment("z", "m")], clock=clock)
    router.record_success(deployment_id, tokens=30, latency=0.5)
    router.record_failure(deployment_id)
    router.cool_down(deployment_id, 20)
    return router, clock


def state(router: Router, deployment_id: str) -> dict[str, Any]:
    """Its counters, without the facts."""
    stats = router.stats(deployment_id)
    given = {"model_name", "max_parallel_requests", "rpm_limit", "tpm_limit"}
    return {name: getattr(stats, name) for name in stats.__slots__ if name not in given}


FRESH = state(Router([Deployment("a", "m")]), "a")


# --- listing ---


def test_an_empty_router() -> None:
    router = Router()
    assert len(router) == 0
    assert router.models() == []
    assert router.deployments() == []
    assert router.aliases() == {}
    assert router.metrics().deployments == 0
    assert all(column == [] for column in router.snapshot().values())
    with pytest.raises(ModelNotFound) as caught:
        router.select("m")
    assert caught.value.model_name == "m"
    assert caught.value.near == ()


def test_deployments_are_listed_in_registration_order() -> None:
    made = [Deployment("c", "m"), Deployment("a", "n"), Deployment("b", "m")]
    router = Router(iter(made))
    assert all(one is other for one, other in zip(router.deployments(), made, strict=True))
    assert ids(router, "m") == ["c", "b"]
    assert ids(router, None) == ["c", "a", "b"]
    assert router.models() == ["m", "n"]
    assert len(router) == 3
    assert router.snapshot()["deployment_id"] == ["c", "a", "b"]
    with pytest.raises(ModelNotFound):
        router.deployments("o")


def test_what_is_in_a_router() -> None:
    router = Router([Deployment("a", "m")])
    assert "a" in router
    others: list[object] = ["b", "m", "", "\ud800", 5, None, [], Deployment("a", "m")]
    assert all(other not in router for other in others)


def test_repr_says_what_it_holds() -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "m"), Deployment("c", "n")], strategy="least_busy")
    assert repr(router) == "<Router of 3 deployments, 2 models, least_busy>"


def test_get_deployment_returns_the_very_object() -> None:
    deployment = Deployment("azure-eu", "m", metadata={"url": "u"})
    router = Router([deployment])
    assert router.get_deployment("azure-eu") is deployment
    with pytest.raises(DeploymentNotFound, match='"azure-us"') as caught:
        router.get_deployment("azure-us")
    assert caught.value.deployment_id == "azure-us"
    assert caught.value.near == ("azure-eu",)


@pytest.mark.parametrize(
    "call",
    [
        lambda router: router.get_deployment("nobody"),
        lambda router: router.remove_deployment("nobody"),
        lambda router: router.stats("nobody"),
        lambda router: router.record_success("nobody"),
        lambda router: router.record_failure("nobody"),
        lambda router: router.cool_down("nobody", 1),
        lambda router: router.report_health("nobody", True),
    ],
)
def test_an_unknown_id_is_refused_everywhere(call: Callable[[Router], object]) -> None:
    router, _ = used()
    before = facts(router)
    with pytest.raises(DeploymentNotFound, match='"nobody"') as caught:
        call(router)
    assert isinstance(caught.value, LookupError)
    assert facts(router) == before


@pytest.mark.parametrize("name", ["gpt-4", "Gpt-4o", "gpt4o"])
def test_a_wrong_model_name_is_told_what_it_may_have_meant(name: str) -> None:
    router = Router([Deployment("a", "gpt-4o"), Deployment("b", "claude-sonnet")])
    for call in (router.select, router.acquire, router.explain, router.resolve, router.deployments):
        with pytest.raises(ModelNotFound, match='did you mean "gpt-4o"') as caught:
            call(name)
        assert caught.value.near == ("gpt-4o",)
        assert caught.value.model_name == name


# --- add, replace, move, remove ---


@pytest.mark.parametrize("fault", ["twice", "alias", "quotas"])
def test_what_a_refused_list_drops_may_use_the_router(fault: str) -> None:
    """Nothing is dropped under a lock: a finalizer may run anything, and other threads may wait for it."""
    router = Router([Deployment("x", "m")])
    router.add_alias("an alias", "m")
    dropped: list[int] = []

    class Uses:
        def __init__(self, i: int) -> None:
            self.i = i

        def __del__(self) -> None:
            router.add_alias(f"alias {self.i}", "m")
            dropped.append(self.i)

    def made() -> Iterator[Deployment]:
        for i, name in enumerate("abc"):
            names = {"twice": ("a", "m"), "alias": (name, "an alias" if i == 2 else "m"), "quotas": (name, "m")}
            quotas = [Quota("q", Limit(requests=1 + i))] if fault == "quotas" else []
            yield Deployment(*names[fault], metadata={"uses": Uses(i)}, quotas=quotas)

    with pytest.raises(ConfigurationError):
        router.set_deployments(made())
    gc.collect()
    assert sorted(dropped) == [0, 1, 2]
    assert ids(router, None) == ["x"]


def test_an_id_given_twice_is_refused() -> None:
    twice = [Deployment("a", "m"), Deployment("b", "m"), Deployment("a", "n")]
    with pytest.raises(ConfigurationError, match='"a" is given twice'):
        Router(twice)
    router, _ = used()
    before = facts(router)
    with pytest.raises(ConfigurationError, match='"a" is given twice'):
        router.set_deployments(twice)
    assert facts(router) == before


def test_adding_puts_it_last() -> None:
    router = Router([Deployment("b", "m")], strategy="round_robin")
    router.add_deployment(Deployment("a", "m"))
    router.add_deployment(Deployment("c", "n"))
    assert ids(router) == ["b", "a", "c"]
    assert ids(router, "m") == ["b", "a"]
    assert router.select_many("m", 4) == ["b", "a", "b", "a"]
    assert state(router, "c") == {**FRESH, "deployment_id": "c"}


def test_replacing_keeps_the_state_and_the_place() -> None:
    router, clock = used()
    before = state(router, "a")
    new = Deployment("a", "m", weight=9, rpm_limit=3, metadata={"new": True})
    router.add_deployment(new)
    assert router.get_deployment("a") is new
    assert ids(router) == ["a", "z"]
    assert ids(router, "m") == ["a", "z"]
    assert state(router, "a") == before
    assert router.stats("a").rpm_limit == 3
    # The new facts hold from now on: two requests are counted, so one is left.
    clock.advance(20)
    router.acquire("m", exclude=["z"]).release()
    with pytest.raises(NoAvailableDeployment):
        router.select("m", exclude=["z"])


def test_moving_keeps_the_state_and_goes_last() -> None:
    router, _ = used()
    router.add_deployment(Deployment("y", "n"))
    before = state(router, "a")
    router.add_deployment(Deployment("a", "n"))
    assert state(router, "a") == before
    assert router.stats("a").model_name == "n"
    assert ids(router, "m") == ["z"]
    assert ids(router, "n") == ["y", "a"]
    assert len(router) == 3


def test_moving_the_last_one_takes_the_model_away() -> None:
    router = Router([Deployment("a", "m")])
    router.add_deployment(Deployment("a", "n"))
    assert router.models() == ["n"]
    with pytest.raises(ModelNotFound):
        router.select("m")
    assert router.select("n") == "a"


def test_removing_returns_the_very_object() -> None:
    deployment = Deployment("a", "m")
    router = Router([deployment, Deployment("b", "m"), Deployment("c", "n")])
    assert router.remove_deployment("a") is deployment
    assert "a" not in router
    assert ids(router, "m") == ["b"]
    router.remove_deployment("c")
    assert router.models() == ["m"]
    with pytest.raises(ModelNotFound):
        router.select("n")
    with pytest.raises(DeploymentNotFound):
        router.remove_deployment("a")


def test_a_refused_deployment_changes_nothing() -> None:
    router, _ = used()
    router.add_alias("fast", "m")
    before = facts(router)
    with pytest.raises(ConfigurationError, match=r'"fast".*alias'):
        router.add_deployment(Deployment("new", "fast"))
    with pytest.raises(ConfigurationError, match=r'"fast".*alias'):
        router.add_deployment(Deployment("a", "fast"))
    for bad in (None, "a", 5, [Deployment("b", "m")]):
        with pytest.raises(TypeError, match="deployment must be a Deployment"):
            router.add_deployment(bad)  # type: ignore[arg-type]
    assert facts(router) == before


# --- set_deployments ---


def test_setting_keeps_the_state_of_ids_that_stay() -> None:
    router, _ = used()
    router.record_success("z", tokens=5)
    before = state(router, "a")
    router.set_deployments([Deployment("new", "m"), Deployment("a", "m", weight=4)])
    assert ids(router) == ["new", "a"]
    assert state(router, "a") == before
    assert router.get_deployment("a").weight == 4
    assert state(router, "new") == {**FRESH, "deployment_id": "new"}
    assert "z" not in router
    # It is not remembered.
    router.set_deployments([Deployment("z", "m")])
    assert state(router, "z") == {**FRESH, "deployment_id": "z"}


def test_setting_moves_between_models() -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "n")])
    router.record_success("a", tokens=3)
    router.set_deployments([Deployment("b", "m"), Deployment("a", "n")])
    assert ids(router, "m") == ["b"]
    assert ids(router, "n") == ["a"]
    assert router.stats("a").tpm_current == 3
    router.set_deployments([Deployment("a", "o")])
    assert router.models() == ["o"]
    assert router.stats("a").tpm_current == 3


def test_setting_none_empties_the_router() -> None:
    router, _ = used()
    router.set_deployments([])
    assert len(router) == 0
    assert router.models() == []


def test_a_refused_set_changes_nothing() -> None:
    def breaks() -> Iterator[Deployment]:
        yield Deployment("n1", "m")
        raise RuntimeError("the source broke")

    router, _ = used()
    router.add_alias("fast", "m")
    before = facts(router)
    with pytest.raises(ConfigurationError, match='"fast"'):
        router.set_deployments([Deployment("n1", "m"), Deployment("n2", "fast")])
    with pytest.raises(RuntimeError, match="the source broke"):
        router.set_deployments(breaks())
    for bad in (None, 5, Deployment("a", "m"), [Deployment("b", "m"), "c"], "ab"):
        with pytest.raises(TypeError, match="deployments must be"):
            router.set_deployments(bad)  # type: ignore[arg-type]
    assert facts(router) == before


# --- leases and changes ---


def end_by_success(lease: Any) -> bool:
    return bool(lease.success(tokens=70))


def end_by_failure(lease: Any) -> bool:
    return bool(lease.failure("rate_limit", retry_after=90))


def end_unused(lease: Any) -> bool:
    return bool(lease.release(unused=True))


ENDS = [end_by_success, end_by_failure, end_unused]


@pytest.mark.parametrize("end", ENDS)
def test_a_lease_of_a_removed_id_is_valid_and_harmless(end: Callable[[Any], bool]) -> None:
    deployment = Deployment("a", "m", metadata={"url": "u"})
    router = Router([deployment, Deployment("b", "m")])
    lease = router.acquire("m", tokens=50, exclude=["b"])
    router.remove_deployment("a")
    assert lease.deployment is deployment
    assert (lease.deployment_id, lease.model_name, lease.tokens, lease.released) == ("a", "m", 50, False)
    before = facts(router)
    assert end(lease)
    assert not end(lease)
    assert facts(router) == before
    assert router.metrics().in_flight == 0


@pytest.mark.parametrize("end", ENDS)
def test_an_id_that_comes_back_starts_fresh(end: Callable[[Any], bool]) -> None:
    router, clock = used()
    clock.advance(20)
    lease = router.acquire("m", tokens=50, exclude=["z"])
    router.remove_deployment("a")
    router.add_deployment(Deployment("a", "m"))
    assert state(router, "a") == FRESH
    new_lease = router.acquire("m", tokens=8, exclude=["z"])
    before = facts(router)
    assert end(lease)
    # The old lease knows nothing of the new state.
    assert facts(router) == before
    assert (router.stats("a").in_flight, router.stats("a").tpm_current, router.stats("a").status) == (1, 8, Status.AVAILABLE)
    new_lease.release()
    # Nor is its old state found again by the next to come.
    router.add_deployment(Deployment("next", "m"))
    assert state(router, "next") == {**FRESH, "deployment_id": "next"}


def test_a_lease_lives_through_a_replacement_and_a_move() -> None:
    old = Deployment("a", "m", tpm_limit=100)
    router = Router([old])
    lease = router.acquire("m", tokens=60)
    router.add_deployment(Deployment("a", "m", tpm_limit=90))
    router.add_deployment(Deployment("a", "n", tpm_limit=80))
    router.set_deployments([Deployment("a", "o", tpm_limit=70)])
    assert lease.deployment is old
    assert lease.model_name == "m"
    assert (router.stats("a").in_flight, router.stats("a").tpm_current) == (1, 60)
    assert lease.success(tokens=10)
    assert (router.stats("a").in_flight, router.stats("a").tpm_current) == (0, 10)
    router.acquire("o", tokens=60).release()


def test_a_replaced_limit_counts_leases_of_before() -> None:
    router = Router([Deployment("a", "m")])
    with ExitStack() as leases:
        for _ in range(3):
            leases.callback(router.acquire("m").release)
        router.add_deployment(Deployment("a", "m", max_parallel_requests=3))
        with pytest.raises(NoAvailableDeployment) as caught:
            router.acquire("m")
        assert caught.value.reasons == {"max_parallel_requests": 1}
    assert router.select("m") == "a"


# --- aliases ---


def test_an_alias_leads_to_its_model() -> None:
    router = Router([Deployment("a", "m", rpm_limit=1)])
    router.add_alias("fast", "m")
    router.add_alias("fastest", "fast")
    assert router.aliases() == {"fast": "m", "fastest": "fast"}
    assert [router.resolve(name) for name in ("m", "fast", "fastest")] == ["m"] * 3
    assert router.models() == ["m"]
    assert len(router) == 1
    assert "fast" not in router
    assert ids(router, "fastest") == ["a"]
    assert router.select("fastest") == "a"
    assert router.select_many("fastest", 2) == ["a", "a"]
    assert router.explain("fastest").model_name == "m"
    lease = router.acquire("fastest")
    assert lease.model_name == "m"
    lease.release()
    # All names share one group and its counts.
    for name in ("m", "fast", "fastest"):
        with pytest.raises(NoAvailableDeployment) as caught:
            router.select(name)
        assert caught.value.model_name == "m"


def test_an_alias_may_dangle() -> None:
    router = Router()
    router.add_alias("a1", "a2")
    router.add_alias("a2", "model")
    with pytest.raises(ModelNotFound, match=r'"a1".*"model"') as caught:
        router.select("a1")
    assert caught.value.model_name == "a1"
    router.add_deployment(Deployment("a", "model"))
    assert router.select("a1") == "a"
    router.remove_deployment("a")
    for call in (router.select, router.resolve, router.deployments, router.explain, router.acquire):
        with pytest.raises(ModelNotFound):
            call("a1")
    assert router.aliases() == {"a1": "a2", "a2": "model"}


def test_an_alias_may_be_turned_to_another_target() -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "n")])
    router.add_alias("fast", "m")
    router.add_alias("fast", "n")
    assert router.select("fast") == "b"
    assert router.remove_alias("fast") == "n"
    assert router.aliases() == {}
    with pytest.raises(ModelNotFound):
        router.select("fast")
    with pytest.raises(ModelNotFound, match='"fast"'):
        router.remove_alias("fast")
    with pytest.raises(ModelNotFound, match='"m"'):
        router.remove_alias("m")


def test_a_cycle_is_refused() -> None:
    router = Router([Deployment("a", "m")])
    with pytest.raises(AliasCycle, match='"x" -> "x"'):
        router.add_alias("x", "x")
    router.add_alias("x", "y")
    router.add_alias("y", "z")
    before = facts(router)
    with pytest.raises(AliasCycle, match='"z" -> "x" -> "y" -> "z"') as caught:
        router.add_alias("z", "x")
    assert isinstance(caught.value, ConfigurationError)
    assert facts(router) == before
    # Turning a link of a chain back on the chain is a cycle, too.
    with pytest.raises(AliasCycle):
        router.add_alias("y", "x")
    assert facts(router) == before
    router.add_alias("z", "m")
    assert router.resolve("x") == "m"


def test_a_long_chain_is_followed() -> None:
    router = Router([Deployment("a", "m")])
    for link in reversed(range(1000)):
        router.add_alias(f"l{link}", f"l{link + 1}" if link < 999 else "m")
    assert router.resolve("l0") == "m"
    assert router.select("l0") == "a"
    with pytest.raises(ConfigurationError):
        router.add_alias("m", "l0")


def test_a_name_is_either_a_model_or_an_alias() -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "n")])
    with pytest.raises(ConfigurationError, match='"m" is a model name'):
        router.add_alias("m", "n")
    router.add_alias("fast", "m")
    with pytest.raises(ConfigurationError, match=r'"fast".*alias'):
        router.add_deployment(Deployment("c", "fast"))
    # Either name is free again once the other one is gone.
    router.remove_deployment("b")
    router.add_alias("n", "m")
    assert router.select("n") == "a"
    router.remove_alias("fast")
    router.add_deployment(Deployment("c", "fast"))
    assert router.select("fast") == "c"


@pytest.mark.parametrize(("alias", "target", "named"), [("", "m", "alias"), ("x", "", "target")])
def test_an_empty_name_is_refused(alias: str, target: str, named: str) -> None:
    router = Router([Deployment("a", "m")])
    with pytest.raises(ConfigurationError, match=f'{named} must be .*""'):
        router.add_alias(alias, target)
    assert router.aliases() == {}


NAMES = ["m", "n", "x", "y", "z"]
ALIAS_STEPS = st.lists(st.tuples(st.sampled_from(["add", "add", "remove"]), st.sampled_from(NAMES), st.sampled_from(NAMES)))


@given(steps=ALIAS_STEPS)
def test_aliases_follow_a_dict(steps: list[tuple[str, str, str]]) -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "n")])
    expected: dict[str, str] = {}

    def follow(name: str) -> str:
        while name in expected:
            name = expected[name]
        return name

    for step, alias, target in steps:
        if step == "remove":
            if alias in expected:
                assert router.remove_alias(alias) == expected.pop(alias)
            else:
                with pytest.raises(ModelNotFound):
                    router.remove_alias(alias)
        elif alias in ("m", "n"):
            with pytest.raises(ConfigurationError):
                router.add_alias(alias, target)
        elif leads_to(alias, target, expected):
            with pytest.raises(AliasCycle):
                router.add_alias(alias, target)
        else:
            router.add_alias(alias, target)
            expected[alias] = target
        assert router.aliases() == expected
        for name in NAMES:
            if (end := follow(name)) in ("m", "n"):
                assert router.resolve(name) == end
            else:
                with pytest.raises(ModelNotFound):
                    router.resolve(name)


def leads_to(alias: str, name: str, aliases: dict[str, str]) -> bool:
    while name != alias and name in aliases:
        name = aliases[name]
    return name == alias


# --- strategies ---


@pytest.mark.parametrize("strategy", [*Strategy, *(strategy.value for strategy in Strategy), *LITELLM])
def test_a_strategy_is_known_by_each_of_its_names(strategy: Any) -> None:
    expected = LITELLM.get(strategy) or Strategy(strategy)
    router = Router([Deployment("a", "m")], strategy=strategy)
    assert router.strategy is expected
    assert router.explain("m").strategy is expected
    router = Router([Deployment("a", "m")], strategies={"m": strategy})
    assert router.strategies == {"m": expected}
    assert router.explain("m").strategy is expected


def test_a_model_may_have_a_strategy_of_its_own() -> None:
    router = Router(
        [Deployment(f"{model}{place}", model, priority=2 - place) for model in ("m", "n") for place in range(2)],
        strategy="priority_based",
        strategies={"n": "round_robin", "later": Strategy.LEAST_BUSY},
    )
    router.add_alias("alias", "n")
    assert router.strategy is Strategy.PRIORITY_BASED
    assert router.strategies == {"n": Strategy.ROUND_ROBIN, "later": Strategy.LEAST_BUSY}
    assert router.select_many("m", 4) == ["m1"] * 4
    assert router.select_many("n", 2) == ["n0", "n1"]
    assert router.select_many("alias", 2) == ["n0", "n1"]
    router.add_deployment(Deployment("l", "later"))
    assert router.explain("later").strategy is Strategy.LEAST_BUSY
    # What is listed is a copy.
    router.strategies["m"] = Strategy.LEAST_BUSY
    assert router.explain("m").strategy is Strategy.PRIORITY_BASED


@pytest.mark.parametrize("bad", ["", "fastest", "LEAST_BUSY", "least busy", "strategy"])
def test_an_unknown_strategy_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match=f'unknown strategy "{bad}".*least_busy'):
        Router(strategy=bad)
    with pytest.raises(ConfigurationError, match=f'unknown strategy "{bad}".*least_busy'):
        Router(strategies={"m": bad})


# --- tags and exclusions ---

TAGGED = {"none": (), "eu": ("eu",), "fast": ("fast",), "both": ("fast", "eu"), "us": ("us",)}


@pytest.mark.parametrize(
    ("tags", "match", "expected"),
    [
        (None, "all", ["none", "eu", "fast", "both", "us"]),
        ([], "all", ["none", "eu", "fast", "both", "us"]),
        (["eu"], "all", ["eu", "both"]),
        (["eu", "fast"], "all", ["both"]),
        (("eu", "eu"), "all", ["eu", "both"]),
        ({"eu", "us"}, "all", []),
        (["eu"], "any", ["eu", "both"]),
        (frozenset({"eu", "us"}), "any", ["eu", "both", "us"]),
        (iter(["fast"]), "any", ["fast", "both"]),
        (["EU"], "any", []),
        ([""], "all", []),
    ],
)
def test_tags(tags: Any, match: Any, expected: list[str]) -> None:
    router = Router([Deployment(name, "m", tags=tags) for name, tags in TAGGED.items()])
    verdicts = router.explain("m", tags=tags, tags_match=match).verdicts
    assert [verdict.deployment_id for verdict in verdicts if verdict.gate is None] == expected
    assert {verdict.gate for verdict in verdicts} <= {None, "tags"}


SETS = st.sets(st.sampled_from(["a", "b", "c", "d"]))


@given(tagged=st.lists(SETS, min_size=1, max_size=6), asked=SETS, match=st.sampled_from(["all", "any"]), excluded=SETS)
def test_tags_and_exclusions_are_sets(tagged: list[set[str]], asked: set[str], match: Any, excluded: set[str]) -> None:
    names = "abcdef"
    router = Router([Deployment(name, "m", tags=tags) for name, tags in zip(names, tagged, strict=False)], strategy="round_robin")
    fits = [
        name
        for name, tags in zip(names, tagged, strict=False)
        if name not in excluded and (not asked or (asked <= tags if match == "all" else asked & tags))
    ]
    if fits:
        assert router.select_many("m", len(fits), tags=asked, tags_match=match, exclude=excluded) == fits
    else:
        with pytest.raises(NoAvailableDeployment) as caught:
            router.select("m", tags=asked, tags_match=match, exclude=excluded)
        assert sum(caught.value.reasons.values()) == len(tagged)
        assert caught.value.retry_after is None


def test_tags_match_has_two_values() -> None:
    router = Router([Deployment("a", "m", tags=["eu"])])
    for bad in ("", "ALL", "none"):
        with pytest.raises(ConfigurationError, match=f'tags_match must be "all" or "any", not "{bad}"'):
            router.select("m", tags=["eu"], tags_match=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tags", "exclude"])
def test_a_string_is_not_taken_for_its_letters(name: str) -> None:
    router = Router([Deployment("a", "m")])
    for bad in ("a", 5, [b"a"], [None], b"a"):
        with pytest.raises(TypeError, match=name):
            router.select("m", **{name: bad})  # type: ignore[arg-type]


def test_excluding() -> None:
    router = Router([Deployment(name, "m") for name in "abc"], strategy="priority_based")
    tried: list[str] = []
    while len(tried) < 3:
        tried.append(router.select("m", exclude=tried))
    assert tried == ["a", "b", "c"]
    with pytest.raises(NoAvailableDeployment) as caught:
        router.acquire("m", exclude=tried)
    assert caught.value.reasons == {"excluded": 3}
    assert caught.value.retry_after is None
    # Ids that nobody has are no error: a list of those tried may be older than the router's.
    assert router.select("m", exclude={"gone", ""}) == "a"
    assert router.select("m", exclude=dict.fromkeys("ab")) == "c"


# --- select and select_many ---


def mixed(strategy: Strategy, seed: int, clock: ManualClock) -> Router:
    router = Router(
        [
            Deployment("a", "m", weight=3, priority=1, tpm_limit=1000, tags=["t"]),
            Deployment("b", "m", weight=1, priority=1, rpm_limit=50, tags=["t"]),
            Deployment("c", "m", weight=5, priority=2, tpm_limit=500, rpm_limit=9),
            Deployment("d", "m", weight=2, tags=["t"]),
        ],
        strategy=strategy,
        seed=seed,
        clock=clock,
    )
    router.record_success("a", tokens=100, latency=0.2)
    router.record_success("c", tokens=10, latency=0.1)
    router.record_failure("d", "auth")
    return router


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("options", [{}, {"tokens": 700}, {"tags": ["t"], "exclude": ["b"]}])
def test_select_many_is_many_selects(strategy: Strategy, options: dict[str, Any], clock: ManualClock) -> None:
    one, other = mixed(strategy, 11, clock), mixed(strategy, 11, clock)
    picks = one.select_many("m", 200, **options)
    assert picks == [other.select("m", **options) for _ in range(200)]
    # And they leave the same behind.
    assert one.select_many("m", 3, **options) == [other.select("m", **options) for _ in range(3)]


def test_select_many_of_none() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)])
    assert router.select_many("m", 0) == []
    for bad in (-1, 10_000_001, 2**64):
        with pytest.raises(ConfigurationError, match=f"n must be an int from 0 to 10000000, not {bad}"):
            router.select_many("m", bad)
    with pytest.raises(ModelNotFound):
        router.select_many("n", 1)
    lease = router.acquire("m")
    with pytest.raises(NoAvailableDeployment):
        router.select_many("m", 3)
    lease.release()


@pytest.mark.parametrize("strategy", Strategy)
def test_select_reserves_nothing(strategy: Strategy, clock: ManualClock) -> None:
    router = mixed(strategy, 3, clock)
    before = facts(router)
    for _ in range(50):
        router.select("m", tokens=5)
    assert facts(router) == before


@pytest.mark.parametrize("strategy", Strategy)
def test_a_seed_repeats_the_picks(strategy: Strategy, clock: ManualClock) -> None:
    def picks(seed: int) -> list[str]:
        router = mixed(strategy, seed, clock)
        picked = []
        for _ in range(30):
            picked.append(router.select("m"))
            with router.acquire("m", tokens=1) as lease:
                picked.append(lease.deployment_id)
        return picked

    assert picks(1) == picks(1)
    if strategy in (Strategy.SIMPLE_SHUFFLE, Strategy.LEAST_BUSY):
        assert picks(1) != picks(2)


# --- changes while others pick ---


def in_threads(workers: list[Callable[[], None]]) -> None:
    """Run all at once and raise what any of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(workers))

    def run(worker: Callable[[], None]) -> None:
        try:
            start.wait()
            worker()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


ROUNDS = 1500


@pytest.mark.parametrize("strategy", Strategy)
def test_readers_never_see_a_half_made_change(strategy: Strategy) -> None:
    """Every version of the list has exactly one deployment of each model, so that a mixture would show."""
    versions = [[Deployment(f"m{version}", "m"), Deployment(f"n{version}", "n")] for version in range(4)]
    router = Router(versions[0], strategy=strategy)
    router.add_alias("alias", "m")
    known = {deployment.deployment_id for version in versions for deployment in version}

    def change() -> None:
        for turn in range(ROUNDS):
            router.set_deployments(versions[turn % 4])

    def turn_alias() -> None:
        for turn in range(ROUNDS):
            router.add_alias("alias", "mn"[turn % 2])

    def pick() -> None:
        for _ in range(ROUNDS):
            assert router.select("m").startswith("m")
            assert router.select("alias") in known
            with router.acquire("n") as lease:
                assert lease.deployment_id.startswith("n")
            assert len(router.explain("m").verdicts) == 1
            assert sorted(deployment.model_name for deployment in router.deployments()) == ["m", "n"]

    in_threads([change, turn_alias, pick, pick])
    assert ids(router) == ["m3", "n3"]
    assert router.metrics().in_flight == 0


def test_a_model_that_comes_and_goes_is_there_or_not() -> None:
    router = Router([Deployment("stays", "n")])
    rest = Deployment("a", "m")

    def change() -> None:
        for _ in range(ROUNDS):
            router.add_deployment(rest)
            router.remove_deployment("a")

    def pick() -> None:
        for _ in range(ROUNDS):
            assert router.select("n") == "stays"
            try:
                assert router.select("m") == "a"
                with router.acquire("m") as lease:
                    assert lease.deployment_id == "a"
            except ModelNotFound:
                pass

    in_threads([change, pick, pick])
    assert ids(router) == ["stays"]


def test_moving_while_others_hold_leases() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=3), Deployment("b", "m"), Deployment("c", "n")])
    most = 0

    def move() -> None:
        for turn in range(ROUNDS):
            router.add_deployment(Deployment("a", "mn"[turn % 2], max_parallel_requests=3))

    def hold() -> None:
        nonlocal most
        for turn in range(ROUNDS):
            with router.acquire("mn"[turn % 2]):
                most = max(most, router.stats("a").in_flight)

    in_threads([move, hold, hold, hold, hold])
    assert most <= 3
    assert router.metrics().in_flight == 0
    totals = router.metrics()
    assert totals.total_requests == totals.total_successes == 4 * ROUNDS
