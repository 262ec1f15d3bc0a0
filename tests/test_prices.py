"""Prices, and the strategy that looks at them."""

import math
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import ConfigurationError, Deployment, Router
from turnout.strategies import RoutingContext, build_routing_contexts, cheapest

AssertShares = Callable[[Sequence[int], Sequence[float]], None]
Prices = tuple[float | None, float | None]


def router_of(*prices: Prices, **options: object) -> Router:
    deployments = [Deployment(str(nth), "m", input_price=of[0], output_price=of[1]) for nth, of in enumerate(prices)]
    return Router(deployments, strategy="cheapest", **options)  # type: ignore[arg-type]


def test_the_least_cost_of_this_request_wins() -> None:
    router = router_of((1, 10), (2, 4))
    assert router.select("m", input_tokens=1_000, output_tokens=10) == "0"
    assert router.select("m", input_tokens=10, output_tokens=1_000) == "1"
    assert router.select("m", tokens=1_000) == "1", "one half is the prompt"
    assert router.select("m") == "1"


def test_ties_are_spread_evenly(assert_shares: AssertShares) -> None:
    router = router_of((2, 4), (9, 9), (3, 3), (2, 4), seed=1)
    counts = Counter(router.select("m", input_tokens=50, output_tokens=50) for _ in range(6_000))
    assert_shares([counts[str(nth)] for nth in range(4)], [1 / 3, 0, 1 / 3, 1 / 3])


def test_a_price_that_is_not_known_comes_last() -> None:
    router = router_of((None, None), (1e9, 1e9), (None, None))
    assert router.select("m") == "1"
    router.cool_down("1", 60)
    assert router.select("m") in {"0", "2"}
    explained = router.explain("m")
    assert math.isinf(explained.verdicts[0].score or 0)
    assert explained.to_dict()["verdicts"][0]["score"] is None


def test_one_price_alone_means_that_the_other_tokens_are_free() -> None:
    router = router_of((2, None), (1, 2))
    assert router.select("m", input_tokens=10, output_tokens=100) == "0"
    assert router.select("m", input_tokens=100, output_tokens=10) == "1"


def test_the_next_price_serves_once_the_least_is_full() -> None:
    router = Router(
        [
            Deployment("spare", "m", input_price=2, output_price=2),
            Deployment("cheap", "m", input_price=1, output_price=1, max_parallel_requests=1),
        ],
        strategy="cheapest",
    )
    with router.acquire("m") as first, router.acquire("m") as second:
        assert (first.deployment_id, second.deployment_id) == ("cheap", "spare")
    assert router.select("m") == "cheap"


def test_explain_tells_the_cost() -> None:
    explained = router_of((3, 15), (4, 16)).explain("m", input_tokens=1_000, output_tokens=200)
    assert explained.winner == "0"
    assert [one.score for one in explained.verdicts] == [pytest.approx(0.006), pytest.approx(0.0072)]
    assert explained.score_name == "expected cost"
    assert router_of((3, 15)).explain("m").verdicts[0].score == 9, "half a million tokens of each kind"


def test_tiers_come_before_prices() -> None:
    router = Router(
        [
            Deployment("dear", "m", input_price=9, output_price=9),
            Deployment("cheap", "m", input_price=1, output_price=1, priority=1),
        ],
        strategy="cheapest",
        tiers=True,
    )
    assert router.select("m") == "dear"


@pytest.mark.parametrize("price", [-1, 1e9 + 1, math.nan, math.inf, "1", True - 2])
def test_a_price_that_makes_no_sense_is_refused(price: object) -> None:
    for name in ("input_price", "output_price"):
        with pytest.raises((ConfigurationError, TypeError), match=name):
            Deployment("a", "m", **{name: price})  # type: ignore[arg-type]
        with pytest.raises((ConfigurationError, TypeError), match=name):
            RoutingContext(deployment_id="a", **{name: price})  # type: ignore[arg-type]


def test_prices_are_kept() -> None:
    deployment = Deployment("a", "m", input_price=0.15, output_price=0)
    assert (deployment.input_price, deployment.output_price) == (0.15, 0.0)
    assert deployment.replace(weight=2).input_price == 0.15
    assert pickle.loads(pickle.dumps(deployment)) == deployment != Deployment("a", "m", input_price=0.15)
    assert repr(deployment) == "Deployment('a', 'm', input_price=0.15, output_price=0.0)"
    assert Deployment("a", "m").input_price is None
    assert Deployment("a", "m", input_price=0.1234567).input_price == 0.123457


def test_the_function_picks_what_the_router_picks() -> None:
    router = router_of((1, 10), (2, 4))
    contexts = build_routing_contexts(router, ["0", "1"])
    assert [(one.input_price, one.output_price) for one in contexts] == [(1, 10), (2, 4)]
    assert cheapest(contexts, input_tokens=1_000, output_tokens=10) == "0"
    assert cheapest(contexts, tokens=100) == cheapest(contexts) == "1"
    assert cheapest([]) is None


PRICE = st.none() | st.integers(0, 3).map(float)


@given(
    prices=st.lists(st.tuples(PRICE, PRICE), min_size=1, max_size=30),
    cooling=st.sets(st.integers(0, 29), max_size=20),
    size=st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)),
    excluded=st.sets(st.integers(0, 29), max_size=3),
    many=st.booleans(),
)
def test_who_may_be_picked_is_as_the_rule_says(
    prices: list[Prices], cooling: set[int], size: tuple[int, int] | None, excluded: set[int], many: bool
) -> None:
    prices = prices * (8 if many else 1)
    router = router_of(*prices)
    for nth in cooling:
        if nth < len(prices):
            router.cool_down(str(nth), 60)
    wishes: dict[str, Any] = {"exclude": {str(nth) for nth in excluded}}
    given: dict[str, Any] = {} if size is None else {"input_tokens": size[0], "output_tokens": size[1]}
    left = [nth for nth in range(len(prices)) if nth not in cooling | excluded]
    if not left:
        return

    def cost(nth: int) -> float:
        one, other = prices[nth]
        if one is None and other is None:
            return math.inf
        sizes = (1, 1) if size is None else (max(size[0], 1), max(size[1], 1))
        return (one or 0) * sizes[0] + (other or 0) * sizes[1]

    least = min(map(cost, left))
    expected = {str(nth) for nth in left if cost(nth) == least}
    chances = {one.deployment_id: one.probability for one in router.explain("m", **wishes, **given).verdicts if one.probability}
    assert chances == pytest.approx(dict.fromkeys(expected, 1 / len(expected)))
    assert {router.select("m", **wishes, **given) for _ in range(20)} <= expected
    with router.acquire("m", **wishes, **given) as lease:
        assert lease.deployment_id in expected
