"""The clients of each HTTP library that is installed, in threads and in tasks, over a transport that answers
without a connection.
"""

import asyncio
import importlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from turnout import Router


@dataclass(frozen=True)
class Sends:
    """What a provider sends."""

    chunks: Iterable[bytes]
    kind: str = "text/event-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


# Gets the request as it would leave, and says what comes back. It may raise instead.
Provides = Callable[[Any], Sends]


@dataclass(frozen=True)
class Mode:
    """An HTTP library, and whether its client is one of tasks."""

    library: str
    is_task: bool

    @property
    def http(self) -> Any:
        """The library."""
        return importlib.import_module(self.library)

    @property
    def routed(self) -> Any:
        """The clients and transports that route."""
        return importlib.import_module(f"turnout.{self.library}")

    def client(self, router: Router, **options: Any) -> Any:
        return (self.routed.AsyncClient if self.is_task else self.routed.Client)(router, **options)

    def inner(self, provides: Provides) -> Any:
        """A transport that answers without a connection."""
        http = self.http

        class Chunks(http.SyncByteStream, http.AsyncByteStream):  # type: ignore[misc, name-defined]
            def __init__(self, chunks: Iterable[bytes]) -> None:
                self.chunks = chunks

            def __iter__(self) -> Iterator[bytes]:
                yield from self.chunks

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for chunk in self.chunks:
                    yield chunk

        def answer(request: Any) -> Any:
            sends = provides(request)
            return http.Response(sends.status, headers={"content-type": sends.kind, **sends.headers}, stream=Chunks(sends.chunks))

        class Inner(http.BaseTransport, http.AsyncBaseTransport):  # type: ignore[misc, name-defined]
            def handle_request(self, request: Any) -> Any:
                return answer(request)

            async def handle_async_request(self, request: Any) -> Any:
                return answer(request)

        return Inner()

    def ask(self, client: Any, asks: Iterable[dict[str, Any]]) -> list["Got"]:
        """Sends requests one after the other, and closes the client."""
        if self.is_task:
            return asyncio.run(self._ask_in_task(client, asks))
        found = []
        with client:
            for ask in asks:
                with client.stream(**ask) as answer:
                    found.append(Got(answer.status_code, answer.headers, b"".join(answer.iter_raw())))
        return found

    async def _ask_in_task(self, client: Any, asks: Iterable[dict[str, Any]]) -> list["Got"]:
        found = []
        async with client:
            for ask in asks:
                async with client.stream(**ask) as answer:
                    chunks = [chunk async for chunk in answer.aiter_raw()]
                    found.append(Got(answer.status_code, answer.headers, b"".join(chunks)))
        return found


@dataclass(frozen=True)
class Got:
    """What a client receives."""

    status: int
    headers: Any
    body: bytes


def _mode(library: str, is_task: bool) -> Any:
    missing = importlib.util.find_spec(library) is None
    marks = pytest.mark.skipif(missing, reason=f"{library} is not installed: make test-clients")
    return pytest.param(Mode(library, is_task), marks=marks, id=f"{library}, {'task' if is_task else 'thread'}")


MODES = [_mode(library, is_task) for library in ("httpx2", "httpx") for is_task in (False, True)]
