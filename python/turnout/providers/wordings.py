"""Sentences of providers that tell more than the status that they come with.

A provider's code is better, and is looked at first. Many providers send none, or a gateway lost it. All
sentences are in small letters.
"""

import re

from turnout.enums import FailureKind
from turnout.providers.bodies import asks_too_much

__all__: list[str] = []

# Bound once: to look up a member of an enumeration is slow in Python 3.11.
_AUTH = FailureKind.AUTH
_BAD_REQUEST = FailureKind.BAD_REQUEST
_CONNECTION = FailureKind.CONNECTION
_CONTENT_POLICY = FailureKind.CONTENT_POLICY
_CONTEXT_WINDOW = FailureKind.CONTEXT_WINDOW
_ERROR = FailureKind.ERROR
_NOT_FOUND = FailureKind.NOT_FOUND
_RATE_LIMIT = FailureKind.RATE_LIMIT

_TOO_LARGE = (
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "context limit",
    "context length",
    "context size",
    "maximum model length",
    "maximum prompt length",
    "prompt is too long",
    "input is too long",
    "input token count",
    "input length should be",
    "too many tokens",
    "reduce the length",
    "model token limit",
    "total tokens limit",
    "tokens + `max_new_tokens` must be",
    "request too large",
    "request payload size exceeds",
    "request exceeds the maximum size",
    "request entity too large",
)
# For a rate limit only sentences count that are never said of a request that is only too early ("too many
# tokens, please wait").
_NEVER_FITS = ("request too large", "must be reduced in order to run", "maximum context length", "prompt is too long")

_MODERATED = (
    "content_filter",
    "content filter",
    "content_policy",
    "content policy",
    "content management policy",
    "responsible_ai_policy",
    "responsible ai",
    "content violates",
    "content exists risk",
    "considered high risk",
    "flagged_input",
    "input was flagged",
    "prompt was flagged",
    "flagged as potentially violating",
    "prompt was blocked",
    "inappropriate content",
    "rejected by the safety system",
    "result of our safety system",
)

_NO_ACCOUNT = (
    # Money. Google says OpenAI's "check your plan and billing details" of rate limits too. The words after it
    # differ.
    "insufficient_quota",
    "billing details. for more information on this error, read the docs: https://platform.openai.com",
    "credit balance is too low",
    "insufficient balance",
    "insufficient credits",
    "billing hard limit has been reached",
    "billing is not active",
    "billing_not_active",
    "specified api usage limits",
    "workspace api usage limits",
    "enforced_spend_limit_reached",
    "spending limit",
    "budget has been exceeded",
    "budget_exceeded",
    # Keys and accounts.
    "api key not valid",
    "api key expired",
    "api_key_invalid",
    "invalid_api_key",
    "invalid api key",
    "invalid x-api-key",
    "incorrect api key",
    "organization has been disabled",
    "account has been disabled",
    "account has been deactivated",
    "account has been suspended",
    "user location is not supported",
    "security token included in the request is",
)

_NO_MODEL = (
    "model identifier is invalid",
    "not a valid model id",
    "model_not_found",
    "model_decommissioned",
    "deploymentnotfound",
    "with on-demand throughput isn",
)
# A model, perhaps its name, and what became of it. A sentence about a parameter that a model no longer
# supports does not count.
_GONE = re.compile(
    r"(?:model|deployment|engine)s?[:/ ]\s?(?:version |\S{1,128} )?"
    r"(?:(?:has been|was|is|is now) (?:decommissioned|deprecated|discontinued|retired|removed|shut down)"
    r"|(?:does )?not exist|(?:is )?no longer (?:available|supported)|(?:is |was )?not found"
    r"|has reached (?:its|the) end of (?:its )?life|is invalid)"
)

# Fireworks names the account.
_SUSPENDED = re.compile(r"account (?:\S{1,128} )?is suspended")

# For gRPC's UNAVAILABLE: no server was reached.
_UNREACHABLE = ("failed to connect", "dns resolution failed", "connection refused", "connection reset", "socket closed")


def refined(kind: FailureKind, status: int | None, codes: list[str], said: str, is_coded: bool) -> FailureKind:
    """Refines a kind by the words.

    Args:
        kind: The kind that a status or a code tells.
        status: The status, if there is one.
        codes: The codes.
        said: All that is said, in small letters.
        is_coded: Whether a code told the kind.

    Returns:
        The kind that the words tell, or the one that was known.
    """
    if kind is _BAD_REQUEST:
        if _has(_TOO_LARGE, said):
            return _CONTEXT_WINDOW
        if _has(_MODERATED, said):
            return _CONTENT_POLICY
    elif kind is _RATE_LIMIT:
        if _has(_NEVER_FITS, said) or ("requested" in said and asks_too_much(said)):
            return _CONTEXT_WINDOW
        # A code has said already that this is about the rate.
        return kind if is_coded or not (_has(_NO_ACCOUNT, said) or _SUSPENDED.search(said)) else _AUTH
    elif kind is _AUTH:
        # Together sends 403 for a request that is too long, OpenRouter for one that was flagged.
        if is_coded or status not in (None, 403):
            return kind
        return _CONTENT_POLICY if _has(_MODERATED, said) else _CONTEXT_WINDOW if _has(_TOO_LARGE, said) else kind
    elif kind is not _ERROR:
        return kind
    elif status is None:
        return _CONNECTION if "unavailable" in codes and _has(_UNREACHABLE, said) else kind
    if _has(_NO_ACCOUNT, said) or _SUSPENDED.search(said) is not None:
        return _AUTH
    return _NOT_FOUND if _has(_NO_MODEL, said) or _GONE.search(said) is not None else kind


def _has(sentences: tuple[str, ...], said: str) -> bool:
    return any(map(said.__contains__, sentences))
