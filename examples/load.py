"""A load generator: it asks a URL at a steady rate, however long the answers take.

    python examples/load.py URL --rate 20 --seconds 60

For each request it prints a line: when it was sent, and the status of its answer, or 0 if none came.
"""

import argparse
import asyncio
import time

import httpx


async def ask(client: httpx.AsyncClient, url: str) -> None:
    """Send one request, and print what became of it."""
    sent = time.time()
    try:
        status = (await client.get(url)).status_code
    except httpx.HTTPError:
        status = 0
    print(f"{sent:.6f} {status}")


async def run(url: str, rate: float, seconds: float) -> None:
    """Send all requests, each at its time."""
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)  # a new connection may go to another worker
    async with httpx.AsyncClient(limits=limits, timeout=10.0) as client:
        began, tasks = time.monotonic(), []
        for nth in range(int(rate * seconds)):
            await asyncio.sleep(began + nth / rate - time.monotonic())
            tasks.append(asyncio.create_task(ask(client, url)))
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True, help="for how long")
    options = parser.parse_args()
    asyncio.run(run(options.url, options.rate, options.seconds))
