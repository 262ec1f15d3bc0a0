"""Servers for the tests of the stores."""

from collections.abc import Iterator

import pytest

pytest.importorskip("redis", reason="redis-py is in the group test")

from shared.servers import PROGRAMS, Server


@pytest.fixture(scope="session", params=PROGRAMS)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server for tests that leave it as it is but for its keys."""
    with Server(request.param) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    """A server that has no keys."""
    with running.client() as client:
        client.flushall()
    return running


@pytest.fixture(params=PROGRAMS)
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may stop and start. It keeps an append-only file."""
    with Server(request.param, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server
