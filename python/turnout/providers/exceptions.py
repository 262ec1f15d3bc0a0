"""What an exception says about the deployment that raised it.

Client libraries are understood by what their exceptions carry, not by importing them. That covers openai,
anthropic, google-genai, google-api-core, botocore, mistralai, cohere, litellm, httpx, httpx2, httpcore,
aiohttp, requests, urllib3, urllib, grpc, tenacity and OSErrors. In this order they are asked:

- a code in the body that says more than a status does, such as ``insufficient_quota`` under a 429;
- the status: ``status_code``, ``status`` or ``code``, on the exception or its ``response``, also as text;
- the names of the exception's classes; those of a connection come before a status that no response has;
- the type or code of an error in the middle of a stream, or of gRPC;
- the number of an OSError;
- the exception that it wraps: ``reason``, ``last_attempt``, ``__cause__``.

Sentences add to what a status or a code says (`turnout.providers.wordings`). Headers, bodies and sentences
name waits (`turnout.providers.headers`, `turnout.providers.bodies`).
"""

from typing import Any, Literal, NamedTuple

from turnout._signals import let_through
from turnout.enums import FailureKind
from turnout.exceptions import RouterError
from turnout.providers import kinds
from turnout.providers.bodies import Body, code, wait_in_words
from turnout.providers.headers import Observed, read_exception_headers
from turnout.providers.strangers import attribute, called, entry, text
from turnout.providers.wordings import refined

__all__ = ["Failure", "classify_exception"]


class Failure(NamedTuple):
    """What went wrong.

    Attributes:
        kind: The kind of failure.
        retry_after: Seconds after which the provider wants to be asked again; None if it did not say.
    """

    kind: FailureKind
    retry_after: float | None = None


def classify_exception(exc: BaseException) -> Failure | None:
    """Say what an exception that left a lease's block means for the deployment.

    An error's code and the HTTP status decide. Without them the names of the exception's classes do, and then
    the exception that caused it. An unknown one is an ``error``.

    Args:
        exc: The exception. Of an exception group the first member that is a failure counts.

    Returns:
        The failure, or None if there is no outcome to record. That is so if the exception is no `Exception`:
        the caller was cancelled or killed, a generator closed, or the program is ending. It is so too if
        turnout itself had no deployment to offer.
    """
    reading = read_exception(exc)
    return None if reading is None or reading.kind is None else Failure(reading.kind, reading.retry_after)


class Reading(NamedTuple):
    """All that an exception says, found in one look at it.

    Attributes:
        kind: The kind of failure; None if there is no outcome to record.
        retry_after: Seconds after which the provider wants to be asked again; None if it did not say.
        observed: What its headers say about the provider's limits.
        scope: ``"account"`` if it is about the whole account; None if that is not known.
    """

    kind: FailureKind | None
    retry_after: float | None = None
    observed: tuple[Observed, ...] = ()
    scope: Literal["account"] | None = None


def read_exception(exc: BaseException) -> Reading | None:
    """Read all that an exception says that left a lease's block. A lease calls it once.

    Args:
        exc: The exception. Of an exception group the first member that is a failure counts.

    Returns:
        What it says; None if it says nothing of the deployment.
    """
    return _read(exc, set())


# Bound once: to look up a member of an enumeration is slow in Python 3.11.
_AUTH = FailureKind.AUTH
_BAD_REQUEST = FailureKind.BAD_REQUEST
_CANCELLED = FailureKind.CANCELLED
_CONNECTION = FailureKind.CONNECTION
_CONTENT_POLICY = FailureKind.CONTENT_POLICY
_CONTEXT_WINDOW = FailureKind.CONTEXT_WINDOW
_ERROR = FailureKind.ERROR
_RATE_LIMIT = FailureKind.RATE_LIMIT
_TIMEOUT = FailureKind.TIMEOUT

# So many exceptions are read one behind the other; who wraps more has no end.
_MOST_WRAPPED = 64

# So far litellm buries what it was raised for.
_MOST_HIDDEN = 8

# A request that is at fault whatever the status.
_REQUEST_KINDS = (_CONTEXT_WINDOW, _CONTENT_POLICY)
# Where a body may name a wait: not for a request that is wrong at any time.
_WAITING_KINDS = (_RATE_LIMIT, _ERROR, _TIMEOUT)
# What may be about the content instead.
_HARSH_KINDS = (_BAD_REQUEST, _AUTH)
# What a name tells so well that no body is asked.
_PLAIN_KINDS = (_CONNECTION, _TIMEOUT, _CANCELLED)


def _read(exc: BaseException, seen: set[int]) -> Reading | None:
    """Reads an exception, and those that it wraps. None of them is read twice, so that a cycle has an end."""
    try:
        seen.add(id(exc))
        names = [cls.__name__ for cls in type(exc).__mro__]
        # Groups are built in since Python 3.11, before that a package has the same names.
        if "BaseExceptionGroup" in names and (members := _members(exc)):
            readings = (_read(member, seen) for member in members if id(member) not in seen)
            return next((reading for reading in readings if reading is not None and reading.kind is not None), None)
        # A BaseException that is no Exception is not the deployment's fault, and is let pass.
        if not isinstance(exc, Exception) or isinstance(exc, RouterError):
            return None
        return _read_one(exc, names, seen)
    except Exception as error:  # an exception of a stranger that does not even let itself be looked at
        let_through(error)
        return Reading(_ERROR)


def _members(exc: BaseException) -> list[BaseException]:
    members = attribute(exc, "exceptions")
    return [member for member in members if _is_exception(member)] if isinstance(members, (tuple, list)) else []


def _is_exception(value: Any) -> bool:
    return issubclass(type(value), BaseException)


def _read_one(exc: Exception, names: list[str], seen: set[int]) -> Reading | None:
    if "MidStreamFallbackError" in names:
        # litellm, which gives a status of its own to whatever ends a stream.
        original = attribute(exc, "original_exception")
        if _is_exception(original) and id(original) not in seen:
            return _read(original, seen)
    by_name = next((kind for name in names if (kind := kinds.BY_NAME.get(name)) is not None), None)
    response = attribute(exc, "response")
    status = _status(exc, response, by_name is _CONNECTION)
    if status is None and by_name in _PLAIN_KINDS:
        # openai wraps the exceptions of its HTTP library, a full pool among them. urllib3 wraps its own.
        reason = attribute(exc, "reason")
        if not _is_exception(reason) and attribute(exc, "llm_provider") is not None and not _hides_a_connection(exc):
            # litellm raises its error of a connection for whatever comes up in a stream.
            reason = exc.__cause__ or exc.__context__
        if _is_exception(reason) and id(reason) not in seen:
            return _read(reason, seen)
        is_unsent = by_name is _CANCELLED or type(exc.__cause__).__name__ in ("PoolTimeout", "EmptyPoolError")
        heard = read_exception_headers(exc)
        return Reading(None if is_unsent else by_name, heard.retry_after, heard.observed, heard.scope)
    body = _body(exc, names, response)
    heard = read_exception_headers(exc, body.headers)
    coded = kinds.of_codes(body.codes)
    kind = _kind(exc, status, by_name, body, coded)
    if kind is None:
        wrapped = _wrapped(exc)
        if wrapped is None or id(wrapped) in seen or len(seen) > _MOST_WRAPPED:
            return Reading(_ERROR, heard.retry_after, heard.observed, heard.scope)
        inner = _read(wrapped, seen)
        if inner is None or inner.retry_after is not None:
            return inner
        return inner._replace(retry_after=heard.retry_after)
    said = ""
    if kind in _WAITING_KINDS or kind in _HARSH_KINDS:
        said = body.words(text(exc))
        kind = refined(kind, status, body.codes, said, coded is not None)
    if kind is _ERROR and attribute(exc, "llm_provider") is not None and _hides_a_connection(exc):
        kind = _CONNECTION
    if body.is_moderated and kind in _HARSH_KINDS:
        kind = _CONTENT_POLICY
    wait = _wait(kind, heard.retry_after, heard.renewed, body, said)
    return Reading(None if kind is _CANCELLED else kind, wait, heard.observed, heard.scope)


def _kind(
    exc: Exception, status: int | None, by_name: FailureKind | None, body: Body, coded: FailureKind | None
) -> FailureKind | None:
    """The kind, as all but sentences and what is wrapped tell it; None if nothing does."""
    if by_name in _REQUEST_KINDS:
        return by_name
    if status == 413:
        # Groq has the code of a rate limit beside it.
        return _CONTEXT_WINDOW
    kind = coded
    if kind is None:
        kind = by_name if status is None else kinds.of_status(status)
    if kind is None:
        kind = kinds.of_codes_alone(body.codes)
    if kind is None:
        said = next((said for one in (*body.statuses, *body.codes) if (said := _as_status(one)) is not None), None)
        kind = None if said is None else kinds.of_status(said)
    if kind is None and isinstance(exc, OSError):
        kind = kinds.of_errno(attribute(exc, "errno"), text(exc))
    return kind


def _wait(kind: FailureKind, named: float | None, renewed: float | None, body: Body, said: str) -> float | None:
    """The wait that names the next chance. A zero is none as long as something says more."""
    if named or kind not in _WAITING_KINDS:
        return named
    # The end of a spent limit is asked for last: it may be when it is full again.
    return body.wait or wait_in_words(said) or (renewed if kind is _RATE_LIMIT else None) or named


def _status(exc: Exception, response: Any, only_of_response: bool) -> int | None:
    """The status of an answer that is a refusal; those below 400 say nothing of a failure.

    An exception of a connection may have a status of its maker's (litellm's has 500). A response's was sent.
    """
    places = (
        (response, "status_code"),
        (response, "status"),
        (exc, "status_code"),
        (exc, "status"),
        (exc, "code"),
        (exc, "http_status"),
    )
    for holder, name in places[:2] if only_of_response else (*places[2:4], *places[:2], *places[4:]):
        status = _as_status(attribute(holder, name))
        if status is not None:
            return status
    return _as_status(entry(entry(response, "ResponseMetadata"), "HTTPStatusCode"))


def _as_status(value: Any) -> int | None:
    """A status, also one in text: ``429``, ``429 Too Many Requests``."""
    kind = type(value)
    if issubclass(kind, str):
        if not (value[:3].isascii() and value[:3].isdigit() and value[3:4] in ("", " ")):
            return None
        value = int(value[:3])
    elif not issubclass(kind, int):
        return None
    return int(value) if 400 <= value < 600 else None


def _body(exc: Exception, names: list[str], response: Any) -> Body:
    """All that the bodies of an exception say, and its own codes."""
    places = [found for name in ("body", "details", "errors") if (found := attribute(exc, name)) is not None]
    if issubclass(type(response), dict):
        places.append(response)
    codes = [code(said) for name in ("code", "type", "status", "reason") if (said := _word(attribute(exc, name))) is not None]
    if "RpcError" in names:
        for name in ("code", "details"):
            ask = attribute(exc, name)
            said = called(ask)
            if name == "code" and (word := _word(said)) is not None:
                codes.append(code(word))
            elif type(said) is str:
                places.append(said)
    content = None
    if not places and response is not None:
        # httpx and requests keep here what they have read of an answer. Their properties would read it from
        # the network.
        content = attribute(response, "_content")
        if type(content) is bytes:
            places.append(content)
    body = Body(places)
    body.codes[:0] = codes
    if not any(issubclass(type(place), (dict, list, tuple)) for place in places):
        body.read_text(body.words(text(exc)))
    return body


def _word(value: Any) -> str | None:
    """A code: text, or the name of an enumeration's member."""
    kind = type(value)
    if not issubclass(kind, str):
        value = None if value is None or kind is int else attribute(value, "name")
    return value if type(value) is str and len(value) <= 256 else None


def _wrapped(exc: Exception) -> BaseException | None:
    """The exception that another one stands for: of urllib, tenacity and google-api-core, or its cause."""
    for inner in (attribute(exc, "reason"), _last_attempt(exc), exc.__cause__, attribute(exc, "cause")):
        if _is_exception(inner):
            return inner
    return None


def _hides_a_connection(exc: BaseException) -> bool:
    """Whether an exception was raised for one of a connection. litellm gives status 500 to those."""
    inner: BaseException | None = exc
    for _ in range(_MOST_HIDDEN):
        inner = None if inner is None else inner.__cause__ or inner.__context__
        by_name = next((kind for cls in type(inner).__mro__ if (kind := kinds.BY_NAME.get(cls.__name__)) is not None), None)
        if by_name is _CONNECTION:
            return True
    return False


def _last_attempt(exc: Exception) -> Any:
    ask = attribute(attribute(exc, "last_attempt"), "exception")
    return called(ask, timeout=0)
