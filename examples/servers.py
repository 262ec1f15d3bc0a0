"""Four fake LLM providers: real HTTP on loopback, in the shape of OpenAI's chat completions.

They differ in speed and in limits, one keeps a limit that nobody is told about, and one breaks for a while.
They run in one child process, so that they do not share an event loop with the client, and stop as soon as
their standard input closes: the child cannot outlive its parent.

The sizes that a request simulates come in its ``metadata``: ``prompt_tokens`` and ``output_tokens``, as
strings.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Provider:
    """The facts of one provider.

    Attributes:
        name: What it is called.
        about: One line for people.
        base_latency: Seconds that an empty request takes.
        max_parallel: Most requests at once.
        priority: Rank among the providers, lower first.
        rpm_limit: Most requests in a clock minute; None for no limit.
        tpm_limit: Most tokens in a clock minute; None for no limit.
        hidden_rps_limit: Most requests in a second, which its customers are not told; None for no limit.
        outage: The part of the run in which it answers 500, in shares of the requests expected; None for
            never.
    """

    name: str
    about: str
    base_latency: float
    max_parallel: int
    priority: int
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    hidden_rps_limit: int | None = None
    outage: tuple[float, float] | None = None


PROVIDERS = (
    Provider("swift", "fast, 600 requests a minute", 0.16, 32, 1, rpm_limit=600),
    Provider("steady", "slow, 300,000 tokens a minute", 0.45, 32, 3, tpm_limit=300_000),
    Provider("tight", "middling, an undisclosed limit of 30 requests a second", 0.3, 24, 2, hidden_rps_limit=30),
    Provider("flaky", "fast, answers 500 for a quarter of the run", 0.2, 24, 0, outage=(0.3, 0.55)),
)

# Seconds for each token. Far quicker than a real model, so that a minute's traffic fits into a demo.
PROMPT_TOKEN_TIME = 0.000_005
OUTPUT_TOKEN_TIME = 0.000_2
# The longest answer of a trace must not outlast the demo, nor the client's timeout.
MAX_SERVICE_TIME = 4.0


# === the parent's side ===


class ProvidersError(Exception):
    """The fake providers did not start, or ended too early."""


@contextmanager
def running_providers(expected: int, seed: int) -> Iterator[dict[str, str]]:
    """Run the providers in a child process.

    Args:
        expected: How many requests the run has, which sets when the outage begins and ends.
        seed: Makes the noise in the latencies repeatable.

    Yields:
        The base URL of every provider, by name.

    Raises:
        ProvidersError: The child did not start, or ended before it was told to. Its own message is on
            standard error.
    """
    # In a session of its own the child does not get the terminal's Ctrl-C, and serves until the client has
    # ended its requests.
    child = subprocess.Popen(
        [sys.executable, __file__, str(expected), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with child:
        try:
            assert child.stdout is not None  # it is a pipe
            ready = child.stdout.readline()
            if not ready:
                raise ProvidersError(f"the fake providers did not start ({Path(__file__).name} ended with status {child.wait()})")
            yield json.loads(ready)
            if child.poll() is not None:
                raise ProvidersError(f"the fake providers ended during the run, with status {child.returncode}")
        finally:
            try:
                child.communicate(timeout=5.0)  # closes its standard input
            except subprocess.TimeoutExpired:
                child.kill()


# === the child's side ===


class Window:
    """An amount of units in each fixed window of the wall clock: how most providers count."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._number = 0
        self._spent = 0

    def wait(self, units: int) -> float:
        """Return the seconds until ``units`` may fit: 0.0 if they do now."""
        now = time.time()
        number = int(now // self._seconds)
        if number != self._number:
            self._number, self._spent = number, 0
        return 0.0 if self._spent + units <= self._limit else (number + 1) * self._seconds - now

    def spend(self, units: int) -> int:
        """Count ``units`` in the current window, and return its number."""
        self._spent += units
        return self._number

    def give_back(self, number: int, units: int) -> None:
        """Take back ``units`` from a window, unless it is over."""
        if number == self._number:
            self._spent -= units


@dataclass
class Run:
    """How far the run has come: the requests expected and those that have arrived at any provider."""

    expected: int
    arrived: int = 0


class FakeProvider:
    """Serves one provider's ``POST /v1/chat/completions``."""

    def __init__(self, provider: Provider, run: Run, seed: int) -> None:
        self._provider = provider
        self._run = run
        self._noise = random.Random(f"{provider.name} {seed}")
        self._in_flight = 0
        self._requests = [
            Window(limit, seconds)
            for limit, seconds in ((provider.rpm_limit, 60.0), (provider.hidden_rps_limit, 1.0))
            if limit is not None
        ]
        self._tokens = Window(sys.maxsize if provider.tpm_limit is None else provider.tpm_limit, 60.0)

    def application(self) -> web.Application:
        """Return the web application, ready to serve."""
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._complete)
        return application

    async def _complete(self, request: web.Request) -> web.Response:
        self._run.arrived += 1
        try:
            body = await request.json()
            prompt_tokens = int(body["metadata"]["prompt_tokens"])
            max_tokens = int(body["max_tokens"])
            output_tokens = min(int(body["metadata"]["output_tokens"]), max_tokens)
        except ConnectionError:
            return web.Response(status=400)  # nobody is there to read it
        except (ValueError, TypeError, KeyError) as fault:
            return _error(400, "invalid_request_error", f"The request is not one that this fake provider understands: {fault!r}")
        if self._is_broken():
            return _error(500, "server_error", "The server had an error while processing your request.")

        reserved = prompt_tokens + max_tokens
        wait = self._wait(reserved)
        if wait > 0.0:
            return _error(429, "rate_limit_error", f"Rate limit reached. Try again in {wait:.3f} s.", retry_after=wait)
        for window in self._requests:
            window.spend(1)
        number = self._tokens.spend(reserved)

        self._in_flight += 1
        try:
            await asyncio.sleep(self._service_time(prompt_tokens, output_tokens))
        finally:
            self._in_flight -= 1
            self._tokens.give_back(number, max_tokens - output_tokens)
        return web.json_response(_completion(body.get("model"), prompt_tokens, output_tokens, output_tokens == max_tokens))

    def _is_broken(self) -> bool:
        if self._provider.outage is None:
            return False
        begin, end = self._provider.outage
        return begin <= self._run.arrived / self._run.expected < end

    def _wait(self, tokens: int) -> float:
        if self._in_flight >= self._provider.max_parallel:
            return self._provider.base_latency
        return max(self._tokens.wait(tokens), *(window.wait(1) for window in self._requests), 0.0)

    def _service_time(self, prompt_tokens: int, output_tokens: int) -> float:
        seconds = self._provider.base_latency + prompt_tokens * PROMPT_TOKEN_TIME + output_tokens * OUTPUT_TOKEN_TIME
        return min(seconds * self._noise.lognormvariate(0.0, 0.2), MAX_SERVICE_TIME)


def _completion(model: object, prompt_tokens: int, output_tokens: int, cut_off: bool) -> dict[str, Any]:
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "All aboard."},
                "finish_reason": "length" if cut_off else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
        },
    }


def _error(status: int, kind: str, message: str, *, retry_after: float | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:.3f}"}
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return web.json_response(body, status=status, headers=headers)


async def serve(expected: int, seed: int) -> None:
    """Serve every provider, print their base URLs as one line of JSON, and stop when standard input
    closes.
    """
    run = Run(expected)
    runners = [
        web.AppRunner(FakeProvider(provider, run, seed).application(), access_log=None, shutdown_timeout=0.5)
        for provider in PROVIDERS
    ]
    try:
        for runner in runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls = {
            provider.name: "http://{}:{}/v1".format(*runner.addresses[0])
            for provider, runner in zip(PROVIDERS, runners, strict=True)
        }
        print(json.dumps(urls), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        for runner in runners:
            await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(expected=int(sys.argv[1]), seed=int(sys.argv[2])))
