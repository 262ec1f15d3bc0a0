"""A proxy between workers and a server, which delays, stalls and cuts."""

import asyncio
import contextlib
import random
import threading
from types import TracebackType

from typing_extensions import Self


class Proxy:
    """Passes connections of a port of loopback on to another one, in a thread of its own."""

    def __init__(self, to: int) -> None:
        self.port = 0
        self.delay = (0.0, 0.0)
        """The shortest and the longest delay of what passes, one way, in seconds."""
        self._to = to
        self._passes = threading.Event()
        self._passes.set()
        self._is_cut = False
        self._streams: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._random = random.Random(7)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop)
        self._server = server.result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def stall(self) -> None:
        """Pass nothing on, and keep what comes."""
        self._passes.clear()

    def go_on(self) -> None:
        """Pass on what was kept, and all that comes."""
        self._passes.set()

    def cut(self) -> None:
        """End all connections, and refuse others."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._end_all)

    def point_to(self, port: int) -> None:
        """Put another server behind it, and end all connections."""
        self._to = port
        self._loop.call_soon_threadsafe(self._end_all)

    def mend(self) -> None:
        """Accept connections again."""
        self._is_cut = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end_all(self) -> None:
        for stream in self._streams:
            stream.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        self._passes.set()
        self._end_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there, to = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        streams = {writer, to}
        self._streams |= streams
        try:
            await asyncio.gather(self._pass(reader, to), self._pass(there, writer))
        finally:
            self._streams -= streams
            for stream in streams:
                stream.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self._random.uniform(*self.delay))
                while not self._passes.is_set():
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        # One side is done: so is the other, as with a server that ends a connection.
        writer.close()
