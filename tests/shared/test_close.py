"""A router that is closed gives back what it holds of shared limits, and may be used again."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from turnout import Deployment, Router
from turnout.shared import Memory

LEASE = 2  # which number of a message tells for how long its process is a member


class Recorded:
    """Keeps the messages to a store in memory."""

    def __init__(self) -> None:
        self.store = Memory()
        self.messages: list[tuple[str, str, list[int]]] = []

    def exchange(self, batch: Sequence[tuple[str, str, list[int]]]) -> list[list[int]]:
        self.messages += batch
        return self.store.exchange(batch)


def close(router: Router) -> None:
    router.close()


def close_in_task(router: Router) -> None:
    asyncio.run(router.aclose())


def leave(router: Router) -> None:
    with router:
        pass


@pytest.mark.parametrize("end", [close, close_in_task, leave])
def test_a_closed_router_leaves_and_may_come_back(end: object) -> None:
    assert callable(end)
    store = Recorded()
    router = Router([Deployment("eu", "m", rpm_limit=100)], shared=store)
    for _ in range(2):
        router.acquire("m").release()
        assert all(numbers[LEASE] > 0 for _, _, numbers in store.messages)
        end(router)
        (owner, _, numbers) = store.messages[-1]
        assert (owner, numbers[LEASE]) == ("d/eu", 0)
        assert "turnout-shared" not in {thread.name for thread in threading.enumerate()}
        store.messages.clear()


def test_a_router_that_shares_nothing_is_closed() -> None:
    router = Router([Deployment("eu", "m")])
    router.close()
    asyncio.run(router.aclose())
