"""What gunicorn serves: its router is made, and used once, before the workers are forked."""

import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from turnout import Deployment, Limit, RateLimitExceeded, Router
from turnout.shared import File

router = Router(
    [Deployment("eu", "gpt-4o", limits=[Limit(requests=int(os.environ["REQUESTS"]), per=float(os.environ["SECONDS"]))])],
    shared=File(os.environ["LEDGER"]),
)
admissions = os.open(os.environ["ADMISSIONS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def admits() -> bool:
    """Asks for a lease, and writes it down."""
    try:
        with router.acquire("gpt-4o"):
            os.write(admissions, f"{time.time():.6f} {os.getpid()}\n".encode())
            return True
    except RateLimitExceeded:
        return False


def wsgi(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    start_response("200 OK" if admits() else "429 Too Many Requests", [("Content-Length", "0")])
    return []


async def asgi(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    if scope["type"] == "http":
        status = 200 if admits() else 429
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


# The thread that asks the store runs in the parent from here on, and the parent holds something.
if not admits():
    raise SystemExit("the first process of all was refused")
