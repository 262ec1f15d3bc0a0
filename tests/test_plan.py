"""The plan of a call: any script of answers is played to it, and what must always hold is checked."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnout import (
    AttemptRecord,
    Backoff,
    Budget,
    ConfigurationError,
    Deployment,
    FailureKind,
    Fallbacks,
    Hedge,
    ManualClock,
    Options,
    Retry,
    Router,
    Timeouts,
    attempts_of,
)
from turnout.execution.options import DEFAULTS, RETRIED
from turnout.execution.plan import Acquire, GiveUp, Pause, Plan

KINDS = [kind for kind in FailureKind if kind is not FailureKind.CANCELLED]
GROUPS = {"x": ("x0", "x1", "x2"), "y": ("y0", "y1"), "z": ("z0",)}
DEAD = (FailureKind.AUTH, FailureKind.NOT_FOUND)


def plan(options: Options | None = None, **more: Any) -> Plan:
    more.setdefault("draw", lambda: 0.5)
    options = (options or Options()).over(DEFAULTS)
    assert options.timeouts is not None
    return Plan("x", options, options.timeouts.total, **more)


class Failed(Exception):
    """A failure of any kind, as a script wants it."""

    def __init__(self, kind: FailureKind, retry_after: float | None) -> None:
        super().__init__(str(kind))
        self.kind, self.retry_after = kind, retry_after


names = st.sampled_from(sorted(GROUPS))
chains = st.dictionaries(names, st.lists(names, max_size=3), max_size=3)
all_options = st.builds(
    Options,
    retry=st.builds(
        Retry,
        attempts=st.integers(1, 4),
        kinds=st.sets(st.sampled_from(sorted(RETRIED))),
        backoff=st.builds(Backoff, base=st.floats(0, 2), cap=st.floats(0, 5), jitter=st.sampled_from(["full", "none"])),
        budget=st.none() | st.builds(Budget, share=st.floats(0, 1), per_second=st.floats(0, 5)),
        same_deployment=st.booleans(),
    ),
    fallbacks=st.builds(Fallbacks, chains, context_window=chains, content_policy=chains, rate_limit=chains),
    timeouts=st.builds(Timeouts, total=st.none() | st.floats(0.01, 20), capacity=st.none() | st.floats(0, 5)),
)
answers = st.none() | st.tuples(st.sampled_from(KINDS), st.none() | st.floats(0.01, 10))


class Script:
    """Answers in their order, on a router whose clock moves a little with each attempt."""

    def __init__(self, options: Options, answers: list[tuple[FailureKind, float | None] | None], places: int | None) -> None:
        self.clock = ManualClock(1000.0)
        deployments = [Deployment(id_, name, rpm_limit=places) for name, ids in GROUPS.items() for id_ in ids]
        self.router = Router(deployments, clock=self.clock, seed=3, strategy="round_robin")
        self.options = options
        self.answers = list(answers)
        self.sent: list[tuple[float, str, str, FailureKind | None]] = []
        self.records: list[AttemptRecord] = []

    def send(self, lease: Any) -> str:
        answer = self.answers.pop(0) if self.answers else None
        self.sent.append((self.clock.now(), lease.model_name, lease.deployment_id, answer and answer[0]))
        self.clock.advance(0.1)
        if answer is None:
            return str(lease.deployment_id)
        lease.failure(answer[0], answer[1])
        raise Failed(*answer)

    async def send_async(self, lease: Any) -> str:
        return self.send(lease)

    def given(self) -> dict[str, Any]:
        return {
            "retry": self.options.retry,
            "fallbacks": self.options.fallbacks,
            "timeouts": self.options.timeouts,
            "records": self.records,
        }


@pytest.fixture(autouse=True)
def kinds_of_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the kind of a `Failed` be read from it: no client library has an exception for each kind."""
    from turnout.execution import attempts

    fail = attempts.Attempt.fail

    def told(attempt: Any, error: BaseException) -> GiveUp | None:
        if not isinstance(error, Failed):
            return fail(attempt, error)
        attempt.kind = error.kind
        attempt.note(error.kind, None, error.retry_after)
        over: GiveUp | None = attempt._run.failed(attempt, error)
        return over

    monkeypatch.setattr(attempts.Attempt, "fail", told)


def outcome(work: Callable[[], object]) -> tuple[object, str | None]:
    try:
        return work(), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


@settings(max_examples=300, deadline=None)
@given(options=all_options, script=st.lists(answers, max_size=14), places=st.none() | st.integers(1, 3))
def test_what_always_holds(options: Options, script: list[tuple[FailureKind, float | None] | None], places: int | None) -> None:
    assert options.retry is not None
    assert options.timeouts is not None
    played = Script(options, script, places)
    result, _ = outcome(lambda: played.router.call("x", played.send, **played.given()))
    sent = played.sent
    assert len(played.records) == len(sent)
    assert [record.kind for record in played.records] == [kind for *_, kind in sent]
    # It ends with the first success, and with the first failure that no attempt can mend.
    for *_, kind in sent[:-1]:
        assert kind is not None
        own = (FailureKind.CONTEXT_WINDOW, FailureKind.CONTENT_POLICY)
        assert kind in own or kind in options.retry.kinds
    assert (result is not None) == (bool(sent) and sent[-1][3] is None)
    # Each name is visited once, and has so many attempts at most.
    visited = [name for nth, (_, name, *_) in enumerate(sent) if nth == 0 or sent[nth - 1][1] != name]
    assert len(visited) == len(set(visited))
    assert all(sum(name == other for _, other, *_ in sent) <= options.retry.attempts for name in visited)
    # No dead deployment is tried again; with `same_deployment=False` none is.
    for nth, (_, _, deployment_id, kind) in enumerate(sent):
        later = [other for _, _, other, _ in sent[nth + 1 :]]
        assert not ((kind in DEAD or not options.retry.same_deployment) and deployment_id in later)
    # No attempt begins after the deadline.
    if options.timeouts.total is not None:
        assert all(at <= 1000.0 + options.timeouts.total + 1e-6 for at, *_ in sent)
    assert played.router.metrics().in_flight == 0


@settings(max_examples=100, deadline=None)
@given(options=all_options, script=st.lists(answers, max_size=10), places=st.none() | st.integers(1, 3))
def test_threads_and_tasks_do_the_same(
    options: Options, script: list[tuple[FailureKind, float | None] | None], places: int | None
) -> None:
    function, task, loop = (Script(options, script, places) for _ in range(3))
    outcomes = [
        outcome(lambda: function.router.call("x", function.send, **function.given())),
        outcome(lambda: asyncio.run(task.router.call_async("x", task.send_async, **task.given()))),
    ]

    def by_loop() -> object:
        for attempt in loop.router.attempts("x", **loop.given()):
            with attempt as lease:
                return loop.send(lease)
        raise AssertionError("the loop ends with a success or an error")

    outcomes.append(outcome(by_loop))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert function.sent == task.sent == loop.sent
    assert function.records == task.records == loop.records


# --- one by one ---


def test_another_deployment_comes_at_once_and_the_same_after_a_pause() -> None:
    made = plan()
    assert made.next(0.0) == Acquire("x", frozenset(), 30.0)
    made.failed("x0", FailureKind.ERROR)
    assert made.next(0.1) == Acquire("x", frozenset({"x0"}), 0.0)
    made.refused()
    assert made.next(0.1) == Pause(0.05)
    assert made.next(0.2) == Acquire("x", frozenset(), 30.0)
    made.failed("x0", FailureKind.ERROR)
    made.refused()
    assert made.next(0.3) == Pause(0.1)


def test_a_dead_deployment_stays_excluded() -> None:
    made = plan()
    made.failed("x0", FailureKind.AUTH)
    made.refused()
    assert made.next(0.1) == Acquire("x", frozenset({"x0"}), 30.0)
    made.refused()
    assert made.next(0.1) == GiveUp("no deployment is available")


def test_a_full_group_is_left_at_once_if_there_is_a_fallback() -> None:
    made = plan(Options(fallbacks=Fallbacks({"x": ["y"]})))
    assert made.next(0.0) == Acquire("x", frozenset(), 0.0)
    made.refused(is_limited=True)
    assert made.next(0.0) == Acquire("y", frozenset(), 30.0)


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        (FailureKind.CONTEXT_WINDOW, "c"),
        (FailureKind.CONTENT_POLICY, "p"),
        (FailureKind.BAD_REQUEST, None),
    ],
)
def test_each_kind_has_its_fallbacks(kind: FailureKind, after: str | None) -> None:
    fallbacks = Fallbacks({"x": ["g"]}, context_window={"x": ["c"]}, content_policy={"x": ["p"]}, rate_limit={"x": ["r"]})
    made = plan(Options(fallbacks=fallbacks))
    made.failed("x0", kind)
    step = made.next(0.0)
    assert getattr(step, "model_name", None) == after


def test_a_rate_limit_turns_to_its_fallback_once_no_other_deployment_is_left() -> None:
    made = plan(Options(fallbacks=Fallbacks({"x": ["g"]}, rate_limit={"x": ["r"]})))
    made.failed("x0", FailureKind.RATE_LIMIT)
    assert made.next(0.0) == Acquire("x", frozenset({"x0"}), 0.0)
    made.refused(is_limited=True)
    step = made.next(0.0)
    assert isinstance(step, Acquire)
    assert step.model_name == "r"


def test_a_request_that_must_not_be_sent_twice_has_one_attempt_unless_it_was_not_sent() -> None:
    made = plan(repeats=False)
    made.failed("x0", FailureKind.CONNECTION, unsent=True)
    assert isinstance(made.next(0.0), Acquire)
    made.failed("x1", FailureKind.ERROR)
    assert made.next(0.0) == GiveUp("the request must not be sent twice")


class Purse:
    """A budget that writes down what is asked of it."""

    def __init__(self, left: int) -> None:
        self.left = left

    def withdraw(self, attempts: int) -> bool:
        if attempts > self.left:
            return False
        self.left -= attempts
        return True

    def put_back(self, attempts: int) -> None:
        self.left += attempts


def test_further_attempts_are_paid_for_and_timeouts_cost_twice() -> None:
    purse = Purse(3)
    made = plan(budget=purse)
    made.next(0.0)
    assert purse.left == 3
    made.failed("x0", FailureKind.TIMEOUT)
    made.next(0.0)
    assert purse.left == 1
    made.refused()  # nothing was sent
    assert purse.left == 3
    made.next(0.0)  # a pause
    made.next(1.0)
    made.failed("x1", FailureKind.TIMEOUT)
    assert made.next(1.0) == GiveUp("the budget of retries is spent")


def test_the_deadline_ends_all() -> None:
    made = plan(Options(timeouts=Timeouts(total=1.0)))
    assert made.next(0.5) == Acquire("x", frozenset(), 0.5)
    made.failed("x0", FailureKind.ERROR)
    assert made.next(1.0) == GiveUp("the deadline has passed")


# --- options ---


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Retry(attempts=0), ConfigurationError, "attempts must be an int from 1"),
        (lambda: Retry(attempts=True), TypeError, "attempts"),
        (lambda: Retry(kinds={"bad_request"}), ConfigurationError, "kinds must be any of auth, connection"),
        (lambda: Retry(kinds="error"), TypeError, "kinds must be an iterable"),
        (lambda: Retry(backoff=0.5), TypeError, "backoff must be a Backoff, not 0.5"),  # type: ignore[arg-type]
        (lambda: Backoff(base=-1.0), ConfigurationError, "base must be"),
        (lambda: Backoff(factor=0.5), ConfigurationError, "factor must be a number from 1"),
        (lambda: Backoff(jitter="some"), ConfigurationError, "jitter must be 'full' or 'none', not 'some'"),  # type: ignore[arg-type]
        (lambda: Budget(share=-0.1), ConfigurationError, "share must be a number from 0 to 100"),
        (lambda: Budget(window=0.5), ConfigurationError, "window must be a number of seconds from 1"),
        (lambda: Timeouts(total=0), ConfigurationError, "total must be"),
        (lambda: Timeouts(idle="1"), TypeError, "idle must be"),  # type: ignore[arg-type]
        (lambda: Hedge(after=float("nan")), ConfigurationError, "after must be"),
        (lambda: Fallbacks({"x": "y"}), TypeError, r"general\['x'\] must be a list of model names, not 'y'"),
        (lambda: Fallbacks(["x"]), TypeError, "general must map model names"),  # type: ignore[arg-type]
        (lambda: Fallbacks({"x": [""]}), ConfigurationError, "must not be empty"),
        (lambda: Options(retry=3), TypeError, "retry must be a Retry, not 3"),  # type: ignore[arg-type]
        (lambda: Router(retry=3), TypeError, "retry must be a Retry, not 3"),  # type: ignore[arg-type]
        (lambda: Router(model_options={"m": Retry()}), TypeError, r"model_options\['m'\] must be an Options"),  # type: ignore[dict-item]
        (lambda: Router().configure(timeouts=5), TypeError, "timeouts must be a Timeouts, not 5"),  # type: ignore[arg-type]
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make()


def test_the_narrower_options_hold() -> None:
    def tries(router: Router, **given: Any) -> int:
        def send(lease: Any) -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError) as failed:
            router.call("m", send, **given)
        return len(attempts_of(failed.value))

    def retry(attempts: int) -> Retry:
        return Retry(attempts=attempts, budget=None)

    deployments = [Deployment(str(nth), "m") for nth in range(9)]
    router = Router(deployments, retry=retry(2), clock=ManualClock())
    assert tries(router) == 2
    router.configure(model_options={"m": Options(retry=retry(4))})
    assert tries(router) == 4
    with router.options(retry=retry(5)):
        assert tries(router) == 5
        with router.options(retry=retry(6)):
            assert tries(router) == 6
            assert tries(router, retry=retry(7)) == 7
            assert tries(Router(deployments, clock=ManualClock())) == 3
    assert tries(router) == 4
    router.configure(model_options={}, retry=retry(1))
    assert tries(router) == 1
