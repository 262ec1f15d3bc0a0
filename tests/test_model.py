"""A router does what a simple model of it does, step by step, whatever is done with the two.

Each step is done to both; they must give the same answer or the same error, and leave every deployment in the
same state. ``TURNOUT_MODEL_RUNS`` and ``TURNOUT_MODEL_STEPS`` say how many runs of how many steps there are.
"""

import os
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

import model
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from turnout import (
    Deployment,
    FailureKind,
    Learning,
    Lease,
    ManualClock,
    MinuteRules,
    Router,
    RouterError,
    Strategy,
)

RUNS = int(os.environ.get("TURNOUT_MODEL_RUNS", "500"))
STEPS = int(os.environ.get("TURNOUT_MODEL_STEPS", "100"))

NOWHERE = "nowhere"
ALIASES = ("x", "y", "z")
IDS = "abcd"
MANY_IDS = [f"d{i}" for i in range(70)]
# Whole milliseconds, which are exact in both worlds.
LENGTHS = [0.0, 0.001, 0.05, 0.5, 1.0, 2.0, 5.0, 30.0, 60.0, 90.0]
AMOUNTS = [0, 0, 1, 1, 5, 10, 20, 41, 2**40]
# Most of these are compared exactly; of the two that draw, the model only knows who may be drawn.
STRATEGIES = [*Strategy, Strategy.ROUND_ROBIN, Strategy.RATE_LIMIT_AWARE, Strategy.USAGE_BASED]
# Most failures only count: the others hide what counting does.
FAILURES = [*FailureKind, *[FailureKind.ERROR] * 15, *[FailureKind.CONNECTION] * 4]

Made = TypeVar("Made")


def made(make: Callable[[Random], Made]) -> st.SearchStrategy[Made]:
    """Values made from one number, which is drawn faster than each of their parts would be, and spreads more
    evenly.
    """
    return st.integers(0, 2**32 - 1).map(lambda seed: make(Random(seed)))


def some(make: Callable[[Random], Made], least: int, most: int) -> st.SearchStrategy[list[Made]]:
    """Lists of such values."""
    return made(lambda chance: [make(chance) for _ in range(chance.randint(least, most))])


def deployment(chance: Random) -> Deployment:
    return Deployment(
        chance.choice(IDS),
        chance.choice("mmmmno"),
        weight=chance.choice([0, 1, 1, 3, 2**32 - 1]),
        priority=chance.choice([0, 0, 1, 7]),
        rpm_limit=chance.choice([None, None, 2, 5, 12]),
        tpm_limit=chance.choice([None, None, 10, 50, 1000, 2**42]),
        max_parallel_requests=chance.choice([None, None, 2, 4]),
        tags=chance.choice([(), ("eu",), ("eu", "fast"), ("us",)]),
        input_price=chance.choice([None, 0, 1, 2]),
        output_price=chance.choice([None, 0, 1, 2]),
    )


def request(chance: Random) -> model.Request:
    tokens = chance.choice(AMOUNTS)
    if chance.random() < 0.8:
        return model.Request(tokens)
    tags = chance.choice([(), (), ("eu",), ("eu", "fast"), ("eu", "us"), ("mars",)])
    return model.Request(tokens, tags, chance.choice(["all", "any"]), tuple(chance.sample(IDS, chance.randint(0, 3))))


def ending(chance: Random) -> str:
    """How a lease ends; a failure by its kind."""
    endings: list[str] = [*FAILURES, *["success"] * 30, *["unused", "release", "block"] * 3, "failed block"]
    return chance.choice(endings)


def maybe(values: Sequence[Made]) -> st.SearchStrategy[Made | None]:
    return made(lambda chance: chance.choice([None, *values]))


# Positions among what there is just then, so that most steps meet something.
positions = made(lambda chance: chance.randrange(50))


def keywords(request: model.Request) -> dict[str, Any]:
    """A request as a router takes it."""
    return {"tokens": request.tokens, "tags": request.tags, "tags_match": request.tags_match, "exclude": request.exclude}


def attempt(call: Callable[[], Any]) -> Any:
    """What a call returns, or the error it raises with what that says; messages and near names are not
    compared.
    """
    try:
        return call()
    except RouterError as error:
        return type(error), {name: value for name, value in vars(error).items() if name != "near"}


class Comparison(RuleBasedStateMachine):
    """A router and its model, side by side."""

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        strategies=st.dictionaries(st.sampled_from([*"mno"]), st.sampled_from(STRATEGIES)),
        tiers=st.booleans(),
        rules=st.builds(
            model.Rules,
            allowed_fails=st.sampled_from([0, 1, 2, 4, 1000, 1000]),
            min_requests=st.sampled_from([0, 1, 3, 10, 1000]),
            cooldown_time=st.sampled_from(LENGTHS),
            success_threshold=st.sampled_from([1, 2, 3, 8]),
        ),
        seed=st.integers(0, 2**64 - 1),
        start=st.sampled_from([1.0, 59.5, 1e6]),
        first=some(deployment, 1, 6),
    )
    def begin(
        self,
        strategy: Strategy,
        strategies: dict[str, Strategy],
        tiers: bool,
        rules: model.Rules,
        seed: int,
        start: float,
        first: list[Deployment],
    ) -> None:
        # One of each id.
        first = list({deployment.deployment_id: deployment for deployment in first}.values())
        self.clock = ManualClock(start)
        self.router = Router(
            first,
            strategy=strategy,
            strategies=strategies,
            tiers=tiers,
            health=MinuteRules(
                allowed_fails=rules.allowed_fails,
                min_requests=rules.min_requests,
                cooldown_time=rules.cooldown_time,
                success_threshold=rules.success_threshold,
            ),
            seed=seed,
            clock=self.clock,
            learning=Learning(concurrency=False),  # tests/test_limits.py has that
        )
        self.model = model.Router(strategy, strategies, tiers, rules, model.Clock(model.nanos(start)))
        self.model.replace_all(first)
        self.leases: list[tuple[Lease, model.Lease]] = []

    def both(self, real: Callable[[], object], modelled: Callable[[], object]) -> None:
        assert attempt(real) == attempt(modelled)

    def id_at(self, position: int) -> str:
        """An id that there is; once in a while one that there is not."""
        known = [*self.model.deployments]
        return known[position % len(known)] if known and position else NOWHERE

    def name_at(self, position: int) -> str:
        """A model name or an alias that there is, most often ``m``; once in a while one that there is not."""
        models = self.model.models()
        known = models[:1] * 3 + models + [*self.model.aliases]
        return known[position % len(known)] if known and position else NOWHERE

    # --- registry ---

    @rule(deployment=made(deployment))
    def add(self, deployment: Deployment) -> None:
        self.both(lambda: self.router.add_deployment(deployment), lambda: self.model.add(deployment))

    @rule(position=positions)
    def remove(self, position: int) -> None:
        self.remove_id(self.id_at(position))

    def remove_id(self, deployment_id: str) -> None:
        self.both(lambda: self.router.remove_deployment(deployment_id), lambda: self.model.remove(deployment_id))

    @rule(
        many=made(lambda chance: chance.sample(MANY_IDS, chance.randint(10, 70))),
        pattern=made(deployment),
        add=st.booleans(),
    )
    def change_many(self, many: list[str], pattern: Deployment, add: bool) -> None:
        """Makes a group large, or full of holes."""
        for deployment_id in many:
            if add:
                self.add(pattern.replace(deployment_id=deployment_id))
            else:
                self.remove_id(deployment_id)

    @rule(
        new=some(deployment, 1, 4),
        keep=st.sampled_from([True, True, True, False]),
        order=made(lambda chance: chance),
    )
    def replace_all(self, new: list[Deployment], keep: bool, order: Random) -> None:
        """Replaces all, or all but some; now and then with an id given twice."""
        known = {deployment.deployment_id for deployment in new}
        if keep:
            new = new + [deployment for deployment_id, deployment in self.model.deployments.items() if deployment_id not in known]
        order.shuffle(new)
        self.both(lambda: self.router.set_deployments(new), lambda: self.model.replace_all(new))

    @rule(alias=st.sampled_from([*ALIASES * 3, "m"]), position=st.none() | positions)
    def change_alias(self, alias: str, position: int | None) -> None:
        if position is None:
            self.both(lambda: self.router.remove_alias(alias), lambda: self.model.remove_alias(alias))
        else:
            name = self.name_at(position)
            self.both(lambda: self.router.add_alias(alias, name), lambda: self.model.add_alias(alias, name))

    # --- picks ---

    def pick(self, name: str, request: model.Request, real: Callable[[], str]) -> str | None:
        """Picks, and checks that the model may pick likewise; None if neither finds a deployment."""
        allowed = attempt(lambda: self.model.choices(name, request, turn=True))
        picked: str = attempt(real)
        if isinstance(allowed, set):
            assert picked in allowed
            return picked
        assert picked == allowed
        return None

    @rule(position=positions, request=made(request))
    def select(self, position: int, request: model.Request) -> None:
        name = self.name_at(position)
        self.pick(name, request, lambda: self.router.select(name, **keywords(request)))

    @rule(position=positions, request=made(request), number=st.integers(0, 5))
    def select_many(self, position: int, request: model.Request, number: int) -> None:
        name = self.name_at(position)
        picked = attempt(lambda: self.router.select_many(name, number, **keywords(request)))
        if isinstance(picked, list):
            assert len(picked) == number
            for deployment_id in picked:
                assert deployment_id in self.model.choices(name, request, turn=True)
        else:
            assert picked == attempt(lambda: self.model.choices(name, request))

    @rule(position=positions, request=made(request))
    def acquire(self, position: int, request: model.Request) -> None:
        self.acquired(self.name_at(position), request)

    def acquired(self, name: str, request: model.Request) -> bool:
        """Acquires, and says whether there was anything to acquire."""
        leases: list[Lease] = []

        def real() -> str:
            leases.append(self.router.acquire(name, **keywords(request)))
            return leases[0].deployment_id

        picked = self.pick(name, request, real)
        if picked is None:
            return False
        held = self.model.reserve(picked, request.tokens)
        self.leases.append((leases[0], held))
        assert leases[0].deployment is held.deployment
        assert leases[0].model_name == held.deployment.model_name
        assert leases[0].tokens == request.tokens
        return True

    @rule(position=positions, request=made(request))
    def explain(self, position: int, request: model.Request) -> None:
        name = self.name_at(position)
        explanation = attempt(lambda: self.router.explain(name, **keywords(request)))
        if isinstance(explanation, tuple):
            assert explanation == attempt(lambda: self.model.group(name))
            return
        group = self.model.group(name)
        gates = self.model.gates(name, request)
        assert explanation.model_name == group[0].model_name
        assert [(verdict.deployment_id, verdict.gate) for verdict in explanation.verdicts] == list(gates.items())
        if explanation.winner is None:
            assert isinstance(attempt(lambda: self.model.choices(name, request)), tuple)
            assert explanation.retry_after == self.model.retry_after(name, request)
        else:
            assert explanation.winner in self.model.choices(name, request)
            assert explanation.winner == self.pick(name, request, lambda: self.router.select(name, **keywords(request)))

    @rule(
        position=positions,
        traffic=some(lambda chance: (request(chance), chance.random() < 0.5, ending(chance), chance.choice(LENGTHS)), 2, 12),
    )
    def serve(self, position: int, traffic: list[tuple[model.Request, bool, str, float]]) -> None:
        """What an application does all day: a few requests of one model, some of which go on."""
        name = self.name_at(position)
        for request, goes_on, ending, length in traffic:
            if self.acquired(name, request) and not goes_on:
                self.end(*self.leases.pop(), ending, request.tokens, length)

    # --- outcomes ---

    def end(self, lease: Lease, held: model.Lease, ending: str, actual: int | None, length: float | None) -> None:
        if isinstance(ending, FailureKind):
            assert lease.failure(ending, retry_after=length) == held.failure(ending, length)
        elif ending == "success":
            assert lease.success(tokens=actual, latency=length) == held.success(actual, length)
        elif ending in ("release", "unused"):
            assert lease.release(unused=ending == "unused") == held.release(ending == "unused")
        elif ending == "block":
            assert lease.__exit__(None, None, None) is False
            held.success()
        else:
            assert lease.__exit__(TimeoutError, TimeoutError(), None) is False
            held.failure("timeout")
        self.same_state(lease.deployment_id)

    @precondition(lambda self: self.leases)
    @rule(
        position=positions,
        ending=made(ending),
        actual=maybe(AMOUNTS),
        length=maybe(LENGTHS),
        forget=st.booleans(),
    )
    def end_one(self, position: int, ending: str, actual: int | None, length: float | None, forget: bool) -> None:
        """Ends a lease, which is kept at times to be ended again."""
        position %= len(self.leases)
        self.end(*self.leases[position], ending, actual, length)
        if forget:
            del self.leases[position]

    @precondition(lambda self: self.leases)
    @rule(
        wait=st.sampled_from(LENGTHS),
        number=st.integers(1, 12),
        ending=made(lambda chance: chance.choice(["success", *["unused"] * 3, *FAILURES])),
    )
    def end_many(self, wait: float, number: int, ending: str) -> None:
        """After a while many answers come in, or fail to."""
        self.advance(wait)
        for lease, held in self.leases[:number]:
            self.end(lease, held, ending, None, None)
        del self.leases[:number]

    @rule(
        position=positions,
        outcomes=some(lambda chance: (chance.choice([*FAILURES, *[None] * len(FAILURES)]), chance.choice(AMOUNTS)), 1, 12),
        length=maybe(LENGTHS),
    )
    def record(self, position: int, outcomes: list[tuple[FailureKind | None, int]], length: float | None) -> None:
        deployment_id = self.id_at(position)
        for kind, tokens in outcomes:
            if kind is None:
                self.both(
                    lambda tokens=tokens: self.router.record_success(deployment_id, tokens=tokens, latency=length),  # type: ignore[misc]
                    lambda tokens=tokens: self.model.record_success(deployment_id, tokens, length),  # type: ignore[misc]
                )
            else:
                self.both(
                    lambda kind=kind: self.router.record_failure(deployment_id, kind, retry_after=length),  # type: ignore[misc]
                    lambda kind=kind: self.model.record_failure(deployment_id, kind, length),  # type: ignore[misc]
                )
            self.same_state(deployment_id)

    @rule(position=positions, found=st.sampled_from([True, True, True, False, *LENGTHS]))
    def check(self, position: int, found: float) -> None:
        """What an application finds out by itself: a health, or the length of a cooldown."""
        deployment_id = self.id_at(position)
        if isinstance(found, bool):
            self.both(
                lambda: self.router.report_health(deployment_id, found),
                lambda: self.model.state(deployment_id).checked(found),
            )
        else:
            self.both(
                lambda: self.router.cool_down(deployment_id, found),
                lambda: self.model.state(deployment_id).cool_down(found),
            )

    # --- time ---

    @rule(seconds=made(lambda chance: chance.choice([*LENGTHS, 20.0, 60.0, 60.0, 200.0, chance.randrange(60_000) / 1000])))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.clock.set(self.model.clock.reading + model.nanos(seconds))

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
        for name in ["m", *self.model.aliases]:
            self.both(lambda name=name: self.router.deployments(name), lambda name=name: self.model.group(name))  # type: ignore[misc]
            self.both(lambda name=name: self.router.resolve(name), lambda name=name: self.model.resolve(name))  # type: ignore[misc]

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
        # All of them first: none may be lost to a difference.
        ended = [(lease.release(), held.release()) for lease, held in self.leases]
        assert all(real == modelled for real, modelled in ended)
        assert self.router.metrics().in_flight == 0


Comparison.TestCase.settings = settings(max_examples=RUNS, stateful_step_count=STEPS)
TestModel = Comparison.TestCase
