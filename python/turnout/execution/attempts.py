"""The loop over attempts: acquire, try, and what comes of a failure. Calls are made of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from turnout.enums import FailureKind
from turnout.exceptions import ModelNotFound, NoAvailableDeployment, RateLimitExceeded, RequestTooLarge, RouterError
from turnout.execution.options import Options
from turnout.execution.plan import SPENT_BUDGET, Acquire, GiveUp, Pause, Plan, least
from turnout.execution.record import AttemptRecord, put_on, status_of
from turnout.execution.state import resolver
from turnout.waiting import runs_in_trio

if TYPE_CHECKING:
    from turnout._core import Lease, Router
    from turnout.execution.state import Execution

__all__ = ["Attempt", "Attempts", "Run"]


class Run:
    """One call under way: its plan, its records and its last error. Loops, functions and transports drive it.

    Most calls are over with their first attempt, so the plan is made when it is first asked for.

    Args:
        router: The router.
        model_name: The model name that is asked for.
        call: The options of the call itself.
        request: The keywords for :meth:`turnout.Router.acquire`, but for the timeout. It is used up.
        copies: A list of the caller's, which gets the records too.
        repeats: Whether the request can be sent again after a deployment may have got it.
        streams: Whether the answer is a stream, whose first event has a time limit of its own.
        total: The seconds that the request itself allows, in place of those of the options.
        pays: Whether the call has yet to pay its share into the budget.
    """

    __slots__ = (
        "_began_at",
        "_budget",
        "_copies",
        "_exclude",
        "_has_begun",
        "_has_own_retry",
        "_has_own_total",
        "_hops",
        "_is_told",
        "_model_name",
        "_now",
        "_plan",
        "_repeats",
        "_router",
        "_streams",
        "clock",
        "deadline",
        "error",
        "execution",
        "options",
        "records",
        "request",
    )

    def __init__(
        self,
        router: Router,
        model_name: str,
        call: Options,
        request: dict[str, Any],
        *,
        copies: list[AttemptRecord] | None = None,
        repeats: bool = True,
        streams: bool = False,
        total: float | None = None,
        pays: bool = True,
    ) -> None:
        self._router = router
        self._model_name, self._repeats, self._streams = model_name, repeats, streams
        self._now: Callable[[], float] = router._now
        self._began_at = now = router._now()
        self.clock = router._clock
        self.execution: Execution = router._execution
        self.records: list[AttemptRecord] = []
        self._copies = copies
        self.request = request
        # These are read at each attempt. What is no collection of texts is for the router to refuse.
        for name in ("exclude", "only", "tags"):
            given = request.get(name)
            if isinstance(given, Iterable) and not isinstance(given, (str, Collection)):
                request[name] = tuple(given)
        self._exclude: Any = request.pop("exclude", None)
        self.error: BaseException | None = None
        self._hops = 0
        self._has_begun = self._is_told = False
        self._plan: Plan | None = None
        self.options = options = self.execution.of(router, model_name, call)
        assert options.retry is not None
        assert options.timeouts is not None
        self._has_own_retry = call.retry is not None
        # A deadline of the caller's may be shorter than any deployment can answer.
        self._has_own_total = total is not None or call.timeouts is not None
        total = options.timeouts.total if total is None else total
        self.deadline = None if total is None else now + total
        rules = options.retry.budget
        self._budget = None if rules is None else router._budget(rules.share, rules.per_second, rules.window)
        if self._budget is not None and pays:
            self._budget.deposit()

    @property
    def plan(self) -> Plan:
        """What comes next, and why."""
        if self._plan is None:
            self._plan = Plan(
                self._model_name,
                self.options,
                self.deadline,
                draw=self._router._draw,
                resolve=resolver(self._router),
                budget=self._budget,
                exclude=self._exclude or (),
                repeats=self._repeats,
            )
        return self._plan

    # --- the steps ---

    def next(self) -> Acquire | Pause:
        """Return what to do next.

        Returns:
            The step.

        Raises:
            BaseException: There is no further attempt: the last error.
        """
        step = self.plan.next(self._now())
        if isinstance(step, GiveUp):
            raise self.last(step)
        return step

    def acquired(self, step: Acquire, lease: Lease, waited: float, *, hedges: bool = False) -> Attempt:
        """Begin an attempt.

        Args:
            step: The step.
            lease: The lease.
            waited: Seconds that the call waited for it.
            hedges: Whether the attempt begins beside another one.

        Returns:
            The attempt.
        """
        count = self._router._count
        count("attempts")
        if self._plan is not None and self._plan.fallbacks > self._hops:
            self._hops = self._plan.fallbacks
            count("fallbacks")
        elif hedges:
            count("hedges")
        elif self._has_begun:
            count("retries")
        return self.attempt(step.model_name, lease, waited)

    def attempt(self, model_name: str, lease: Lease, waited: float) -> Attempt:
        """Begin an attempt that is counted already.

        Args:
            model_name: The model name that was asked.
            lease: The lease.
            waited: Seconds that the call waited for it.

        Returns:
            The attempt.
        """
        attempt = Attempt(self, model_name, lease, waited)
        self._has_begun = True
        return attempt

    def note(self, record: AttemptRecord) -> None:
        """Note an attempt that has ended.

        Args:
            record: Its record.
        """
        self.records.append(record)
        if self._copies is not None:
            self._copies.append(record)
        if self.execution.listeners:
            self.execution.tell(record)

    def refused(self, step: Acquire, error: RouterError) -> None:
        """Note that no deployment was acquired.

        Args:
            step: The step.
            error: Why.

        Raises:
            RouterError: Nobody serves the model name, or the arguments are wrong.
        """
        if isinstance(error, ModelNotFound) or not hasattr(error, "model_name"):
            self.plan.put_back()
            if self.records:
                put_on(error, tuple(self.records), f"turned to {step.model_name!r}")
            raise error from self.error
        self.plan.refused(is_limited=isinstance(error, RateLimitExceeded), is_final=isinstance(error, RequestTooLarge))
        if not self.records:
            self.error = error

    def failed(self, attempt: Attempt, error: BaseException) -> GiveUp | None:
        """Note that an attempt failed, and find out what comes next.

        Args:
            attempt: The attempt, which has ended.
            error: What it raised.

        Returns:
            Why there is no further attempt; None if there may be one.
        """
        self.error = error
        deployment = attempt.lease.deployment
        retry = None if self._has_own_retry else deployment.retry
        self.plan.failed(deployment.deployment_id, attempt.kind, unsent=attempt.unsent, retry=retry)
        if not isinstance(error, Exception):
            return GiveUp("the call was interrupted")
        return self.plan.over

    def last(self, step: GiveUp) -> BaseException:
        """Return the error that ends the call, with the attempts on it.

        Args:
            step: Why it ends.

        Returns:
            The error.
        """
        error = self.error
        if self._is_told:
            # A loop may be asked again after its end.
            assert error is not None
            return error
        self._is_told = True
        self.count_refusal(step)
        if error is None:
            timeouts = self.options.timeouts
            error = TimeoutError(f"no attempt began within {timeouts.total if timeouts else None} s")
        put_on(error, tuple(self.records), step.reason)
        return error

    def count_refusal(self, step: GiveUp) -> None:
        """Count a refusal by the budget.

        Args:
            step: Why there is no attempt.
        """
        if step.reason == SPENT_BUDGET:
            self._router._count("budget_refusals")

    def bounds(self) -> tuple[float | None, bool]:
        """Return the bound of an attempt that begins now.

        Returns:
            The most seconds, None for no bound. And whether that is a time in which no deployment may be able
            to answer: what is left of the whole call after another attempt, or a deadline of the caller's.
        """
        timeouts = self.options.timeouts
        assert timeouts is not None
        own = least(timeouts.attempt, timeouts.first_token) if self._streams else timeouts.attempt
        if self.deadline is None:
            return own, False
        left = self.deadline - self._now()
        if own is not None and own <= left:
            return own, False
        return left, self._has_begun or self._has_own_total

    def now(self) -> float:
        """Return the time of the router's clock, in seconds."""
        return self._now()

    def acquire_now(self, step: Acquire) -> Lease:
        """Acquire a deployment without a wait.

        Args:
            step: The step.

        Returns:
            The lease.

        Raises:
            RouterError: No deployment is available.
        """
        return self._router.acquire(step.model_name, exclude=step.exclude, **self.request)

    def _acquire(self, step: Acquire) -> Lease:
        try:
            return self.acquire_now(step)
        except NoAvailableDeployment as error:
            if not _may_come(step, error):
                raise
        return self._router.acquire(step.model_name, exclude=step.exclude, timeout=step.timeout, **self.request)

    async def _acquire_async(self, step: Acquire) -> Lease:
        try:
            return self.acquire_now(step)
        except NoAvailableDeployment as error:
            if not _may_come(step, error):
                raise
        return await self._router.acquire_async(step.model_name, exclude=step.exclude, timeout=step.timeout, **self.request)

    def _acquire_by_hand(self, step: Acquire) -> Lease:
        """Acquires under a clock that is moved by hand. A wait moves the clock up to the time when a
        deployment may be available, since nobody else might.
        """
        assert self.clock is not None
        until = None if step.timeout is None else self._now() + step.timeout
        while True:
            try:
                return self.acquire_now(step)
            except NoAvailableDeployment as error:
                if error.retry_after is None:
                    raise
                left = None if until is None else max(until - self._now(), 0.0)
                if left is not None and left < error.retry_after:
                    self.clock.advance(left)
                    raise
                # The clock counts whole nanoseconds. So it may still be a little too early.
                self.clock.advance(error.retry_after + 1e-9)

    def _at_once(self) -> Attempt | None:
        """Makes the first attempt, if a deployment is available. Otherwise the plan says what comes next."""
        if self._plan is not None:
            return None
        step = Acquire(self._model_name, self._exclude, 0.0)
        try:
            lease = self.acquire_now(step)
        except RouterError:
            return None  # the plan asks again, and says what that means
        return self.acquired(step, lease, 0.0)

    # --- without and with an event loop ---

    def acquire(self) -> Attempt:
        """Go on to the next attempt in this thread.

        Returns:
            The attempt.

        Raises:
            BaseException: There is no further attempt: the last error.
        """
        if (first := self._at_once()) is not None:
            return first
        while True:
            step = self.next()
            if isinstance(step, Pause):
                self.clock.advance(step.seconds) if self.clock else time.sleep(step.seconds)
                continue
            asked_at = self._now()
            try:
                lease = self._acquire_by_hand(step) if self.clock else self._acquire(step)
            except RouterError as error:
                self.refused(step, error)
            except BaseException:
                self.plan.put_back()
                raise
            else:
                return self.acquired(step, lease, self._now() - asked_at)

    async def acquire_async(self) -> Attempt:
        """Go on to the next attempt in this task.

        Returns:
            The attempt.

        Raises:
            BaseException: There is no further attempt: the last error.
        """
        if (first := self._at_once()) is not None:
            return first
        while True:
            step = self.next()
            if isinstance(step, Pause):
                self.clock.advance(step.seconds) if self.clock else await _sleep(step.seconds)
                continue
            asked_at = self._now()
            try:
                lease = self._acquire_by_hand(step) if self.clock else await self._acquire_async(step)
            except RouterError as error:
                self.refused(step, error)
            except BaseException:
                self.plan.put_back()
                raise
            else:
                return self.acquired(step, lease, self._now() - asked_at)


class Attempt:
    """One attempt: a context manager, for threads and for tasks, that gives its lease.

    A failure that another attempt may mend is swallowed where the block ends. Any other passes through. A
    block that ends without an exception ends the call.

    Attributes:
        lease: The lease.
        model_name: The model name that was asked.
        kind: What went wrong; None before the end and after a success.
        record: The record; None before the end.
        timeout: The most seconds that the attempt may take, counted from its begin; None for no bound. In a
            task it is kept. A thread cannot be interrupted: give it to your client.
        unsent: Whether the deployment certainly did not get the request. The sender says so.
        is_left: Whether the caller itself has ended it, so that a failure says nothing of the deployment. The
            sender says so.
        has_no_key: Whether it failed since the deployment has no key that can be sent. The sender says so.
    """

    __slots__ = (
        "_is_short",
        "_run",
        "_scope",
        "_waited",
        "has_no_key",
        "is_left",
        "kind",
        "lease",
        "model_name",
        "record",
        "timeout",
        "unsent",
    )

    def __init__(self, run: Run, model_name: str, lease: Lease, waited: float) -> None:
        self._run = run
        self._waited = waited
        self._scope: Any = None
        self.lease = lease
        self.model_name = model_name
        self.kind: FailureKind | None = None
        self.record: AttemptRecord | None = None
        self.timeout, self._is_short = run.bounds()
        self.unsent = self.is_left = self.has_no_key = False

    @property
    def records(self) -> list[AttemptRecord]:
        """The records of the call so far."""
        return self._run.records

    def now(self) -> float:
        """Return the time of the router's clock, in seconds."""
        return self._run.now()

    def bound(self, seconds: float) -> None:
        """Let the attempt take less time, for a reason of its own deployment.

        Args:
            seconds: The most seconds, counted from its begin.
        """
        if self.timeout is None or seconds <= self.timeout:
            self.timeout, self._is_short = seconds, False

    def succeed(self, status: int | None = None) -> None:
        """End the attempt with a success.

        Args:
            status: The HTTP status, if it is known.
        """
        self.lease.success()
        self.note(None, status, None)

    def fail(self, error: BaseException) -> GiveUp | None:
        """End the attempt by an exception.

        Args:
            error: The exception.

        Returns:
            Why there is no further attempt; None if there may be one.
        """
        retry_after = None
        if self.is_left:
            self.lease.release()
        elif self.has_no_key:
            self.kind = FailureKind.AUTH
            self.lease.failure(self.kind)
        elif self._is_short and isinstance(error, Exception) and self._is_late():
            # The deployment had less time than it may need. That says nothing of it.
            self.kind = FailureKind.TIMEOUT
            self.lease.release()
        else:
            kind, retry_after = self.lease._fail(error)
            self.kind = None if kind is None else FailureKind(kind)
        self.note(self.kind or FailureKind.CANCELLED, status_of(error), retry_after)
        return self._run.failed(self, error)

    def _is_late(self) -> bool:
        """Tells whether the time of the attempt is over."""
        return self.timeout is not None and self._run.now() - self.lease._acquired_at >= self.timeout

    def first_token(self) -> None:
        """Note the first token of a stream, and let the attempt take as long as it needs from now on: the
        deadline ends at the first event.
        """
        self.lease.first_token()
        if self._scope is not None and hasattr(self._scope, "deadline"):
            self._scope.deadline = math.inf

    def note(self, kind: FailureKind | None, status: int | None, retry_after: float | None) -> None:
        """Write the record.

        Args:
            kind: What went wrong; None for nothing.
            status: The HTTP status, if it is known.
            retry_after: The wait that the provider named, if it did.
        """
        lease, run = self.lease, self._run
        self.record = AttemptRecord(
            self.model_name,
            lease.deployment_id,
            kind,
            status,
            self._waited,
            run.now() - lease._acquired_at,
            lease.first_token_after,
            retry_after,
            lease.tokens,
        )
        run.note(self.record)

    def __enter__(self) -> Lease:
        return self.lease

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> bool:
        if exc is None:
            self.succeed()
            return False
        over = self.fail(exc)
        if over is not None and isinstance(exc, Exception):
            self._run.last(over)
        return over is None

    async def __aenter__(self) -> Lease:
        self._scope = self.scope()
        self._scope.__enter__()
        return self.lease

    def scope(self) -> Any:
        """Return a scope that is cancelled when the attempt has taken too long."""
        if self.timeout is None or self._run.clock is not None:
            return nullcontext()
        anyio = need_anyio()
        return anyio.CancelScope(deadline=anyio.current_time() + self.timeout)

    def timed_out(self) -> TimeoutError:
        """Return the error of an attempt that has taken too long."""
        return TimeoutError(f"{self.lease.deployment_id!r} did not answer within {self.timeout:.3g} s")

    def give_way(self) -> None:
        """End the attempt without an outcome, unless it has ended: another one was faster."""
        if self.record is None:
            self.lease.release()
            self.note(FailureKind.CANCELLED, None, None)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(exc, GeneratorExit):
            # A stream was dropped amid the block. It is closed in any task, where no scope can be left.
            self.fail(exc)
            if hasattr(self._scope, "deadline"):
                self._scope.deadline = math.inf
            with suppress(RuntimeError):
                self._scope.__exit__(exc_type, exc, traceback)
            return False
        if self._scope.__exit__(exc_type, exc, traceback) and exc is not None:
            over = self.fail(self.timed_out())
            if over is not None:
                raise self._run.last(over) from None
            return True
        return self.__exit__(exc_type, exc, traceback)


class Attempts:
    """The attempts of one call, to be looped over in a thread or in a task. It can be looped over once.

    Attributes:
        records: The records of the attempts that have ended, in their order.
    """

    __slots__ = ("_current", "_run", "records")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._current: Attempt | None = None
        self.records = run.records

    def _leave(self) -> bool:
        """Ends an attempt whose block was not entered or is not over. Returns whether the call goes on."""
        current, self._current = self._current, None
        if current is None:
            return True
        if current.record is None:
            current.lease.release(unused=True)
            return False
        return current.record.kind is not None

    def __iter__(self) -> Attempts:
        return self

    def __next__(self) -> Attempt:
        if not self._leave():
            raise StopIteration
        self._current = self._run.acquire()
        return self._current

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> Attempt:
        if not self._leave():
            raise StopAsyncIteration
        self._current = await self._run.acquire_async()
        return self._current


# Nobody knows when these let a request through.
_TIMELESS = ("learnt_parallel_requests", "max_parallel_requests", "probation", "slow_start", "unhealthy")


def _may_come(step: Acquire, error: NoAvailableDeployment) -> bool:
    """Tells whether a deployment may become available within the time that a step may wait."""
    if step.timeout is None or any(reason in error.reasons for reason in _TIMELESS):
        return step.timeout != 0.0
    return error.retry_after is not None and error.retry_after <= step.timeout


async def _sleep(seconds: float) -> None:
    if runs_in_trio():
        import trio

        await trio.sleep(seconds)
    else:
        import asyncio

        await asyncio.sleep(seconds)


def need_anyio() -> Any:
    """Return anyio, whose scopes keep the timeouts of tasks.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import anyio
    except ImportError:
        raise ImportError("the timeouts of tasks need anyio: pip install 'turnout[async]', or give Timeouts(total=None)") from None
    return anyio
