"""Workers that gunicorn forks from a process with a router admit together what one process would."""

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="gunicorn and the file that processes share need a Unix system"),
    pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"),
]
needs_uvicorn = pytest.mark.skipif(importlib.util.find_spec("uvicorn_worker") is None, reason="uvicorn-worker is not installed")

REQUESTS, SECONDS, WINDOWS, WORKERS = 40, 2, 3, 4


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ask(port: int) -> int:
    """Sends one request, on a connection of its own. Returns the status, or 0 if nobody answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def load(port: int, until: float) -> None:
    """Asks for twice of what the limit allows."""
    pause = WORKERS * SECONDS / (2 * REQUESTS)

    def work() -> None:
        at = time.time()
        while (at := at + pause) < until:
            time.sleep(max(0.0, at - time.time()))
            ask(port)

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def admissions(path: Path) -> list[tuple[float, int]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(at), int(process)) for at, process in map(str.split, lines)]


@pytest.mark.parametrize(
    ("app", "worker"), [("wsgi", "sync"), pytest.param("asgi", "uvicorn_worker.UvicornWorker", marks=needs_uvicorn)]
)
def test_forked_workers_admit_exactly_the_limit(app: str, worker: str, tmp_path: Path) -> None:
    port, written = free_port(), tmp_path / "admissions"
    environment = {
        **os.environ,
        "REQUESTS": str(REQUESTS),
        "SECONDS": str(SECONDS),
        "LEDGER": str(tmp_path / "ledger"),
        "ADMISSIONS": str(written),
    }
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--worker-class", worker]
    command += ["--bind", f"127.0.0.1:{port}", "--chdir", str(Path(__file__).parent), "--log-level", "error", f"preloaded:{app}"]
    with subprocess.Popen(command, env=environment) as server:
        try:
            until = time.monotonic() + 60
            while len({process for _, process in admissions(written)}) < 3:  # the parent, and two of its workers
                assert time.monotonic() < until, "the workers do not serve"
                ask(port)
                time.sleep(0.01)
            first = (time.time() + 0.5) // SECONDS * SECONDS + SECONDS
            loading = threading.Thread(target=load, args=(port, first + WINDOWS * SECONDS))
            loading.start()
            time.sleep(first + 1.2 * SECONDS - time.time())
            (killed, _), *_ = Counter(process for at, process in admissions(written) if at >= first + SECONDS).most_common()
            os.kill(killed, signal.SIGKILL)
            loading.join()
        finally:
            server.terminate()
    windows = [Counter[int]() for _ in range(WINDOWS)]
    for at, process in admissions(written):
        if 0 <= (nth := int((at - first) // SECONDS)) < WINDOWS:
            windows[nth][process] += 1
    # A worker may keep a unit for a request that was refused, until the window ends.
    assert all(REQUESTS - WORKERS <= window.total() <= REQUESTS for window in (windows[0], windows[2])), windows
    # What the killed worker held is lost with it until the window ends.
    assert REQUESTS / 2 <= windows[1].total() <= REQUESTS, windows
    assert killed not in windows[2]
    assert server.pid not in windows[0] | windows[1] | windows[2]
    assert len(windows[2]) >= 2, windows
