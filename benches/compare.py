"""The cost of a pick through Python: turnout beside its pure-Python twin and beside installed peers.

    python benches/compare.py
    python benches/compare.py --sizes 10 10000 --routers turnout twin --operations select tags exclude tokens
    refusal

Every router serves one model by n deployments with limits that are never reached. Weights, priorities, usage
and latencies are scattered, and a few requests are in flight. Each figure is the median of several child
processes. In each process it is the best of several runs of a calibrated loop, less the time of the empty
loop. The names that are asked for equal the name that the router was given but are other objects. Their
hashes are known after the first round. The garbage collector is on.

Every process also measures its floor: the time of a native call that does nothing. It does so before its
first figure and after its last, and the lower one counts. The call is a method of the class in
``benches/floor`` that takes one str and returns another that it holds. For ``with`` it is a context manager
of the same class. ``get`` of an empty dict and a `threading.Lock` that no other thread wants stand beside
them for comparison, and in their place if that module is not installed. (``len`` of a str is called by a
shorter way than any method.) An acquire with its release is two calls and is compared with one.

Peers are measured where they have something to compare. The adapters were checked with these versions:

- litellm 1.110.2: ``Router.get_available_deployment`` of a router that has made no call. It is called without
  messages, so that it counts no tokens. Its usage based routing is the second version. It reserves nothing at
  a pick. It is measured up to 10,000 deployments: its set-up takes half a minute there. Its ``select``, which
  is awaited, takes up to twice as long: beside_litellm.py measures that, and whole calls.
- azure-switchboard 2026.8.2: ``Switchboard._select``, the synchronous part of its calls. It has one rule: it
  takes the better of two random deployments, by the fuller of their two limits. It stands beside
  ``rate_limit_aware``, which looks at the same number.

The last table compares turnout with its budgets, each by the strategy that does worst. A ratio is taken
within a process, and its median over the processes counts. The measurements of other things than picks are in
budgets.py.
"""

import argparse
import json
import logging
import os
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import budgets
from budgets import FEW, MOST, Budget, Figures

MODEL = "gpt-4o"
KEYS = ["".join(("gpt-", "4o")) for _ in range(100)]
REPEATS = 5
NEVER = 10**9  # a limit that no run comes near

SELECT, ACQUIRE_RELEASE, WITH_ACQUIRE = USUAL = ("select", "acquire-release", "with-acquire")
TAGS, EXCLUDE, TOKENS, REFUSAL = ("tags", "exclude", "tokens", "refusal")
OPERATIONS = {
    SELECT: "router.select(name)",
    ACQUIRE_RELEASE: "router.acquire(name).release()",
    WITH_ACQUIRE: "with router.acquire(name): pass",
    TAGS: "router.select(name, tags=...), which half of the deployments have",
    EXCLUDE: "router.select(name, exclude=...), the three that it picked before",
    TOKENS: "router.select(name, tokens=...), for which half of the deployments are too small",
    REFUSAL: "router.select(name) while all deployments are cooling down, and the exception caught",
}
SCENES = ((SELECT, ACQUIRE_RELEASE, WITH_ACQUIRE, EXCLUDE), (TAGS,), (TOKENS,), (REFUSAL,))
"""Operations that one router can be asked for together. The others need deployments that would change their
cost.
"""

NATIVE_CALL, GET, LEN, NATIVE_WITH, LOCK = ("native call", "{}.get(s)", "len(s)", "native with", "with lock")

Loop: TypeAlias = Callable[[Sequence[str], int], None]
"""Runs an operation once for each key, a number of times over."""

Run: TypeAlias = Mapping[str, Any]
"""The result of a process that measured a router."""


# --- what is measured ---


@dataclass(frozen=True, slots=True)
class Fact:
    """One deployment of the group, as every router is told about it."""

    deployment_id: str
    weight: int
    priority: int
    tokens: int
    latency: float


def group(n: int) -> list[Fact]:
    """Make up a group, the same one for every router and process."""
    rng = random.Random(n)
    return [
        Fact(f"deployment-{i}", rng.randint(1, 9), rng.randint(0, 9), rng.randint(0, NEVER // 10), rng.uniform(0.1, 2.0))
        for i in range(n)
    ]


def router_like_turnout(
    module: Any, router_type: Callable[..., Any], strategy: str, n: int, scene: str
) -> Iterator[dict[str, Loop]]:
    """Set up turnout or its twin, which has the same methods."""
    facts = group(n)
    deployments = [
        module.Deployment(
            fact.deployment_id,
            MODEL,
            weight=fact.weight,
            priority=fact.priority,
            rpm_limit=NEVER,
            tpm_limit=NEVER // 4 if scene == TOKENS and i % 2 else NEVER,
            max_parallel_requests=NEVER,
            tags=("even",) if scene == TAGS and i % 2 == 0 else (),
        )
        for i, fact in enumerate(facts)
    ]
    router = router_type(deployments, strategy=strategy, seed=1)
    for fact in facts:
        router.record_success(fact.deployment_id, tokens=fact.tokens, latency=fact.latency)
    in_flight = [router.acquire(MODEL) for _ in range(min(n // 2, 50))]
    tags, exclude = {"even"}, set[str]()
    if scene == REFUSAL:
        for fact in facts:
            router.cool_down(fact.deployment_id, 3600.0)
    else:
        for _ in range(min(3, n - 1)):
            exclude.add(router.select(MODEL, exclude=exclude))

    def select(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                router.select(key)

    def acquire_release(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                router.acquire(key).release()

    def with_acquire(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                with router.acquire(key):
                    pass

    def select_tags(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                router.select(key, tags=tags)

    def select_exclude(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                router.select(key, exclude=exclude)

    def select_tokens(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                router.select(key, tokens=NEVER // 2)

    def refusal(keys: Sequence[str], laps: int) -> None:
        refused = module.NoAvailableDeployment
        for _ in range(laps):
            for key in keys:
                try:  # noqa: SIM105 - `suppress` takes time of its own
                    router.select(key)
                except refused:
                    pass

    yield {
        SELECT: select,
        ACQUIRE_RELEASE: acquire_release,
        WITH_ACQUIRE: with_acquire,
        TAGS: select_tags,
        EXCLUDE: select_exclude,
        TOKENS: select_tokens,
        REFUSAL: refusal,
    }
    for lease in in_flight:
        lease.release()


@contextmanager
def turnout(strategy: str, n: int, scene: str) -> Iterator[dict[str, Loop]]:
    """Set up turnout."""
    module = import_module("turnout")
    yield from router_like_turnout(module, module.Router, strategy, n, scene)


@contextmanager
def twin(strategy: str, n: int, scene: str) -> Iterator[dict[str, Loop]]:
    """Set up the pure-Python twin."""
    module = import_module("pure_python")
    yield from router_like_turnout(module, module.PurePythonRouter, strategy, n, scene)


@contextmanager
def litellm(strategy: str, n: int, _scene: str) -> Iterator[dict[str, Loop]]:
    """Set up LiteLLM's router."""
    module = import_module("litellm")
    deployments = [
        {
            "model_name": MODEL,
            "litellm_params": {"model": "openai/gpt-4o", "api_key": "none", "weight": fact.weight, "rpm": NEVER, "tpm": NEVER},
            "model_info": {"id": fact.deployment_id},
        }
        for fact in group(n)
    ]
    router = module.Router(model_list=deployments, routing_strategy=LITELLM_STRATEGIES[strategy])

    def select(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                router.get_available_deployment(key)

    yield {SELECT: select}


@contextmanager
def azure_switchboard(_strategy: str, n: int, _scene: str) -> Iterator[dict[str, Loop]]:
    """Set up azure-switchboard."""
    module = import_module("azure_switchboard")
    resources = []
    for fact in group(n):
        deployment = module.OpenAIDeployment(MODEL, tpm=NEVER, rpm=NEVER)
        deployment.new_client = lambda: None  # it takes milliseconds to make and has no part in a pick
        deployment.spend_tokens(fact.tokens)
        resources.append(module.Foundry(fact.deployment_id, api_key="none", models=[deployment]))
    board = module.Switchboard(resources)
    pool = board.chat.completions._pool

    def no_fallback() -> None:
        return None

    def select(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                board._select(pool, model=key, session_id=None, fallback=no_fallback)

    yield {SELECT: select}


STRATEGIES = (
    "simple_shuffle",
    "least_busy",
    "usage_based",
    "latency_based",
    "priority_based",
    "rate_limit_aware",
    "round_robin",
)
LITELLM_STRATEGIES = {
    "simple_shuffle": "simple-shuffle",
    "least_busy": "least-busy",
    "usage_based": "usage-based-routing-v2",
    "latency_based": "latency-based-routing",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A router to measure.

    Attributes:
        module: The module that must be installed.
        set_up: Makes a router, for a strategy, a number of deployments and the first operation of a scene.
        strategies: The rules it has.
        operations: The operations it has.
        distribution: The package whose version is reported.
        largest: The most deployments that it can be set up with in bearable time.
        once_from: From this number of deployments on, set-up takes so long that only one process is run.
    """

    module: str
    set_up: Callable[[str, int, str], AbstractContextManager[dict[str, Loop]]]
    strategies: Sequence[str] = STRATEGIES
    operations: Sequence[str] = tuple(OPERATIONS)
    distribution: str | None = None
    largest: int = sys.maxsize
    once_from: int = sys.maxsize


SUBJECTS = {
    "turnout": Subject("turnout", turnout, distribution="turnout"),
    "twin": Subject("pure_python", twin, once_from=100_000),
    "litellm": Subject("litellm", litellm, tuple(LITELLM_STRATEGIES), (SELECT,), "litellm", largest=10_000, once_from=10_000),
    "azure-switchboard": Subject("azure_switchboard", azure_switchboard, ("rate_limit_aware",), (SELECT,), "azure-switchboard"),
}


# --- how it is measured: in a child process ---


def floors() -> dict[str, Loop]:
    """Return loops over nothing at all and over native calls that do nothing."""
    nothing: dict[str, str] = {}
    lock = threading.Lock()
    native: dict[str, Loop] = {}

    def empty(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for _key in keys:
                pass

    def get(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                nothing.get(key)

    def length(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for key in keys:
                len(key)

    def hold(keys: Sequence[str], laps: int) -> None:
        for _ in range(laps):
            for _key in keys:
                with lock:
                    pass

    if find_spec("turnout_floor"):
        floor = import_module("turnout_floor").Floor()

        def call(keys: Sequence[str], laps: int) -> None:
            for _ in range(laps):
                for key in keys:
                    floor.call(key)

        def enter(keys: Sequence[str], laps: int) -> None:
            for _ in range(laps):
                for _key in keys:
                    with floor:
                        pass

        native = {NATIVE_CALL: call, NATIVE_WITH: enter}
    return {"loop": empty, **native, GET: get, LEN: length, LOCK: hold}


def floor_of(operation: str, floor_ns: Mapping[str, float]) -> str:
    """Return the floor that an operation is compared with, among those that were measured."""
    best, instead = (NATIVE_WITH, LOCK) if operation == WITH_ACQUIRE else (NATIVE_CALL, GET)
    return best if best in floor_ns else instead


def nanoseconds(loop: Loop, seconds: float, cap: float) -> float:
    """Time a loop.

    Args:
        loop: The loop to run.
        seconds: How long one run should take.
        cap: The seconds after which no further run is started.

    Returns:
        Nanoseconds for each key, in the best run.
    """
    target, end = seconds * 1e9, time.perf_counter_ns() + cap * 1e9

    def run(calls: int) -> tuple[int, int]:
        keys = KEYS[:calls]
        laps = calls // len(keys)
        start = time.perf_counter_ns()
        loop(keys, laps)
        return time.perf_counter_ns() - start, laps * len(keys)

    elapsed, calls = run(1)  # the first call of all is set-up, not a sample
    elapsed, calls = run(1)
    while elapsed < target / 4 and time.perf_counter_ns() < end:
        elapsed, calls = run(4 * calls)
    best = elapsed / calls
    for _ in range(REPEATS):
        if time.perf_counter_ns() > end:
            break
        elapsed, calls = run(max(1, round(target / best)))
        best = min(best, elapsed / calls)
    return best


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one router in this process.

    Returns:
        The floors and the cells (strategy, n, operation and nanoseconds), for JSON.
    """

    def floor_ns() -> dict[str, float]:
        return {floor: nanoseconds(loop, options.seconds, options.cap) for floor, loop in floors().items()}

    logging.disable(logging.CRITICAL)
    before = floor_ns()
    subject = SUBJECTS[name]
    cells: list[dict[str, Any]] = []
    for n in options.sizes:
        for strategy in options.strategies:
            if strategy not in subject.strategies or n > subject.largest:
                continue
            for scene in SCENES:
                operations = [each for each in scene if each in options.operations and each in subject.operations]
                if not operations:
                    continue
                with subject.set_up(strategy, n, scene[0]) as loops:
                    for operation in operations:
                        ns = nanoseconds(loops[operation], options.seconds, options.cap)
                        cells.append({"strategy": strategy, "n": n, "operation": operation, "ns": ns})
    raw = {floor: min(before[floor], ns) for floor, ns in floor_ns().items()}
    loop_ns = raw.pop("loop")
    return {
        "floors": {floor: ns - loop_ns for floor, ns in raw.items()},
        "cells": [{**cell, "ns": cell["ns"] - loop_ns} for cell in cells],
    }


# --- what comes of it: in the parent process ---


def run_child(name: str, sizes: Sequence[int], options: argparse.Namespace) -> Run:
    """Measure one router in a process of its own."""
    arguments = ["--measure", name, "--seconds", options.seconds, "--cap", options.cap, "--sizes", *sizes]
    arguments += ["--strategies", *options.strategies, "--operations", *options.operations]
    environment = os.environ | {"PYTHONHASHSEED": "0", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, __file__, *map(str, arguments)]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def summarize(runs: Mapping[str, Sequence[Run]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Take medians over the processes.

    Args:
        runs: The results of each process of each router.

    Returns:
        The floors over all processes, and for each operation, strategy and size a row with nanoseconds by
        router and ratios.
    """
    every_run = [run for of_router in runs.values() for run in of_router]
    floor_ns = {floor: median(run["floors"][floor] for run in every_run) for floor in every_run[0]["floors"]}
    samples: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    above_floor: dict[tuple[str, str, int], list[float]] = {}
    for name, of_router in runs.items():
        for run in of_router:
            for cell in run["cells"]:
                key = (cell["operation"], cell["strategy"], cell["n"])
                samples.setdefault(key, {}).setdefault(name, []).append(cell["ns"])
                if name == "turnout":
                    above_floor.setdefault(key, []).append(cell["ns"] / run["floors"][floor_of(cell["operation"], floor_ns)])
    rows: list[dict[str, Any]] = []
    for key, by_router in samples.items():
        ns = {name: median(values) for name, values in by_router.items()}
        row = dict(zip(("operation", "strategy", "n"), key, strict=True), ns=ns, samples=by_router)
        row["twin/turnout"] = ns["twin"] / ns["turnout"] if {"twin", "turnout"} <= ns.keys() else None
        row["turnout/floor"] = median(above_floor[key]) if key in above_floor else None
        rows.append(row)
    order = {name: place for place, name in enumerate((*OPERATIONS, *STRATEGIES))}
    rows.sort(key=lambda row: (order[row["operation"]], order[row["strategy"]], row["n"]))
    return floor_ns, rows


def budgets_of_picks(runs: Sequence[Run]) -> list[Budget]:
    """Compare turnout's picks with their budgets."""
    floor_ns = runs[0]["floors"]

    def over_floor(operation: str) -> Figures:
        return budgets.medians(
            {
                cell["strategy"]: cell["ns"] / run["floors"][floor_of(operation, floor_ns)]
                for cell in run["cells"]
                if (cell["operation"], cell["n"]) == (operation, FEW)
            }
            for run in runs
        )

    def over_few(operation: str) -> Figures:
        ratios = []
        for run in runs:
            ns = {(cell["n"], cell["strategy"]): cell["ns"] for cell in run["cells"] if cell["operation"] == operation}
            both = [strategy for n, strategy in ns if n == MOST and (FEW, strategy) in ns]
            ratios.append({strategy: ns[MOST, strategy] / ns[FEW, strategy] for strategy in both})
        return budgets.medians(ratios)

    def of(operation: str, n: int) -> str:
        return f"{operation}, {n:,} deployments"

    return [
        Budget(of(SELECT, FEW), 4, f"× {floor_of(SELECT, floor_ns)}", figures=over_floor(SELECT)),
        Budget(of(SELECT, MOST), 2.5, f"× its own at {FEW}", figures=over_few(SELECT)),
        Budget(of(WITH_ACQUIRE, FEW), 4, f"× {floor_of(WITH_ACQUIRE, floor_ns)}", figures=over_floor(WITH_ACQUIRE)),
        Budget(of(ACQUIRE_RELEASE, MOST), 3, f"× its own at {FEW}", figures=over_few(ACQUIRE_RELEASE)),
    ]


def cpu_model() -> str:
    """Return the processor's name, as far as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def version(distribution: str | None) -> str | None:
    """Return the installed version of a package."""
    try:
        return metadata.version(distribution) if distribution else None
    except metadata.PackageNotFoundError:
        return None


def report(result: Mapping[str, Any]) -> Iterator[str]:
    """Write the result as text, line by line, except for the budgets."""
    machine, floor_ns = result["machine"], result["floors"]
    versions = [f"{name} {number}" for name, number in result["versions"].items() if number]
    yield f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {result['date']}"
    yield ", ".join([result["python"], *versions])
    yield "floor: " + ", ".join(f"{floor} {ns:.1f} ns" for floor, ns in floor_ns.items())
    if NATIVE_CALL not in floor_ns:
        yield f"benches/floor is not installed here: {GET} and {LOCK} stand in for its native call and context manager"
    for name, n in result["once_from"].items():
        yield f"{name} from {n:,} deployments on: one process"
    names = [name for name in SUBJECTS if name in result["versions"]]
    ratios = ("twin/turnout", "turnout/floor")
    for operation, meaning in OPERATIONS.items():
        rows = [row for row in result["rows"] if row["operation"] == operation]
        if not rows:
            continue
        floor = floor_of(operation, floor_ns)
        width = {name: max(15, len(name) + 2) for name in (floor, *names, *ratios)}
        yield ""
        yield f"{operation}: {meaning}, ns"
        yield f"{'strategy':<18}{'n':>9}" + "".join(f"{name:>{width[name]}}" for name in width)
        for row in rows:
            times = "".join(
                f"{row['ns'][name]:>{width[name]},.0f}" if name in row["ns"] else f"{'-':>{width[name]}}" for name in names
            )
            shares = "".join(f"{'-' if row[name] is None else format(row[name], ',.1f'):>{width[name]}}" for name in ratios)
            yield f"{row['strategy']:<18}{row['n']:>9,}{floor_ns[floor]:>{width[floor]},.0f}{times}{shares}"


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).resolve().parent.parent / "target" / "compare.json"
    sizes = [FEW, 100, 1000, 10_000, MOST]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="numbers of deployments")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="rules to pick by")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=USUAL, help="what to do")
    parser.add_argument("--routers", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="what to measure, if installed")
    parser.add_argument("--processes", type=int, default=3, help="processes a router; the median counts")
    parser.add_argument("--seconds", type=float, default=0.03, help="length of one run; the best of five counts")
    parser.add_argument("--cap", type=float, default=2.0, help="seconds a cell after which no further run is started")
    parser.add_argument("--budgets", action=argparse.BooleanOptionalAction, default=True, help="hold turnout against its budgets")
    parser.add_argument("--json", type=Path, default=default, help="where the result goes as JSON")
    parser.add_argument("--measure", choices=SUBJECTS, help=argparse.SUPPRESS)  # what a child is for
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    options = options_of(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    if "turnout" in options.routers:
        try:
            import_module("turnout._core")
        except ImportError as error:
            sys.exit(f"turnout is not built here ({error}): run `maturin develop --release`, or leave it out with --routers twin")
    names = [name for name in SUBJECTS if name in options.routers and find_spec(SUBJECTS[name].module)]
    if not names:
        sys.exit(f"not installed: {', '.join(options.routers)}")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for process in range(options.processes):
        for name in names:
            sizes = [n for n in options.sizes if process == 0 or n < SUBJECTS[name].once_from]
            start = time.perf_counter()
            runs[name].append(run_child(name, sizes, options))
            took = time.perf_counter() - start
            print(f"{name}: process {process + 1} of {options.processes}, {took:.0f} s", file=sys.stderr)
    floor_ns, rows = summarize(runs)
    held: list[Budget] = []
    if options.budgets and "turnout" in names:
        held = budgets_of_picks(runs["turnout"]) + budgets.measure(options.strategies, options.processes)
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version(SUBJECTS[name].distribution) for name in names},
        "settings": {"processes": options.processes, "seconds": options.seconds, "cap": options.cap, "repeats": REPEATS},
        "once_from": {name: SUBJECTS[name].once_from for name in names if max(options.sizes) >= SUBJECTS[name].once_from},
        "floors": floor_ns,
        "rows": rows,
        "budgets": [{**asdict(budget), "worst": budget.worst, "met": budget.met} for budget in held],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(report(result)))
    if held:
        print("", *budgets.table(held), sep="\n")


if __name__ == "__main__":
    main()
