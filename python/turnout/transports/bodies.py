"""The body of a streamed answer: it has its lease up to its end."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from turnout._core import _StreamScanner
from turnout.enums import FailureKind
from turnout.execution.record import put_on
from turnout.transports.answers import AnswerError, as_keywords

if TYPE_CHECKING:
    from turnout.execution.attempts import Attempt
    from turnout.transports.drivers import Family

__all__ = ["Body"]


class Body:
    """The body of an answer that is handed on while it comes.

    Args:
        family: The HTTP library.
        request: The request of the client, for errors.
        attempt: The attempt, which ends with the body.
        response: The answer of the deployment.
        scanner: Reads the events; None for a body that is no stream of events.
        prompt: The tokens that the prompt was estimated at.
        idle: The most seconds between two events; None for no bound.
        is_closed: Tells whether the client has closed its connections.
        unpacks: Unpacks the body; None if it is not compressed.
    """

    __slots__ = (
        "_attempt",
        "_chunks",
        "_driver",
        "_headers",
        "_http",
        "_idle",
        "_is_closed",
        "_is_over",
        "_pending",
        "_prompt",
        "_request",
        "_silence",
        "_status",
        "_stream",
        "_unpacks",
        "scanner",
    )

    def __init__(
        self,
        family: Family,
        request: Any,
        attempt: Attempt,
        response: Any,
        scanner: _StreamScanner | None,
        prompt: int,
        idle: float | None,
        is_closed: Callable[[], bool],
        unpacks: Any = None,
    ) -> None:
        self._driver, self._http, self._request = family.driver, family.http, request
        self._attempt, self.scanner = attempt, scanner
        # Not the answer itself: it will have this body.
        self._stream, self._status, self._headers = response.stream, response.status_code, response.headers
        self._prompt, self._idle, self._is_closed, self._unpacks = prompt, idle, is_closed, unpacks
        self._chunks = family.driver.chunks(self._stream)
        self._pending: list[bytes] = []
        self._is_over = False
        # Seconds that were waited for bytes since the last event. The pauses of the reader do not count.
        self._silence = 0.0

    # --- up to the first event ---

    async def begin(self, until: float | None) -> None:
        """Wait for the first event that is no ping.

        Args:
            until: The time by which it must come; None for no bound.

        Raises:
            AnswerError: The first event is an error.
            Exception: The body ends before, or takes too long.
        """
        # If this fails, the attempt ends by the failure, and not with this body.
        self._is_over = True
        scanner = self.scanner
        assert scanner is not None
        raw = []
        while not scanner.has_event:
            try:
                chunk = await self._chunk()
            except self._http.TransportError as error:
                # A thread's connection is cut when the time is over.
                if self._is_late(until):
                    raise self._too_late() from error
                raise
            if self._is_late(until):
                raise self._too_late()
            if chunk is None:
                self._pending.append(scanner.finish())
                break
            raw.append(chunk)
            self._pending.append(scanner.feed(chunk))
        if scanner.error is not None and scanner.error_is_first:
            raise AnswerError(self._status, self._headers.raw, b"".join(raw), scanner.error)
        if not scanner.has_event:
            raise self._http.RemoteProtocolError("the stream ended before its first event", request=self._request)
        self._is_over = False
        self._attempt.lease.first_token()

    def _is_late(self, until: float | None) -> bool:
        return until is not None and self._attempt.now() > until

    def _too_late(self) -> Exception:
        error: Exception = self._http.ReadTimeout("the first event took too long", request=self._request)
        return error

    def seen(self) -> bytes:
        """Return what has been read and not handed on."""
        return b"".join(self._pending)

    # --- what the client reads ---

    async def next(self) -> bytes | None:
        """Return the next chunk; None at the end."""
        while True:
            if self._pending:
                chunk: bytes | None = self._pending.pop(0)
            elif self._is_over and self.scanner is None:
                return None
            else:
                try:
                    chunk = await self._read()
                except Exception as error:
                    self._fail(error, "the answer was cut")
                    raise
                except BaseException:
                    self.leave()
                    raise
            if chunk is None:
                return None
            if chunk:
                return chunk

    async def _chunk(self) -> bytes | None:
        chunk = await self._driver.next(self._chunks)
        if chunk is None or self._unpacks is None:
            return chunk
        try:
            unpacked: bytes = self._unpacks.feed(chunk)
        except zlib.error as error:
            raise self._http.RemoteProtocolError(f"the stream cannot be unpacked: {error}", request=self._request) from None
        return unpacked

    async def _read(self) -> bytes | None:
        asked_at = self._attempt.now()
        chunk = await self._chunk()
        scanner = self.scanner
        if scanner is None:
            if chunk is None:
                self._succeed()
            return chunk
        if chunk is None:
            rest = scanner.finish()
            self._settle()
            if not self._is_over:
                raise self._http.RemoteProtocolError("the stream ended without its end", request=self._request)
            if rest:
                self._pending.append(rest)
            return self._pending.pop(0) if self._pending else None
        before = scanner.deltas
        chunk = scanner.feed(chunk)
        self._silence += self._attempt.now() - asked_at
        if scanner.deltas != before or scanner.ended:
            self._silence = 0.0
        elif self._idle is not None and self._silence > self._idle:
            raise self._http.ReadTimeout(f"no event came for {self._idle} s", request=self._request)
        if scanner.error is not None or scanner.ended:
            self._settle()
        return chunk

    # --- the end of the lease ---

    def _settle(self) -> None:
        """Ends the lease by what the events say, if they say it."""
        scanner = self.scanner
        assert scanner is not None
        if self._is_over:
            return
        if scanner.error is not None:
            self._is_over = True
            self._attempt.fail(AnswerError(self._status, self._headers.raw, b"", scanner.error))
        elif scanner.ended or scanner.finished:
            self._succeed()

    def _succeed(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        # A whole stream that does not tell its usage is counted by its events.
        self._attempt.lease.success(**self._counted() if self.scanner is not None else {})
        self._attempt.note(None, self._status, None)

    def _counted(self) -> dict[str, int]:
        """Returns the tokens that were told, or else those of the prompt and of the events, a token each."""
        scanner = self.scanner
        assert scanner is not None
        return as_keywords(scanner.usage) or {"input_tokens": self._prompt, "output_tokens": scanner.deltas}

    def _fail(self, error: Exception, reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._attempt.is_left = self._is_closed()
        self._attempt.fail(error)
        put_on(error, tuple(self._attempt.records), reason)

    def leave(self) -> None:
        """End the lease, if the reader leaves before the end. It pays for what it has seen."""
        scanner = self.scanner
        if scanner is not None:
            self._settle()
        if self._is_over:
            return
        self._is_over = True
        if scanner is None:
            self._attempt.lease.release()
        else:
            seen = self._counted()
            # What is told in the middle of a stream is not all of it.
            seen["output_tokens"] = max(seen["output_tokens"], scanner.deltas)
            self._attempt.lease.release(False, **seen)
        self._attempt.note(FailureKind.CANCELLED, self._status, None)

    async def close(self) -> None:
        """End the lease and close the answer of the deployment."""
        self.leave()
        await self._driver.close(self._stream)

    def __del__(self) -> None:
        # The collector may run in any thread. So the lease ends, and nothing is waited for.
        if not getattr(self, "_is_over", True):
            self.leave()
