"""The transports that carry requests to the deployments: a pool of connections for each origin and each loop.

A pool for all origins could be filled by one that hangs, and a pool is bound to the loop that it was first
used in. A forked process shares no connection with its parent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

from turnout.exceptions import ConfigurationError
from turnout.waiting import runs_in_trio

__all__ = ["Pools", "loop_of_task", "without_cookies"]

# As the SDKs have them: openai has these limits, anthropic has these options of sockets.
_MOST_CONNECTIONS = 1000
_MOST_KEPT = 100
_KEEP_ALIVE = [
    (getattr(socket, level), getattr(socket, option), value)
    for level, option, value in (
        ("SOL_SOCKET", "SO_KEEPALIVE", 1),
        ("IPPROTO_TCP", "TCP_KEEPIDLE", 60),
        ("IPPROTO_TCP", "TCP_KEEPINTVL", 60),
        ("IPPROTO_TCP", "TCP_KEEPCNT", 5),
    )
    if hasattr(socket, level) and hasattr(socket, option)
]


def loop_of_task() -> object:
    """Return the loop that this task runs in."""
    if runs_in_trio():
        import trio

        return trio.lowlevel.current_trio_token()
    import asyncio

    return asyncio.get_running_loop()


class _Threads:
    """Stands for a loop where threads wait."""


_THREADS = _Threads()


def loop_of_thread() -> object:
    """Return what stands for a loop where threads wait."""
    return _THREADS


class Pools:
    """The transports of one client.

    Args:
        http: The HTTP library.
        make: The class of its transports.
        loop: Returns the loop that a request runs in.
        given: A transport that the user has made, which carries all requests; None for transports of our own.
    """

    def __init__(self, http: Any, make: Any, loop: Callable[[], object], given: Any = None) -> None:
        self._http, self._make, self._loop, self._given = http, make, loop, given
        self._lock = Lock()
        self._process = os.getpid()
        self._pools: WeakKeyDictionary[object, dict[str, Any]] = WeakKeyDictionary()
        self._inherited: list[object] = []
        self._closes = 0
        self._trust: Any = None

    def get(self, origin: str) -> Any:
        """Return the transport to an origin.

        Args:
            origin: The origin, such as ``https://eu.example.com``.

        Returns:
            The transport.
        """
        if self._given is not None:
            return self._given
        loop = self._loop()
        with self._lock:
            if self._process != os.getpid():
                # The connections are the parent's: they must be neither used nor closed here.
                self._inherited.append(self._pools)
                self._process, self._pools = os.getpid(), WeakKeyDictionary()
            pools = self._pools.get(loop)
            if pools is None:
                self._forget_closed_loops()
                pools = self._pools[loop] = {}
            if origin not in pools:
                pools[origin] = self._open(self._http.URL(origin))
            return pools[origin]

    def _forget_closed_loops(self) -> None:
        """Forgets the pools of loops that are closed. Their connections keep the loops alive."""
        for loop in list(self._pools):
            is_closed = getattr(loop, "is_closed", None)
            if is_closed is not None and is_closed():
                del self._pools[loop]

    def _open(self, url: Any) -> Any:
        limits = self._http.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_KEPT)
        proxy = _proxy(self._http, url)
        if self._trust is None and (url.scheme == "https" or proxy is not None):
            # To load the certificates takes tens of milliseconds. All origins trust the same ones.
            self._trust = self._http.create_ssl_context()
        return self._make(verify=self._trust or False, limits=limits, proxy=proxy, socket_options=_KEEP_ALIVE)

    def watch(self) -> Callable[[], bool]:
        """Return a function that tells whether transports were closed since."""
        closes = self._closes
        return lambda: self._closes != closes

    def take(self) -> list[Any]:
        """Return the transports of this loop that are to be closed, once."""
        self._closes += 1
        if self._given is not None:
            return [self._given]
        try:
            loop = self._loop()
        except RuntimeError:
            return []
        with self._lock:
            return list(self._pools.pop(loop, {}).values()) if self._process == os.getpid() else []


def without_cookies(transport: Any) -> Any:
    """Return what makes transports over aiohttp whose sessions keep no cookies. Otherwise those of one
    deployment would reach others of the same host.

    Args:
        transport: The class of httpx-aiohttp.

    Returns:
        A function that takes the arguments of the class.
    """
    import aiohttp

    def make(**options: Any) -> Any:
        usual = transport(**options)

        def session() -> aiohttp.ClientSession:
            with_cookies = usual.get_client()
            made = aiohttp.ClientSession(connector=with_cookies.connector, cookie_jar=aiohttp.DummyCookieJar())
            with_cookies.detach()
            return made

        return transport(**options, client=session)

    return make


def _proxy(http: Any, url: Any) -> Any:
    """Returns the proxy that the environment names for an URL."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(url.host):
        return None
    with suppress(Exception):
        return http.Proxy(proxy if "://" in proxy else f"http://{proxy}")
    # It may hold a password, and reporters of errors show the variables of each frame.
    del proxies, proxy
    raise ConfigurationError("the environment names a proxy that cannot be used: it must be like 'http://proxy.example:8080'")
