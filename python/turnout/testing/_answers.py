"""Makes a reply into the answer to one request: the head, the parts of the body, and where it stops."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnout.testing import _anthropic, _openai, _responses
from turnout.testing._parts import Body, Events, Problem, Text, Timing, Wire

if TYPE_CHECKING:
    from turnout.testing.received import ReceivedRequest
    from turnout.testing.replies import Reply

JSON = "application/json"
STREAM = "text/event-stream; charset=utf-8"
BEFORE_THE_HEAD = -1


@dataclass(frozen=True)
class Answer:
    """What is sent.

    Attributes:
        status: The status.
        headers: All headers but those of the body's length.
        parts: The body: one part for an event.
        is_stream: Whether the parts are events.
        stop: How many parts are sent before ``hang`` or ``drop``, or `BEFORE_THE_HEAD`. None for all.
        is_cut: Whether the body ends too early, though cleanly.
        promised: The length of the whole body, also if it stops before.
        trickle: What is sent in pauses.
        fault: ``drop``, ``reset`` or ``hang`` at the stop.
        timing: When it is sent.
        wire: How it is written.
    """

    status: int
    headers: Mapping[str, str]
    parts: list[bytes]
    is_stream: bool
    stop: int | None
    is_cut: bool
    promised: int
    trickle: bytes
    fault: str
    timing: Timing
    wire: Wire


def is_anthropic(request: "ReceivedRequest") -> bool:
    """Return whether a request is one to Anthropic's API."""
    return "/messages" in request.path or "anthropic-version" in request.headers


def make(request: "ReceivedRequest", reply: "Reply") -> Answer:
    """Make the answer to a request."""
    fault, content = reply.fault, reply.content
    problem = None if fault is None else fault.problem
    dialect = _anthropic if is_anthropic(request) else _openai
    is_stream, cut, stop, closing = False, False, None, 0
    if isinstance(content, Events) or (isinstance(content, Text) and _streams(request)):
        is_stream, content_type, end = True, STREAM, reply.wire.line_end
        events, closing = _events(request, content)
        if fault is not None and problem is not None:
            cut = True
            events = events[: _number(fault.after)]
            events += _failure_events(request, problem, len(events))
        parts = [_encoded(event, end) for event in events]
        trickle = dialect.TRICKLE.replace("\n", end).encode()
    else:
        if problem is not None:
            cut, content_type, body = True, JSON, _json(_failure(request, problem))
        elif isinstance(content, Body):
            content_type, body = content.content_type, content.content
        elif isinstance(content, Problem):
            content_type, body = JSON, _json(dialect.error(request, content))
        else:
            assert isinstance(content, Text)  # events are a stream
            content_type, body = JSON, _json(_whole(request, content))
        parts, trickle = [body], b"\n"
    promised = sum(map(len, parts))
    if fault is not None and problem is None:
        if not is_stream and fault.after not in ("request", "head", 0):
            parts = [parts[0][: len(parts[0]) // 2]]
        if fault.kind == "truncate":
            cut = True
            parts = parts[: (closing if is_stream else 1) if fault.after is None else _number(fault.after)]
            promised = sum(map(len, parts))
        elif fault.after == "request":
            stop = BEFORE_THE_HEAD
        else:
            stop = min(0 if fault.after == "head" else _number(fault.after), len(parts))
    headers = {"content-type": content_type, dialect.REQUEST_ID: "req_scripted"}
    if reply.wire.gzip:
        headers["content-encoding"] = "gzip"
    given = {name.lower() for name in reply.headers}
    headers = {name: value for name, value in headers.items() if name not in given} | dict(reply.headers)
    act = "" if fault is None else "reset" if fault.reset else fault.kind
    return Answer(reply.status, headers, parts, is_stream, stop, cut, promised, trickle, act, reply.timing, reply.wire)


def _streams(request: "ReceivedRequest") -> bool:
    return request.stream and request.endpoint in ("chat/completions", "responses", "messages")


def _number(after: str | int | None) -> int:
    return after if isinstance(after, int) else 0


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _encoded(event: tuple[str | None, Any], end: str) -> bytes:
    name, data = event
    lines = [] if name is None else [f"event: {name}"]
    # Data of several lines has one field for each of them.
    lines += [f"data: {line}" for line in (data if isinstance(data, str) else _json(data).decode()).split("\n")]
    return (end.join(lines) + end + end).encode()


def _events(request: "ReceivedRequest", content: Text | Events) -> tuple[list[tuple[str | None, Any]], int]:
    """Return the events of a stream, and how many of them come before the first that ends it."""
    if isinstance(content, Events):
        return list(content.events), max(len(content.events) - 1, 0)
    if request.endpoint == "responses":
        return _responses.events(request, content)
    if request.endpoint == "messages":
        return _anthropic.events(request, content)
    return _openai.events(request, content)


def _whole(request: "ReceivedRequest", content: Text) -> object:
    match request.endpoint:
        case "responses":
            return _responses.response(request, content)
        case "messages":
            return _anthropic.message(request, content)
        case "messages/count_tokens":
            return {"input_tokens": content.input_tokens}
        case "embeddings":
            return _openai.embeddings(request, content)
        case "models":
            return (_anthropic if is_anthropic(request) else _openai).models()
        case "chat/completions":
            return _openai.completion(request, content)
    return (_anthropic if is_anthropic(request) else _openai).model(request.path.rstrip("/").rpartition("/")[2])


def _failure(request: "ReceivedRequest", problem: Problem) -> object:
    if request.endpoint == "responses":
        return _responses.failed(request, problem)
    return (_anthropic if is_anthropic(request) else _openai).error(request, problem)


def _failure_events(request: "ReceivedRequest", problem: Problem, first: int) -> list[tuple[str | None, Any]]:
    if request.endpoint == "responses":
        return _responses.failure_events(request, problem, first)
    if is_anthropic(request):
        return [("error", _anthropic.error(request, problem))]
    return [(None, _openai.error(request, problem))]
