"""A server of Redis or Valkey as the store of what processes share, for processes on any number of hosts.

One script on the server (``sync.lua``) handles a message. It agrees with ``crate::shared::Books`` message by
message. All numbers of a message are absolute, so a message that is sent twice does no harm.

The script reads the run id of its server itself, by INFO. A client cannot know it for certain: it connects
anew, unseen, even within a pipeline, and the server behind an address may by then be another one, or the same
one without its last second. Inside of the script there is no such gap, whatever the client and the topology.
"""

import atexit
import importlib.resources
import logging
import secrets
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from turnout._checks import number, seconds
from turnout.exceptions import ConfigurationError, StoreLost

if TYPE_CHECKING:
    import redis
    import valkey

    _Client = redis.Redis | redis.RedisCluster | valkey.Valkey | valkey.ValkeyCluster

__all__ = ["Redis"]

# Keys and channels bear the version of the protocol. Versions share nothing.
_PREFIX = "turnout:1"
_SCRIPT = importlib.resources.files("turnout.shared").joinpath("sync.lua").read_text("utf-8")
_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

# The share of a lease for which is learnt after a loss: who holds something must speak in this time.
_LEARN = 0.3
# Seconds that a server may take to connect and to answer, if the client is made from a URL.
_TIMEOUT = 0.5
# Seconds after which a listener looks whether it is stopped, asks a silent server for a sign of life, and
# gives a silent connection up.
_POLL, _PING, _DEAD = 0.25, 5.0, 10.0

_ON_LOSS = ("closed", "share", "open")
_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class Redis:
    """A server of Redis (6 or newer) or Valkey, or a cluster of them, as the store of shared state.

    Routers share the limits of the deployments and quotas that have the same ids, if their stores have the
    same namespace on the same server. The server must not throw this state away when memory is short: its
    policy must be ``noeviction``. What is lost is learnt anew from the processes. Until then nothing more is
    granted.

    The server's user needs the commands EVAL, EVALSHA, TIME, INFO, HMGET, HGETALL, HSET, HDEL, DEL, PEXPIRE,
    PUBLISH, SUBSCRIBE and PING, the keys ``turnout:*`` and the channels ``turnout:*``. Without the channels
    all limits are as exact, but others hear of changes a little later.

    Args:
        client_or_url: A synchronous client of redis-py or valkey-py (``redis.Redis``, ``redis.RedisCluster``,
            ``valkey.Valkey``, ``valkey.ValkeyCluster``), with its own settings and time-outs. Its pool must
            have two connections or more: one listens for news. Or the URL of a server: ``redis://``,
            ``rediss://`` (TLS), ``unix://``, and likewise ``valkey://`` and ``valkeys://``. A client that is
            made from a URL waits for an answer for 0.5 s at most.
        namespace: Names those who share: all routers whose stores have the same namespace. Any text without
            ``/``, ``{`` and ``}``.
        ttl: Seconds that a process counts as alive after its last message.
        busy_ttl: Seconds for which its places in flight (``max_parallel_requests``) stay taken after that.
            The server cannot tell a dead process from a slow one, whose requests are still under way. So make
            it as long as the longest request.
        horizon: Seconds of its own demand that a process holds ahead of need.
        patience: Seconds that a call without a wait of its own waits for the store, if nothing is held.
        on_loss: What is allowed while the store cannot be reached, once what is held is used up: ``"closed"``
            for nothing, ``"share"`` for an equal share of each limit, ``"open"`` for the whole limit.

    Raises:
        ConfigurationError: A value is out of range, or the URL is none of a server.
        ImportError: A URL is given, and neither redis-py nor valkey-py is installed.
        TypeError: A value is of the wrong type, such as a client of asyncio.
    """

    namespace: str
    ttl: float
    busy_ttl: float
    horizon: float
    patience: float
    on_loss: Literal["closed", "share", "open"]
    _client: Any
    _package: ModuleType
    # Whether the client was made here.
    _is_own: bool
    # What ends the listeners.
    _stops: list[Callable[[], None]]

    def __init__(
        self,
        client_or_url: "_Client | str",
        *,
        namespace: str = "turnout",
        ttl: float = 10.0,
        busy_ttl: float = 60.0,
        horizon: float = 0.25,
        patience: float = 0.05,
        on_loss: Literal["closed", "share", "open"] = "share",
    ) -> None:
        given = {
            "namespace": namespace,
            "ttl": ttl,
            "busy_ttl": busy_ttl,
            "horizon": horizon,
            "patience": patience,
            "on_loss": on_loss,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)
        _check_namespace(namespace)
        number(self, "ttl", 0.1, 86_400.0, "a number of seconds from 0.1 to 86400")
        seconds(self, "busy_ttl")
        number(self, "horizon", 0.001, self.ttl, f"a number of seconds from 0.001 to ttl ({self.ttl:g})")
        seconds(self, "patience")
        if on_loss not in _ON_LOSS:
            raise ConfigurationError(f"on_loss must be one of {', '.join(map(repr, _ON_LOSS))}, not {on_loss!r}")
        is_own = isinstance(client_or_url, str)
        client, package = _connect(client_or_url) if isinstance(client_or_url, str) else _check(client_or_url)
        for name, value in {"_client": client, "_package": package, "_is_own": is_own, "_stops": []}.items():
            object.__setattr__(self, name, value)

    @property
    def learn(self) -> float:
        """Seconds for which nothing new is granted after a loss, at most: three tenths of ``ttl``."""
        return _LEARN * self.ttl

    def exchange(self, batch: Sequence[tuple[str, str, list[int]]]) -> list[list[int] | None]:
        """Send messages, all at once, and return the replies.

        Args:
            batch: The messages: for each its owner, its process, and its numbers as they go over the wire.

        Returns:
            The numbers of the replies, in the same order. None where the store did not answer a message. That
            happens while it answers others: in a cluster one server may be away.

        Raises:
            StoreLost: The store answered no message.
        """
        commands = [self._command(*message) for message in batch]
        answers = self._ask_cluster(commands) if self._is_cluster else self._ask(self._client, commands)
        replies = [None if isinstance(answer, Exception) else answer for answer in answers]
        if replies and not any(replies):
            failure = answers[0]
            raise StoreLost(f"the store {self._where} did not answer: {_said(failure)}") from failure
        return replies

    def listen(self, wake: Callable[[str | None], object]) -> Callable[[], None]:
        """Call a function at news of other processes, in a thread of its own.

        Args:
            wake: Called with the owner that the news is about. Called with None each time that the thread has
                begun to listen, since news before that are not heard.

        Returns:
            A function that ends that, within a second. In a process that was forked the thread does not run.
        """
        listener = _Listener(self._client, _channel(self.namespace), wake, self._where)
        listener.start()

        def stop() -> None:
            listener.stop()
            atexit.unregister(stop)

        atexit.register(stop)
        self._stops.append(stop)
        return stop

    def close(self) -> None:
        """End the listeners, and close the connections if the store was made from a URL."""
        while self._stops:
            self._stops.pop()()
        if self._is_own:
            self._client.close()

    def __repr__(self) -> str:
        return (
            f"Redis({self._where}, namespace={self.namespace!r}, ttl={self.ttl!r}, busy_ttl={self.busy_ttl!r}, "
            f"horizon={self.horizon!r}, patience={self.patience!r}, on_loss={self.on_loss!r})"
        )

    @property
    def _where(self) -> str:
        return f"<{type(self._client).__name__}{_place(self._client)}>"

    @property
    def _errors(self) -> Any:
        return self._package.exceptions

    @property
    def _is_cluster(self) -> bool:
        return isinstance(self._client, self._package.RedisCluster)

    def _command(self, owner: str, process: str, numbers: list[int]) -> tuple[str | bytes | int, ...]:
        key = f"{_PREFIX}:{{{self.namespace}/{owner}}}"
        packed = struct.pack(f"<{len(numbers)}d", *numbers)
        life = secrets.randbits(52) or 1
        return (1, key, process, _channel(self.namespace), owner, life, round(self.learn * 1e6), packed)

    def _ask(self, client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run the script for each command on one server. An answer may be an exception."""
        try:
            answers = _pipeline(client, [("EVALSHA", _SHA, *command) for command in commands])
            unknown = [place for place, answer in enumerate(answers) if isinstance(answer, self._errors.NoScriptError)]
            if unknown:
                # The first brings the script along, so that the server knows it for the others.
                scripts = [("EVAL", _SCRIPT), *[("EVALSHA", _SHA)] * (len(unknown) - 1)]
                again = [(*script, *commands[place]) for script, place in zip(scripts, unknown, strict=True)]
                for place, answer in zip(unknown, _pipeline(client, again), strict=True):
                    answers[place] = answer
        except Exception as error:  # of any class: the client may be derived from the library's
            return [error] * len(commands)
        return answers

    def _ask_cluster(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Ask each server of a cluster for itself: one that is away does not keep the others' answers."""
        answers: list[Any] = [None] * len(commands)
        servers: dict[str, tuple[Any, list[int]]] = {}
        for place, command in enumerate(commands):
            try:
                node = self._client.get_node_from_key(command[1])
            except Exception as error:
                answers[place] = error
            else:
                servers.setdefault(node.name, (node, []))[1].append(place)
        client_of = getattr(self._client, f"get_{self._package.__name__}_connection")
        for node, places in servers.values():
            for place, answer in zip(places, self._ask(client_of(node), [commands[place] for place in places]), strict=True):
                answers[place] = answer
        for place, answer in enumerate(answers):
            if isinstance(answer, (self._errors.AskError, self._errors.TryAgainError)):
                # The slot has moved, or is moving. The client follows it.
                answers[place] = self._ask_one(commands[place])
        if any(isinstance(answer, Exception) for answer in answers):
            self._look_anew()
        return answers

    def _ask_one(self, command: tuple[Any, ...]) -> Any:
        try:
            return self._client.execute_command("EVAL", _SCRIPT, *command)
        except Exception as error:
            return error

    def _look_anew(self) -> None:
        """Look which servers a cluster has now."""
        try:
            self._client.nodes_manager.initialize()
        except Exception as error:
            _log.debug("the servers of %s are not known: %s", self._where, _said(error))


class _Listener:
    """Hears news, in a thread of its own. It has no lock, so a fork cannot leave one locked."""

    __slots__ = ("_channel", "_client", "_is_stopped", "_wake", "_where")

    def __init__(self, client: Any, channel: str, wake: Callable[[str | None], object], where: str) -> None:
        self._client = client
        self._channel = channel
        self._wake = wake
        self._where = where
        self._is_stopped = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="turnout-news", daemon=True).start()

    def stop(self) -> None:
        self._is_stopped = True

    def _run(self) -> None:
        """Listen, and begin anew after an error, after up to a second."""
        delay = 0.05
        while not self._is_stopped:
            try:
                pubsub = self._client.pubsub()
                try:
                    pubsub.subscribe(self._channel)
                    self._hear(pubsub)
                finally:
                    pubsub.close()
                delay = 0.05
            except Exception as error:  # whatever it is, the next try may succeed
                if self._is_stopped:
                    return
                _log.debug("no news from %s: %s", self._where, _said(error))
                time.sleep(delay)
                delay = min(2 * delay, 1.0)

    def _hear(self, pubsub: Any) -> None:
        """Pass news on until this is stopped, or until nothing is heard any more."""
        heard = asked = time.monotonic()
        while not self._is_stopped:
            message = pubsub.get_message(timeout=_POLL)
            now = time.monotonic()
            if message is None:
                if now - heard > _DEAD:
                    return
                if now - max(heard, asked) > _PING:
                    # A connection that was cut without a word would be silent for ever.
                    asked = now
                    pubsub.ping()
                continue
            heard = now
            if self._is_stopped:
                return
            if message["type"] == "subscribe":
                # At first, and each time that the client has connected anew by itself.
                self._wake(None)
            elif message["type"] == "message":
                data = message["data"]
                self._wake(data.decode() if isinstance(data, bytes) else data)


def _pipeline(client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    return answers


def _channel(namespace: str) -> str:
    # PUBLISH reaches each listener, to whatever server of a cluster it is connected. SPUBLISH would reach
    # only those on the owner's server: each listener would need a connection to each server, and a
    # subscription for each owner. And servers know it from version 7 on. News are rare enough to be sent to
    # all servers: of a meter that is wanted there is one in half a second, unless units come back.
    return f"{_PREFIX}:{namespace}"


def _said(error: Exception) -> str:
    """Return what an exception said, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _place(client: Any) -> str:
    """Return where a client connects to, without secrets, or nothing."""
    try:
        if hasattr(client, "connection_pool"):
            pool = client.connection_pool
            facts = pool.connection_kwargs
            if "path" in facts:
                return f" at {facts['path']}"
            if hasattr(pool, "service_name"):
                return f" of {pool.service_name}"
            return f" at {facts['host']}:{facts['port']}"
        return f" at {client.get_default_node().name}"
    except (AttributeError, LookupError, TypeError):
        return ""


def _check_namespace(namespace: object) -> None:
    said = f"namespace must be a text of one character or more without '/', '{{' and '}}', not {namespace!r}"
    if not isinstance(namespace, str):
        raise TypeError(f"{said} ({type(namespace).__name__})")
    # A slash separates it from the owner. The braces tell a cluster what belongs together.
    if not namespace or set(namespace) & set("/{}"):
        raise ConfigurationError(said)


def _check(client: object) -> tuple[object, ModuleType]:
    """Return the client, and the package that it is of. valkey has redis's names too."""
    for name in ("redis", "valkey"):
        package = sys.modules.get(name)
        if package is not None and isinstance(client, (package.Redis, package.RedisCluster)):
            return client, package
    raise TypeError(
        "client_or_url must be a URL or a synchronous client (redis.Redis, redis.RedisCluster, valkey.Valkey, "
        f"valkey.ValkeyCluster), not {type(client).__module__}.{type(client).__qualname__}"
    )


def _connect(url: str) -> tuple[object, ModuleType]:
    """Make a client."""
    scheme, separator, rest = url.partition("://")
    # Messages show nothing of the URL, which may have a password anywhere.
    said = f"the URL of a store must begin with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}"
    if not separator or scheme not in _SCHEMES:
        raise ConfigurationError(said)
    package = _package("valkey" if scheme.startswith("valkey") else "redis")
    if package.__name__ == "valkey":
        scheme = scheme.replace("redis", "valkey")
    else:
        scheme = scheme.replace("valkeys", "rediss").replace("valkey", "redis")
    backoff, retry = (import_module(f"{package.__name__}.{name}") for name in ("backoff", "retry"))
    # One more try if the server closed the connection. None if it was silent: no time is left.
    once_more = retry.Retry(backoff.NoBackoff(), 1, supported_errors=(package.ConnectionError,))
    try:
        client = package.Redis.from_url(
            f"{scheme}://{rest}", socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=once_more
        )
        # Options that there are not would be found only when it connects.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{said} and name a server, like redis://localhost:6379/0") from None
    return client, package


def _package(preferred: str) -> ModuleType:
    for name in sorted(("redis", "valkey"), key=lambda name: name != preferred):
        try:
            return import_module(name)
        except ImportError:
            pass
    raise ImportError("turnout.shared.Redis needs redis-py or valkey-py for a URL: pip install turnout[redis]")
