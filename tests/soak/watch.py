"""Finds waiters that hang although there is room."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from turnout import ModelNotFound, RequestTooLarge, Router

from soak.facts import STEADY, Request

TICK = 0.1
LONGEST_WAIT = 15.0
"""For one who waits in the steady group, where places are held for milliseconds."""
LONGEST_ROOM = 10.0
"""For any group of which everyone who waits has room, and nobody is served. A line is looked at every 5 s."""


@dataclass
class Waiting:
    """A call that waits."""

    request: Request
    ticks: int = 0


class Watch:
    """Looks at those who wait, ten times a second.

    Time is counted in looks: a machine that stands still lets nobody wait.
    """

    def __init__(self, router: Router, fault: Callable[[str], None]) -> None:
        self.served: Counter[str] = Counter()
        self._router = router
        self._fault = fault
        self._tickets = itertools.count()
        self._waiting: dict[int, Waiting] = {}
        self._served_before: Counter[str] = Counter()
        self._with_room: Counter[str] = Counter()
        self._over = threading.Event()

    @contextmanager
    def waits(self, request: Request) -> Iterator[None]:
        """Takes down that a call begins, and that it has ended."""
        ticket = next(self._tickets)
        self._waiting[ticket] = Waiting(request)
        try:
            yield
            self.served[request.model_name] += 1
        finally:
            del self._waiting[ticket]

    def run(self) -> None:
        while not self._over.wait(TICK):
            self._look()

    def stop(self) -> None:
        self._over.set()

    def _look(self) -> None:
        groups: dict[str, list[Waiting]] = {}
        for waiting in list(self._waiting.values()):
            waiting.ticks += 1
            groups.setdefault(waiting.request.model_name, []).append(waiting)
            if waiting.request.model_name == STEADY and waiting.ticks > LONGEST_WAIT / TICK:
                self._fault(f"a call waits for {LONGEST_WAIT} s in the steady group; {self._router.explain(STEADY)}")
        served = self.served.copy()
        for name in self._with_room.keys() - groups.keys():
            del self._with_room[name]
        for name, group in groups.items():
            stuck = served[name] == self._served_before[name] and all(self._has_room(each.request) for each in group)
            self._with_room[name] = self._with_room[name] + 1 if stuck else 0
            if self._with_room[name] > LONGEST_ROOM / TICK:
                said = "; ".join(str(self._router.explain(each.request.model_name, **each.request.facts)) for each in group[:3])
                self._fault(f"{len(group)} calls wait for {name!r}, all with room, and none is served for {LONGEST_ROOM} s: {said}")
        self._served_before = served

    def _has_room(self, request: Request) -> bool:
        try:
            return self._router.explain(request.model_name, **request.facts).winner is not None
        except (ModelNotFound, RequestTooLarge):
            return False


class Stalls:
    """How long the machine let nobody run, which deadlines forgive."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def passed(self) -> float:
        """The seconds since the last call, of a pause longer than a quarter of a second just that much."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return min(seconds, 0.25)
