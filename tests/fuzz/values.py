"""Values of all sorts: what a parameter wants, what is nearly that, and what nobody should give."""

import datetime
import math
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import turnout
from turnout import Deployment, Health, Learning, Limit, ManualClock, MinuteRules, Quota, Strategy, Waiting


class RaisedByValue(Exception):
    """What a hostile value raises: it may come out of any call."""


class Hostile:
    """Raises in whatever it is asked."""

    def _raise(self, *_: object) -> Any:
        raise RaisedByValue

    __str__ = __hash__ = __eq__ = __int__ = __index__ = __float__ = __bool__ = __len__ = __iter__ = __call__ = _raise
    __lt__ = __getitem__ = keys = items = get = _raise


class Odd(str):
    """A str of a class of its own, equal to nothing."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 1


class Index:
    """A number that only `__index__` tells."""

    def __index__(self) -> int:
        return 3


class Reentrant:
    """Uses a router while it is asked for its items."""

    def __init__(self, router: Any) -> None:
        self.router = router

    def __iter__(self) -> Iterator[str]:
        self.router.metrics()
        self.router.cool_down("a", 0.0)
        yield "a"

    def items(self) -> list[tuple[str, str]]:
        self.router.report_health("a", True)
        return [("retry-after", "1")]


class ProviderError(Exception):
    """An exception with whatever attributes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("said by a provider")
        self.__dict__.update(attributes)


NUMBERS: list[Any] = [0, 1, -1, 2, 7, 100, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**40, 0.0, -0.0, 0.5, 1.0, 1e-9, 59.999]
NUMBERS += [1e18, 1e308, -1e308, math.inf, -math.inf, math.nan, True, False, Decimal("1.5"), Fraction(1, 3), Index(), 3 + 0j]
TEXTS: list[Any] = [
    "",
    "a",
    "b",
    "m",
    "alias",
    "nobody",
    "x" * 10_000,
    "\0",
    "\ud800",
    "ä",
    "😀",
    " a ",
    Odd("a"),
    b"a",
    bytearray(b"m"),
]
NAMES: list[Any] = ["a", "b", "c", "m", "m", "m", "n", "alias"]
WORDS: list[Any] = [
    *Strategy,
    "round_robin",
    "simple-shuffle",
    "any",
    "all",
    "error",
    "rate_limit",
    "connection",
    "account",
    "deployment",
]
WORDS += [
    "requests",
    "tokens",
    "fixed",
    "sliding",
    "bucket",
    "clock",
    "first_use",
    "UTC",
    "America/Los_Angeles",
    "localtime",
    "openai",
]


def headers(chance: random.Random) -> Any:
    """Headers, in any of the forms that libraries have."""
    names = ["retry-after", "Retry-After-Ms", "x-ratelimit-remaining-requests", "x-ratelimit-reset-tokens", "RateLimit", "date"]
    names += ["anthropic-ratelimit-unified-reset", "x-ratelimit-limit-requests", "ratelimit-policy", "x-" + "y" * 300]
    said = [
        "0",
        "1",
        "7m12s",
        "1e9",
        "-1",
        "soon",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "2030-01-01T00:00:00Z",
        '"a";r=0;t=1',
        "9" * 300,
        "",
    ]
    pairs = [(chance.choice(names), chance.choice(said)) for _ in range(chance.randint(0, 6))]
    forms: list[Callable[[], Any]] = [
        lambda: dict(pairs),
        lambda: pairs,
        lambda: [(name.encode(), value.encode()) for name, value in pairs],
        lambda: {name: [value, value] for name, value in pairs},
        lambda: SimpleNamespace(headers=dict(pairs)),
        lambda: SimpleNamespace(response=SimpleNamespace(headers=pairs)),
        lambda: {name: chance.choice(NUMBERS) for name, _ in pairs},
    ]
    return chance.choice(forms)()


class Values:
    """Draws values.

    Args:
        chance: The source of chance.
        router: A router that hostile values use.
    """

    def __init__(self, chance: random.Random, router: Any) -> None:
        self.chance = chance
        self.router = router

    def any(self, depth: int = 0) -> Any:
        """Draw a value."""
        kinds: list[Callable[[], Any]] = [
            lambda: self.chance.choice(NUMBERS),
            lambda: self.chance.choice(NUMBERS),
            lambda: self.chance.choice(TEXTS),
            lambda: self.chance.choice(NAMES),
            lambda: self.chance.choice(NAMES),
            lambda: self.chance.choice(WORDS),
            lambda: None,
            Hostile,
            lambda: Reentrant(self.router),
            lambda: headers(self.chance),
            self.error,
            self.record,
            lambda: self.chance.choice([object(), int, len, Ellipsis, datetime.datetime(2030, 1, 1), range(3), memoryview(b"a")]),
        ]
        if depth < 3:
            kinds += [
                lambda: [self.any(depth + 1) for _ in range(self.chance.randint(0, 4))],
                lambda: tuple(self.any(depth + 1) for _ in range(self.chance.randint(0, 3))),
                lambda: {self.chance.choice(NAMES): self.any(depth + 1) for _ in range(self.chance.randint(0, 3))},
                lambda: {self.chance.choice(NAMES) for _ in range(self.chance.randint(0, 3))},
                lambda: (self.any(depth + 1) for _ in range(2)),
                self.circle,
            ]
        return self.chance.choice(kinds)()

    def circle(self) -> Any:
        """A list that holds itself."""
        circle: list[Any] = []
        circle.append(circle)
        return circle

    def error(self) -> BaseException:
        """An exception with any attributes."""
        names = ("status_code", "status", "code", "headers", "response", "body", "type", "message", "retry_after", "__cause__")
        attributes = {name: self.chance.choice([429, "429", None, 503, headers(self.chance), NUMBERS[15]]) for name in names[:9]}
        chosen = {name: attributes[name] for name in attributes if self.chance.random() < 0.4}
        return self.chance.choice([ProviderError(**chosen), TimeoutError(), ConnectionResetError(), KeyError("a"), GeneratorExit()])

    def record(self) -> Any:
        """One of the package's own values."""
        return self.chance.choice(
            [
                Deployment("c", "m", max_parallel_requests=1),
                Deployment("a", "m", limits=[Limit(requests=5)], quotas=[Quota("q", Limit(tokens=100))]),
                Limit(requests=10),
                Quota("q", Limit(tokens=100)),
                Health(),
                MinuteRules(),
                Learning(),
                Waiting(),
                ManualClock(1.7e9),
                turnout.Status.AVAILABLE,
            ]
        )

    def fitting(self, name: str) -> Any:
        """Draw what a parameter of this name wants, mostly."""
        chance = self.chance
        wanted: dict[str, Callable[[], Any]] = {
            "model_name": lambda: chance.choice(["m", "m", "n", "alias"]),
            "deployment_id": lambda: chance.choice(["a", "b", "c"]),
            "name": lambda: chance.choice(NAMES),
            "alias": lambda: chance.choice(["alias", "other"]),
            "target": lambda: chance.choice(["m", "n", "alias"]),
            "deployment": lambda: Deployment(
                chance.choice("abc"), chance.choice("mn"), max_parallel_requests=chance.choice([None, 1, 3])
            ),
            "deployments": lambda: [Deployment(name, "m") for name in "ab"],
            "tags": lambda: chance.sample(["x", "y"], chance.randint(0, 2)),
            "exclude": lambda: set(chance.sample("abc", chance.randint(0, 2))),
            "timeout": lambda: chance.choice([0.0, 0.001]),
            "tokens": lambda: chance.randint(0, 50),
            "priority": lambda: chance.randint(-3, 3),
            "kind": lambda: chance.choice(["error", "rate_limit", "timeout"]),
            "headers": lambda: headers(chance),
            "healthy": lambda: chance.random() < 0.7,
            "seconds": lambda: chance.choice([0.0, 0.01, 1.0]),
            "n": lambda: chance.randint(0, 20),
            "strategy": lambda: chance.choice(list(Strategy)),
            "callback": lambda: lambda event: None,
        }
        if name in wanted and chance.random() < 0.75:
            return wanted[name]()
        return self.any()
