"""Compares the speed of the working tree with that of another revision: `make bench-beside REV=main~1`.

Both are built as the package ships, each in a target folder of its own: in a shared folder, cargo judges by
the times of the files whether a build is up to date. A cell is one operation under one strategy in a group of
one size. A pair is two fresh processes, one for each build. They time batches of the same calls by turns (A
B, B A, A B, …), on one core where the system allows that, so that a change of the clock rate meets both. A
batch has a ratio: the tree's time by the revision's. The median of the batches' ratios is the pair's ratio. A
cell's ratio is the median of its pairs' ratios, with a confidence interval.

The processes are fresh for every pair: the place in memory that the system gives a process moved a whole cell
by up to 25 % here. So the ratios of one pair of processes are not independent of each other, and an interval
over them would be too narrow.

Both are built with code aligned to 64 and 32 bytes. Without that, the place of code in memory decides more
than the code itself: one source built into two libraries, one by cargo and one by maturin, differed by 5 to
12 % here.

The interval needs no assumption about the distribution: its ends are order statistics of the ratios, chosen
by the binomial distribution (W. J. Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2). At
99.9 % a cell, 42 cells together show one false alarm in fifty runs, since only a lower end above the bound
counts.

Exit status: 0, or 1 if the interval of a cell lies above 1.05.
"""

import argparse
import gc
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
WORKPLACE = ROOT / "target" / "beside"

OPERATIONS = ("select", "acquire + release")
STRATEGIES = (
    "simple_shuffle",
    "least_busy",
    "usage_based",
    "latency_based",
    "priority_based",
    "rate_limit_aware",
    "round_robin",
)
SIZES = (10, 1_000, 100_000)
PAIRS = 31
BATCHES = 5
BATCH_SECONDS = 0.01
CONFIDENCE = 0.999
MOST = 1.05
ALIGNED = "-C llvm-args=-align-all-functions=6 -C llvm-args=-align-all-nofallthru-blocks=5"
MODEL = "model"


class Cell(NamedTuple):
    """The measurement of one operation under one strategy in a group of one size."""

    operation: str
    strategy: str
    size: int
    ratio: float
    low: float
    high: float
    tree_ns: float
    revision_ns: float

    def is_slower(self) -> bool:
        """Returns whether the interval lies above the bound."""
        return self.low > MOST


def interval(ratios: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns the ends of a confidence interval of the median: two order statistics that enclose it with at
    least this probability.

    Args:
        ratios: The sample.
        confidence: The least probability that the interval has the median in it, over 0 and under 1.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: The sample is too small for this confidence.

    >>> interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.9)
    (1.0, 6.0)
    """
    ordered = sorted(ratios)
    count = len(ordered)
    outside, nth = 0.0, 0
    # The kth smallest and the kth largest enclose the median unless fewer than k values lie on one side of
    # it.
    while True:
        more = outside + 2 * math.comb(count, nth) / 2**count
        if more > 1 - confidence:
            break
        outside, nth = more, nth + 1
    if nth == 0:
        raise ValueError(f"{count} pairs are too few for a confidence of {confidence}")
    return ordered[nth - 1], ordered[-nth]


# --- a worker: one revision in a process of its own ---


def work(site: Path) -> None:
    """Answers requests for timings from the standard input. It times the package of one folder."""
    sys.path.insert(0, str(site))
    import turnout

    if not str(turnout.__file__).startswith(str(site)):
        raise SystemExit(f"turnout was imported from {turnout.__file__}, not from {site}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    router: Any = None

    def make(strategy: Any, size: int) -> int:
        nonlocal router
        router = None
        gc.collect()
        limits: dict[str, Any] = {"rpm_limit": 10**9, "tpm_limit": 10**12, "max_parallel_requests": 10**6}
        deployments = [
            turnout.Deployment(f"deployment-{i}", MODEL, weight=1 + i % 3, priority=i % 5, **limits) for i in range(size)
        ]
        router = turnout.Router(deployments, strategy=strategy, seed=1)
        return 0

    def select(count: int) -> int:
        began = time.perf_counter_ns()
        for _ in range(count):
            router.select(MODEL)
        return time.perf_counter_ns() - began

    def acquire(count: int) -> int:
        began = time.perf_counter_ns()
        for _ in range(count):
            router.acquire(MODEL, tokens=10).release()
        return time.perf_counter_ns() - began

    calls: dict[str, Any] = {"make": make, OPERATIONS[0]: select, OPERATIONS[1]: acquire}
    gc.disable()
    for line in sys.stdin:
        name, *args = json.loads(line)
        print(calls[name](*args), flush=True)


class Worker:
    """A process that times one revision."""

    def __init__(self, site: Path) -> None:
        """Starts it on the package of a folder."""
        command = [sys.executable, "-S", str(Path(__file__)), "--worker", str(site)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *request: object) -> int:
        """Sends a request and waits for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a worker ended with status {self.process.wait()}")
        return int(answer)

    def end(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# --- builds ---


def run(*command: str, cwd: Path = ROOT) -> str:
    """Runs a command and returns what it prints; its errors are shown."""
    environment = {**os.environ, "RUSTFLAGS": ALIGNED}
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}")
    return done.stdout.strip()


def resolve(revision: str) -> str:
    """Returns the commit of a revision."""
    known = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    if known.returncode:
        raise SystemExit(f"REV must be a revision of this repository, such as HEAD~1 or a commit, not {revision!r}")
    return known.stdout.strip()


def build(source: Path, name: str) -> Path:
    """Builds the wheel of a source folder and unpacks it; returns the folder to import from."""
    place = WORKPLACE / name
    wheels, site = place / "wheels", place / "site"
    shutil.rmtree(wheels, ignore_errors=True)
    maturin = str(Path(sys.executable).parent / "maturin")
    run(maturin, "build", "--release", "--quiet", "--interpreter", sys.executable, "--out", str(wheels),
        "--target-dir", str(place / "cargo"), cwd=source)  # fmt: skip
    shutil.rmtree(site, ignore_errors=True)
    [wheel] = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def build_revision(commit: str) -> Path:
    """Builds a commit, or finds an earlier build of it; returns the folder to import from."""
    site = WORKPLACE / commit / "site"
    if not site.is_dir():
        source = WORKPLACE / commit / "source"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        archive = WORKPLACE / commit / "source.tar"
        run("git", "archive", "--output", str(archive), commit)
        run("tar", "-xf", str(archive), "-C", str(source))
        archive.unlink()
        build(source, commit)
        shutil.rmtree(WORKPLACE / commit / "cargo")
    return site


# --- measurements ---


class Pair(NamedTuple):
    """The measurement of one pair of processes."""

    ratio: float
    tree_ns: float
    revision_ns: float


def measure(tree: Worker, revision: Worker, operation: str) -> Pair:
    """Times batches by turns; returns the medians."""
    count = 100
    while tree.ask(operation, count) < BATCH_SECONDS * 1e9 / 4:
        count *= 2
    count *= 3
    revision.ask(operation, count)
    times = []
    for nth in range(BATCHES):
        if nth % 2:
            theirs = revision.ask(operation, count)
            ours = tree.ask(operation, count)
        else:
            ours = tree.ask(operation, count)
            theirs = revision.ask(operation, count)
        times.append((ours / theirs, ours / count, theirs / count))
    return Pair(*(statistics.median(column) for column in zip(*times, strict=True)))


@contextmanager
def workers(sites: tuple[Path, Path], strategy: str, size: int) -> Iterator[tuple[Worker, Worker]]:
    """Starts a worker for the tree and one for the revision, each with a router; ends them."""
    tree, revision = Worker(sites[0]), Worker(sites[1])
    try:
        for worker in (tree, revision):
            worker.ask("make", strategy, size)
        yield tree, revision
    finally:
        tree.end()
        revision.end()


def to_cell(operation: str, strategy: str, size: int, pairs: Sequence[Pair]) -> Cell:
    """Sums up the pairs of a cell."""
    ratios, ours, theirs = zip(*pairs, strict=True)
    return Cell(operation, strategy, size, statistics.median(ratios), *interval(ratios), statistics.median(ours),
                statistics.median(theirs))  # fmt: skip


def compare(sites: tuple[Path, Path], strategies: Sequence[str], sizes: Sequence[int], pairs: int) -> list[Cell]:
    """Measures all cells and prints them."""
    cells = []
    print(f"{'':34}{'ratio':>7}  {CONFIDENCE:.1%} interval   tree    REV  (ns a call)")
    for strategy in strategies:
        for size in sizes:
            found: dict[str, list[Pair]] = {operation: [] for operation in OPERATIONS}
            for _ in range(pairs):
                with workers(sites, strategy, size) as both:
                    for operation in OPERATIONS:
                        found[operation].append(measure(*both, operation))
            for operation in OPERATIONS:
                cell = to_cell(operation, strategy, size, found[operation])
                shown = "  slower" if cell.is_slower() else ""
                print(f"{strategy:17}{size:>8} {operation[:7]:8}{cell.ratio:7.3f}  {cell.low:.3f} to {cell.high:.3f}  "
                      f"{cell.tree_ns:7.0f}{cell.revision_ns:7.0f}{shown}", flush=True)  # fmt: skip
                cells.append(cell)
    return cells


def geometric_mean(cells: Sequence[Cell]) -> float:
    """Returns the geometric mean of the ratios of some cells."""
    return math.exp(statistics.fmean(math.log(cell.ratio) for cell in cells))


def verdict(cells: Sequence[Cell]) -> int:
    """Prints the sum of the cells; returns the exit status."""
    for operation in OPERATIONS:
        of_operation = [cell for cell in cells if cell.operation == operation]
        print(f"geometric mean of {operation}: {geometric_mean(of_operation):.3f}")
    print(f"geometric mean of all {len(cells)} cells: {geometric_mean(cells):.3f}")
    slower = [cell for cell in cells if cell.is_slower()]
    for cell in slower:
        print(f"slower: {cell.operation} by {cell.strategy} among {cell.size}: {cell.ratio:.3f}, interval above {MOST}")
    return 1 if slower else 0


def choice(allowed: Sequence[str]) -> Any:
    """Returns a reader of a comma-separated list of allowed values."""

    def read(said: str) -> list[str]:
        values = said.split(",")
        for value in values:
            if value not in allowed:
                raise argparse.ArgumentTypeError(f"{value!r} must be one of {', '.join(allowed)}")
        return values

    return read


def whole(least: int) -> Any:
    """Returns a reader of an int of at least some number."""

    def read(said: str) -> int:
        if not said.isdecimal() or int(said) < least:
            raise argparse.ArgumentTypeError(f"{said!r} must be an int of at least {least}")
        return int(said)

    return read


def main() -> int:
    """Builds, measures and judges; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares the speed of the working tree with that of another revision.")
    parser.add_argument("revision", help="the revision to compare with")
    parser.add_argument("--pairs", type=whole(PAIRS), default=PAIRS, help="pairs of processes a cell, at least %(default)s")
    parser.add_argument("--sizes", type=lambda said: [whole(1)(size) for size in said.split(",")], default=SIZES)
    parser.add_argument("--strategies", type=choice(STRATEGIES), default=STRATEGIES)
    parser.add_argument("--json", type=Path, help="also write the cells to this file")
    options = parser.parse_args()
    commit = resolve(options.revision)
    sites = build(ROOT, "tree"), build_revision(commit)
    print(f"the working tree beside {options.revision} ({commit[:10]}), {options.pairs} pairs a cell")
    cells = compare(sites, options.strategies, options.sizes, options.pairs)
    if options.json:
        options.json.write_text(json.dumps([cell._asdict() for cell in cells], indent=1))
    return verdict(cells)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]))
    else:
        sys.exit(main())
