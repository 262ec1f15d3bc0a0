"""What the deployments, requests and rules of a run are, drawn from a seed."""

import random
from dataclasses import dataclass, field
from typing import Any

from turnout import Deployment, Health, Learning, Limit, MinuteRules, Quota, Strategy

STEADY = "steady"
"""A group with room and good health: who waits there is served soon."""
LIMITED = "limited"
"""A group whose members have limits of every kind."""
SHARED = "shared"
"""A group whose members share quotas."""
CHURNED = "churned"
"""A group whose members come and go."""
ALIAS = "alias"
MODELS = (STEADY, LIMITED, SHARED, CHURNED, ALIAS)
SICK = (LIMITED, SHARED, CHURNED)
"""The groups in which things fail."""

KINDS = (
    "error",
    "connection",
    "rate_limit",
    "auth",
    "not_found",
    "timeout",
    "manual",
    "bad_request",
    "content_policy",
    "cancelled",
)
TAGS = ("red", "green", "blue")
HEADERS: tuple[dict[Any, Any], ...] = (
    {"x-ratelimit-remaining-requests": "50", "x-ratelimit-limit-requests": "100", "x-ratelimit-reset-requests": "1s"},
    {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"},
    {"retry-after": "0.05"},
    {b"Retry-After-Ms": b"20", b"X-RateLimit-Remaining": b"3"},
    {"anthropic-ratelimit-input-tokens-remaining": "9999999", "anthropic-ratelimit-input-tokens-reset": "soon"},
    {"RateLimit": '"a";r=0;t=1', "RateLimit-Policy": '"a";q=10'},
    {1: object()},
)


class ProviderError(Exception):
    """What a client library raises."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__("said by a provider")
        self.status_code = chance.choice((400, 401, 404, 408, 429, 500, 503, "odd", None))
        self.headers = chance.choice(HEADERS)


def limit(chance: random.Random, manual: bool) -> Limit:
    """A limit of any unit and kind that the requests of a run are likely to meet."""
    unit = chance.choice(("requests", "requests", "tokens", "tokens", "input_tokens", "output_tokens"))
    facts: dict[str, Any] = {
        unit: chance.randint(3, 40) * (1 if unit == "requests" else 30),
        "per": chance.choice((10.0, 60.0, 3600.0) if manual else (0.5, 1.0, 2.0)),
    }
    match chance.choice(("clock", "offset", "day", "first_use", "sliding", "bucket", "bucket")):
        case "offset":
            facts["offset"] = facts["per"] * 0.3
        case "day":
            facts |= {"per": 86_400.0, "timezone": "America/Los_Angeles"}
        case "first_use":
            facts["start"] = "first_use"
        case "sliding":
            facts["kind"] = "sliding"
        case "bucket":
            facts |= {"kind": "bucket", "burst": chance.choice((None, max(facts[unit] // 3, 1)))}
    return Limit(**facts)


def parallel(chance: random.Random) -> int | None:
    return chance.choice((None, 1, 2, 3, 6))


def steady() -> list[Deployment]:
    return [Deployment("steady-0", STEADY, max_parallel_requests=1), Deployment("steady-1", STEADY, max_parallel_requests=2)]


def limited(chance: random.Random, manual: bool) -> list[Deployment]:
    return [
        Deployment(
            f"limited-{nth}",
            LIMITED,
            weight=chance.randint(0, 3),
            priority=chance.randint(0, 2),
            rpm_limit=chance.choice((None, None, 30, 200)),
            tpm_limit=chance.choice((None, None, 3_000, 20_000)),
            max_parallel_requests=parallel(chance),
            limits=[limit(chance, manual) for _ in range(chance.randint(0, 2))],
            tags=chance.sample(TAGS, chance.randint(0, 3)),
            domain=chance.choice((None, "eu", "us")),
            health=chance.choice((None, None, Health(slow_start=0.2), MinuteRules(cooldown_time=0.05))),
        )
        for nth in range(8)
    ]


def shared(chance: random.Random, manual: bool) -> list[Deployment]:
    quotas = [Quota(f"quota-{nth}", *(limit(chance, manual) for _ in range(nth + 1))) for nth in range(2)]
    return [
        Deployment(
            f"shared-{nth}",
            SHARED,
            max_parallel_requests=parallel(chance),
            quotas=chance.sample(quotas, chance.randint(1, 2)),
            tags=chance.sample(TAGS, chance.randint(0, 2)),
        )
        for nth in range(4)
    ]


def churned(chance: random.Random, deployment_id: str) -> Deployment:
    return Deployment(
        deployment_id,
        chance.choice((CHURNED, CHURNED, CHURNED, SHARED)),
        weight=chance.randint(0, 3),
        max_parallel_requests=parallel(chance),
        rpm_limit=chance.choice((None, 100, 1_000)),
        limits=[limit(chance, False)] if chance.random() < 0.4 else [],
        tags=chance.sample(TAGS, chance.randint(0, 3)),
        domain=chance.choice((None, "eu")),
    )


def rules(chance: random.Random) -> Health | MinuteRules:
    if chance.random() < 0.4:
        return MinuteRules(allowed_fails=chance.randint(0, 5), min_requests=chance.randint(0, 10), cooldown_time=0.05)
    return Health(
        cooldown_time=0.05,
        max_cooldown=0.2,
        panic_threshold=chance.choice((0.0, 0.3, 0.7)),
        cool_last=chance.random() < 0.5,
        fail_open=chance.random() < 0.5,
        slow_start=chance.choice((0.0, 0.0, 0.1)),
        outlier_factor=chance.choice((None, 3.0)),
        window=chance.choice((0.5, 60.0)),
    )


def options(chance: random.Random) -> dict[str, Any]:
    """What `configure` takes."""
    return {
        "strategy": chance.choice(list(Strategy)),
        "strategies": {name: chance.choice(list(Strategy)) for name in MODELS if chance.random() < 0.3},
        "health": rules(chance),
        "learning": Learning(headers=chance.random() < 0.7, concurrency=chance.random() < 0.7, longest_wait=0.3),
    }


@dataclass
class Request:
    """What a call asks for."""

    model_name: str
    tokens: int | None = None
    split: tuple[int, int] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """The keywords that `explain` takes."""
    priority: int = 0


def request(chance: random.Random, names: tuple[str, ...] = MODELS) -> Request:
    """Any request. Those to the steady group are alike, so that nobody may be overtaken there."""
    asked = Request(chance.choice(names))
    if asked.model_name == STEADY:
        return asked
    match chance.randint(0, 2):
        case 1:
            asked.tokens = chance.randint(0, 120)
            asked.facts["tokens"] = asked.tokens
        case 2:
            asked.split = (chance.randint(0, 80), chance.randint(0, 80))
            asked.facts |= {"input_tokens": asked.split[0], "output_tokens": asked.split[1]}
    if chance.random() < 0.15:
        asked.facts |= {"tags": [chance.choice(TAGS)], "tags_match": chance.choice(("any", "all"))}
    if chance.random() < 0.15:
        asked.facts["exclude"] = [chance.choice(("limited-0", "shared-1", "nobody"))]
    asked.priority = chance.choice((0, 0, 0, -1, 5))
    return asked
