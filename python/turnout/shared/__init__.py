"""Stores through which processes share limits: :class:`File` for the workers of one host."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnout.shared.file import File

__all__ = ["File"]

_HOME = {"File": "turnout.shared.file"}

if not TYPE_CHECKING:  # so that a type checker finds names that do not exist

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module 'turnout.shared' has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(_HOME[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOME})
