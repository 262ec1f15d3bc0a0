"""Workers as real processes, and what they admitted together."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from shared import admissions
from shared.admissions import Admission, StoreClock
from shared.servers import until
from shared.worker import Task, work

# A server that forks starts a worker in some milliseconds. It is a process without threads.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["shared.worker"])
# For workers that need an environment of their own.
_SPAWNS = multiprocessing.get_context("spawn")


class Fleet:
    """Workers that share a limit. At the end of a ``with`` block all have ended."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.task = task
        self.clock = StoreClock()
        self.killed: dict[str, int] = {}
        """When each worker was killed that was, by the monotonic clock in nanoseconds."""
        self._folder = folder
        self._workers: dict[str, BaseProcess] = {}
        self._begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.join()

    def begin(self, workers: int = 1, environment: Mapping[str, str] | None = None, **changes: object) -> list[str]:
        """Begin workers, and return their names. ``changes`` are made to the task."""
        names = []
        for _ in range(workers):
            self._begun += 1
            name = f"worker-{self._begun}"
            task = self.task.with_(seed=self.task.seed * 1000 + self._begun, **changes)
            context = _FORKS if environment is None else _SPAWNS
            worker = context.Process(target=work, args=(task, str(self._path(name))), name=name, daemon=True)
            with _environment(environment or {}):
                worker.start()
            self._workers[name] = worker
            names.append(name)
        return names

    def wait_until_all_admit(self) -> None:
        """Wait until each worker has admitted something. A fault before that would prove nothing."""
        until(lambda: all(admissions.has_any(self._path(name)) for name in self._workers), "not all workers admit")

    def wait_until_window(self, part: float) -> None:
        """Wait until the next moment at which this part of a window has passed."""
        per = self.task.per
        time.sleep((part * per - self.clock.now()) % per)

    def names(self) -> list[str]:
        """Return the names of the workers that run."""
        return list(self._workers)

    def kill(self, name: str) -> None:
        """Kill a worker (SIGKILL)."""
        worker = self._workers.pop(name)
        self.killed[name] = time.monotonic_ns()
        worker.kill()
        worker.join()

    def stop(self, name: str) -> None:
        """Let a worker stand still (SIGSTOP)."""
        self._signal(name, signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a worker go on (SIGCONT)."""
        self._signal(name, signal.SIGCONT)

    def end(self) -> "Record":
        """End all workers, and return what was admitted.

        Raises:
            AssertionError: A worker did not end, or ended badly.
        """
        now = self.clock.now()
        self.clock.look()
        for worker in self._workers.values():
            worker.terminate()
        for worker in self._workers.values():
            worker.join(timeout=15)
        codes = {name: worker.exitcode for name, worker in self._workers.items()}
        assert set(codes.values()) <= {0}, codes
        return Record(self.task, self.clock, admissions.read(self._folder), dict(self.killed), now)

    def so_far(self) -> "Record":
        """Return what was admitted until now."""
        return Record(self.task, self.clock, admissions.read(self._folder), dict(self.killed), self.clock.now())

    def _signal(self, name: str, number: int) -> None:
        pid = self._workers[name].pid
        assert pid is not None
        os.kill(pid, number)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.admitted"


@dataclass(frozen=True, slots=True)
class Record:
    """What a fleet admitted."""

    task: Task
    clock: StoreClock
    admissions: list[Admission]
    killed: Mapping[str, int]
    until: float
    """The store's time at the end."""

    def used(self) -> dict[int, int]:
        """Return the units that were used for certain in each window."""
        return admissions.used_at_least(self.admissions, self.clock, self.task.per)

    def over(self) -> dict[int, int]:
        """Return the windows in which more than the limit was used for certain, and what was used."""
        amount = self.task.amount or 0
        return {window: units for window, units in self.used().items() if units > amount}

    def used_last(self, windows: int = 1) -> float:
        """Return the part of the limit that was used in each of the last whole windows: the least of them."""
        last = int(self.until // self.task.per)
        used = admissions.used_at_most(self.admissions, self.clock, self.task.per)
        return min(used.get(last - back, 0) for back in range(1, windows + 1)) / (self.task.amount or 1)

    def most_in_stretch(self, length: float) -> int:
        """Return the most units that were used for certain in any stretch of this length."""
        return admissions.most_in_stretch(self.admissions, length)

    def in_flight(self) -> int:
        """Return the most requests that were in flight at once."""
        return admissions.most_in_flight(self.admissions, self.killed)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Changes the environment, for what is started meanwhile. It finds the same modules as this process."""
    before = dict(os.environ)
    os.environ.update({"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **changes})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
