"""An explanation says what the next pick does and why, and leaves everything as it was."""

import copy
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import FrozenInstanceError, asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import (
    Deployment,
    Explanation,
    FailureKind,
    Lease,
    ManualClock,
    MinuteRules,
    ModelNotFound,
    NoAvailableDeployment,
    RequestTooLarge,
    Router,
    Strategy,
    Verdict,
)

AssertShares = Callable[[Sequence[int], Sequence[float]], None]


@contextmanager
def a_busy_afternoon(strategy: Strategy = Strategy.SIMPLE_SHUFFLE) -> Iterator[Router]:
    """A router with one deployment in front of each gate, at 12.4 s before the end of a minute, and two
    candidates.
    """
    clock = ManualClock(47.6)
    router = Router(
        [
            Deployment("tagless", "m"),
            Deployment("excluded", "m", tags=["t"]),
            Deployment("cooling", "m", tags=["t"]),
            Deployment("ill", "m", tags=["t"]),
            Deployment("full", "m", tags=["t", "only-full"], max_parallel_requests=2),
            Deployment("spent", "m", tags=["t"], rpm_limit=600),
            Deployment("out of tokens", "m", tags=["t"], tpm_limit=1000),
            Deployment("too small", "m", tags=["t"], tpm_limit=50),
            Deployment("light", "m", tags=["t"], weight=1, priority=2),
            Deployment("heavy", "m", tags=["t"], weight=3, priority=1),
        ],
        strategy=strategy,
        seed=1,
        clock=clock,
    )
    router.cool_down("cooling", 4.25)
    router.report_health("ill", False)
    for _ in range(600):
        router.record_success("spent")
    router.record_success("out of tokens", tokens=950)
    with ExitStack() as leases:
        for _ in range(2):
            leases.callback(router.acquire("m", tags=["only-full"]).release)
        yield router


OPTIONS: dict[str, Any] = {"tags": ["t"], "exclude": ["excluded"], "tokens": 60}
STOPPED = {
    "tagless": ("tags", "lacks the tags asked for"),
    "excluded": ("excluded", "excluded by the request"),
    "cooling": ("cooling_down", "cooling down (asked for), ends in 4.2 s"),
    "ill": ("unhealthy", "reported unhealthy"),
    "full": ("max_parallel_requests", "in flight 2/2"),
    "spent": ("rpm_limit", "rpm 600/600, frees in 12.4 s"),
    "out of tokens": ("tpm_limit", "tpm 950/1000, 60 asked for, frees in 12.4 s"),
    "too small": ("tpm_limit", "tpm limit 50, 60 asked for: never fits"),
}


# --- what it says ---


def test_every_deployment_has_a_verdict() -> None:
    with a_busy_afternoon() as router:
        explanation = router.explain("m", **OPTIONS)
        assert isinstance(explanation, Explanation)
        assert explanation.model_name == "m"
        assert explanation.strategy is Strategy.SIMPLE_SHUFFLE
        assert explanation.score_name == "weight"
        assert explanation.retry_after is None
        assert isinstance(explanation.verdicts, tuple)
        order = [deployment.deployment_id for deployment in router.deployments("m")]
        assert [verdict.deployment_id for verdict in explanation.verdicts] == order
        verdicts = {verdict.deployment_id: verdict for verdict in explanation.verdicts}
        for name, (gate, detail) in STOPPED.items():
            assert verdicts[name] == Verdict(name, gate, detail, None, 0.0)
        assert verdicts["light"] == Verdict("light", None, None, 1.0, 0.25)
        assert verdicts["heavy"] == Verdict("heavy", None, None, 3.0, 0.75)
        assert explanation.winner == router.select("m", **OPTIONS)


def test_it_reads_well() -> None:
    with a_busy_afternoon(Strategy.PRIORITY_BASED) as router:
        lines = str(router.explain("m", **OPTIONS)).splitlines()
        assert lines[0] == "'m' by priority_based: picks 'heavy'"
        assert lines[3] == "  cooling        cooling_down: cooling down (asked for), ends in 4.2 s"
        assert lines[6] == "  spent          rpm_limit: rpm 600/600, frees in 12.4 s"
        assert lines[9] == "  light          priority 2, chance 0.0%"
        assert lines[10] == "→ heavy          priority 1, chance 100.0%"
        assert len(lines) == 11
        refused = str(router.explain("m", **{**OPTIONS, "exclude": ["excluded", "light", "heavy"]}))
        assert refused.startswith("'m' by priority_based: no deployment is available for 4.2 s\n")
        assert "→" not in refused
        hopeless = str(router.explain("m", tags=["nobody has this"]))
        assert hopeless.startswith("'m' by priority_based: no deployment is available\n")


def test_it_is_plain_data() -> None:
    with a_busy_afternoon() as router:
        explanation = router.explain("m", **OPTIONS)
        plain = explanation.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert plain == {**asdict(explanation), "strategy": "simple_shuffle", "verdicts": list(map(asdict, explanation.verdicts))}
        assert list(plain) == ["model_name", "strategy", "score_name", "winner", "retry_after", "verdicts", "panic"]
        assert type(plain["strategy"]) is str
        assert plain["verdicts"][0]["detail"] == "lacks the tags asked for"
        # A dict of its own each time.
        plain["verdicts"].clear()
        assert len(explanation.to_dict()["verdicts"]) == 10


def test_it_is_frozen_and_can_be_kept() -> None:
    with a_busy_afternoon() as router:
        explanation = router.explain("m", **OPTIONS)
        with pytest.raises(FrozenInstanceError):
            explanation.winner = None  # type: ignore[misc]
        with pytest.raises(FrozenInstanceError):
            explanation.verdicts[0].gate = None  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(explanation)) == explanation
        assert copy.deepcopy(explanation) == explanation
        assert hash(explanation) == hash(router.explain("m", **OPTIONS))
        assert eval(repr(explanation.verdicts[0])) == explanation.verdicts[0]


SCORES: dict[Strategy, tuple[str, list[float], list[float]]] = {
    Strategy.SIMPLE_SHUFFLE: ("weight", [3, 1, 0], [0.75, 0.25, 0]),
    Strategy.LEAST_BUSY: ("active requests", [2, 0, 0], [0, 0.5, 0.5]),
    Strategy.USAGE_BASED: ("percent of tokens used", [45, 7, 0], [0, 0, 1]),
    Strategy.LATENCY_BASED: ("average latency in µs", [250_000, 500_000, 375_000], [1, 0, 0]),
    Strategy.PRIORITY_BASED: ("priority", [7, 5, 5], [0, 1, 0]),
    Strategy.RATE_LIMIT_AWARE: ("remaining share", [0.55, 0.9, 1], [0, 0, 1]),
    Strategy.ROUND_ROBIN: ("share of turns", [1 / 3] * 3, [1, 0, 0]),
    Strategy.CHEAPEST: ("expected cost", [2.5, 2, 2], [0, 0.5, 0.5]),
}


@pytest.mark.parametrize("strategy", Strategy)
def test_scores_are_what_the_strategy_compares(strategy: Strategy) -> None:
    router = Router(
        [
            Deployment("a", "m", weight=3, priority=7, tpm_limit=1000, rpm_limit=100, tags=["a"], input_price=2, output_price=3),
            Deployment("b", "m", weight=1, priority=5, tpm_limit=1000, rpm_limit=10, input_price=3, output_price=1),
            Deployment("c", "m", weight=0, priority=5, output_price=4),
        ],
        strategy=strategy,
        clock=ManualClock(),
        seed=0,
    )
    router.record_success("a", tokens=450, latency=0.25)
    router.record_success("b", tokens=75, latency=0.5)
    with ExitStack() as leases:
        for _ in range(2):
            leases.callback(router.acquire("m", tags=["a"]).release)
        explanation = router.explain("m")
    name, scores, probabilities = SCORES[strategy]
    assert explanation.score_name == name
    assert [verdict.score for verdict in explanation.verdicts] == pytest.approx(scores)
    assert [verdict.probability for verdict in explanation.verdicts] == pytest.approx(probabilities)


def test_an_alias_is_resolved_and_a_wrong_name_refused() -> None:
    router = Router([Deployment("a", "m")])
    router.add_alias("fast", "m")
    assert router.explain("fast") == router.explain("m")
    with pytest.raises(ModelNotFound):
        router.explain("n")


def test_it_takes_what_acquire_takes() -> None:
    router = Router([Deployment("a", "m")])
    for bad in ({"tokens": -1}, {"tokens": "5"}, {"tags": "eu"}, {"tags_match": "some"}, {"exclude": 5}):
        messages = set()
        for call in (router.explain, router.select, router.acquire):
            with pytest.raises((ValueError, TypeError)) as caught:
                call("m", **bad)
            messages.add((type(caught.value), str(caught.value)))
        assert len(messages) == 1


# --- no side effect ---


@pytest.mark.parametrize("strategy", Strategy)
def test_explaining_changes_no_pick(strategy: Strategy) -> None:
    """Neither the draw nor the turn is consumed, however often it is asked."""
    with a_busy_afternoon(strategy) as undisturbed, a_busy_afternoon(strategy) as explained:
        for _ in range(50):
            for _ in range(3):
                explained.explain("m", **OPTIONS)
                explained.explain("m")
            assert explained.select("m") == undisturbed.select("m")
            assert explained.select("m", **OPTIONS) == undisturbed.select("m", **OPTIONS)


@pytest.mark.parametrize("strategy", Strategy)
def test_explaining_changes_no_state(strategy: Strategy) -> None:
    with a_busy_afternoon(strategy) as router:
        before = (router.snapshot(), router.metrics(), router.deployments(), router.aliases())
        assert router.explain("m", **OPTIONS) == router.explain("m", **OPTIONS)
        assert (router.snapshot(), router.metrics(), router.deployments(), router.aliases()) == before


# --- it never disagrees with a pick ---

# Few of everything, so that they meet.
NUMBERS = st.integers(0, 6)
IDS = [f"d{number}" for number in range(20)]
LIMITS = st.none() | st.integers(1, 12)
DEPLOYMENTS = st.lists(
    st.builds(
        Deployment,
        st.sampled_from(IDS),
        st.sampled_from(["m", "m", "m", "m", "n"]),
        weight=NUMBERS,
        priority=NUMBERS,
        rpm_limit=LIMITS,
        tpm_limit=LIMITS,
        max_parallel_requests=st.none() | st.integers(1, 3),
        tags=st.sets(st.sampled_from(["x", "y"])),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda deployment: deployment.deployment_id,
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.integers(0, 15),
        "tags": st.sets(st.sampled_from(["x", "y"])),
        "tags_match": st.sampled_from(["all", "any"]),
        "exclude": st.sets(st.sampled_from(IDS), max_size=6),
    },
)
SOMEONE = st.sampled_from(IDS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), REQUESTS),
        st.tuples(st.just("end"), st.tuples(NUMBERS, st.sampled_from(["success", "failure", "release", "unused"]), NUMBERS)),
        st.tuples(st.just("success"), st.tuples(SOMEONE, NUMBERS, st.none() | st.floats(0, 3))),
        st.tuples(st.just("failure"), st.tuples(SOMEONE, st.sampled_from(FailureKind), st.none() | st.floats(0, 90))),
        st.tuples(st.just("cool"), st.tuples(SOMEONE, st.floats(0, 90))),
        st.tuples(st.just("health"), st.tuples(SOMEONE, st.booleans())),
        st.tuples(st.just("clock"), st.sampled_from([0.0, 0.5, 7.0, 30.0, 61.0, -5.0, -500.0])),
        st.tuples(st.just("add"), DEPLOYMENTS.map(lambda deployments: deployments[0])),
        st.tuples(st.just("remove"), SOMEONE),
        st.tuples(st.just("set"), DEPLOYMENTS),
        st.tuples(st.just("ask"), REQUESTS),
    ),
    max_size=25,
)


def check_agreement(router: Router, options: dict[str, Any]) -> None:
    """Ask, pick, ask again, acquire: with nobody in between each pick is the one foretold."""
    explanation = router.explain("m", **options)
    assert router.explain("m", **options) == explanation
    candidates = [verdict for verdict in explanation.verdicts if verdict.gate is None]
    for verdict in explanation.verdicts:
        assert (verdict.gate is None) is (verdict.detail is None) is (verdict.score is not None)
        assert 0 <= verdict.probability <= (verdict.gate is None)
    if explanation.winner is None:
        assert not candidates
        for pick in (router.select, router.acquire):
            with pytest.raises((NoAvailableDeployment, RequestTooLarge)) as caught:
                pick("m", **options)
            if isinstance(caught.value, NoAvailableDeployment):
                assert caught.value.retry_after == explanation.retry_after
                assert caught.value.reasons == Counter(verdict.gate for verdict in explanation.verdicts)
        return
    assert explanation.retry_after is None
    assert sum(verdict.probability for verdict in candidates) == pytest.approx(1)
    assert all(verdict.probability > 0 for verdict in candidates if verdict.deployment_id == explanation.winner)
    assert router.select("m", **options) == explanation.winner
    foretold = router.explain("m", **options).winner
    lease = router.acquire("m", **options)
    lease.release(unused=True)
    assert lease.deployment_id == foretold


@pytest.mark.parametrize("strategy", Strategy)
@given(deployments=DEPLOYMENTS, steps=STEPS, last=REQUESTS, seed=st.none() | st.integers(0, 2**64 - 1))
def test_explain_and_pick_never_disagree(
    strategy: Strategy,
    deployments: list[Deployment],
    steps: list[tuple[str, Any]],
    last: dict[str, Any],
    seed: int | None,
) -> None:
    clock = ManualClock(1000)
    router = Router(deployments, strategy=strategy, seed=seed, clock=clock, health=MinuteRules(allowed_fails=2, min_requests=2))
    router.add_deployment(Deployment("always", "m", max_parallel_requests=1))
    leases: list[Lease] = []
    try:
        for step, details in [*steps, ("ask", last), ("ask", {})]:
            take(step, details, router, clock, leases)
            if not router.models() or "m" not in router.models():
                router.add_deployment(Deployment("always", "m", rpm_limit=2))
    finally:
        for lease in leases:
            lease.release()
    assert router.metrics().in_flight == 0


def take(step: str, details: Any, router: Router, clock: ManualClock, leases: list[Lease]) -> None:
    match step:
        case "ask":
            check_agreement(router, details)
        case "acquire":
            try:
                leases.append(router.acquire("m", **details))
            except (NoAvailableDeployment, RequestTooLarge):
                assert router.explain("m", **details).winner is None
        case "end" if leases:
            which, how, tokens = details
            lease = leases.pop(which % len(leases))
            match how:
                case "success":
                    lease.success(tokens=tokens)
                case "failure":
                    lease.failure()
                case _:
                    lease.release(unused=how == "unused")
        case "clock":
            clock.set(max(clock.now() + details, 0))
        case "add":
            router.add_deployment(details)
        case "set":
            router.set_deployments(details)
        case "remove" | "success" | "failure" | "cool" | "health":
            someone = details if step == "remove" else details[0]
            if someone in router:
                match step:
                    case "remove":
                        router.remove_deployment(someone)
                    case "success":
                        router.record_success(someone, tokens=details[1], latency=details[2])
                    case "failure":
                        router.record_failure(someone, details[1], retry_after=details[2])
                    case "cool":
                        router.cool_down(someone, details[1])
                    case _:
                        router.report_health(someone, details[1])


@pytest.mark.parametrize("strategy", Strategy)
def test_probabilities_are_how_often_each_is_picked(strategy: Strategy, assert_shares: AssertShares) -> None:
    with a_busy_afternoon(strategy) as router:
        router.add_deployment(Deployment("weightless", "m", tags=["t"], weight=0, priority=1))
        for options in (OPTIONS, {}, {"exclude": ["heavy"]}):
            verdicts = router.explain("m", **options).verdicts
            counts = Counter(router.select_many("m", 6000, **options))
            # A turn leaves nothing to chance: the next one is certain, and the score says how often each
            # comes.
            turns = strategy is Strategy.ROUND_ROBIN
            shares = [(verdict.score or 0) if turns else verdict.probability for verdict in verdicts]
            assert_shares([counts[verdict.deployment_id] for verdict in verdicts], shares)


@pytest.mark.parametrize("seed", [0, 1, None])
def test_the_draw_that_is_foretold_is_the_one_made(seed: int | None) -> None:
    router = Router([Deployment(str(place), "m", weight=place) for place in range(50)], seed=seed)
    foretold = []
    for _ in range(200):
        foretold.append(router.explain("m").winner)
        assert router.select("m") == foretold[-1]
    assert len(set(foretold)) > 20
