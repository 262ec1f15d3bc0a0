"""Measures what routing adds to the requests of an SDK: CPU time of the client's process.

    python benches/routed.py [--pairs 31] [--json FILE]

A server in a process of its own answers at once, with the headers of limits that OpenAI sends. Blocks of
requests by the plain SDK and by the routed one are run in turn, in this process, so that a change of the
clock rate meets both. Each pair of blocks gives a ratio. The table shows the median of the ratios and its 95
% interval by order statistics.

| budget | |
|---|---|
| a routed SDK call beside the plain SDK | at most 1.20; the goal is 1.10 |
| `router.call` beside `with router.acquire` | at most 3 |
| a body of 2 MB | adds less than 2 ms |

LiteLLM's Router is measured too where litellm is installed (`pip install -e '.[bench]'` in an environment of
its own). It is no budget.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
from turnout import Deployment, Endpoint, Router
from turnout.clients import AsyncOpenAI

MUST, GOAL = 1.20, 1.10
MOST_CALL = 3.0
MOST_ADDED = 0.002
HELLO = [{"role": "user", "content": "How much does the fish weigh? " * 70}]
EVENTS = 11

SERVER = """
import asyncio, json

usage = {"prompt_tokens": 600, "completion_tokens": 9, "total_tokens": 609}
answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": usage, "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It weighs nine pounds."}}]}
body = json.dumps(answer).encode()
limits = b"x-ratelimit-limit-requests: 10000\\r\\nx-ratelimit-remaining-requests: 9999\\r\\nx-ratelimit-reset-requests: 6ms\\r\\n"
limits += limits.replace(b"requests", b"tokens")
whole = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\n%scontent-length: %d\\r\\n\\r\\n" % (limits, len(body)) + body


def chunk(**more):
    said = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], **more}
    data = b"data: " + json.dumps(said).encode() + b"\\n\\n"
    return b"%x\\r\\n" % len(data) + data + b"\\r\\n"


def delta(content, reason=None):
    return chunk(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": reason}])


done = b"e\\r\\ndata: [DONE]\\n\\n\\r\\n0\\r\\n\\r\\n"
head = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\n%stransfer-encoding: chunked\\r\\n\\r\\n" % limits
deltas = [delta(f"word {nth} ") for nth in range(EVENTS - 1)] + [delta("", "stop")]


class Answers(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.read = transport, b""

    def data_received(self, data):
        self.read += data
        while True:
            end = self.read.find(b"\\r\\n\\r\\n")
            if end < 0:
                return
            at = self.read.lower().find(b"content-length:")
            length = int(self.read[at + 15 : self.read.index(b"\\r", at)])
            if len(self.read) < end + 4 + length:
                return
            asked, self.read = self.read[end + 4 : end + 4 + length], self.read[end + 4 + length :]
            asyncio.get_running_loop().create_task(self.answer(asked))

    async def answer(self, asked):
        if b'"stream":true' not in asked.replace(b" ", b""):
            return self.transport.write(whole)
        self.transport.write(head)
        for event in deltas:
            self.transport.write(event)
            await asyncio.sleep(0)  # each event in a packet of its own
        usage_too = chunk(usage=usage) if b"include_usage" in asked else b""
        self.transport.write(usage_too + done)


async def main():
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
"""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run the server in a process of its own.

    Yields:
        Its base URL.
    """
    program = SERVER.replace("EVENTS", str(EVENTS))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


Ask = Callable[[], Awaitable[object]]


def asks(client: Any, stream: bool, messages: Any = HELLO) -> Ask:
    """Return a function that makes one request and reads its answer."""

    async def whole() -> object:
        return await client.chat.completions.create(model="gpt-4o", messages=messages)

    async def streamed() -> object:
        chunks = [chunk async for chunk in await client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)]
        assert len(chunks) == EVENTS
        return chunks

    return streamed if stream else whole


async def block(ask: Ask, at_once: int, requests: int) -> float:
    """Return the CPU seconds that a request takes."""

    async def work() -> None:
        for _ in range(requests // at_once):
            await ask()

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return (time.process_time() - began) / (requests // at_once * at_once)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % interval by order statistics."""
    ratios, n = sorted(ratios), len(ratios)
    # The number of values below the median is binomial.
    cumulated, least = 0.0, 0
    for nth in range(n):
        cumulated += math.comb(n, nth) / 2**n
        if cumulated > 0.025:
            least = nth
            break
    return statistics.median(ratios), ratios[max(least - 1, 0)], ratios[min(n - least, n - 1)]


async def compare(plain: Ask, other: Ask, at_once: int, requests: int, pairs: int) -> tuple[list[float], float, float]:
    """Run blocks in turn. Return the ratios, and the medians of both in seconds."""
    for ask in (plain, other):
        await block(ask, at_once, requests)
    ratios, ours, theirs = [], [], []
    for nth in range(pairs):
        # The first of a pair may profit or suffer from what was before.
        order = (plain, other) if nth % 2 else (other, plain)
        took = {ask: await block(ask, at_once, requests) for ask in order}
        ratios.append(took[other] / took[plain])
        theirs.append(took[plain])
        ours.append(took[other])
    return ratios, statistics.median(theirs), statistics.median(ours)


def litellm_client(url: str) -> Any:
    """Return LiteLLM's Router with the interface of a client; None where litellm is not installed."""
    if importlib.util.find_spec("litellm") is None:
        return None
    import litellm

    params = {"model": "openai/gpt-4o", "api_base": url, "api_key": "any"}
    models = [{"model_name": "gpt-4o", "litellm_params": params, "model_info": {"id": str(nth)}} for nth in range(3)]
    router = litellm.Router(model_list=models, num_retries=0)

    class Completions:
        create = staticmethod(router.acompletion)

    class Chat:
        completions = Completions

    class Client:
        chat = Chat

    return Client


async def sdk(url: str, pairs: int) -> Iterator[dict[str, Any]]:
    """Measure requests of the SDK."""
    endpoint = Endpoint(url, api_key="any")
    router = Router([Deployment(str(nth), "gpt-4o", endpoint=endpoint) for nth in range(3)])
    plain = openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0)
    clients = {"turnout": AsyncOpenAI(router), "LiteLLM's Router": litellm_client(url)}
    rows = []
    for name, client in clients.items():
        if client is None:
            print(f"{name} is not installed, so it is left out")
            continue
        for stream in (False, True):
            for at_once in (1, 32):
                requests = 64 if name == "turnout" else 32
                if client is not clients["turnout"] and stream:
                    continue  # its chunks are others
                ratios, theirs, ours = await compare(asks(plain, stream), asks(client, stream), at_once, requests, pairs)
                median, low, high = interval(ratios)
                row = {"client": name, "stream": stream, "at_once": at_once, "ratio": median, "low": low, "high": high}
                rows.append({**row, "plain_us": theirs * 1e6, "us": ours * 1e6})
    large = [{"role": "user", "content": "A fish is a fish. " * 110_000}]
    took: dict[str, list[float]] = {"plain": [], "routed": []}
    for _ in range(pairs):
        for name, ask in (("plain", asks(plain, False, large)), ("routed", asks(clients["turnout"], False, large))):
            took[name].append(await block(ask, 1, 4))
    added = statistics.median(routed - plain for routed, plain in zip(took["routed"], took["plain"], strict=True))
    rows.append({"client": "2 MB", "added_ms": added * 1e3})
    await plain.close()
    await router.aclose()
    return iter(rows)


def call(pairs: int) -> dict[str, Any]:
    """Measure `router.call` beside `with router.acquire`."""
    router = Router([Deployment(str(nth), "m") for nth in range(3)])
    times = 20_000

    def send(lease: object) -> None:
        """Does nothing."""

    def calls() -> float:
        began = time.process_time()
        for _ in range(times):
            router.call("m", send)
        return time.process_time() - began

    def blocks() -> float:
        began = time.process_time()
        for _ in range(times):
            with router.acquire("m"):
                pass
        return time.process_time() - began

    ratios, took = [], []
    for nth in range(pairs):
        if nth % 2:
            ours, theirs = calls(), blocks()
        else:
            theirs, ours = blocks(), calls()
        ratios.append(ours / theirs)
        took.append(ours / times)
    median, low, high = interval(ratios)
    return {"client": "call", "ratio": median, "low": low, "high": high, "us": statistics.median(took) * 1e6}


def main() -> int:
    """Measure, print a table, and return 1 if a budget is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=31, help="pairs of blocks a cell (31)")
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    options = parser.parse_args()
    with server() as url:
        rows = list(asyncio.run(sdk(url, options.pairs)))
    rows.append(call(options.pairs))
    failed = []
    print(f"\n{'':44} ratio  95% interval   plain   other  (µs of CPU a request)")
    for row in rows:
        if row["client"] == "2 MB":
            print(f"a body of 2 MB: {row['added_ms']:.2f} ms more than the plain SDK")
            if row["added_ms"] > MOST_ADDED * 1e3:
                failed.append("a body of 2 MB adds too much")
            continue
        if row["client"] == "call":
            name, most = "router.call beside with router.acquire", MOST_CALL
        else:
            name = f"{row['client']}, {'stream' if row['stream'] else 'JSON'}, {row['at_once']} at once"
            most = MUST if row["client"] == "turnout" else math.inf
        plain = f"{row['plain_us']:8.0f}" if "plain_us" in row else " " * 8
        print(f"{name:44} {row['ratio']:.3f}  {row['low']:.3f} to {row['high']:.3f} {plain} {row['us']:7.1f}")
        if row["ratio"] > most:
            failed.append(f"{name}: {row['ratio']:.3f} is over {most}")
    for said in failed:
        print(f"over the budget: {said}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
