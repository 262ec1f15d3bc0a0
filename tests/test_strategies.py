"""The seven rules: the golden vectors, and what vectors cannot cover, against a reference written down
plainly here.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import ConfigurationError, Deployment, DeploymentNotFound, Router, Strategy, strategies
from turnout.strategies import RoundRobinCounters, RoutingContext

U32 = 2**32 - 1
U64 = 2**64 - 1

Rule = Callable[[Sequence[RoutingContext]], str | None]
AssertShares = Callable[[Sequence[int], Sequence[float]], None]

RULES: dict[str, Rule] = {
    "weighted_random": strategies.weighted_random,
    "least_busy": strategies.least_busy,
    "lowest_usage": strategies.lowest_usage,
    "lowest_latency": strategies.lowest_latency,
    "lowest_priority": strategies.lowest_priority,
    "rate_limit_aware": strategies.rate_limit_aware,
    "round_robin": lambda contexts: strategies.round_robin("m", contexts, RoundRobinCounters()),
}
NAMES = {
    "weighted_random": Strategy.SIMPLE_SHUFFLE,
    "least_busy": Strategy.LEAST_BUSY,
    "lowest_usage": Strategy.USAGE_BASED,
    "lowest_latency": Strategy.LATENCY_BASED,
    "lowest_priority": Strategy.PRIORITY_BASED,
    "rate_limit_aware": Strategy.RATE_LIMIT_AWARE,
    "round_robin": Strategy.ROUND_ROBIN,
}
DETERMINISTIC = ["lowest_usage", "lowest_latency", "lowest_priority", "rate_limit_aware"]


def test_the_bound_on_chance_notices_a_wrong_share(assert_shares: AssertShares) -> None:
    assert_shares([5000, 5000], [0.5, 0.5])
    for counts, probabilities in (([5400, 4600], [0.5, 0.5]), ([9999, 1], [1.0, 0.0]), ([9900, 100], [0.999, 0.001])):
        with pytest.raises(AssertionError):
            assert_shares(counts, probabilities)


# --- the golden vectors ---

SHARED = Path(os.environ.get("TURNOUT_SHARED", Path(__file__).parents[2] / "shared"))


def read_vectors() -> list[dict[str, Any]]:
    file = SHARED / "vectors" / "strategies.json"
    if not file.exists():
        return []
    vectors: list[dict[str, Any]] = json.loads(file.read_text())["vectors"]
    return vectors


VECTORS = read_vectors()


def parametrized(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """One test a vector; where the vectors are not there, one that is skipped."""
    missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no vectors/strategies.json in {SHARED}: set TURNOUT_SHARED"))
    return pytest.mark.parametrize(
        "vector", [pytest.param(vector, id=f"{vector['strategy']}-{vector['id']}") for vector in vectors] or [missing]
    )


def contexts_of(vector: dict[str, Any]) -> list[RoutingContext]:
    return [RoutingContext(deployment_id=str(place), **facts) for place, facts in enumerate(vector["contexts"])]


def check(vector: dict[str, Any], pick: Callable[[], str | None], assert_shares: AssertShares) -> None:
    """Compare picks with what a vector expects; ids are places in its list."""
    if "expect" in vector:
        expected = None if vector["expect"] is None else str(vector["expect"])
        assert [pick() for _ in range(3)] == [expected] * 3
    elif "expect_sequence" in vector:
        assert [pick() for _ in vector["expect_sequence"]] == [str(place) for place in vector["expect_sequence"]]
    else:
        counts = Counter(pick() for _ in range(1500))
        assert_shares([counts[str(place)] for place in range(len(vector["contexts"]))], vector["expect_probability"])


@parametrized(VECTORS)
def test_a_function_gives_what_its_vector_says(vector: dict[str, Any], assert_shares: AssertShares) -> None:
    contexts = contexts_of(vector)
    if vector["strategy"] == "round_robin":
        counters = RoundRobinCounters()
        check(vector, lambda: strategies.round_robin("m", contexts, counters), assert_shares)
    else:
        check(vector, lambda: RULES[vector["strategy"]](contexts), assert_shares)


MOST_CALLS = 500


def can_be_set_up(vector: dict[str, Any]) -> bool:
    """Whether a router's own calls lead to all that the rule looks at, with every context a candidate."""
    return bool(vector["contexts"]) and all(map(SETTABLE[vector["strategy"]], vector["contexts"]))


def has_room(facts: dict[str, Any], current: str, limit: str) -> bool:
    return facts[limit] is None or facts[current] < facts[limit]


SETTABLE: dict[str, Callable[[dict[str, Any]], bool]] = {
    "weighted_random": lambda facts: True,
    "lowest_priority": lambda facts: True,
    "round_robin": lambda facts: True,
    "least_busy": lambda facts: facts["active_requests"] <= MOST_CALLS,
    # A latency is a float of seconds on its way in.
    "lowest_latency": lambda facts: facts["avg_latency_us"] < 10**12,
    "lowest_usage": lambda facts: has_room(facts, "tpm_current", "tpm_limit"),
    "rate_limit_aware": lambda facts: (
        has_room(facts, "tpm_current", "tpm_limit")
        and has_room(facts, "rpm_current", "rpm_limit")
        # Tokens come with a request.
        and (facts["rpm_limit"] is None or min(facts["tpm_current"], 1) <= facts["rpm_current"] <= MOST_CALLS)
    ),
}


def test_the_vectors_can_be_set_up_for_every_strategy() -> None:
    if not VECTORS:
        pytest.skip(f"no vectors/strategies.json in {SHARED}: set TURNOUT_SHARED")
    counts = Counter(vector["strategy"] for vector in VECTORS if can_be_set_up(vector))
    assert all(counts[name] >= 10 for name in RULES), counts


@parametrized([vector for vector in VECTORS if can_be_set_up(vector)])
def test_a_router_gives_what_its_vector_says(vector: dict[str, Any], assert_shares: AssertShares) -> None:
    name = vector["strategy"]
    limited = name in ("lowest_usage", "rate_limit_aware")
    router = Router(
        [
            Deployment(
                str(place),
                "m",
                weight=facts["weight"],
                priority=facts["priority"],
                tpm_limit=facts["tpm_limit"] if limited else None,
                rpm_limit=facts["rpm_limit"] if name == "rate_limit_aware" else None,
                tags=(str(place),),
            )
            for place, facts in enumerate(vector["contexts"])
        ],
        strategy=NAMES[name],
        seed=vector["id"],
    )
    leases = ExitStack()
    for place, facts in enumerate(vector["contexts"]):
        if name == "least_busy":
            for _ in range(facts["active_requests"]):
                leases.callback(router.acquire("m", tags=[str(place)]).release)
        elif name == "lowest_latency" and facts["avg_latency_us"]:
            router.record_success(str(place), latency=facts["avg_latency_us"] / 1e6)
        elif limited:
            requests = facts["rpm_current"] if name == "rate_limit_aware" and facts["rpm_limit"] is not None else 1
            for first in [True] + [False] * (requests - 1) if requests else []:
                router.record_success(str(place), tokens=facts["tpm_current"] if first else 0)
    with leases:
        check(vector, lambda: router.select("m"), assert_shares)


# --- references ---


def usage_percent(context: RoutingContext) -> int:
    return context.tpm_current * 100 // context.tpm_limit if context.tpm_limit else 0


def remaining_share(current: int, limit: int | None) -> float:
    return float(max(limit - current, 0)) / float(limit) if limit else 1.0


def distance(context: RoutingContext) -> float:
    return min(
        remaining_share(context.tpm_current, context.tpm_limit),
        remaining_share(context.rpm_current, context.rpm_limit),
    )


def latencies(contexts: Sequence[RoutingContext]) -> list[int]:
    known = [context.avg_latency_us for context in contexts if context.avg_latency_us]
    mean = sum(known) // len(known) if known else 0
    return [context.avg_latency_us or mean for context in contexts]


def keys(name: str, contexts: Sequence[RoutingContext]) -> list[float]:
    """What the rule takes the least of, one a candidate."""
    match name:
        case "lowest_usage":
            return [usage_percent(context) for context in contexts]
        case "lowest_latency":
            return list(latencies(contexts))
        case "lowest_priority":
            return [context.priority for context in contexts]
        case "rate_limit_aware":
            return [-distance(context) for context in contexts]
        case _:
            return [context.active_requests for context in contexts]


def first_least(name: str, contexts: Sequence[RoutingContext]) -> str | None:
    if not contexts:
        return None
    values = keys(name, contexts)
    return contexts[values.index(min(values))].deployment_id


# --- arbitrary contexts ---


def numbers(most: int) -> st.SearchStrategy[int]:
    """Small ones, so that there are ties, and those near the end of the range."""
    return st.one_of(st.integers(0, 3), st.integers(0, 1000), st.integers(most - 3, most), st.integers(0, most))


@st.composite
def context_lists(draw: st.DrawFn, min_size: int = 0, max_size: int = 8) -> list[RoutingContext]:
    u32, u64 = numbers(U32), numbers(U64)
    size = draw(st.integers(min_size, max_size))
    return [
        RoutingContext(
            deployment_id=f"d{place}",
            weight=draw(u32),
            priority=draw(u32),
            active_requests=draw(u32),
            tpm_current=draw(u64),
            tpm_limit=draw(st.none() | u64),
            rpm_current=draw(u64),
            rpm_limit=draw(st.none() | u64),
            avg_latency_us=draw(u64),
        )
        for place in range(size)
    ]


@pytest.mark.parametrize("name", DETERMINISTIC)
@given(contexts=context_lists())
def test_the_first_of_the_least_is_picked(name: str, contexts: list[RoutingContext]) -> None:
    assert RULES[name](contexts) == first_least(name, contexts)


@given(contexts=context_lists())
def test_least_busy_picks_one_of_the_least_busy(contexts: list[RoutingContext]) -> None:
    fewest = min((context.active_requests for context in contexts), default=None)
    tied: set[str | None] = {context.deployment_id for context in contexts if context.active_requests == fewest}
    assert {strategies.least_busy(contexts) for _ in range(10)} <= (tied or {None})


@given(contexts=context_lists())
def test_weighted_random_picks_none_without_weight(contexts: list[RoutingContext]) -> None:
    every: set[str | None] = {context.deployment_id for context in contexts}
    heavy: set[str | None] = {context.deployment_id for context in contexts if context.weight > 0}
    assert {strategies.weighted_random(contexts) for _ in range(10)} <= (heavy or every or {None})


@pytest.mark.parametrize("name", RULES)
@given(contexts=context_lists(min_size=1, max_size=1))
def test_a_single_candidate_is_picked_whatever_its_numbers(name: str, contexts: list[RoutingContext]) -> None:
    assert RULES[name](contexts) == "d0"


@pytest.mark.parametrize("name", RULES)
def test_nobody_is_picked_from_nobody(name: str) -> None:
    assert RULES[name]([]) is None


@pytest.mark.parametrize("name", DETERMINISTIC)
@given(contexts=context_lists(min_size=1), data=st.data())
def test_order_matters_only_among_equals(name: str, contexts: list[RoutingContext], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(contexts))
    by_id = dict(zip((context.deployment_id for context in contexts), keys(name, contexts), strict=True))
    one, other = RULES[name](contexts), RULES[name](shuffled)
    assert one is not None
    assert other is not None
    assert by_id[one] == by_id[other]
    tied = [context.deployment_id for context in contexts if by_id[context.deployment_id] == by_id[one]]
    assert one == tied[0]
    assert other == next(context.deployment_id for context in shuffled if context.deployment_id in tied)


@pytest.mark.parametrize("name", ["lowest_usage", "lowest_priority", "rate_limit_aware"])
@given(contexts=context_lists(min_size=2))
def test_whoever_loses_can_leave(name: str, contexts: list[RoutingContext]) -> None:
    winner = RULES[name](contexts)
    for context in contexts:
        if context.deployment_id != winner:
            assert RULES[name]([other for other in contexts if other is not context]) == winner


@pytest.mark.parametrize("name", DETERMINISTIC)
@given(contexts=context_lists(min_size=1))
def test_asking_again_gives_the_same(name: str, contexts: list[RoutingContext]) -> None:
    assert len({RULES[name](contexts) for _ in range(5)}) == 1


# --- the numbers at the ends of their ranges ---


def test_usage_does_not_overflow() -> None:
    contexts = [
        RoutingContext(deployment_id="spent", tpm_current=U64, tpm_limit=1),
        RoutingContext(deployment_id="full", tpm_current=U64, tpm_limit=U64),
        RoutingContext(deployment_id="nearly", tpm_current=U64 - U64 // 50 + 9, tpm_limit=U64),
        RoutingContext(deployment_id="same percent", tpm_current=U64 - U64 // 50, tpm_limit=U64),
    ]
    assert strategies.lowest_usage(contexts) == "nearly"
    assert strategies.lowest_usage(contexts[:2]) == "full"


def test_a_mean_of_huge_latencies_does_not_overflow() -> None:
    contexts = [RoutingContext(deployment_id=str(place), avg_latency_us=U64) for place in range(100)]
    assert strategies.lowest_latency(contexts) == "0"
    unknown = RoutingContext(deployment_id="unknown")
    assert strategies.lowest_latency([unknown, *contexts]) == "unknown"
    assert strategies.lowest_latency([*contexts, unknown]) == "0"


def test_an_unknown_latency_counts_as_the_floor_of_the_mean() -> None:
    fast, slow = RoutingContext(deployment_id="fast", avg_latency_us=10), RoutingContext(deployment_id="slow", avg_latency_us=11)
    unknown = RoutingContext(deployment_id="unknown")
    # (10 + 11) // 2 is 10: a tie that the first one wins.
    assert strategies.lowest_latency([unknown, slow, fast]) == "unknown"
    assert strategies.lowest_latency([fast, slow, unknown]) == "fast"


def test_a_count_above_its_limit_leaves_nothing() -> None:
    contexts = [
        RoutingContext(deployment_id="over", tpm_current=U64, tpm_limit=1),
        RoutingContext(deployment_id="at", rpm_current=5, rpm_limit=5),
        RoutingContext(deployment_id="under", rpm_current=U64 - 1, rpm_limit=U64),
    ]
    assert strategies.rate_limit_aware(contexts[:2]) == "over"
    assert strategies.rate_limit_aware(contexts) in ("over", "under")
    assert strategies.rate_limit_aware([*contexts, RoutingContext(deployment_id="free", tpm_limit=0, rpm_limit=0)]) == "free"


@pytest.mark.parametrize("number", [2, 3, 300])
def test_the_sum_of_the_largest_weights_does_not_overflow(number: int, assert_shares: AssertShares) -> None:
    contexts = [RoutingContext(deployment_id=str(place), weight=U32) for place in range(number)]
    counts = Counter(strategies.weighted_random(contexts) for _ in range(6000))
    assert_shares([counts[str(place)] for place in range(number)], [1 / number] * number)


def test_weights_are_shares(assert_shares: AssertShares) -> None:
    weights = [0, 1, 2, 7, 0]
    contexts = [RoutingContext(deployment_id=str(place), weight=weight) for place, weight in enumerate(weights)]
    counts = Counter(strategies.weighted_random(contexts) for _ in range(20_000))
    assert_shares([counts[str(place)] for place in range(5)], [weight / 10 for weight in weights])


@pytest.mark.parametrize(("rule", "facts"), [("weighted_random", {"weight": 0}), ("least_busy", {"active_requests": 7})])
def test_equals_share_evenly(rule: str, facts: dict[str, Any], assert_shares: AssertShares) -> None:
    contexts = [RoutingContext(deployment_id=str(place), **facts) for place in range(10)]
    counts = Counter(RULES[rule](contexts) for _ in range(20_000))
    assert_shares([counts[str(place)] for place in range(10)], [0.1] * 10)


def test_least_busy_draws_among_the_tied_only(assert_shares: AssertShares) -> None:
    busy = [3, 1, 2, 1, 9, 1]
    contexts = [RoutingContext(deployment_id=str(place), active_requests=active) for place, active in enumerate(busy)]
    counts = Counter(strategies.least_busy(contexts) for _ in range(9000))
    assert_shares([counts[str(place)] for place in range(6)], [0, 1 / 3, 0, 1 / 3, 0, 1 / 3])


# --- round robin ---


@given(turns=st.lists(st.tuples(st.sampled_from(["m", "n", "", "名"]), st.integers(0, 5)), max_size=60))
def test_round_robin_counts_by_model_name(turns: list[tuple[str, int]]) -> None:
    counters = RoundRobinCounters()
    expected: Counter[str] = Counter()
    for model_name, size in turns:
        contexts = [RoutingContext(deployment_id=str(place)) for place in range(size)]
        picked = strategies.round_robin(model_name, contexts, counters)
        if size == 0:
            assert picked is None
        else:
            assert picked == str(expected[model_name] % size)
            expected[model_name] += size > 1


def test_counters_are_independent() -> None:
    contexts = [RoutingContext(deployment_id=str(place)) for place in range(3)]
    one, other = RoundRobinCounters(), RoundRobinCounters()
    assert [strategies.round_robin("m", contexts, one) for _ in range(4)] == ["0", "1", "2", "0"]
    assert strategies.round_robin("m", contexts, other) == "0"


def test_threads_share_the_turns_evenly() -> None:
    counters = RoundRobinCounters()
    contexts = [RoutingContext(deployment_id=str(place)) for place in range(4)]
    with ThreadPoolExecutor(8) as pool:
        picks = list(pool.map(lambda _: strategies.round_robin("m", contexts, counters), range(4000)))
    assert Counter(picks) == {str(place): 1000 for place in range(4)}


# --- through a router ---


@pytest.mark.parametrize("name", NAMES)
def test_a_router_picks_what_the_function_picks_from_its_contexts(name: str, assert_shares: AssertShares) -> None:
    """Also shows that `build_routing_contexts` holds what the router looks at."""
    router = Router(
        [
            Deployment("a", "m", weight=3, priority=2, tpm_limit=1000, rpm_limit=20),
            Deployment("b", "m", weight=1, priority=1, tpm_limit=1000),
            Deployment("c", "m", weight=2, priority=1, rpm_limit=10),
        ],
        strategy=NAMES[name],
        seed=5,
    )
    router.record_success("a", tokens=100, latency=0.2)
    router.record_success("b", tokens=500, latency=0.1)
    router.record_success("c", tokens=500, latency=0.3)
    with ExitStack() as leases:
        for _ in range(3):
            leases.callback(router.acquire("m", exclude=["b"]).release)
        contexts = strategies.build_routing_contexts(router, ["a", "b", "c"])
        if name in DETERMINISTIC:
            assert router.select("m") == RULES[name](contexts)
        elif name == "round_robin":
            # The three leases had turns 0, 1 and 2.
            assert [router.select("m") for _ in range(3)] == ["a", "b", "c"]
        else:
            probabilities = {verdict.deployment_id: verdict.probability for verdict in router.explain("m").verdicts}
            counts = Counter(RULES[name](contexts) for _ in range(3000))
            assert_shares([counts[place] for place in "abc"], [probabilities[place] for place in "abc"])


def test_contexts_of_a_router() -> None:
    router = Router([Deployment("a", "m", weight=3, priority=2, tpm_limit=1000, rpm_limit=20), Deployment("b", "n")])
    router.record_success("a", tokens=100, latency=0.25)
    lease = router.acquire("m", tokens=7)
    assert strategies.build_routing_contexts(router, ["b", "a", "b"]) == [
        RoutingContext(deployment_id="b"),
        RoutingContext(
            deployment_id="a",
            weight=3,
            priority=2,
            active_requests=1,
            tpm_current=107,
            tpm_limit=1000,
            rpm_current=2,
            rpm_limit=20,
            avg_latency_us=250_000,
        ),
        RoutingContext(deployment_id="b"),
    ]
    lease.release()
    assert strategies.build_routing_contexts(router, []) == []
    with pytest.raises(DeploymentNotFound, match='"c"'):
        strategies.build_routing_contexts(router, ["a", "c"])


# --- what goes in ---


def test_a_context_holds_what_it_was_given() -> None:
    facts: dict[str, Any] = {
        "deployment_id": "a",
        "weight": U32,
        "priority": 1,
        "active_requests": 2,
        "tpm_current": U64,
        "tpm_limit": 0,
        "rpm_current": 3,
        "rpm_limit": None,
        "avg_latency_us": 4,
    }
    context = RoutingContext(**facts)
    assert {name: getattr(context, name) for name in facts} == facts
    assert context == RoutingContext(**facts)
    assert hash(context) == hash(RoutingContext(**facts))
    for name, value in facts.items():
        other = RoutingContext(**{**facts, name: "b" if name == "deployment_id" else 9})
        assert context != other, (name, value)
    usual = RoutingContext(deployment_id="a")
    assert (usual.weight, usual.priority, usual.tpm_limit, usual.rpm_limit, usual.avg_latency_us) == (1, 0, None, None, 0)
    assert "'a'" in repr(usual)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("weight", U32),
        ("priority", U32),
        ("active_requests", U32),
        ("tpm_current", U64),
        ("tpm_limit", U64),
        ("rpm_current", U64),
        ("rpm_limit", U64),
        ("avg_latency_us", U64),
    ],
)
def test_a_number_out_of_range_is_refused(name: str, most: int) -> None:
    for bad in (-1, most + 1):
        with pytest.raises(ConfigurationError, match=rf"{name} .*{most}.*{bad}"):
            RoutingContext(deployment_id="a", **{name: bad})
    with pytest.raises(TypeError, match=f"{name} .*1.5"):
        RoutingContext(deployment_id="a", **{name: 1.5})  # type: ignore[arg-type]


def each_kind_of_sequence(contexts: list[RoutingContext]) -> Iterator[Sequence[RoutingContext]]:
    yield contexts
    yield tuple(contexts)


@pytest.mark.parametrize("name", RULES)
def test_only_contexts_are_taken(name: str) -> None:
    contexts = [RoutingContext(deployment_id="a", priority=1)]
    for kind in each_kind_of_sequence(contexts):
        assert RULES[name](kind) == "a"
    for bad in (None, 5, "ab", [None], ["a"], [*contexts, 3], contexts[0]):
        with pytest.raises(TypeError, match="RoutingContext"):
            RULES[name](bad)  # type: ignore[arg-type]
