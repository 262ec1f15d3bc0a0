"""What a client receives is what the provider sent, byte by byte, however the body is cut into chunks. Only
the usage chunk is taken out that the router itself has asked for.
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from turnout import Deployment, Endpoint, Retry, Router

from families.modes import MODES, Mode, Sends

MODEL = {"model": "m"}
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The events of each endpoint, each as its lines: with comments and pings between, data of several lines,
# letters of several bytes, and fields that nobody reads. Without line ends, so that each kind can be tried.
Events = tuple[tuple[str, ...], ...]

USAGE = ('data: {"choices":[],"usage":', 'data: {"prompt_tokens":9,"completion_tokens":2}}')
CHAT: Events = (
    (": hello",),
    ('data: {"choices":[],"prompt_filter_results":[]}',),
    ('data: {"choices":[{"delta":{"content":"wörd ⛟"}}],"usage":null}',),
    (": keep-alive",),
    ("event: ping", "data: {}"),
    ('data: {"choices":[],"usage":null}',),
    ("id: 7", "retry: 9", 'data:{"choices":[{"delta":{},', 'data: "finish_reason":"stop"}]}'),
    USAGE,
    (": bye",),
    ("data: [DONE]",),
)
RESPONSES: Events = (
    ("event: response.created", 'data: {"type":"response.created","response":{"id":"resp_1","usage":null}}'),
    (": keep-alive",),
    ('data: {"type":"response.output_text.delta",', 'data: "delta":"wörd"}'),
    ("event: response.completed", 'data: {"type":"response.completed","response":{"usage":{"input_tokens":9,"output_tokens":2}}}'),
)
MESSAGES: Events = (
    ("event: ping", 'data: {"type":"ping"}'),
    ("event: message_start", 'data: {"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}'),
    (": keep-alive",),
    ("event: content_block_delta", 'data: {"type":"content_block_delta",', 'data: "delta":{"text":"wörd"}}'),
    ('data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}',),
    ("event: message_stop", 'data: {"type":"message_stop"}'),
)
STREAMS = {"/chat/completions": CHAT, "/responses": RESPONSES, "/messages": MESSAGES}

# With blanks and in an order that no library would write.
JSON = {
    "/chat/completions": '{ "usage" :{"completion_tokens":2,"prompt_tokens": 9},\n"choices":[{"text":"w\\u00f6rd ö"}]}\n',
    "/responses": '{"id":"resp_1",\r\n "error":null, "output":[],"usage":{"input_tokens":9,"output_tokens":2}}  ',
    "/embeddings": '{"data":[{"embedding":[1.0,2E-1,-0.0]}], "usage":{"prompt_tokens":11,"total_tokens":11}}',
    "/messages": '\t{"type":"message","content":[{"text":"ö"}],"usage":{"output_tokens":2,"input_tokens":9}}',
}
TOKENS = 11


@dataclass(frozen=True)
class World:
    """A client of one mode, whose provider sends one body after the other."""

    mode: Mode

    def receive(
        self,
        path: str,
        bodies: Iterable[Iterable[bytes]],
        ask: dict[str, Any],
        headers: dict[str, str],
        kind: str,
        status: int = 200,
    ) -> tuple[list[Any], Router]:
        """Sends a request for each body. Returns what came, and the router."""
        sent = [list(chunks) for chunks in bodies]
        left = iter(sent)
        dialect: Any = "anthropic" if path == "/messages" else "openai"
        # One attempt: a body that is misread must not be mended by a second one.
        router = Router(
            [Deployment("a", "m", endpoint=Endpoint("https://a.example", api_key="k", dialect=dialect))],
            retry=Retry(attempts=1),
        )
        client = self.mode.client(router, inner=self.mode.inner(lambda _: Sends(next(left), kind, status, headers)))
        asks = [{"method": "POST", "url": path, "json": {**MODEL, **ask}} for _ in sent]
        got = self.mode.ask(client, asks)
        assert router.metrics().in_flight == 0
        return got, router


@pytest.fixture(params=MODES)
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def written(events: Events, line_end: str) -> bytes:
    return "".join(line + line_end for event in events for line in (*event, "")).encode()


def cut_in_two(body: bytes) -> Iterator[list[bytes]]:
    """The body in two chunks, cut at each place in turn. At both ends, one of the chunks is empty."""
    return ([body[:at], body[at:]] for at in range(len(body) + 1))


def cut_in_many(body: bytes) -> Iterator[list[bytes]]:
    """The body in chunks of 1, 2, 3 and 7 bytes."""
    return ([body[at : at + size] for at in range(0, len(body), size)] for size in (1, 2, 3, 7))


def check(
    world: World,
    path: str,
    body: bytes,
    expected: bytes,
    ask: dict[str, Any],
    *,
    kind: str = "text/event-stream; charset=utf-8",
    headers: dict[str, str] | None = None,
    tokens: int | None = TOKENS,
) -> list[Any]:
    """Sends a body cut in all these ways. Each time the same must come, and the same must be settled."""
    cuts = [*cut_in_two(body), *cut_in_many(body)]
    got, router = world.receive(path, cuts, ask, headers or {}, kind)
    for nth, answer in enumerate(got):
        assert (answer.status, answer.body) == (200, expected), f"cut as {cuts[nth]}"
    stats = router.stats("a")
    assert (stats.total_successes, stats.total_failures) == (len(got), 0)
    if tokens is not None:
        assert stats.total_tokens == tokens * len(got)
    return got


# --- streams ---


@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_passes_as_it_is(world: World, path: str, line_end: str) -> None:
    body = written(STREAMS[path], LINE_ENDS[line_end])
    # Who asks for the usage gets it.
    ask: dict[str, Any] = {"stream": True}
    if path == "/chat/completions":
        ask["stream_options"] = {"include_usage": True}
    check(world, path, body, body, ask)


@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}], ids=str)
def test_only_the_usage_chunk_that_nobody_asked_for_is_taken_out(world: World, line_end: str, options: dict[str, Any]) -> None:
    end = LINE_ENDS[line_end]
    without = tuple(event for event in CHAT if event is not USAGE)
    check(world, "/chat/completions", written(CHAT, end), written(without, end), {"stream": True, **options})


@pytest.mark.parametrize("path", STREAMS)
def test_a_byte_order_mark_passes(world: World, path: str) -> None:
    events = STREAMS[path]
    body = BYTE_ORDER_MARK + written(events, "\n")
    expected = BYTE_ORDER_MARK + written(tuple(event for event in events if event is not USAGE), "\n")
    check(world, path, body, expected, {"stream": True})


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_may_lack_the_line_ends_of_its_last_event(world: World, path: str, missing: int) -> None:
    events = STREAMS[path]
    body, expected = written(events, "\n"), written(tuple(event for event in events if event is not USAGE), "\n")
    check(world, path, body[:-missing], expected[:-missing], {"stream": True})


def test_lines_may_end_in_different_ways(world: World) -> None:
    ends = itertools.cycle(LINE_ENDS.values())
    parts, expected = [], []
    for event in CHAT:
        part = "".join(line + next(ends) for line in (*event, "")).encode()
        parts.append(part)
        if event is not USAGE:
            expected.append(part)
    check(world, "/chat/completions", b"".join(parts), b"".join(expected), {"stream": True})


@pytest.mark.parametrize("at", ["first", "last"])
def test_a_usage_chunk_at_either_end_is_taken_out(world: World, at: str) -> None:
    # Some providers do not say that they are done.
    others = tuple(event for event in CHAT[:-1] if event is not USAGE)
    events = (USAGE, *others) if at == "first" else (*others, USAGE)
    check(world, "/chat/completions", written(events, "\r\n"), written(others, "\r\n"), {"stream": True})


def test_a_usage_chunk_that_has_choices_passes(world: World) -> None:
    # So some providers say their usage, whether it was asked for or not.
    last = ('data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}',)
    body = written((*CHAT[:3], last, ("data: [DONE]",)), "\n")
    check(world, "/chat/completions", body, body, {"stream": True})


def test_legacy_completions_pass_as_they_are(world: World) -> None:
    body = written((('data: {"choices":[{"text":"a","finish_reason":"stop"}]}',), USAGE, ("data: [DONE]",)), "\n")
    check(world, "/completions", body, body, {"stream": True, "prompt": "p"})


def test_an_error_amid_a_stream_passes(world: World) -> None:
    body = written((*CHAT[:5], ('data: {"error":{"message":"overloaded",', 'data: "code":503}}')), "\n")
    cuts = [*cut_in_two(body), *cut_in_many(body)]
    got, router = world.receive("/chat/completions", cuts, {"stream": True}, {}, "text/event-stream")
    for nth, answer in enumerate(got):
        assert answer.body == body, f"cut as {cuts[nth]}"
    assert router.stats("a").total_failures == len(got)


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_is_compressed_passes_unpacked(world: World, path: str) -> None:
    events = STREAMS[path]
    body = gzip.compress(written(events, "\n"), mtime=0)
    expected = written(tuple(event for event in events if event is not USAGE), "\n")
    headers = {"content-encoding": "gzip", "content-length": str(len(body))}
    got = check(world, path, body, expected, {"stream": True}, headers=headers)
    assert {(answer.headers.get("content-encoding"), answer.headers.get("content-length")) for answer in got} == {(None, None)}


def test_a_compressed_stream_may_be_flushed_after_each_event(world: World) -> None:
    packer = zlib.compressobj(wbits=31)
    body = b"".join(packer.compress(written((event,), "\n")) + packer.flush(zlib.Z_SYNC_FLUSH) for event in CHAT) + packer.flush()
    expected = written(tuple(event for event in CHAT if event is not USAGE), "\n")
    check(world, "/chat/completions", body, expected, {"stream": True}, headers={"content-encoding": "gzip"})


def test_the_length_of_a_stream_is_told_only_if_it_is_right(world: World) -> None:
    body = written(CHAT, "\n")
    headers = {"content-length": str(len(body))}
    (got,), _ = world.receive("/chat/completions", [[body]], {"stream": True}, headers, "text/event-stream")
    assert "content-length" not in got.headers
    ask = {"stream": True, "stream_options": {"include_usage": True}}
    (got,), _ = world.receive("/chat/completions", [[body]], ask, headers, "text/event-stream")
    assert got.headers["content-length"] == str(len(got.body)) == str(len(body))


# --- answers as a whole ---


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
@pytest.mark.parametrize("path", JSON)
def test_json_passes_as_it_is(world: World, path: str, encoding: str) -> None:
    plain = JSON[path].encode()
    body = {"": plain, "gzip": gzip.compress(plain, mtime=0), "deflate": zlib.compress(plain)}[encoding]
    headers = {"content-length": str(len(body)), **({"content-encoding": encoding} if encoding else {})}
    got = check(world, path, body, body, {}, kind="application/json; charset=utf-8", headers=headers)
    # Still compressed, so it must still say so.
    assert {answer.headers.get("content-encoding", "") for answer in got} == {encoding}
    assert {answer.headers["content-length"] for answer in got} == {str(len(body))}


def test_json_passes_where_a_stream_was_asked_for(world: World) -> None:
    body = JSON["/chat/completions"].encode()
    check(world, "/chat/completions", body, body, {"stream": True}, kind="application/json")


@pytest.mark.parametrize("kind", ["audio/mpeg", "text/plain", "application/octet-stream"])
def test_other_bodies_pass_as_they_are(world: World, kind: str) -> None:
    # They look like events, and are none.
    body = written((USAGE, ("data: [DONE]",)), "\r") + bytes(range(256))
    check(world, "/audio/speech", body, body, {"input": "x"}, kind=kind, tokens=None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 529])
@pytest.mark.parametrize("stream", [False, True])
def test_the_last_failure_passes_as_it_is(world: World, status: int, packed: bool, stream: bool) -> None:
    body = b'{ "error":\n {"message": "w\\u00f6rong \xc3\xb6", "code":null } }\r\n'
    body = gzip.compress(body, mtime=0) if packed else body
    headers = {"x-their": "1", **({"content-encoding": "gzip"} if packed else {})}
    for cut in (body[:0], body[:1], body[:20], body[:-1]):
        chunks = [cut, body.removeprefix(cut)]
        (got,), _ = world.receive("/chat/completions", [chunks], {"stream": stream}, headers, "application/json", status)
        assert (got.status, got.body, got.headers["x-their"]) == (status, body, "1")
        assert got.headers.get("content-encoding") == ("gzip" if packed else None)
        assert json.loads(gzip.decompress(got.body) if packed else got.body)["error"]["code"] is None
