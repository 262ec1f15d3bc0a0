"""What an exception says about the deployment that raised it.

Client libraries are understood by what their exceptions carry, not by importing them: an HTTP status
(``status_code``, ``status`` or ``code``, on the exception or on its ``response``), response headers, and the
names of the exception's classes. That covers openai, anthropic, httpx, aiohttp, requests, urllib and litellm.
"""

import sys
from typing import Any, NamedTuple

from turnout.enums import FailureKind
from turnout.exceptions import RouterError
from turnout.providers.headers import Observed, _attribute, _text, read_exception_headers

__all__ = ["Failure", "classify_exception"]


class Failure(NamedTuple):
    """What went wrong.

    Attributes:
        kind: The kind of failure.
        retry_after: Seconds after which the provider wants to be asked again; None if it did not say.
    """

    kind: FailureKind
    retry_after: float | None = None


_BY_STATUS = {
    401: FailureKind.AUTH,
    402: FailureKind.AUTH,
    403: FailureKind.AUTH,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.TIMEOUT,
    # Conflict and too early: the server was not ready for the request, which was not wrong.
    409: FailureKind.ERROR,
    425: FailureKind.ERROR,
    429: FailureKind.RATE_LIMIT,
    # nginx's "client closed request".
    499: FailureKind.CANCELLED,
    504: FailureKind.TIMEOUT,
}

# Names of classes, looked for from the exception's own class to its bases. The order of the two tables does
# not matter: no class of the libraries above has names of both in its bases at the same distance.
_BY_NAME = {
    "CancelledError": FailureKind.CANCELLED,
    "Cancelled": FailureKind.CANCELLED,
    # The client's own pool was full: the request was never sent.
    "PoolTimeout": FailureKind.CANCELLED,
    "TimeoutError": FailureKind.TIMEOUT,
    "ServerTimeoutError": FailureKind.TIMEOUT,
    "TooSlowError": FailureKind.TIMEOUT,
    "TimeoutException": FailureKind.TIMEOUT,
    "Timeout": FailureKind.TIMEOUT,
    "APITimeoutError": FailureKind.TIMEOUT,
    "APIConnectionError": FailureKind.CONNECTION,
    "ConnectionError": FailureKind.CONNECTION,
    "ClientConnectionError": FailureKind.CONNECTION,
    "ServerDisconnectedError": FailureKind.CONNECTION,
    "TransportError": FailureKind.CONNECTION,
    "gaierror": FailureKind.CONNECTION,
    "RateLimitError": FailureKind.RATE_LIMIT,
    "AuthenticationError": FailureKind.AUTH,
    "PermissionDeniedError": FailureKind.AUTH,
    "NotFoundError": FailureKind.NOT_FOUND,
    "ContextWindowExceededError": FailureKind.CONTEXT_WINDOW,
    "ContentPolicyViolationError": FailureKind.CONTENT_POLICY,
    "ContentFilterFinishReasonError": FailureKind.CONTENT_POLICY,
    "LengthFinishReasonError": FailureKind.BAD_REQUEST,
    "BadRequestError": FailureKind.BAD_REQUEST,
    "UnprocessableEntityError": FailureKind.BAD_REQUEST,
}

# What providers write into a 400 (OpenAI and Azure as an error code, Anthropic and vLLM in words).
_CONTEXT_WINDOW = ("context_length_exceeded", "maximum context length", "context window", "context limit", "prompt is too long")
_CONTENT_POLICY = ("content_filter", "content filter", "content_policy", "content management policy", "responsible_ai_policy")


def classify_exception(exc: BaseException) -> Failure | None:
    """Say what an exception that left a lease's block means for the deployment.

    An HTTP status decides; without one, the names of the exception's classes. What nobody knows is an
    ``error``.

    Args:
        exc: The exception. Of an exception group the first member that is a failure counts.

    Returns:
        The failure, or None if there is no outcome to record: the caller was cancelled, a generator closed,
        the program is ending, or turnout itself had no deployment to offer.
    """
    reading = read_exception(exc)
    return None if reading is None or reading.kind is None else Failure(reading.kind, reading.retry_after)


class Reading(NamedTuple):
    """All that an exception says, found in one look at it.

    Attributes:
        kind: The kind of failure; None if there is no outcome to record.
        retry_after: Seconds after which the provider wants to be asked again; None if it did not say.
        observed: What its headers say about the provider's limits.
    """

    kind: FailureKind | None
    retry_after: float | None = None
    observed: tuple[Observed, ...] = ()


def read_exception(exc: BaseException) -> Reading | None:
    """Read all that an exception says that left a lease's block. A lease calls it once.

    Args:
        exc: The exception. Of an exception group the first member that is a failure counts.

    Returns:
        What it says; None if it says nothing of the deployment.
    """
    if isinstance(exc, (GeneratorExit, KeyboardInterrupt, SystemExit, RouterError)) or _is_cancellation(exc):
        return None
    try:
        members = _members(exc)
        if members:
            readings = [reading for member in members if (reading := read_exception(member)) is not None]
            return next((reading for reading in readings if reading.kind is not None), None)
        kind = _kind(exc)
        return Reading(None if kind is FailureKind.CANCELLED else kind, *read_exception_headers(exc))
    except Exception:  # an exception of a stranger that does not even let itself be looked at
        return Reading(FailureKind.ERROR)


def _is_cancellation(exc: BaseException) -> bool:
    # Where asyncio was never imported, nothing is one of its exceptions.
    asyncio = sys.modules.get("asyncio.exceptions")
    return asyncio is not None and isinstance(exc, asyncio.CancelledError)


def _members(exc: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group (built in since Python 3.11, a package of the same class names
    before).
    """
    if not any(cls.__name__ == "BaseExceptionGroup" for cls in type(exc).__mro__):
        return ()
    members = _attribute(exc, "exceptions")
    return tuple(members) if isinstance(members, (tuple, list)) else ()


def _kind(exc: BaseException) -> FailureKind:
    status = _status(exc)
    by_name = _kind_by_name(exc)
    if by_name in (FailureKind.CONTEXT_WINDOW, FailureKind.CONTENT_POLICY):
        return by_name
    if status is None:
        # openai wraps the exceptions of its HTTP library, a full pool among them, and urllib those of
        # sockets.
        if type(exc.__cause__).__name__ == "PoolTimeout":
            return FailureKind.CANCELLED
        return by_name or _kind_by_name(_attribute(exc, "reason")) or FailureKind.ERROR
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return _bad_request(exc)
    return FailureKind.ERROR


def _kind_by_name(exc: Any) -> FailureKind | None:
    return next((kind for cls in type(exc).__mro__ if (kind := _BY_NAME.get(cls.__name__)) is not None), None)


def _bad_request(exc: BaseException) -> FailureKind:
    said = f"{_text(_attribute(exc, 'code'))} {_text(_attribute(exc, 'body'))} {_text(exc)}".lower()
    if any(words in said for words in _CONTEXT_WINDOW):
        return FailureKind.CONTEXT_WINDOW
    if any(words in said for words in _CONTENT_POLICY):
        return FailureKind.CONTENT_POLICY
    return FailureKind.BAD_REQUEST


def _status(exc: BaseException) -> int | None:
    response = _attribute(exc, "response")
    for holder, name in ((exc, "status_code"), (exc, "status"), (response, "status_code"), (response, "status"), (exc, "code")):
        status = _attribute(holder, name)
        if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600:
            return status
    return None
