"""What a scripted provider tells of the requests that reached it."""

import json
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

__all__ = ["ReceivedRequest"]

_PATH = re.compile(
    r"/(?:v1|openai/v1|openai|anthropic/v1|openai/deployments/(?P<deployment>[^/]+))"
    r"/(?P<name>chat/completions|responses|embeddings|models|models/[^/]+|messages|messages/count_tokens)/?"
)


class ReceivedRequest:
    """A request that reached the provider, and what became of its answer.

    Attributes:
        method: Such as ``POST``.
        path: Without the query, such as ``/v1/chat/completions``.
        query: The values of the query by name. The last one counts.
        headers: By name in lower case.
        body: Its bytes.
        arrived_at: When it was there as a whole, by `time.monotonic`.
        disconnected_at: When the client left before the end of the answer, by `time.monotonic`. None if it
            did not.
        events_sent: How many events of the answer were sent, or 1 for a whole body.
        ending: How the answer ended: ``finished``: all of it was sent. ``cut``: the provider ended it too
            early, as the reply said. ``left``: the client left before. ``stopped``: the provider was stopped
            before. None while it goes on.
    """

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        path, _, query = target.partition("?")
        self.method = method
        self.path = unquote(path)
        self.query = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.headers = dict(headers)
        self.body = body
        self.arrived_at = time.monotonic()
        self.disconnected_at: float | None = None
        self.events_sent = 0
        self.ending: Literal["finished", "cut", "left", "stopped"] | None = None
        self._ended = threading.Event()
        self._match = _PATH.fullmatch(self.path)

    def __repr__(self) -> str:
        return f"<{self.method} {self.path} for {self.model!r}, {self.ending or 'not answered yet'}>"

    @property
    def json(self) -> Any:
        """The body, read as JSON.

        Raises:
            ValueError: It is no JSON.
        """
        return json.loads(self.body)

    @property
    def model(self) -> str | None:
        """The model that the body asks for, else the deployment in Azure's path, else None."""
        model = self._field("model")
        if isinstance(model, str):
            return model
        return None if self._match is None else self._match["deployment"]

    @property
    def stream(self) -> bool:
        """Whether the body asks for a stream."""
        return self._field("stream") is True

    @property
    def endpoint(self) -> str | None:
        """What is asked for: the end of the path, such as ``chat/completions``. None if the provider has no
        such thing, or none for the method.
        """
        if self._match is None:
            return None
        name = self._match["name"]
        return name if self.method == ("GET" if name.startswith("models") else "POST") else None

    @property
    def finished(self) -> bool:
        """Whether all of the answer was sent."""
        return self.ending == "finished"

    def wait(self, timeout: float = 5.0) -> bool:
        """Wait until the answer has ended in any way.

        Async code calls it in a thread, for example by `asyncio.to_thread`.

        Args:
            timeout: The longest wait in seconds.

        Returns:
            Whether it has ended.
        """
        return self._ended.wait(timeout)

    def _field(self, name: str) -> Any:
        try:
            body = self.json
        except ValueError:
            return None
        return body.get(name) if isinstance(body, dict) else None
