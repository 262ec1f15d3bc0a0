"""How a lease ends: by the answer that LiteLLM made, or by its stream."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from turnout._core import Lease, _StreamScanner
from turnout.transports.answers import as_keywords

__all__ = ["deployment_id", "fail", "follow", "opened", "opened_async", "settle", "tokens_of"]

_PREFIX = "llm_provider-"

_Shown: TypeAlias = "Callable[[BaseException], BaseException]"


def _as_it_is(error: BaseException) -> BaseException:
    return error


def deployment_id(attempt: Any) -> Any:
    """Read which deployment an attempt is for.

    Args:
        attempt: The arguments of the attempt.

    Returns:
        The id; None if it is no attempt of a Router.
    """
    info = attempt.get("model_info") if isinstance(attempt, Mapping) else None
    return info.get("id") if isinstance(info, Mapping) else None


def tokens_of(answer: Any) -> dict[str, int]:
    """Read the tokens that an answer, or a part of a stream, says were used.

    Args:
        answer: What LiteLLM returned.

    Returns:
        Keywords of :meth:`turnout.Lease.success`; none if it does not say.
    """
    for holder in (answer, _get(answer, "response"), _get(answer, "_hidden_params")):
        usage = _get(holder, "usage")
        if usage is None:
            continue
        prompt = _count(usage, "prompt_tokens", "input_tokens")
        output = _count(usage, "completion_tokens", "output_tokens")
        total = _count(usage, "total_tokens")
        if total is None:
            total = None if prompt is None and output is None else (prompt or 0) + (output or 0)
        if total:
            found = {"tokens": total, "input_tokens": prompt, "output_tokens": output}
            if (prompt or 0) + (output or 0) > total:
                found = {"tokens": total}
            return {name: value for name, value in found.items() if value is not None}
    return {}


def settle(lease: Lease, answer: Any, *, is_cached: bool = False) -> None:
    """End a lease by a whole answer. One from LiteLLM's cache was never asked for.

    Args:
        lease: The lease.
        answer: What LiteLLM returned.
        is_cached: Whether it is known to come from the cache.
    """
    if is_cached or _get(_get(answer, "_hidden_params"), "cache_hit"):
        lease.release(unused=True)
        return
    _observe(lease, answer)
    lease.success(**tokens_of(answer))


def fail(lease: Lease, error: BaseException) -> None:
    """End a lease by an exception. :func:`turnout.classify_exception` tells what it means.

    Args:
        lease: The lease.
        error: The exception.
    """
    lease.__exit__(type(error), error, error.__traceback__)


def follow(lease: Lease, answer: Any, shown: _Shown = _as_it_is) -> Any:
    """End a lease by what LiteLLM returned: a whole answer at once, a stream when it ends, fails, is closed
    or is dropped.

    Args:
        lease: The lease.
        answer: What LiteLLM returned.
        shown: Gives the error that the reader gets for one of the stream.

    Returns:
        What stands for it: a whole answer itself, and a stream of the same class.
    """
    if not (hasattr(answer, "__anext__") or hasattr(answer, "__next__")):
        settle(lease, answer)
        return answer
    _observe(lease, answer)
    following = _Following(lease, shown)
    try:
        answer.__class__ = _followed(type(answer))
        answer._turnout = following
    except (TypeError, AttributeError):  # a generator, or a class with slots
        return _read_async(following, answer) if hasattr(answer, "__anext__") else _read(following, answer)
    # A stream that was dropped. What follows it must not keep it alive, so it does not know it.
    weakref.finalize(answer, following.leave).atexit = False
    return answer


def opened(stream: Any) -> Any:
    """Wait for the first part of a stream that is followed, so that a failure up to it can be mended.

    Args:
        stream: What :func:`follow` returned.

    Returns:
        The stream.

    Raises:
        Exception: The stream failed before. Its lease has not ended.
    """
    following = getattr(stream, "_turnout", None)
    if isinstance(following, _Following) and hasattr(stream, "__next__"):
        with following.opening(), contextlib.suppress(StopIteration):
            following.kept.append(next(stream))
    return stream


async def opened_async(stream: Any) -> Any:
    """Do what :func:`opened` does, in a task."""
    following = getattr(stream, "_turnout", None)
    if isinstance(following, _Following) and hasattr(stream, "__anext__"):
        with following.opening(), contextlib.suppress(StopAsyncIteration):
            following.kept.append(await anext(stream))
    return stream


class _Following:
    """Follows a stream to its end.

    Attributes:
        is_reading: Whether a part is being read. LiteLLM closes a stream itself while it reads the end.
        kept: The first part, if it was read and not yet handed on.
    """

    def __init__(self, lease: Lease, shown: _Shown) -> None:
        self._lease, self._shown = lease, shown
        self.kept: list[Any] = []
        self._is_opening = self._is_finished = False
        self._last: Any = None
        self._tokens: dict[str, int] = {}
        self._scanner: _StreamScanner | None = None
        self.is_reading = False

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """The first part is read. If that fails, the attempt ends the lease."""
        self._is_opening = True
        try:
            yield
        finally:
            self._is_opening = False

    def part(self, part: Any) -> None:
        """A part has come."""
        self._lease.first_token()
        if isinstance(part, (bytes, bytearray)):  # /v1/messages
            self._scanner = self._scanner or _StreamScanner("anthropic", False)
            self._scanner.feed(bytes(part))
            self._tokens = as_keywords(self._scanner.usage)
            return
        self._last = part
        self._tokens = tokens_of(part) or self._tokens
        choices = _get(part, "choices")
        ends_chat = isinstance(choices, list) and bool(choices) and bool(_get(choices[0], "finish_reason"))
        self._is_finished = self._is_finished or ends_chat or _get(part, "type") == "response.completed"

    def end(self) -> None:
        """The stream has ended."""
        # LiteLLM may add the usage to the last part after that was read.
        self._lease.success(**(tokens_of(self._last) or self._tokens))

    def __enter__(self) -> None:
        """The stream is about to be read."""
        self.is_reading = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """It was read: a part has come, the stream is over, it has failed, or its reader was cancelled."""
        self.is_reading = False
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self.end()
        elif error is not None:
            shown = self._shown(error)
            if not self._is_opening:
                fail(self._lease, shown)
            if shown is not error:
                raise shown from shown.__cause__

    def leave(self) -> None:
        """The reader has left. Many do so at the last part, and do not wait for the end."""
        if self.is_reading:
            return
        if self._is_finished:
            self.end()
        else:
            self._lease.release(**self._tokens)  # type: ignore[arg-type]


_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


def _followed(cls: type) -> type:
    """Returns a class of streams that are followed. An object of the given class can become one of this."""
    known = _classes.get(cls)
    if known is None:
        made = {"__anext__": _anext, "__next__": _next, "aclose": _aclose, "close": _close}
        # Only what the class has: LiteLLM asks whether a stream can be closed.
        methods = {name: make(getattr(cls, name)) for name, make in made.items() if hasattr(cls, name)}
        known = type(cls.__name__, (cls,), {**methods, "__module__": cls.__module__})
        _classes[cls] = known
    return known


def _anext(read: Any) -> Any:
    async def __anext__(self: Any) -> Any:  # noqa: N807 # the method's name
        following: _Following = self._turnout
        if following.kept:
            return following.kept.pop()
        with following:
            part = await read(self)
        following.part(part)
        return part

    return __anext__


def _next(read: Any) -> Any:
    def __next__(self: Any) -> Any:  # noqa: N807 # the method's name
        following: _Following = self._turnout
        if following.kept:
            return following.kept.pop()
        with following:
            part = read(self)
        following.part(part)
        return part

    return __next__


def _aclose(close: Any) -> Any:
    async def aclose(self: Any) -> Any:
        self._turnout.leave()
        return await close(self)

    return aclose


def _close(close: Any) -> Any:
    def method(self: Any) -> Any:
        self._turnout.leave()
        return close(self)

    return method


async def _read_async(following: _Following, stream: Any) -> AsyncIterator[Any]:
    try:
        with following:
            async for part in stream:
                following.part(part)
                yield part
        following.end()
    finally:
        following.leave()
        if hasattr(stream, "aclose"):
            await stream.aclose()


def _read(following: _Following, stream: Any) -> Iterator[Any]:
    try:
        with following:
            for part in stream:
                following.part(part)
                yield part
        following.end()
    finally:
        following.leave()
        if hasattr(stream, "close"):
            stream.close()


def _observe(lease: Lease, answer: Any) -> None:
    """Tells turnout what the provider's headers say about its limits."""
    headers = _get(_get(answer, "_hidden_params"), "additional_headers")
    if isinstance(headers, Mapping):
        lease.observe({name.removeprefix(_PREFIX): value for name, value in headers.items() if isinstance(value, str)})


def _get(holder: Any, name: str) -> Any:
    """Returns an entry of a mapping, or an attribute; None without one."""
    if isinstance(holder, Mapping):
        return holder.get(name)
    with contextlib.suppress(Exception):
        return getattr(holder, name, None)
    return None


def _count(usage: Any, *names: str) -> int | None:
    for name in names:
        value = _get(usage, name)
        if type(value) is int and value >= 0:
            return value
    return None
