"""Leases between the pick and the attempt: LiteLLM picks first, and calls the provider a few steps later."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import ContextVar
from typing import Any

from turnout._core import Lease

__all__ = ["Pending"]


class Pending:
    """Keeps the lease of a pick until the attempt takes it.

    Both run in the context of the call. A pick that no attempt follows gives its place back: at the next pick
    of the same task or thread, and at the end of the task.
    """

    def __init__(self) -> None:
        self._held: ContextVar[_Held | None] = ContextVar("turnout_pending", default=None)

    def put(self, lease: Lease) -> None:
        """Keep a lease for the attempt that follows. What was kept before is to be dropped first.

        Args:
            lease: The lease.
        """
        runner = _runner()
        held = _Held(lease, runner)
        self._held.set(held)
        if isinstance(runner, asyncio.Task):
            runner.add_done_callback(held.drop)

    def take(self, deployment_id: Any) -> Lease | None:
        """Take the lease that was kept.

        Args:
            deployment_id: The deployment that the attempt is for.

        Returns:
            The lease; None if there is none for this deployment.
        """
        held = self._held.get()
        return None if held is None or deployment_id is None else held.take(deployment_id)

    def drop(self) -> None:
        """Give back the place of a pick that no attempt has followed."""
        held = self._held.get()
        if held is not None and held.runner is _runner():
            held.drop()


class _Held:
    """One lease, which is taken once."""

    def __init__(self, lease: Lease, runner: Any) -> None:
        self.runner = runner
        self._lease: Lease | None = lease
        self._lock = threading.Lock()

    def take(self, deployment_id: Any = None) -> Lease | None:
        with self._lock:
            lease = self._lease
            if lease is None or deployment_id not in (None, lease.deployment_id):
                return None
            runner, self.runner, self._lease = self.runner, None, None
        if isinstance(runner, asyncio.Task):
            runner.remove_done_callback(self.drop)  # a task may make many calls
        return lease

    def drop(self, _: Any = None) -> None:
        lease = self.take()
        if lease is not None:
            lease.release(unused=True)


def _runner() -> Any:
    """Returns what runs: a task, or a thread."""
    with contextlib.suppress(RuntimeError):
        task = asyncio.current_task()
        if task is not None:
            return task
    return threading.current_thread()
