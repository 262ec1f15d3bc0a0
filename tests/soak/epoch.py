"""One router, all who use it at once for some seconds, and what is checked while they do and afterwards.

There are three kinds of epochs. They take turns.

| kind | facts | clock | what is checked |
|---|---|---|---|
| wild | all of them change all the time | the machine's | in flight, waits, exceptions, forks, signals |
| exact | as they are | the machine's | the same, and every limit |
| manual | as they are | a manual clock, which a thread moves | in flight, exceptions, and every limit |
"""

import faulthandler
import gc
import random
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from turnout import Deployment, Event, ManualClock, ModelNotFound, Router

from soak import facts, workers
from soak.ledger import Ledger, ManualTime, RealTime
from soak.storm import INTERRUPTIONS, Alarms, storm
from soak.watch import Stalls, Watch

KINDS = ("wild", "exact", "manual")
THREADS = 3
ENDS_WITHIN = 60.0
"""Seconds for all to end, after they were told to."""


class CallbackError(Exception):
    """What a subscriber raises."""


class Epoch:
    """A router and those who use it.

    Args:
        kind: One of `KINDS`.
        seed: Decides what is drawn. Threads run as they like: a seed repeats the facts, not the events.
        told_amounts: Makes the ledger believe in limits of that share, to show that it finds faults.
    """

    def __init__(self, kind: str, seed: int, told_amounts: float = 1.0) -> None:
        chance = random.Random(seed)
        self.kind, self.chance, self.told_amounts = kind, chance, told_amounts
        manual = kind == "manual"
        self.clock = ManualClock(1.7e9 + chance.random() * 100) if manual else None
        limited = [*facts.limited(chance, manual), *facts.shared(chance, manual)]
        self.deployments: list[Deployment] = [*facts.steady(), *limited]
        # An id of the churn may be free for a moment: then nobody serves that model.
        self.deployments.append(Deployment("churned-0", facts.CHURNED, max_parallel_requests=2))
        self.router = Router(self.deployments, seed=seed, clock=self.clock, health=facts.rules(chance) if kind != "wild" else None)
        self.router.add_alias(facts.ALIAS, facts.LIMITED)
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()
        self.ledger = Ledger(RealTime() if self.clock is None else ManualTime(self.clock), self.fault)
        self.watch = Watch(self.router, self.fault)
        for deployment in self.deployments:
            self.ledger.allow(deployment.deployment_id, deployment.max_parallel_requests)
        self.ledger.allow("ghost", None)

    # --- what the workers tell ---

    def fault(self, said: str) -> None:
        """Takes a fault down."""
        self.faults.append(said)
        self.over.set()

    def fault_of(self, error: BaseException) -> None:
        """Takes an exception down that nobody expected."""
        self.fault("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def refused(self, error: Exception) -> None:
        """Counts a refusal."""
        self.counts[f"refused by {type(error).__name__}"] += 1

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] += times

    # --- the run ---

    def run(self, seconds: float) -> None:
        """Lets all work for some seconds, and checks."""
        end_events = self.router.subscribe(self._hear)
        alarms = Alarms(random.Random(self.chance.random()))
        with self._unraisable(alarms), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            threads = self._threads()
            until = time.monotonic() + seconds
            with alarms:
                # Signals and forks are the main thread's.
                while time.monotonic() < until and not self.faults:
                    storm(self, random.Random(self.chance.random()), alarms, until)
            self._end(threads)
            end_events()
            self.count("signals whose handler raised", alarms.raised)
            self._check(alarms)

    def _threads(self) -> list[threading.Thread]:
        users: list[Callable[[Epoch, random.Random], None]] = [workers.in_a_thread] * THREADS
        users += [workers.in_asyncio, workers.in_trio, workers.reports]
        if self.kind == "wild":
            users.append(workers.changes)
        threads = [self._thread(user.__name__, user) for user in users]
        threads.append(threading.Thread(target=self.watch.run, name="watch", daemon=True))
        if self.clock is not None:
            threads.append(self._thread("clock", self._move_the_clock))
        for thread in threads:
            thread.start()
        return threads

    def _thread(self, name: str, user: "Callable[[Epoch, random.Random], None]") -> threading.Thread:
        chance = random.Random(self.chance.random())

        def run() -> None:
            try:
                user(self, chance)
            except BaseException as error:
                self.fault_of(error)

        return threading.Thread(target=run, name=name, daemon=True)

    def _move_the_clock(self, _: "Epoch", chance: random.Random) -> None:
        assert self.clock is not None
        # It goes on until all have ended: who waits in manual time is woken by it.
        workers.moves_the_clock(self, chance, self.clock, self._still)

    def _end(self, threads: list[threading.Thread]) -> None:
        self.over.set()
        stalls, waited = Stalls(), 0.0
        users = [thread for thread in threads if thread.name not in ("watch", "clock")]
        while any(thread.is_alive() for thread in users) and waited < ENDS_WITHIN:
            time.sleep(0.02)
            waited += stalls.passed()
        for thread in users:
            if thread.is_alive():
                faulthandler.dump_traceback(all_threads=True)
                self.fault(f"{thread.name} has not ended within {ENDS_WITHIN} s")
        self._still.set()
        self.watch.stop()
        for thread in threads:
            thread.join(1.0)

    def _check(self, alarms: Alarms) -> None:
        gc.collect()
        for stack in alarms.lost:
            self.fault(f"an exception of a signal's handler was lost that was raised here:\n{stack}")
        metrics = self.router.metrics()
        if (self.ledger.total_in_flight(), metrics.in_flight, metrics.waiting) != (0, 0, 0):
            self.fault(f"at the end {self.ledger.total_in_flight()} in flight by the ledger; {metrics}")
        self.count("leases", len(self.ledger.charges))
        if self.kind != "wild":
            self.ledger.check(self._as_told())

    def _as_told(self) -> Iterator[Deployment]:
        """The deployments whose limits the ledger checks."""
        for deployment in self.deployments:
            if self.told_amounts == 1.0:
                yield deployment
            else:
                rpm = deployment.rpm_limit and max(1, int(deployment.rpm_limit * self.told_amounts))
                yield deployment.replace(rpm_limit=rpm, limits=[self._told(limit) for limit in deployment.limits])

    def _told(self, limit: Any) -> Any:
        return type(limit)(**{limit.unit: max(1, int(limit.amount * self.told_amounts))}, per=limit.per, kind=limit.kind)

    # --- events ---

    def _hear(self, event: Event) -> None:
        self.counts[f"event {event.kind.value}"] += 1
        with suppress(ModelNotFound):
            self.router.explain(event.model_name)
        if self.counts.total() % 7 == 0:
            raise CallbackError

    @contextmanager
    def _unraisable(self, alarms: Alarms) -> Iterator[None]:
        """What Python can raise nowhere: only what is expected may come here."""
        self._still = threading.Event()
        before = sys.unraisablehook

        def hook(unraisable: "sys.UnraisableHookArgs") -> None:
            if isinstance(unraisable.exc_value, INTERRUPTIONS):
                alarms.see(unraisable.exc_value)
            elif isinstance(unraisable.exc_value, CallbackError):
                self.counts["callbacks that raised"] += 1
            elif unraisable.exc_value is not None:
                self.fault_of(unraisable.exc_value)

        alarms.spared.add(hook.__code__)
        sys.unraisablehook = hook
        try:
            yield
        finally:
            sys.unraisablehook = before
