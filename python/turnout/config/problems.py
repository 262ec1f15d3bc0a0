"""What is wrong with a config, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from turnout.config.document import Document, Where, spelt

__all__ = ["Problem", "Problems", "near", "shown"]

Level = Literal["error", "warning", "note"]

_MOST_SHOWN = 120


class Problem(NamedTuple):
    """Something that a config says and that does not hold, or has no effect.

    Attributes:
        level: ``"error"``: no router can be made. ``"warning"``: something has no effect. ``"note"``:
            something means another thing than one may think.
        file: The file; ``config`` for a mapping.
        line: The line, from 1; None if it is not known.
        where: The way to the value, such as ``model_list[0].litellm_params.rpm``.
        text: What is wrong, and what is allowed.
    """

    level: Level
    file: str
    line: int | None
    where: str
    text: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.where}: {self.text}" if self.where else f"{place}: {self.text}"


class Problems:
    """Collects the problems of a config, so that a reader sees all of them at once.

    Args:
        document: The config.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.found: list[Problem] = []

    def add(self, level: Level, where: Where, text: str) -> None:
        """Add a problem.

        Args:
            level: How bad it is.
            where: The way to the value.
            text: What is wrong.
        """
        self.found.append(Problem(level, self._document.name, self._document.line(where), spelt(where), text))

    def error(self, where: Where, text: str) -> None:
        """Add a problem with which no router can be made."""
        self.add("error", where, text)

    def warn(self, where: Where, text: str) -> None:
        """Add a problem that leaves something without effect."""
        self.add("warning", where, text)

    def note(self, where: Where, text: str) -> None:
        """Add something that may surprise."""
        self.add("note", where, text)

    def unknown(self, where: Where, allowed: Iterable[str], *, level: Level = "warning", hint: str | None = None) -> None:
        """Add a name that nobody knows.

        Args:
            where: The way to the value; its last step is the name.
            allowed: The names that are known here.
            level: How bad it is.
            hint: What was meant, if that is known; None to look for a similar name.
        """
        self.add(level, where, f"there is no such setting{hint or near(str(where[-1]), allowed)}")

    @property
    def errors(self) -> list[Problem]:
        """The problems with which no router can be made."""
        return [problem for problem in self.found if problem.level == "error"]


def shown(value: object) -> str:
    """Return a wrong value as it may be shown: a scalar, or its kind. A mapping or a list may hold a secret.

    Args:
        value: The value.

    Returns:
        The text.
    """
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of so many digits"
    if value is None or isinstance(value, (bool, int, float, str)):
        text = repr(value)
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"a value of type {type(value).__name__}"


def near(name: str, allowed: Iterable[str]) -> str:
    """Return what was meant by a name, as the end of a sentence.

    Args:
        name: The name.
        allowed: The names that are known.

    Returns:
        The text; empty if no name is similar.
    """
    found = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.7)
    return f": did you mean {found[0]!r}?" if found else ""
