"""Let four workers of uvicorn heed one quota together, at twice its load, and kill one of them.

The service is ``examples/workers.py``: its workers share their limits through a file. ``examples/load.py``
asks for twice of what the quota allows, from a process of its own. In the second whole window one worker is
killed, as by ``kill -9``, and uvicorn starts another. A table says what each window admitted. The workers
write each admission to a file, so the requests of a killed worker are counted too.

    python examples/demo_shared.py [--requests 600] [--seconds 10] [--windows 3]
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WORKERS = 4
OVERLOAD = 2.0  # how many times the quota is asked for
KILLED_IN = 1  # the number of the window in which a worker is killed, from 0
KILLED_AT = 0.2  # of that window, while the quota is not used up
# A worker holds what it needs in so many seconds, or crumbs of so many requests while little comes. It keeps
# up to twice of that. What a killed worker held of a window is lost: nobody knows whether it was used.
HORIZON, CRUMBS = 0.25, 4
STARTING = 60.0  # seconds in which all workers must answer


@dataclass
class Window:
    """What happened in a window of the quota."""

    begins: float
    asked: int = 0
    refused: int = 0
    lost: int = 0
    admitted: Counter[int] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """The requests that all workers admitted."""
        return self.admitted.total()


@contextmanager
def service(port: int, folder: Path, options: argparse.Namespace) -> Iterator[None]:
    """Run the workers, and end them."""
    environment = {
        **os.environ,
        "REQUESTS": str(options.requests),
        "SECONDS": str(options.seconds),
        "LEDGER": str(folder / "ledger"),
        "ADMISSIONS": str(folder / "admissions"),
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "workers:app", "--workers", str(WORKERS)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "critical"]
    with subprocess.Popen(command, env=environment) as server:
        try:
            yield
        finally:
            server.terminate()


def admissions(folder: Path) -> list[tuple[float, int]]:
    """Return when requests were admitted, and by which process."""
    lines = (folder / "admissions").read_text().splitlines()
    return [(float(at), int(process)) for at, process in map(str.split, lines)]


def wait_for_workers(url: str) -> None:
    """Ask until all workers have answered."""
    until = time.monotonic() + STARTING
    answered: set[str] = set()
    while len(answered) < WORKERS:
        if time.monotonic() > until:
            raise SystemExit(f"after {STARTING:.0f} s only {len(answered)} of {WORKERS} workers have answered")
        try:
            answer = httpx.get(url)
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            answered.add(answer.headers.get("X-Process") or answer.text)


def kill_one(folder: Path, since: float) -> int:
    """Kill a worker that has admitted requests lately. Return its process."""
    (process, _), *_ = Counter(process for at, process in admissions(folder) if at >= since).most_common()
    os.kill(process, signal.SIGKILL)
    return process


def windows(folder: Path, said: str, first: float, options: argparse.Namespace) -> list[Window]:
    """Return what happened in each window, by the workers' file and by what the load generator said."""
    found = [Window(first + nth * options.seconds) for nth in range(options.windows)]

    def at(time: float) -> Window | None:
        nth = int((time - first) // options.seconds)
        return found[nth] if 0 <= nth < options.windows else None

    for time_, process in admissions(folder):
        if window := at(time_):
            window.admitted[process] += 1
    for line in said.splitlines():
        sent, status = line.split()
        if window := at(float(sent)):
            window.asked += 1
            window.refused += status == "429"
            window.lost += status == "0"
    return found


def table(found: list[Window], killed: int) -> Table:
    """Return a table with a row for each window and a column for each worker."""
    title = "requests by window, and the admitted ones by process"
    made = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title=title)
    processes = sorted({process for window in found for process in window.admitted})
    named = [f"{process}\nkilled" if process == killed else str(process) for process in processes]
    for column in ("window", "asked", "refused", "lost", "admitted", *named):
        made.add_column(column, justify="right", no_wrap=True)
    for window in found:
        begins = time.strftime("%H:%M:%S", time.localtime(window.begins))
        counts = (window.asked, window.refused, window.lost, window.total, *(window.admitted[process] for process in processes))
        made.add_row(begins, *(str(count) if count else "–" for count in counts))
    return made


def excesses(found: list[Window], quota: int) -> Iterator[str]:
    """Say where more was admitted than the quota allows."""
    for nth, window in enumerate(found):
        if window.total > quota:
            yield f"window {nth + 1}: {window.total} were admitted, more than {quota}"


def gaps(found: list[Window], quota: int) -> Iterator[str]:
    """Say where too little was asked for, so that nothing follows from what was not admitted."""
    for nth, window in enumerate(found):
        if window.asked < quota * (1 + OVERLOAD) / 2:
            yield f"window {nth + 1}: only {window.asked} were asked for: this machine is too slow for this load"


def waste(found: list[Window], options: argparse.Namespace, killed: int) -> Iterator[str]:
    """Say where less was admitted than could be."""
    quota = options.requests
    most_lost = int(2 * max(CRUMBS, HORIZON * OVERLOAD * quota / options.seconds))  # if all requests came to one worker
    for nth, window in enumerate(found):
        # A worker may keep a unit for a request that was refused, until the window ends.
        fewest = quota - most_lost if nth == KILLED_IN else quota - WORKERS
        if window.total < fewest:
            yield f"window {nth + 1}: {window.total} were admitted, fewer than {fewest}"
    if found[-1].admitted[killed] or len(found[-1].admitted) < WORKERS:
        yield f"in the last window {len(found[-1].admitted)} workers admitted requests, not the {WORKERS} that uvicorn keeps"


def main() -> int:
    """Run the demo. Return 1 if more than the quota was admitted, or less was used than could be. Return 2 if
    the machine is too slow to tell.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=600, help="the requests that the quota allows in a window (600)")
    parser.add_argument("--seconds", type=int, default=10, help="the length of a window (10)")
    parser.add_argument("--windows", type=int, default=3, help="how many whole windows are looked at (3)")
    options = parser.parse_args()
    if options.requests < 1 or options.seconds < 1 or options.windows < KILLED_IN + 2:
        parser.error(f"--requests and --seconds must be at least 1, --windows at least {KILLED_IN + 2}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/ask"
    console = Console()
    with tempfile.TemporaryDirectory() as name, service(port, Path(name), options):
        wait_for_workers(url)
        # Windows begin at whole multiples of their length. The load begins before the first of the table.
        first = (time.time() + 1.0) // options.seconds * options.seconds + options.seconds
        seconds = first + options.windows * options.seconds - time.time()
        rate = OVERLOAD * options.requests / options.seconds
        console.print(f"{WORKERS} workers, {options.requests} requests each {options.seconds} s, {rate:g} asked for a second")
        command = [sys.executable, str(HERE / "load.py"), url, "--rate", str(rate), "--seconds", str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            begins = first + KILLED_IN * options.seconds
            time.sleep(begins + KILLED_AT * options.seconds - time.time())
            killed = kill_one(Path(name), begins)
            said, _ = load.communicate()
        found = windows(Path(name), said, first, options)
    console.print(table(found, killed))
    excess, gap = list(excesses(found, options.requests)), list(gaps(found, options.requests))
    wrong = excess or gap or list(waste(found, options, killed))
    for fault in wrong:
        console.print(fault, style="red")
    if not wrong:
        console.print(
            f"No window admitted more than {options.requests}. The windows without a kill admitted exactly as many; "
            f"in window {KILLED_IN + 1}, {options.requests - found[KILLED_IN].total} were lost with process {killed}."
        )
    return 2 if gap and not excess else 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
