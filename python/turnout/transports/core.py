"""The transport: it carries a request of a client to its end. See `turnout.transports.drivers` for how it
waits.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from turnout._core import _rewrite_request, _StreamScanner
from turnout.exceptions import RouterError
from turnout.execution.attempts import Attempt, Run
from turnout.execution.call import begin
from turnout.execution.race import Race
from turnout.transports.answers import (
    AnswerError,
    Made,
    as_texts,
    encoding_of,
    models,
    read_answer,
    redirected,
    refusal,
    unpacker,
    unroutable,
)
from turnout.transports.asks import OPTION_PREFIX, Ask, Path, read_ask, read_options, read_path, read_sent
from turnout.transports.bodies import Body

if TYPE_CHECKING:
    from turnout._core import Router
    from turnout.endpoints import Endpoint
    from turnout.transports.drivers import Driver
    from turnout.transports.pools import Pools

__all__ = ["Core"]

# Headers of a deployment that no client gets.
_KEPT_BACK = frozenset(
    # The last two are there if the deployment routes too.
    (b"connection", b"keep-alive", b"set-cookie", b"transfer-encoding", b"x-turnout-attempts", b"x-turnout-deployment")
)
_PACKED = frozenset((b"content-encoding", b"content-length"))
_LIMITS = ("x-ratelimit", "anthropic-ratelimit", "ratelimit", "retry-after")
_MOST_URLS = 1024
# The id of a response is the first in its JSON.
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]+)"')


class Core:
    """Carries the requests of one client to their ends.

    Args:
        http: The HTTP library: the module httpx2 or httpx.
        sent: The class of requests to deployments.
        stream: The class of its bodies that are read while they come; it is made of a `Body`.
        driver: What waits.
        pools: The transports to the deployments.
        router: The router.
        default_model: The model name of requests that name none.
        tokens: What estimates the tokens of a body; None for a quarter of its bytes and the most tokens of
            the answer.
    """

    def __init__(
        self,
        http: Any,
        sent: Any,
        stream: Any,
        driver: Driver,
        pools: Pools,
        router: Router,
        default_model: str | None,
        tokens: Callable[[bytes], int] | None,
    ) -> None:
        self._http, self._sent, self._stream, self._driver, self._pools = http, sent, stream, driver, pools
        self._router, self._default_model, self._tokens = router, default_model, tokens
        self._stored = router._execution.stored
        self._urls: OrderedDict[tuple[str, str, bytes], Any] = OrderedDict()
        self._warned = False

    async def handle(self, request: Any) -> Any:
        """Carry a request to its end.

        Args:
            request: The request.

        Returns:
            The answer.

        Raises:
            Exception: No deployment answered: an error of the HTTP library.
        """
        path = read_path(request.url.path)
        if path.rest in ("/models", "/v1/models") or path.rest.startswith("/models/"):
            return self._models(request, path)
        sent = read_sent(request.headers.raw)
        if sent.is_repeated and not self._warned:
            self._warned = True
            said = "the client retries by itself, on top of the attempts of the router: make it with max_retries=0"
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        body = await self._driver.read(request)
        ask = read_ask(request.method, path, sent, body, self._tokens, self._default_model)
        run = None
        try:
            given = self._options(request) if sent.has_options else {}
            if ask.follows is not None and (stored := self._stored.get(ask.follows)) is not None:
                ask = ask._replace(model_name=ask.model_name or stored[0])
                given.setdefault("only", (stored[1],))
            if ask.model_name is None:
                return self._made(request, unroutable(path.dialect, request.method, request.url.path))
            given.setdefault("tokens", ask.tokens)
            given["dialect"] = path.dialect
            run = begin(self._router, ask.model_name, given, repeats=ask.repeats, streams=ask.stream)
            return await self._carry(run, request, ask)
        except RouterError as error:
            return self._made(request, refusal(path.dialect, error), () if run is None else run.records)

    def _options(self, request: Any) -> dict[str, Any]:
        """Returns the keywords of a call that a request has in its headers."""
        return read_options({name: value for name, value in request.headers.items() if name.startswith(OPTION_PREFIX)})

    async def _carry(self, run: Run, request: Any, ask: Ask) -> Any:
        def send(attempt: Attempt) -> Coroutine[Any, Any, Any]:
            return self._attempt(run, attempt, request, ask)

        try:
            while True:
                attempt = await self._driver.acquire(run)
                if run.options.hedge is not None and self._driver.is_task:
                    won = await Race(run, send, attempt, self._drop).run()
                    if won is not None:
                        return self._answer(*won)
                    continue
                try:
                    with self._driver.scope(attempt.timeout) as scope:
                        answer = await send(attempt)
                    if scope is not None and scope.cancelled_caught:
                        raise self._http.ReadTimeout(str(attempt.timed_out()), request=request)
                    return self._answer(attempt, answer)
                except BaseException as error:
                    over = attempt.fail(error)
                    if over is not None:
                        if isinstance(error, Exception):
                            run.last(over)
                        raise
        except AnswerError as error:
            return self._failed(run, request, error)
        except TimeoutError as error:
            raise self._http.ReadTimeout(str(error), request=request) from error

    # --- one attempt ---

    async def _attempt(self, run: Run, attempt: Attempt, request: Any, ask: Ask) -> Any:
        """Sends a request to one deployment. Returns what the client gets; the lease of a body that is handed
        on while it comes has not ended.
        """
        driver, lease = self._driver, attempt.lease
        endpoint: Endpoint = lease.deployment.endpoint  # type: ignore[assignment] # the gate of the dialect lets no other pass
        body, drops_usage = self._body(ask, endpoint, lease.deployment.model)
        # The key is no local variable here: reporters of errors show those of each frame.
        sent = self._rewritten(request, ask, endpoint, body, await driver.key(endpoint.key()))
        sent.extensions = {**request.extensions, "timeout": self._timeouts(request, run, attempt.timeout)}
        is_closed = self._pools.watch()
        try:
            response = await driver.send(self._pools.get(sent.url), sent)
        except Exception as error:
            attempt.unsent, attempt.is_left = self._is_unsent(error), is_closed()
            raise
        try:
            return await self._read(run, attempt, request, ask, response, drops_usage, is_closed)
        except BaseException:
            attempt.is_left = is_closed()
            await driver.close(response.stream)
            raise

    async def _read(
        self,
        run: Run,
        attempt: Attempt,
        request: Any,
        ask: Ask,
        response: Any,
        drops_usage: bool,
        is_closed: Callable[[], bool],
    ) -> Any:
        headers: list[tuple[bytes, bytes]] = response.headers.raw
        status: int = response.status_code
        if status >= 300:
            raise AnswerError(status, headers, await self._whole(response))
        said = as_texts(headers)
        kind = said.get("content-type", "")
        if any(name.startswith(_LIMITS) for name in said):
            attempt.lease.observe(said)
        if kind.startswith("application/json"):
            raw = await self._whole(response)
            text, usage, is_error = read_answer(headers, raw)
            # What is looked up may be a failure of long ago.
            if is_error and ask.path.stored_id is None:
                raise AnswerError(status, headers, raw, text)
            if ask.stores:
                self._remember(attempt, text)
            attempt.lease.success(**usage)
            return self._response(run, attempt, response, self._http.ByteStream(raw))
        timeouts = run.options.timeouts
        assert timeouts is not None
        scanner = unpacks = None
        if kind.startswith("text/event-stream"):
            # No compression was asked for. Events are read nevertheless, so they are handed on without it.
            if encoding := encoding_of(headers):
                unpacks = unpacker(encoding)
            if unpacks is not None or not encoding:
                scanner = _StreamScanner(ask.path.dialect, drops_usage)
            if unpacks is not None:
                kept = [(name, value) for name, value in headers if name.lower() not in _PACKED]
                response.headers = self._http.Headers(kept)
        prompt = ask.tokens - ((ask.scan.most_output or 0) if ask.scan is not None else 0)
        idle = timeouts.idle
        body = Body(self._driver, self._http, request, attempt, response, scanner, max(prompt, 0), idle, is_closed, unpacks)
        if scanner is not None:
            until = None if attempt.timeout is None else attempt.lease._acquired_at + attempt.timeout
            await body.begin(until)
            if ask.stores:
                self._remember(attempt, body.seen())
        return self._response(run, attempt, response, self._stream(body), is_edited=drops_usage and scanner is not None)

    async def _whole(self, response: Any) -> bytes:
        """Reads a body as it comes, compressed or not, and closes it."""
        chunks, read = self._driver.chunks(response.stream), []
        while (chunk := await self._driver.next(chunks)) is not None:
            read.append(chunk)
        await self._driver.close(response.stream)
        return b"".join(read)

    def _remember(self, attempt: Attempt, raw: bytes) -> None:
        """Remembers where something is stored, so that requests that follow it go there."""
        found = _ID.search(raw)
        if found is not None:
            self._stored.put(found[1].decode(), (attempt.model_name, attempt.lease.deployment_id))

    def _is_unsent(self, error: Exception) -> bool:
        """Tells whether a deployment certainly did not get a request."""
        if isinstance(error, self._http.ConnectTimeout):
            # The transport over aiohttp has this name for connections that break later too.
            return not type(error.__cause__).__module__.startswith("aiohttp")
        return isinstance(error, (self._http.ConnectError, self._http.PoolTimeout))

    # --- requests ---

    def _body(self, ask: Ask, endpoint: Endpoint, model: str) -> tuple[bytes, bool]:
        """Returns the body for a deployment, and whether the usage is to be taken out of its stream."""
        body, drops_usage = ask.body, False
        if ask.scan is not None:
            drops_usage = ask.stream and not ask.scan.include_usage and ask.path.rest == "/chat/completions"
            body = _rewrite_request(body, ask.scan, model, drops_usage)
            if endpoint.rewrite is not None:
                given = json.loads(body)
                changed = endpoint.rewrite(given)
                body = json.dumps(given if changed is None else changed, ensure_ascii=False).encode()
        elif ask.field is not None:
            body = body[: ask.field[0]] + model.encode() + body[ask.field[1] :]
        return body, drops_usage

    def _rewritten(self, request: Any, ask: Ask, endpoint: Endpoint, body: bytes, key: Any) -> Any:
        """Returns the request to a deployment."""
        url = self._url(endpoint, ask.path.rest, request.url.query)
        own = endpoint.headers()
        raw = [header for header in ask.kept if not own or header[0].lower().decode("latin-1") not in own]
        # The client's own key is not among those that are kept.
        if auth := endpoint.auth_header(key):
            own[auth[0]] = auth[1]
        raw += [(b"host", url.netloc), (b"accept-encoding", b"identity" if ask.stream else b"gzip, deflate")]
        raw += [(name.encode(), value.encode()) for name, value in own.items()]
        if body or request.method not in ("GET", "HEAD", "DELETE"):
            raw.append((b"content-length", str(len(body)).encode()))
        # A copy that is not made anew: to make a request and its URL takes longer than all else here.
        sent = object.__new__(self._sent)
        sent.__dict__.update(request.__dict__)
        sent.url, sent.headers, sent.stream = url, self._http.Headers(raw), self._http.ByteStream(body)
        sent._content = body
        return sent

    def _timeouts(self, request: Any, run: Run, limit: float | None) -> dict[str, float | None]:
        timeouts = run.options.timeouts
        assert timeouts is not None
        given = dict(request.extensions.get("timeout", {}))
        # In a thread the scope does nothing. There these bound the attempt, as far as they can.
        bounds = {"connect": (timeouts.connect, limit), "read": (timeouts.idle, limit), "write": (limit,), "pool": (limit,)}
        for name, own in bounds.items():
            given[name] = min((bound for bound in (given.get(name), *own) if bound is not None), default=None)
        return given

    def _url(self, endpoint: Endpoint, rest: str, query: bytes) -> Any:
        key = (endpoint.base_url, rest, query)
        url = self._urls.get(key) if not endpoint.query else None
        if url is None:
            url = self._http.URL(endpoint.base_url + rest + (f"?{query.decode()}" if query else ""))
            if endpoint.query:
                url = url.copy_merge_params(dict(endpoint.query))
            else:
                self._urls[key] = url
                if len(self._urls) > _MOST_URLS:
                    self._urls.popitem(last=False)
        return url

    # --- answers ---

    def _response(self, run: Run, attempt: Attempt, response: Any, stream: Any, *, is_edited: bool = False) -> Any:
        raw = [
            (name, value)
            for name, value in response.headers.raw
            if (lower := name.lower()) not in _KEPT_BACK and not (is_edited and lower == b"content-length")
        ]
        raw += _told(attempt.lease.deployment_id, len(run.records) + 1)
        extensions = {**response.extensions, "turnout": run.records}
        return self._http.Response(response.status_code, headers=raw, stream=stream, extensions=extensions)

    def _answer(self, attempt: Attempt, answer: Any) -> Any:
        """Ends the attempt of an answer, if that has come as a whole."""
        if attempt.lease.released and attempt.record is None:
            attempt.note(None, answer.status_code, None)
        return answer

    def _failed(self, run: Run, request: Any, error: AnswerError) -> Any:
        """Returns the last failure as the answer that it was."""
        last = run.records[-1].deployment_id if run.records else ""
        if 300 <= error.status < 400:
            made = redirected(read_path(request.url.path).dialect, error.headers.get("location"))
            return self._made(request, made, run.records)
        raw = [
            (name, value)
            for name, value in error.raw_headers
            if name.lower() not in _KEPT_BACK and name.lower() != b"content-length"
        ]
        raw = [(name, value) for name, value in raw if name.lower() != b"x-should-retry"]
        raw += [(b"x-should-retry", b"false"), *_told(last, len(run.records))]
        stream, extensions = self._http.ByteStream(error.raw), {"turnout": run.records}
        return self._http.Response(error.status, headers=raw, stream=stream, extensions=extensions)

    def _made(self, request: Any, made: Made, records: Any = ()) -> Any:
        headers = {**made.headers, "content-length": str(len(made.body))}
        stream, extensions = self._http.ByteStream(made.body), {"turnout": records}
        return self._http.Response(made.status, headers=headers, stream=stream, extensions=extensions)

    def _models(self, request: Any, path: Path) -> Any:
        dialect = "anthropic" if "anthropic-version" in request.headers else "openai"
        _, _, one = path.rest.partition("/models/")
        return self._made(request, models(dialect, {*self._router.models(), *self._router.aliases()}, one or None))

    async def _drop(self, answer: Any) -> None:
        await self._driver.close(answer.stream)

    async def close(self) -> None:
        """Close the connections of this loop."""
        for transport in self._pools.take():
            await self._driver.close(transport)


def _told(deployment_id: str, attempts: int) -> list[tuple[bytes, bytes]]:
    # A header has no other letters than these.
    told = deployment_id.encode("ascii", "backslashreplace")
    return [(b"x-turnout-deployment", told), (b"x-turnout-attempts", str(attempts).encode())]
