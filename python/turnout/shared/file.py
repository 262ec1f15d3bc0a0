"""The store for the processes of one host: a small file that they lock in turn."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from turnout._checks import seconds
from turnout.exceptions import ConfigurationError
from turnout.shared._process import process_name

if TYPE_CHECKING:
    from turnout._core import _FileLedger

__all__ = ["File"]

_ON_LOSS = ("closed", "share", "open")

_NAMESPACE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class File:
    """Shares limits among the processes of one host, through a file. No server is needed.

    Every process that names the same file shares the limits of deployments and quotas with the same names,
    on purpose. The file is small, is made for its user alone (mode 0600), and is changed under a lock that
    the operating system takes from a process that ends. A process that is killed amid a change leaves the
    state before it. On Linux its places come back at once; elsewhere, after ``ttl`` and ``busy_ttl``.

    The file is opened when it is first used, and a forked child opens it anew. So a router may be made before
    the workers are forked.

    It is not for network file systems, where a lock may hold for one machine alone. It needs a Unix system.

    If the file is removed while it is used, the processes go on in a new one. For ``learn`` seconds they are
    granted nothing new there: each tells what it holds. A process that is new then, and finds no file before
    the others do, takes it for the first one ever, and grants at once.

    Args:
        path: The file. Its folder must exist. By default it is ``NAMESPACE.ledger`` in a folder for the user
            alone: ``turnout`` in ``$XDG_RUNTIME_DIR`` if that is set, otherwise ``turnout-UID`` in
            ``/dev/shm``, or else in the folder for temporary files. Keep it in memory, as these are: a disk
            makes each use slower, and may lose the last seconds if the machine stops.
        namespace: The name of the default file: 1 to 100 letters, digits, ``.``, ``_`` and ``-``, not
            beginning with a dot. Applications of one user that shall not share need different ones. It has no
            effect with ``path``.
        ttl: Seconds after which a process that no longer speaks is taken for dead, at least 0.1; at
            least 1 for routers.
        busy_ttl: Seconds for which the places in flight of such a process stay taken after that: its requests
            may go on. If it is known to have ended, they come back at once.
        horizon: Seconds of its own demand that a process takes ahead, at least 0.001.
        patience: Seconds that an acquire that would not wait waits for an answer of the store.
        on_loss: What a process may use while the file cannot be used, and what it holds is used up: nothing
            (``"closed"``), its share of the limits (``"share"``), or the whole limits (``"open"``).

    Raises:
        ConfigurationError: A value is out of range, or the system is not Unix.
        TypeError: A value is of the wrong type.

    Example:
        >>> from turnout.shared import File
        >>> File(namespace="chat").namespace
        'chat'
    """

    path: str | os.PathLike[str] | None = field(default=None, kw_only=False)
    namespace: str = "turnout"
    ttl: float = 10.0
    busy_ttl: float = 60.0
    horizon: float = 0.25
    patience: float = 0.05
    on_loss: Literal["closed", "share", "open"] = "share"
    _ledger: _FileLedger | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if os.name != "posix":
            raise ConfigurationError("turnout.shared.File needs a Unix system")
        if self.path is not None:
            try:
                object.__setattr__(self, "path", os.fsdecode(self.path))
            except TypeError:
                raise TypeError(f"path must be a path or None, not {self.path!r} ({type(self.path).__name__})") from None
            if not self.path or "\0" in str(self.path):
                raise ConfigurationError(f"path must be the path of a file or None, not {self.path!r}")
        said = f"namespace must be 1 to 100 letters, digits, '.', '_' and '-', not beginning with '.', not {self.namespace!r}"
        if not isinstance(self.namespace, str):
            raise TypeError(f"{said} ({type(self.namespace).__name__})")
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigurationError(said)
        seconds(self, "ttl", 0.1)
        seconds(self, "busy_ttl")
        seconds(self, "horizon", 0.001)
        seconds(self, "patience")
        if self.on_loss not in _ON_LOSS:
            raise ConfigurationError(f"on_loss must be 'closed', 'share' or 'open', not {self.on_loss!r}")

    @property
    def learn(self) -> float:
        """Seconds for which nothing is granted after the file was lost: 0.3 of ``ttl``. Every process that
        lives speaks in this time.
        """
        return 0.3 * self.ttl

    def exchange(self, batch: Sequence[tuple[str, str, Sequence[int]]]) -> list[list[int]]:
        """Tell the store of limits, and hear what may be used.

        It waits at most half a second for the file's lock.

        Args:
            batch: Messages, each an owner, a process and the numbers of the wire.

        Returns:
            The reply to each, as the numbers of the wire.

        Raises:
            ConfigurationError: Some numbers are not those of a message.
            StoreLost: The file cannot be used: the message says why. Some messages may have been handled.
        """
        ledger = self._ledger
        if ledger is None:
            ledger = self._open()
        return ledger.exchange(batch)

    def news(self) -> int:
        """Return a number that is another one if a process that waits, or that has something to spare, should
        speak.

        It takes some microseconds and no lock, so it may be asked every few milliseconds.
        """
        return self._ledger.news() if self._ledger is not None else 0

    def close(self) -> None:
        """Close the file. It is opened again when it is next used."""
        if self._ledger is not None:
            self._ledger.close()

    def process_name(self) -> str:
        """Make a name for this process that no process had or will have.

        The store finds out by it whether the process lives. A forked child needs a name of its own.
        """
        return process_name()

    def _open(self) -> _FileLedger:
        # Not before the first use: a worker may be another user than the process that made this object.
        from turnout._core import _FileLedger

        path = default_path(self.namespace) if self.path is None else self.path
        ledger = _FileLedger(path, learn=int(self.learn * 1e6), has_own_folder=self.path is None)
        object.__setattr__(self, "_ledger", ledger)
        return ledger

    def __reduce__(self) -> tuple[partial[File], tuple[()]]:
        options = partial(File, namespace=self.namespace, ttl=self.ttl, busy_ttl=self.busy_ttl, on_loss=self.on_loss)
        return partial(options, self.path, horizon=self.horizon, patience=self.patience), ()


def default_path(namespace: str) -> Path:
    """Return where the file of a namespace is for this user."""
    user = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime) and os.stat(runtime).st_uid == user:
        return Path(runtime, "turnout", f"{namespace}.ledger")
    memory = "/dev/shm"
    folder = memory if os.access(memory, os.W_OK | os.X_OK) else tempfile.gettempdir()
    return Path(folder, f"turnout-{user}", f"{namespace}.ledger")
