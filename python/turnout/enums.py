"""The names that options take. Every member is a `str`, so the plain string does as well."""

from enum import Enum

__all__ = ["EventKind", "FailureKind", "Status", "Strategy"]


class _Name(str, Enum):
    """A string with a name (`enum.StrEnum` needs Python 3.11)."""

    def __str__(self) -> str:
        return str(self.value)


class Strategy(_Name):
    """The rule that picks among candidates.

    The rules and their names are those of litellm-rs, but for ``cheapest``. LiteLLM's own spellings are
    accepted in their place: ``"simple-shuffle"``, ``"least-busy"``, ``"usage-based-routing"``,
    ``"usage-based-routing-v2"``, ``"latency-based-routing"``, ``"cost-based-routing"``.
    """

    SIMPLE_SHUFFLE = "simple_shuffle"
    """At random in proportion to the weights; uniformly if all are 0."""
    LEAST_BUSY = "least_busy"
    """Fewest requests in flight, ties at random."""
    USAGE_BASED = "usage_based"
    """Lowest used share of the token limit, in whole percent, ties to the first."""
    LATENCY_BASED = "latency_based"
    """Lowest smoothed latency, ties to the first."""
    PRIORITY_BASED = "priority_based"
    """Lowest priority number, ties to the first."""
    RATE_LIMIT_AWARE = "rate_limit_aware"
    """Farthest from its token and request limits, ties to the first."""
    ROUND_ROBIN = "round_robin"
    """In turn."""
    CHEAPEST = "cheapest"
    """The least expected cost of the request, ties at random."""


class FailureKind(_Name):
    """What went wrong with a request, and so what it says about the deployment."""

    ERROR = "error"
    """The deployment failed: 5xx, and failures without a kind of their own. Counts towards a cooldown."""
    CONNECTION = "connection"
    """The deployment could not be reached. Counts towards a cooldown."""
    RATE_LIMIT = "rate_limit"
    """The deployment refused because of its rate limit (429). Cools down at once."""
    AUTH = "auth"
    """The deployment refused the credentials or the account (401, 402, 403, billing). Cools down at once."""
    NOT_FOUND = "not_found"
    """The deployment does not have the model, or not any more (404, 410). Cools down at once."""
    TIMEOUT = "timeout"
    """The deployment did not answer in time (408, 504). Cools down at once."""
    MANUAL = "manual"
    """The application says so. Cools down at once."""
    BAD_REQUEST = "bad_request"
    """The request was wrong (other 4xx). Says nothing about the deployment."""
    CONTENT_POLICY = "content_policy"
    """The content was refused. Says nothing about the deployment."""
    CONTEXT_WINDOW = "context_window"
    """The prompt was too long for the model. Says nothing about the deployment."""
    CANCELLED = "cancelled"
    """The caller gave up. Says nothing about the deployment."""


class Status(_Name):
    """What a deployment is: in service or out of it."""

    AVAILABLE = "available"
    """In service."""
    DEGRADED = "degraded"
    """In service on probation: it failed, or its cooldown has just ended."""
    COOLING_DOWN = "cooling_down"
    """Out of service until its cooldown ends."""
    UNHEALTHY = "unhealthy"
    """Out of service until a health check reports it well."""


class EventKind(_Name):
    """What has happened to a deployment or a group."""

    COOLDOWN = "cooldown"
    """A deployment was taken out for a while, or its cooldown became longer."""
    RECOVERY = "recovery"
    """A deployment is back in service: it ended the probation after a cooldown, or a health check ended the
    cooldown.
    """
    PANIC = "panic"
    """So few members of a group are in service that their health is ignored."""
    PANIC_OVER = "panic_over"
    """Enough members of a group are in service again."""
    LIMIT_LEARNT = "limit_learnt"
    """A limit of a deployment was learnt from its provider."""
    STORE_LOST = "store_lost"
    """The store through which limits are shared does not answer. The event has no model name."""
    STORE_BACK = "store_back"
    """The store through which limits are shared answers again."""
