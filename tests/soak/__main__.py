"""`python -m soak --minutes 10`: epochs of all kinds by turns, until the time is over or there is a fault."""

import argparse
import gc
import os
import random
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

from soak.epoch import KINDS, Epoch

EPOCH = 6.0
"""Seconds of an epoch."""
WARM_UP = 6
"""The number of epochs after which the process has all the memory that it needs."""
GROWTH = 150
"""Megabytes that it may grow afterwards."""


def resident() -> int:
    """Return how many megabytes of this process are in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
    except OSError:
        return 0


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit status: 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="decides the facts of all epochs; drawn if it is not given")
    options = parser.parse_args(arguments)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    build = "without the GIL" if sysconfig.get_config_var("Py_GIL_DISABLED") else "with the GIL"
    print(f"CPython {sys.version.split()[0]} {build}, seed {seed}", flush=True)
    chance, began, counts, base = random.Random(seed), time.monotonic(), Counter[str](), 0
    until = began + 60.0 * options.minutes
    nth = 0
    while (left := until - time.monotonic()) > 0:
        epoch = Epoch(KINDS[nth % len(KINDS)], chance.randrange(2**32))
        epoch.run(min(EPOCH, left))
        counts.update(epoch.counts)
        if epoch.faults:
            print(f"FAULT in epoch {nth}, {epoch.kind}, of seed {seed}", *epoch.faults, sep="\n", flush=True)
            return 1
        del epoch
        gc.collect()
        nth += 1
        now = resident()
        if nth == WARM_UP:
            base = now
        elif nth > WARM_UP and now > base + GROWTH:
            print(f"FAULT: the process has grown from {base} to {now} MB in {nth} epochs of seed {seed}", flush=True)
            return 1
    print(f"{nth} epochs in {time.monotonic() - began:.0f} s, {resident()} MB at the end, no fault")
    print(*(f"  {times:>12,} {what}" for what, times in sorted(counts.items())), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
