"""Calls on very many deployments, and what other threads, the garbage collector and forks do meanwhile."""

import collections
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from turnout import Deployment, Router, RouterMetrics

MANY = 100_000


def deployments(number: int) -> list[Deployment]:
    return [Deployment(f"d{i}", "m", rpm_limit=10**9) for i in range(number)]


@pytest.fixture(scope="module")
def many() -> Iterator[list[Deployment]]:
    yield deployments(MANY)
    gc.collect()


CALLS: dict[str, Callable[[Router, list[Deployment]], object]] = {
    "Router": lambda router, many: Router(many),
    "set_deployments": lambda router, many: router.set_deployments(many),
    "explain": lambda router, many: router.explain("m"),
    "snapshot": lambda router, many: router.snapshot(),
    "metrics": lambda router, many: router.metrics(),
    "deployments": lambda router, many: router.deployments(),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_thread_goes_on_while_a_call_is_long(name: str, many: list[Deployment]) -> None:
    router = Router(many)

    def longest_stop() -> float:
        """The longest stop of another thread, as a part of the call's time."""
        ready, times, over = threading.Event(), list[float](), False

        def tick() -> None:
            ready.set()
            while not over:
                times.append(time.perf_counter())

        thread = threading.Thread(target=tick)
        thread.start()
        ready.wait()
        began = time.perf_counter()
        CALLS[name](router, many)
        ended = time.perf_counter()
        over = True
        thread.join()
        during = [began, *(at for at in times if began < at < ended), ended]
        return max(after - before for before, after in pairwise(during)) / (ended - began)

    # One quiet moment of the machine is enough: a call that keeps the GIL never lets go of it.
    assert any(longest_stop() < 1 / 3 for _ in range(20))


def test_picks_go_on_while_all_deployments_are_replaced(many: list[Deployment]) -> None:
    router = Router([*many, Deployment("e", "other")])
    picks = collections.Counter[str]()
    over = threading.Event()

    def pick() -> None:
        while not over.is_set():
            for name in ("m", "other"):
                with router.acquire(name):
                    picks[name] += 1

    threads = [threading.Thread(target=pick) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        router.set_deployments([*many, Deployment("e", "other")])
    over.set()
    for thread in threads:
        thread.join()
    metrics = router.metrics()
    assert (metrics.in_flight, metrics.deployments) == (0, MANY + 1)
    assert metrics.total_successes == sum(picks.values()) > 0


def test_short_changes_and_long_calls_meet() -> None:
    """Each takes the lock of changes: some with the GIL, some without."""
    many = deployments(3_000)
    router = Router(many)
    over = threading.Event()

    def add() -> None:
        router.add_deployment(Deployment("e", "m"))
        router.select("m")

    def use_alias() -> None:
        router.add_alias("alias", "m")
        router.explain("alias")
        router.remove_alias("alias")

    calls: list[Callable[[], object]] = [
        lambda: router.set_deployments(many),
        lambda: router.configure(strategy="least_busy"),
        lambda: router.snapshot(),
        add,
        use_alias,
        lambda: (router.models(), repr(router), router.deployments("m"), gc.collect(0)),
    ]
    done = [0] * len(calls)

    def run(number: int) -> None:
        while not over.is_set():
            calls[number]()
            done[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    while min(done) < 10 and time.monotonic() < end:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert min(done) >= 10


class Client:
    """In a cycle, so that only the collector frees it."""

    def __init__(self) -> None:
        self.is_closed = False
        self.me = self

    def __del__(self) -> None:
        self.is_closed = True


def test_the_collector_takes_nothing_that_a_router_holds() -> None:
    """It looks twice at what a router holds, and a call without the GIL must not hide anything in between."""
    gc.collect()
    gc.freeze()  # so that the two looks come soon after each other
    # Only the router holds the deployments.
    router = Router([Deployment(f"d{i}", "m", metadata={"client": Client()}) for i in range(1_000)])
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            router.metrics()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        gc.collect()
    over.set()
    for thread in threads:
        thread.join()
    gc.unfreeze()
    assert not any(deployment.metadata["client"].is_closed for deployment in router.deployments())


FORKS = """
import os, random, sys, threading, time
from turnout import Deployment, Router
many = [Deployment(f"d{i}", "m", rpm_limit=10**9) for i in range(5_000)]
router = Router(many)
calls = [
    lambda: router.set_deployments(many),
    lambda: router.explain("m"),
    lambda: router.snapshot(),
    lambda: (router.metrics(), router.deployments()),
]
over = threading.Event()
def work(call):
    while not over.is_set():
        call()
workers = [threading.Thread(target=work, args=(call,), daemon=True) for call in calls]
for worker in workers:
    worker.start()

def child():
    assert router.metrics().in_flight == 0
    with router.acquire("m"):
        assert router.metrics().in_flight == 1
    router.set_deployments([*many, Deployment("e", "other")])
    assert router.select("other") == "e" and len(router.snapshot()["status"]) == 5_001
    assert router.explain("other").winner == "e" and len(router.deployments()) == 5_001
    if os.fork() == 0:
        router.set_deployments(many)
        os._exit(0)
    assert os.wait()[1] == 0

failed = []
def fork():
    chance = random.Random(threading.get_ident())
    for _ in range(int(sys.argv[1])):
        time.sleep(chance.uniform(0, 0.02))
        forked = os.fork()
        if forked == 0:
            code = 1
            try:
                child()
                code = 0
            finally:
                os._exit(code)
        end = time.monotonic() + 60
        while True:
            done, status = os.waitpid(forked, os.WNOHANG)
            if done or time.monotonic() > end:
                break
            time.sleep(0.005)
        if not done:
            os.kill(forked, 9)
            os.waitpid(forked, 0)
        if not done or status:
            failed.append(status if done else "hangs")
            return

if sys.argv[2] == "callback":
    router.subscribe(lambda event: fork())
    router.cool_down("d0", 0.001)
else:
    forkers = [threading.Thread(target=fork) for _ in range(int(sys.argv[2]))]
    for forker in forkers:
        forker.start()
    for forker in forkers:
        forker.join()
over.set()
for worker in workers:
    worker.join()
assert not failed, failed
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.parametrize(("forks", "by"), [(60, "1"), (15, "3"), (10, "callback")])
def test_a_child_that_was_forked_amid_long_calls_goes_on(forks: int, by: str) -> None:
    """No lock is held in it, though the long calls give up the GIL while they hold locks."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(forks), by]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_refusal_of_very_many_deployments_changes_nothing(many: list[Deployment]) -> None:
    router = Router(many)
    before: RouterMetrics = router.metrics()
    with pytest.raises(ValueError, match="twice"):
        router.set_deployments([*many, many[0]])
    assert router.metrics() == before
