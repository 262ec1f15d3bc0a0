"""Nothing aborts, hangs or starves: exits, signals, deep stacks, loops that stand still, forks.

The cases are those of an attack on the core; each ran wrong once.
"""

import asyncio
import collections
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from turnout import Deployment, Health, ManualClock, NoAvailableDeployment, Router, WaitTimeout
from turnout._signals import is_interruption

LONG = 30.0

needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals here")
# Where a handler raises between a call that returned a lease and the next step of the program.
loses_leases = pytest.mark.filterwarnings("ignore:.*was lost without release:ResourceWarning")


def one_place() -> Router:
    return Router([Deployment("a", "m", max_parallel_requests=1)])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# --- the end of the interpreter ---

DAEMONS = {
    "a timeout that passes": """
lease = router.acquire("m")
def call():
    try:
        router.acquire("m", timeout=0.002)
    except WaitTimeout:
        pass
""",
    "contention": """
def call():
    with router.acquire("m", timeout=60.0):
        time.sleep(0.0005)
""",
    "an exception that is read": """
class Boom(Exception):
    status_code = 500
def call():
    try:
        with wide.acquire("m"):
            raise Boom
    except Boom:
        pass
""",
    "a refusal": """
lease = router.acquire("m")
def call():
    try:
        router.acquire("m")
    except NoAvailableDeployment:
        pass
""",
    "records": """
def call():
    wide.stats("a"), wide.explain("m"), wide.metrics()
""",
    "a callback": """
wide.subscribe(lambda event: sum(range(200)))
def call():
    wide.cool_down("a", 1.0)
    wide.report_health("a", True)
""",
}


@pytest.mark.parametrize("name", DAEMONS)
def test_daemon_threads_do_not_abort_the_exit(name: str) -> None:
    """CPython before 3.14 unwinds their stacks."""
    program = f"""
import threading, time
from turnout import Deployment, NoAvailableDeployment, Router, WaitTimeout
router = Router([Deployment("a", "m", max_parallel_requests=1)])
wide = Router([Deployment("a", "m")])
{DAEMONS[name]}
def forever():
    while True:
        try:
            call()
        except RuntimeError as error:
            assert "ending" in str(error)
for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.05)
ballast = [object() for _ in range(200_000)]  # what an interpreter has to clear
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr


def test_an_exit_handler_may_use_a_router_and_others_are_told_that_it_ends() -> None:
    program = """
import atexit, threading
said = []
@atexit.register  # before the package is imported, and so after its own handler
def last():
    said.append(type(router.stats("a")).__name__)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    print(*said)
def other():
    said.append(router.select("m"))
    for call in (lambda: router.stats("a"), lambda: router.select("nope")):
        try:
            call()
        except Exception as error:
            said.append(repr(error))
from turnout import Deployment, Router
router = Router([Deployment("a", "m")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if sys.version_info >= (3, 12):  # no thread starts while the interpreter ends
        assert "DeploymentStats" in done.stdout or "can't create new thread" in done.stderr
    else:
        ending = "RuntimeError('the interpreter is ending')"
        assert (done.stdout.strip(), done.stderr) == (f"DeploymentStats a {ending} {ending}", "")


def test_the_exit_waits_for_a_callback_but_not_for_long() -> None:
    program = """
import threading, time, sys
from turnout import Deployment, Router
router = Router([Deployment("a", "m")])
inside = threading.Event()
def callback(event):
    inside.set()
    time.sleep(float(sys.argv[1]))
    print("told", flush=True)
router.subscribe(callback)
threading.Thread(target=router.cool_down, args=("a", 1.0), daemon=True).start()
inside.wait()
"""
    for seconds, said in (("0.2", "told\n"), ("30", "")):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program, seconds], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, said)
        assert time.monotonic() - began < 10


# --- signals ---


class SoftTimeLimit(Exception):
    """As task queues raise it in a signal's handler."""


class HardTimeLimit(BaseException):
    """The same, past every `except Exception`."""


class Alarms:
    """Signals that come at any moment, whose handler raises."""

    def __init__(self, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
        self.raised = self.caught = 0
        self.lost: list[str] = []
        self._kind = kind
        monkeypatch.setattr(sys, "unraisablehook", lambda told: self.lost.append(f"{told.exc_value!r} in {told.object!r}"))
        self._before = signal.signal(signal.SIGALRM, self._handler)

    def _handler(self, number: int, frame: object) -> None:
        self.raised += 1
        raise self._kind

    def storm(self, seconds: float, work: Callable[[], object]) -> None:
        """Works for a while, and is interrupted in it again and again."""
        chance = random.Random(3)
        end = time.monotonic() + seconds
        # Other libraries have callbacks for the garbage collector. What is raised in one is lost to anybody.
        gc.disable()
        try:
            while time.monotonic() < end:
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.0008))
                    for _ in range(60):
                        work()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except self._kind:
                    self.caught += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                time.sleep(0.01)
            except self._kind:
                self.caught += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
            gc.enable()


@needs_signals
@loses_leases
@pytest.mark.parametrize("kind", [SoftTimeLimit, HardTimeLimit])
def test_no_exception_of_a_handler_is_lost_while_a_failure_is_read(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    class HttpError(Exception):
        status_code = 500

        class response:  # noqa: N801
            headers = {"x-ratelimit-remaining-requests": "5"}  # noqa: RUF012
            status_code = 500

    router = one_place()

    def work() -> None:
        try:
            with router.acquire("m"):
                raise HttpError
        except HttpError:
            pass
        router.report_health("a", True)

    alarms = Alarms(kind, monkeypatch)
    alarms.storm(2.0, work)
    assert alarms.raised > 50
    assert (alarms.caught, alarms.lost) == (alarms.raised, [])
    assert router.metrics().in_flight == 0


@needs_signals
@loses_leases
@pytest.mark.parametrize("kind", [SoftTimeLimit, HardTimeLimit])
def test_no_exception_of_a_handler_loses_a_ring(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads and a task wait, and the main thread rings for them."""
    router = one_place()
    served = collections.Counter[str]()
    over = threading.Event()

    def in_a_thread() -> None:
        while not over.is_set():
            with router.acquire("m", timeout=None):
                served["thread"] += 1

    async def in_a_task() -> None:
        while not over.is_set():
            async with await router.acquire_async("m"):
                served["task"] += 1

    threads = [
        *(threading.Thread(target=in_a_thread) for _ in range(2)),
        threading.Thread(target=lambda: asyncio.run(in_a_task())),
    ]
    for thread in threads:
        thread.start()
    alarms = Alarms(kind, monkeypatch)
    alarms.storm(3.0, lambda: router.acquire("m", timeout=None).release())
    now = served.copy()
    until(lambda: all(served[who] > now[who] + 5 for who in ("thread", "task")))
    over.set()
    for thread in threads:
        thread.join()
    assert alarms.raised > 50
    assert (alarms.caught, alarms.lost) == (alarms.raised, [])
    assert (router.metrics().in_flight, router.waiting("m")) == (0, 0)


@needs_signals
@loses_leases
@pytest.mark.filterwarnings("ignore:.*was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", [SoftTimeLimit, HardTimeLimit])
def test_no_exception_of_a_handler_loses_the_place_of_a_task(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    router = one_place()

    def work() -> None:
        for _ in range(20):
            try:
                router.acquire_async("m").send(None)
            except StopIteration as stop:
                stop.value.release()

    alarms = Alarms(kind, monkeypatch)
    alarms.storm(1.0, work)
    assert alarms.raised > 50
    assert (alarms.caught, alarms.lost) == (alarms.raised, [])
    assert (router.metrics().in_flight, router.waiting("m")) == (0, 0)


@needs_signals
def test_a_handler_that_raises_amid_a_callback_interrupts_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    router = one_place()
    router.subscribe(lambda event: sum(range(300)))

    def work() -> None:
        router.cool_down("a", 1.0)
        router.report_health("a", True)

    alarms = Alarms(SoftTimeLimit, monkeypatch)
    alarms.storm(1.0, work)
    assert alarms.raised > 50
    assert (alarms.caught, alarms.lost) == (alarms.raised, [])


@needs_signals
def test_a_handler_that_raises_while_an_exception_is_looked_at_interrupts_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an exception is a handler's is asked in Python, where the next signal may come."""
    router = one_place()
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    router.subscribe(lambda event: 1 / 0)
    all_signals = signal.valid_signals()

    def raise_first() -> set[signal.Signals]:
        monkeypatch.setattr(signal, "valid_signals", lambda: all_signals)
        signal.raise_signal(signal.SIGALRM)
        return all_signals

    def handler(number: int, frame: object) -> None:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGALRM, handler)
    try:
        monkeypatch.setattr(signal, "valid_signals", raise_first)
        with pytest.raises(SoftTimeLimit):
            router.cool_down("a", 1.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert told == [ZeroDivisionError]
    assert router.stats("a").cooldown_remaining > 0


@needs_signals
def test_a_main_thread_that_waits_lets_handlers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    router = one_place()
    lease = router.acquire("m")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for timeout in (None, LONG):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                router.acquire("m", timeout=timeout)
            assert time.monotonic() - began < 5
            assert router.waiting("m") == 0
    finally:
        signal.signal(signal.SIGALRM, before)
    lease.release()
    assert router.metrics().in_flight == 0


def caught(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError


@needs_signals
@pytest.mark.parametrize("form", ["function", "method", "callable", "partial"])
def test_exceptions_of_handlers_are_known_by_their_code(form: str) -> None:
    from functools import partial

    class Holder:
        def method(self, number: int, frame: object) -> None:
            raise SoftTimeLimit

        def __call__(self, number: int, frame: object) -> None:
            raise SoftTimeLimit

    def function(number: int, frame: object) -> None:
        raise SoftTimeLimit

    handlers: dict[str, Any] = {
        "function": function,
        "method": Holder().method,
        "callable": Holder(),
        "partial": partial(lambda more, number, frame: function(number, frame), 1),
    }
    before = signal.signal(signal.SIGALRM, handlers[form])
    try:
        error = caught(lambda: signal.raise_signal(signal.SIGALRM))
        assert is_interruption(error, error.__traceback__)
        error = caught(lambda: [][0])
        assert not is_interruption(error, error.__traceback__)
        assert is_interruption(KeyboardInterrupt(), None)
    finally:
        signal.signal(signal.SIGALRM, before)


# --- deep stacks ---


def deep(act: Callable[[], object]) -> None:
    """Calls with as little left of the stack as it takes."""
    try:
        deep(act)
    except RecursionError:
        act()


def test_a_lease_that_ends_near_the_recursion_limit_wakes_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    router = one_place()

    async def main() -> None:
        lease = router.acquire("m")
        task = asyncio.create_task(router.acquire_async("m"))
        await asyncio.sleep(0.01)
        deep(lease.release)
        (await asyncio.wait_for(task, LONG)).release()

    asyncio.run(main())
    assert (told, router.waiting("m"), router.metrics().in_flight) == ([], 0, 0)


def test_a_lease_that_ends_near_the_recursion_limit_wakes_a_thread() -> None:
    router = one_place()
    served = threading.Event()

    def wait() -> None:
        router.acquire("m", timeout=LONG).release()
        served.set()

    lease = router.acquire("m")
    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: router.waiting("m") == 1)
    deep(lease.release)
    thread.join()
    assert served.is_set()


# --- loops that stand still ---


def start_waiting(loop: asyncio.AbstractEventLoop, router: Router, tasks: int = 1) -> list[asyncio.Task[Any]]:
    """Lets tasks wait in a loop that stands still afterwards."""

    async def start() -> list[asyncio.Task[Any]]:
        started = [asyncio.ensure_future(router.acquire_async("m")) for _ in range(tasks)]
        await asyncio.sleep(0)
        return started

    return loop.run_until_complete(start())


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_loop_that_stands_still_holds_up_nobody_for_long(tasks: int) -> None:
    router = one_place()
    lease = router.acquire("m")
    loop = asyncio.new_event_loop()
    started = start_waiting(loop, router, tasks)
    said: list[str] = []

    def wait() -> None:
        try:
            router.acquire("m", timeout=LONG).release()
            said.append("served")
        except WaitTimeout as refused:
            said.append(str(refused))

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: router.waiting("m") == tasks + 1)
    lease.release()
    began = time.monotonic()
    thread.join()
    assert said == ["served"]
    assert time.monotonic() - began < 2.0 + tasks
    # They stand in line still, and are served once their loop goes on.
    for task in started:
        loop.run_until_complete(task).release()
    loop.close()
    assert (router.waiting("m"), router.metrics().in_flight) == (0, 0)


def test_a_lease_that_nobody_collects_goes_to_the_next() -> None:
    """The thread serves the task before it, whose loop stands still."""
    router = Router([Deployment("a", "m", max_parallel_requests=1), Deployment("b", "m", max_parallel_requests=1)])
    leases = [router.acquire("m"), router.acquire("m")]
    loop = asyncio.new_event_loop()
    [task] = start_waiting(loop, router)
    leases[0].release()
    leases[1].release()
    began = time.monotonic()
    # Served at once, as there are two places: the first is kept for the task.
    first = router.acquire("m", timeout=LONG)
    assert time.monotonic() - began < 0.4
    assert (router.metrics().in_flight, router.waiting("m")) == (2, 0)
    second = router.acquire("m", timeout=LONG)
    assert 0.5 < time.monotonic() - began < 5
    assert router.waiting("m") == 1
    first.release()
    loop.run_until_complete(task).release()
    second.release()
    loop.close()
    assert (router.waiting("m"), router.metrics().in_flight) == (0, 0)


# --- forks ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_child_that_was_forked_amid_waits_waits_itself() -> None:
    program = """
import os, threading, time
from turnout import Deployment, Router, WaitTimeout
router = Router([Deployment("a", "m", max_parallel_requests=1)])
held = router.acquire("m")
def wait():
    try:
        router.acquire("m", timeout=0.5)
    except WaitTimeout:
        pass
for _ in range(20):
    thread = threading.Thread(target=wait)
    thread.start()
    child = os.fork()
    if child == 0:
        own = router.acquire("m")  # what is in flight is the parent's
        try:
            router.acquire("m", timeout=0.01)
        except WaitTimeout:
            os._exit(0)
        os._exit(1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    assert done and status == 0, (done, status)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_in_a_child_nothing_is_in_flight() -> None:
    """The requests of the parent are the parent's, also the one that tries a deployment on probation."""
    clock = ManualClock(1.0)
    router = Router(
        [Deployment("a", "m", max_parallel_requests=2), Deployment("tried", "n")], clock=clock, health=Health(cooldown_jitter=0.0)
    )
    leases = [router.acquire("m"), router.acquire("m", tokens=9)]
    router.cool_down("tried", 1.0)
    clock.advance(1.0)
    probe = router.acquire("n")
    with pytest.raises(NoAvailableDeployment):
        router.acquire("n")

    def said_in_child() -> list[object]:
        said: list[object] = [router.metrics().in_flight, router.stats("a").rpm_current]
        # Places are free, and the ends of the parent's leases free none more.
        said += [lease.released for lease in (*leases, probe)]
        said += [leases[0].release(), leases[1].success(tokens=5), probe.failure("error")]
        own = [router.acquire("m"), router.acquire("m")]
        said.append(router.metrics().in_flight)
        router.acquire("n").success()
        own[0].release()
        said += [router.metrics().in_flight, router.stats("tried").total_failures]
        return said

    expected = [0, 2, True, True, True, False, False, False, 2, 1, 0]
    child = os.fork()
    if child == 0:
        said = said_in_child()
        if said != expected:
            print(said, flush=True)
        os._exit(said != expected)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert router.metrics().in_flight == 3
    for lease in (*leases, probe):
        assert lease.release()
    assert router.metrics().in_flight == 0
