"""Tiers: the strategy among the candidates of the lowest priority with anybody left."""

from collections import Counter
from typing import Any

import pytest
from turnout import Deployment, Router


def tiered(**options: Any) -> Router:
    """Two deployments of priority 0, two of priority 1, each with two places."""
    facts = [("a", 0), ("b", 0), ("c", 1), ("d", 1)]
    deployments = [Deployment(id_, "m", priority=priority, max_parallel_requests=2) for id_, priority in facts]
    return Router(deployments, tiers=True, seed=1, **options)


def test_the_next_tier_serves_once_nobody_of_the_first_is_left() -> None:
    router = tiered(strategy="least_busy")
    leases = [router.acquire("m") for _ in range(8)]
    assert [{one.deployment_id for one in leases[begin : begin + 4]} for begin in (0, 4)] == [{"a", "b"}, {"c", "d"}]
    # Whoever returns comes first again.
    leases[0].success()
    assert router.select("m") == leases[0].deployment_id
    for lease in leases[1:]:
        lease.release()


@pytest.mark.parametrize("strategy", ["simple_shuffle", "least_busy", "round_robin"])
def test_a_tier_shares_its_load(strategy: str) -> None:
    router = tiered(strategy=strategy)
    shares = Counter(router.select("m") for _ in range(1000))
    assert set(shares) == {"a", "b"}
    assert min(shares.values()) > 400
    for id_ in "ab":
        router.cool_down(id_, 60.0)
    shares = Counter(router.select("m") for _ in range(1000))
    assert set(shares) == {"c", "d"}
    assert min(shares.values()) > 400


def test_an_explanation_tells_the_tiers() -> None:
    router = tiered(strategy="round_robin")
    verdicts = {verdict.deployment_id: verdict for verdict in router.explain("m").verdicts}
    assert (verdicts["a"].gate, verdicts["a"].probability) == (None, 1.0)
    assert (verdicts["c"].gate, verdicts["c"].score, verdicts["c"].probability) == ("tier", None, 0.0)
    assert verdicts["c"].detail == "priority 1, and others of a lower one are left"
    assert "c  tier: priority 1" in str(router.explain("m"))
    router.cool_down("a", 60.0)
    router.cool_down("b", 60.0)
    assert [verdict.gate for verdict in router.explain("m").verdicts] == ["cooling_down", "cooling_down", None, None]


def test_exclusions_and_tags_reach_the_next_tier() -> None:
    router = tiered()
    router.add_deployment(Deployment("e", "m", priority=5, tags=["eu"]))
    assert router.select("m", exclude={"a"}) == "b"
    assert router.select("m", exclude={"a", "b"}) in {"c", "d"}
    assert router.select("m", tags=["eu"]) == "e"


def test_a_router_in_use_can_change() -> None:
    router = tiered(strategy="round_robin")
    assert router.tiers
    lease = router.acquire("m")
    router.configure(tiers=False)
    assert not router.tiers
    assert {router.select("m") for _ in range(8)} == {"a", "b", "c", "d"}
    router.configure(strategy="least_busy", tiers=True)
    assert {router.select("m") for _ in range(8)} == {"b" if lease.deployment_id == "a" else "a"}
    assert router.stats(lease.deployment_id).in_flight == 1
    router.configure()
    assert router.tiers
    lease.success()


def test_no_tiers_is_the_default() -> None:
    assert not Router().tiers
    for wrong in (1, "yes"):
        with pytest.raises(TypeError, match="tiers must be a bool"):
            Router(tiers=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="tiers must be a bool"):
            Router().configure(tiers=wrong)  # type: ignore[arg-type]


def test_many_tiers_of_a_large_group() -> None:
    router = Router(
        [Deployment(str(nth), "m", priority=nth // 100) for nth in range(1000)], tiers=True, strategy="round_robin", seed=1
    )
    for tier in range(10):
        assert {int(router.select("m")) // 100 for _ in range(200)} == {tier}
        for nth in range(tier * 100, (tier + 1) * 100):
            router.cool_down(str(nth), 60.0)
