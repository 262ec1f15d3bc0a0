"""Reads the body of a refusal: codes, messages, and how long to wait.

Client libraries leave bodies on their exceptions: decoded objects, lists of such, or text. They are
strangers' objects and may do anything when code looks at them. So every look is guarded, and a body is
searched only to a bounded depth and size.
"""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from turnout._core import _read_time
from turnout._signals import let_through
from turnout.providers.strangers import MOST_CHARACTERS, attribute, entry, number, text

__all__: list[str] = []

_MOST_NODES = 200
_MOST_DEPTH = 8
# The most text that is read, of a message and of all messages together.
_MOST_TEXT = 4096

# The fields of an error that hold a code of some kind, and those that hold a sentence.
_CODES = frozenset(("code", "type", "status", "reason", "error", "error_type", "error_code", "Code", "__type"))
_MESSAGES = frozenset(("message", "Message", "detail", "title", "error", "msg", "description", "error_message"))
# The fields that hold a wait, and how many of its units make a second: Google's RetryInfo
# (google/rpc/error_details.proto), and the names that others give it.
_WAITS = {
    "retryDelay": 1.0,
    "retry_delay": 1.0,
    "retry_after": 1.0,
    "retryAfter": 1.0,
    "retry_after_seconds": 1.0,
    "resets_in_seconds": 1.0,
    "retry_after_ms": 1000.0,
}

# The same fields if the body is text: JSON, or a dict that Python printed.
_FIELD = r"[\"']\s{0,4}:\s{0,4}[\"']"
_CODE_IN_TEXT = re.compile(rf"[\"'](?:code|type|status|reason|error|error_type|error_code|__type){_FIELD}([\w.#-]{{1,256}})[\"']")
_WAIT_IN_TEXT = re.compile(rf"retrydelay{_FIELD}([0-9.]{{1,32}}s)[\"']")

# "Please try again in 7m12s", as OpenAI, Azure, Groq, Google and GitHub write it.
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)"
_AMOUNT = rf"[0-9]{{1,12}}(?:\.[0-9]{{1,12}})?\s?{_UNIT}(?![a-z])"
_SENTENCE = re.compile(
    rf"(?:(?:try again|retry|retrying) (?:in|after)|wait)(?: for| about)? ({_AMOUNT}(?:(?:,? and |[ ,]{{0,2}}){_AMOUNT}){{0,6}})"
)
_PART = re.compile(rf"([0-9.]+)\s?({_UNIT}(?![a-z]))")
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

# OpenAI and Groq: a request that is larger than all that the limit lets through in its time.
_ASKED = re.compile(r"limit:? ([0-9]{1,15})(?:, used:? [0-9]{1,15})?, requested:? ([0-9]{1,15})")


class Body:
    """All that the bodies of an exception say.

    Attributes:
        codes: The codes, the outermost first, in small letters and without the marks between their words.
        statuses: Numbers in the place of a code that may be the status of an answer.
        wait: Seconds to wait, if a field tells them; None if none does.
        headers: Headers that a gateway hands on in its body.
        is_moderated: Whether it says what content was flagged (OpenRouter's ``metadata``).
    """

    __slots__ = ("_messages", "codes", "headers", "is_moderated", "statuses", "wait")

    def __init__(self, bodies: Iterable[Any]) -> None:
        self.codes: list[str] = []
        self.statuses: list[int] = []
        self.wait: float | None = None
        self.headers: list[Any] = []
        self.is_moderated = False
        self._messages: list[str] = []
        level, left = list(bodies), _MOST_NODES
        for _ in range(_MOST_DEPTH):
            if not level or left <= 0:
                return
            below: list[Any] = []
            for node in level[:left]:
                try:
                    self._look_at(node, below)
                except Exception as error:  # a stranger's object that fails half-way
                    let_through(error)
            left -= len(level)
            level = below

    def _look_at(self, node: Any, below: list[Any]) -> None:
        kind = type(node)
        if issubclass(kind, dict):
            for name, value in islice(node.items(), _MOST_NODES):
                kind = type(value)
                if issubclass(kind, str):
                    if name in _CODES and len(value) <= MOST_CHARACTERS:
                        self.codes.append(code(value))
                    if name in _MESSAGES:
                        self._messages.append(value[:_MOST_TEXT])
                elif issubclass(kind, (dict, list, tuple)):
                    below.append(value)
                    if name == "headers":
                        self.headers.append(value)
                    elif name == "metadata" and ("reasons" in value or "flagged_input" in value):
                        self.is_moderated = True
                elif name in _CODES and issubclass(kind, int):
                    self.statuses.append(int(value))
                if name in _WAITS:
                    self._take_wait(value, _WAITS[name])
        elif issubclass(kind, (list, tuple)):
            below.extend(islice(node, _MOST_NODES))
        elif issubclass(kind, (str, bytes)):
            self._messages.append(text(node[:_MOST_TEXT]))
        else:
            # google-api-core's details are messages of protobuf.
            self._take_wait(attribute(node, "retry_delay"), 1.0)

    def _take_wait(self, said: Any, parts: float) -> None:
        if said is None or self.wait:
            return
        if type(said) is str:
            found = _read_time(said) if len(said) <= MOST_CHARACTERS else None
        elif issubclass(type(said), (int, float)):
            found = number(said)
        else:
            # A duration of protobuf, as an object or decoded.
            ask = entry if issubclass(type(said), dict) else attribute
            whole, rest = ask(said, "seconds"), ask(said, "nanos")
            whole = None if whole is None and rest is None else number(whole or 0)
            found = None if whole is None else whole + (number(rest or 0) or 0.0) / 1e9
        if found is not None:
            self.wait = found / parts

    def words(self, said: str) -> str:
        """Puts together all that is said in sentences, in small letters.

        Args:
            said: The text of the exception itself.

        Returns:
            That and the messages, as far as they are looked at.
        """
        said = said[:_MOST_TEXT]
        # Most clients print the body.
        more = [message for message in self._messages if message not in said]
        return ("\n".join((said, *more))[: 2 * _MOST_TEXT] if more else said).lower()

    def read_text(self, said: str) -> None:
        """Looks for codes and a wait in text, for a body that was not decoded.

        Args:
            said: The text, in small letters.
        """
        self.codes += map(code, _CODE_IN_TEXT.findall(said))
        if not self.wait and (match := _WAIT_IN_TEXT.search(said)) is not None:
            self.wait = _read_time(match[1])


def code(said: str) -> str:
    """Writes a code as the tables have it: ``THROTTLING_EXCEPTION`` and ``aws#ThrottlingException`` are one.

    Args:
        said: The code.

    Returns:
        The part after the last ``#``, in small letters, without the marks between its words.
    """
    return said.rpartition("#")[2].replace("_", "").replace("-", "").replace(" ", "").lower()


def wait_in_words(said: str) -> float | None:
    """Reads a wait from a sentence such as "please try again in 7m12s".

    Args:
        said: The message, in small letters.

    Returns:
        Seconds to wait; None if it does not say.
    """
    match = _SENTENCE.search(said)
    if match is None:
        return None
    return number(
        sum(
            float(amount) * (1e-3 if unit.startswith(("ms", "mil")) else _UNIT_SECONDS[unit[0]])
            for amount, unit in _PART.findall(match[1])
        )
    )


def asks_too_much(said: str) -> bool:
    """Tells whether a refusal says that the request is larger than the limit itself.

    Args:
        said: The message, in small letters.

    Returns:
        Whether it says so. Such a request never fits.
    """
    match = _ASKED.search(said)
    return match is not None and int(match[2]) > int(match[1])
