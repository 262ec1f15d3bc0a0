"""A process that asks a router for requests, as fast as it is told, and writes down what is admitted.

It is started by :mod:`shared.fleet`. A SIGTERM ends it.
"""

import random
import select
import signal
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

from turnout import Deployment, Limit, NoAvailableDeployment, Router

from shared.admissions import Writer

# Who has fallen further behind, since it was stopped, does not make up for it.
_BEHIND = 0.2


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker does. All workers that share limits have the same amount, length and places."""

    store: Literal["file", "redis"]
    where: str
    """The path or the URL."""
    amount: int | None = 150
    """The units of a window. None for no such limit."""
    per: float = 1.5
    kind: Literal["fixed", "sliding", "bucket"] = "fixed"
    tokens: int | None = None
    """The tokens of a request, if the units are tokens."""
    actual: int | None = None
    """The tokens that a request turns out to use. None for as many as it asked for."""
    places: int | None = None
    """The most requests in flight."""
    rate: float = 60.0
    """The requests that are asked for in a second."""
    hold: float = 0.0
    """The seconds that a request takes."""
    ttl: float = 2.0
    busy_ttl: float = 60.0
    timeout: float = 0.0
    """The seconds that a request waits."""
    patience: float = 0.0
    """The seconds that it waits for the store. The longer, the less is known of when it was admitted."""
    on_loss: Literal["closed", "share", "open"] = "closed"
    learns: bool = True
    """Whether the store learns after a loss. A store that does not proves that a test can fail."""
    most: int | None = None
    """The worker asks no more once it has so many requests, but lives on."""
    seed: int = 0

    def with_(self, **changes: Any) -> "Task":
        return replace(self, **changes)


def store_of(task: Task) -> Any:
    """Make the store of a task."""
    options: dict[str, Any] = {"ttl": task.ttl, "patience": task.patience, "on_loss": task.on_loss}
    if task.store == "file":
        from turnout.shared.file import File

        return File(task.where, **options)
    from turnout.shared.redis import Redis

    class Forgetful(Redis):
        """A store that grants at once after a loss."""

        learn = 0.0

    class Patient(Redis if task.learns else Forgetful):  # type: ignore[misc]
        busy_ttl = task.busy_ttl

    if task.where.startswith("cluster "):
        import redis

        host, port = task.where.split()[1:]
        client = redis.RedisCluster(host=host, port=int(port), socket_timeout=0.5, socket_connect_timeout=0.5)
        return Patient(client, **options)
    return Patient(task.where, **options)


def router_of(task: Task) -> Router:
    """Make the router of a task."""
    limits: tuple[Limit, ...] = ()
    if task.amount is not None:
        requests, tokens = (task.amount, None) if task.tokens is None else (None, task.amount)
        limits = (Limit(requests=requests, tokens=tokens, per=task.per, kind=task.kind),)
    deployment = Deployment("a", "m", limits=limits, max_parallel_requests=task.places)
    return Router([deployment], shared=store_of(task))


class Worker:
    """Asks and writes down until it is told to end."""

    def __init__(self, task: Task, path: str) -> None:
        self._task = task
        self._router = router_of(task)
        self._writer = Writer(path)
        self._random = random.Random(task.seed)
        self._is_over = False
        # When each ends, its number and its lease.
        self._held: list[tuple[float, int, Any]] = []

    def end(self, *_: object) -> None:
        self._is_over = True

    def run(self) -> None:
        task, asks_at, admitted = self._task, time.monotonic(), 0
        while not self._is_over:
            now = time.monotonic()
            self._end_those_before(now)
            if now < asks_at:
                # Not time.sleep, which fails where a library gives the process a wrong wall clock.
                select.select((), (), (), min(asks_at - now, 0.01))
                continue
            asks_at = max(asks_at, now - _BEHIND) + self._random.expovariate(task.rate)
            if task.most is None or admitted < task.most:
                admitted += self._ask()
        self._end_those_before(float("inf"))
        self._router.close()

    def _ask(self) -> bool:
        task = self._task
        before = time.monotonic_ns()
        try:
            lease = self._router.acquire("m", tokens=task.tokens or 0, timeout=task.timeout)
        except NoAvailableDeployment:
            return False
        number = self._writer.admit(before, time.monotonic_ns(), task.tokens or 1)
        self._held.append((time.monotonic() + task.hold, number, lease))
        return True

    def _end_those_before(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            _, number, lease = self._held.pop(0)
            self._writer.end(number, time.monotonic_ns(), self._task.actual or self._task.tokens or 1)
            lease.success(tokens=self._task.actual)


def work(task: Task, path: str) -> None:
    """Work on a task until a SIGTERM comes. What is admitted is written to the path."""
    warnings.simplefilter("error")
    worker = Worker(task, path)
    signal.signal(signal.SIGTERM, worker.end)
    worker.run()
