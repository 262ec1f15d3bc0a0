"""The transport: it carries a request of a client to its end. See `turnout.transports.drivers` for how it
waits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from turnout._core import Router
from turnout.exceptions import NoAvailableDeployment, RouterError
from turnout.execution.attempts import Attempt, Run
from turnout.execution.call import begin
from turnout.execution.race import Race
from turnout.transports.answers import (
    AnswerError,
    Made,
    malformed,
    models,
    redirected,
    refusal,
    unroutable,
    without_endpoint,
)
from turnout.transports.asks import OPTION_PREFIX, Ask, Path, read_ask, read_options, read_path, read_sent
from turnout.transports.drivers import Family
from turnout.transports.exchange import Exchange, Urls, told

if TYPE_CHECKING:
    from turnout.transports.pools import Pools

__all__ = ["Core", "need_router"]

# Headers of a failure that no client gets. The body of a stream that began with an error is not all of it.
_KEPT_BACK = frozenset((b"content-length", b"set-cookie"))


def need_router(router: object) -> None:
    """Refuse what is no router.

    Args:
        router: What was given as one.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(router, Router):
        raise TypeError(f"router must be a Router, not {router!r} ({type(router).__name__})")


class Core:
    """Carries the requests of one client to their ends.

    Args:
        family: The HTTP library.
        pools: The transports to the deployments.
        router: The router.
        default_model: The model name of requests that name none.
        tokens: What estimates the tokens of a body; None for a quarter of its bytes and the most tokens of
            the answer.
    """

    def __init__(
        self,
        family: Family,
        pools: Pools,
        router: Router,
        default_model: str | None,
        tokens: Callable[[bytes], int] | None,
    ) -> None:
        self._family, self._pools, self._urls = family, pools, Urls(family.http)
        self._router, self._default_model, self._tokens = router, default_model, tokens
        self._stored = router._execution.stored
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
        path = read_path(request.url.raw_path.partition(b"?")[0].decode("ascii"))
        if request.method in ("GET", "HEAD") and (path.rest == "/models" or path.rest.startswith("/models/")):
            return self._models(request, path)
        sent = read_sent(request.headers.raw)
        if sent.is_anthropic and path.dialect == "openai":
            path = path._replace(dialect="anthropic", rest=f"/v1{path.rest}")
        if sent.is_repeated and not self._warned:
            self._warned = True
            said = "the client retries by itself, on top of the attempts of the router: make it with max_retries=0"
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        body = await self._family.driver.read(request)
        ask = read_ask(request.method, path, sent, body, self._tokens, self._default_model)
        run = None
        try:
            given = self._options(request) if sent.has_options else {}
            if ask.follows is not None and (stored := self._stored.get(ask.follows)) is not None:
                ask = ask._replace(model_name=ask.model_name or stored[0])
                given.setdefault("only", (stored[1],))
            if ask.model_name is None:
                if body and ask.scan is None and "json" in sent.content_type.lower():
                    return self._made(request, malformed(path.dialect))
                return self._made(request, unroutable(path.dialect, request.method, request.url.path))
            given["dialect"] = path.dialect
            usual, total = {"tokens": ask.tokens}, given.pop("timeout", None)
            repeats, streams = ask.repeats, ask.stream
            run = begin(self._router, ask.model_name, given, usual=usual, repeats=repeats, streams=streams, total=total)
            return await self._carry(run, request, ask)
        except RouterError as error:
            if self._lacks_endpoints(error):
                return self._made(request, without_endpoint(path.dialect, str(ask.model_name)))
            return self._made(request, refusal(path.dialect, error), () if run is None else run.records)

    def _lacks_endpoints(self, error: RouterError) -> bool:
        """Tells whether a request was refused only since no deployment of its name has an endpoint."""
        if not isinstance(error, NoAvailableDeployment) or set(error.reasons) != {"dialect"}:
            return False
        return all(one.endpoint is None for one in self._router.deployments(error.model_name))

    def _options(self, request: Any) -> dict[str, Any]:
        """Returns the keywords of a call that a request has in its headers."""
        return read_options({name: value for name, value in request.headers.items() if name.startswith(OPTION_PREFIX)})

    async def _carry(self, run: Run, request: Any, ask: Ask) -> Any:
        def send(attempt: Attempt) -> Coroutine[Any, Any, Any]:
            return Exchange(self._family, self._pools, self._urls, run, attempt, request, ask).answer()

        try:
            while True:
                attempt = await self._family.driver.acquire(run)
                if run.options.hedge is not None and self._family.driver.is_task:
                    won = await Race(run, send, attempt, self._drop).run()
                    if won is not None:
                        return self._answer(*won)
                    continue
                try:
                    with self._family.driver.scope(attempt.timeout) as scope:
                        answer = await send(attempt)
                    if scope is not None and scope.cancelled_caught:
                        raise self._family.http.ReadTimeout(str(attempt.timed_out()), request=request)
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
            raise self._family.http.ReadTimeout(str(error), request=request) from error

    # --- answers ---

    def _answer(self, attempt: Attempt, answer: Any) -> Any:
        """Ends the attempt of an answer, if that has come as a whole."""
        if attempt.lease.released and attempt.record is None:
            attempt.note(None, answer.status_code, None)
        return answer

    def _failed(self, run: Run, request: Any, error: AnswerError) -> Any:
        """Returns the last failure as the answer that it was."""
        last = run.records[-1].deployment_id if run.records else ""
        if 300 <= error.status < 400 and "location" in error.headers:
            made = redirected(read_path(request.url.path).dialect, error.headers.get("location"))
            return self._made(request, made, run.records)
        headers = self._family.http.Headers([header for header in error.raw_headers if header[0].lower() not in _KEPT_BACK])
        for name, said in (("x-should-retry", "false"), *told(last, len(run.records))):
            headers[name] = said
        stream, extensions = self._family.http.ByteStream(error.raw), {"turnout": run.records}
        return self._family.http.Response(error.status, headers=headers, stream=stream, extensions=extensions)

    def _made(self, request: Any, made: Made, records: Any = ()) -> Any:
        headers = {**made.headers, "content-length": str(len(made.body))}
        stream, extensions = self._family.http.ByteStream(made.body), {"turnout": records}
        return self._family.http.Response(made.status, headers=headers, stream=stream, extensions=extensions)

    def _models(self, request: Any, path: Path) -> Any:
        dialect = "anthropic" if "anthropic-version" in request.headers else "openai"
        _, _, one = path.rest.partition("/models/")
        return self._made(request, models(dialect, {*self._router.models(), *self._router.aliases()}, unquote(one) or None))

    async def _drop(self, answer: Any) -> None:
        await self._family.driver.close(answer.stream)

    async def close(self) -> None:
        """Close the connections of this loop."""
        for transport in self._pools.take():
            await self._family.driver.close(transport)
