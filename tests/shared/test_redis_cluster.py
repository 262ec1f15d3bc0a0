"""The Redis store on clusters: each owner is on one server, and a server that is away takes only its own."""

import signal
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from turnout.shared import Redis, StoreLost

from shared.servers import PROGRAMS, Cluster, until
from shared.test_redis import SECOND, Heard, held_of, lack, learning_of, life_of, message

OWNERS = [f"d/{index}" for index in range(30)]
PACKAGES = ("redis", "valkey")


@pytest.fixture(scope="module", params=PROGRAMS)
def three(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param, 3) as cluster:
        yield cluster


@pytest.fixture(params=PACKAGES)
def store(request: pytest.FixtureRequest, three: Cluster) -> Iterator[Redis]:
    for server in three.servers:
        with server.client() as client:
            client.flushall()
    yield from connected(request.param, three, f"of-{request.param}")


def connected(package: str, cluster: Cluster, namespace: str = "turnout") -> Iterator[Redis]:
    module: Any = import_module(package)
    client = module.RedisCluster(host="127.0.0.1", port=cluster.servers[0].port, socket_timeout=0.5, socket_connect_timeout=0.5)
    store = Redis(client, namespace=namespace, ttl=1.0)
    yield store
    store.close()
    client.close()


def numbers_of(lives: dict[str, int], number: int, **more: int) -> list[tuple[str, str, list[int]]]:
    return [(owner, "p", message(number, life=lives.get(owner, 0), **more)) for owner in OWNERS]


def learnt(store: Redis) -> dict[str, int]:
    """Begins a life for each owner, and waits until all have learnt. Returns the lives."""
    lives = {owner: life_of(reply) for owner, reply in zip(OWNERS, store.exchange(numbers_of({}, 1)), strict=True)}
    time.sleep(0.35)
    return lives


def test_one_server_with_all_slots() -> None:
    with Cluster(PROGRAMS[0], 1) as cluster:
        for package in PACKAGES:
            for store in connected(package, cluster, package):
                lives = learnt(store)
                assert [held_of(reply) for reply in store.exchange(numbers_of(lives, 2, target=4))] == [4] * len(OWNERS)


def test_owners_are_on_all_servers(store: Redis, three: Cluster) -> None:
    lives = learnt(store)
    for server in three.servers:
        with server.client() as client:
            assert 3 <= client.dbsize() <= len(OWNERS) - 6
            client.script_flush()
    assert [held_of(reply) for reply in store.exchange(numbers_of(lives, 2, target=4))] == [4] * len(OWNERS)
    assert repr(store).startswith(f"Redis(<{type(store._client).__name__} at 127.0.0.1:")


def test_news_reach_all_servers(store: Redis, three: Cluster) -> None:
    stores = [Redis(server.client(), namespace=store.namespace) for server in three.servers]
    heard = [Heard() for _ in range(4)]
    for one, woken in zip([store, *stores], heard, strict=True):
        one.listen(woken.append)
    for woken in heard:
        woken.wait(None)
    for owner in OWNERS[:5]:
        lack(store, owner)
        for woken in heard:
            woken.wait_for(owner)
    assert all(len(woken) == 6 for woken in heard)
    for one in stores:
        one.close()
        one._client.close()


def test_a_slot_that_moves(store: Redis, three: Cluster) -> None:
    lives = learnt(store)
    store.exchange(numbers_of(lives, 2, target=4))
    with three.moving(f"turnout:1:{{{store.namespace}/{OWNERS[0]}}}"):
        while_it_moves = store.exchange(numbers_of(lives, 3, have=4, target=4))
    afterwards = store.exchange(numbers_of(lives, 4, have=4, target=4))
    for replies in (while_it_moves, afterwards):
        assert [held_of(reply) for reply in replies] == [4] * len(OWNERS)
        # What has moved is on another run of a server, and learns. Its record has come along.
        assert [owner for owner, reply in zip(OWNERS, replies, strict=True) if life_of(reply) != lives[owner]] == OWNERS[:1]
    assert life_of(while_it_moves[0]) == life_of(afterwards[0])


def test_a_server_that_is_away_takes_only_its_own(store: Redis, three: Cluster) -> None:
    lives = learnt(store)
    server = three.servers[-1]
    server.send(signal.SIGSTOP)
    try:
        replies = store.exchange(numbers_of(lives, 2, target=4))
        assert {held_of(reply) for reply in replies if reply} == {4}
        lost = [owner for owner, reply in zip(OWNERS, replies, strict=True) if reply is None]
        assert 3 <= len(lost) <= len(OWNERS) - 6
        with pytest.raises(StoreLost, match="TimeoutError"):
            store.exchange([one for one in numbers_of(lives, 3) if one[0] in lost])
    finally:
        server.send(signal.SIGCONT)

    def is_back() -> bool:
        try:
            return all(store.exchange(numbers_of(lives, time.monotonic_ns() % 2**50, have=4, target=4)))
        except StoreLost:
            return False

    until(is_back, "it does not come back", 60)


def test_a_server_that_starts_anew_learns(store: Redis, three: Cluster) -> None:
    lives = learnt(store)
    server = three.servers[1]
    server.kill()
    server.start()
    replies: list[list[int] | None] = []
    number = 2

    def is_back() -> bool:
        nonlocal number
        number += 1
        replies[:] = store.exchange(numbers_of(lives, number, have=1, target=1))
        return all(replies)

    until(is_back, "it does not come back", 60)
    anew = {owner for owner, reply in zip(OWNERS, replies, strict=True) if life_of(reply) != lives[owner]}
    assert 3 <= len(anew) <= len(OWNERS) - 6
    assert all((learning_of(reply) > 0) == (owner in anew) for owner, reply in zip(OWNERS, replies, strict=True))
    assert max(learning_of(reply) for reply in replies) <= 0.3 * SECOND
