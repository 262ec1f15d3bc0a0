"""Ends leases by what LiteLLM tells its callbacks about each attempt.

No callback is told of a cancelled call or of a stream that was dropped. There the lease ends with the task,
or with LiteLLM's record of the call (its logging object), which lives no longer than the call or its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.types.router import RouterRateLimitError

from turnout._core import Lease
from turnout.integrations.litellm.leases import deployment_id, fail, settle, tokens_of
from turnout.integrations.litellm.pending import Pending

__all__ = ["Hooks"]


class Hooks(CustomLogger):  # type: ignore[misc]
    """A callback of LiteLLM that ends the leases of attempts.

    Attributes:
        pending: The leases of picks whose attempt has not begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending = Pending()
        self._attempts: dict[tuple[str, Any], _Attempt] = {}
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], Any] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    # --- an attempt that is awaited ---

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        """An attempt begins."""
        lease = self.pending.take(deployment_id(kwargs))
        if lease is not None:
            self._begin(lease, kwargs.get("litellm_call_id"), kwargs.get("litellm_logging_obj"), bool(kwargs.get("stream")))

    async def async_post_call_success_deployment_hook(self, request_data: dict[str, Any], response: Any, call_type: Any) -> None:
        """A whole answer has come."""
        attempt = self._end(request_data)
        if attempt is not None:
            settle(attempt.lease, response)

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        """An attempt has failed, or its stream did not open."""
        attempt = self._end(request_data)
        if attempt is not None:
            fail(attempt.lease, exception)

    async def async_post_call_streaming_deployment_hook(self, request_data: Any, response_chunk: Any, call_type: Any) -> None:
        """A part of a stream has come."""
        attempt = self._get(request_data)
        if attempt is not None:
            attempt.part(response_chunk)

    # --- the end of a stream, and plain code ---

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        """The provider is about to be asked. In plain code nothing else tells of it."""
        lease = self.pending.take(deployment_id(kwargs.get("litellm_params")))
        if lease is not None:
            # These arguments are kept by LiteLLM's record of the call, which is not at hand here.
            mark = kwargs["_turnout"] = _Mark()
            self._begin(lease, kwargs.get("litellm_call_id"), mark, bool(kwargs.get("stream")))

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """A call has ended well, or its stream has."""
        self._succeeded(kwargs, response_obj)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """A call in plain code has ended well, or its stream has."""
        self._succeeded(kwargs, response_obj)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """A call has failed, or its stream has."""
        self._failed(kwargs)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """A call in plain code has failed, or its stream has."""
        self._failed(kwargs)

    def _succeeded(self, kwargs: Any, answer: Any) -> None:
        attempt = self._end(kwargs)
        if attempt is None:
            return
        settle(attempt.lease, answer, is_cached=bool(kwargs.get("cache_hit")))

    def _failed(self, kwargs: Any) -> None:
        error = kwargs.get("exception")
        if isinstance(error, RouterRateLimitError):
            return  # A pick was refused. This comes late: the attempt at a fallback may be on its way.
        attempt = self._end(kwargs)
        if attempt is not None:
            if isinstance(error, BaseException):
                fail(attempt.lease, error)
            else:
                attempt.lease.failure()

    # --- the attempts that go on ---

    def _begin(self, lease: Lease, call_id: Any, record: Any, is_stream: bool) -> None:
        key = (str(call_id), lease.deployment_id)
        attempt = _Attempt(lease, is_stream)
        with self._lock:
            before, self._attempts[key] = self._attempts.get(key), attempt
        if before is not None:
            before.lease.release()
        if record is not None:
            # The record must not be kept alive by this.
            attempt.forgotten = weakref.finalize(record, self._drop, key, attempt)
            attempt.forgotten.atexit = False
        with contextlib.suppress(RuntimeError):  # plain code
            task = asyncio.current_task()
            if task is not None:
                self._watch(task, key, attempt)

    def _watch(self, task: asyncio.Task[Any], key: tuple[str, Any], attempt: _Attempt) -> None:
        # A task may make many calls, and has one callback for all of them.
        attempts = self._tasks.get(task)
        if attempts is None:
            attempts = self._tasks[task] = weakref.WeakValueDictionary()
            task.add_done_callback(self._task_ended)
        attempts[key] = attempt

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        for key, attempt in list(self._tasks.pop(task, {}).items()):
            # A stream may be read by another task than the one that opened it.
            if task.cancelled() or not attempt.is_stream:
                self._drop(key, attempt)

    def _drop(self, key: tuple[str, Any], attempt: _Attempt) -> None:
        with self._lock:
            if self._attempts.get(key) is attempt:
                del self._attempts[key]
        attempt.lease.release(**attempt.tokens)  # type: ignore[arg-type]

    def _get(self, data: Mapping[str, Any]) -> _Attempt | None:
        with self._lock:
            return self._attempts.get(_key(data))

    def _end(self, data: Mapping[str, Any]) -> _Attempt | None:
        with self._lock:
            attempt = self._attempts.pop(_key(data), None)
        if attempt is not None and attempt.forgotten is not None:
            attempt.forgotten.detach()
        return attempt


class _Mark:
    """Lives for as long as what it is put into."""

    def __deepcopy__(self, memo: Any) -> _Mark:
        return self


class _Attempt:
    """One attempt that has begun."""

    def __init__(self, lease: Lease, is_stream: bool) -> None:
        self.lease = lease
        self.is_stream = is_stream
        self.tokens: dict[str, int] = {}
        self.forgotten: Any = None

    def part(self, part: Any) -> None:
        """A part of a stream has come."""
        self.lease.first_token()
        self.tokens = tokens_of(part) or self.tokens


def _key(data: Mapping[str, Any]) -> tuple[str, Any]:
    params = data.get("litellm_params")
    found = deployment_id(data)
    return str(data.get("litellm_call_id")), deployment_id(params) if found is None else found
