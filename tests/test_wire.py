"""Bodies that are scanned and rewritten, beside Python's json; streams that are cut anywhere."""

import json
import re
import threading
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import ConfigurationError
from turnout._core import _read_answer, _RequestScan, _rewrite_request, _scan_request, _StreamScanner

Dialect: TypeAlias = Literal["openai", "anthropic"]
Usage: TypeAlias = "tuple[int, int, int] | None"
MIB = 1 << 20

# --- documents as text: white space, escapes and duplicates as a client may write them ---

SPACE = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS, max_size=8)


@st.composite
def strings(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS) -> str:
    """A string as JSON, some of its characters as escapes."""
    written = []
    for letter in draw(texts):
        if letter in '"\\' or letter < " " or draw(st.integers(0, 5)) == 0:
            written.append(json.dumps(letter)[1:-1] if draw(st.booleans()) else "".join(rf"\u{unit:04x}" for unit in utf16(letter)))
        else:
            written.append(letter)
    return f'"{"".join(written)}"'


def utf16(letter: str) -> list[int]:
    encoded = letter.encode("utf-16-be")
    return [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2)]


KEYS = ["model", "stream", "max_tokens", "max_output_tokens", "max_completion_tokens", "stream_options", "include_usage", "store"]
KEYS += ["background", "previous_response_id", "data", "file_data", "usage", "prompt_tokens", "output_tokens", "total_tokens", "x"]
KEYS += ["conversation", "id", "error", "type"]
NUMBERS = ["0", "-0", "7", "-3", "1.0", "1e3", "2.5E-2", "18446744073709551615", "18446744073709551616", "1" + "0" * 40]
FILES = ["data:image/png;base64,AAAA", "data:text/plain,x", "A" * 1024, "A" * 1025, "data:" + "x" * 250 + ";base64,", "gpt-4o"]
WORDS = st.sampled_from(["true", "false", "null", *NUMBERS])
SCALARS = WORDS | strings() | strings(st.sampled_from(FILES))


@st.composite
def arrays(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    parts = draw(st.lists(st.tuples(SPACE, items, SPACE).map("".join), max_size=4))
    return f"[{','.join(parts) or draw(SPACE)}]"


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = strings(st.sampled_from(KEYS)) | strings()
    members = draw(st.lists(st.tuples(SPACE, keys, SPACE, st.just(":"), SPACE, values, SPACE).map("".join), max_size=8))
    return f"{{{','.join(members) or draw(SPACE)}}}"


VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | objects(inner), max_leaves=12)
DOCUMENTS = st.tuples(SPACE, objects(VALUES), SPACE).map("".join)

# --- the same by Python's json ---


def whole(value: Any) -> int | None:
    return min(value, 2**64 - 1) if type(value) is int and value >= 0 else None


def raw_strings(text: str) -> list[tuple[str | None, str]]:
    """Each string value as it stands in a document, with the key right before it if it has one."""
    found = []
    key = None
    for match in re.finditer(r'("(?:[^"\\]|\\.)*")(\s*:)?|[^\s"]', text, re.DOTALL):
        if match[2]:
            key = json.loads(match[1])
        else:
            if match[1]:
                found.append((key, match[1][1:-1]))
            key = None
    return found


def is_file(key: str | None, raw: bytes) -> bool:
    return (key in ("data", "file_data") and len(raw) > 1024) or (raw.startswith(b"data:") and b";base64," in raw[:256])


def check_scan(text: str, scan: _RequestScan) -> None:
    document = json.loads(text)

    def string(name: str) -> str | None:
        value = document.get(name)
        return value if isinstance(value, str) else None

    mosts = (whole(document.get(name)) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    options = document.get("stream_options")
    assert scan.model == string("model")
    assert scan.previous_response_id == string("previous_response_id")
    conversation = document.get("conversation")
    id_ = conversation.get("id") if isinstance(conversation, dict) else conversation
    assert scan.conversation == (id_ if isinstance(id_, str) else None)
    assert scan.stream is (document.get("stream") is True)
    assert scan.store is (document.get("store") is True)
    assert scan.background is (document.get("background") is True)
    assert scan.most_output == next((most for most in mosts if most is not None), None)
    assert scan.has_stream_options is (options is not None)
    assert scan.include_usage is (isinstance(options, dict) and options.get("include_usage") is True)
    files = [raw.encode() for key, raw in raw_strings(text) if is_file(key, raw.encode())]
    assert (scan.inlined_files, scan.inlined_bytes) == (len(files), sum(map(len, files)))


def scanned(body: bytes) -> _RequestScan:
    scan = _scan_request(body)
    assert scan is not None
    return scan


@given(DOCUMENTS)
def test_a_scan_says_what_json_says(text: str) -> None:
    check_scan(text, scanned(text.encode()))


@given(DOCUMENTS, st.none() | st.text(CHARACTERS), st.booleans())
def test_a_rewritten_body_says_the_same_but_for_what_was_asked(text: str, model: str | None, include_usage: bool) -> None:
    body = text.encode()
    rewritten = _rewrite_request(body, scanned(body), model, include_usage)
    expected = json.loads(text)
    if model is not None and "model" in expected:
        expected["model"] = model
    options = expected.get("stream_options")
    if include_usage and options is None:
        expected["stream_options"] = {"include_usage": True}
    elif include_usage and isinstance(options, dict) and any(options.get("include_usage") is old for old in (None, False)):
        options["include_usage"] = True
    found = json.loads(rewritten)
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)
    if found == json.loads(text) and not include_usage and model is None:
        assert rewritten is body


@st.composite
def spliced(draw: st.DrawFn) -> tuple[str, str, str]:
    """A document, a model, and the document with that model and the stream's usage."""
    model = draw(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
    before, after = [], []
    for _ in range(draw(st.integers(0, 6))):
        key = draw(strings(st.sampled_from(KEYS)).filter(lambda key: json.loads(key) != "stream_options"))
        value = draw(VALUES)
        start = draw(SPACE) + key + draw(SPACE) + ":" + draw(SPACE)
        end = draw(SPACE)
        before.append(start + value + end)
        after.append(start + (json.dumps(model, ensure_ascii=False) if json.loads(key) == "model" else value) + end)
    usage = '"include_usage":true'
    options = [("null", f"{{{usage}}}"), ("{ }", f"{{{usage} }}"), ('{ "a":1}', f'{{{usage}, "a":1}}')]
    options += [('{"include_usage" :false }', '{"include_usage" :true }'), ('{"x":{"include_usage":0},"include_usage":null}',) * 2]
    options[-1] = (options[-1][0], options[-1][0].replace("null", "true"))
    options += [(same, same) for same in ("[null]", "3", '{"include_usage":true}', '{"include_usage": 1}')]
    for old, new in draw(st.lists(st.sampled_from(options), max_size=2)):
        at = draw(st.integers(0, len(before)))
        before.insert(at, f'"stream_options":{old}')
        after.insert(at, f'"stream_options":{new}')
    if not any('"stream_options":' in member[:17] for member in before):
        after[:0] = [f'"stream_options":{{{usage}}}']
    return f"{{{','.join(before)}}}", model, f"{{{','.join(after)}}}"


@given(spliced())
def test_only_the_spans_change(case: tuple[str, str, str]) -> None:
    text, model, expected = case
    body = text.encode()
    assert _rewrite_request(body, scanned(body), model, True).decode() == expected


def test_bytes_around_the_spans_stay() -> None:
    body = b'\n{ "a" : 1.50, "mod\\u0065l"\t: "x" ,"n":[ 1 , {"model":"x"} ], "model" : {"deep": ["}"]} , "z":"\xc3\xa9\\u00e9"} '
    assert _rewrite_request(body, scanned(body), "né", True) == (
        b'\n{"stream_options":{"include_usage":true}, "a" : 1.50, "mod\\u0065l"\t: "n\xc3\xa9" ,"n":[ 1 , {"model":"x"} ],'
        b' "model" : "n\xc3\xa9" , "z":"\xc3\xa9\\u00e9"} '
    )


@given(VALUES, st.integers(0, 10**6), st.sampled_from([*'{}[]",:\\', "\x00", "1", "x", ""]))
def test_what_json_refuses_is_none_or_only_wrong_inside_a_string(text: str, at: int, other: str) -> None:
    at %= len(text) + 1
    changed = text[:at] + other + text[at + 1 :]
    try:
        is_object = isinstance(json.loads(changed, strict=False), dict)
    except ValueError as error:
        if "escape" in str(error):
            return  # escapes are looked at only in strings that are decoded
        is_object = False
    assert (_scan_request(changed.encode()) is not None) is is_object


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0a1-.eEtruefalsn \n', max_size=60).map(str.encode))
def test_garbage_raises_nothing(body: bytes) -> None:
    scan = _scan_request(body)
    if scan is not None:
        assert isinstance(_rewrite_request(body, scan, "m", True), bytes)
    _read_answer(body)
    for dialect in ("openai", "anthropic"):
        handed_on(dialect, True, [b"data: ", body, b"\n\n", body])


def test_deep_nesting_needs_no_stack() -> None:
    deep = b'{"model":"m","x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    assert scanned(deep).model == "m"
    assert _rewrite_request(deep, scanned(deep), "n", False) == deep.replace(b'"m"', b'"n"')
    assert _scan_request(b"[" * 1_000_000) is None
    assert _scan_request(b'{"a":' * 1_000_000) is None
    assert _read_answer(deep[:-1] + b',"usage":{"prompt_tokens":1}}') == ((1, 0, 0), False)
    assert handed_on("openai", True, [b"data: " + deep[:MIB] + b"\n\n"])[1]["deltas"] == 1


def test_large_bodies() -> None:
    text = 'a "quoted" line\nand é, \\ and more; ' * 60
    document = {"messages": [{"role": "user", "content": text}] * 1000, "model": "m", "stream": True}
    for body in (json.dumps(document).encode(), json.dumps(document, ensure_ascii=False).encode()):
        assert len(body) > 2_000_000
        check_scan(body.decode(), scanned(body))
        rewritten = _rewrite_request(body, scanned(body), "n", True)
        assert json.loads(rewritten) == {**document, "model": "n", "stream_options": {"include_usage": True}}


def test_a_lone_surrogate_is_replaced_and_bad_text_is_malformed() -> None:
    assert scanned(b'{"model":"a\\ud800"}').model == "a\ufffd"
    assert scanned(b'{"model":"\\ud83d\\ude00"}').model == "😀"
    assert scanned(b'\xef\xbb\xbf{"model":"a"}').model == "a"
    assert _scan_request(b'{"model":"\\x"}') is None
    assert _scan_request(b'{"model":"\xff"}') is None


def test_wrong_types_are_named() -> None:
    scan = scanned(b"{}")
    anything: Any = "{}"
    for call in (
        lambda: _scan_request(anything),
        lambda: _read_answer(anything),
        lambda: _rewrite_request(anything, scan, None, False),
        lambda: _rewrite_request(b"{}", anything, None, False),
        lambda: _rewrite_request(b"{}", scan, anything.encode(), False),
        lambda: _rewrite_request(b"{}", scan, None, anything),
        lambda: _StreamScanner(3, False),  # type: ignore[arg-type]
        lambda: _StreamScanner("openai", anything),
        lambda: _StreamScanner("openai", True).feed(anything),
    ):
        with pytest.raises(TypeError, match="must be"):
            call()
    for wrong in (
        lambda: _rewrite_request(b"{ }", scan, None, False),
        lambda: _rewrite_request(b"{}", scan, "\ud800", False),
        lambda: _StreamScanner("gemini", True),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError, match="must be"):
            wrong()


# --- usage ---


@given(DOCUMENTS)
def test_usage_is_read_as_json_reads_it(text: str) -> None:
    usage = json.loads(text).get("usage")
    numbers = {name: whole(value) for name, value in usage.items()} if isinstance(usage, dict) else {}
    prompt, output, total = (numbers.get(name) for name in ("prompt_tokens", "output_tokens", "total_tokens"))
    expected: Usage = None
    if prompt is not None or output is not None:
        rest = max(0, (total or 0) - (prompt or 0) - (output or 0))
        expected = (prompt if prompt is not None else rest, output if output is not None else rest, 0)
    elif total is not None:
        expected = (total, 0, 0)
    is_error = json.loads(text).get("error") is not None or json.loads(text).get("type") == "error"
    assert _read_answer(text.encode()) == (expected, is_error)


# --- streams ---


def handed_on(dialect: Any, drop_usage: bool, chunks: Iterable[bytes]) -> tuple[bytes, dict[str, Any]]:
    """What the client gets, and what was seen."""
    scanner = _StreamScanner(dialect, drop_usage)
    passed = [scanner.feed(chunk) for chunk in chunks]
    passed.append(scanner.finish())
    names = ("has_event", "error", "error_is_first", "ended", "finished", "usage", "deltas")
    return b"".join(passed), {name: getattr(scanner, name) for name in names}


def event(data: Any, name: str | None = None) -> str:
    said = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "") + f"data: {said}\n\n"


def chunk(content: str, reason: str | None = None) -> str:
    return event({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}], "usage": None})


EXTRA = event('{"id":"c","choices" : [\t] ,"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}')
CHAT = event({"choices": [], "prompt_filter_results": [1]}) + chunk("a") + ": keep alive\n\n" + chunk("b") + chunk("", "stop")
WHOLE = CHAT + EXTRA + event("[DONE]")
RESPONSES = (
    event({"type": "response.created", "response": {"usage": None, "error": None}}, "response.created")
    + event({"type": "response.in_progress"})
    + event({"type": "response.output_text.delta", "delta": "x"}, "response.output_text.delta")
)
RESPONSE_USAGE = {"usage": {"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 1}}}
MESSAGE = (
    event({"type": "message_start", "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1}}})
    + event({"type": "ping"}, "ping")
    + event({"type": "content_block_start"})
    + event({"type": "content_block_delta", "delta": {"text": "hello"}}, "content_block_delta")
    + event({"type": "content_block_stop"})
    + event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}})
)

SEEN = {"has_event": True, "error": None, "error_is_first": False, "ended": True, "finished": True}
NOTHING = {
    "has_event": False,
    "error": None,
    "error_is_first": False,
    "ended": False,
    "finished": False,
    "usage": None,
    "deltas": 0,
}
FAULT = '{"error": {"message": "overloaded"}}'
STREAMS: dict[str, tuple[Dialect, str, dict[str, Any]]] = {
    "chat": ("openai", WHOLE, {**SEEN, "usage": (9, 2, 0), "deltas": 4}),
    "chat cut off": ("openai", CHAT + EXTRA[:-2], {**SEEN, "ended": False, "usage": (9, 2, 0), "deltas": 4}),
    "returns": (
        "openai",
        "\ufeff" + (CHAT + EXTRA + event("[DONE]")).replace("\n", "\r"),
        {**SEEN, "usage": (9, 2, 0), "deltas": 4},
    ),
    "pairs": ("openai", (CHAT + EXTRA + event("[DONE]")).replace("\n", "\r\n"), {**SEEN, "usage": (9, 2, 0), "deltas": 4}),
    "many lines": (
        "openai",
        'id: 1\ndata: {"choices":[],\ndata:"usage":\n: inside\ndata: {"prompt_tokens":1}}\n\ndata:[DONE]\n\n',
        {**SEEN, "finished": False, "usage": (1, 0, 0), "deltas": 0},
    ),
    "responses": (
        "openai",
        RESPONSES + event({"type": "response.completed", "response": RESPONSE_USAGE}),
        {**SEEN, "finished": False, "usage": (5, 6, 0), "deltas": 1},
    ),
    "incomplete": (
        "openai",
        RESPONSES + event({"type": "response.incomplete", "response": RESPONSE_USAGE}),
        {**SEEN, "finished": False, "usage": (5, 6, 0), "deltas": 1},
    ),
    "failed": (
        "openai",
        RESPONSES + event('{"type":"response.failed"}'),
        {**SEEN, "finished": False, "error": b'{"type":"response.failed"}', "usage": None, "deltas": 1},
    ),
    "message": ("anthropic", MESSAGE + event({"type": "message_stop"}), {**SEEN, "usage": (7, 15, 3), "deltas": 1}),
    "error first": (
        "openai",
        ": hi\n\n" + event({"type": "ping"}) + event(FAULT),
        {**NOTHING, "has_event": True, "error": FAULT.encode(), "error_is_first": True, "ended": True},
    ),
    "error late": (
        "anthropic",
        MESSAGE + event({"type": "error", "error": {}}, "error"),
        {**SEEN, "error": b'{"type": "error", "error": {}}', "usage": (7, 15, 3), "deltas": 1},
    ),
    "nothing": ("anthropic", ": a\n\n\n\nevent: ping\ndata: {}\n\ndata:\n\nevent: x\n\nretry: 5\n\n: b", NOTHING),
    "no json": ("openai", event("hello"), {**NOTHING, "has_event": True, "deltas": 1}),
}


def without_extra(text: str) -> str:
    for end in ("\n", "\r", "\r\n"):
        text = text.replace(EXTRA.replace("\n", end), "")
    text = text.replace(EXTRA[:-2], "")
    return re.sub(r"id: 1.*?\n\n", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("drop_usage", [False, True])
def test_a_stream_cut_at_every_byte_is_the_same(name: str, drop_usage: bool) -> None:
    dialect, text, seen = STREAMS[name]
    body = text.encode()
    expected = without_extra(text).encode() if drop_usage else body
    assert (expected == body) is not (drop_usage and '"prompt_tokens"' in text)
    assert handed_on(dialect, drop_usage, [body]) == (expected, seen)
    for at in range(len(body) + 1):
        assert handed_on(dialect, drop_usage, [body[:at], body[at:]]) == (expected, seen)
    for size in (1, 2, 3, 7):
        assert handed_on(dialect, drop_usage, [body[at : at + size] for at in range(0, len(body), size)]) == (expected, seen)


@given(st.data())
def test_streams_of_anything_are_the_same_however_they_are_cut(data: st.DataObject) -> None:
    fields = [
        "",
        "data",
        "data: 1",
        "data: [DONE]",
        ": c",
        "event: ping",
        "id: 3",
        EXTRA.strip(),
        f"data: {FAULT}",
        "\ufeff",
        "data: {",
    ]
    lines = st.tuples(st.sampled_from(fields), st.sampled_from(["\n", "\r", "\r\n"])).map("".join)
    body = "".join(data.draw(st.lists(lines, max_size=12))).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    for drop_usage in (False, True):
        assert handed_on("openai", drop_usage, pieces) == handed_on("openai", drop_usage, [body])
    assert handed_on("openai", False, pieces)[0] == handed_on("anthropic", True, pieces)[0] == body
    assert handed_on("openai", True, pieces)[1] == handed_on("openai", False, pieces)[1]


def test_whole_events_are_handed_on_at_once_and_as_the_same_object() -> None:
    body = (CHAT + event("[DONE]")).encode()
    for drop_usage in (False, True):
        assert _StreamScanner("openai", drop_usage).feed(body) is body
    part = body[:-5]
    assert _StreamScanner("openai", False).feed(part) is part
    scanner = _StreamScanner("openai", True)
    assert scanner.feed(b": c\ndata: 1\n\ndata: 2") == b": c\ndata: 1\n\n"
    assert scanner.feed(b"3\n") == b""
    assert scanner.feed(b"\n") == b"data: 23\n\n"
    assert scanner.finish() == scanner.finish() == b""


def test_long_events_are_handed_on_unheld_and_unread() -> None:
    long = event({"choices": [], "usage": {"prompt_tokens": 1}, "x": "x" * MIB}).encode()
    body = long + EXTRA.encode()
    for size in (len(body), 60_001):
        scanner = _StreamScanner("openai", True)
        passed, most = 0, 0
        for at in range(0, len(long), size):
            passed += len(scanner.feed(long[at : at + size]))
            most = max(most, at + size - passed)
        assert passed == len(long)
        assert most <= MIB + size
        assert (scanner.deltas, scanner.usage) == (1, None)
        assert scanner.feed(EXTRA.encode()) == b""
        assert scanner.usage == (9, 2, 0)


def test_threads_may_share_a_scanner() -> None:
    scanner = _StreamScanner("openai", True)

    def feed() -> None:
        for _ in range(500):
            assert scanner.feed(b"data: 1\n\n") == b"data: 1\n\n"
            assert scanner.has_event

    threads = [threading.Thread(target=feed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scanner.deltas == 2000
