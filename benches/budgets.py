"""Turnout's budgets, and their measurements beside those of picks, which are in compare.py.

    python benches/budgets.py

- Construction: deployments and their router, up to and including its first pick. The ids are made before. The
  best of several times in each process counts.
- Memory: 10,000 and 100,000 deployments with ids of their own, their router and its first pick. The growth of
  the resident set of a new process, with a garbage collection on either side, for each deployment. On Linux
  only.
- Tasks: ``await acquire_async(…)`` with a release beside ``acquire`` with a release, by turns in one loop,
  where there is room.
- Threads: acquires and releases with two threads on the core, without Python and its lock: ``cargo bench --
  threads``.

Every figure is the median of several processes.
"""

import argparse
import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

FEW, MANY, MOST = 10, 10_000, 100_000  # the numbers of deployments that have budgets
REPEATS = 5

Figures: TypeAlias = Mapping[str, float]
"""Measurements, by strategy or by something else that varies."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What something may cost, and what it costs.

    Attributes:
        what: The thing that is measured.
        bound: The most that it may be, or the least.
        unit: The unit of the bound and the figures.
        at_least: Whether the bound is the least.
        figures: The measurements; empty if there are none.
    """

    what: str
    bound: float
    unit: str
    at_least: bool = False
    figures: Figures = field(default_factory=dict)

    @property
    def worst(self) -> tuple[str, float] | None:
        """The figure that is nearest to the bound or furthest over it, with its name."""
        extreme = min if self.at_least else max
        return extreme(self.figures.items(), key=itemgetter(1), default=None)

    @property
    def met(self) -> bool | None:
        """Whether every figure keeps to the bound, or None if there is none."""
        if self.worst is None:
            return None
        return self.worst[1] >= self.bound if self.at_least else self.worst[1] <= self.bound


def medians(runs: Iterable[Figures]) -> Figures:
    """Take the median over processes, for each strategy."""
    samples: dict[str, list[float]] = {}
    for run in runs:
        for strategy, figure in run.items():
            samples.setdefault(strategy, []).append(figure)
    return {strategy: median(values) for strategy, values in samples.items()}


def table(budgets: Sequence[Budget]) -> Iterator[str]:
    """Write budgets as text, line by line."""
    width = 2 + max((len(name) for budget in budgets for name in budget.figures), default=2)
    yield f"{'budget':<56}{'bound':>28}{'worst':>10}  {'of':<{width}}verdict"
    for budget in budgets:
        bound = f"{'≥' if budget.at_least else '≤'} {budget.bound:g} {budget.unit}"
        strategy, figure = budget.worst or ("", None)
        shown = "-" if figure is None else f"{figure:,.2f}"
        verdict = {True: "met", False: "MISSED", None: "not measured"}[budget.met]
        yield f"{budget.what:<56}{bound:>28}{shown:>10}  {strategy:<{width}}{verdict}"


# --- what is measured ---


def deployments(ids: Iterable[str]) -> list[Any]:
    """Make deployments with limits."""
    make = import_module("turnout").Deployment
    limit = 10**9
    return [
        make(each, "m", weight=1 + i % 9, priority=i % 10, rpm_limit=limit, tpm_limit=limit, max_parallel_requests=limit)
        for i, each in enumerate(ids)
    ]


def ready_router(members: Sequence[Any], strategy: str) -> Any:
    """Make a router that has picked once, so that nothing is left for later."""
    router = import_module("turnout").Router(members, strategy=strategy)
    router.select("m")
    return router


def construction(strategy: str) -> dict[str, float]:
    """Time construction: milliseconds for the router alone and with its deployments."""
    ids = [f"deployment-{i}" for i in range(MANY)]
    alone, together = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        members = deployments(ids)
        made = time.perf_counter()
        router = ready_router(members, strategy)
        end = time.perf_counter()
        alone.append(end - made)
        together.append(end - start)
        del router, members
    return {"router": 1e3 * min(alone), "deployments and router": 1e3 * min(together)}


def resident() -> int:
    """Return how many bytes of this process are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(strategy: str, n: int) -> float:
    """Measure the bytes that a deployment takes, in a process that has not made many yet."""
    ready_router(deployments(f"deployment-{i}" for i in range(FEW)), strategy)
    gc.collect()
    before = resident()
    router = ready_router(deployments(f"deployment-{i}" for i in range(n)), strategy)
    gc.collect()
    return (resident() - before) / len(router)


def tasks(strategy: str, n: int) -> float:
    """Measure what a task pays for its lease, as a multiple of what a call without a loop pays."""
    router = ready_router(deployments(f"deployment-{i}" for i in range(n)), strategy)
    calls = range(1_000)

    async def ratio() -> float:
        start = time.perf_counter()
        for _ in calls:
            (await router.acquire_async("m")).release()
        between = time.perf_counter()
        for _ in calls:
            router.acquire("m").release()
        return (between - start) / (time.perf_counter() - between)

    async def ratios() -> list[float]:
        return [await ratio() for _ in range(8 * REPEATS)]

    return median(asyncio.run(ratios()))


def threads() -> dict[str, dict[str, float]]:
    """Measure the gain of a second thread on the core.

    Returns:
        By strategy, the throughput of two threads as a multiple of one thread's: when they ask for different
        groups, and when they ask for the same one. Nothing where there is no Rust.
    """
    result: dict[str, dict[str, float]] = {"different": {}, "same": {}}
    if cargo := shutil.which("cargo"):
        command = [cargo, "bench", "--quiet", "--no-default-features", "--bench", "core", "--", "threads"]
        root = Path(__file__).resolve().parent.parent
        output = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False).stdout
        for strategy, different, same in re.findall(r"^threads/(\w+): .*\((\S+) x\).*\((\S+) x\)$", output, re.MULTILINE):
            result["different"][strategy], result["same"][strategy] = float(different), float(same)
    return result


# --- in the parent process ---


def run_child(what: str, strategy: str, n: int = MANY) -> Any:
    """Measure one thing in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, "--strategies", strategy, "--size", str(n)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def measure(strategies: Sequence[str], processes: int) -> list[Budget]:
    """Measure all that is not a pick.

    Args:
        strategies: The strategies of the routers.
        processes: How many times each is measured, each time in a new process.

    Returns:
        The budgets of construction, memory, tasks and threads.
    """
    every = range(processes)
    made = [{strategy: run_child("construction", strategy) for strategy in strategies} for _ in every]
    sizes = (MANY, MOST) if sys.platform == "linux" else ()
    taken = {n: [{strategy: run_child("memory", strategy, n) for strategy in strategies} for _ in every] for n in sizes}
    awaited = [{strategy: run_child("tasks", strategy, FEW) for strategy in strategies} for _ in every]
    shared = [threads() for _ in every]

    def milliseconds(what: str) -> Figures:
        return medians({strategy: figures[what] for strategy, figures in run.items()} for run in made)

    def bytes_each(n: int) -> Figures:
        return medians(taken.get(n, ()))

    def scaling(groups: str) -> Figures:
        return medians(run[groups] for run in shared)

    return [
        Budget(f"construction, {MANY:,} deployments: router", 30, "ms", figures=milliseconds("router")),
        Budget(f"construction, {MANY:,}: deployments and router", 30, "ms", figures=milliseconds("deployments and router")),
        *(Budget(f"memory, {n:,} deployments", 1024, "bytes each", figures=bytes_each(n)) for n in (MANY, MOST)),
        Budget("await acquire_async and release", 3, "× acquire and release", figures=medians(awaited)),
        Budget("two threads on the core, different groups", 1.6, "× one thread", at_least=True, figures=scaling("different")),
        Budget("two threads on the core, one group (no collapse)", 0.5, "× one thread", at_least=True, figures=scaling("same")),
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [str(strategy) for strategy in import_module("turnout").Strategy]
    parser.add_argument("--strategies", nargs="+", choices=names, default=names, help="of routers")
    parser.add_argument("--processes", type=int, default=3, help="the number of counts of which the median is taken")
    parser.add_argument("--measure", choices=("construction", "memory", "tasks"), help=argparse.SUPPRESS)  # what a child is for
    parser.add_argument("--size", type=int, default=MANY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == "construction":
        print(json.dumps(construction(options.strategies[0])))
    elif options.measure == "memory":
        print(json.dumps(memory(options.strategies[0], options.size)))
    elif options.measure == "tasks":
        print(json.dumps(tasks(options.strategies[0], options.size)))
    else:
        print("\n".join(table(measure(options.strategies, options.processes))))


if __name__ == "__main__":
    main()
