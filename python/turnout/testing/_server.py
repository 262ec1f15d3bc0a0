"""The provider's HTTP/1.1: one asyncio protocol a connection, with h11 for the syntax."""

import asyncio
import logging
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable
from typing import Literal

import h11

from turnout.testing import _answers
from turnout.testing._answers import Answer
from turnout.testing.received import ReceivedRequest

_log = logging.getLogger("turnout.testing")

# Some prompts travel in headers or queries of proxies; h11's own bound is 16 KiB.
_MOST_HEAD = 1 << 20
# How many connections are accepted before others have their turn.
_MOST_AT_ONCE = 16
# Closes a socket with a reset: lingering is on, for 0 seconds.
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
# Statuses whose answers have no body.
_WITHOUT_BODY = frozenset((204, 304))


class Door:
    """Accepts connections.

    asyncio's own server loses a connection that comes while it closes (Python 3.11), and leaves its socket to
    the garbage collector.
    """

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._entering: set[asyncio.Task[object]] = set()
        self._is_open = True
        listener.setblocking(False)
        self._watch()

    async def close(self) -> None:
        """Accept no more. Those who were accepted have become connections then."""
        self._is_open = False
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await asyncio.gather(*self._entering)

    def _watch(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            # Not without end: connections that are there wait meanwhile.
            for _ in range(_MOST_AT_ONCE):
                accepted, _address = self._listener.accept()
                task: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, accepted))
                self._entering.add(task)
                task.add_done_callback(self._entering.discard)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass
        except OSError:
            # The process has too many files open. Without a pause the loop would do nothing else.
            _log.exception("a connection cannot be accepted")
            self._loop.remove_reader(self._listener)
            self._loop.call_later(0.1, self._watch)


class Connection(asyncio.Protocol):
    """One connection. It answers its requests one after the other."""

    def __init__(self, connections: set["Connection"], choose: Callable[[ReceivedRequest], Answer]) -> None:
        self._connections = connections
        self._choose = choose
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._request: ReceivedRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        # Whether the last byte of the answer was handed to the transport.
        self._is_last_written = False

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # So that the transport holds nothing back: what was written has left, or writing is paused.
        transport.set_write_buffer_limits(high=0)
        # asyncio does this only for sockets that name their protocol, and those that were accepted do not.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        if self._task is None:
            self._read()

    def eof_received(self) -> None:
        self._leave("left")

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave("left")
        self._connections.discard(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._is_last_written:
            self._settle()

    def abort(self) -> None:
        """End the connection, since the provider stops."""
        self._leave("stopped")
        self._transport.abort()

    # --- a request ---

    def _read(self) -> None:
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._head, self._body = event, bytearray()
                    if self._http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                elif isinstance(event, h11.Data):
                    self._body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self._begin()
                    return
                elif isinstance(event, h11.ConnectionClosed):
                    self._transport.close()
                    return
                else:
                    return
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                words = str(error).encode()
                headers = [("content-length", str(len(words))), ("connection", "close")]
                self._send(h11.Response(status_code=error.error_status_hint, headers=headers))
                self._send(h11.Data(words), h11.EndOfMessage())
            self._transport.close()

    def _begin(self) -> None:
        head = self._head
        assert head is not None  # a body comes after a head
        # Of headers that come twice the last one counts.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        request = ReceivedRequest(head.method.decode("latin-1"), head.target.decode("latin-1"), headers, bytes(self._body))
        self._request, self._is_last_written = request, False
        self._task = asyncio.get_running_loop().create_task(self._answer(request))

    # --- its answer ---

    async def _answer(self, request: ReceivedRequest) -> None:
        try:
            await self._play(request, self._choose(request))
        except asyncio.CancelledError:
            return  # whoever cancels has noted why
        except Exception:
            _log.exception("the answer to %r failed", request)
            self._leave("cut")
            self._transport.abort()
            return
        self._task = None
        if self._transport.is_closing():
            return
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._read()
        else:
            self._transport.close()

    async def _play(self, request: ReceivedRequest, answer: Answer) -> None:
        timing = answer.timing
        await asyncio.sleep(timing.head)
        if answer.stop == _answers.BEFORE_THE_HEAD:
            return await self._stop(answer)
        trickles = timing.trickle is not None
        has_body = request.method != "HEAD" and answer.status not in _WITHOUT_BODY
        headers = list(answer.headers.items())
        if has_body and not (answer.is_stream or trickles or answer.wire.gzip):
            headers.append(("content-length", str(answer.promised)))
        packer = zlib.compressobj(wbits=31) if answer.wire.gzip and has_body else None
        parts = answer.parts if has_body else []
        ending: Literal["cut", "finished"] = "cut" if answer.is_cut else "finished"
        last = None if answer.stop is not None else len(parts) - 1
        self._send(h11.Response(status_code=answer.status, headers=headers))
        for number, part in enumerate(parts):
            if number == answer.stop:
                break
            await self._pause(timing.between if number else timing.first_event, answer, packer)
            request.events_sent += 1
            await self._write(part, answer, packer, ending if number == last else None)
        if answer.stop is not None:
            return await self._stop(answer, packer)
        if not parts:
            await self._write(b"", answer, packer, ending)
        return None

    async def _stop(self, answer: Answer, packer: "zlib._Compress | None" = None) -> None:
        if answer.fault == "hang":
            # Only a cancel ends this, when the client leaves or the provider stops.
            await self._pause(None, answer, packer)
        assert self._request is not None
        self._request.ending = "cut"
        self._settle()
        if answer.fault == "reset":
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._transport.close()

    async def _pause(self, seconds: float | None, answer: Answer, packer: "zlib._Compress | None") -> None:
        """Wait; None for ever. After the head something may trickle."""
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        # Before the head nothing may be sent, and a body of a known length has no room.
        trickle = None if self._http.our_state is not h11.SEND_BODY else answer.timing.trickle
        while True:
            left = None if end is None else end - loop.time()
            if left is not None and (trickle is None or left <= trickle):
                # Zero too: it gives the loop the chance to see that the client left.
                return await asyncio.sleep(max(left, 0.0))
            if trickle is None:
                await loop.create_future()
            else:
                await asyncio.sleep(trickle)
                await self._write(answer.trickle, answer, packer)

    async def _write(
        self,
        data: bytes,
        answer: Answer,
        packer: "zlib._Compress | None",
        ending: Literal["cut", "finished"] | None = None,
    ) -> None:
        """Write a part of the body, and its end if an ending is given."""
        if packer is not None:
            data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH if ending is None else zlib.Z_FINISH)
        size = answer.wire.chunk_size or len(data) or 1
        chunks = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        for number, chunk in enumerate(chunks):
            events: list[h11.Event] = [h11.Data(chunk)] if chunk else []
            if ending is not None and number == len(chunks) - 1:
                # Before the client can have seen the end, so that its test finds the request finished.
                assert self._request is not None
                self._request.ending = ending
                self._is_last_written = True
                # With the last data: a client that knows the end from the data alone would see no end of the
                # body, and close the connection.
                events.append(h11.EndOfMessage())
            self._send(*events)
            if self._is_last_written and self._writable.is_set():
                self._settle()
            await self._writable.wait()
            if answer.wire.chunk_size is not None:
                await asyncio.sleep(0)

    def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        if data:
            self._transport.write(data)

    # --- its end ---

    def _settle(self) -> None:
        """Let those go on that wait for the ending."""
        if self._request is not None:
            self._request._ended.set()
            self._request = None

    def _leave(self, ending: Literal["left", "stopped", "cut"]) -> None:
        """Note that the answer ends here, unless it has ended."""
        request = self._request
        if request is None:
            return
        request.ending = ending
        if ending == "left":
            request.disconnected_at = time.monotonic()
        self._settle()
        if self._task is not None and ending != "cut":
            self._task.cancel()
