"""A config as it was read: its data, and the line of each value."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from turnout.exceptions import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Document", "Source", "Where", "read", "spelt"]

Source: TypeAlias = "str | Path | Mapping[str, Any]"

# More are a mistake, or an attack by a file in which few lines stand for very many values.
_MOST_VALUES = 1_000_000
_DEEPEST = 100

Where: TypeAlias = "tuple[str | int, ...]"
"""The way to a value: names of members and positions in lists."""


class Document(NamedTuple):
    """A config as it was read.

    Attributes:
        name: The file; ``config`` for a mapping.
        data: What stands in it.
        lines: The lines of its values, from 1, as far as they are known.
        twice: Members that stand twice in one mapping, of which the last one counts.
    """

    name: str
    data: dict[str, Any]
    lines: Mapping[Where, int]
    twice: tuple[Where, ...] = ()

    def line(self, where: Where) -> int | None:
        """Return the line of a value, or of the nearest one around it.

        Args:
            where: The way to the value.

        Returns:
            The line, from 1; None if it is not known.
        """
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where)


def spelt(where: Where) -> str:
    """Spell the way to a value, such as ``model_list[0].litellm_params.rpm``.

    Args:
        where: The way.

    Returns:
        The text.
    """
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read(source: Source) -> Document:
    """Read a config.

    Args:
        source: A file in YAML, TOML or JSON, by the end of its name; other files are read as YAML. Or what
            would stand in it.

    Returns:
        The config.

    Raises:
        ConfigurationError: The file cannot be read, or holds no mapping.
        TypeError: The source is neither a path nor a mapping.
    """
    if isinstance(source, Mapping):
        return Document("config", _named(_tree(source, "config"), "config"), {})
    if not isinstance(source, (str, Path)):
        raise TypeError(f"a config must be a path or a mapping, not one of type {type(source).__name__}")
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        is_text = isinstance(error, UnicodeDecodeError)
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8" if is_text else "no file has such a name"
        raise ConfigurationError(f"the config {str(path)!r} cannot be read: {said}") from error
    try:
        return _READERS.get(path.suffix.lower(), _read_yaml)(str(path), text)
    except RecursionError:
        raise ConfigurationError(f"{path}: the config is nested too deeply") from None


def _read_toml(name: str, text: str) -> Document:
    try:
        return Document(name, tomllib.loads(text), {})
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None


def _read_json(name: str, text: str) -> Document:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    try:
        lines, twice = _lines(yaml.compose(text, yaml.SafeLoader))
    except yaml.YAMLError:  # JSON may be indented by tabs, which YAML knows not
        lines, twice = {}, ()
    return Document(name, _named(data, name), lines, twice)


def _read_yaml(name: str, text: str) -> Document:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        lines, twice = _lines(node)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigurationError(f"{name}{f':{mark.line + 1}' if mark else ''}: {said}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"{name}: {error}") from None
    return Document(name, _named({} if data is None else data, name), lines, twice)


_READERS = {".toml": _read_toml, ".json": _read_json}


def _named(data: object, name: str) -> dict[str, Any]:
    data = _tree(data, name)
    if not isinstance(data, dict):
        raise ConfigurationError(f"{name}: a config must be a mapping, not a {type(data).__name__}")
    for key in data:
        if not isinstance(key, str):
            raise ConfigurationError(f"{name}: a name at the top must be a text, not {key!r}")
    return data


def _tree(data: object, name: str) -> Any:
    """Returns data as a tree of mappings and lists. A part of YAML may stand in several places."""
    left = _MOST_VALUES

    def copied(value: object, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ConfigurationError(f"{name}: the config is nested too deeply, refers to itself, or is too large")
        if isinstance(value, Mapping):
            return {key: copied(one, depth + 1) for key, one in value.items()}
        return [copied(one, depth + 1) for one in value] if isinstance(value, (list, tuple)) else value

    return copied(data, 0)


def _lines(root: Any) -> tuple[dict[Where, int], tuple[Where, ...]]:
    """Returns the lines of all values below a node of YAML, and the members that stand twice."""
    lines: dict[Where, int] = {}
    twice: list[Where] = []
    seen: set[int] = set()
    waiting: deque[tuple[Where, Any]] = deque([((), root)])
    while waiting:
        where, node = waiting.popleft()
        # A node with several names is walked once, by the first: each may hold others with several names.
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(((*where, nth), item) for nth, item in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            names = set()
            for key, value in node.value:
                below = (*where, key.value) if isinstance(key.value, str) else where
                if below in names:
                    twice.append(below)
                names.add(below)
                lines[below] = key.start_mark.line + 1
                waiting.append((below, value))
    return lines, tuple(twice)
