"""What a reply is made of. Each part checks its own values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from turnout._checks import flag, number, seconds, whole
from turnout.exceptions import ConfigurationError

FINISH_REASONS = ("stop", "length", "content_filter", "tool_calls")
MOST_TOKENS = 10**9

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]*")


def text(options: object, name: str, *, optional: bool = False) -> None:
    """Refuse an attribute that is no str."""
    value = getattr(options, name)
    if not (isinstance(value, str) or (optional and value is None)):
        raise TypeError(f"{name} must be a str{' or None' if optional else ''}, not {value!r} ({type(value).__name__})")


def header_fields(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as a dict; refuse what no HTTP header can be."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to values, not {headers!r} ({type(headers).__name__})")
    for name, value in headers.items():
        for what in (name, value):
            if not isinstance(what, str):
                raise TypeError(f"names and values of headers must be str, not {what!r} ({type(what).__name__})")
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"the name of a header must be letters, digits and hyphens, not {name!r}")
        if not _VALUE.fullmatch(value) or value != value.strip():
            raise ConfigurationError(
                f"the header {name} must be one line of Latin-1 without spaces at its ends, not {value!r}",
            )
        if name.lower() in ("content-length", "transfer-encoding"):
            raise ConfigurationError(f"the header {name} follows from the body and cannot be set")
    return dict(headers)


@dataclass(frozen=True)
class Text:
    """A good answer, in the shape of whatever was asked for."""

    content: str = "All aboard."
    input_tokens: int = 12
    output_tokens: int | None = None
    cached_tokens: int = 0
    finish_reason: str = "stop"
    usage: bool = True
    tool: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        text(self, "content")
        whole(self, "input_tokens", 0, MOST_TOKENS)
        if self.output_tokens is None:
            object.__setattr__(self, "output_tokens", len(self.pieces()))
        whole(self, "output_tokens", 0, MOST_TOKENS)
        whole(self, "cached_tokens", 0, self.input_tokens)
        if self.finish_reason not in FINISH_REASONS:
            raise ConfigurationError(f"finish_reason must be one of {', '.join(FINISH_REASONS)}, not {self.finish_reason!r}")
        flag(self, "usage")

    def pieces(self) -> list[str]:
        """Return what a stream sends in events of their own: a word with the space before it."""
        return re.findall(r"\s*\S+|\s+$", self.content if self.tool is None else self.tool[1])

    @property
    def output(self) -> int:
        """How many tokens the answer has."""
        return self.output_tokens or 0


@dataclass(frozen=True)
class Problem:
    """An error. What is None follows from the status, the code and the provider that is asked."""

    status: int
    error_type: str | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None

    def __post_init__(self) -> None:
        whole(self, "status", 400, 599)
        for name in ("error_type", "code", "message", "param"):
            text(self, name, optional=True)


@dataclass(frozen=True)
class Body:
    """A body that is the same whatever was asked for."""

    content: bytes
    content_type: str


@dataclass(frozen=True)
class Events:
    """A stream of events that is the same whatever was asked for: each a name, or none, and its data."""

    events: tuple[tuple[str | None, str], ...]


@dataclass(frozen=True)
class Fault:
    """How an answer ends before its end."""

    kind: Literal["drop", "hang", "truncate", "fail"]
    after: str | int | None
    reset: bool = False
    problem: Problem | None = None

    def __post_init__(self) -> None:
        flag(self, "reset")
        if isinstance(self.after, str):
            stages = () if self.kind in ("fail", "truncate") else ("request", "head")
            if self.after not in stages:
                allowed = " or ".join([*(repr(stage) for stage in stages), "a number of events"])
                raise ConfigurationError(f"after must be {allowed}, not {self.after!r}")
        elif not (self.after is None and self.kind == "truncate"):
            whole(self, "after", 0, 10**6)


@dataclass(frozen=True)
class Timing:
    """When an answer is sent, in seconds."""

    head: float = 0.0
    first_event: float = 0.0
    between: float = 0.0
    trickle: float | None = None

    def __post_init__(self) -> None:
        for name in ("head", "first_event", "between"):
            seconds(self, name)
        if self.trickle is not None:
            number(self, "trickle", 0.001, 1e9, "None or a number of seconds from 0.001 to 1e9")


@dataclass(frozen=True)
class Wire:
    """How a body is written."""

    gzip: bool = False
    chunk_size: int | None = None
    line_end: str = "\n"

    def __post_init__(self) -> None:
        flag(self, "gzip")
        if self.chunk_size is not None:
            whole(self, "chunk_size", 1, 2**31)
        if self.line_end not in ("\n", "\r\n", "\r"):
            raise ConfigurationError(rf"line_end must be '\n', '\r\n' or '\r', not {self.line_end!r}")
