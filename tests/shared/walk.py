"""Walks through the protocol of shared state: messages as processes send them, and as no process should.

A walk keeps the books of ``turnout._core``. What they answer is what any store must answer. Messages come
late and twice, processes end and come back, the store's clock steps, and the store loses what it knows.
"""

from dataclasses import dataclass, field
from random import Random

from turnout._core import _Books

SECOND = 1_000_000
FIXED, FIRST_USE, SLIDING, BUCKET, PLACES, TALLY, NOTICE = range(7)

# Every kind of meter, with the numbers of the kind. The kind of a bucket is changed now and then.
METERS = {
    3: (FIXED, SECOND, 0),
    11: (FIXED, 60 * SECOND, 0),
    12: (FIRST_USE, 10 * SECOND, 0),
    13: (FIRST_USE, 3 * SECOND, 0),
    2**52: (SLIDING, SECOND, 0),
    21: (SLIDING, 10 * SECOND, 0),
    1: (BUCKET, 1, 1000),
    0: (BUCKET, 7, 1_000_003),
    41: (PLACES, 0, 0),
    51: (TALLY, 0, 0),
    61: (NOTICE, 0, 0),
}
# What else a bucket may be: a reload changes its rate.
RATES = ((1, 1), (1, 60), (3, 7), (999_983, 86_400_000_000), (5, 2**45 + 1), (5, 2**44), (5, 2**46), (2**30, 2**31 - 1))


@dataclass(frozen=True, slots=True)
class Step:
    """A message, with what the store knows when it comes, and what it must answer."""

    owner: str
    process: str
    numbers: list[int]
    now: int
    run: int
    life: int
    learn: int
    reply: list[int]
    # Whether the store has just lost everything.
    wiped: bool
    # Whether there is news.
    is_news: bool


@dataclass(slots=True)
class Process:
    """What a process knows of an owner."""

    number: int = 0
    life: int = 0
    # By meter and window: what it may use, and what of it is used.
    held: dict[tuple[int, int], int] = field(default_factory=dict)
    used: dict[tuple[int, int], int] = field(default_factory=dict)
    sent: list[list[int]] = field(default_factory=list)


class Walk:
    """A walk. What it does follows from ``random`` alone."""

    def __init__(self, random: Random, *, owners: int = 2, processes: int = 4) -> None:
        self.random = random
        self.books = _Books()
        self.now = random.choice((0, 1_800_000_000 * SECOND, 2**51))
        self.run = 1
        self.life = 0
        self.learn = random.choice((0, 3 * SECOND))
        self.owners = [f"d/{index}" for index in range(owners)]
        self.names = [f"host:{index}" for index in range(processes)]
        self.processes: dict[tuple[str, str], Process] = {}
        self.wiped = False

    def step(self) -> Step:
        """Sends the next message."""
        self.pass_time()
        self.fail()
        random = self.random
        owner, name = random.choice(self.owners), random.choice(self.names)
        process = self.processes.setdefault((owner, name), Process())
        is_old = process.sent and random.random() < 0.08
        numbers = random.choice(process.sent[-4:]) if is_old else self.message(process)
        self.life += 1
        news = self.books.news
        reply = self.books.sync(owner, name, numbers, now=self.now, run=self.run, life=self.life, learn=self.learn)
        if random.random() < 0.9:
            hear(process, numbers, reply)
        step = Step(
            owner,
            name,
            numbers,
            self.now,
            self.run,
            self.life,
            self.learn,
            reply,
            self.wiped,
            self.books.news > news,
        )
        self.wiped = False
        return step

    def pass_time(self) -> None:
        random = self.random
        chance = random.random()
        if chance < 0.9:
            self.now += random.choice((0, 1, 20_000, 250_000, SECOND))
        elif chance < 0.97:
            self.now += random.choice((5, 10, 59, 61, 130, 700)) * SECOND + random.choice((-1, 0, 1))
        else:
            self.now = max(0, self.now - random.choice((1, 100_000, 2 * SECOND, 15 * SECOND, 90 * SECOND, 800 * SECOND)))

    def fail(self) -> None:
        chance = self.random.random()
        if chance < 0.005:
            self.books = _Books()
            self.wiped = True
        elif chance < 0.015:
            self.run += 1
        elif chance < 0.02:
            self.learn = self.random.choice((0, SECOND, 3 * SECOND))
        elif chance < 0.03:
            # A process begins anew under its old name.
            self.processes.pop(self.random.choice(list(self.processes) or [("", "")]), None)

    def message(self, process: Process) -> list[int]:
        random = self.random
        process.number += random.choice((1, 1, 1, 3))
        life = random.choice((process.life, process.life, process.life, process.life, 0, self.life))
        lease = random.choice((10 * SECOND, 10 * SECOND, 10 * SECOND, SECOND, 1, 0))
        busy_for = random.choice((0, 5 * SECOND, 600 * SECOND))
        meters = random.choices(list(METERS), k=random.choice((0, 1, 2, 3, 4)))
        numbers = [process.number, life, lease, busy_for, len(meters)]
        for meter in meters:
            numbers += self.ask(process, meter)
        process.sent.append(numbers)
        return numbers

    def ask(self, process: Process, meter: int) -> list[int]:
        random = self.random
        kind, one, other = METERS[meter]
        if kind == BUCKET and random.random() < 0.1:
            one, other = random.choice(RATES)
        if random.random() < 0.005:
            kind, one, other = METERS[random.choice(list(METERS))]
        limit = random.choice((0, 1, 10, 10, 10, 100, 100, 1000, 1000, 2**40 + 7))
        rows = [self.row(process, meter, kind, one, limit) for _ in range(random.choice((0, 1, 1, 1, 2, 3)))]
        numbers = [meter, kind, 0 if kind in (FIXED, SLIDING) else one, other, limit, len(rows)]
        return numbers + [number for row in rows for number in row]

    def row(self, process: Process, meter: int, kind: int, per: int, limit: int) -> list[int]:
        random = self.random
        if kind == TALLY:
            until = self.now + random.choice((-1, 0, 1, SECOND, 2 * SECOND, 30 * SECOND))
            return [random.choice((0, 1, 7)), max(until, 0), 0, 0, 0, random.choice((0, 1, 5, 2**44))]
        if kind == NOTICE:
            said, until = self.now + random.choice((-SECOND, -1, 0, 1)), self.now + random.choice((0, SECOND, 30 * SECOND))
            return [random.choice((0, max(said, 0))), until, random.randrange(9), 0, 0, random.randrange(2**45)]
        window, until = self.window(process, meter, kind, per)
        place = (meter, window if kind in (FIXED, FIRST_USE, SLIDING) else 0)
        have, used = process.held.get(place, 0), process.used.get(place, 0)
        chance = random.random()
        if chance < 0.7:
            used = random.randint(used, max(have, used))
        elif chance < 0.8:
            used += random.choice((1, 3, limit))
        elif chance < 0.9:
            have = random.randrange(2 * min(limit, 1000) + 1)
        process.used[place] = used
        target = have + random.choice((0, 1, 5, 30)) if random.random() < 0.7 else random.randrange(2 * min(limit, 1000) + 1)
        return [window, until, have, min(target, used + random.choice((0, 0, 1, 2, 20))), target, used]

    def window(self, process: Process, meter: int, kind: int, per: int) -> tuple[int, int]:
        random = self.random
        if kind in (FIXED, SLIDING):
            per = per or SECOND
            window = max(0, self.now // per + random.choice((0, 1, 1, 1, 1, 2))) * per
            return window, window + (0 if kind == FIXED else random.choice((5, 5, 20)) * per)
        if kind == FIRST_USE:
            known = max((window for place, window in process.held if place == meter), default=0)
            window = random.choice((0, known, known, max(0, self.now + random.choice((-1, 0, 1, SECOND)))))
            return window, window
        if kind == BUCKET:
            refunded = process.used.get((meter, -1), 0) + random.choice((0, 0, 0, 1, 4))
            process.used[(meter, -1)] = refunded
            return refunded, max(0, self.now - random.choice((0, SECOND, 9 * SECOND, 100 * SECOND, 640 * SECOND)))
        return random.choice((0, 0, 5)), 0


def hear(process: Process, numbers: list[int], reply: list[int]) -> None:
    """Takes in a reply, if it answers the latest message."""
    if numbers[0] != process.number:
        return
    process.life = reply[1]
    asked, answered = 5, 5
    for _ in range(numbers[4]):
        meter, kind, rows = numbers[asked], numbers[asked + 1], numbers[asked + 5]
        for index in range(rows):
            window, _, held, _ = reply[answered + 2 + 4 * index : answered + 6 + 4 * index]
            process.held[(meter, window if kind in (FIXED, FIRST_USE, SLIDING) else 0)] = held
        asked += 6 + 6 * rows
        answered += 2 + 4 * rows
