"""Route real HTTP requests over four unlike providers, and show where they went.

The providers are fakes on loopback (see ``servers.py``); everything else is as in a real service: the
``openai`` async client, one lease for every attempt, and another attempt elsewhere when one fails. Run it
with ``python examples/demo.py``, or ``--help`` for the options.
"""

import argparse
import asyncio
import csv
import gzip
import importlib
import io
import math
import random
import sys
import time
import timeit
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import openai
import turnout
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from servers import PROVIDERS, ProvidersError, running_providers
from turnout import Deployment, Health, NoAvailableDeployment, Router, RouterError, Status, Strategy

MODEL = "demo-model"
MAX_ATTEMPTS = 4
# How long one request waits for a deployment, all its waits together, before it counts as failed.
PATIENCE = 30.0
# A wait is at most this long: a place may come free before the time that the router can foresee.
LONGEST_WAIT = 0.25
SHORTEST_WAIT = 0.02
# What the generated requests allow an answer; most answers are shorter, so that settling gives tokens back.
MAX_OUTPUT_TOKENS = 256
# More than any model takes: a larger number in a trace is a mistake in the file.
MAX_TRACE_TOKENS = 10_000_000
TRACE_COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")


# === the requests ===


class Request(NamedTuple):
    """One request to send.

    Attributes:
        arrival: Seconds after the start before which it is not sent.
        prompt_tokens: The size of its prompt.
        output_tokens: The size of its answer.
        max_tokens: The longest answer that it allows; with the prompt, what is reserved.
    """

    arrival: float
    prompt_tokens: int
    output_tokens: int
    max_tokens: int


class TraceError(Exception):
    """A trace cannot be used. The message names the file, and the line if there is one."""


def generated_requests(number: int, seed: int) -> list[Request]:
    """Draw requests that are all there at the start, so that the concurrency alone sets the pace."""
    rng = random.Random(seed)
    return [
        Request(
            arrival=0.0,
            prompt_tokens=1 + int(rng.lognormvariate(math.log(300), 0.8)),
            output_tokens=min(1 + int(rng.expovariate(1 / 80)), MAX_OUTPUT_TOKENS),
            max_tokens=MAX_OUTPUT_TOKENS,
        )
        for _ in range(number)
    ]


def traced_requests(path: Path, number: int, duration: float) -> list[Request]:
    """Take the first requests of a trace, with their arrivals compressed (or stretched) to ``duration``
    seconds.

    Args:
        path: A CSV file, plain or gzipped, with the columns ``arrival_s``, ``prompt_tokens`` and
            ``output_tokens``.
        number: How many requests at most.
        duration: Seconds from the first arrival to the last.

    Raises:
        TraceError: The file cannot be read, lacks a column, has a bad row or no row at all.
    """
    rows = sorted(_trace_rows(path), key=lambda row: row[0])[:number]
    if not rows:
        raise TraceError(f"{path}: no requests in it")
    first, last = rows[0][0], rows[-1][0]
    scale = duration / (last - first) if last > first else 0.0
    return [
        Request((arrival - first) * scale, prompt_tokens, output_tokens, max_tokens=max(output_tokens, 1))
        for arrival, prompt_tokens, output_tokens in rows
    ]


def _trace_rows(path: Path) -> Iterator[tuple[float, int, int]]:
    try:
        with path.open("rb") as file:
            # Peeking, unlike opening it twice, works on a pipe too.
            content = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
            reader = csv.DictReader(io.TextIOWrapper(content, encoding="utf-8-sig", newline=""), restval="")
            missing = [column for column in TRACE_COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise TraceError(f"{path}:1: no column {', '.join(missing)}; a trace has {', '.join(TRACE_COLUMNS)}")
            for row in reader:
                try:
                    arrival = _arrival(row["arrival_s"])
                    prompt_tokens, output_tokens = (_tokens(row[column], column) for column in ("prompt_tokens", "output_tokens"))
                except ValueError as fault:
                    raise TraceError(f"{path}:{reader.line_num}: {fault}") from None
                yield arrival, prompt_tokens, output_tokens
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as fault:
        raise TraceError(f"{path}: cannot be read: {fault}") from fault


def _arrival(text: str) -> float:
    with suppress(ValueError):
        if 0.0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise ValueError(f"arrival_s must be a number of seconds of at least 0, not {text!r}")


def _tokens(text: str, column: str) -> int:
    with suppress(ValueError):
        if 0 <= (tokens := int(text)) <= MAX_TRACE_TOKENS:
            return tokens
    raise ValueError(f"{column} must be a whole number from 0 to {MAX_TRACE_TOKENS:,}, not {text!r}")


# === the run ===


@dataclass
class Tally:
    """What became of the attempts on one deployment."""

    latencies: list[float] = field(default_factory=list)
    rate_limited: int = 0
    failures: int = 0
    cooldowns: int = 0
    cooldown_end: float = 0.0


class Client:
    """Sends requests to whichever deployment the router picks, and keeps the tallies.

    Attributes:
        tallies: One tally a deployment, by its id.
        failed: Requests given up.
        explanation: What the router said of a pick when the first deployment was cooling down; None if none
            ever was.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._rng = random.Random()
        self._apis = {deployment.deployment_id: _api(deployment.metadata["base_url"]) for deployment in router.deployments(MODEL)}
        self.tallies = {deployment.deployment_id: Tally() for deployment in router.deployments(MODEL)}
        self.failed = 0
        self.explanation: str | None = None

    async def run(self, requests: Sequence[Request], concurrency: int, on_done: Callable[[], None]) -> None:
        """Send every request, at its arrival or as soon after it as the concurrency allows.

        Args:
            requests: What to send, by arrival.
            concurrency: How many may be under way at once.
            on_done: Called after each request.
        """
        # All workers draw from this one iterator, each as soon as it is free.
        queue = iter(requests)
        start = time.perf_counter()

        async def work() -> None:
            for request in queue:
                early = start + request.arrival - time.perf_counter()
                if early > 0.0:
                    await asyncio.sleep(early)
                if not await self._send(request):
                    self.failed += 1
                on_done()

        async with AsyncExitStack() as stack:
            for api in self._apis.values():
                await stack.enter_async_context(api)
            await asyncio.gather(*(work() for _ in range(min(concurrency, len(requests)))))

    async def _send(self, request: Request) -> bool:
        """Try until an attempt succeeds, on a deployment not tried before if there is one. Return whether one
        did.
        """
        attempts, tried = 0, set[str]()
        deadline = time.perf_counter() + PATIENCE
        while attempts < MAX_ATTEMPTS and time.perf_counter() < deadline:
            try:
                with self._router.acquire(MODEL, tokens=request.prompt_tokens + request.max_tokens, exclude=tried) as lease:
                    attempts += 1
                    tried.add(lease.deployment_id)
                    started = time.perf_counter()
                    tokens = await self._complete(lease.deployment, request)
                    self.tallies[lease.deployment_id].latencies.append(time.perf_counter() - started)
                    lease.success(tokens=tokens)
                return True
            except NoAvailableDeployment as refusal:
                # Those tried may have recovered by the time that this request goes on.
                tried.clear()
                wait = LONGEST_WAIT if refusal.retry_after is None else refusal.retry_after
                await asyncio.sleep(self._rng.uniform(0.5, 1.0) * min(max(wait, SHORTEST_WAIT), LONGEST_WAIT))
            except openai.APIError as error:
                # Leaving the block has reported the failure, with the kind and the Retry-After of the error.
                self._note_failure(lease.deployment_id, error)
        return False

    async def _complete(self, deployment: Deployment, request: Request) -> int | None:
        """Send one request to one deployment, and return the tokens that it says it used."""
        reply = await self._apis[deployment.deployment_id].chat.completions.create(
            model=deployment.model,
            messages=[{"role": "user", "content": "Which way?"}],
            max_tokens=request.max_tokens,
            metadata={"prompt_tokens": str(request.prompt_tokens), "output_tokens": str(request.output_tokens)},
        )
        return reply.usage.total_tokens if reply.usage is not None else None

    def _note_failure(self, deployment_id: str, error: openai.APIError) -> None:
        tally = self.tallies[deployment_id]
        if isinstance(error, openai.RateLimitError):
            tally.rate_limited += 1
        else:
            tally.failures += 1
        stats = self._router.stats(deployment_id)
        if stats.status is not Status.COOLING_DOWN:
            return
        # Requests that were under way together fail together: a cooldown is a new one only if the last one
        # seen is over.
        now = time.perf_counter()
        if now >= tally.cooldown_end:
            tally.cooldowns += 1
        tally.cooldown_end = now + stats.cooldown_remaining
        if self.explanation is None:
            self.explanation = str(self._router.explain(MODEL))


def _api(base_url: str) -> openai.AsyncOpenAI:
    # Retries are the router's business; and no proxy of the environment is to stand between the client and
    # loopback.
    http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=base_url, api_key="not needed", max_retries=0, timeout=15.0, http_client=http_client)


def build_router(base_urls: dict[str, str], strategy: Strategy, seed: int) -> Router:
    """Make a router that knows of every provider what its customers are told."""
    return Router(
        [
            Deployment(
                provider.name,
                MODEL,
                priority=provider.priority,
                rpm_limit=provider.rpm_limit,
                tpm_limit=provider.tpm_limit,
                max_parallel_requests=provider.max_parallel,
                metadata={"base_url": base_urls[provider.name]},
            )
            for provider in PROVIDERS
        ],
        strategy=strategy,
        health=Health(cooldown_time=1.0),
        seed=seed,
    )


# === the cost of a pick ===


def pick_costs(strategy: Strategy, seed: int) -> list[tuple[str, float, float]]:
    """Time picks among ten deployments without limits, here and in the pure-Python twin.

    Returns:
        What was timed, and the seconds that it takes in each.
    """
    sys.path.append(str(Path(__file__).resolve().parent.parent / "benches"))
    twin = importlib.import_module("pure_python")
    names = [f"deployment-{number}" for number in range(10)]
    native = Router([Deployment(name, MODEL) for name in names], strategy=strategy, seed=seed)
    pure = twin.PurePythonRouter([twin.Deployment(name, MODEL) for name in names], strategy=str(strategy), seed=seed)
    statements = {"select": "router.select(model)", "acquire and release": "router.acquire(model).release()"}
    return [(title, _seconds(statement, native), _seconds(statement, pure)) for title, statement in statements.items()]


def _seconds(statement: str, router: object) -> float:
    # Takes 0.2 to 0.5 s.
    number, seconds = timeit.Timer(statement, globals={"router": router, "model": MODEL}).autorange()
    return seconds / number


# === what is shown ===


@contextmanager
def progress(console: Console, total: int, note: Callable[[], str], *, bar: bool) -> Iterator[Callable[[], None]]:
    """Show how far the run has come: a bar, or a plain line for every tenth.

    Yields:
        What to call after each request.
    """
    done = 0
    if bar:
        columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, console=console) as display:
            task = display.add_task("", total=total, note=note())
            yield lambda: display.update(task, advance=1, note=note())
        return

    def line() -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            console.print(f"{done:,} of {total:,} done; {note()}")

    yield line


def deployment_table(router: Router, tallies: dict[str, Tally]) -> Table:
    """Lay out one row a deployment."""
    # Broken headings keep it within 80 columns.
    table = Table(box=SIMPLE_HEAD)
    table.add_column("\ndeployment", no_wrap=True)
    for heading in ("\nserved", "\nshare", "p50\nms", "p99\nms", "\n429s", "\nfailures", "cool-\ndowns", "in\nflight"):
        table.add_column(heading, justify="right", no_wrap=True)
    total = sum(len(tally.latencies) for tally in tallies.values())
    for deployment_id, tally in tallies.items():
        latencies = sorted(tally.latencies)
        table.add_row(
            deployment_id,
            f"{len(latencies):,}",
            f"{len(latencies) / max(total, 1):.1%}",
            _milliseconds(latencies, 0.50),
            _milliseconds(latencies, 0.99),
            str(tally.rate_limited),
            str(tally.failures),
            str(tally.cooldowns),
            str(router.stats(deployment_id).in_flight),
        )
    return table


def _milliseconds(ordered: list[float], quantile: float) -> str:
    return f"{ordered[math.ceil(quantile * len(ordered)) - 1] * 1e3:,.0f}" if ordered else "-"


def cost_table(costs: list[tuple[str, float, float]]) -> Table:
    """Lay out one row a kind of pick."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("a pick among 10")
    for heading in ("turnout", "pure Python", "times"):
        table.add_column(heading, justify="right")
    for title, native, pure in costs:
        table.add_row(title, f"{native * 1e9:,.0f} ns", f"{pure * 1e9:,.0f} ns", f"{pure / native:.1f}")
    return table


# === the command ===


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; a mistake in it ends the program with a message."""
    parser = argparse.ArgumentParser(description="Route real HTTP requests over four unlike fake providers.")
    strategies = [str(strategy) for strategy in Strategy]
    parser.add_argument(
        "--strategy",
        choices=strategies,
        default="least_busy",
        metavar="NAME",
        help=f"one of {', '.join(strategies)}; default: %(default)s",
    )
    parser.add_argument("--requests", type=_positive, default=2_000, metavar="N", help="how many to send; default: %(default)s")
    parser.add_argument("--concurrency", type=_positive, default=64, metavar="N", help="most at once; default: %(default)s")
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="of the sizes, noise and picks; default: %(default)s")
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="take arrivals and sizes from a CSV file, plain or gzipped, with the columns " + ", ".join(TRACE_COLUMNS),
    )
    parser.add_argument(
        "--duration", type=_duration, default=20.0, metavar="S", help="seconds a trace is compressed to; default: %(default)s"
    )
    parser.add_argument("--no-progress", action="store_true", help="plain lines instead of a bar, as when not on a terminal")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    return _integer(text, lowest=1)


def _seed(text: str) -> int:
    return _integer(text, lowest=0)


def _integer(text: str, lowest: int) -> int:
    if not text.isdecimal() or int(text) < lowest:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {lowest}, not {text!r}")
    return int(text)


def _duration(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def demonstrate(options: argparse.Namespace, console: Console) -> int:
    """Run the demo and show its results.

    Returns:
        The exit status: 0, or 1 if a reservation was not given back.

    Raises:
        TraceError: See :func:`traced_requests`.
        ProvidersError: The fake providers failed.
    """
    if options.trace is None:
        requests = generated_requests(options.requests, options.seed)
    else:
        requests = traced_requests(options.trace, options.requests, options.duration)
    strategy = Strategy(options.strategy)

    total = len(requests)
    console.print(f"turnout {turnout.__version__}, {strategy}: {total:,} requests, at most {options.concurrency} at once, to")
    for provider in PROVIDERS:
        console.print(f"  {provider.name:<8}{provider.about}")
    with running_providers(total, options.seed) as base_urls:
        router = build_router(base_urls, strategy, options.seed)
        client = Client(router)

        def note() -> str:
            tallies = client.tallies.values()
            return f"{sum(tally.rate_limited for tally in tallies)} 429s, {sum(tally.failures for tally in tallies)} failures"

        bar = console.is_terminal and not options.no_progress
        started, first_minute = time.perf_counter(), time.time() // 60
        with progress(console, total, note, bar=bar) as on_done:
            asyncio.run(client.run(requests, options.concurrency, on_done))
        seconds, last_minute = time.perf_counter() - started, time.time() // 60

    console.print(deployment_table(router, client.tallies))
    console.print(f"{total:,} requests in {seconds:.1f} s, {total / seconds:.0f} a second; {client.failed} failed in the end")
    if last_minute > first_minute:
        console.print("The run reached into a new clock minute, in which the limits a minute start afresh.")
    console.print(cost_table(pick_costs(strategy, options.seed)))
    if client.explanation is not None:
        console.print("When the first cooldown had begun, router.explain() said:")
        console.print(client.explanation, soft_wrap=True)

    in_flight = router.metrics().in_flight
    if in_flight:
        console.print(f"{in_flight} requests are still in flight: their leases have leaked")
    return 1 if in_flight else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse_arguments(arguments)
    try:
        return demonstrate(options, Console(highlight=False, markup=False))
    except (TraceError, ProvidersError, RouterError) as fault:
        print(f"demo: {fault}", file=sys.stderr)
        return 2 if isinstance(fault, TraceError) else 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
