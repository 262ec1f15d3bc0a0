"""The replies of a scripted provider: good answers, and errors at every stage of one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from turnout._checks import whole
from turnout.exceptions import ConfigurationError
from turnout.testing._parts import Body, Events, Fault, Problem, Text, Timing, Wire, header_fields
from turnout.testing.received import ReceivedRequest

__all__ = ["Reply", "Source"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the provider does with one request.

    Begin with a constructor: :meth:`text`, :meth:`tool_call`, :meth:`error`, :meth:`json`, :meth:`events` or
    :meth:`raw`. The other methods return a changed copy, so they can follow one another::

        Reply.text("hello there").delay(head=0.2).drop(after=1)

    Faults tell where they strike by ``after``:

    - ``"request"``: nothing was sent yet;
    - ``"head"``: the status and the headers were sent;
    - a number: so many events of the stream were sent. 0 is the same as ``"head"``. If the stream has fewer
      events, all of them were sent, but not the end of the body.

    ``data: [DONE]`` counts as an event, comments and pings of :meth:`delay` do not. An answer that is no
    stream has no events: a number above 0 then means half of its body.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Text | Problem | Body | Events = field(default_factory=Text)
    fault: Fault | None = None
    timing: Timing = field(default_factory=Timing)
    wire: Wire = field(default_factory=Wire)

    def __post_init__(self) -> None:
        whole(self, "status", 200, 599)
        object.__setattr__(self, "headers", header_fields(self.headers))

    # --- constructors ---

    @classmethod
    def text(
        cls,
        content: str = "All aboard.",
        *,
        input_tokens: int = 12,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        finish_reason: str = "stop",
        usage: bool = True,
    ) -> "Reply":
        """Answer with a text.

        The shape follows the request: a chat completion, a response or a message, as a whole or as a stream.
        A stream has one event for each word. Embeddings, lists of models and counts of tokens are answered
        too; of this reply they use ``input_tokens``.

        Args:
            content: The text.
            input_tokens: The size of the prompt that the usage tells, cached tokens included.
            output_tokens: The size of the answer that the usage tells. None for the number of words.
            cached_tokens: How many of the input tokens came from a cache.
            finish_reason: ``stop``, ``length``, ``content_filter`` or ``tool_calls``. Each dialect has its
                own word for it.
            usage: Whether the answer tells its usage.
        """
        return cls(content=Text(content, input_tokens, output_tokens, cached_tokens, finish_reason, usage))

    @classmethod
    def tool_call(
        cls,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        input_tokens: int = 12,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        usage: bool = True,
    ) -> "Reply":
        """Answer with a call of a tool.

        Args:
            name: The name of the tool.
            arguments: Its arguments.
            input_tokens: As for :meth:`text`.
            output_tokens: As for :meth:`text`.
            cached_tokens: As for :meth:`text`.
            usage: As for :meth:`text`.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r} ({type(name).__name__})")
        tool = (name, json.dumps(dict(arguments or {})))
        return cls(content=Text("", input_tokens, output_tokens, cached_tokens, "tool_calls", usage, tool))

    @classmethod
    def error(
        cls,
        status: int,
        *,
        error_type: str | None = None,
        code: str | None = None,
        message: str | None = None,
        param: str | None = None,
        retry_after: float | str | None = None,
        retry_after_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Reply":
        """Answer with an error, in the shape of the API that is asked.

        Args:
            status: From 400 to 599.
            error_type: The type in the body. None for the usual one of the status.
            code: The code in the body, such as ``context_length_exceeded``, ``content_filter`` or
                ``insufficient_quota``. None for the usual one of the status. Anthropic's errors have no code:
                there it chooses the usual message.
            message: The message. None for the usual one of the code or the status.
            param: The parameter that is at fault.
            retry_after: The header ``retry-after``: seconds, or a date as a str.
            retry_after_ms: The header ``retry-after-ms``, in milliseconds.
            headers: Others, such as ``x-ratelimit-remaining-requests``.
        """
        problem = Problem(status, error_type, code, message, param)
        return cls(status=status, content=problem, headers=_waits(retry_after, retry_after_ms) | header_fields(headers or {}))

    @classmethod
    def json(cls, body: object, *, status: int = 200) -> "Reply":
        """Answer with any JSON, whatever is asked.

        Args:
            body: What `json.dumps` takes.
            status: From 200 to 599.
        """
        return cls.raw(json.dumps(body).encode(), content_type="application/json", status=status)

    @classmethod
    def raw(cls, body: bytes, *, content_type: str = "text/html", status: int = 200) -> "Reply":
        """Answer with any bytes, such as the page of a proxy, whatever is asked.

        Args:
            body: The bytes.
            content_type: Their type.
            status: From 200 to 599.
        """
        if not isinstance(body, bytes):
            raise TypeError(f"body must be bytes, not {body!r} ({type(body).__name__})")
        header_fields({"content-type": content_type})
        return cls(status=status, content=Body(body, content_type))

    @classmethod
    def events(cls, *events: object) -> "Reply":
        """Answer with a stream of any events, whatever is asked.

        Args:
            *events: Each a str, which is sent as it is; a tuple of an event's name and its data; or anything
                else that `json.dumps` takes.
        """

        def data(event: object) -> str:
            return event if isinstance(event, str) else json.dumps(event)

        named: list[tuple[str | None, str]] = []
        for event in events:
            if isinstance(event, tuple):
                if len(event) != 2 or not isinstance(event[0], str):
                    raise ConfigurationError(f"an event that is a tuple must be a name and its data, not {event!r}")
                named.append((event[0], data(event[1])))
            else:
                named.append((None, data(event)))
        return cls(content=Events(tuple(named)))

    # --- faults ---

    def drop(self, *, after: str | int = "request", reset: bool = False) -> "Reply":
        """Close the connection.

        Args:
            after: Where: ``"request"``, ``"head"`` or a number of events.
            reset: Reset the connection instead, as a crash does. What was sent and not yet read may be lost.
        """
        return self._with_fault(Fault("drop", after, reset=reset))

    def hang(self, *, after: str | int = "request") -> "Reply":
        """Send nothing any more until the client leaves, except what :meth:`delay` lets trickle.

        Args:
            after: Where: ``"request"``, ``"head"`` or a number of events.
        """
        return self._with_fault(Fault("hang", after))

    def truncate(self, *, after: int | None = None) -> "Reply":
        """End the body too early, but as HTTP demands it: the client sees no error of the connection.

        Args:
            after: A number of events. None for all of the text: what lacks is the finish reason, the usage
                and ``[DONE]``, or what the API has instead.
        """
        return self._with_fault(Fault("truncate", after))

    def fail(
        self,
        *,
        after: int = 0,
        status: int = 500,
        error_type: str | None = None,
        code: str | None = None,
        message: str | None = None,
    ) -> "Reply":
        """Send an error in the body though the status is 200, and end there.

        In a stream this is an error event. An answer that is no stream is the error alone.

        Args:
            after: How many events come before it.
            status: The status that the error would have had. Type, code and message follow from it.
            error_type: As for :meth:`error`.
            code: As for :meth:`error`.
            message: As for :meth:`error`.
        """
        return self._with_fault(Fault("fail", after, problem=Problem(status, error_type, code, message)))

    def _with_fault(self, fault: Fault) -> "Reply":
        if self.fault is not None:
            raise ConfigurationError(f"a reply has at most one fault: {fault.kind!r} cannot follow {self.fault.kind!r}")

        if fault.kind in ("fail", "truncate") and isinstance(self.content, Problem):
            raise ConfigurationError(f"an error cannot {fault.kind}: it is no good answer that goes wrong")
        return replace(self, fault=fault)

    # --- when and how it is sent ---

    def delay(self, *, head: float = 0.0, first_event: float = 0.0, between: float = 0.0, trickle: float | None = None) -> "Reply":
        """Wait before parts of the answer. All times are seconds of the real clock.

        Args:
            head: Before the head.
            first_event: Between the head and the first event, or the body of an answer that is no stream.
            between: Before each further event.
            trickle: While the answer waits or hangs after its head, send something without meaning each time
                so many seconds have passed: a comment, a ping (Anthropic), or an empty line if it is no
                stream. None for silence.
        """
        return replace(self, timing=Timing(head, first_event, between, trickle))

    def encode(self, *, gzip: bool = False, chunk_size: int | None = None, line_end: str = "\n") -> "Reply":
        r"""Write the body in another way.

        Args:
            gzip: Compress it, whether the client accepts that or not.
            chunk_size: Send at most so many bytes at once. None for a whole event or body.
            line_end: What ends the lines of events: ``"\n"``, ``"\r\n"`` or ``"\r"``.
        """
        return replace(self, wire=Wire(gzip, chunk_size, line_end))

    def with_headers(self, headers: Mapping[str, str]) -> "Reply":
        """Send further headers, such as ``x-ratelimit-remaining-tokens``.

        Args:
            headers: By name. They take the place of those of the same name.
        """
        new = header_fields(headers)
        names = {name.lower() for name in new}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in names}
        return replace(self, headers=kept | new)


# What a script is made of.
Source: TypeAlias = Reply | Callable[[ReceivedRequest], Reply]


def _waits(retry_after: float | str | None, retry_after_ms: float | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in (("retry-after", retry_after), ("retry-after-ms", retry_after_ms)):
        if value is None:
            continue
        if isinstance(value, str) and name == "retry-after":
            headers[name] = value
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            allowed = "a number or a str" if name == "retry-after" else "a number"
            raise TypeError(f"{name.replace('-', '_')} must be {allowed}, not {value!r} ({type(value).__name__})")
        else:
            headers[name] = str(value)
    return headers
