"""Ten thousand streams, of which most are not read to their end: nothing is left of them."""

import asyncio
import gc
import importlib.util
import os
import random
import time
import warnings
from collections import Counter
from typing import Any

import pytest
from turnout import Deployment, Endpoint, FailureKind, Health, Retry, Router, Timeouts
from turnout.testing import Provider, Reply

STREAMS = 10_000
AT_ONCE = 64
SECONDS = 60.0

# In each ten: four are read to their end, three are left, two are cancelled, one is cut by its provider.
FATES = ("finished",) * 4 + ("left",) * 3 + ("cancelled",) * 2 + ("cut",)

# Too long to be over before its reader is.
LONG = Reply.text(" ".join(["word"] * 100), input_tokens=7).delay(between=0.002)


def reply_to(request: Any) -> Reply:
    """The request says what it wants."""
    fate, number = request.json["user"].split()
    if fate == "finished":
        return Reply.text("All aboard.", input_tokens=10 + int(number) % 97, output_tokens=1 + int(number) % 89)
    if fate == "cut":
        # Some are cut before their first event. They are tried elsewhere, and are cut there too.
        return Reply.text("one two three four").drop(after=int(number) // 10 % 4)
    return LONG


def tokens_of(request: Any) -> int:
    """The tokens that a provider counts for a stream that it has finished."""
    content: Any = reply_to(request).content
    return int(content.input_tokens + content.output)


@pytest.mark.skipif(importlib.util.find_spec("httpx2") is None, reason="httpx2 is not installed: make test-clients")
def test_nothing_is_left_of_ten_thousand_streams() -> None:
    import httpx2
    import turnout.httpx2

    seed = int(os.environ.get("TURNOUT_SEED", "0"))
    rng = random.Random(seed)
    fates = [f"{FATES[nth % len(FATES)]} {nth}" for nth in range(STREAMS)]
    rng.shuffle(fates)
    with Provider() as a, Provider() as b:
        for provider in (a, b):
            provider.always(reply_to)
        # Those that are read to their end have a model name of their own, so that their tokens are counted.
        router = Router(
            [
                Deployment(f"{id_}-{name}", name, tpm_limit=10**9, endpoint=Endpoint(provider.base_url, api_key="k"))
                for name in ("finished", "other")
                for id_, provider in (("a", a), ("b", b))
            ],
            # Neither cooldowns nor the budget may keep a stream from being sent.
            health=Health(consecutive_failures=None, failure_rate=None),
            retry=Retry(budget=None),
            timeouts=Timeouts(attempt=30.0),
            seed=seed,
        )
        ended: Counter[str] = Counter()
        kinds: Counter[FailureKind | None] = Counter()
        router.on_attempt(lambda record: kinds.update([record.kind]))

        async def read(client: Any, fate: str) -> None:
            name = fate.split()[0]
            model = "finished" if name == "finished" else "other"
            body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": True, "user": fate}
            async with client.stream("POST", "/chat/completions", json=body) as answer:
                assert answer.status_code == 200
                chunks = 0
                async for _ in answer.aiter_raw():
                    chunks += 1
                    if name == "left" and chunks == 2:
                        ended["left"] += 1
                        return
            ended["finished"] += 1

        async def one(client: Any, fate: str) -> None:
            if fate.startswith("cancelled"):
                # At any stage: before it is sent, without an answer, or amid the answer.
                task = asyncio.create_task(read(client, fate))
                await asyncio.sleep(rng.random() * 0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                ended["cancelled"] += 1
                return
            try:
                await read(client, fate)
            except httpx2.TransportError:
                assert fate.startswith("cut")
                ended["cut"] += 1

        async def main() -> None:
            left = iter(fates)

            async def work(client: Any) -> None:
                for fate in left:
                    await one(client, fate)

            async with turnout.httpx2.AsyncClient(router) as client:
                await asyncio.gather(*(work(client) for _ in range(AT_ONCE)))
                assert router.metrics().in_flight == 0
                assert len(asyncio.all_tasks()) == 1
                # What was left is closed, and what is kept is no more than what was used at once.
                await settle(lambda: max(a.connections, b.connections) <= AT_ONCE)
                await settle(lambda: all(request.ending is not None for request in a.requests + b.requests))
            await settle(lambda: a.connections == b.connections == 0)

        began = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            asyncio.run(main())
            gc.collect()
        took = time.monotonic() - began
        assert [str(one.message) for one in warned] == []

        wanted = Counter(fate.split()[0] for fate in fates)
        assert ended == wanted
        metrics = router.metrics()
        assert (metrics.in_flight, metrics.total_successes) == (0, wanted["finished"])
        assert kinds[None] == wanted["finished"]
        assert set(kinds) == {None, FailureKind.CANCELLED, FailureKind.CONNECTION}
        # Each was asked of one provider or the other, and settled as that one counted.
        for id_, provider in (("a", a), ("b", b)):
            counted = [tokens_of(got) for got in provider.requests if got.model == "finished" and got.finished]
            stats = router.stats(f"{id_}-finished")
            assert len(counted) == stats.total_successes > wanted["finished"] // 4
            assert stats.total_tokens == sum(counted)
            assert stats.total_failures == 0
        assert took < SECONDS


async def settle(is_so: Any) -> None:
    """Waits until a provider has seen what its client did."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
