"""Values that stand in the environment: ``os.environ/NAME`` and ``${NAME}``."""

from __future__ import annotations

import os
import re
from typing import Any

from turnout.config.document import Where
from turnout.config.problems import Problems
from turnout.endpoints import Env

__all__ = ["GONE", "credential", "is_credential", "resolved"]

_WHOLE = re.compile(r"os\.environ/(\w+)|\$\{(\w+)\}")
_INSIDE = re.compile(r"\$\{(\w+)\}")
_SECRET_NAMES = ("authorization", "apikey", "aws_access_key_id", "credentials", "password", "private_key", "secret", "token")
_HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")
_SECRETS = ("_key", "_keys", "_secret", "_password", "_token", "_credentials", "_certificate")


class _Gone:
    """Stands for a value whose variable is not set."""

    def __repr__(self) -> str:
        return "GONE"


GONE = _Gone()


def is_credential(name: str) -> bool:
    """Tell whether a setting holds a secret, by its name.

    Args:
        name: The name of the setting.

    Returns:
        Whether it does.
    """
    said = _HUMP.sub(r"_\1", name).replace("-", "_").lower()
    return said.endswith(_SECRETS) or said in _SECRET_NAMES


def credential(said: object, where: Where, problems: Problems) -> Env | str | None:
    """Return a credential. One from the environment is not looked up here.

    Args:
        said: What the config says.
        where: The way to it.
        problems: Where a variable that stands inside of a text is noted.

    Returns:
        The credential; None if it is no text, or an empty one.
    """
    if not isinstance(said, str) or not said:
        return None
    named = _WHOLE.fullmatch(said)
    if named is None and _INSIDE.search(said):
        problems.error(
            where, "a variable must be all of it, so that it can be read at each use: put the whole text into the variable"
        )
        return None
    return said if named is None else Env(named[1] or named[2])


def resolved(said: Any, where: Where, problems: Problems, *, is_limit: bool = False) -> Any:
    """Return a value, with what stands in the environment.

    Args:
        said: What the config says.
        where: The way to it.
        problems: Where a variable that is not set is noted: an error for a limit, else a warning.
        is_limit: Whether the value is a limit.

    Returns:
        The value; `GONE` if it is a variable that is not set.
    """
    if isinstance(said, dict):
        below = {name: resolved(value, (*where, name), problems, is_limit=is_limit) for name, value in said.items()}
        return {name: value for name, value in below.items() if value is not GONE}
    if isinstance(said, list):
        items = [resolved(item, (*where, nth), problems, is_limit=is_limit) for nth, item in enumerate(said)]
        return [item for item in items if item is not GONE]
    if not isinstance(said, str):
        return said
    named = _WHOLE.fullmatch(said)
    names = [named[1] or named[2]] if named else _INSIDE.findall(said)
    unset = [name for name in names if name not in os.environ]
    if unset:
        text = f"the environment variable {unset[0]!r} is not set"
        if is_limit:
            problems.error(where, f"{text}, and a limit must not vanish")
        else:
            problems.warn(where, f"{text}, so the setting is left out")
        return GONE
    return os.environ[names[0]] if named else _INSIDE.sub(lambda found: os.environ[found[1]], said)
