"""The Redis store: its settings, messages, faults of the server, news, and forks."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Literal

import pytest
import redis
import turnout.shared
import valkey
from turnout import ConfigurationError, RouterError
from turnout.shared import Redis, StoreLost

from shared.servers import Address, Server, free_port, needed, until

SECOND = 1_000_000
PLACES = 4
URL = "redis://localhost:1/0"
# Their annotations are of little help.
REDIS: Any = redis
VALKEY: Any = valkey
Connect = Callable[..., Redis]


class Heard(list["str | None"]):
    """What a listener has heard: `append` is what it wakes."""

    def wait(self, *owners: str | None) -> None:
        """Waits until just these are heard."""
        until(lambda: self == list(owners), "not all is heard")

    def wait_for(self, owner: str | None, times: int = 1) -> None:
        """Waits until one is heard at least this often."""
        until(lambda: self.count(owner) >= times, "it is not heard")


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes stores that are closed at the end, with their clients."""
    stores: list[Redis] = []

    def make(client_or_url: Any, **settings: Any) -> Redis:
        stores.append(Redis(client_or_url, **settings))
        return stores[-1]

    yield make
    for store in stores:
        store.close()
        store._client.close()


def message(number: int, *, life: int = 0, have: int = 0, target: int = 1, used: int = 0, limit: int = 10) -> list[int]:
    """A message about places in flight."""
    return [number, life, 10 * SECOND, 0, 1, 7, PLACES, 0, 0, limit, 1, 0, 0, have, 0, target, used]


def life_of(reply: list[int] | None) -> int:
    assert reply is not None
    return reply[1]


def learning_of(reply: list[int] | None) -> int:
    assert reply is not None
    return reply[2]


def held_of(reply: list[int] | None) -> int:
    assert reply is not None
    return reply[9]


def ask(store: Redis, *numbers: int, owner: str = "d/a", process: str = "p", **more: int) -> list[int] | None:
    [reply] = store.exchange([(owner, process, message(*numbers, **more))])
    return reply


def clients_of(server: Server) -> Iterator[Any]:
    """Every way to connect, of both libraries."""
    for package, url in ((REDIS, server.url), (VALKEY, server.url.replace("redis", "valkey"))):
        yield package.Redis.from_url(url)
        yield package.Redis.from_url(url, decode_responses=True)
        yield package.Redis.from_url(url, protocol=3, decode_responses=True)
        yield package.Redis.from_url(url, protocol=2)
        yield package.Redis.from_url(f"unix://{server.path}")
        yield package.Redis(connection_pool=package.BlockingConnectionPool.from_url(url, max_connections=1, timeout=1))


# --- settings ---


def test_defaults() -> None:
    store = Redis(URL)
    assert (store.namespace, store.ttl, store.horizon, store.patience, store.on_loss) == ("turnout", 10.0, 0.25, 0.05, "share")
    assert store.learn == 3.0


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("namespace", "", ConfigurationError, "namespace must be a text of one character or more"),
        ("namespace", "a/b", ConfigurationError, "not 'a/b'"),
        ("namespace", "a{b", ConfigurationError, "not 'a{b'"),
        ("namespace", "a}b", ConfigurationError, "not 'a}b'"),
        ("namespace", b"a", TypeError, r"not b'a' \(bytes\)"),
        ("ttl", 0.09, ConfigurationError, "ttl must be a number of seconds from 0.1 to 86400, not 0.09"),
        ("ttl", float("nan"), ConfigurationError, "not nan"),
        ("ttl", 86_401, ConfigurationError, "not 86401"),
        ("ttl", "10", TypeError, r"ttl must be a number of seconds from 0.1 to 86400, not '10' \(str\)"),
        ("horizon", 0, ConfigurationError, "horizon must be a number of seconds from 0.001 to ttl"),
        ("horizon", 10.5, ConfigurationError, r"from 0.001 to ttl \(10\), not 10.5"),
        ("horizon", None, TypeError, "not None"),
        ("busy_ttl", -0.5, ConfigurationError, "busy_ttl must be a finite number of seconds from 0"),
        ("patience", -1, ConfigurationError, "patience must be a finite number of seconds from 0"),
        ("patience", True, TypeError, "not True"),
        ("on_loss", "fail", ConfigurationError, "on_loss must be one of 'closed', 'share', 'open', not 'fail'"),
        ("on_loss", None, ConfigurationError, "not None"),
        ("on_loss", ["open"], ConfigurationError, r"not \['open'\]"),
    ],
)
def test_bad_settings(name: str, value: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Redis(URL, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("on_loss", ["closed", "share", "open"])
def test_settings_are_kept(on_loss: Literal["closed", "share", "open"]) -> None:
    store = Redis(URL, namespace="prod:eu", ttl=1, horizon=1, patience=0, on_loss=on_loss)
    assert (store.namespace, store.ttl, store.horizon, store.patience, store.on_loss) == ("prod:eu", 1.0, 1.0, 0.0, on_loss)
    with pytest.raises(AttributeError):
        store.ttl = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("client", [None, 7, object(), redis, redis.Redis, redis.ConnectionPool(), REDIS.asyncio.Redis()])
def test_what_is_no_client(client: Any) -> None:
    with pytest.raises(TypeError, match="client_or_url must be a URL or a synchronous client"):
        Redis(client)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "secret@localhost",
        "http://:secret@localhost",
        "redis:/:secret@localhost",
        "redis://user:secret@localhost:port",
        "redis://:secret/word@localhost",
        "redis://localhost?socket_timeout=secret",
        "redis://localhost?no_such_option=secret",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the URL of a store must begin with one of redis://") as caught:
        Redis(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_what_stands_in_a_url_is_taken(server: Server, connect: Connect) -> None:
    for url in (f"redis://127.0.0.1:{server.port}/5", f"valkey://127.0.0.1:{server.port}?db=5", f"unix://{server.path}?db=5"):
        ask(connect(url), 1, process=url)
    with server.client(db=5) as client:
        assert client.hlen("turnout:1:{turnout/d/a}") == 4


def test_a_url_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    assert "Valkey" in repr(Redis(URL))
    monkeypatch.setitem(sys.modules, "valkey", None)
    with pytest.raises(ImportError, match=re.escape("pip install turnout[redis]")):
        Redis(URL)


def test_the_library_follows_the_url() -> None:
    assert isinstance(Redis("redis://localhost")._client, redis.Redis)
    assert isinstance(Redis("valkeys://localhost")._client, valkey.Valkey)


def test_importing_loads_no_library() -> None:
    script = """
import sys, turnout.shared
assert not {"redis", "valkey", "turnout.shared.redis"} & set(sys.modules)
assert set(turnout.shared.__all__) <= set(dir(turnout.shared))
turnout.shared.Redis
assert not {"redis", "valkey"} & set(sys.modules)
try:
    turnout.shared.Reddis
except AttributeError as error:
    assert "turnout.shared" in str(error)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# --- secrets ---


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret@127.0.0.1:1/0",
        "rediss://:secret@127.0.0.1:1/0",
        "valkey://127.0.0.1:1?password=secret",
        "unix://user@/nowhere/socket?password=secret",
    ],
)
def test_no_password_is_shown(url: str, connect: Connect) -> None:
    store = connect(url)
    assert "secret" not in repr(store)
    assert "127.0.0.1:1" in repr(store) or "/nowhere/socket" in repr(store)
    with pytest.raises(StoreLost) as caught:
        ask(store, 1)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_wrong_password_is_not_shown(server: Server, connect: Connect) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "someone", "on", ">right", "~*", "+@all")
        store = connect(f"redis://someone:secret@127.0.0.1:{server.port}")
        with pytest.raises(StoreLost, match="AuthenticationError") as caught:
            ask(store, 1)
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        client.execute_command("ACL", "DELUSER", "someone")


def test_repr_of_any_client(server: Server, connect: Connect) -> None:
    said = [repr(connect(client, namespace="n")) for client in clients_of(server)]
    assert all(f"127.0.0.1:{server.port}>" in one or f"{server.path}>" in one for one in said)
    sentinel = REDIS.Sentinel([("localhost", 1)], sentinel_kwargs={"password": "secret"}).master_for("m", password="secret")
    assert repr(Redis(sentinel)).startswith("Redis(<Redis of m>, namespace='turnout', ttl=10.0, busy_ttl=60.0, horizon=0.25,")


# --- messages ---


def test_every_client_of_both_libraries(server: Server, connect: Connect) -> None:
    for index, client in enumerate(clients_of(server)):
        store = connect(client)
        batch = [("d/a", f"p{index}", message(1)), ("q/ü{}", f"p{index}", message(1, target=3))]
        first, second = store.exchange(batch)
        assert first is not None
        assert second is not None
        assert first[3] == second[3] == index + 1
        assert learning_of(first) > 0
        assert store.exchange([]) == []
        store.close()
        assert client.ping(), "the client is the user's"


def test_namespaces_share_nothing(server: Server, connect: Connect) -> None:
    one, other = connect(server.url, namespace="one"), connect(server.url, namespace="other")
    assert life_of(ask(one, 1)) != life_of(ask(other, 1))
    with server.client() as client:
        assert sorted(client.keys()) == [b"turnout:1:{one/d/a}", b"turnout:1:{other/d/a}"]


def test_the_time_is_the_servers(server: Server, connect: Connect) -> None:
    reply = ask(connect(server.url), 1)
    assert reply is not None
    assert abs(reply[0] - time.time() * 1e6) < 60 * SECOND


def test_learning_lasts_a_part_of_the_lease(server: Server, connect: Connect) -> None:
    store = connect(server.url, ttl=1.0)
    reply = ask(store, 1, target=4)
    assert (learning_of(reply), held_of(reply)) == (0.3 * SECOND, 0)
    time.sleep(0.35)
    reply = ask(store, 2, life=life_of(reply), target=4)
    assert (learning_of(reply), held_of(reply)) == (0, 4)


def test_a_script_that_is_forgotten_is_sent_again(server: Server, connect: Connect) -> None:
    store = connect(server.url)
    with server.client() as client:
        client.config_resetstat()
        for number in (1, 2):
            client.script_flush()
            replies = store.exchange([(f"d/{index}", "p", message(number)) for index in range(20)])
            assert all(replies)
        calls = {name: facts["calls"] for name, facts in client.info("commandstats").items()}
    # The script itself is sent once for twenty messages.
    assert (calls["cmdstat_eval"], calls["cmdstat_evalsha"]) == (2, 2 * 39)


def test_a_flushed_server_learns(server: Server, connect: Connect) -> None:
    store = connect(server.url)
    life = life_of(ask(store, 1))
    with server.client() as client:
        client.flushall()
    reply = ask(store, 2, life=life, have=6, target=9, used=2)
    assert life_of(reply) != life
    # What the process holds is taken from it at its word, and nothing more is granted.
    assert (learning_of(reply), held_of(reply)) == (3 * SECOND, 6)


def test_a_message_that_is_refused(server: Server, connect: Connect) -> None:
    store = connect(server.url)
    replies = store.exchange([("d/a", "p", [1, 2, 3]), ("d/a", "p", message(1))])
    assert replies[0] is None
    assert held_of(replies[1]) == 0
    with pytest.raises(StoreLost, match="these numbers are no message of a shared store"):
        store.exchange([("d/a", "p", [1, 2, 3])])


def test_a_server_that_is_a_replica_refuses(own: Server, connect: Connect) -> None:
    store = connect(own.url)
    with own.client() as client:
        client.replicaof("127.0.0.1", free_port())
        with pytest.raises(StoreLost, match=r"ReadOnlyError|MasterDownError"):
            ask(store, 1)


def test_rights_that_suffice(server: Server, connect: Connect) -> None:
    words = ["eval", "evalsha", "time", "info", "hmget", "hgetall", "hset", "hdel", "del", "pexpire"]
    words += ["publish", "subscribe", "ping"]
    with server.client() as client:
        rights = ["on", ">right", "resetkeys", "~turnout:*", "resetchannels", "-@all", *(f"+{word}" for word in words)]
        for channels in ([], ["&turnout:*"]):
            client.execute_command("ACL", "SETUSER", "someone", *rights, *channels)
            store = connect(f"redis://someone:right@127.0.0.1:{server.port}")
            woken = Heard()
            stop = store.listen(woken.append)
            # Two more than there are: the second is news, whether it may be told or not.
            assert held_of(ask(store, 1, limit=0, target=0)) == 0
            [reply] = store.exchange([("d/a", "q", [2, 0, 10 * SECOND, 0, 1, 7, PLACES, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0])])
            assert reply is not None
            if channels:
                woken.wait_for(None)
            stop()
            store.close()
        client.execute_command("ACL", "SETUSER", "someone", "-info")
        with pytest.raises(StoreLost, match="the command INFO must tell the run_id of the server"):
            ask(connect(f"redis://someone:right@127.0.0.1:{server.port}"), 1)
        client.execute_command("ACL", "DELUSER", "someone")


# --- runs ---


@pytest.mark.parametrize("package", ["redis", "valkey"])
def test_a_server_that_starts_anew_with_its_data_learns(own: Server, package: str, connect: Connect) -> None:
    """The client connects anew by itself, and no error tells of it."""
    client = import_module(package).Redis(port=own.port)
    store = connect(client, ttl=1.0)
    life = life_of(ask(store, 1))
    time.sleep(0.35)
    assert held_of(ask(store, 2, life=life, target=4)) == 4
    own.kill()
    own.start()
    reply = ask(store, 3, process="q", target=4)
    assert life_of(reply) != life
    assert (learning_of(reply), held_of(reply)) == (0.3 * SECOND, 0)
    # The record was kept: the process is known, and so is what it holds.
    reply = ask(store, 3, life=life, have=4, target=9)
    assert reply is not None
    assert (reply[3], held_of(reply)) == (2, 4)


def test_a_server_that_starts_anew_empty_learns(own: Server, connect: Connect) -> None:
    store = connect(own.url)
    life = life_of(ask(store, 1))
    own.kill()
    own.start("--appendonly", "no")
    reply = ask(store, 2, life=life, have=2, target=4)
    assert life_of(reply) != life
    assert (learning_of(reply), held_of(reply)) == (3 * SECOND, 2)


def test_a_server_that_starts_anew_with_old_data_learns(own: Server, connect: Connect) -> None:
    own.stop()
    own.start("--appendonly", "no")
    store = connect(own.url, ttl=1.0)
    life = life_of(ask(store, 1))
    time.sleep(0.35)
    assert held_of(ask(store, 2, life=life, target=2)) == 2
    with own.client() as client:
        client.save()
    assert held_of(ask(store, 3, life=life, have=2, target=5)) == 5
    own.kill()
    own.start("--appendonly", "no")
    reply = ask(store, 1, process="q", target=9)
    assert life_of(reply) != life
    assert (learning_of(reply), held_of(reply)) == (0.3 * SECOND, 0)
    assert held_of(ask(store, 4, life=life, have=5, target=9)) == 5


def test_a_replica_that_is_promoted_behind_a_stable_address_learns(own: Server, connect: Connect) -> None:
    with Server(own.program, "--replicaof", "127.0.0.1", own.port) as replica, Address(own) as address:
        store = connect(f"redis://127.0.0.1:{address.port}")
        life = life_of(ask(store, 1))
        with replica.client() as client:
            until(lambda: client.exists("turnout:1:{turnout/d/a}"), "the replica does not follow")
            assert life_of(ask(store, 2, life=life)) == life
            client.replicaof("NO", "ONE")
            address.point_to(replica)
        reply = ask(store, 3, life=life)
        assert life_of(reply) != life
        assert learning_of(reply) > 0
        # The old one, again behind the address, is another run than that which the record was written in.
        address.point_to(own)
        with own.client() as client:
            client.replicaof("127.0.0.1", replica.port)
            until(lambda: client.info("replication")["master_link_status"] == "up", "the old one does not follow")
            client.replicaof("NO", "ONE")
        assert life_of(ask(store, 4, life=life_of(reply))) not in (life, life_of(reply))


def test_sentinels(own: Server, connect: Connect) -> None:
    with Server(own.program, "--replicaof", "127.0.0.1", own.port) as replica:
        config = own.folder / "sentinel"
        port = free_port()
        lines = (f"port {port}", f"sentinel monitor m 127.0.0.1 {own.port} 1", f"sentinel known-replica m 127.0.0.1 {replica.port}")
        config.write_text("\n".join(lines))
        with replica.client() as client:
            until(lambda: client.info("replication")["master_link_status"] == "up", "the replica does not follow")
        command = [needed(own.program), str(config), "--sentinel", "--dir", str(own.folder), "--logfile", "sentinel.log"]
        with subprocess.Popen(command) as process:
            try:
                sentinel = REDIS.Sentinel([("127.0.0.1", port)])
                until(lambda: is_quick(sentinel), "the sentinel does not start")
                until(lambda: known(sentinel), "the sentinel knows no replica")
                store = connect(sentinel.master_for("m", socket_timeout=0.5))
                life = life_of(ask(store, 1))
                sentinel.sentinels[0].execute_command("SENTINEL", "FAILOVER", "m")
                until(lambda: is_primary(replica), "the replica is not promoted")
                own.kill()
                number = iter(range(2, 10_000))
                until(lambda: another_life(store, next(number), life), "the replica is not found")
                sentinel.sentinels[0].close()
            finally:
                process.terminate()


def is_quick(sentinel: Any) -> bool:
    try:
        return bool(sentinel.sentinels[0].execute_command("SENTINEL", "DEBUG", "info-period", 100, "ping-period", 100))
    except redis.ConnectionError:
        return False


def is_primary(server: Server) -> bool:
    """A sentinel cuts the connections of a replica that it promotes."""
    with server.client() as client:
        try:
            return bool(client.info("replication")["role"] == "master")
        except redis.ConnectionError:
            return False


def known(sentinel: Any) -> bool:
    try:
        return bool(sentinel.discover_slaves("m"))
    except redis.RedisError:
        return False


def another_life(store: Redis, number: int, life: int) -> bool:
    try:
        return life_of(ask(store, number, life=life)) != life
    except StoreLost:
        return False


# --- a server that is away ---


def test_nobody_answers() -> None:
    store = Redis(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(StoreLost, match=r"the store <Redis at 127.0.0.1:\d+> did not answer: ConnectionError: ") as caught:
        ask(store, 1)
    assert isinstance(caught.value, RouterError)
    assert isinstance(caught.value.__cause__, redis.ConnectionError)


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_server_that_is_silent_costs_half_a_second(own: Server, scheme: str, connect: Connect) -> None:
    url = own.url.replace("redis", scheme)
    connected, fresh = connect(url), connect(url)
    ask(connected, 1)
    own.send(signal.SIGSTOP)
    for store in (connected, fresh):
        # The shortest of some: the machine may be busy.
        assert 0.4 < min(silence(store) for _ in range(3)) < 0.9
    own.send(signal.SIGCONT)
    for number, store in enumerate((connected, fresh)):
        assert ask(store, 3 + number)


def silence(store: Redis) -> float:
    begin = time.monotonic()
    with pytest.raises(StoreLost, match="TimeoutError"):
        ask(store, 2)
    return time.monotonic() - begin


def test_a_message_after_one_that_was_lost_gets_its_own_reply(own: Server, connect: Connect) -> None:
    """What comes late from the server answers no later message."""
    store = connect(own.url)
    ask(store, 1)
    own.send(signal.SIGSTOP)
    with pytest.raises(StoreLost):
        store.exchange([("d/lost", "p", message(2)), ("d/lost", "q", message(2))])
    own.send(signal.SIGCONT)
    for number in range(3, 30):
        reply = ask(store, number, owner=f"d/{number}")
        assert reply is not None
        assert reply[3] == 1


# --- news ---


def lack(store: Redis, owner: str = "d/a") -> None:
    """Sends a message that is news: a process lacks a place."""
    number = time.monotonic_ns() % 2**50
    store.exchange([(owner, f"p{number}", [number, 0, 10 * SECOND, 0, 1, number, PLACES, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0])])


def test_news_wake(server: Server, connect: Connect) -> None:
    for client in clients_of(server):
        if isinstance(client.connection_pool, (redis.BlockingConnectionPool, valkey.BlockingConnectionPool)):
            continue  # its only connection would be the listener's
        store = connect(client)
        woken = Heard()
        stop = store.listen(woken.append)
        woken.wait(None)
        lack(connect(server.url, namespace="other"), "d/other")
        for owner in ("d/a", "q/ü{}"):
            lack(store, owner)
        woken.wait(None, "d/a", "q/ü{}")
        stop()
        stop()
        until(lambda: not listeners(), "it does not stop", 2)
        lack(store)
        assert len(woken) == 3


def listeners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "turnout-news"]


def test_a_listener_connects_anew(own: Server, connect: Connect) -> None:
    with Address(own) as address:
        for package in (REDIS, VALKEY):
            store = connect(package.Redis(port=address.port))
            woken = Heard()
            store.listen(woken.append)
            woken.wait(None)
            address.cut()
            woken.wait(None, None)
            own.stop()
            time.sleep(0.3)
            own.start()
            woken.wait_for(None, 3)
            lack(store)
            woken.wait_for("d/a")
            assert set(woken) == {None, "d/a"}
            store.close()
            until(lambda: not listeners(), "it does not stop", 3)


def test_a_listener_gives_up_a_connection_that_is_silent(server: Server, monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    module = import_module("turnout.shared.redis")
    monkeypatch.setattr(module, "_POLL", 0.02)
    monkeypatch.setattr(module, "_PING", 0.1)
    monkeypatch.setattr(module, "_DEAD", 0.3)
    with server.client(protocol=3, decode_responses=True) as client:
        woken = Heard()
        store = connect(client)
        store.listen(woken.append)
        # A server that answers is not silent.
        time.sleep(1.0)
        assert woken == [None]
        monkeypatch.setattr(client.pubsub().__class__, "ping", lambda self: None)
        woken.wait_for(None, 3)
        store.close()
        until(lambda: not listeners(), "it does not stop", 3)


def test_a_store_that_is_closed_is_silent(server: Server, connect: Connect) -> None:
    store = connect(f"{server.url}?client_name=mine")
    woken = Heard()
    store.listen(woken.append)
    store.listen(woken.append)
    woken.wait(None, None)
    with server.client() as client:
        assert "mine" in [one["name"] for one in client.client_list()]
        store.close()
        store.close()
        until(lambda: not listeners(), "they do not stop", 3)
        until(lambda: "mine" not in [one["name"] for one in client.client_list()], "connections are left open")


# --- the process ---


def run(script: str, server: Server) -> str:
    """Runs a script that must end well and say nothing on its standard error."""
    code = f"""
import os, sys, threading, time
import redis
from turnout.shared import Redis
store = Redis({server.url!r})
numbers = [1, 0, 10_000_000, 0, 0]
woken = []
def wait_for(*owners):
    deadline = time.monotonic() + 20
    while woken != list(owners):
        assert time.monotonic() < deadline, woken
        time.sleep(0.01)
{script}
"""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return ended.stdout


def test_the_end_of_the_interpreter(server: Server) -> None:
    run("store.listen(woken.append); wait_for(None)", server)
    run("store.listen(woken.append)", server)
    run("store.listen(woken.append); wait_for(None); store.close()", server)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are of Unix")
def test_a_fork(server: Server) -> None:
    # The warning of newer interpreters: a process with threads is forked, which is what this is about.
    said = run(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
stop = store.listen(woken.append)
wait_for(None)
store.exchange([("d/a", "parent", numbers)])
child = os.fork()
if not child:
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    [reply] = store.exchange([("d/a", "child", numbers)])
    assert reply[3] == 2
    del woken[:]
    store.listen(woken.append)
    wait_for(None)
    stop()
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
[reply] = store.exchange([("d/a", "parent", [2, *numbers[1:]])])
assert reply[3] == 2
store._client.publish("turnout:1:turnout", "d/a")
wait_for(None, "d/a")
print("well")
""",
        server,
    )
    assert said == "well\n"


def test_the_names_of_the_package() -> None:
    assert turnout.shared.Redis is Redis
    assert turnout.shared.StoreLost is turnout.StoreLost
