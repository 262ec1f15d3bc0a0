"""The shared file in one process: its arguments, where it lies, and what it does with damage and refusals."""

import contextlib
import copy
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import turnout
from turnout import ConfigurationError, StoreLost
from turnout.shared import File
from turnout.shared.file import default_path

from shared.member import SECOND, WINDOW, Member

fcntl = pytest.importorskip("fcntl", reason="turnout.shared.File needs a Unix system")
resource = pytest.importorskip("resource")

PYTHON = [sys.executable, "-W", "error", "-c"]
TESTS = str(Path(__file__).parent.parent)
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path without a file."""
    return tmp_path / "ledger"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run(script: str, *arguments: object, **options: Any) -> str:
    """Runs a script in a new process, and returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*PYTHON, textwrap.dedent(script), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: str = done.stdout
    return said.strip()


# --- arguments ---


def test_the_defaults() -> None:
    file = File()
    assert (file.path, file.namespace, file.ttl, file.busy_ttl, file.horizon, file.patience, file.on_loss) == (
        None,
        "turnout",
        10.0,
        60.0,
        0.25,
        0.05,
        "share",
    )
    assert file.learn == 3.0


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"path": ""}, ConfigurationError, "path must be the path of a file or None, not ''"),
        ({"path": "a\0b"}, ConfigurationError, "path must be the path of a file or None"),
        ({"path": 7}, TypeError, r"path must be a path or None, not 7 \(int\)"),
        ({"namespace": ""}, ConfigurationError, "namespace must be 1 to 100 letters, .* not ''"),
        ({"namespace": "../other"}, ConfigurationError, "namespace must be"),
        ({"namespace": "x" * 101}, ConfigurationError, "namespace must be"),
        ({"namespace": None}, TypeError, r"namespace must be .*, not None \(NoneType\)"),
        ({"ttl": 0}, ConfigurationError, "ttl must be a finite number of seconds from 0.1 to 1e9, not 0"),
        ({"ttl": "10"}, TypeError, "ttl must be"),
        ({"busy_ttl": -1}, ConfigurationError, "busy_ttl must be a finite number of seconds from 0 to 1e9, not -1"),
        ({"horizon": 0.0}, ConfigurationError, "horizon must be a finite number of seconds from 0.001 to 1e9, not 0.0"),
        ({"patience": -1}, ConfigurationError, "patience must be a finite number of seconds from 0 to 1e9, not -1"),
        ({"patience": float("nan")}, ConfigurationError, "patience must be"),
        ({"on_loss": "ignore"}, ConfigurationError, "on_loss must be 'closed', 'share' or 'open', not 'ignore'"),
    ],
)
def test_bad_arguments_are_told(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        File(**arguments)


def test_it_needs_unix(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        with pytest.raises(ConfigurationError) as caught:
            File()
    assert str(caught.value) == "turnout.shared.File needs a Unix system"


def test_a_store_can_be_shown_copied_and_sent_to_another_process(path: Path) -> None:
    file = File(path, namespace="chat", ttl=5, on_loss="open")
    Member(file, 10).ask("a", target=10, least=10)
    said = f"File(path={str(path)!r}, namespace='chat', ttl=5.0, busy_ttl=60.0, horizon=0.25, patience=0.05, on_loss='open')"
    for other in (file, copy.copy(file), pickle.loads(pickle.dumps(file))):
        assert repr(other) == said
        member = Member(other, 10)
        assert member.ask("a", target=10) == 0
        assert member.granted == 10


def test_numbers_that_are_no_message_are_told(path: Path) -> None:
    file = File(path)
    with pytest.raises(ConfigurationError, match="these numbers are no message of a shared store"):
        file.exchange([("a", "p", [1, 2])])
    assert file.exchange([]) == []
    with pytest.raises(TypeError):
        file.exchange([("a", "p", ["1"])])  # type: ignore[list-item]


# --- where it lies ---


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_default_file_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    before = os.umask(0)
    try:
        file, other = File(namespace="chat"), File(namespace="batch")
        assert list(tmp_path.iterdir()) == [], "nothing is made before the first use"
        Member(file, 10).ask("a", target=10, least=10)
        Member(other, 10).ask("a", target=10, least=10)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "turnout"), mode(tmp_path / "turnout/chat.ledger")) == (0o700, 0o600)
    assert {path.name for path in (tmp_path / "turnout").iterdir()} == {"chat.ledger", "batch.ledger"}

    shutil.rmtree(tmp_path / "turnout")
    Member(file, 10).ask("a", target=0)
    assert mode(tmp_path / "turnout/chat.ledger") == 0o600, "the folder is made again"

    (tmp_path / "turnout").chmod(0o755)
    with pytest.raises(StoreLost, match="its folder has mode 755, so other users may use it"):
        Member(File(), 10).ask("a", target=0)


def test_where_the_default_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_path("chat") == tmp_path / "turnout/chat.ledger"
    for unusable in ("", "relative", str(tmp_path / "nowhere")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        memory = Path("/dev/shm")
        folder = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        assert default_path("chat") == folder / f"turnout-{user}/chat.ledger"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert default_path("chat") == Path(tempfile.gettempdir(), f"turnout-{user}/chat.ledger")


def test_what_is_no_usable_file_is_refused(path: Path, tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(StoreLost) as caught:
            Member(File(path), 10).ask("a", target=0)
        assert isinstance(caught.value, turnout.RouterError)
        return str(caught.value)

    assert refusal(tmp_path) == f"the shared file {tmp_path} cannot be opened: Is a directory (os error 21)"
    assert "No such file" in refusal(tmp_path / "nowhere" / "ledger")
    path.symlink_to(tmp_path / "target")
    assert "is not safe to use: it is a symbolic link; name the path that it leads to" in refusal(path)
    path.unlink()
    path.write_text("a letter")
    path.chmod(0o660)
    assert "is not safe to use: it has mode 660, so other users may write to it" in refusal(path)
    path.chmod(0o600)
    assert "is no shared file of turnout, and stays as it is" in refusal(path)
    assert path.read_text() == "a letter"
    path.unlink()
    os.mkfifo(path)
    assert "is not safe to use: it is no regular file" in refusal(path)


@as_root
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    Member(File(path), 10).ask("a", target=1)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(StoreLost, match="it belongs to user 65534, not to user 0"):
        Member(File(path), 10).ask("a", target=0)


@as_root
@pytest.mark.parametrize("there", [False, True], ids=["no file", "a file"])
def test_a_folder_in_which_nothing_may_be_made(open_folder: Path, there: bool) -> None:
    path = open_folder / "ledger"
    if there:
        Member(File(path), 10).ask("a", target=1)
    script = """
        import os, sys
        from turnout import StoreLost
        from shared.member import Member
        from turnout.shared import File
        os.setgid(65534)
        os.setuid(65534)
        try:
            Member(File(sys.argv[1]), 10).ask("a", target=0)
        except StoreLost as lost:
            print(lost)
    """
    # What another user cannot read is imported before it is another user.
    assert run(script, path) == f"the shared file {path} cannot be opened: Permission denied (os error 13)"


# --- damage ---


def member(path: Path) -> Member:
    return Member(File(path), 10)


def test_another_layout_is_refused(path: Path) -> None:
    one = member(path)
    one.ask("a", target=10, least=10)
    with path.open("r+b") as file:
        file.seek(8)
        file.write((2).to_bytes(8, "little"))
    for user in (one, member(path)):
        with pytest.raises(StoreLost) as caught:
            user.ask("a", target=10)
        assert str(caught.value) == (
            f"the shared file {path} has layout 2, but this version of turnout needs layout 1: stop the processes "
            "of the other version and remove the file, or name another path"
        )


def harm_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 16)


def harm_halves(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(72)
        file.write(b"\xff" * (path.stat().st_size - 72))


def truncate(path: Path) -> None:
    os.truncate(path, 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [harm_header, harm_halves, truncate, empty, Path.unlink])
def test_a_lost_file_learns_what_the_processes_hold(path: Path, harm: Callable[[Path], None]) -> None:
    one, other = member(path), member(path)
    assert one.ask("a", target=6, least=6) == 6
    assert other.ask("a", target=1, least=1) == 1
    news = one.store.news(), other.store.news()  # type: ignore[attr-defined]
    harm(path)
    if harm is Path.unlink:
        assert one.store.news() != news[0]  # type: ignore[attr-defined]
    assert one.ask("a", target=10) == 6, "nothing new is granted"
    assert 2_000_000 < one.learning <= 3_000_000
    assert other.store.news() != news[1]  # type: ignore[attr-defined]
    assert (other.ask("a", target=10), other.granted) == (1, 7)
    assert mode(path) == 0o600


def test_learning_ends(path: Path) -> None:
    one, other = Member(File(path, ttl=0.5), 10), Member(File(path, ttl=0.5), 10)
    one.ask("a", target=6, least=6)
    path.unlink()
    assert one.ask("a", target=8, least=8) == 6
    assert other.ask("a", target=4, least=4) == 0
    time.sleep(one.learning / 1e6)
    assert one.ask("a", target=8, least=8) == 8
    assert other.ask("a", target=2, least=2) == 2


def test_half_a_damaged_cell_is_the_state_before(path: Path) -> None:
    one = member(path)
    one.ask("a", target=6, least=6)
    before = path.read_bytes()
    one.ask("a", target=7, least=7)
    after = path.read_bytes()
    # The second message went to the other half. This is what it looks like when it was not written whole.
    changed = [at for at in range(len(after)) if before[at] != after[at]]
    torn = bytearray(after)
    torn[changed[len(changed) // 2]] ^= 0xFF
    path.write_bytes(torn)
    other = member(path)
    other.ask("a", target=0)
    assert (other.granted, other.learning) == (6, 0)
    one.ask("a", target=7, least=7)
    assert one.granted == 7, "the process tells what it has"


# --- refusals of the system ---


def test_a_full_disk_leaves_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        store, owners = File(folder / "ledger"), 0
        one = Member(store, 10)
        said = ""
        while not said:
            try:
                one.ask(f"owner {owners}", target=3, least=3)
                owners += 1
            except StoreLost as lost:
                said = str(lost)
        full = "No space left on device (os error 28); what was written before still counts"
        assert said == f"the shared file {folder / 'ledger'} cannot be written: {full}"
        assert owners > 3
        store.close()
        other = Member(store, 10)
        for owner in range(owners):
            other.ask(f"owner {owner}", target=0)
            assert (other.granted, other.learning) == (3, 0)
        for _ in range(10):
            one.ask("owner 0", target=4, least=4)
        assert one.granted == 4, "owners that are there go on"
        store.close()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_file_that_must_not_grow_leaves_what_was_written(path: Path) -> None:
    script = """
        import resource, sys
        from turnout import StoreLost
        from shared.member import WINDOW, Member
        from turnout.shared import File
        member = Member(File(sys.argv[1]), 10, WINDOW, int(sys.argv[2]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
        owners = 0
        try:
            while True:
                member.ask(f"owner {owners}", target=3, least=3)
                owners += 1
        except StoreLost as lost:
            print(owners, lost)
    """
    # What a process had of a window counts when it has ended, unlike its places.
    window = int(time.time() + 3600) * SECOND
    owners, said = run(script, path, window).split(" ", 1)
    assert (int(owners), path.stat().st_size <= 5_000) == (4, True)
    assert said == f"the shared file {path} cannot be written: File too large (os error 27); what was written before still counts"
    other = Member(File(path), 10, WINDOW, window)
    for owner in range(4):
        other.ask(f"owner {owner}", target=0)
        assert (other.granted, other.learning) == (3, 0)


def test_no_more_files_can_be_opened(path: Path) -> None:
    one = member(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, hard))
    try:
        with pytest.raises(StoreLost, match="Too many open files"):
            one.ask("a", target=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)
    assert one.ask("a", target=1) == 1


# --- the lock ---


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock, as a process that was stopped amid a batch."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_lock_that_is_kept_is_told_in_half_a_second(path: Path) -> None:
    one = member(path)
    one.ask("a", target=3, least=3)
    with locked(path):
        begun = time.monotonic()
        with pytest.raises(StoreLost, match="is locked by another process, which may have been stopped"):
            one.ask("a", target=4, least=4)
        assert 0.5 <= time.monotonic() - begun < 2.0
        assert one.store.news() > 0  # type: ignore[attr-defined]
    assert one.ask("a", target=4, least=4) == 4


def test_other_threads_run_while_one_waits_for_the_lock(path: Path) -> None:
    one = member(path)
    one.ask("a", target=3, least=3)
    with locked(path):

        def wait() -> None:
            with pytest.raises(StoreLost):
                one.ask("a", target=4)

        thread = threading.Thread(target=wait)
        thread.start()
        turns = 0
        while thread.is_alive():
            turns += 1
            time.sleep(0.005)
    assert turns > 20


# --- closing ---


def test_a_closed_store_opens_again(path: Path) -> None:
    file = File(path)
    assert file.news() == 0
    file.close()
    one = Member(file, 10)
    one.ask("a", target=3, least=3)
    file.close()
    file.close()
    assert one.ask("a", target=3) == 3
    one.leave("a")
    assert member(path).ask("a", target=10, least=10) == 10


def test_names_are_of_this_process_and_differ() -> None:
    names = {File().process_name() for _ in range(100)}
    assert len(names) == 100
    for name in names:
        host, pid, start, random = name.split(":")
        assert int(pid) == os.getpid()
        assert len(random) == 16
        assert "-" in host
        assert start.isdigit()
