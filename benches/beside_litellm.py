"""LiteLLM's Router and turnout by turns, in one run: a pick, a whole call, construction and import.

    python benches/beside_litellm.py
    python benches/beside_litellm.py --pairs 7 --sizes 10 --only calls imports

Both route the same deployments, with limits that are never reached. Blocks of both are run by turns in one
process, in an order that changes. So a change of the clock rate meets both. Each pair of blocks gives a
ratio. The table shows the medians of both and of the ratios, with a 95 % interval of the latter. All is CPU
time of the process, with that of its other threads: LiteLLM does a part of its work in these.

- Picks: LiteLLM's ``await router.select(name)``, which its own calls use, and ``get_available_deployment``,
  which waits for nothing. turnout's ``select`` stands beside both. Its ``acquire`` with its release stands
  beside the former: it reserves what LiteLLM's pick does not.
- Calls: ``await Router.acompletion(…)`` with a mocked answer, beside ``router.call_async`` whose function
  awaits ``litellm.acompletion`` with that answer, and beside ``turnout.integrations.litellm.Router``, which
  takes the place of LiteLLM's. All stand beside ``litellm.acompletion`` alone. What LiteLLM logs after a call
  is a part of it: each block waits for it.
- Construction: from plain values to the first router that can pick.
- Imports: ``from … import Router`` in a fresh process, less an empty interpreter in another one. The resident
  memory is that after the import.

The adapters were checked with litellm 1.110.2.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

from beside import interval

MODEL = "gpt-4o"
NEVER = 10**9  # a limit that no run comes near
MESSAGES = [{"role": "user", "content": "How much does the fish weigh?"}]
PROVIDER = {"model": "openai/gpt-4o", "api_key": "none", "mock_response": "It weighs nine pounds."}
STRATEGIES = {
    "simple_shuffle": "simple-shuffle",
    "least_busy": "least-busy",
    "usage_based": "usage-based-routing-v2",
    "latency_based": "latency-based-routing",
}
SQUARED = {"latency_based", "usage_based"}
"""Strategies whose cost grows with the square of the number of deployments in LiteLLM: among 10 alone."""
MANY = 1_000
BLOCK = 20_000_000  # nanoseconds that a block of picks takes, about

Block: TypeAlias = Callable[[], Awaitable[float]]
"""Does something a number of times. Returns the CPU seconds of one time."""


class Row(NamedTuple):
    """A line of the table: what is measured of LiteLLM and of turnout, in ``unit``, and the ratio of both."""

    what: str
    unit: str
    litellm: float
    turnout: float
    ratio: float
    low: float
    high: float


def row(what: str, unit: str, scale: float, pairs: Sequence[tuple[float, float]]) -> Row:
    """Takes the medians of pairs: of LiteLLM's, of turnout's and of their ratios."""
    ratios = [theirs / ours for theirs, ours in pairs]
    theirs, ours = (scale * median(column) for column in zip(*pairs, strict=True))
    # Of five or fewer, no two enclose the median so surely.
    low, high = interval(ratios, 0.95) if len(ratios) > 5 else (min(ratios), max(ratios))
    return Row(what, unit, theirs, ours, median(ratios), low, high)


# --- both routers ---


def litellm_router(n: int, strategy: str = "simple_shuffle", module: str = "litellm") -> Any:
    """Makes LiteLLM's router of n deployments, or that of another module with its arguments."""
    models = [
        {"model_name": MODEL, "litellm_params": {**PROVIDER, "rpm": NEVER, "tpm": NEVER}, "model_info": {"id": f"deployment-{nth}"}}
        for nth in range(n)
    ]
    return import_module(module).Router(model_list=models, routing_strategy=STRATEGIES[strategy], num_retries=0)


def turnout_router(n: int, strategy: str = "simple_shuffle") -> Any:
    """Makes turnout's router of the same deployments."""
    turnout = import_module("turnout")
    members = [
        turnout.Deployment(f"deployment-{nth}", MODEL, rpm_limit=NEVER, tpm_limit=NEVER, metadata=PROVIDER) for nth in range(n)
    ]
    router = turnout.Router(members, strategy=strategy)
    router.select(MODEL)  # nothing is left for later
    return router


# --- by turns ---


def times_for(once: Callable[[], object], most: int = 100_000) -> int:
    """Returns how many times something is done in a block, from how long it takes."""
    once()
    began = time.perf_counter_ns()
    once()
    return max(2, min(most, BLOCK // max(1, time.perf_counter_ns() - began)))


def calls_of(once: Callable[[], object]) -> Block:
    """Returns a block of calls of a function."""
    times = times_for(once)

    async def block() -> float:
        began = time.process_time()
        for _ in range(times):
            once()
        return (time.process_time() - began) / times

    return block


async def awaits_of(once: Callable[[], Awaitable[object]], times: int = 0) -> Block:
    """Returns a block of awaited calls of a function, and of what LiteLLM logs of them."""
    worker = import_module("litellm.litellm_core_utils.logging_worker").GLOBAL_LOGGING_WORKER
    await once()
    if not times:
        began = time.perf_counter_ns()
        await once()
        times = max(2, BLOCK // (time.perf_counter_ns() - began))

    async def block() -> float:
        began = time.process_time()
        for _ in range(times):
            await once()
        await worker.flush()
        return (time.process_time() - began) / times

    return block


async def by_turns(blocks: dict[str, Block], pairs: int) -> list[dict[str, float]]:
    """Runs blocks by turns, each time in an order of its own: none always follows the same one."""
    for block in blocks.values():
        await block()
    taken = []
    rng = random.Random(1)
    for _ in range(pairs):
        each = {}
        for name in rng.sample(list(blocks), len(blocks)):
            gc.collect()  # nobody pays for another's garbage
            each[name] = await blocks[name]()
        taken.append(each)
    return taken


# --- what is measured ---


def lease(router: Any) -> None:
    """Takes a lease and gives it back."""
    router.acquire(MODEL).release()


async def picks(sizes: Sequence[int], pairs: int) -> list[Row]:
    """Measures picks."""
    rows = []
    for strategy in STRATEGIES:
        for n in sizes:
            if strategy in SQUARED and n >= MANY:
                continue
            theirs, ours = litellm_router(n, strategy), turnout_router(n, strategy)
            taken = await by_turns(
                {
                    "litellm": await awaits_of(partial(theirs.select, MODEL)),
                    "litellm, sync": calls_of(partial(theirs.get_available_deployment, MODEL)),
                    "select": calls_of(partial(ours.select, MODEL)),
                    "acquire": calls_of(partial(lease, ours)),
                },
                pairs,
            )
            beside = (("litellm", "select"), ("litellm, sync", "select"), ("litellm", "acquire"))
            for their, our in beside:
                what = f"{our}{' beside a sync pick' if their != 'litellm' else ''}, {strategy}, {n:,}"
                rows.append(row(what, "µs", 1e6, [(each[their], each[our]) for each in taken]))
    return rows


async def calls(sizes: Sequence[int], pairs: int) -> list[Row]:
    """Measures whole calls with a mocked answer."""
    litellm = import_module("litellm")

    async def send(lease: Any) -> object:
        return await litellm.acompletion(messages=MESSAGES, **lease.deployment.metadata)

    rows = []
    for n in sizes:
        theirs, ours, instead = litellm_router(n), turnout_router(n), litellm_router(n, module="turnout.integrations.litellm")
        times = 100 if n < MANY else 20
        taken = await by_turns(
            {
                "direct": await awaits_of(partial(litellm.acompletion, messages=MESSAGES, **PROVIDER), times),
                "litellm": await awaits_of(partial(theirs.acompletion, model=MODEL, messages=MESSAGES), times),
                "turnout": await awaits_of(partial(ours.call_async, MODEL, send), times),
                "instead": await awaits_of(partial(instead.acompletion, model=MODEL, messages=MESSAGES), times),
            },
            pairs,
        )
        for ours_of, how in (("turnout", ""), ("instead", " (in its place)")):
            pairs_of = [(each["litellm"], each[ours_of], each["direct"]) for each in taken]
            what = f"a mocked call{how}"
            rows.append(row(f"{what}, {n:,}", "µs", 1e6, [pair[:2] for pair in pairs_of]))
            beside = [(theirs / direct, ours / direct) for theirs, ours, direct in pairs_of]
            rows.append(row(f"{what}, beside a direct one, {n:,}", "×", 1, beside))
    return rows


def construction(sizes: Sequence[int], pairs: int) -> list[Row]:
    """Measures construction."""

    def seconds(make: Callable[[int], Any], n: int, times: int) -> float:
        gc.collect()
        began = time.process_time()
        for _ in range(times):
            make(n)
        return (time.process_time() - began) / times

    litellm_router(1), turnout_router(1)  # the first ones import what the imports left for later
    rows = []
    for n in sizes:
        taken = []
        times = max(1, 10 * MANY // n)
        for nth in range(pairs if n < MANY else min(pairs, 5)):
            if nth % 2:
                theirs, ours = seconds(litellm_router, n, 1), seconds(turnout_router, n, times)
            else:
                ours, theirs = seconds(turnout_router, n, times), seconds(litellm_router, n, 1)
            taken.append((theirs, ours))
        rows.append(row(f"construction, {n:,} deployments", "ms", 1e3, taken))
    return rows


TELL = """
import os, resource, time
{}
pages = int(open("/proc/self/statm").read().split()[1]) if os.path.exists("/proc/self/statm") else 0
print(time.process_time(), pages * resource.getpagesize())
"""


def imports(pairs: int) -> list[Row]:
    """Measures imports: CPU time and resident memory, each less those of an empty interpreter."""

    def child(statement: str) -> tuple[float, float]:
        done = subprocess.run([sys.executable, "-c", TELL.format(statement)], stdout=subprocess.PIPE, text=True, check=True)
        seconds, size = done.stdout.split()[-2:]
        return float(seconds), float(size)

    statements = ("from litellm import Router", "from turnout import Router", "")
    for statement in statements:
        child(statement)  # bytecode is written once
    cpu, memory = [], []
    for _ in range(pairs):
        theirs, ours, empty = (child(statement) for statement in statements)
        cpu.append((theirs[0] - empty[0], ours[0] - empty[0]))
        memory.append((theirs[1] - empty[1], ours[1] - empty[1]))
    rows = [row("import", "ms", 1e3, cpu)]
    return [*rows, row("import, resident memory", "MB", 1e-6, memory)] if memory[0][1] else rows


PARTS = ("picks", "calls", "construction", "imports")


def measure(parts: Sequence[str], sizes: Sequence[int], pairs: int) -> Iterator[Row]:
    """Yields the rows of some parts."""
    if "imports" in parts:
        yield from imports(pairs)
    if "construction" in parts:
        yield from construction(sizes, pairs)
    if "picks" in parts:
        yield from asyncio.run(picks(sizes, pairs))
    if "calls" in parts:
        yield from asyncio.run(calls(sizes, pairs))


def figure(value: float) -> str:
    """Writes a number with three digits or more.

    >>> figure(0.08671), figure(1234.5)
    ('0.0867', '1,234')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    """Measures, prints the table and writes the JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).resolve().parent.parent / "target" / "beside_litellm.json"
    parser.add_argument("--pairs", type=int, default=31, help="pairs of blocks a row (31); of large constructions at most 5")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, MANY], help="numbers of deployments (10 1000)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--json", type=Path, default=default, help="where the result goes as JSON")
    options = parser.parse_args()
    if not find_spec("litellm"):
        print("litellm is not installed, so turnout is not measured beside it (make bench-peers installs it)")
        return 0
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import asks the network for prices
    logging.disable(logging.CRITICAL)
    print(f"{'':<62}{'LiteLLM':>12}{'turnout':>12}{'':>4}{'ratio':>12}  95 % interval")
    rows = []
    for each in measure(options.only, options.sizes, options.pairs):
        rows.append(each)
        figures = f"{figure(each.litellm):>12}{figure(each.turnout):>12} {each.unit:<3}{figure(each.ratio):>12}"
        print(f"{each.what:<62}{figures}  {figure(each.low)} to {figure(each.high)}", flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([each._asdict() for each in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
