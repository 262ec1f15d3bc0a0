"""The shapes of OpenAI's chat completions, embeddings, models and errors, and what Azure adds to them."""

import base64
import struct
import time
from typing import TYPE_CHECKING, Any

from turnout.testing._parts import Problem, Text

if TYPE_CHECKING:
    from turnout.testing.received import ReceivedRequest

TRICKLE = ": keep-alive\n\n"
REQUEST_ID = "x-request-id"
MODEL = "scripted-model"

# Type, code and message of a status.
_BY_STATUS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is invalid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-scripted."),
    403: ("invalid_request_error", None, "You are not allowed to do this."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    408: ("server_error", None, "The request timed out."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests. Please slow down."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}
# Type and message of a code.
_BY_CODE = {
    "context_length_exceeded": (
        "invalid_request_error",
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens. "
        "Please reduce the length of the messages.",
    ),
    "content_filter": (
        None,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.",
    ),
    "insufficient_quota": (
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
}


def is_azure(request: "ReceivedRequest") -> bool:
    """Return whether a request has a path of Azure's."""
    return request.path.startswith("/openai/")


def usage(text: Text) -> dict[str, Any]:
    """Return what chat completions tell of tokens."""
    return {
        "prompt_tokens": text.input_tokens,
        "completion_tokens": text.output,
        "total_tokens": text.input_tokens + text.output,
        "prompt_tokens_details": {"cached_tokens": text.cached_tokens},
    }


def completion(request: "ReceivedRequest", text: Text) -> dict[str, Any]:
    """Return a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": None if text.tool else text.content, "refusal": None}
    if text.tool:
        name, arguments = text.tool
        message["tool_calls"] = [{"id": "call_scripted", "type": "function", "function": {"name": name, "arguments": arguments}}]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": text.finish_reason}
    body = _head(request, "chat.completion") | {"choices": [choice]}
    return body | {"usage": usage(text)} if text.usage else body


def events(request: "ReceivedRequest", text: Text) -> tuple[list[tuple[str | None, Any]], int]:
    """Return the chunks of a chat completion, and how many come before the finish reason."""
    options = request.json.get("stream_options")
    tells_usage = text.usage and isinstance(options, dict) and options.get("include_usage") is True
    chunk = _head(request, "chat.completion.chunk") | ({"usage": None} if tells_usage else {})

    def choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return chunk | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}

    chunks: list[Any] = []
    if is_azure(request):
        # Azure's first chunk tells of the prompt and has no choice.
        filters = {"hate": {"filtered": False, "severity": "safe"}}
        chunks.append(chunk | {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": filters}]})
    if text.tool:
        call = {"index": 0, "id": "call_scripted", "type": "function", "function": {"name": text.tool[0], "arguments": ""}}
        chunks.append(choice({"role": "assistant", "content": None, "tool_calls": [call]}))
        chunks += [choice({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in text.pieces()]
    else:
        chunks.append(choice({"role": "assistant", "content": "", "refusal": None}))
        chunks += [choice({"content": piece}) for piece in text.pieces()]
    closing = len(chunks)
    chunks.append(choice({}, text.finish_reason))
    if tells_usage:
        chunks.append(chunk | {"choices": [], "usage": usage(text)})
    return [(None, data) for data in [*chunks, "[DONE]"]], closing


def embeddings(request: "ReceivedRequest", text: Text) -> dict[str, Any]:
    """Return an embedding for each input."""
    given = request.json.get("input")
    # A list of numbers is one input, as tokens.
    number = len(given) if isinstance(given, list) and not (given and isinstance(given[0], int)) else 1
    size = request.json.get("dimensions")
    size = size if isinstance(size, int) and 0 < size <= 100_000 else 8
    as_base64 = request.json.get("encoding_format") == "base64"
    data = []
    for index in range(number):
        # Unit vectors, each input's another.
        vector = [float(place == index % size) for place in range(size)]
        packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if as_base64 else vector
        data.append({"object": "embedding", "index": index, "embedding": packed})
    body = {"object": "list", "data": data, "model": request.model or MODEL}
    spent = {"prompt_tokens": text.input_tokens, "total_tokens": text.input_tokens}
    return body | {"usage": spent} if text.usage else body


def models() -> dict[str, Any]:
    """Return a list of one model."""
    return {"object": "list", "data": [model(MODEL)]}


def model(name: str) -> dict[str, Any]:
    """Return what is known of a model."""
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "turnout"}


def error(request: "ReceivedRequest", problem: Problem) -> dict[str, Any]:
    """Return the body of an error."""
    kind, code, message = _BY_STATUS.get(
        problem.status,
        ("server_error", None, "The server had an error while processing your request.")
        if problem.status >= 500
        else ("invalid_request_error", None, "The request is invalid."),
    )
    if problem.code is not None:
        code = problem.code
        of_code = _BY_CODE.get(problem.code)
        if of_code is not None:
            kind, message = of_code[0] or kind, of_code[1]
    body: dict[str, Any] = {
        "message": message if problem.message is None else problem.message,
        "type": kind if problem.error_type is None else problem.error_type,
        "param": problem.param,
        "code": code,
    }
    if is_azure(request) and code == "content_filter":
        body["innererror"] = {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
        }
    return {"error": body}


def _head(request: "ReceivedRequest", kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-scripted",
        "object": kind,
        "created": int(time.time()),
        "model": request.model or MODEL,
        "system_fingerprint": "fp_scripted",
    }
