"""Limits that processes share: the workers of a host, and many hosts.

A router that is given a store shares its limits with all routers that use the same store::

    router = Router(deployments, shared=turnout.shared.Memory())

| store | who shares |
|---|---|
| :class:`Memory` | routers of one process, for tests |

A store is any object with a method ``exchange(batch)``. It takes messages, each an owner, a process and whole
numbers, and returns the replies in their order. All stores keep the same books: what a process may use of each
limit. Together that is never more than the limit.
"""

from turnout._core import Memory

__all__ = ["Memory"]
