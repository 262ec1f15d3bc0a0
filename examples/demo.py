"""Send requests with the openai SDK over four unlike providers, and show what became of each attempt.

The providers are scripted ones on loopback. One is slow to its first token, one cuts streams, one refuses
many requests, and one is well. A fifth serves a smaller model, to which requests turn when the others are
full. Everything else is as in a real service: the SDK's own client, one line that routes it, and no loop for
retries.

    python examples/demo.py [--requests 600] [--at-once 32] [--seed 1]
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import openai
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from turnout import AttemptRecord, Deployment, Endpoint, Fallbacks, Health, Retry, Router, Timeouts
from turnout.clients import AsyncOpenAI
from turnout.testing import Provider, ReceivedRequest, Reply

MODEL, SMALLER = "large", "small"
ANSWER = "All aboard: this train goes down the right line."
FIRST_TOKEN = 0.6  # seconds after which another deployment is tried


def providers(chance: random.Random) -> dict[str, Callable[[ReceivedRequest], Reply]]:
    """Return the providers by name, each with what it answers."""

    def answer() -> Reply:
        return Reply.text(ANSWER).delay(head=chance.uniform(0.01, 0.03), between=0.002)

    def slow(request: ReceivedRequest) -> Reply:
        if request.stream and chance.random() < 0.3:
            return Reply.text(ANSWER).delay(first_event=3.0, trickle=0.05)
        return answer()

    def cuts(request: ReceivedRequest) -> Reply:
        draw = chance.random()
        if draw < 0.2:
            return Reply.text(ANSWER).drop(after="request")
        return answer().truncate(after=4) if request.stream and draw < 0.3 else answer()

    def refuses(request: ReceivedRequest) -> Reply:
        return Reply.error(429, retry_after_ms=200) if chance.random() < 0.4 else answer()

    def well(request: ReceivedRequest) -> Reply:
        return answer()

    return {"slow": slow, "cuts": cuts, "refuses": refuses, "well": well, SMALLER: well}


@dataclass
class Outcomes:
    """What became of the requests and of their attempts."""

    served: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    lost: list[BaseException] = field(default_factory=list)
    attempts: dict[str, list[AttemptRecord]] = field(default_factory=lambda: defaultdict(list))

    def note(self, record: AttemptRecord) -> None:
        """Take down an attempt."""
        self.attempts[record.deployment_id].append(record)


async def ask(client: openai.AsyncOpenAI, stream: bool, outcomes: Outcomes) -> None:
    """Send one request, as any program would."""
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Which line is mine?"}]
    read = ""
    try:
        if stream:
            async for chunk in await client.chat.completions.create(model=MODEL, messages=messages, stream=True):
                read += chunk.choices[0].delta.content or ""
        else:
            reply = await client.chat.completions.create(model=MODEL, messages=messages)
            read = reply.choices[0].message.content or ""
        assert read == ANSWER, read
        outcomes.served["stream" if stream else "plain"] += 1
    except Exception as error:
        # What has begun to arrive cannot be taken back. Everything else could have been served elsewhere.
        if read:
            outcomes.cut += 1
        else:
            outcomes.lost.append(error)


async def run(router: Router, requests: int, at_once: int, chance: random.Random, outcomes: Outcomes) -> None:
    """Send all requests, some at once."""
    streams = [chance.random() < 0.7 for _ in range(requests)]
    with Progress(TextColumn("requests"), BarColumn(), MofNCompleteColumn(), transient=True) as progress:
        task = progress.add_task("requests", total=requests)

        async def work(client: openai.AsyncOpenAI) -> None:
            while streams:
                await ask(client, streams.pop(), outcomes)
                progress.advance(task)

        async with router, AsyncOpenAI(router) as client:
            await asyncio.gather(*(work(client) for _ in range(at_once)))


def table(outcomes: Outcomes, router: Router) -> Table:
    """Return a table of the attempts: a row for each deployment."""
    kinds = sorted({str(record.kind) for records in outcomes.attempts.values() for record in records if record.kind is not None})
    made = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        title="attempts, and the median time to the first token",
    )
    for column in ("deployment", "model", "attempts", "ok", *kinds, "first token"):
        made.add_column(column, justify="left" if column in ("deployment", "model") else "right", no_wrap=True)
    for name in [deployment.deployment_id for deployment in router.deployments()]:
        records = outcomes.attempts[name]
        counts = Counter(str(record.kind) for record in records)
        first = [record.first_token for record in records if record.first_token is not None]
        median = f"{statistics.median(first) * 1000:.0f} ms" if first else "–"
        said = [str(counts[kind]) if counts[kind] else "–" for kind in ("None", *kinds)]
        made.add_row(name, router.stats(name).model_name, str(len(records)), *said, median)
    return made


def main() -> int:
    """Run the demo. Return 1 if a request was lost that another deployment could have served."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=600, help="how many requests are sent (600)")
    parser.add_argument("--at-once", type=int, default=32, help="how many of them at once (32)")
    parser.add_argument("--seed", type=int, default=1, help="what makes the faults repeatable (1)")
    options = parser.parse_args()
    if options.requests < 1 or options.at_once < 1:
        parser.error("--requests and --at-once must be at least 1")
    chance, outcomes, console = random.Random(options.seed), Outcomes(), Console()
    with ExitStack() as stack:
        deployments = []
        for name, answers in providers(chance).items():
            provider = stack.enter_context(Provider())
            provider.always(answers)
            model_name = SMALLER if name == SMALLER else MODEL
            endpoint = Endpoint(provider.base_url, api_key=f"key-of-{name}")
            places = None if name == SMALLER else 7
            deployments.append(Deployment(name, model_name, model=f"{name}-1", endpoint=endpoint, max_parallel_requests=places))
        router = Router(
            deployments,
            strategy="least_busy",
            health=Health(cooldown_time=0.5, max_cooldown=1.0),
            retry=Retry(attempts=4, budget=None),  # the faults of this demo are far above what a budget is for
            fallbacks=Fallbacks({MODEL: [SMALLER]}),
            timeouts=Timeouts(total=30.0, first_token=FIRST_TOKEN),
        )
        router.on_attempt(outcomes.note)
        began = time.perf_counter()
        asyncio.run(run(router, options.requests, options.at_once, chance, outcomes))
        took = time.perf_counter() - began
        console.print(table(outcomes, router))
        metrics = router.metrics()
    console.print(
        f"{options.requests} requests in {took:.1f} s, {metrics.attempts} attempts: {metrics.retries} retries, "
        f"{metrics.fallbacks} turned to {SMALLER!r}; in flight now: {metrics.in_flight}"
    )
    console.print(
        f"{outcomes.served['stream']} streams and {outcomes.served['plain']} plain answers served whole; {outcomes.cut} streams "
        f"were cut after they had begun, and raised; {len(outcomes.lost)} requests lost"
    )
    for error in outcomes.lost[:3]:
        console.print(f"lost: {error!r} {getattr(error, '__notes__', '')}", style="red")
    return 1 if outcomes.lost or metrics.in_flight else 0


if __name__ == "__main__":
    sys.exit(main())
