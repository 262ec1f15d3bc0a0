"""A slow attempt and those that begin beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from turnout.exceptions import RouterError
from turnout.execution.attempts import Attempt, Run, need_anyio

__all__ = ["Race"]

_T = TypeVar("_T")


class Race(Generic[_T]):
    """An attempt and those that begin beside it while it is slow. The first answer wins, and the others are
    cancelled.

    Args:
        run: The call, which has a hedge.
        send: Sends the request of an attempt, and returns the answer.
        first: The first attempt.
        drop: Gives up an answer that comes after another one; None if there is nothing to do.
    """

    __slots__ = ("_changed", "_drop", "_first", "_hedges", "_run", "_running", "_send", "_won")

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
        async with anyio.create_task_group() as group:
            self._start(group, self._first)
            while self._won is None and self._running:
                self._changed = anyio.Event()
                with anyio.move_on_after(hedge.after if self._hedges else None):
                    await self._changed.wait()
                if not self._changed.is_set():
                    # Once no attempt may begin, those that run go on as they are.
                    self._hedges = self._hedge(group)
            group.cancel_scope.cancel()
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
        if step is None:
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
        try:
            with attempt.scope() as scope:
                answer = await self._send(attempt)
            if scope is not None and scope.cancelled_caught:
                raise attempt.timed_out()
            if self._won is None:
                self._won = attempt, answer
            elif self._drop is not None:
                await self._drop(answer)
        except Exception as error:
            attempt.fail(error)
        finally:
            self._running.remove(attempt)
            if self._won is None or self._won[0] is not attempt:
                attempt.give_way()
            self._changed.set()
