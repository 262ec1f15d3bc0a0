"""What comes back to a client: failures as their provider sent them, and answers that this package makes."""

import json
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from turnout._core import _read_answer
from turnout.exceptions import ConfigurationError, ModelNotFound, NoAvailableDeployment, RequestTooLarge, RouterError

__all__ = [
    "AnswerError",
    "Made",
    "as_texts",
    "decoded",
    "encoding_of",
    "malformed",
    "models",
    "read_answer",
    "redirected",
    "refusal",
    "unpacker",
    "unroutable",
    "without_endpoint",
]

Headers = list[tuple[bytes, bytes]]

# Bodies that grow beyond this are not read for their usage. No JSON answer is that large.
_MOST_DECODED = 64 * 1024 * 1024
_GZIP = (b"gzip", b"x-gzip")


class Made(NamedTuple):
    """An answer that this package makes.

    Attributes:
        status: The HTTP status.
        headers: The headers.
        body: The body.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class AnswerError(Exception):
    """An answer that is a failure. It is read as the exception of a client library is. No caller sees it.

    Attributes:
        status_code: The HTTP status; None for an error inside a stream.
        raw: The body, as it came.
        body: The body as JSON, or else as text.
    """

    def __init__(self, status: int, headers: Headers, raw: bytes, told: bytes | None = None) -> None:
        self.status = status
        self.status_code = None if told is not None else status
        self.raw_headers = headers
        self.raw = raw
        text = decoded(headers, raw) if told is None else told
        self.text = (text or b"").decode(errors="replace")
        try:
            self.body: Any = json.loads(self.text)
        except ValueError:
            self.body = self.text
        super().__init__(f"status {status}: {self.text[:256]}")

    @property
    def headers(self) -> dict[str, str]:
        """The headers, in lower case."""
        return as_texts(self.raw_headers)

    @property
    def response(self) -> "AnswerError":
        """This object, for readers that look for headers there."""
        return self


def as_texts(headers: Headers) -> dict[str, str]:
    """Return headers as a mapping of texts. The mappings of the HTTP libraries do the same, but go through
    all headers at each look.

    Args:
        headers: The headers, as they came.

    Returns:
        The values by name, in lower case. Values of one name are joined, as RFC 9110 has it.
    """
    texts: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        texts[name] = f"{texts[name]}, {value}" if name in texts else value
    return texts


def decoded(headers: Headers, raw: bytes) -> bytes | None:
    """Return a body without its compression.

    Args:
        headers: Its headers.
        raw: The body, as it came.

    Returns:
        The body; None if it cannot be read.
    """
    encoding = encoding_of(headers)
    if not encoding:
        return raw
    if encoding not in _GZIP and encoding != b"deflate":
        return None
    for bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        try:
            return zlib.decompressobj(bits).decompress(raw, _MOST_DECODED)
        except zlib.error:
            continue
    return None


def encoding_of(headers: Headers) -> bytes:
    """Return how a body is compressed.

    Args:
        headers: Its headers.

    Returns:
        The name of the compression; empty for none.
    """
    encoding = b""
    for name, value in headers:
        if name.lower() == b"content-encoding":
            encoding = value.strip().lower()
    return b"" if encoding == b"identity" else encoding


class Unpacker:
    """Unpacks a body that is read while it comes.

    Args:
        encoding: The name of its compression, gzip or deflate.
    """

    def __init__(self, encoding: bytes) -> None:
        self._is_gzip = encoding in _GZIP
        self._unpacks = self._new()

    def _new(self) -> Any:
        return zlib.decompressobj(zlib.MAX_WBITS | 16 if self._is_gzip else zlib.MAX_WBITS)

    def feed(self, chunk: bytes) -> bytes:
        """Unpack the next bytes.

        Args:
            chunk: The bytes, cut anywhere.

        Returns:
            What is in them.

        Raises:
            zlib.error: They cannot be unpacked.
        """
        unpacked: bytes = self._unpacks.decompress(chunk)
        # A body of gzip may have several members.
        while self._is_gzip and self._unpacks.eof and self._unpacks.unused_data:
            chunk, self._unpacks = self._unpacks.unused_data, self._new()
            unpacked += self._unpacks.decompress(chunk)
        return unpacked


def unpacker(encoding: bytes) -> Unpacker | None:
    """Return what unpacks a body that is read while it comes.

    Args:
        encoding: The name of its compression.

    Returns:
        The object; None if it cannot be unpacked.
    """
    return Unpacker(encoding) if encoding in _GZIP or encoding == b"deflate" else None


def read_answer(headers: Headers, raw: bytes) -> tuple[bytes, dict[str, int], bool]:
    """Read a JSON answer.

    Args:
        headers: The headers.
        raw: The body, as it came.

    Returns:
        Its body without compression, empty if it cannot be read. The tokens that it used, as keywords of
        :meth:`turnout.Lease.success`; empty if it does not say. And whether it is an error.
    """
    body = decoded(headers, raw) or b""
    usage, is_error = _read_answer(body)
    return body, as_keywords(usage), is_error


def as_keywords(usage: tuple[int, int, int] | None) -> dict[str, int]:
    """Return the tokens that were used as keywords of :meth:`turnout.Lease.success`.

    Args:
        usage: The tokens of prompt, answer and cache.

    Returns:
        The keywords; empty without a usage.
    """
    return {} if usage is None else {"input_tokens": usage[0] + usage[2], "output_tokens": usage[1]}


# --- answers that this package makes ---


def _error(
    dialect: str, status: int, kind: str, message: str, headers: dict[str, str] | None = None, code: str | None = None
) -> Made:
    if dialect == "anthropic":
        body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
    else:
        body = {"error": {"message": message, "type": kind, "param": None, "code": code or kind}}
    # Both SDKs obey it: what could be tried again has been.
    sent = {"content-type": "application/json", "x-should-retry": "false", **(headers or {})}
    return Made(status, sent, json.dumps(body).encode())


def refusal(dialect: str, error: RouterError) -> Made:
    """Make the answer to a request that no deployment got.

    Args:
        dialect: The dialect of the request.
        error: Why.

    Returns:
        An answer from which the client's library makes its own exception.
    """
    said = str(error)
    if isinstance(error, ModelNotFound):
        return _error(dialect, 404, "not_found_error", said, code="model_not_found")
    if isinstance(error, RequestTooLarge):
        return _error(dialect, 413, "request_too_large", said)
    if isinstance(error, NoAvailableDeployment):
        wait = error.retry_after
        headers = {} if wait is None else {"retry-after-ms": str(max(1, round(wait * 1000)))}
        return _error(dialect, 429, "rate_limit_error", said, headers, code="no_available_deployment")
    if isinstance(error, ConfigurationError):
        return _error(dialect, 400, "invalid_request_error", said)
    return _error(dialect, 500, "api_error", said)


def unroutable(dialect: str, method: str, path: str) -> Made:
    """Make the answer to a request that names no model.

    Args:
        dialect: The dialect of the request.
        method: Its method.
        path: Its path.

    Returns:
        The answer.
    """
    said = f"{method} {path} names no model, so it cannot be routed: give the client default_model=…"
    return _error(dialect, 501, "invalid_request_error", said, code="not_routable")


def malformed(dialect: str) -> Made:
    """Make the answer to a request whose body cannot be read.

    Args:
        dialect: The dialect of the request.

    Returns:
        The answer.
    """
    return _error(dialect, 400, "invalid_request_error", "the body of the request is no JSON object", code="invalid_body")


def without_endpoint(dialect: str, model_name: str) -> Made:
    """Make the answer where the deployments of a model name have no endpoints.

    Args:
        dialect: The dialect of the request.
        model_name: The model name.

    Returns:
        The answer.
    """
    said = f"no deployment of {model_name!r} has an endpoint: give Deployment(endpoint=Endpoint(…))"
    return _error(dialect, 400, "invalid_request_error", said, code="no_endpoint")


def redirected(dialect: str, location: str | None) -> Made:
    """Make the answer for a deployment that redirects.

    Args:
        dialect: The dialect of the request.
        location: Where to.

    Returns:
        The answer.
    """
    said = f"the deployment answered with a redirect to {location!r}: give its Endpoint the URL where it leads"
    return _error(dialect, 502, "api_error", said, code="redirect")


def models(dialect: str, names: Iterable[str], one: str | None) -> Made:
    """Make the list of models, or one of them.

    Args:
        dialect: The dialect of the request.
        names: The model names and aliases.
        one: The one that is asked for; None for all.

    Returns:
        The answer.
    """

    def model(name: str) -> dict[str, Any]:
        if dialect == "anthropic":
            return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
        return {"id": name, "object": "model", "created": 0, "owned_by": "turnout"}

    names = sorted(names)
    if one is not None:
        if one not in names:
            return _error(dialect, 404, "not_found_error", f"there is no model {one!r}", code="model_not_found")
        body = model(one)
    elif dialect == "anthropic":
        data = [model(name) for name in names]
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        body = {"data": data, "has_more": False, **ends}
    else:
        body = {"object": "list", "data": [model(name) for name in names]}
    return Made(200, {"content-type": "application/json"}, json.dumps(body).encode())
