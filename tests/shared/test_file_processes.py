"""The shared file among processes: what they may use together, and what a death, a fork or a stop costs."""

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from turnout import StoreLost
from turnout.shared import File

from shared.member import SECOND, WINDOW, Member

pytest.importorskip("fcntl", reason="turnout.shared.File needs a Unix system")

TESTS = Path(__file__).parent.parent
SLOW = os.environ.get("TURNOUT_SLOW") == "1"
LONG = 60.0

tells_of_processes = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nothing tells here whether a process lives")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path without a file."""
    return tmp_path / "ledger"


@contextmanager
def process(script: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Runs a script in a new process, which is killed afterwards."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    begin = "import os, sys, time\nfrom shared.member import *\nfrom turnout.shared import File\n"
    with subprocess.Popen(
        # Of a fork beside threads Python warns.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", begin + textwrap.dedent(script), *map(str, arguments)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        try:
            yield started
        finally:
            started.kill()


def line(started: "subprocess.Popen[str]") -> str:
    """Waits for the next line of a process."""
    assert started.stdout is not None
    return started.stdout.readline().strip()


def say(started: "subprocess.Popen[str]") -> None:
    """Lets a process go on that waits for a line."""
    assert started.stdin is not None
    started.stdin.write("\n")
    started.stdin.flush()


def window_ahead() -> int:
    """A window that does not end while a test runs."""
    return int(time.time() + 3600) * SECOND


# --- exactness ---


def test_four_processes_use_a_limit_up_and_never_more(path: Path) -> None:
    limit, window = 100_000, window_ahead()
    script = """
        path, limit, window = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        member = Member(File(path), limit, WINDOW, window)
        print(member.ask("a", target=0), flush=True)
        sys.stdin.readline()
        used = 0
        while True:
            held = member.ask_patiently("a", least=used + 1, target=used + 6, used=used)
            if held <= used and member.granted >= limit:
                break
            used += max(held - used, 0)
        print(used, flush=True)
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(process(script, path, limit, window)) for _ in range(4)]
        assert [line(worker) for worker in workers] == ["0"] * 4
        for worker in workers:
            say(worker)
        used = [int(line(worker)) for worker in workers]
    assert sum(used) == limit
    assert max(used) < limit, "more than one took part"


def test_ten_thousand_kills_amid_writes_lose_nothing(path: Path) -> None:
    kills, workers, owners, window = 10_000 if SLOW else 500, 4, 50, window_ahead()
    seed = time.time_ns() % 2**32
    command = [sys.executable, "-W", "ignore", "-m", "shared.hammer"]
    arguments = map(str, [path, kills, workers, owners, window, seed])
    said = subprocess.run([*command, *arguments], cwd=TESTS, stdout=subprocess.PIPE, text=True, check=True).stdout
    *numbers, lost = map(int, said.split())
    told, killed = numbers[:owners], numbers[owners:]
    assert (lost, sum(killed), sum(told) > kills) == (0, kills, True), seed
    for owner in range(owners):
        member = Member(File(path), 2**40, WINDOW, window)
        member.ask(f"owner {owner}", target=0)
        # One message more for each that was killed before it heard the reply.
        assert 0 <= member.granted - told[owner] <= killed[owner], seed
        assert member.learning == 0, seed


# --- deaths ---

HOLDS = """
    member = Member(File(sys.argv[1]), 10)
    print(member.ask("a", least=10, target=10, used=10), flush=True)
    sys.stdin.readline()
"""


@tells_of_processes
def test_the_places_of_a_dead_process_come_back_at_once(path: Path) -> None:
    file = File(path)
    member = Member(file, 10)
    took = []
    for _ in range(10):
        with process(HOLDS, path) as other:
            assert line(other) == "10"
            assert member.ask("a", least=5, target=5) == 0
            news = file.news()
            other.kill()
            # Its parent has not asked yet how it ended: this one looks at the file alone.
            begun = time.monotonic()
            while member.held["a"] == 0:
                time.sleep(0.005)
                if file.news() != news:
                    member.ask("a", least=5, target=5)
            took.append(time.monotonic() - begun)
            assert member.members == 1
            member.leave("a")
    assert statistics.median(took) < 0.02, took


@tells_of_processes
def test_who_asks_without_looking_at_the_news_gets_them_too(path: Path) -> None:
    member = Member(File(path), 10)
    with process(HOLDS, path) as other:
        assert line(other) == "10"
        assert member.ask("a", least=5, target=5) == 0
        other.kill()
        other.wait()
        time.sleep(0.01)
        assert member.ask("a", least=5, target=5) == 5


@tells_of_processes
def test_a_pid_that_is_used_again_is_another_process(path: Path) -> None:
    member = Member(File(path), 10)
    with process(HOLDS, path) as other:
        assert line(other) == "10"
        told = Path(f"/proc/{other.pid}/stat").read_text()
        host, _, _, random = member.name.split(":")
        start = int(told.rpartition(")")[2].split()[19])
        lives = f"{host}:{other.pid}:{start}:{random}"
        was_before = f"{host}:{other.pid}:{start - 1}:{random}"
        elsewhere = f"{host}0:{other.pid}:{start - 1}:{random}"
        for name, is_buried in ((lives, False), (was_before, True), (elsewhere, False), ("worker", False)):
            Member(member.store, 10, name=name).ask(f"of {name}", least=10, target=10)
            assert (member.ask(f"of {name}", least=1, target=1) == 1) == is_buried, name


def test_a_place_of_a_process_that_cannot_be_judged_comes_back_when_its_lease_ends(path: Path) -> None:
    member, other = Member(File(path), 10), Member(File(path), 10, name="somebody elsewhere")
    message = other.message("a", target=10, least=10, lease=SECOND // 20)
    message[2][3] = 0  # no request is in flight any more once the lease has ended
    [reply] = other.store.exchange([message])
    assert other.hear("a", reply) == 10
    assert member.ask("a", least=10, target=10) == 0
    time.sleep(0.06)
    assert member.ask("a", least=10, target=10) == 10


# --- forks, spawns ---


def test_a_forked_child_opens_the_file_for_itself(path: Path) -> None:
    script = """
        import signal, threading
        signal.alarm(60)
        path = sys.argv[1]
        file = File(path)
        stop = threading.Event()
        failed = []

        def ask(owner):
            member = Member(file, 1_000_000, name=file.process_name())
            asked = 0
            while not stop.is_set():
                asked += 1
                if member.ask_patiently(owner, least=asked, target=asked) != asked:
                    failed.append(owner)

        threads = [threading.Thread(target=ask, args=(f"owner {nth}",)) for nth in range(2)]
        for thread in threads:
            thread.start()
        for nth in range(50):
            pid = os.fork()
            if pid == 0:
                links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                         and os.path.exists(f"/proc/self/fd/{fd}")] if os.path.exists("/proc/self/fd") else []
                child = Member(file, 10, name=file.process_name())
                held = [child.ask_patiently(f"child {nth}", least=10, target=10) for _ in range(10)]
                os._exit(0 if path not in links and held == [10] * 10 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, nth
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed
        print("done", flush=True)
    """
    with process(script, path) as started:
        assert line(started) == "done"


def test_a_child_does_not_keep_the_lock_of_a_parent_that_is_killed(path: Path) -> None:
    script = """
        import fcntl
        file = File(sys.argv[1])
        Member(file, 10).ask("a", target=1)
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        # As if it were killed amid a batch: the descriptor of the store is locked by hand.
        own = [int(fd) for fd in os.listdir("/proc/self/fd")]
        [descriptor] = [fd for fd in own if fd > 2 and os.path.realpath(f"/proc/self/fd/{fd}") == os.path.realpath(sys.argv[1])]
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        print(pid, flush=True)
        time.sleep(60)
    """
    if not Path("/proc/self/fd").exists():
        pytest.skip("nothing tells here which files are open")
    member = Member(File(path), 10)
    with process(script, path) as started:
        child = int(line(started))
        try:
            with pytest.raises(StoreLost, match="is locked by another process"):
                member.ask("a", target=1)
            started.kill()
            started.wait()
            assert member.ask("a", target=1) == 1
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_that_nobody_told_of_the_fork_leaves_the_lock_of_its_parent(path: Path) -> None:
    script = """
        import ctypes, fcntl
        from turnout import StoreLost
        member = Member(File(sys.argv[1]), 10)
        member.ask("a", target=1)
        own = [int(fd) for fd in os.listdir("/proc/self/fd")]
        [descriptor] = [fd for fd in own if fd > 2 and os.path.realpath(f"/proc/self/fd/{fd}") == os.path.realpath(sys.argv[1])]
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            try:
                member.ask("a", target=1)
            except StoreLost:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        with open(sys.argv[1], "rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("still locked", flush=True)
    """
    if not Path("/proc/self/fd").exists():
        pytest.skip("nothing tells here which files are open")
    with process(script, path) as started:
        assert line(started) == "still locked"


def holds(file: File, held: Any) -> None:
    """Asks in a process that was spawned."""
    held.put(Member(file, 10).ask("a", least=4, target=4))


def test_a_spawned_process_shares_the_file(path: Path) -> None:
    file = File(path)
    member = Member(file, 10)
    member.ask("a", least=3, target=3)
    context = multiprocessing.get_context("spawn")
    held = context.Queue()
    child = context.Process(target=holds, args=(file, held))
    child.start()
    assert held.get(timeout=LONG) == 4
    child.join()
    member.ask("a", least=3, target=3)
    assert member.granted == 3 or not Path("/proc/self/stat").exists(), "the child has ended"


# --- stops ---


def test_a_stopped_holder_of_the_lock_costs_half_a_second_a_batch(path: Path) -> None:
    script = """
        import fcntl, signal
        file = open(sys.argv[1], "rb")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("locked", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    """
    member = Member(File(path), 10)
    member.ask("a", least=3, target=3)
    with process(script, path) as other:
        assert line(other) == "locked"
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(StoreLost, match="is locked by another process, which may have been stopped"):
                member.ask("a", least=4, target=4)
            assert 0.5 <= time.monotonic() - begun < 2.0
        other.send_signal(signal.SIGCONT)
        other.wait()
        assert member.ask("a", least=4, target=4) == 4


def test_a_stopped_member_keeps_its_places(path: Path) -> None:
    member = Member(File(path), 10)
    with process(HOLDS, path) as other:
        assert line(other) == "10"
        other.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        assert member.ask("a", least=1, target=1) == 0
        assert member.members == 2


# --- news ---


def test_others_hear_that_somebody_lacks_units(path: Path) -> None:
    one, other = File(path), File(path)
    holder, asker = Member(one, 10), Member(other, 10)
    holder.ask("a", least=10, target=10)
    heard = one.news()
    assert one.news() == heard
    asker.ask("a", least=1, target=1)
    assert one.news() != heard
    heard = other.news()
    holder.ask("a", least=9, target=9)
    assert other.news() != heard
    assert asker.ask("a", least=1, target=1) == 1
