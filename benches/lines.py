"""Measures what a release costs while others wait: from the release until a waiter has its lease.

    python benches/lines.py

300 waiters wait for 900 tokens each, in 300 classes, among 1,000 deployments. Their patience lasts or is
over. The time includes a turn of the event loop.
"""

import asyncio
import statistics
import time
from typing import Any

from turnout import Deployment, Limit, Quota, Router, Waiting

MEMBERS, CLASSES, RELEASES = 1000, 300, 40


def measure(share: bool, patience: float) -> float:
    """Return the median seconds of a release."""
    limit = Limit(tokens=1000, per=6000.0, kind="bucket")
    quota = Quota("account", limit)

    def deployment(nth: int) -> Deployment:
        limits: dict[str, Any] = {"quotas": [quota]} if share else {"limits": [limit]}
        return Deployment(f"d{nth}", "m", **limits)

    router = Router([deployment(nth) for nth in range(MEMBERS)], waiting=Waiting(patience=patience))

    async def main() -> list[float]:
        held = [router.acquire("m", tokens=1000) for _ in range(1 if share else MEMBERS)]
        got: list[Any] = []

        async def ask(nth: int) -> None:
            got.append(await router.acquire_async("m", tokens=900, exclude={f"d{nth}"}))

        tasks = [asyncio.create_task(ask(nth)) for nth in range(CLASSES)]
        await asyncio.sleep(0.5)
        took = []
        for _ in range(RELEASES):
            lease = (got or held).pop() if share else held.pop()
            served, began = len(got), time.perf_counter()
            lease.release(unused=True)
            while len(got) == served:
                await asyncio.sleep(0)
            took.append(time.perf_counter() - began)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lease in held + got:
            lease.release(unused=True)
        return took

    return statistics.median(asyncio.run(main()))


def main() -> None:
    """Measure and print."""
    for share in (False, True):
        for patience in (1e6, 0.2):
            what = "one quota over all" if share else "a limit of each   "
            print(f"{what}  patience {'lasts  ' if patience > 1 else 'is over'}  {measure(share, patience) * 1e6:8.0f} µs")


if __name__ == "__main__":
    main()
