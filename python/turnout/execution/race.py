"""A slow attempt and those that begin beside it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from turnout.exceptions import RouterError
from turnout.execution.attempts import Attempt, Run, need_anyio
from turnout.execution.plan import GiveUp

__all__ = ["Race"]

_T = TypeVar("_T")


class Race(Generic[_T]):
    """An attempt and another one that begins beside it while it is slow. The first answer wins, and the other
    attempt is cancelled. If one of the two fails, a further one may begin.

    Args:
        run: The call, which has a hedge.
        send: Sends the request of an attempt, and returns the answer.
        first: The first attempt.
        drop: Gives up an answer that comes after another one; None if there is nothing to do.
    """

    __slots__ = ("_changed", "_drop", "_first", "_hedges", "_interrupted", "_run", "_running", "_send", "_won")

    def __init__(
        self,
        run: Run,
        send: Callable[[Attempt], Awaitable[_T]],
        first: Attempt,
        drop: Callable[[_T], Awaitable[None]] | None = None,
    ) -> None:
        self._run, self._send, self._first, self._drop = run, send, first, drop
        self._running: list[Attempt] = []
        self._won: tuple[Attempt, _T] | None = None
        self._interrupted: BaseException | None = None
        self._hedges = True

    async def run(self) -> tuple[Attempt, _T] | None:
        """Run the race.

        Returns:
            The attempt that won, which has not ended, and its answer. None if all attempts failed and another
            one may help.

        Raises:
            BaseException: All attempts failed, and no other one may help.
        """
        anyio, hedge = need_anyio(), self._run.options.hedge
        assert hedge is not None
        try:
            async with anyio.create_task_group() as group:
                self._start(group, self._first)
                while self._won is None and self._interrupted is None and self._running:
                    self._changed = anyio.Event()
                    with anyio.move_on_after(hedge.after if self._hedges and len(self._running) == 1 else None):
                        await self._changed.wait()
                    if not self._changed.is_set():
                        # Once no attempt may begin, those that run go on as they are.
                        self._hedges = self._hedge(group)
                group.cancel_scope.cancel()
        except BaseException:
            # The call is cancelled while the other attempt is being closed.
            if self._won is not None:
                await self._give_up(*self._won)
            raise
        if self._interrupted is not None:
            raise self._interrupted
        if self._won is None and self._run.plan.over is not None:
            raise self._run.last(self._run.plan.over)
        return self._won

    def _start(self, group: Any, attempt: Attempt) -> None:
        self._running.append(attempt)
        group.start_soon(self._try, attempt)

    def _hedge(self, group: Any) -> bool:
        """Begins another attempt, if it can be had without a wait. Returns whether it did."""
        run = self._run
        step = run.plan.hedge([attempt.lease.deployment_id for attempt in self._running])
        if isinstance(step, GiveUp):
            run.count_refusal(step)
            return False
        asked_at = run.now()
        try:
            lease = run.acquire_now(step)
        except RouterError:
            run.plan.put_back()
            return False
        self._start(group, run.acquired(step, lease, run.now() - asked_at, hedges=True))
        return True

    async def _try(self, attempt: Attempt) -> None:
        anyio = need_anyio()
        try:
            with attempt.scope() as scope:
                answer = await self._send(attempt)
            if scope is not None and scope.cancelled_caught:
                raise attempt.timed_out()
            if self._won is None:
                self._won = attempt, answer
            else:
                await self._give_up(attempt, answer)
        except Exception as error:
            attempt.fail(error)
        except BaseException as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise  # the other attempt has won, or the call is cancelled
            # It comes from what was sent. It must reach the caller as it is, not in a group.
            attempt.fail(error)
            self._interrupted = error
        finally:
            self._running.remove(attempt)
            if self._won is None or self._won[0] is not attempt:
                attempt.give_way()
            self._changed.set()

    async def _give_up(self, attempt: Attempt, answer: _T) -> None:
        """Gives up an answer that nobody waits for."""
        attempt.give_way()
        if self._drop is not None:
            with need_anyio().CancelScope(shield=True):
                await self._drop(answer)
