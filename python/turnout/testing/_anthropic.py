"""The shapes of Anthropic's messages, models and errors."""

import json
from typing import TYPE_CHECKING, Any

from turnout.testing._parts import Problem, Text

if TYPE_CHECKING:
    from turnout.testing.received import ReceivedRequest

TRICKLE = 'event: ping\ndata: {"type":"ping"}\n\n'
REQUEST_ID = "request-id"
MODEL = "scripted-model"

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
# Type and message of a status.
_BY_STATUS = {
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "There is a problem with your billing."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "The requested resource could not be found."),
    408: ("timeout_error", "The request timed out."),
    413: ("request_too_large", "Request exceeds the maximum allowed number of bytes."),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    504: ("timeout_error", "The request timed out."),
    529: ("overloaded_error", "Overloaded"),
}
_BY_CODE = {
    "context_length_exceeded": "prompt is too long: 210000 tokens > 200000 maximum",
    "content_filter": "Output blocked by content filtering policy",
    "insufficient_quota": "Your credit balance is too low to access the Anthropic API. "
    "Please go to Plans & Billing to upgrade or purchase credits.",
}


def message(request: "ReceivedRequest", text: Text) -> dict[str, Any]:
    """Return a message."""
    stop = {"content": [_block(text)], "stop_reason": _STOP_REASONS[text.finish_reason], "usage": _usage(text)}
    body = _head(request) | stop
    if not text.usage:
        del body["usage"]
    return body


def events(request: "ReceivedRequest", text: Text) -> tuple[list[tuple[str | None, Any]], int]:
    """Return the events of a message, and how many come before the stop reason."""
    begun = _head(request) | {"usage": _usage(text) | {"output_tokens": min(1, text.output)}}
    if not text.usage:
        del begun["usage"]
    if text.tool:
        empty = _block(text) | {"input": {}}
        deltas: list[dict[str, Any]] = [{"type": "input_json_delta", "partial_json": piece} for piece in text.pieces()]
    else:
        empty = _block(text) | {"text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in text.pieces()]
    listed: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
    ]
    closing = len(listed)
    end = {"type": "message_delta", "delta": {"stop_reason": _STOP_REASONS[text.finish_reason], "stop_sequence": None}}
    listed.append(end | {"usage": {"output_tokens": text.output}} if text.usage else end)
    listed.append({"type": "message_stop"})
    return [(event["type"], event) for event in listed], closing


def models() -> dict[str, Any]:
    """Return a list of one model."""
    return {"data": [model(MODEL)], "has_more": False, "first_id": MODEL, "last_id": MODEL}


def model(name: str) -> dict[str, Any]:
    """Return what is known of a model."""
    return {"type": "model", "id": name, "display_name": "Scripted", "created_at": "2024-01-01T00:00:00Z"}


def error(request: "ReceivedRequest", problem: Problem) -> dict[str, Any]:
    """Return the body of an error."""
    kind, words = _BY_STATUS.get(
        problem.status,
        ("api_error", "Internal server error") if problem.status >= 500 else ("invalid_request_error", "The request is invalid."),
    )
    words = _BY_CODE.get(problem.code or "", words)
    body = {
        "type": kind if problem.error_type is None else problem.error_type,
        "message": words if problem.message is None else problem.message,
    }
    return {"type": "error", "error": body, "request_id": "req_scripted"}


def _head(request: "ReceivedRequest") -> dict[str, Any]:
    return {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": request.model or MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _block(text: Text) -> dict[str, Any]:
    if text.tool:
        name, arguments = text.tool
        return {"type": "tool_use", "id": "toolu_scripted", "name": name, "input": json.loads(arguments)}
    return {"type": "text", "text": text.content}


def _usage(text: Text) -> dict[str, Any]:
    # Unlike OpenAI's, Anthropic's input tokens leave out those that came from a cache.
    return {
        "input_tokens": text.input_tokens - text.cached_tokens,
        "cache_read_input_tokens": text.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": text.output,
    }
