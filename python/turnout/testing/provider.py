"""A scripted LLM provider on loopback."""

import asyncio
import logging
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from turnout.exceptions import ConfigurationError
from turnout.testing import _answers
from turnout.testing._answers import Answer
from turnout.testing._parts import Text
from turnout.testing.received import ReceivedRequest
from turnout.testing.replies import Reply, Source

if TYPE_CHECKING:
    from turnout.testing._server import Connection

__all__ = ["Provider"]

_log = logging.getLogger("turnout.testing")


class Provider:
    """An LLM provider on loopback that answers as a test says.

    It speaks HTTP/1.1 in a thread of its own, so that tests may be plain code, asyncio or trio::

        with Provider() as provider:  # or: async with
            provider.script(Reply.error(500), Reply.text("hello"))
            client = openai.OpenAI(base_url=provider.base_url, api_key="any")

    Each request takes the next reply of the script. When the script is at its end, requests get the reply of
    :meth:`always`, which is a short text unless the test says otherwise. The answer has the shape of the API
    that is asked:

    - OpenAI: ``/v1/chat/completions``, ``/v1/responses``, ``/v1/embeddings``, ``/v1/models``;
    - Anthropic: ``/v1/messages``, ``/v1/messages/count_tokens``, ``/v1/models``;
    - Azure: the same as OpenAI's under ``/openai/v1``, ``/openai`` and ``/openai/deployments/{name}``.

    A request for anything else gets a 404, and one whose body is no JSON object a 400. Neither takes a reply
    of the script. But a reply that is the same whatever is asked (an error, JSON, events or bytes), or a
    function that returns one, answers any request. Keys are not checked.

    All methods may be called from any thread. A forked process needs a provider of its own.

    Args:
        port: The port. 0 for one that is free. A provider that is started again keeps its port.

    Raises:
        ConfigurationError: The port is out of range.
        ImportError: h11 is not installed.
    """

    def __init__(self, *, port: int = 0) -> None:
        # Here rather than above: h11 is an extra, which the rest of the package does without.
        try:
            from turnout.testing import _server
        except ModuleNotFoundError as missing:
            if missing.name != "h11":
                raise
            raise ImportError('turnout.testing.Provider needs h11: pip install "turnout[testing]"') from missing

        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be an int from 0 to 65535, not {port!r} ({type(port).__name__})")
        if not 0 <= port <= 65535:
            raise ConfigurationError(f"port must be an int from 0 to 65535, not {port!r}")
        self._door = _server.Door
        self._connection = _server.Connection
        self._port = port
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._script: deque[Source] = deque()
        self._default: Source = Reply.text()
        self._requests: list[ReceivedRequest] = []
        self._connections: set[Connection] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._nobody: socket.socket | None = None

    def __repr__(self) -> str:
        where = f"at {self.url}" if self._thread is not None else "not running"
        return f"<Provider {where}, {len(self._requests)} requests>"

    # --- its life ---

    def start(self) -> "Provider":
        """Listen from now on.

        Returns:
            The provider.

        Raises:
            RuntimeError: It is running.
            OSError: The port is taken.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self!r} is running")
        # Both are made here and not in the thread, so that their errors come to the caller.
        listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        try:
            # Not the usual loop: on Windows that one has no readers.
            loop = asyncio.SelectorEventLoop()
        except BaseException:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=(loop, listener, ready), name="turnout-testing-provider", daemon=True)
        try:
            thread.start()
        except BaseException:  # the system has no thread left
            loop.close()
            listener.close()
            raise
        ready.wait()
        self._thread = thread
        return self

    def stop(self) -> None:
        """Close all connections and the port, and end the thread. Without effect if it is not running."""
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is threading.current_thread():
            raise RuntimeError("a reply that is a function cannot stop its provider")
        if thread is not None and loop is not None and stopping is not None:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
        self._thread = self._loop = self._stopping = None
        if self._nobody is not None:
            self._nobody.close()
            self._nobody = None

    def __enter__(self) -> "Provider":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> "Provider":
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, ready: threading.Event) -> None:
        try:
            loop.run_until_complete(self._serve(listener, ready))
        finally:
            loop.close()

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        door = self._door(listener, lambda: self._connection(self._connections, self._choose))
        ready.set()
        await self._stopping.wait()
        await door.close()
        for connection in list(self._connections):
            connection.abort()
        # Until asyncio has closed the sockets, and the answers have ended.
        while self._connections or len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    # --- where it is ---

    @property
    def url(self) -> str:
        """Its address without a path, such as ``http://127.0.0.1:54321``: what Anthropic's and Azure's
        clients take.

        Raises:
            RuntimeError: It has not been started.
        """
        if self._port == 0:
            raise RuntimeError("the provider has no address before it is started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """Its address with ``/v1``: what OpenAI's clients take.

        Raises:
            RuntimeError: It has not been started.
        """
        return f"{self.url}/v1"

    @property
    def refused_url(self) -> str:
        """A base URL, with ``/v1``, where connections are refused until the provider is stopped."""
        with self._lock:
            if self._nobody is None:
                # It has the port and does not listen, so that nobody else can get the port.
                self._nobody = socket.socket()
                self._nobody.bind(("127.0.0.1", 0))
            return f"http://127.0.0.1:{self._nobody.getsockname()[1]}/v1"

    # --- what it answers ---

    def script(self, *replies: Source) -> None:
        """Add replies to the end of the script. Each answers one request.

        Args:
            *replies: Each a :class:`Reply`, or a function that takes the :class:`ReceivedRequest` and returns
                one. A function is called in the provider's thread, and all other requests wait for it.

        Raises:
            TypeError: One is neither.
        """
        for reply in replies:
            _check(reply)
        with self._lock:
            self._script.extend(replies)

    def always(self, reply: Source) -> None:
        """Answer all requests for which the script has no reply with this one.

        Args:
            reply: As for :meth:`script`.

        Raises:
            TypeError: It is neither.
        """
        _check(reply)
        with self._lock:
            self._default = reply

    def reset(self) -> None:
        """Forget the script, the reply of :meth:`always` and all requests. Answers that are being sent go
        on.
        """
        with self._lock:
            self._script.clear()
            self._default = Reply.text()
            self._requests.clear()

    @property
    def unused(self) -> int:
        """How many replies of the script no request has taken yet."""
        return len(self._script)

    # --- what it saw ---

    @property
    def requests(self) -> list[ReceivedRequest]:
        """All requests that arrived, in their order. The list is the caller's own."""
        with self._lock:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def wait_for_requests(self, number: int = 1, timeout: float = 5.0) -> list[ReceivedRequest]:
        """Wait until so many requests have arrived.

        Async code calls it in a thread, for example by `asyncio.to_thread`.

        Args:
            number: How many, at least.
            timeout: The longest wait in seconds.

        Returns:
            All that have arrived.

        Raises:
            TimeoutError: Fewer have arrived in that time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= number, timeout):
                raise TimeoutError(f"{len(self._requests)} requests arrived within {timeout} s, not {number}")
            return list(self._requests)

    def _choose(self, request: ReceivedRequest) -> Answer:
        """Note a request, and make its answer. Called in the provider's thread."""
        with self._changed:
            self._requests.append(request)
            source: Source = self._script[0] if self._script else self._default
            refusal = _refusal(request)
            if self._script and (refusal is None or not _is_for_known(source)):
                self._script.popleft()
            self._changed.notify_all()
        reply = source if isinstance(source, Reply) else _called(source, request)
        if refusal is not None and _is_for_known(reply):
            reply = refusal
        return _answers.make(request, reply)


def _check(reply: Source) -> None:
    if not isinstance(reply, Reply) and not callable(reply):
        raise TypeError(f"a reply must be a Reply or a function that returns one, not {reply!r} ({type(reply).__name__})")


def _is_for_known(source: Source) -> bool:
    """Tells whether a reply depends on what is asked, so that it must be known."""
    return isinstance(source, Reply) and isinstance(source.content, Text)


def _called(source: Source, request: ReceivedRequest) -> Reply:
    assert not isinstance(source, Reply)
    try:
        reply = source(request)
        if isinstance(reply, Reply):
            return reply
        words = f"the function {source!r} must return a Reply, not {reply!r} ({type(reply).__name__})"
    except BaseException as error:  # such as `pytest.fail`: the provider must go on
        words = f"the function {source!r} raised {error!r}"
    # The client sees it, and so does a test that looks at the log.
    _log.error("no answer to %r: %s", request, words)
    return Reply.error(500, message=words)


def _refusal(request: ReceivedRequest) -> Reply | None:
    """Return the answer to a request that no provider would understand; None for all others."""
    if request.endpoint is None:
        return Reply.error(404, code="unknown_url", message=f"Unknown request URL: {request.method} {request.path}.")
    if request.method == "GET":
        return None
    try:
        body = request.json
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return Reply.error(400, message="We could not parse the JSON body of your request.")
    return None
