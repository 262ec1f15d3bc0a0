"""How sharing grows: 10 to 1,000 processes share a limit in simulated time, and a file is used by as many.

    python benches/shared_growth.py [--minutes 2]

Each process is a router, and one clock moves all. Requests come at random, evenly or nine of ten to one
process. A process looks every 5 ms, and the store answers at once. A request that finds no piece is given up
after 50 ms, as by a call that does not wait. Exits with 1 if a window admitted more than the limit.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from turnout import Deployment, ManualClock, RateLimitExceeded, Router
from turnout._core import _Books, _FileLedger, _process_name

LOOK = 0.005  # seconds between two looks of a process that is in use
SECOND = 200  # looks
PATIENCE = 10  # looks
MINUTE = 60  # seconds
RUNS = [
    (limit, processes, load, most)
    for limit in (600, 6_000)
    for processes in (10, 100, 1_000)
    for load, most in ((0.8, None), (1.2, None), (1.2, 0.9))
]


class Nowhere:
    """A store that nothing is sent to: the simulation carries the messages."""

    patience = 0.0

    def exchange(self, batch: object) -> list[None]:
        """Say nothing."""
        raise NotImplementedError


@dataclass
class Process:
    """One of those that share."""

    router: Router
    waiting: deque[int] = field(default_factory=deque)
    """For each request that waits, how many looks it waits yet."""

    @staticmethod
    def make(limit: int, clock: ManualClock) -> "Process":
        """Make a process."""
        router = Router([Deployment("eu", "m", rpm_limit=limit)], shared=Nowhere(), clock=clock)
        carrier = router._carrier
        assert carrier is not None
        carrier._thread = threading.current_thread()  # so none of its own is started
        return Process(router)

    def admits(self) -> bool:
        """Return whether a request is admitted now."""
        try:
            self.router.acquire("m").release()
        except RateLimitExceeded:
            return False
        return True


@dataclass
class Result:
    """What a run came to."""

    asked: int = 0
    at_once: int = 0
    admitted: int = 0
    fullest: int = 0
    messages: int = 0


def simulate(limit: int, processes: int, load: float, most: float | None, minutes: int) -> Result:
    """Let processes share a limit a minute."""
    clock, chance, books, result = ManualClock(MINUTE * 1_000_000.0), random.Random(1), _Books(), Result()
    everybody = [Process.make(limit, clock) for _ in range(processes)]
    desks = [process.router._carrier._desk for process in everybody if process.router._carrier is not None]
    used_at = [-SECOND * 2] * processes
    news, arrives, admitted = books.news, 0.0, [0] * (minutes + 1)
    for look in range(1, minutes * MINUTE * SECOND):
        clock.advance(LOOK)
        window = look // (MINUTE * SECOND)
        while arrives < look * LOOK:
            arrives += chance.expovariate(load * limit / MINUTE)
            nth = 0 if most is not None and chance.random() < most else chance.randrange(processes)
            result.asked += 1
            used_at[nth] = look
            if everybody[nth].admits():
                result.at_once += 1
                admitted[window] += 1
            else:
                everybody[nth].waiting.append(PATIENCE)
        if books.news != news:
            news = books.news
            for desk in desks:
                desk.hear_news()
        for nth, desk in enumerate(desks):
            # Who has had no request for a second looks ten times a second.
            if look - used_at[nth] > SECOND and (look + nth) % (SECOND // 10):
                continue
            batch = desk.batch()
            if batch is None:
                continue
            result.messages += len(batch.messages)
            at = int(clock.now() * 1e6)
            desk.take(batch, [books.sync(*message, now=at, run=1, life=1, learn=0) for message in batch.messages])
        for process in everybody:
            for _ in range(len(process.waiting)):
                looks = process.waiting.popleft()
                if process.admits():
                    admitted[window] += 1
                elif looks > 1:
                    process.waiting.append(looks - 1)
    result.admitted, result.fullest = sum(admitted), max(admitted)
    return result


def exchange_of_file(members: int) -> float:
    """Return the microseconds of a message about an owner with so many members, through a file."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        ledger = _FileLedger(os.path.join(folder, "ledger"), learn=0)
        names = [_process_name() for _ in range(members)]
        window = (int(time.time()) // MINUTE + 60) * MINUTE * 1_000_000

        def message(number: int, name: str) -> tuple[str, str, list[int]]:
            asks = [1, 7, 0, 0, 0, 1_000_000, 1, window, window, 0, 0, number, 0]
            return "d/eu", name, [number, 0, 10_000_000, 60_000_000, *asks]

        for name in names:
            ledger.exchange([message(1, name)])
        took = []
        for number in range(2, 1_002):
            began = time.perf_counter()
            ledger.exchange([message(number, names[number % members])])
            took.append(time.perf_counter() - began)
        return statistics.median(took) * 1e6


def main() -> int:
    """Print the figures. Return 1 if a limit was exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=int, default=2, help="simulated minutes of each run (2)")
    options = parser.parse_args()
    is_exact = True
    print("| limit a minute | processes | load | used | admitted at once | messages a request | messages a second |")
    print("|---:|---:|---|---:|---:|---:|---:|")
    for limit, processes, load, most in RUNS:
        result = simulate(limit, processes, load, most, options.minutes)
        is_exact &= result.fullest <= limit
        room = min(result.asked, limit * options.minutes)
        print(
            f"| {limit:,} | {processes:,} | {load:g}{', 9 of 10 in one' if most else ''} | {result.admitted / room:.1%} | "
            f"{result.at_once / result.admitted:.0%} | {result.messages / result.asked:.2f} | "
            f"{result.messages / options.minutes / MINUTE:,.0f} |",
            flush=True,
        )
    for members in (1, 10, 100, 1_000):
        print(f"a message through a file, {members:,} members: {exchange_of_file(members):.0f} µs")
    return 0 if is_exact else 1


if __name__ == "__main__":
    sys.exit(main())
