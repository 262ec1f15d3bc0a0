"""Clients and transports of httpx that route: each request goes to a deployment of its model name.

>>> from turnout import Deployment, Endpoint, Env, Router
>>> endpoint = Endpoint("https://eu.example.com/v1", api_key=Env("EU_KEY"))
>>> router = Router([Deployment("eu", "gpt-4o", endpoint=endpoint)])
>>> import turnout.httpx
>>> with turnout.httpx.Client(router) as client:
...     client.get("/models").json()["data"][0]["id"]
'gpt-4o'
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

try:
    import httpx as _http
except ImportError as _error:
    raise ImportError("turnout.httpx needs httpx: pip install 'turnout[httpx]'") from _error

from turnout._core import Router
from turnout.transports.asks import BASE_URL
from turnout.transports.bodies import Body
from turnout.transports.core import Core, need_router
from turnout.transports.drivers import Family, Tasks, Threads, run
from turnout.transports.pools import Pools, loop_of_task, loop_of_thread, without_cookies

__all__ = ["AsyncClient", "AsyncRouterTransport", "Client", "RouterTransport"]


class _Sent(_http.Request):
    """A request to a deployment. Its text leaves out the URL, whose query may hold a secret: reporters of
    errors show the variables of each frame.
    """

    def __repr__(self) -> str:
        return f"<Request({self.method!r})>"


class _AsyncStream(_http.AsyncByteStream):
    def __init__(self, body: Body) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._body.next()) is not None:
            yield chunk

    async def aclose(self) -> None:
        await self._body.close()


class _Stream(_http.SyncByteStream):
    def __init__(self, body: Body) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := run(self._body.next())) is not None:
            yield chunk

    def close(self) -> None:
        run(self._body.close())


class AsyncRouterTransport(_http.AsyncBaseTransport):
    """A transport for tasks that carries each request to its end: it picks a deployment, rewrites the request
    for it, and tries others if it fails.

    Args:
        router: The router. Its deployments need a :class:`turnout.Endpoint`.
        inner: The transport that carries requests to the deployments. None makes one for each origin and each
            loop, with the limits and the keep-alive of the SDKs and the proxies of the environment.
            ``"aiohttp"`` does the same with aiohttp, which takes less time; it needs ``pip install
            'turnout[aiohttp]'`` and asyncio.
        default_model: The model name of requests that name none, such as those for files.
        tokens: Estimates the tokens of a request, prompt and answer, from its body. None takes a quarter of
            its bytes, 1,000 for an inlined file, and the most tokens of the answer that the body allows.
    """

    def __init__(
        self,
        router: Router,
        inner: _http.AsyncBaseTransport | Literal["aiohttp"] | None = None,
        *,
        default_model: str | None = None,
        tokens: Callable[[bytes], int] | None = None,
    ) -> None:
        need_router(router)
        make = _aiohttp() if inner == "aiohttp" else _http.AsyncHTTPTransport
        pools = Pools(_http, make, loop_of_task, None if inner == "aiohttp" else inner)
        self._core = Core(Family(_http, _Sent, _AsyncStream, Tasks()), pools, router, default_model, tokens)
        router._execution.on_close(self)

    async def handle_async_request(self, request: _http.Request) -> _http.Response:
        """Carry a request to its end.

        Args:
            request: The request.

        Returns:
            The answer of a deployment, or the last failure that has an answer.

        Raises:
            TransportError: The last failure has no answer.
        """
        response: _http.Response = await self._core.handle(request)
        return response

    async def aclose(self) -> None:
        """Close the connections of this loop."""
        await self._core.close()


class RouterTransport(_http.BaseTransport):
    """A transport for threads; see :class:`AsyncRouterTransport`. A thread cannot be interrupted: an attempt
    that takes too long ends when bytes arrive, or at the latest when the client's read timeout ends.

    Args:
        router: As for :class:`AsyncRouterTransport`.
        inner: As for :class:`AsyncRouterTransport`.
        default_model: As for :class:`AsyncRouterTransport`.
        tokens: As for :class:`AsyncRouterTransport`.
    """

    def __init__(
        self,
        router: Router,
        inner: _http.BaseTransport | None = None,
        *,
        default_model: str | None = None,
        tokens: Callable[[bytes], int] | None = None,
    ) -> None:
        need_router(router)
        if inner is not None and not isinstance(inner, _http.BaseTransport):
            raise TypeError(f"inner must be a transport for threads or None, not {inner!r} ({type(inner).__name__})")
        pools = Pools(_http, _http.HTTPTransport, loop_of_thread, inner)
        self._core = Core(Family(_http, _Sent, _Stream, Threads()), pools, router, default_model, tokens)
        router._execution.on_close(self)

    def handle_request(self, request: _http.Request) -> _http.Response:
        """Carry a request to its end; see :meth:`AsyncRouterTransport.handle_async_request`.

        Args:
            request: The request.

        Returns:
            The answer of a deployment, or the last failure that has an answer.

        Raises:
            TransportError: The last failure has no answer.
        """
        response: _http.Response = run(self._core.handle(request))
        return response

    def close(self) -> None:
        """Close the connections."""
        run(self._core.close())


class AsyncClient(_http.AsyncClient):
    """A client of httpx for tasks, whose transport routes.

    Args:
        router: As for :class:`AsyncRouterTransport`.
        inner: As for :class:`AsyncRouterTransport`.
        default_model: As for :class:`AsyncRouterTransport`.
        tokens: As for :class:`AsyncRouterTransport`.
        **options: The other arguments of the client.
    """

    def __init__(
        self,
        router: Router,
        *,
        inner: _http.AsyncBaseTransport | Literal["aiohttp"] | None = None,
        default_model: str | None = None,
        tokens: Callable[[bytes], int] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("base_url", BASE_URL)
        transport = AsyncRouterTransport(router, inner, default_model=default_model, tokens=tokens)
        super().__init__(transport=transport, **_usual(options))


class Client(_http.Client):
    """A client of httpx for threads, whose transport routes.

    Args:
        router: As for :class:`AsyncRouterTransport`.
        inner: As for :class:`AsyncRouterTransport`.
        default_model: As for :class:`AsyncRouterTransport`.
        tokens: As for :class:`AsyncRouterTransport`.
        **options: The other arguments of the client.
    """

    def __init__(
        self,
        router: Router,
        *,
        inner: _http.BaseTransport | None = None,
        default_model: str | None = None,
        tokens: Callable[[bytes], int] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("base_url", BASE_URL)
        transport = RouterTransport(router, inner, default_model=default_model, tokens=tokens)
        super().__init__(transport=transport, **_usual(options))


def _aiohttp() -> Any:
    try:
        from httpx_aiohttp import AiohttpTransport
    except ImportError as error:
        raise ImportError("inner='aiohttp' needs httpx-aiohttp: pip install 'turnout[aiohttp]'") from error
    return without_cookies(AiohttpTransport)


def _usual(options: dict[str, Any]) -> dict[str, Any]:
    # The SDKs give an attempt ten minutes. The limits of the router are narrower.
    options.setdefault("timeout", _http.Timeout(600.0, connect=5.0))
    return options
