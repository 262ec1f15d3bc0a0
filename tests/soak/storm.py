"""What only a main thread meets: signals whose handler raises, and forks."""

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from turnout import Lease, Router

from soak.facts import LIMITED, SICK, STEADY, Request, request, steady
from soak.requests import BLOCKS, LOSING, REFUSALS, Held, keywords
from soak.watch import Stalls

if TYPE_CHECKING:
    from soak.epoch import Epoch

Result = TypeVar("Result")
HAS_TIMERS = hasattr(signal, "setitimer")
HAS_FORK = hasattr(os, "fork")
CHILD_LIVES = 30.0


class SoftTimeLimit(Exception):
    """As task queues raise it in a signal's handler."""


class HardTimeLimit(BaseException):
    """The same, past every `except Exception`."""


INTERRUPTIONS = (SoftTimeLimit, HardTimeLimit)


class Alarms:
    """Signals at any moment, whose handler raises while the router runs, and only then: the ledger's own
    books must not be cut off.
    """

    def __init__(self, chance: random.Random) -> None:
        self.raised = 0
        # By identity. They are kept, so that no other exception has the same.
        self._unseen: dict[int, tuple[BaseException, list[str]]] = {}
        self.spared: set[CodeType] = set()
        """Code in which no handler raises: Python itself would lose the exception."""
        self._armed = False
        self._chance = chance
        self._before: Any = None

    def __enter__(self) -> "Alarms":
        if HAS_TIMERS:
            self._before = signal.signal(signal.SIGALRM, self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        if HAS_TIMERS:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _handler(self, number: int, frame: FrameType | None) -> None:
        if self._armed and not self._is_spared(frame) and self._chance.random() < 0.8:
            # Of one call, one exception.
            self._armed = False
            self.raised += 1
            interruption = self._chance.choice(INTERRUPTIONS)()
            self._unseen[id(interruption)] = (interruption, traceback.format_stack(frame))
            raise interruption

    def _is_spared(self, frame: FrameType | None) -> bool:
        while frame is not None and frame.f_code not in self.spared:
            frame = frame.f_back
        return frame is not None

    def amid(self, call: Callable[[], Result]) -> Result | None:
        """Calls, and returns None if a handler cut it off."""
        if HAS_TIMERS:
            signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(0.00005, 0.003))
        try:
            try:
                self._armed = True
                return call()
            finally:
                self._armed = False
        except INTERRUPTIONS as seen:
            self.see(seen)
            return None
        finally:
            self._armed = False

    def see(self, interruption: BaseException) -> None:
        """Takes down that an exception of a handler has come out."""
        self._unseen.pop(id(interruption), None)

    @property
    def lost(self) -> list[str]:
        """Where handlers raised exceptions that nobody has seen."""
        return ["".join(stack) for _, stack in self._unseen.values()]


def storm(epoch: "Epoch", chance: random.Random, alarms: Alarms, until: float) -> None:
    """Works in the main thread until a time."""
    next_fork = time.monotonic() + 0.3
    while time.monotonic() < until and not epoch.faults:
        _request(epoch, chance, alarms)
        if chance.random() < 0.1:
            alarms.amid(lambda: epoch.router.cool_down("limited-0", 0.001))
            alarms.amid(lambda: epoch.router.report_health("limited-0", True))
            alarms.amid(lambda: epoch.router.explain(LIMITED))
        if HAS_FORK and time.monotonic() > next_fork:
            next_fork = time.monotonic() + chance.uniform(0.1, 1.0)
            fork(epoch)


def _request(epoch: "Epoch", chance: random.Random, alarms: Alarms) -> None:
    asked = request(chance, SICK)
    given = keywords(chance, asked)
    earliest = epoch.ledger.time.now()
    lease = alarms.amid(lambda: _acquire(epoch, asked, given))
    if lease is None:
        # It was refused, or cut off: then it may have been admitted for a moment.
        epoch.ledger.maybe(earliest)
        return
    held = Held(epoch, lease, asked, earliest)
    del lease
    time.sleep(chance.choice((0.0, 0.001)))
    way = held.way(chance)
    if way in BLOCKS or way in LOSING:
        held.finish(chance)
        return
    held.ending({})
    alarms.amid(lambda: held.end(way, chance))
    # The call may have been cut off before it began.
    held.lease.release()


def _acquire(epoch: "Epoch", asked: Request, given: dict[str, Any]) -> Lease | None:
    try:
        return epoch.router.acquire(asked.model_name, **given)
    except REFUSALS as refused:
        epoch.refused(refused)
        return None


# --- forks ---


def fork(epoch: "Epoch") -> None:
    """Forks, and waits for the child, in which nothing may be in flight and everything must work."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _in_child(epoch.router)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    stalls, lived = Stalls(), 0.0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
        lived += stalls.passed()
        if lived > CHILD_LIVES:
            os.kill(child, signal.SIGABRT)
            os.waitpid(child, 0)
            epoch.fault(f"a forked child hangs for {CHILD_LIVES} s")
            return
    if status:
        epoch.fault(f"a forked child ended with {status}")
    epoch.count("forks")


def _in_child(router: Router) -> None:
    metrics = router.metrics()
    assert (metrics.in_flight, metrics.waiting) == (0, 0), metrics
    with router.acquire(STEADY, timeout=0.0), router.acquire(STEADY, timeout=0.0):
        assert router.metrics().in_flight == 2
    told: list[object] = []
    end = router.subscribe(told.append)
    router.cool_down("steady-0", 60.0)
    end()
    assert told, "events are told in a child"
    router.set_deployments(steady())
    router.explain(STEADY)
    assert router.metrics().deployments == 2, router.metrics()
