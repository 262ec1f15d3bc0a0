"""What a message costs a server of Redis or Valkey, and how long a process waits for the reply.

    redis-server --port 7000 --save "" &
    python benches/redis_store.py redis://localhost:7000

A message is about the requests and the tokens of a minute, and about places in flight. The database is
flushed. The least of many averages is shown: the machine may be busy with something else.
"""

import argparse
import statistics
import time
from typing import Any

import redis
from turnout.shared import Redis

SECOND = 1_000_000
FIXED, PLACES = 0, 4


def numbers_of(number: int, life: int) -> list[int]:
    """A message of a process that is at work: some more of each limit, as some was used."""
    window = (int(time.time()) // 60 + 1) * 60 * SECOND
    used = number % 200
    numbers = [number, life, 10 * SECOND, 600 * SECOND, 3]
    for meter, unit, limit in ((1001, 1, 60_000), (1002, 100, 10**7)):
        have = (used + 5) * unit
        numbers += [meter, FIXED, 0, 0, limit, 1, window, window, have, used * unit, have + (number % 3) * unit, used * unit]
    return [*numbers, 1003, PLACES, 0, 0, 1000, 1, 0, 0, 3, 1, 2 + number % 2, 1]


def server_time(store: Redis, client: Any, members: int) -> float:
    """Returns the microseconds of the server for a message, with so many members."""
    client.flushdb()
    averages, life = [], 0
    for number in range(1, 200):
        client.config_resetstat()
        for reply in store.exchange(
            [("d/x", f"host:{member}:0123456789abcdef", numbers_of(number, life)) for member in range(members)]
        ):
            assert reply is not None
            life = reply[1]
        averages.append(float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]))
    return min(averages)


def round_trip(store: Redis, client: Any, owners: int, rounds: int = 2000) -> tuple[float, float]:
    """Returns the median and the 99th percentile of the microseconds of an exchange about so many owners."""
    client.flushdb()
    took = []
    for number in range(1, rounds):
        batch = [(f"d/{owner}", "host:1:0123456789abcdef", numbers_of(number, 0)) for owner in range(owners)]
        begin = time.perf_counter()
        store.exchange(batch)
        took.append(1e6 * (time.perf_counter() - begin))
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def main() -> None:
    """Measures, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="a server whose database may be flushed")
    url = parser.parse_args().url
    client: Any = redis.Redis.from_url(url)
    store = Redis(url)
    print("members of an owner   µs of the server a message")
    for members in (4, 16, 64, 256):
        print(f"{members:19}   {server_time(store, client, members):.0f}")
    print("owners a batch   median µs   99th percentile")
    for owners in (1, 10):
        print("{:14}   {:9.0f}   {:15.0f}".format(owners, *round_trip(store, client, owners)))


if __name__ == "__main__":
    main()
