"""Limits that processes share: the workers of a host, and many hosts.

A router that is given a store shares its limits with all routers that use the same store::

    router = Router(deployments, shared=turnout.shared.Memory())

| store | who shares |
|---|---|
| :class:`Memory` | routers of one process, for tests |
| :class:`File` | the workers of one host, without a server |
| :class:`Redis` | many hosts, through Redis or Valkey |

A store is any object with a method ``exchange(batch)``. It takes messages, each an owner, a process and
whole numbers, and returns the replies in their order. All stores keep the same books: what a process may use
of each limit. Together that is never more than the limit.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from turnout._core import Memory
from turnout.exceptions import StoreLost as StoreLost

if TYPE_CHECKING:
    from turnout.shared.file import File
    from turnout.shared.redis import Redis

__all__ = ["File", "Memory", "Redis"]

_HOME = {"File": "turnout.shared.file", "Redis": "turnout.shared.redis"}

if not TYPE_CHECKING:  # so that a type checker finds names that do not exist

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module 'turnout.shared' has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(_HOME[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOME})
