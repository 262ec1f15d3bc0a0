"""What comes next in a call: acquire, pause, or give up.

A plan does no I/O and has no clock and no chance of its own. It is told what happened and what time it is. So
one plan drives threads, event loops and transports, and a test can play any script to it.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from turnout.enums import FailureKind
from turnout.execution.options import Options, Retry

__all__ = ["Acquire", "GiveUp", "Pause", "Plan", "Step", "Withdraws", "least"]

# After these, the same deployment would refuse the same call again.
_DEAD = (FailureKind.AUTH, FailureKind.NOT_FOUND)
# These have fallbacks of their own. In the same group, each deployment would refuse the request.
_OWN_FALLBACKS = (FailureKind.CONTEXT_WINDOW, FailureKind.CONTENT_POLICY)

SPENT_BUDGET = "the budget of retries is spent"

# An attempt that timed out has cost its deployment more than one that failed at once.
_TIMEOUT_COSTS = 2


class Acquire(NamedTuple):
    """Acquire a deployment, and make an attempt.

    Attributes:
        model_name: The model name to ask.
        exclude: Ids of deployments that must not be picked.
        timeout: The most seconds to wait for a deployment; None for no bound.
    """

    model_name: str
    exclude: frozenset[str]
    timeout: float | None


class Pause(NamedTuple):
    """Do nothing for a while.

    Attributes:
        seconds: How long.
    """

    seconds: float


class GiveUp(NamedTuple):
    """Make no further attempt.

    Attributes:
        reason: Why, in words.
    """

    reason: str


Step = Acquire | Pause | GiveUp


class Withdraws(Protocol):
    """The budget that further attempts are paid from."""

    def withdraw(self, attempts: int, /) -> bool:
        """Take out attempts, all or none."""

    def put_back(self, attempts: int, /) -> None:
        """Give back attempts that did not begin."""


class Plan:
    """The plan of one call.

    Ask :meth:`next` what to do. Then say what came of it: :meth:`refused` or :meth:`failed`. After a success
    there is nothing to say.

    Args:
        model_name: The model name that is asked for.
        options: The options, without None where there are defaults.
        deadline: The time in seconds at which the call ends, of any clock that does not step back; None for
            never.
        draw: Draws a number from 0.0 up to but not including 1.0.
        resolve: Returns the model name that an alias leads to. An unknown name leads to itself.
        budget: What further attempts are paid from; None for no bound.
        exclude: Ids of deployments that must not be picked at all.
        repeats: Whether the request can be sent again after a deployment may have got it.

    Attributes:
        model_name: The model name that the call has turned to.
        deadline: The time at which it ends; None for never.
        fallbacks: How many times it has turned to another model name.
        over: Why it has given up; None if it has not.
    """

    __slots__ = (
        "_backoffs",
        "_budget",
        "_dead",
        "_draw",
        "_has_tried",
        "_last",
        "_names",
        "_options",
        "_paid",
        "_pause",
        "_price",
        "_repeats",
        "_resolve",
        "_retry",
        "_tried",
        "_tries",
        "_usual_retry",
        "_visited",
        "_waits",
        "deadline",
        "fallbacks",
        "model_name",
        "over",
    )

    def __init__(
        self,
        model_name: str,
        options: Options,
        deadline: float | None,
        *,
        draw: Callable[[], float],
        resolve: Callable[[str], str] = str,
        budget: Withdraws | None = None,
        exclude: Collection[str] = (),
        repeats: bool = True,
    ) -> None:
        assert options.retry is not None
        self._options = options
        # A deployment that fails may have rules of its own, until the call turns to another model name.
        self._retry = self._usual_retry = options.retry
        self._draw = draw
        self._resolve = resolve
        self._budget = budget
        self._repeats = repeats
        self.model_name = model_name
        self.deadline = deadline
        self.fallbacks = 0
        self._names: list[str] = []
        self._visited = {self._target(model_name)}
        self._dead = frozenset(exclude)
        self.over: GiveUp | None = None
        self._has_tried = False
        self._backoffs = 0
        self._paid = 0
        self._price = 1
        self._last: FailureKind | None
        self._begin(model_name)

    def _begin(self, model_name: str) -> None:
        """Turns to a model name."""
        self.model_name = model_name
        self._retry = self._usual_retry
        self._last = None
        self._tries = 0
        self._tried: frozenset[str] = frozenset()
        self._pause = 0.0
        # If there is another name to turn to, a full group is left at once. Otherwise the call waits.
        self._waits = not self._following()

    def _following(self) -> list[str]:
        """Returns the names that are left to turn to."""
        assert self._options.fallbacks is not None
        after = self._options.fallbacks.after
        # An alias may have its own. Otherwise it has those of its model name.
        own = after(self.model_name, self._last) or after(self._resolve(self.model_name), self._last)
        names = [*self._names, *own]
        if not names:
            return names
        return [name for name in dict.fromkeys(names) if self._target(name) not in self._visited]

    def _target(self, name: str) -> str:
        """Returns what a name stands for: aliases of one model name are one target."""
        resolved = self._resolve(name)
        # A model name with * serves many models.
        return name if "*" in resolved else resolved

    # --- what comes next ---

    def next(self, now: float) -> Step:
        """Say what comes next.

        Args:
            now: The time in seconds.

        Returns:
            What to do. After a :class:`GiveUp` it is that again.
        """
        if self.over is not None:
            return self.over
        left = self.left(now)
        if left is not None and left <= 0.0:
            return self._end("the deadline has passed")
        if self._pause > 0.0:
            pause, self._pause = self._pause, 0.0
            if left is not None and pause >= left:
                return self._end("the deadline comes before the next attempt")
            return Pause(pause)
        if self._has_tried and not self._paid and not self._pay():
            return self._end(SPENT_BUDGET)
        return Acquire(self.model_name, self._dead | self._tried, self._wait(left))

    def left(self, now: float) -> float | None:
        """Return the seconds up to the deadline.

        Args:
            now: The time in seconds.

        Returns:
            The seconds; None if there is no deadline.
        """
        return None if self.deadline is None else self.deadline - now

    def _wait(self, left: float | None) -> float | None:
        assert self._options.timeouts is not None
        return least(self._options.timeouts.capacity, left) if self._waits else 0.0

    def _pay(self) -> bool:
        if self._budget is not None:
            if not self._budget.withdraw(self._price):
                return False
            self._paid = self._price
        return True

    def hedge(self, busy: Collection[str]) -> Acquire | GiveUp:
        """Say whether a second attempt may begin beside another one. It is paid from the budget.

        Args:
            busy: The ids of the deployments that the other attempts have.

        Returns:
            What to acquire, without a wait; or why no attempt may begin.
        """
        if self.over is not None:
            return self.over
        if not self._repeats:
            return GiveUp("the request must not be sent twice")
        if self._tries + len(busy) >= self._retry.attempts:
            return GiveUp("all attempts are spent")
        if not self._pay():
            return GiveUp(SPENT_BUDGET)
        return Acquire(self.model_name, self._dead | self._tried | frozenset(busy), 0.0)

    # --- what happened ---

    def refused(self, *, is_limited: bool = False, is_final: bool = False) -> None:
        """Note that no deployment was acquired.

        Args:
            is_limited: Whether all deployments were at their rate limits.
            is_final: Whether the request can never be served under this model name.
        """
        self.put_back()
        if is_final:
            self._waits = True
        elif not self._waits:
            # Deployments that were tried are better than none, but a fallback may be better than to wait.
            may_repeat = bool(self._tried) and self._retry.same_deployment
            if not may_repeat or is_limited or self._last is FailureKind.RATE_LIMIT:
                if is_limited and self._last is None:
                    self._last = FailureKind.RATE_LIMIT
                if self._turn():
                    return
            self._repeat(may_repeat)
            return
        if not self._turn():
            self._end("no deployment is available")

    def _repeat(self, may_repeat: bool) -> None:
        """Lets the deployments that were tried be tried again, after a pause."""
        self._waits = True
        if may_repeat:
            self._tried = frozenset()
            self._pause = self._retry.backoff.pause(self._backoffs, self._draw)
            self._backoffs += 1

    def failed(self, deployment_id: str, kind: FailureKind | None, *, unsent: bool = False, retry: Retry | None = None) -> None:
        """Note that an attempt failed.

        Args:
            deployment_id: The deployment.
            kind: What went wrong; None if it says nothing of the deployment, and so ends the call.
            unsent: Whether the deployment certainly did not get the request.
            retry: The rules of the deployment itself; None if it has none, or if the call has some.
        """
        self._retry = retry = retry or self._usual_retry
        self._has_tried, self._paid, self._last = True, 0, kind
        self._tries += 1
        self._price = _TIMEOUT_COSTS if kind is FailureKind.TIMEOUT else 1
        if kind in _OWN_FALLBACKS:
            if not self._turn():
                self._end(f"another attempt would not help after {kind}")
        elif kind is None or kind not in retry.kinds:
            self._end(f"another attempt would not help after {kind or 'this'}")
        elif not self._repeats and not unsent:
            self._end("the request must not be sent twice")
        else:
            if kind in _DEAD:
                self._dead |= {deployment_id}
            else:
                self._tried |= {deployment_id}
            self._waits = False
            if self._tries >= retry.attempts and not self._turn():
                self._end(f"all attempts are spent ({retry.attempts})")

    def put_back(self) -> None:
        """Give back what was paid for an attempt that did not begin."""
        if self._paid and self._budget is not None:
            self._budget.put_back(self._paid)
        self._paid = 0

    def _turn(self) -> bool:
        """Turns to the next model name, if there is one."""
        names = self._following()
        if not names:
            return False
        self._names = names[1:]
        self._visited.add(self._target(names[0]))
        self.fallbacks += 1
        self._begin(names[0])
        return True

    def _end(self, reason: str) -> GiveUp:
        self.over = GiveUp(reason)
        return self.over


def least(one: float | None, other: float | None) -> float | None:
    """Return the lesser of two bounds, None for no bound.

    Args:
        one: The one.
        other: The other.

    Returns:
        The lesser one.
    """
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
