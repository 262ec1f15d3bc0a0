"""Model names with ``*``, which serve many names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import Deployment, Fallbacks, Lease, ManualClock, ModelNotFound, NoAvailableDeployment, Options, Retry, Router


def model_name_of(names: list[str], name: str) -> str | None:
    """The rule, as simple as it can be said."""

    def fits(pattern: str) -> bool:
        return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None

    if name in names:
        return name
    return min((one for one in names if "*" in one and fits(one)), key=lambda one: (-len(one.encode()), one.encode()), default=None)


NAMES = st.text(st.sampled_from("ab/*é"), min_size=1, max_size=5)


@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True), gone=st.integers(0, 6), name=NAMES, replaces=st.booleans())
def test_the_exact_name_comes_first_and_then_the_longest_pattern(names: list[str], gone: int, name: str, replaces: bool) -> None:
    router = Router(Deployment(one, one) for one in names)
    left = names[gone:]
    if replaces:
        router.set_deployments(Deployment(one, one) for one in left)
    else:
        for one in names[:gone]:
            router.remove_deployment(one)
    expected = model_name_of(left, name)
    if expected is None:
        with pytest.raises(ModelNotFound):
            router.resolve(name)
        return
    assert router.resolve(name) == router.select(name) == expected
    with router.acquire(name) as lease:
        assert (lease.model_name, lease.deployment_id) == (expected, expected)
        assert lease.model == name  # the deployment's model is its model name, and the * are filled in


@pytest.mark.parametrize(
    ("model_name", "model", "asked", "filled"),
    [
        ("openai/*", "*", "openai/gpt-4o", "gpt-4o"),
        ("*", "*", "gpt-4o", "gpt-4o"),
        ("claude-*", "anthropic.claude-*-v1", "claude-3-opus", "anthropic.claude-3-opus-v1"),
        ("openai/*", "fixed", "openai/gpt-4o", "fixed"),
        ("*/eu/*", "*:*", "azure/eu/gpt", "azure:gpt"),
        ("openai/*", "*", "openai/", ""),
        ("exact", "*", "exact", "*"),
    ],
)
def test_the_star_of_the_model_is_filled_in(model_name: str, model: str, asked: str, filled: str) -> None:
    router = Router([Deployment("one", model_name, model=model)])
    with router.acquire(asked) as lease:
        assert (lease.model, lease.deployment.model) == (filled, model)


def test_an_alias_leads_to_a_name_that_a_pattern_serves() -> None:
    router = Router([Deployment("one", "openai/*", model="*")])
    router.add_alias("best", "openai/gpt-4o")
    with router.acquire("best") as lease:
        assert lease.model == "gpt-4o"
    router.add_alias("openai/o1", "best")  # an alias is an exact name
    with router.acquire("openai/o1") as lease:
        assert lease.model == "gpt-4o"


def test_a_pattern_makes_way_for_an_exact_name_and_comes_back() -> None:
    router = Router([Deployment("any", "openai/*")])
    router.add_deployment(Deployment("exact", "openai/gpt-4o"))
    assert router.select("openai/gpt-4o") == "exact"
    router.remove_deployment("exact")
    assert router.select("openai/gpt-4o") == "any"


def test_an_exact_name_that_is_full_does_not_lead_to_the_pattern() -> None:
    router = Router([Deployment("any", "*"), Deployment("exact", "gpt", max_parallel_requests=1)])
    with router.acquire("gpt"), pytest.raises(NoAvailableDeployment):
        router.acquire("gpt")


def test_one_group_serves_all_names_of_a_pattern() -> None:
    router = Router([Deployment("one", "openai/*", rpm_limit=2)], clock=ManualClock())
    with router.acquire("openai/a"), router.acquire("openai/b"):
        pass
    with pytest.raises(NoAvailableDeployment, match="openai/\\*"):
        router.acquire("openai/c")
    assert router.explain("openai/c").model_name == "openai/*"
    assert router.stats("one").rpm_current == 2


def test_a_request_that_waits_knows_what_it_asked_for() -> None:
    router = Router([Deployment("one", "openai/*", model="*", max_parallel_requests=1)])
    first = router.acquire("openai/a")
    models: list[str] = []

    import threading

    def wait() -> None:
        with router.acquire("openai/b", timeout=30) as lease:
            models.append(lease.model)

    thread = threading.Thread(target=wait)
    thread.start()
    while router.waiting("openai/anything") == 0:
        pass
    first.release()
    thread.join()
    assert models == ["b"]


async def _acquired(router: Router, name: str) -> str:
    async with await router.acquire_async(name) as lease:
        return lease.model


def test_a_task_that_waits_knows_what_it_asked_for() -> None:
    import asyncio

    router = Router([Deployment("one", "openai/*", model="*", max_parallel_requests=1)])

    async def main() -> list[str]:
        return await asyncio.gather(*(_acquired(router, f"openai/{nth}") for nth in range(20)))

    assert asyncio.run(main()) == [str(nth) for nth in range(20)]


def test_near_matches_know_patterns() -> None:
    router = Router([Deployment("one", "openai/*"), Deployment("two", "claude-*")])
    with pytest.raises(ModelNotFound, match="openai/\\*") as unknown:
        router.select("opneai/gpt-4o")
    assert "claude" not in str(unknown.value)


def test_the_options_of_a_pattern_hold_for_its_names() -> None:
    router = Router(
        [Deployment("a", "openai/*", model="*"), Deployment("b", "openai/*", model="*")],
        strategies={"openai/*": "round_robin"},
        model_options={"openai/*": Options(retry=Retry(attempts=1))},
    )
    assert [router.select("openai/x") for _ in range(3)] == ["a", "b", "a"]
    calls: list[str] = []

    def fail(lease: Lease) -> None:
        calls.append(lease.model)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        router.call("openai/x", fail)
    assert calls == ["x"]


def test_a_fallback_may_be_another_name_of_the_same_pattern() -> None:
    router = Router(
        [Deployment("one", "openai/*", model="*")],
        fallbacks=Fallbacks({"openai/large": ["openai/small"], "openai/small": ["openai/large"]}),
        retry=Retry(attempts=1),
    )
    calls: list[str] = []

    def send(lease: Lease) -> str:
        calls.append(lease.model)
        if lease.model == "large":
            raise ConnectionError
        return "answer"

    assert router.call("openai/large", send) == "answer"
    assert calls == ["large", "small"]


def test_fallbacks_of_a_pattern_end() -> None:
    router = Router([Deployment("one", "m/*")], fallbacks=Fallbacks({"m/*": ["m/a", "m/b"]}), retry=Retry(attempts=1))
    calls: list[str] = []

    def fail(lease: Lease) -> None:
        calls.append(lease.model)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        router.call("m/c", fail)
    assert calls == ["m/c", "m/a", "m/b"]
