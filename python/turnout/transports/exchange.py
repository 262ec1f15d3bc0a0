"""One request to one deployment, and its answer."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from turnout._core import _rewrite_request, _StreamScanner
from turnout.exceptions import ConfigurationError
from turnout.execution.plan import least
from turnout.transports.answers import AnswerError, as_texts, encoding_of, read_answer, unpacker
from turnout.transports.bodies import Body
from turnout.transports.drivers import Family

if TYPE_CHECKING:
    from turnout.endpoints import Endpoint
    from turnout.execution.attempts import Attempt, Run
    from turnout.transports.asks import Ask
    from turnout.transports.pools import Pools

__all__ = ["Exchange", "Urls", "told"]

# The id of what a provider keeps is the first in its JSON.
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]+)"')


class Target(NamedTuple):
    """Where a request goes.

    Attributes:
        url: The URL.
        origin: Its origin, such as ``https://eu.example.com``.
        host: The value of the header of this name.
    """

    url: Any
    origin: str
    host: bytes


class Urls:
    """Where requests to deployments go. To read an URL takes longer than most that is done here.

    Args:
        http: The HTTP library.
    """

    MOST = 1024

    def __init__(self, http: Any) -> None:
        self._http = http
        self._known: OrderedDict[tuple[str, str, bytes], Target] = OrderedDict()

    def get(self, endpoint: Endpoint, rest: str, query: bytes) -> Target:
        """Return where a request goes.

        Args:
            endpoint: The endpoint of the deployment.
            rest: The path behind its base URL.
            query: The query of the client's request.

        Returns:
            The target.
        """
        # The query of an endpoint may hold a secret, so it is not kept here.
        key = (endpoint.base_url, rest, query)
        target = self._known.get(key) if not endpoint.query else None
        if target is None:
            url = self._http.URL(endpoint.base_url + rest + (f"?{query.decode()}" if query else ""))
            if endpoint.query:
                url = url.copy_merge_params(dict(endpoint.query))
            target = Target(url, f"{url.scheme}://{url.netloc.decode()}", url.netloc)
            if not endpoint.query:
                self._known[key] = target
                if len(self._known) > self.MOST:
                    self._known.popitem(last=False)
        return target


class Exchange:
    """One request to one deployment, and its answer.

    Args:
        family: The HTTP library.
        pools: The transports to the deployments.
        urls: The URLs of requests.
        run: The call.
        attempt: The attempt.
        request: The request of the client.
        ask: What it asks for.
    """

    __slots__ = ("_ask", "_attempt", "_bounds", "_drops_usage", "_family", "_is_closed", "_pools", "_request", "_run", "_urls")

    def __init__(self, family: Family, pools: Pools, urls: Urls, run: Run, attempt: Attempt, request: Any, ask: Ask) -> None:
        self._family, self._pools, self._urls = family, pools, urls
        self._run, self._attempt, self._request, self._ask = run, attempt, request, ask
        self._bounds = self._timeouts()
        self._is_closed = pools.watch()
        # The client did not ask for the usage of its stream, so it is taken out again.
        self._drops_usage = (
            ask.stream and ask.scan is not None and not ask.scan.include_usage and ask.path.rest == "/chat/completions"
        )

    async def answer(self) -> Any:
        """Send the request.

        Returns:
            What the client gets. The lease of a body that is handed on while it comes has not ended.

        Raises:
            AnswerError: The answer is a failure.
            Exception: There is no answer.
        """
        driver, attempt = self._family.driver, self._attempt
        endpoint: Endpoint = attempt.lease.deployment.endpoint  # type: ignore[assignment] # the gate of the dialect lets no other pass
        try:
            body = self._body(endpoint)
        except Exception:
            attempt.is_left = True  # by the user's own function
            raise
        attempt.unsent = True
        try:
            # The key is no local variable here: reporters of errors show those of each frame.
            origin, sent = self._sent(endpoint, body, endpoint.headers(), endpoint.auth_header(await driver.key(endpoint.key())))
        except (ConfigurationError, TypeError):
            attempt.has_no_key = True
            raise
        attempt.unsent = False
        try:
            response = await driver.send(self._pools.get(origin), sent)
        except Exception as error:
            attempt.unsent, attempt.is_left = self._is_unsent(error), self._is_closed()
            raise
        try:
            return await self._read(response)
        except BaseException:
            attempt.is_left = self._is_closed()
            await driver.close(response.stream)
            raise

    def _is_unsent(self, error: Exception) -> bool:
        """Tells whether a deployment certainly did not get a request."""
        http = self._family.http
        if isinstance(error, http.ConnectTimeout):
            # The transport over aiohttp has this name for connections that break later too.
            return not type(error.__cause__).__module__.startswith("aiohttp")
        return isinstance(error, (http.ConnectError, http.PoolTimeout))

    # --- the request ---

    def _body(self, endpoint: Endpoint) -> bytes:
        """Returns the body for the deployment."""
        ask, model = self._ask, self._attempt.lease.model
        body = ask.body
        if ask.scan is not None:
            body = _rewrite_request(body, ask.scan, model, self._drops_usage)
            if endpoint.rewrite is not None:
                given = json.loads(body)
                changed = endpoint.rewrite(given)
                body = json.dumps(given if changed is None else changed).encode()
        elif ask.field is not None:
            body = body[: ask.field[0]] + model.encode() + body[ask.field[1] :]
        return body

    def _sent(self, endpoint: Endpoint, body: bytes, own: dict[str, str], auth: tuple[str, str] | None) -> tuple[str, Any]:
        """Returns the origin of the deployment, and the request to it."""
        http, request, ask = self._family.http, self._request, self._ask
        url, origin, host = self._urls.get(endpoint, ask.path.rest, request.url.query)
        raw = [header for header in ask.kept if header[0].lower().decode("latin-1") not in own] if own else ask.kept[:]
        # The client's own key is not among those that are kept.
        if auth is not None:
            own[auth[0]] = auth[1]
        raw += [(b"host", host), (b"accept-encoding", b"identity" if ask.stream else b"gzip, deflate")]
        raw += [(name.encode(), value.encode()) for name, value in own.items()]
        if body or request.method not in ("GET", "HEAD", "DELETE"):
            raw.append((b"content-length", b"%d" % len(body)))
        # A copy that is not made anew: to make a request and its URL takes longer than all else here.
        sent = object.__new__(self._family.request)
        sent.__dict__.update(request.__dict__)
        sent.url, sent.headers, sent.stream = url, http.Headers(raw), http.ByteStream(body)
        sent._content = body
        sent.extensions = {**request.extensions, "timeout": self._bounds}
        return origin, sent

    def _given(self, name: str) -> float | None:
        """Returns a timeout that the client gave to its request."""
        given: float | None = (self._request.extensions.get("timeout") or {}).get(name)
        return given

    def _timeouts(self) -> dict[str, float | None]:
        """Returns the timeouts of the HTTP library."""
        timeouts, given = self._run.options.timeouts, self._given
        assert timeouts is not None
        # The scope of a task bounds the attempt. In a thread it does nothing: these do, as far as they can.
        limit = None if self._family.driver.is_task else self._attempt.timeout
        return {
            "connect": least(least(given("connect"), timeouts.connect), limit),
            "read": least(least(given("read"), timeouts.idle), limit),
            "write": least(given("write"), limit),
            "pool": least(given("pool"), limit),
        }

    # --- the answer ---

    async def _read(self, response: Any) -> Any:
        headers: list[tuple[bytes, bytes]] = response.headers.raw
        attempt, ask, status = self._attempt, self._ask, response.status_code
        if status >= 300:
            # A failure whose body is cut has its status nevertheless.
            raise AnswerError(status, headers, await self._whole(response, may_end_early=True))
        said = as_texts(headers)
        if "set-cookie" in said:
            # The client sees one host. Cookies of one provider would go to all.
            del response.headers["set-cookie"]
        attempt.lease.observe(said)
        kind = said.get("content-type", "").lower()
        if not kind.startswith("application/json"):
            return await self._streamed(response, is_events=kind.startswith("text/event-stream"))
        raw = await self._whole(response)
        text, usage, is_error = read_answer(headers, raw)
        # What is looked up may be a failure of long ago.
        if is_error and ask.path.stored_id is None:
            raise AnswerError(status, headers, raw, text)
        if ask.stores:
            self._remember(text)
        attempt.lease.success(**usage)
        return self._told(response, self._family.http.ByteStream(raw))

    async def _whole(self, response: Any, *, may_end_early: bool = False) -> bytes:
        """Reads a body as it comes, compressed or not, and closes it."""
        driver, attempt = self._family.driver, self._attempt
        until = self._until()
        chunks: Any = driver.chunks(response.stream)
        read: list[bytes] = []
        while True:
            try:
                chunk = await driver.next(chunks)
            except self._family.http.TransportError:
                if not may_end_early:
                    raise
                chunk = None
            if chunk is None:
                break
            if until is not None and attempt.now() > until:
                raise self._family.http.ReadTimeout("the answer took too long", request=self._request)
            read.append(chunk)
        await driver.close(response.stream)
        return b"".join(read)

    async def _streamed(self, response: Any, *, is_events: bool) -> Any:
        """Hands a body on while it comes, events from the first one on."""
        driver, attempt, ask = self._family.driver, self._attempt, self._ask
        timeouts = self._run.options.timeouts
        assert timeouts is not None
        scanner = unpacks = None
        if is_events:
            # No compression was asked for. Events are read nevertheless, so they are handed on without it.
            encoding = encoding_of(response.headers.raw)
            unpacks = unpacker(encoding)
            if unpacks is not None or not encoding:
                scanner = _StreamScanner(ask.path.dialect, self._drops_usage)
            if unpacks is not None:
                del response.headers["content-encoding"]
            if unpacks is not None or self._drops_usage:
                response.headers.pop("content-length", None)
        prompt = max(ask.tokens - ((ask.scan.most_output or 0) if ask.scan is not None else 0), 0)
        idle = timeouts.idle
        body = Body(self._family, self._request, attempt, response, scanner, prompt, idle, self._is_closed, unpacks)
        if scanner is not None:
            until = self._until()
            # What bounds the first event does not bound the pauses after it.
            self._bounds["read"] = least(self._given("read"), idle)
            with driver.cut(response, None if until is None else until - attempt.now()):
                await body.begin(until)
            if ask.stores:
                self._remember(body.seen())
        return self._told(response, self._family.stream(body))

    def _until(self) -> float | None:
        """Returns the time by which the answer, or its first event, must come; None for no bound."""
        attempt = self._attempt
        return None if attempt.timeout is None else attempt.lease._acquired_at + attempt.timeout

    def _remember(self, raw: bytes) -> None:
        """Remembers where something is stored, so that requests that follow it go there."""
        found, attempt = _ID.search(raw), self._attempt
        if found is not None:
            self._run.execution.stored.put(found[1].decode(errors="replace"), (attempt.model_name, attempt.lease.deployment_id))

    def _told(self, response: Any, stream: Any) -> Any:
        """Returns the answer of the deployment as that of the router, with another body."""
        run = self._run
        for name, said in told(self._attempt.lease.deployment_id, len(run.records) + 1):
            response.headers[name] = said
        response.stream, response.extensions["turnout"] = stream, run.records
        return response


def told(deployment_id: str, attempts: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the headers that tell where an answer comes from.

    Args:
        deployment_id: The deployment.
        attempts: How many attempts there were.

    Returns:
        The names and the values.
    """
    # A header has no other letters than these.
    told = deployment_id.encode("ascii", "backslashreplace").decode()
    return ("x-turnout-deployment", told), ("x-turnout-attempts", str(attempts))
