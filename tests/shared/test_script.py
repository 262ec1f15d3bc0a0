"""The script of the Redis store agrees with the books, message by message."""

import random
import re
import struct
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from turnout import ConfigurationError
from turnout._core import _Books
from turnout.shared import redis as store

from shared.servers import Server
from shared.walk import BUCKET, FIRST_USE, FIXED, METERS, NOTICE, PLACES, SECOND, SLIDING, TALLY, Step, Walk

SCRIPT = (files("turnout.shared") / "sync.lua").read_text("utf-8")
CHANNEL = "turnout:1:walk"
HOUR = 3600 * SECOND
# A meter, its kind, its limit and its rows.
Ask = tuple[int, tuple[int, int, int], int, Sequence[tuple[int, ...]]]


def key_of(owner: str) -> str:
    return f"turnout:1:{{walk/{owner}}}"


def arguments(step: Step) -> tuple[Any, ...]:
    packed = struct.pack(f"<{len(step.numbers)}d", *step.numbers)
    return (key_of(step.owner), step.process, CHANNEL, step.owner, step.life, step.learn, packed, step.now, step.run)


def check(client: Any, steps: Iterable[Step]) -> None:
    """Runs the script for each step, and compares its replies and its news."""
    steps = list(steps)
    client.flushall()
    with client.pubsub(ignore_subscribe_messages=True) as news, client.pipeline(transaction=False) as pipeline:
        news.subscribe(CHANNEL)
        news.get_message(timeout=5)
        sha = client.script_load(SCRIPT)
        for step in steps:
            if step.wiped:
                pipeline.flushall()
            pipeline.evalsha(sha, 1, *arguments(step))
        replies = [reply for reply in pipeline.execute(raise_on_error=False) if reply is not True]
        for index, (step, reply) in enumerate(zip(steps, replies, strict=True)):
            assert reply == step.reply, (index, step)
        for step in steps:
            if step.is_news:
                message = news.get_message(timeout=5)
                assert message is not None
                assert message["data"] == step.owner.encode(), step
        assert news.get_message(timeout=0.02) is None


# --- agreement ---


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_walks(running: Server, chance: random.Random, steps: int) -> None:
    walk = Walk(chance)
    with running.client() as client:
        check(client, [walk.step() for _ in range(steps)])


def test_a_hundred_thousand_messages(server: Server) -> None:
    with server.client() as client:
        for seed in range(100):
            chance = random.Random(seed)
            walk = Walk(chance, owners=chance.choice((1, 2)), processes=chance.choice((2, 4, 9)))
            check(client, [walk.step() for _ in range(1000)])


def test_walks_lead_everywhere() -> None:
    """What the walks above prove nothing about would be silent."""
    seen = dict.fromkeys(("granted", "lacking", "wanted", "learning", "late", "left", "alone", "several"), 0)
    kinds = dict.fromkeys(range(7), 0)
    for seed in range(20):
        walk = Walk(random.Random(seed), processes=4)
        for _ in range(500):
            step = walk.step()
            seen["learning"] += step.reply[2] > 0
            seen["left"] += step.numbers[2] == 0
            seen["alone"] += step.reply[3] == 1
            seen["several"] += step.reply[3] > 2
            seen["late"] += step.numbers in walk.processes[step.owner, step.process].sent[:-1]
            for kind, wanted, row, piece in rows_of(step):
                kinds[kind] += piece[2] > 0
                seen["wanted"] += wanted
                seen["granted"] += piece[2] > row[2]
                seen["lacking"] += kind <= PLACES and piece[2] < row[3]
    assert min(seen.values()) > 100, seen
    assert min(kinds.values()) > 100, kinds


def rows_of(step: Step) -> Iterable[tuple[int, int, list[int], list[int]]]:
    """Gives the kind, whether units are wanted, and the numbers of each row and of its piece."""
    asked, answered = 5, 5
    for _ in range(step.numbers[4]):
        kind, rows = step.numbers[asked + 1], step.numbers[asked + 5]
        wanted = step.reply[answered]
        asked, answered = asked + 6, answered + 2
        for _ in range(rows):
            yield kind, wanted, step.numbers[asked : asked + 6], step.reply[answered : answered + 4]
            asked, answered = asked + 6, answered + 4


class Books:
    """Messages that a test writes by hand, to the books and to the script."""

    def __init__(self) -> None:
        self.books = _Books()
        self.now = 1_800_000_000 * SECOND
        self.steps: list[Step] = []
        self.numbers: dict[str, int] = {}

    def sync(self, process: str, *asks: Ask, **more: int) -> list[int]:
        number = self.numbers[process] = self.numbers.get(process, 0) + 1
        numbers = [number, 0, more.get("lease", 10 * SECOND), more.get("busy_for", 0), len(asks)]
        for meter, kind, limit, rows in asks:
            numbers += [meter, *kind, limit, len(rows), *(number for row in rows for number in row)]
        life = len(self.steps) + 1
        news = self.books.news
        reply = self.books.sync("d/a", process, numbers, now=self.now, run=1, life=life, learn=0)
        step = Step("d/a", process, numbers, self.now, 1, life, 0, reply, False, self.books.news > news)
        self.steps.append(step)
        return reply


def test_the_largest_numbers(server: Server) -> None:
    most = 2**52
    books = Books()
    books.now = most - 5 * SECOND
    for kind in range(7):
        for process, units in (("a", most), ("b", most), ("c", most - 1), ("a", 3)):
            ask = (kind, (kind, most, most), most, [(most, most, units, units, most, units), (0, 0, 1, 0, most, 1)])
            reply = books.sync(process, ask, lease=most, busy_for=most)
            assert max(reply) <= most
    with server.client() as client:
        check(client, books.steps)


def test_windows_that_are_short_are_not_remembered_for_long(server: Server) -> None:
    books = Books()
    windows = [books.now + 1000 * index for index in range(1, 201)]
    for window in windows:
        books.sync("a", (1, (FIXED, 0, 0), 5, [(window, window, 0, 1, 5, 1)]))
        books.now = window
    # Looks which are remembered, once a step of the clock has made them open again.
    books.now = windows[0] - 1
    books.numbers["a"] -= 1
    reply = books.sync("a", (1, (FIXED, 0, 0), 5, [(window, window, 0, 0, 0, 0) for window in windows]))
    assert [piece[2] > 0 for *_, piece in rows_of(books.steps[-1])] == [False] * 135 + [True] * 65, reply
    with server.client() as client:
        check(client, books.steps)
        assert client.memory_usage(key_of("d/a")) < 8000


def test_many_members_whose_leases_end_at_once(server: Server) -> None:
    books = Books()
    kinds = [(1, (PLACES, 0, 0), 2000), (2, (TALLY, 0, 0), 0), (3, (BUCKET, 1, 1000), 2000)]
    for index in range(1500):
        books.sync(f"p{index}", *((*ask, [(0, books.now + SECOND, 1, 1, 2, 1)]) for ask in kinds), busy_for=SECOND)
    for _ in range(4):
        books.now += 10 * SECOND + 1
        reply = books.sync("a", *((*ask, [(0, books.now + SECOND, 1, 1, 2, 1)]) for ask in kinds))
    assert reply[3] == 1
    with server.client() as client:
        check(client, books.steps)
        assert client.hlen(key_of("d/a")) == 2


def test_what_is_no_message_is_refused_and_changes_nothing(server: Server) -> None:
    good = [1, 0, SECOND, 0, 1, 7, FIXED, 0, 0, 10, 1, 2**51, 2**51, 0, 1, 1, 0]
    bad = [
        [],
        [0],
        good[:4],
        good[:-1],
        [*good, 0],
        [*good[:4], 2, *good[5:]],
        [*good[:4], 0, *good[5:]],
        [*good[:10], 2, *good[11:]],
        [*good[:6], 7, *good[7:]],
        [*good[:6], FIRST_USE, *good[7:]],
        [*good[:6], BUCKET, 1, 0, *good[9:]],
        [*good[:6], BUCKET, 0, 1, *good[9:]],
        [*good[:-1], 2**52 + 1],
        [2**60, *good[1:]],
        [*good[:4], 2**52, *good[5:]],
    ]
    with server.client() as client:
        sha = client.script_load(SCRIPT)
        for numbers in bad:
            with pytest.raises(ConfigurationError, match="these numbers are no message of a shared store"):
                _Books().sync("d/a", "p", numbers, now=1, run=1, life=1, learn=0)
            step = Step("d/a", "p", numbers, 1, 1, 1, 0, [], False, False)
            with pytest.raises(redis.ResponseError, match="these numbers are no message of a shared store"):
                client.evalsha(sha, 1, *arguments(step))
        assert client.dbsize() == 0
        assert client.evalsha(sha, 1, *arguments(Step("d/a", "p", good, 1, 1, 1, 0, [], False, False)))


# --- the record ---


def test_the_record_goes_when_nothing_is_left_of_it(server: Server) -> None:
    books = Books()
    kinds = {FIXED: 60, FIRST_USE: 10 * SECOND, SLIDING: 60, BUCKET: 1, PLACES: 0, TALLY: 0, NOTICE: 0}
    for lease in (10 * SECOND, 0):
        asks = []
        for kind, one in kinds.items():
            until = books.now // (60 * SECOND) * 60 * SECOND + 60 * SECOND
            used = 0 if lease == 0 or kind == BUCKET else 1
            asks.append((kind, (kind, one, 1), 10, [(until if kind != BUCKET else 0, until, used, 0, used, used)]))
        books.sync("a", *asks, lease=lease)
        books.now += 30 * SECOND
    books.now += HOUR
    books.sync("a", *asks, lease=0)
    with server.client() as client:
        check(client, books.steps)
        assert client.dbsize() == 0


def test_the_record_is_kept_for_two_days_and_longer_than_its_windows(server: Server) -> None:
    day = 24 * HOUR
    for length, kept in ((60 * SECOND, 2 * day), (7 * day, 7 * day)):
        books = Books()
        books.sync("a", (1, (FIXED, 0, 0), 10, [(books.now + length, books.now + length, 0, 1, 1, 0)]))
        with server.client() as client:
            check(client, books.steps)
            assert kept - SECOND < 1000 * client.pttl(key_of("d/a")) < kept + 61 * SECOND


def test_a_call_reads_and_writes_only_what_it_is_about(server: Server) -> None:
    """What the other processes hold is neither read nor sent to replicas, however many there are."""
    books = Books()
    for index in range(50):
        books.sync(f"p{index}", (1, (FIXED, 0, 0), 10**6, [(books.now + HOUR, books.now + HOUR, 0, 1, 9, 0)]))
    with server.client() as client:
        client.config_resetstat()
        check(client, books.steps)
        calls = {name.removeprefix("cmdstat_"): facts["calls"] for name, facts in client.info("commandstats").items()}
    assert "hgetall" not in calls
    assert (calls["evalsha"], calls["hmget"], calls["hset"], calls["pexpire"]) == (50, 50, 100, 50)


# --- the file ---


def test_the_first_line_has_the_version_of_the_keys() -> None:
    first = SCRIPT.splitlines()[0]
    version = re.fullmatch(r"-- turnout's shared state, protocol version (\d+)", first)
    assert version is not None
    assert f"turnout:{version[1]}" == store._PREFIX
    assert key_of("x").startswith(store._PREFIX)


def test_lines_are_short_enough() -> None:
    lines = SCRIPT.splitlines()
    assert max(map(len, lines)) <= 132
    assert max(len(line) for line in lines if line.lstrip().startswith("--")) <= 110
    assert Path(store.__file__).with_name("sync.lua").is_file()


def test_each_kind_of_meter_is_walked() -> None:
    assert {kind for kind, _, _ in METERS.values()} == {FIXED, FIRST_USE, SLIDING, BUCKET, PLACES, TALLY, NOTICE}
