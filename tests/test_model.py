"""A router does what a simple model of it does, step by step, whatever is done with the two.

Each step is done to both; they must give the same answer or the same error, and leave every deployment in the same state.
``TURNOUT_MODEL_RUNS`` and ``TURNOUT_MODEL_STEPS`` say how many runs of how many steps there are.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import model
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from turnout import (
    Deployment,
    FailureKind,
    Lease,
    ManualClock,
    NoAvailableDeployment,
    RequestTooLarge,
    Router,
    RouterError,
    Strategy,
)

RUNS = int(os.environ.get("TURNOUT_MODEL_RUNS", "300"))
STEPS = int(os.environ.get("TURNOUT_MODEL_STEPS", "100"))

MODEL_NAMES = ("m", "n", "o")
ALIASES = ("x", "y", "z")
NOWHERE = "nowhere"

few_ids = st.sampled_from([*"abcd"])
many_ids = st.sampled_from([f"d{i}" for i in range(40)])
# Positions among what there is just then, so that most steps meet something.
positions = st.integers(0, 1000)
names = st.sampled_from([*"mmmmmmmm", *"nno", *ALIASES, NOWHERE])
# Whole milliseconds, which are exact in both worlds.
lengths = st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0, 5.0, 30.0, 60.0, 90.0, 200.0])
amounts = st.sampled_from([0, 0, 1, 1, 5, 10, 20, 41, 2**40])

# Most of these are compared exactly; of the two that draw, the model only knows who may be drawn.
rules_of_choice = st.sampled_from([*Strategy, Strategy.ROUND_ROBIN, Strategy.RATE_LIMIT_AWARE, Strategy.USAGE_BASED])

deployments = st.builds(
    Deployment,
    few_ids,
    st.sampled_from([*"mmmmno"]),
    weight=st.sampled_from([0, 1, 1, 3, 2**32 - 1]),
    priority=st.sampled_from([0, 0, 1, 7]),
    rpm_limit=st.sampled_from([None, None, 2, 5, 12]),
    tpm_limit=st.sampled_from([None, None, 10, 50, 1000, 2**42]),
    max_parallel_requests=st.sampled_from([None, None, 2, 4]),
    tags=st.sampled_from([(), ("eu",), ("eu", "fast"), ("us",)]),
)
anything = st.builds(model.Request, tokens=amounts)
requests = st.one_of(
    anything,
    anything,
    st.builds(
        model.Request,
        tokens=amounts,
        tags=st.sampled_from([(), ("eu",), ("eu", "fast"), ("eu", "us"), ("mars",)]),
        tags_match=st.sampled_from(["all", "any"]),
        exclude=st.lists(few_ids, max_size=3).map(tuple),
    ),
)
endings = st.one_of(st.just("success"), st.just("success"), st.just("keep"), st.sampled_from(FailureKind))


def keywords(request: model.Request) -> dict[str, Any]:
    """A request as a router takes it."""
    return {"tokens": request.tokens, "tags": request.tags, "tags_match": request.tags_match, "exclude": request.exclude}


def attempt(call: Callable[[], object]) -> object:
    """What a call returns, or the error it raises with what that says; messages and near names are not compared."""
    try:
        return call()
    except RouterError as error:
        said = {name: value for name, value in vars(error).items() if name != "near"}
        return type(error), said


class Comparison(RuleBasedStateMachine):
    """A router and its model, side by side."""

    @initialize(
        strategy=rules_of_choice,
        strategies=st.dictionaries(st.sampled_from(MODEL_NAMES), rules_of_choice, max_size=3),
        rules=st.builds(
            model.Rules,
            allowed_fails=st.sampled_from([0, 1, 2, 4, 1000]),
            min_requests=st.sampled_from([0, 1, 3, 10, 1000]),
            cooldown_time=lengths,
            success_threshold=st.integers(1, 4),
        ),
        seed=st.integers(0, 2**64 - 1),
        start=st.sampled_from([1.0, 59.5, 1e6]),
        first=st.lists(deployments, min_size=1, max_size=4, unique_by=lambda deployment: deployment.deployment_id),
    )
    def begin(
        self,
        strategy: Strategy,
        strategies: dict[str, Strategy],
        rules: model.Rules,
        seed: int,
        start: float,
        first: list[Deployment],
    ) -> None:
        self.clock = ManualClock(start)
        self.router = Router(
            first,
            strategy=strategy,
            strategies=strategies,
            allowed_fails=rules.allowed_fails,
            min_requests=rules.min_requests,
            cooldown_time=rules.cooldown_time,
            success_threshold=rules.success_threshold,
            seed=seed,
            clock=self.clock,
        )
        self.model = model.Router(strategy, strategies, rules, model.Clock(model.nanos(start)))
        self.model.replace_all(first)
        self.leases: list[tuple[Lease, model.Lease]] = []

    def both(self, real: Callable[[], object], modelled: Callable[[], object]) -> None:
        assert attempt(real) == attempt(modelled)

    # --- registry ---

    @rule(deployment=deployments)
    def add(self, deployment: Deployment) -> None:
        self.both(lambda: self.router.add_deployment(deployment), lambda: self.model.add(deployment))

    @rule(ids=st.lists(many_ids, min_size=10, max_size=40, unique=True), pattern=deployments)
    def add_many(self, ids: list[str], pattern: Deployment) -> None:
        for deployment_id in ids:
            self.add(pattern.replace(deployment_id=deployment_id))

    @rule(position=positions)
    def remove(self, position: int) -> None:
        self.remove_id(self.id_at(position))

    def remove_id(self, deployment_id: str) -> None:
        self.both(lambda: self.router.remove_deployment(deployment_id), lambda: self.model.remove(deployment_id))

    @precondition(lambda self: len(self.model.deployments) > 10)
    @rule(ids=st.lists(many_ids, min_size=10, max_size=40, unique=True))
    def remove_many(self, ids: list[str]) -> None:
        for deployment_id in ids:
            self.remove_id(deployment_id)

    @rule(replacements=st.lists(deployments, min_size=2, max_size=6), keep=st.booleans())
    def replace_all(self, replacements: list[Deployment], keep: bool) -> None:
        """Replaces all, or all but some; now and then with an id given twice."""
        if keep:
            new = {deployment.deployment_id for deployment in replacements}
            replacements += [deployment for known, deployment in self.model.deployments.items() if known not in new]
        self.both(lambda: self.router.set_deployments(replacements), lambda: self.model.replace_all(replacements))

    @rule(order=st.randoms(use_true_random=False))
    def reorder(self, order: Any) -> None:
        replacements = list(self.model.deployments.values())
        order.shuffle(replacements)
        self.router.set_deployments(replacements)
        self.model.replace_all(replacements)

    @rule(alias=st.sampled_from([*ALIASES * 3, "m"]), name=names)
    def add_alias(self, alias: str, name: str) -> None:
        self.both(lambda: self.router.add_alias(alias, name), lambda: self.model.add_alias(alias, name))

    @rule(alias=st.sampled_from([*ALIASES, "m"]))
    def remove_alias(self, alias: str) -> None:
        self.both(lambda: self.router.remove_alias(alias), lambda: self.model.remove_alias(alias))

    def id_at(self, position: int) -> str:
        """An id that there is; once in a while one that there is not."""
        ids = [*self.model.deployments]
        return NOWHERE if position == 0 or not ids else ids[position % len(ids)]

    # --- picks ---

    def pick(self, name: str, request: model.Request, real: Callable[[], str]) -> str | None:
        """Picks, and checks that the model may pick likewise; None if neither finds a deployment."""
        allowed = attempt(lambda: self.model.choices(name, request, turn=True))
        picked = attempt(real)
        if isinstance(allowed, set):
            assert picked in allowed
            assert isinstance(picked, str)
            return picked
        assert picked == allowed
        return None

    @rule(name=names, request=requests)
    def select(self, name: str, request: model.Request) -> None:
        self.pick(name, request, lambda: self.router.select(name, **keywords(request)))

    @rule(name=names, request=requests, number=st.integers(0, 5))
    def select_many(self, name: str, request: model.Request, number: int) -> None:
        picked = attempt(lambda: self.router.select_many(name, number, **keywords(request)))
        if not isinstance(picked, Sequence) or isinstance(picked, tuple):
            self.both(lambda: picked, lambda: self.model.choices(name, request))
            return
        assert len(picked) == number
        for deployment_id in picked:
            assert deployment_id in self.model.choices(name, request, turn=True)

    @rule(name=names, request=requests)
    def acquire(self, name: str, request: model.Request) -> None:
        leases: list[Lease] = []

        def real() -> str:
            leases.append(self.router.acquire(name, **keywords(request)))
            return leases[0].deployment_id

        picked = self.pick(name, request, real)
        if picked is not None:
            held = self.model.reserve(picked, request.tokens)
            self.leases.append((leases[0], held))
            assert leases[0].deployment is held.deployment
            assert leases[0].model_name == held.deployment.model_name
            assert leases[0].tokens == request.tokens

    @rule(name=names, traffic=st.lists(st.tuples(anything, endings, lengths), min_size=1, max_size=10))
    def serve(self, name: str, traffic: list[tuple[model.Request, str, float]]) -> None:
        """What an application does: acquire, and end or go on."""
        for request, ending, length in traffic:
            before = len(self.leases)
            self.acquire(name, request)
            if len(self.leases) > before and ending != "keep":
                lease, held = self.leases.pop()
                if isinstance(ending, FailureKind):
                    assert lease.failure(ending, retry_after=length) == held.failure(ending, length)
                else:
                    assert lease.success(latency=length) == held.success(latency=length)
                if lease.deployment_id in self.model.states:
                    self.same_state(lease.deployment_id)

    @rule(name=names, request=requests)
    def explain(self, name: str, request: model.Request) -> None:
        explained = attempt(lambda: self.router.explain(name, **keywords(request)))
        if isinstance(explained, tuple):
            self.both(lambda: explained, lambda: self.model.group(name))
            return
        explanation: Any = explained
        group = self.model.group(name)
        assert explanation.model_name == group[0].model_name
        gates = {deployment.deployment_id: self.model.gate(deployment, request) for deployment in group}
        assert [(verdict.deployment_id, verdict.gate) for verdict in explanation.verdicts] == list(gates.items())
        if explanation.winner is None:
            assert isinstance(self.model.refusal(name, request), NoAvailableDeployment | RequestTooLarge)
            assert explanation.retry_after == self.model.retry_after(name, request)
            assert None not in gates.values()
        else:
            assert explanation.winner in self.model.choices(name, request)
            assert self.pick(name, request, lambda: self.router.select(name, **keywords(request))) == explanation.winner

    # --- outcomes ---

    @precondition(lambda self: self.leases)
    @rule(
        position=positions,
        actual=st.none() | amounts,
        latency=st.none() | lengths,
        forget=st.booleans(),
    )
    def succeed(self, position: int, actual: int | None, latency: float | None, forget: bool) -> None:
        lease, held = self.take(position, forget)
        assert lease.success(tokens=actual, latency=latency) == held.success(actual, latency)

    @precondition(lambda self: self.leases)
    @rule(position=positions, kind=st.sampled_from(FailureKind), retry_after=st.none() | lengths, forget=st.booleans())
    def fail(self, position: int, kind: FailureKind, retry_after: float | None, forget: bool) -> None:
        lease, held = self.take(position, forget)
        assert lease.failure(kind, retry_after=retry_after) == held.failure(kind, retry_after)

    @precondition(lambda self: self.leases)
    @rule(position=positions, unused=st.booleans(), forget=st.booleans())
    def release(self, position: int, unused: bool, forget: bool) -> None:
        lease, held = self.take(position, forget)
        assert lease.release(unused=unused) == held.release(unused)

    @precondition(lambda self: self.leases)
    @rule(position=positions, error=st.sampled_from([None, TimeoutError, ValueError, GeneratorExit]))
    def leave_block(self, position: int, error: type[BaseException] | None) -> None:
        lease, held = self.take(position, forget=True)
        assert lease.__exit__(error, error() if error else None, None) is False
        if error is None:
            held.success()
        elif error is GeneratorExit:
            held.release()
        else:
            held.failure("timeout" if error is TimeoutError else "error")

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(2, 12), kind=st.sampled_from([None, *FailureKind]))
    def end_many(self, number: int, kind: FailureKind | None) -> None:
        for lease, held in self.leases[:number]:
            if kind is None:
                assert lease.success() == held.success()
            else:
                assert lease.failure(kind) == held.failure(kind)
            self.same_state(lease.deployment_id)
        del self.leases[:number]

    def take(self, position: int, forget: bool) -> tuple[Lease, model.Lease]:
        """One of the leases, which are kept at times to be ended again."""
        position %= len(self.leases)
        return self.leases.pop(position) if forget else self.leases[position]

    @rule(position=positions, tokens=amounts, latency=st.none() | lengths, times=st.integers(1, 6))
    def record_success(self, position: int, tokens: int, latency: float | None, times: int) -> None:
        deployment_id = self.id_at(position)
        for _ in range(times):
            self.both(
                lambda: self.router.record_success(deployment_id, tokens=tokens, latency=latency),
                lambda: self.model.record_success(deployment_id, tokens, latency),
            )
            self.same_state(deployment_id)

    @rule(
        position=positions,
        kind=st.sampled_from(FailureKind),
        retry_after=st.none() | lengths,
        times=st.integers(1, 6),
    )
    def record_failure(self, position: int, kind: FailureKind, retry_after: float | None, times: int) -> None:
        deployment_id = self.id_at(position)
        for _ in range(times):
            self.both(
                lambda: self.router.record_failure(deployment_id, kind, retry_after=retry_after),
                lambda: self.model.record_failure(deployment_id, kind, retry_after),
            )
            self.same_state(deployment_id)

    @rule(position=positions, seconds=lengths)
    def cool_down(self, position: int, seconds: float) -> None:
        deployment_id = self.id_at(position)
        self.both(
            lambda: self.router.cool_down(deployment_id, seconds),
            lambda: self.model.state(deployment_id).cool_down(seconds),
        )

    @rule(position=positions, healthy=st.booleans())
    def report_health(self, position: int, healthy: bool) -> None:
        deployment_id = self.id_at(position)
        self.both(
            lambda: self.router.report_health(deployment_id, healthy),
            lambda: self.model.state(deployment_id).checked(healthy),
        )

    # --- time ---

    @rule(seconds=lengths)
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.clock.set(self.model.clock.reading + model.nanos(seconds))

    @rule(milliseconds=st.integers(0, 60_000))
    def advance_anyhow(self, milliseconds: int) -> None:
        self.advance(milliseconds / 1000)

    @rule(back=st.sampled_from([0.001, 1.0, 30.0, 60.0, 60.001, 100.0, 1e5]))
    def set_back(self, back: float) -> None:
        reading = max(self.model.clock.reading - model.nanos(back), 0)
        self.clock.set(reading / 1e9)
        self.model.clock.set(reading)
        assert self.clock.now() == reading / 1e9

    # --- comparison ---

    @invariant()
    def same_registry(self) -> None:
        assert self.router.deployments() == list(self.model.deployments.values())
        assert self.router.models() == self.model.models()
        assert self.router.aliases() == self.model.aliases
        assert len(self.router) == len(self.model.deployments)
        for model_name in self.model.models():
            assert self.router.deployments(model_name) == self.model.group(model_name)
        for alias in self.model.aliases:
            self.both(lambda alias=alias: self.router.resolve(alias), lambda alias=alias: self.model.resolve(alias))  # type: ignore[misc]

    def same_state(self, deployment_id: str) -> None:
        self.both(lambda: self.router.stats(deployment_id), lambda: self.model.stats(deployment_id))

    @invariant()
    def same_states(self) -> None:
        for deployment_id in self.model.deployments:
            self.same_state(deployment_id)

    @invariant()
    def same_totals(self) -> None:
        metrics = self.router.metrics()
        states = list(self.model.states.values())
        assert metrics.in_flight == sum(state.in_flight for state in states)
        assert metrics.total_requests == sum(state.total_requests for state in states)
        assert metrics.total_tokens == sum(state.total_tokens for state in states)
        assert metrics.deployments == metrics.available + metrics.degraded + metrics.cooling_down + metrics.unhealthy

    def teardown(self) -> None:
        if not hasattr(self, "leases"):
            return
        for lease, held in self.leases:
            assert lease.release() == held.release()
        self.same_states()
        assert self.router.metrics().in_flight == 0


Comparison.TestCase.settings = settings(max_examples=RUNS, stateful_step_count=STEPS)
TestModel = Comparison.TestCase
