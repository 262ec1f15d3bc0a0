"""A server that gives one reply to whatever it is asked, for tests of real clients."""

import http.server
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reply:
    """What the server does with a request."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    fault: str = ""
    """``disconnect`` instead of an answer, ``truncate`` it, or ``stall`` until the test is over."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives the server's reply to whatever it is asked."""

    server: "Server"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the name that http.server looks for
        self.rfile.read(int(self.headers.get("content-length", 0)))
        reply = self.server.reply
        if reply.fault == "stall":
            self.server.over.wait()
        if reply.fault in ("stall", "disconnect"):
            self.close_connection = True
            return
        # Without a `Date` and a `Server` of its own.
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "content-type" not in reply.headers:
            self.send_header("content-type", "application/json")
        missing = 1000 if reply.fault == "truncate" else 0
        self.send_header("content-length", str(len(reply.body) + missing))
        self.end_headers()
        self.wfile.write(reply.body)
        self.close_connection = bool(missing)

    def log_message(self, *args: object, **kwargs: object) -> None:
        """Says nothing."""


class Server(http.server.ThreadingHTTPServer):
    """One reply for all, on a port of its own."""

    daemon_threads = True
    reply = Reply()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what is tested."""
