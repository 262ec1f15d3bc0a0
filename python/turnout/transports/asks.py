"""What a request of a client asks for: the model name, the dialect, its size, and what it allows."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from turnout._core import _RequestScan, _scan_request
from turnout.exceptions import ConfigurationError
from turnout.execution.options import Timeouts

__all__ = ["BASE_URL", "Ask", "Path", "Sent", "estimate", "read_ask", "read_options", "read_path", "read_sent"]

BASE_URL = "https://turnout.invalid/v1"
"""The base URL of clients whose transport routes. Nothing is ever sent to it: RFC 2606 keeps the name
free.
"""

# What an inlined file counts as: an image of middle size is about a thousand tokens for the larger providers.
_TOKENS_OF_A_FILE = 1000
_BYTES_OF_A_TOKEN = 4
# More than any limit, and a number that the core takes.
_MOST_TOKENS = 2**63

# Requests that a provider keeps or carries out later. To send one twice may do things twice.
_KEPT = (
    "assistants|batches|containers|conversations|evals|files|fine_tuning/jobs|messages/batches|threads|uploads|vector_stores|videos"
)
_KEEPS = re.compile(rf"^/(?:{_KEPT})\b")
# What a provider keeps is with one account. Later requests have its id in their paths.
_STORED = re.compile(rf"^/(?:responses|{_KEPT})/([^/]+)")

# Headers of the client that no deployment gets: they are for one host, or name an account.
_DROPPED = frozenset(
    (
        b"accept-encoding",
        b"api-key",
        b"authorization",
        b"content-length",
        b"cookie",
        b"host",
        b"openai-organization",
        b"openai-project",
        b"proxy-authorization",
        b"transfer-encoding",
        b"x-api-key",
    )
)

# Azure's client puts the name of a model into the path as it is, with slashes if it has some.
_AZURE = re.compile(r"/openai/deployments/(.+?)(/(?:chat/completions|(?:audio|images)/[^/]+|[^/]+))$")


class Path(NamedTuple):
    """What the path of a request says.

    Attributes:
        dialect: ``"openai"`` or ``"anthropic"``.
        rest: The path behind the base URL, such as ``/chat/completions``.
        model_name: The model name, if the path has it.
        stored_id: The id in the path of something that a provider keeps.
        keeps: Whether a provider keeps what is sent to this path.
    """

    dialect: Literal["openai", "anthropic"]
    rest: str
    model_name: str | None = None
    stored_id: str | None = None
    keeps: bool = False


class Sent(NamedTuple):
    """What the headers of a request say.

    Attributes:
        kept: Those that any deployment may get.
        content_type: The header of this name; empty without one.
        has_options: Whether some name begins with ``x-turnout-``.
        is_anthropic: Whether they are those of Anthropic's client.
        is_repeated: Whether the client has sent the request before, on its own account.
    """

    kept: list[tuple[bytes, bytes]]
    content_type: str
    has_options: bool
    is_anthropic: bool
    is_repeated: bool


class Ask(NamedTuple):
    """What a request asks for.

    Attributes:
        path: What its path says.
        kept: The headers that any deployment may get.
        model_name: The model name; None if it names none.
        scan: What its body says, if that is JSON.
        field: The span of the model name in the body, if that is a form.
        body: The body.
        tokens: The tokens that it may use, prompt and answer.
        stream: Whether it asks for a stream.
        follows: The id of what a provider keeps, if the request follows or names that.
        stores: Whether its answer has the id of something that the provider keeps.
        repeats: Whether it can be sent again after a deployment may have got it.
    """

    path: Path
    kept: list[tuple[bytes, bytes]]
    model_name: str | None
    scan: _RequestScan | None
    field: tuple[int, int] | None
    body: bytes
    tokens: int
    stream: bool
    follows: str | None
    stores: bool
    repeats: bool


def read_path(path: str) -> Path:
    """Read the path of a request.

    Args:
        path: The path as it is sent, with that of the base URL in front. What is escaped in it stays so: an
            id may hold what would lead elsewhere.

    Returns:
        What it says.
    """
    if azure := _AZURE.search(path):
        return Path("openai", azure[2], unquote(azure[1]))
    _, found, rest = path.partition("/v1/")
    # Where Azure's client puts no deployment into a path, it puts no version either: /openai/responses.
    rest = f"/{rest}" if found else path.removeprefix("/openai")
    stored = _STORED.match(rest)
    named, keeps = unquote(stored[1]) if stored else None, _KEEPS.match(rest) is not None
    if rest == "/messages" or rest.startswith("/messages/"):
        return Path("anthropic", f"/v1{rest}", stored_id=named, keeps=keeps)
    return Path("openai", rest, stored_id=named, keeps=keeps)


def read_sent(headers: list[tuple[bytes, bytes]]) -> Sent:
    """Read the headers of a request, in one pass: the mappings of the HTTP libraries take one for each name.

    Args:
        headers: The headers, as they are sent.

    Returns:
        What they say.
    """
    kept, content_type, has_options, is_anthropic, is_repeated = [], b"", False, False, False
    for header in headers:
        name = header[0].lower()
        if name in _DROPPED:
            continue
        if name.startswith(_OPTION_PREFIX):
            has_options = True
            continue
        if name == b"content-type":
            content_type = header[1]
        elif name == b"anthropic-version":
            is_anthropic = True
        elif name == b"x-stainless-retry-count":
            is_repeated = header[1] != b"0"
        kept.append(header)
    return Sent(kept, content_type.decode("latin-1"), has_options, is_anthropic, is_repeated)


def estimate(body: bytes, scan: _RequestScan | None) -> int:
    """Estimate the tokens that a request may use: a quarter of the bytes of its body, 1,000 for each inlined
    file in place of its bytes, and the most tokens of the answer that it allows.

    Args:
        body: The body.
        scan: What it says, if it is JSON.

    Returns:
        The tokens of prompt and answer.
    """
    if scan is None:
        return 0
    text = len(body) - scan.inlined_bytes
    tokens = text // _BYTES_OF_A_TOKEN + scan.inlined_files * _TOKENS_OF_A_FILE + (scan.most_output or 0)
    return min(tokens, _MOST_TOKENS)


def read_ask(
    method: str, path: Path, sent: Sent, body: bytes, tokens: Callable[[bytes], int] | None, default_model: str | None
) -> Ask:
    """Read a request.

    Args:
        method: The HTTP method.
        path: What its path says.
        sent: What its headers say.
        body: The body.
        tokens: What estimates the tokens of a body; None for :func:`estimate`.
        default_model: The model name of requests that name none.

    Returns:
        What it asks for.
    """
    scan = field = None
    model_name, follows = path.model_name, path.stored_id
    if sent.content_type.lower().startswith("multipart/form-data"):
        field = _form_field(sent.content_type, body)
        if field is not None and model_name is None:
            model_name = body[field[0] : field[1]].decode(errors="replace")
    elif body:
        scan = _scan_request(body)
        if scan is not None:
            model_name = model_name or scan.model
            follows = follows or scan.previous_response_id or scan.conversation
    # A conversation takes in what is said in it. To say it twice would be seen.
    keeps = path.keeps or (scan is not None and (scan.background or scan.store or scan.conversation is not None))
    return Ask(
        path,
        sent.kept,
        model_name or default_model,
        scan,
        field,
        body,
        tokens(body) if tokens is not None else estimate(body, scan),
        scan is not None and scan.stream,
        follows,
        method == "POST" and (path.keeps or path.rest == "/responses"),
        method == "GET" or not keeps,
    )


# The headers of a part are short.
_MOST_HEAD = 4096
_MODEL_FIELD = re.compile(
    rb'^content-disposition:\s*form-data;(?:[^\r\n]*;)?\s*name="?model"?\s*(?:;|$)', re.IGNORECASE | re.MULTILINE
)


def _form_field(content_type: str, body: bytes) -> tuple[int, int] | None:
    """Returns the span of the field ``model`` of a form."""
    found = re.search(r'boundary="?([^";,]+)', content_type, re.IGNORECASE)
    if found is None:
        return None
    boundary = b"--" + found[1].encode()
    at = body.find(boundary)
    while at >= 0:
        begin, after = at + len(boundary), body.find(boundary, at + len(boundary))
        head, blank, _ = body[begin : begin + _MOST_HEAD].partition(b"\r\n\r\n")
        if blank and after >= 0 and _MODEL_FIELD.search(head):
            value = begin + len(head) + len(blank)
            return value, max(after - 2, value)
        at = after
    return None


# --- options in headers ---


def _names(said: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in said.split(",")) if name)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "tags": _names,
    "tags-match": str,
    "exclude": _names,
    "only": _names,
    "priority": int,
    "tokens": int,
    "timeout": float,
}
OPTION_PREFIX = "x-turnout-"
_OPTION_PREFIX = OPTION_PREFIX.encode()


def read_options(headers: Mapping[str, str]) -> dict[str, Any]:
    """Read the options that a request has in its headers, such as ``x-turnout-tags: eu``.

    Args:
        headers: The headers whose names begin with ``x-turnout-``, in lower case.

    Returns:
        The keywords of a call.

    Raises:
        ConfigurationError: A name is unknown, or a value cannot be read.
    """
    given: dict[str, Any] = {}
    for header, said in headers.items():
        name = header.removeprefix(OPTION_PREFIX)
        if name not in _OPTIONS:
            allowed = ", ".join(OPTION_PREFIX + known for known in _OPTIONS)
            raise ConfigurationError(f"the header {header!r} is unknown: there are {allowed}")
        try:
            value = _OPTIONS[name](said.strip())
        except ValueError:
            raise ConfigurationError(f"the header {header!r} must be a number, not {said!r}") from None
        if name == "timeout":
            value = Timeouts(total=value).total  # it is checked there
        given[name.replace("-", "_")] = value
    return given
