"""Servers of Redis and Valkey that tests start on ports of their own, and end."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import redis

PROGRAMS = ("redis-server", "valkey-server")


def needed(program: str) -> str:
    """Finds a server on the PATH or in the folder TURNOUT_VALKEY, or skips the test.

    With TURNOUT_TEST_ALL=1 a missing redis-server is a failure. Not every system has a package of Valkey.
    """
    found = shutil.which(program, path=os.environ.get("TURNOUT_VALKEY", "")) or shutil.which(program)
    if found is None:
        if os.environ.get("TURNOUT_TEST_ALL") == "1" and program == "redis-server":
            pytest.fail(f"{program} is not installed, and TURNOUT_TEST_ALL=1")
        pytest.skip(f"{program} is not installed: apt-get install {program}")
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def until(reached: Callable[[], object], why: str, seconds: float = 20.0) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


class PortTaken(Exception):
    """Somebody else has taken a port that was free a moment ago."""


class Server:
    """A server. Its files are in a folder of its own, so it finds them again when it is started again."""

    def __init__(self, program: str, *options: object) -> None:
        self.program = needed(program)
        # Paths of sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="turnout-"))
        self.port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        for _ in range(5):
            with suppress(PortTaken):
                self.start()
                return
            self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def path(self) -> str:
        return str(self.folder / "socket")

    def start(self, *options: object) -> None:
        command = [self.program, "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--unixsocket", self.path]
        command += ["--logfile", self.folder / "log", "--save", "", "--repl-diskless-sync-delay", 0, *self.options, *options]
        self.process = subprocess.Popen([str(word) for word in command])
        until(self.answers, "the server does not start")

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            said = (self.folder / "log").read_text()
            raise PortTaken(said) if "already in use" in said else AssertionError(said)
        with suppress(redis.RedisError), self.client() as client:
            client.ping()
            return True
        return False

    def client(self, **options: Any) -> Any:
        # Any, since the annotations of its methods leave open what is synchronous.
        return redis.Redis(port=self.port, **options)

    def send(self, signal_number: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal_number)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            # One that is stopped by SIGSTOP does not hear another signal.
            self.send(signal.SIGCONT)
            self.send(signal_number)
            self.process.wait(20)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """A cluster of servers that share the slots in equal parts."""

    def __init__(self, program: str, size: int) -> None:
        self.servers: list[Server] = []
        options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes", "--cluster-node-timeout", 2000]
        try:
            for _ in range(size):
                self.servers.append(Server(program, *options, "--cluster-port", free_port()))
            self._join()
        except BaseException:
            self.stop()
            raise

    def _join(self) -> None:
        size = len(self.servers)
        for index, server in enumerate(self.servers):
            with server.client() as client:
                first, last = (16384 * part // size for part in (index, index + 1))
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
                for other in self.servers[:index]:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, other.options[-1])
        for server in self.servers:
            with server.client() as client:
                until(partial(is_whole, client, size), "the cluster does not come up", 60)

    @contextmanager
    def moving(self, key: str) -> Iterator[None]:
        """Moves the slot of a key to the next server. Meanwhile its keys are there, and the slot is not."""
        with self.servers[0].client() as client:
            slot = client.execute_command("CLUSTER", "KEYSLOT", key)
        size = len(self.servers)
        at = next(index for index in range(size) if slot < 16384 * (index + 1) // size)
        source, target = self.servers[at], self.servers[(at + 1) % size]
        with source.client() as old, target.client() as new:
            ids = [client.execute_command("CLUSTER", "MYID").decode() for client in (old, new)]
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            for name in old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                old.execute_command("MIGRATE", "127.0.0.1", target.port, name, 0, 5000)
            yield
            for client in (new, old):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    def stop(self) -> None:
        for server in self.servers:
            server.__exit__(None, None, None)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def is_whole(client: Any, size: int) -> bool:
    said = client.execute_command("CLUSTER", "INFO")
    facts = said if isinstance(said, dict) else dict(line.split(":", 1) for line in said.decode().split())
    return (facts["cluster_state"], int(facts["cluster_known_nodes"])) == ("ok", size)


class Address:
    """A stable address: what connects to it is connected to the server that stands behind it at that time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def point_to(self, server: Server) -> None:
        """Puts another server behind it, and cuts all connections."""
        self.server = server
        self.cut()

    def cut(self) -> None:
        connections, self._connections = self._connections, []
        close(connections)

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self.server.port))
            except OSError:
                here.close()
                continue
            self._connections += (here, there)
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=pump, args=(source, target), daemon=True).start()

    def __enter__(self) -> "Address":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        close([self._listener])
        self.cut()


def close(connections: Iterable[socket.socket]) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
