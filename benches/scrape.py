"""Measures what the collector of Prometheus costs: a scrape, and a pick beside it.

    python benches/scrape.py

A scrape is the whole text in memory, as a server would send it. A pick is measured by turns, with and without
a registered collector that was scraped before, and with a thread that scrapes five times a second.
"""

import statistics
import threading
import timeit
from collections.abc import Callable
from time import perf_counter

from prometheus_client import CollectorRegistry, generate_latest
from turnout import Deployment, Router
from turnout.integrations.prometheus import Collector

SIZES = (10, 1_000, 10_000)
PICKS = 20_000
PAIRS = 101


def router_of(size: int) -> Router:
    """Makes groups of ten deployments with two limits each, all of which have served a request."""
    router = Router([Deployment(f"deployment-{i}", f"group-{i // 10}", rpm_limit=600, tpm_limit=100_000) for i in range(size)])
    for i in range(size):
        router.acquire(f"group-{i // 10}", tokens=100, only={f"deployment-{i}"}).success()
    return router


def registry_of(router: Router) -> CollectorRegistry:
    """Registers a collector that leaves no deployment out."""
    registry = CollectorRegistry()
    registry.register(Collector(router, max_deployments=None))
    return registry


def milliseconds(call: Callable[[], object], times: int) -> float:
    """Returns the median time of some calls."""
    found = []
    for _ in range(times):
        began = perf_counter()
        call()
        found.append(perf_counter() - began)
    return statistics.median(found) * 1000


def print_scrape(size: int) -> None:
    """Prints the median time of a scrape of so many deployments, and its size."""
    router = router_of(size)
    registry = registry_of(router)
    text = generate_latest(registry)
    times = max(5, 2_000 // size)
    snapshot = milliseconds(router.snapshot, times)
    collect = milliseconds(lambda: list(registry.collect()), times)
    scrape = milliseconds(lambda: generate_latest(registry), times)
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    print(f"{size:,} deployments: {series:,} series, {len(text) / 1000:,.0f} kB")
    print(f"  snapshot {snapshot:.2f} ms, collect {collect:.2f} ms, scrape {scrape:.2f} ms")


def pick_time(router: Router) -> float:
    """Times picks of one group, in seconds for each."""
    return timeit.timeit(lambda: router.acquire("group-0").release(unused=True), number=PICKS) / PICKS


def print_picks() -> None:
    """Prints how much longer a pick takes with a collector: the median of the ratios of pairs."""
    plain, watched = router_of(1_000), router_of(1_000)
    registry = registry_of(watched)
    generate_latest(registry)
    pairs = []
    for turn in range(PAIRS):
        # By turns, so that a drift of the machine favours neither.
        first, second = (plain, watched) if turn % 2 else (watched, plain)
        one, other = pick_time(first), pick_time(second)
        pairs.append((one, other) if turn % 2 else (other, one))
    ratio = statistics.median(beside / alone for alone, beside in pairs)
    alone = statistics.median(alone for alone, _ in pairs) * 1e6
    print(f"a pick: {alone:.3f} µs; with a collector {ratio:.3f} times that, {PAIRS} pairs")

    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(0.2):
            generate_latest(registry)

    scraper = threading.Thread(target=scrape)
    scraper.start()
    busy = statistics.median(pick_time(watched) for _ in range(PAIRS))
    ended.set()
    scraper.join()
    print(f"a pick while another thread scrapes five times a second: {busy * 1e6:.3f} µs")


if __name__ == "__main__":
    for number in SIZES:
        print_scrape(number)
    print_picks()
