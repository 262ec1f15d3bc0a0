"""A process that shares limits, as a store sees it: what it says, and what it is told that it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from turnout import StoreLost
from turnout.shared._process import process_name

SECOND = 1_000_000

PLACES = (1, 4)
WINDOW = (2, 0)


class Store(Protocol):
    """What keeps the books."""

    def exchange(self, batch: Sequence[tuple[str, str, Sequence[int]]], /) -> list[list[int]]:
        """Handles messages."""


@dataclass
class Member:
    """A process that asks for one meter of each owner."""

    store: Store
    limit: int
    meter: tuple[int, int] = PLACES
    # The window's name and end, 0 for places.
    window: int = 0
    name: str = field(default_factory=process_name)
    # What it was last told that it holds of each owner.
    held: dict[str, int] = field(default_factory=dict)
    granted: int = 0
    learning: int = 0
    members: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)
    _lives: dict[str, int] = field(default_factory=dict)

    def message(
        self, owner: str, *, target: int, least: int = 0, used: int = 0, lease: int = 10 * SECOND
    ) -> tuple[str, str, list[int]]:
        """Makes the next message about an owner."""
        number = self._numbers[owner] = self._numbers.get(owner, 0) + 1
        meter, kind = self.meter
        have = min(self.held.get(owner, 0), target)
        row = [self.window, self.window, have, least, target, used]
        head = [number, self._lives.get(owner, 0), lease, 600 * SECOND, 1]
        return owner, self.name, [*head, meter, kind, 0, 0, self.limit, 1, *row]

    def hear(self, owner: str, reply: Sequence[int]) -> int:
        """Reads a reply, and returns what it holds."""
        _, self._lives[owner], self.learning, self.members, _, _, _, _, _, self.held[owner], self.granted = reply
        return self.held[owner]

    def ask(self, owner: str, *, target: int, least: int = 0, used: int = 0) -> int:
        """Says what it would like to have, and returns what it then holds."""
        [reply] = self.store.exchange([self.message(owner, target=target, least=least, used=used)])
        return self.hear(owner, reply)

    def ask_patiently(self, owner: str, *, target: int, least: int = 0, used: int = 0) -> int:
        """Asks again while the store is locked: on a busy machine whoever has the lock may get no time."""
        while True:
            try:
                return self.ask(owner, target=target, least=least, used=used)
            except StoreLost as lost:
                if "is locked by another process" not in str(lost):
                    raise

    def leave(self, owner: str) -> None:
        """Gives all back."""
        [reply] = self.store.exchange([self.message(owner, target=0, lease=0)])
        self.hear(owner, reply)
