"""The shapes of OpenAI's responses."""

import time
from typing import TYPE_CHECKING, Any

from turnout.testing import _openai
from turnout.testing._parts import Problem, Text

if TYPE_CHECKING:
    from turnout.testing.received import ReceivedRequest

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response(request: "ReceivedRequest", text: Text) -> dict[str, Any]:
    """Return a response that has ended."""
    reason = _INCOMPLETE.get(text.finish_reason)
    status = "completed" if reason is None else "incomplete"
    details = None if reason is None else {"reason": reason}
    body = _head(request, status) | {"incomplete_details": details, "output": [_item(text, status)]}
    return body | {"usage": _usage(text)} if text.usage else body


def failed(request: "ReceivedRequest", problem: Problem) -> dict[str, Any]:
    """Return a response that failed."""
    error = _openai.error(request, problem)["error"]
    return _head(request, "failed") | {"error": {"code": error["code"] or error["type"], "message": error["message"]}}


def events(request: "ReceivedRequest", text: Text) -> tuple[list[tuple[str | None, Any]], int]:
    """Return the events of a response, and how many come before the last one."""
    whole = response(request, text)
    item = whole["output"][0]
    place = {"item_id": item["id"], "output_index": 0}
    begun = _head(request, "in_progress")
    listed: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": _item(text, "in_progress")}),
    ]
    if text.tool:
        kind = "response.function_call_arguments"
        listed += [(f"{kind}.delta", place | {"delta": piece}) for piece in text.pieces()]
        listed.append((f"{kind}.done", place | {"name": text.tool[0], "arguments": text.tool[1]}))
    else:
        place["content_index"] = 0
        listed.append(("response.content_part.added", place | {"part": _part("")}))
        listed += [("response.output_text.delta", place | {"delta": piece, "logprobs": []}) for piece in text.pieces()]
        listed.append(("response.output_text.done", place | {"text": text.content, "logprobs": []}))
        listed.append(("response.content_part.done", place | {"part": _part(text.content)}))
    listed.append(("response.output_item.done", {"output_index": 0, "item": item}))
    listed.append((f"response.{whole['status']}", {"response": whole}))
    return _numbered(listed), len(listed) - 1


def failure_events(request: "ReceivedRequest", problem: Problem, first: int) -> list[tuple[str | None, Any]]:
    """Return the events of a failure: the error, and then the response that failed.

    Args:
        request: The request.
        problem: The error.
        first: How many events came before.
    """
    error = _openai.error(request, problem)
    return _numbered([("error", error), ("response.failed", {"response": failed(request, problem)})], first)


def _numbered(listed: list[tuple[str, dict[str, Any]]], first: int = 0) -> list[tuple[str | None, Any]]:
    return [(name, {"type": name, "sequence_number": number} | data) for number, (name, data) in enumerate(listed, first)]


def _head(request: "ReceivedRequest", status: str) -> dict[str, Any]:
    return {
        "id": "resp_scripted",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": request.model or _openai.MODEL,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }


def _item(text: Text, status: str) -> dict[str, Any]:
    begins = status == "in_progress"
    if text.tool:
        name, arguments = text.tool
        return {
            "type": "function_call",
            "id": "fc_scripted",
            "call_id": "call_scripted",
            "name": name,
            "arguments": "" if begins else arguments,
            "status": status,
        }
    content = [] if begins else [_part(text.content)]
    return {"type": "message", "id": "msg_scripted", "status": status, "role": "assistant", "content": content}


def _part(content: str) -> dict[str, Any]:
    return {"type": "output_text", "text": content, "annotations": [], "logprobs": []}


def _usage(text: Text) -> dict[str, Any]:
    return {
        "input_tokens": text.input_tokens,
        "input_tokens_details": {"cached_tokens": text.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": text.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": text.input_tokens + text.output,
    }
