"""What it costs to share limits, and what it gives: the figures of docs/shared.md.

    PYTHONPATH=tests python benches/sharing.py
    PYTHONPATH=tests python benches/sharing.py --only overhead calls

| part | what is measured |
|---|---|
| overhead | `acquire` and `release` with a full hand, in turn with those of a router that shares nothing |
| calls | system calls of a thread that asks with a full hand; without strace, its voluntary switches |
| messages | messages to a server for each request: four processes ask fast, slowly, and for too much |
| used | the part of a limit that four processes use that ask for twice as much; 64 in virtual time |
| exact | what four processes admit of 600 |
| places | the time until a place is used again whose process was killed (a file) |
| beside | how long an `acquire` takes beside a round trip to a server for each |

Processes are real, and count as the tests of faults do (tests/shared). Windows have 20 seconds. Parts that
need redis-server are left out where it is not installed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from shared.fleet import Fleet, Record
from shared.servers import Server, until
from shared.worker import Task, store_of
from turnout import Deployment, Lease, Limit, ManualClock, NoAvailableDeployment, Router
from turnout.shared import Memory

MOST = 10**12
PER = 20.0
BATCH = 500
HAS_SERVER = shutil.which("redis-server") is not None

Row = tuple[str, str, str]
"""What was measured, what came out, and the goal."""


# --- in one process ---


@contextmanager
def routers(folder: Path) -> Iterator[tuple[Router, Router]]:
    """Makes a router that shares nothing and one that does, both with a limit that is far off."""
    deployments = [Deployment("a", "m", limits=(Limit(requests=MOST, per=86_400.0),))]
    alone = Router(deployments)
    shares = Router(deployments, shared=store_of(Task("file", str(folder / "shared.ledger"), ttl=10.0)))
    # At a steady rate it learns how much to hold.
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        ask(shares)
    try:
        yield alone, shares
    finally:
        shares.close()


def ask(router: Router) -> None:
    """Asks for a batch of requests. Where the hand is empty for a moment, asks again."""
    for _ in range(BATCH):
        try:
            with router.acquire("m"):
                pass
        except NoAvailableDeployment:
            time.sleep(0.001)


def nanoseconds(router: Router) -> float:
    """Measures how long a request of a batch takes."""
    began = time.perf_counter_ns()
    ask(router)
    return (time.perf_counter_ns() - began) / BATCH


def overhead(folder: Path) -> list[Row]:
    """Measures what sharing adds to a request that finds a full hand."""
    with routers(folder) as (alone, shares):
        pairs = [(nanoseconds(alone), nanoseconds(shares)) for _ in range(1501)]
    ratio = statistics.median(shared / own for own, shared in pairs)
    more = statistics.median(shared - own for own, shared in pairs)
    own = statistics.median(own for own, _ in pairs)
    return [("acquire + release, full hand", f"{more:+.0f} ns, {ratio:.2f} of {own:.0f} ns unshared", "at most +150 ns")]


def calls(folder: Path) -> list[Row]:
    """Counts what a thread asks of the system, while another one carries the talk."""
    asked = 200 * BATCH
    own = threading.get_native_id()
    status = Path(f"/proc/self/task/{own}/status")
    with routers(folder) as (_, shares):
        tracer = start_strace(own, folder / "strace")
        before = switches(status)
        for _ in range(200):
            ask(shares)
        after = switches(status)
        counted = None if tracer is None else stop_strace(tracer, folder / "strace")
    if counted is None:
        return [("voluntary switches of a thread, full hand", f"{after - before} in {asked} requests", "none in a pick")]
    return [("system calls of a thread, full hand", f"{counted} in {asked} requests", "none in a pick")]


def switches(status: Path) -> int:
    """Reads how often a thread has waited."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["voluntary_ctxt_switches"])


def start_strace(thread: int, output: Path) -> "subprocess.Popen[bytes] | None":
    """Counts the system calls of a thread from now on. None if that is not possible here."""
    if shutil.which("strace") is None:
        return None
    tracer = subprocess.Popen(["strace", "-c", "-p", str(thread), "-o", str(output)], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    # It says so when it is attached, and otherwise why it may not be.
    return tracer if b"attached" in tracer.stderr.readline() else None


def stop_strace(tracer: "subprocess.Popen[bytes]", output: Path) -> str:
    """Ends the count, and tells the system calls but for those of this program itself."""
    # Its own end is no call of ours.
    tracer.send_signal(2)
    tracer.wait()
    found: dict[str, int] = {}
    for line in output.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            found[words[-1]] = int(words[3])
    # The looks at its switches, and the end of strace.
    for name in ("openat", "newfstatat", "fstat", "read", "lseek", "close", "ioctl", "readlink", "kill", "wait4"):
        found.pop(name, None)
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or "0"


# --- processes ---


def one_window(folder: Path, task: Task, workers: int = 4) -> Record:
    """Lets workers work in one whole window."""
    folder.mkdir()
    with Fleet(folder, task) as fleet:
        fleet.begin(workers)
        fleet.wait_until_all_admit()
        fleet.wait_until_window(0.0)
        time.sleep(task.per + 0.1)
        return fleet.end()


def messages(folder: Path) -> list[Row]:
    """Counts the messages that a server gets."""
    kinds = [
        ("fast: 25 a second each", 25.0, 4000, "0.3"),
        ("slow: 0.5 a second each", 0.5, 200, "1.2"),
        ("saturated: twice the limit", 20.0, 800, "2.2"),
    ]
    rows = []
    for name, rate, amount, goal in kinds:
        with (
            Server("redis-server") as server,
            Fleet(
                made(folder / f"rate-{rate}"), Task("redis", server.url, amount, PER, rate=rate, ttl=10.0, patience=0.05)
            ) as fleet,
        ):
            fleet.begin(4)
            fleet.wait_until_all_admit()
            fleet.wait_until_window(0.0)
            before, already = messages_of(server), len(fleet.so_far().admissions)
            time.sleep(PER)
            sent, admitted = messages_of(server) - before, len(fleet.so_far().admissions) - already
            fleet.end()
        said = f"{sent / (4 * rate * PER):.2f} for each asked, {sent / max(admitted, 1):.2f} for each admitted"
        rows.append((f"messages a request, {name}", said, f"at most {goal}"))
    return rows


def messages_of(server: Server) -> int:
    """Reads how many messages a server has handled."""
    with server.client() as client:
        stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


def used(folder: Path) -> list[Row]:
    """Measures what of a limit is used where there is demand for more."""
    rows = used_by_processes(folder, lambda name: Task("file", str(folder / f"{name}.ledger"), rate=60.0))
    if HAS_SERVER:
        with Server("redis-server") as server, Server("redis-server") as other:
            urls = {"requests": server.url, "tokens": other.url}
            rows += used_by_processes(folder, lambda name: Task("redis", urls[name], rate=60.0))
    for name, size, goal in (("requests", None, "99.5 %"), ("tokens", 2500, "98 %")):
        rows.append((f"{name} used, 64 routers in virtual time", virtually(64, size), f"at least {goal}"))
    return rows


def used_by_processes(folder: Path, task_of: Callable[[str], Task]) -> list[Row]:
    """Measures it with four processes. Requests use two fifths of the tokens that they ask for."""
    requests = task_of("requests").with_(amount=2400, per=PER, ttl=10.0)
    tokens = task_of("tokens").with_(amount=2_000_000, per=PER, ttl=10.0, tokens=2500, actual=1000, hold=0.3, rate=50.0)
    rows = []
    for name, task, goal in (("requests", requests, "99.5 %"), ("tokens", tokens, "98 %")):
        record = one_window(folder / f"used-{task.store}-{name}", task)
        said = f"{record.used_last():.2%}, {over_of(record)} over"
        rows.append((f"{name} used, 4 processes, {task.store}", said, f"at least {goal}"))
    return rows


def over_of(record: Record) -> int:
    """Adds up what is over the limit."""
    return sum(units - (record.task.amount or 0) for units in record.over().values())


def virtually(processes: int, tokens: int | None) -> str:
    """Lets routers ask for half more than a limit a minute, for three minutes."""
    clock, memory, random = ManualClock(), Memory(), Random(5)
    amount, actual = 6000 * (400 if tokens else 1), 1000 if tokens else 1
    limit = Limit(tokens=amount) if tokens else Limit(requests=amount)
    fleet = [Router([Deployment("a", "m", limits=(limit,))], shared=memory, clock=clock) for _ in range(processes)]
    now, used = 0.0, [0, 0, 0]
    held: list[tuple[float, Lease]] = []
    while (now := now + random.expovariate(1.5 * amount / actual / 60)) < 180.0:
        clock.set(now)
        while held and held[0][0] <= now:
            held.pop(0)[1].success(tokens=actual if tokens else None)
        try:
            lease = random.choice(fleet).acquire("m", tokens=tokens or 0)
        except NoAvailableDeployment:
            continue
        used[int(now // 60)] += actual
        held.append((now + 0.3, lease))
    over = max(0, *(units - amount for units in used))
    return f"{used[1] / amount:.2%}, {over} over"


def exact(folder: Path) -> list[Row]:
    """Counts what four processes admit of 600."""
    record = one_window(folder / "exact", Task("file", str(folder / "exact.ledger"), 600, PER, rate=15.0, ttl=10.0))
    window = max(window for window in record.used() if window < record.until // PER)
    return [("admitted of 600 by 4 processes", f"{record.used_last() * 600:.0f}, {record.used()[window]} for certain", "600")]


def places(folder: Path) -> list[Row]:
    """Measures how long the places of a process that is killed stay unused while another one waits."""
    times = []
    for nth in range(20):
        task = Task("file", str(folder / f"places-{nth}.ledger"), amount=None, places=4, rate=200.0, ttl=10.0)
        with Fleet(made(folder / f"places-{nth}"), task) as fleet:
            (holder,) = fleet.begin(1, hold=60.0)
            until(lambda fleet=fleet: fleet.so_far().in_flight() == 4, "the places are not taken")  # type: ignore[misc]
            fleet.begin(1, hold=60.0, timeout=30.0)
            time.sleep(1.5)
            fleet.kill(holder)
            fleet.wait_until_all_admit()
            first = min(admission.latest for admission in fleet.so_far().admissions if admission.worker != holder)
            times.append((first - fleet.killed[holder]) / 1e6)
    said = f"median {statistics.median(times):.1f} ms, most {max(times):.1f} ms"
    return [("a place is used again after kill -9 (file)", said, "at most 20 ms")]


# --- beside a round trip for each ---

SCRIPT = """
local used = redis.call('INCR', KEYS[1])
if used == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if used > tonumber(ARGV[1]) then redis.call('DECR', KEYS[1]) return 0 end
return 1
"""


def beside(folder: Path) -> list[Row]:
    """Measures how long requests wait for their turn, one after the other."""
    import redis

    with Server("redis-server") as server, redis.Redis(port=server.port) as client:
        store = store_of(Task("redis", server.url, ttl=10.0, patience=0.05))
        shares = Router([Deployment("a", "m", rpm_limit=10**6)], shared=store)
        script = client.register_script(SCRIPT)

        def through_turnout() -> None:
            with shares.acquire("m"):
                pass

        def through_a_script() -> None:
            script(["limit"], [10**6, 60_000])

        asks = {"turnout": through_turnout, "a script by redis-py": through_a_script, "INCR by redis-py": lambda: client.incr("n")}
        until(lambda: admits(through_turnout), "nothing is admitted")
        rows = [(f"an acquire through {name}, 200 a second", latencies(ask), "") for name, ask in asks.items()]
        shares.close()
    return rows


def admits(ask: Callable[[], object]) -> bool:
    """Returns whether a request is admitted."""
    try:
        ask()
    except NoAvailableDeployment:
        return False
    return True


def latencies(ask: Callable[[], object]) -> str:
    """Asks 200 times a second, and tells how long that takes."""
    for _ in range(200):
        ask()
        time.sleep(0.005)
    times = []
    for _ in range(600):
        began = time.perf_counter_ns()
        ask()
        times.append((time.perf_counter_ns() - began) / 1000)
        time.sleep(0.005)
    times.sort()
    return f"p50 {times[300]:.1f} µs, p99 {times[594]:.0f} µs"


# --- the whole ---


def made(folder: Path) -> Path:
    """Makes a folder."""
    folder.mkdir()
    return folder


PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "overhead": overhead,
    "calls": calls,
    "messages": messages,
    "used": used,
    "exact": exact,
    "places": places,
    "beside": beside,
}
NEED_A_SERVER = {"messages", "beside"}


def main() -> None:
    """Measures what it is asked for, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options: Any = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        for name in options.only:
            if name in NEED_A_SERVER and not HAS_SERVER:
                print(f"{name}: left out, redis-server is not installed", file=sys.stderr)
                continue
            print(f"{name} …", file=sys.stderr, flush=True)
            rows += PARTS[name](Path(folder))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
