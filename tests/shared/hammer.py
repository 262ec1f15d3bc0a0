"""A process that forks others which ask for units without pause, and kills them: ``python -m shared.hammer``.

It forks for itself: a process with little in memory forks faster than one that runs tests.
"""

import mmap
import os
import random
import signal
import sys
import time

from turnout import StoreLost
from turnout.shared import File

from shared.member import WINDOW, Member

# What a worker writes down, in memory that outlives it: the units that it was told it holds, and whether the
# store was lost. Each is written by one store of a word: of a worker that is killed amid a longer copy nobody
# would know what it wrote.
HELD, LOST, WORDS = 0, 1, 2


def ask(path: str, owner: str, window: int, slot: memoryview) -> None:
    """Asks for one unit more, again and again."""
    member = Member(File(path), 2**40, WINDOW, window)
    held = 0
    while True:
        try:
            held = member.ask_patiently(owner, target=held + 1, least=held + 1, used=held)
        except StoreLost as lost:
            print(lost, file=sys.stderr)
            slot[LOST] = 1
            return
        slot[HELD] = held


def main(path: str, kills: int, workers: int, owners: int, window: int, seed: int) -> None:
    """Kills workers one after the other.

    It prints how many units the workers of each owner were told of, how many workers of each were killed, and
    how many lost the store.
    """
    chance = random.Random(seed)
    told, killed = [0] * owners, [0] * owners
    lost = 0
    memory = memoryview(mmap.mmap(-1, workers * WORDS * 8)).cast("Q")
    slots = [memory[at * WORDS : (at + 1) * WORDS] for at in range(workers)]

    def start(slot: memoryview) -> tuple[int, int]:
        slot[HELD] = slot[LOST] = 0
        owner = chance.randrange(owners)
        pid = os.fork()
        if pid == 0:
            ask(path, f"owner {owner}", window, slot)
            os._exit(0)
        return pid, owner

    running = [start(slot) for slot in slots]
    for kill in range(kills):
        at = kill % workers
        pid, owner = running[at]
        while not any(slots[at]):
            time.sleep(0)
        time.sleep(chance.uniform(0, 0.001))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        told[owner] += slots[at][HELD]
        killed[owner] += 1
        lost += slots[at][LOST]
        if kill < kills - workers:
            running[at] = start(slots[at])
    print(*told, *killed, lost)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
