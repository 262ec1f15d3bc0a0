"""What exceptions say: those that real client libraries raise, and a table of made-up ones that needs no
library.

Each is looked at twice: as `classify_exception` sees it, and by what is left of it after it went through a
lease's block.
"""

import asyncio
import builtins
import concurrent.futures
import contextlib
import errno
import http.client
import http.server
import json
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any, NoReturn

import pytest
import trio
from served import Reply, Server
from turnout import (
    AliasCycle,
    AllDeploymentsInCooldown,
    ConfigurationError,
    Deployment,
    DeploymentNotFound,
    Failure,
    FailureKind,
    Health,
    ManualClock,
    MinuteRules,
    ModelNotFound,
    NoAvailableDeployment,
    RateLimitExceeded,
    RequestTooLarge,
    Router,
    RouterError,
    Status,
    classify_exception,
)

K = FailureKind

NEUTRAL = (K.BAD_REQUEST, K.CONTENT_POLICY, K.CONTEXT_WINDOW, K.CANCELLED)
AT_ONCE = (K.RATE_LIMIT, K.AUTH, K.NOT_FOUND, K.TIMEOUT, K.MANUAL)
COOLDOWN_TIME = 5.0

BY_STATUS = {
    400: K.BAD_REQUEST,
    401: K.AUTH,
    402: K.AUTH,
    403: K.AUTH,
    404: K.NOT_FOUND,
    407: K.ERROR,
    408: K.TIMEOUT,
    409: K.ERROR,
    410: K.NOT_FOUND,
    413: K.CONTEXT_WINDOW,
    421: K.ERROR,
    422: K.BAD_REQUEST,
    423: K.ERROR,
    424: K.ERROR,
    429: K.RATE_LIMIT,
    499: None,
    500: K.ERROR,
    503: K.ERROR,
    504: K.TIMEOUT,
    529: K.ERROR,
}

# Headers, and the seconds they ask for; None where they ask for nothing that makes sense.
WAITS: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"Retry-After": "7"}, 7.0),
    ({"Retry-After": "0.05"}, 0.05),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after-ms": "70"}, 0.07),
    ({"Retry-After-Ms": "1500.5"}, 1.5005),
    ({"retry-after-ms": "70", "Retry-After": "9"}, 0.07),
    ({"retry-after-ms": "soon", "Retry-After": "3"}, 3.0),
    ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ({"Retry-After": "soon"}, None),
    ({"Retry-After": ""}, None),
    ({"Retry-After": "-5"}, None),
    ({"Retry-After": "nan"}, None),
    ({"Retry-After": "inf"}, None),
    ({"Retry-After": "1e400"}, None),
    ({"Retry-After": "7 seconds"}, None),
    ({"Retry-After": "99999999999"}, None),
    ({"Retry-After": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
    ({"retry-after-ms": "-1"}, None),
]


def raised(call: Callable[[], object]) -> BaseException:
    """What a call raises, whatever it is."""
    try:
        call()
    except BaseException as error:
        return error
    pytest.fail("nothing was raised")


def check_effect(fail: Callable[[], object], expected: Failure | None) -> BaseException:
    """Lets ``fail`` raise within a lease's block, and compares what is left of it; returns what got
    through.
    """
    router = Router([Deployment("d", "m")], clock=ManualClock(30), health=MinuteRules(cooldown_time=COOLDOWN_TIME))

    def request() -> None:
        with router.acquire("m", tokens=5):
            fail()

    error = raised(request)
    stats = router.stats("d")
    assert (stats.in_flight, stats.total_requests, stats.total_successes, stats.tpm_current) == (0, 1, 0, 5)
    if expected is None or expected.kind in NEUTRAL:
        assert (stats.total_failures, stats.status, stats.cooldown_remaining) == (0, Status.AVAILABLE, 0.0)
        return error
    assert (stats.total_failures, stats.fails_this_minute) == (1, 1)
    # A wait of 0 is none.
    length = expected.retry_after or (COOLDOWN_TIME if expected.kind in AT_ONCE else 0.0)
    assert stats.cooldown_remaining == length
    assert stats.status is (Status.COOLING_DOWN if length else Status.DEGRADED)
    return error


def check(error: BaseException, expected: Failure | None) -> None:
    """Looks at an exception both ways."""

    def fail() -> NoReturn:
        raise error

    found = classify_exception(error)
    assert found == expected
    assert found is None or isinstance(found.kind, FailureKind)
    assert check_effect(fail, expected) is error


# --- made-up exceptions ---


class Response:
    """An answer as client libraries hang it on their exceptions."""

    def __init__(self, headers: object = None, **facts: object) -> None:
        self.headers = headers
        self.__dict__.update(facts)


class ClientError(Exception):
    """An exception with whatever attributes a test gives it."""

    def __init__(self, message: str = "failed", **facts: object) -> None:
        super().__init__(message)
        self.__dict__.update(facts)


def named(name: str, *bases: type[BaseException]) -> type[Any]:
    """A class that has nothing but its name."""
    return type(name, bases or (Exception,), {})


STATUS_HOLDERS: dict[str, Callable[[int], ClientError]] = {
    "status_code": lambda status: ClientError(status_code=status),
    "status": lambda status: ClientError(status=status),
    "code": lambda status: ClientError(code=status),
    "response.status_code": lambda status: ClientError(response=Response(status_code=status)),
    "response.status": lambda status: ClientError(response=Response(status=status)),
    "beside a code in words": lambda status: ClientError(status_code=status, code="some_code"),
    "beside a status in words": lambda status: ClientError(code=status, status="UNAVAILABLE"),
    "as text": lambda status: ClientError(status_code=str(status)),
    "as a line": lambda status: ClientError(status=f"{status} Whatever"),
    "of a code in text": lambda status: ClientError(code=str(status)),
    "beside a success": lambda status: ClientError(status_code=200, code=status),
    "of botocore": lambda status: ClientError(response={"ResponseMetadata": {"HTTPStatusCode": status}}),
    "in a body alone": lambda status: ClientError(body={"error": {"code": status}}),
    "as an enumeration": lambda status: ClientError(status_code=HTTPStatus(status) if status in set(HTTPStatus) else status),
}


@pytest.mark.parametrize("holder", STATUS_HOLDERS)
@pytest.mark.parametrize("status", BY_STATUS)
def test_statuses(holder: str, status: int) -> None:
    kind = BY_STATUS[status]
    check(STATUS_HOLDERS[holder](status), None if kind is None else Failure(kind))


@pytest.mark.parametrize("status", [405, 406, 418, 431, 451, 498])
def test_other_client_errors_are_the_requests_fault(status: int) -> None:
    check(ClientError(status_code=status), Failure(K.BAD_REQUEST))


@pytest.mark.parametrize("status", [425, 302, 501, 502, 505, 520, 599])
def test_other_statuses_are_the_deployments_fault(status: int) -> None:
    check(ClientError(status_code=status), Failure(K.ERROR))


@pytest.mark.parametrize(
    "status", [True, False, None, "4290", "４２９", "HTTP 429", "", 429.0, 0, -429, 99, 200, 600, 10**30, object()]
)
def test_what_is_no_status_is_none(status: object) -> None:
    check(ClientError(status_code=status), Failure(K.ERROR))


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
@pytest.mark.parametrize("on", ["response", "exception"])
def test_waits(headers: dict[str, str], seconds: float | None, on: str) -> None:
    facts: dict[str, Any] = {"response": Response(headers)} if on == "response" else {"headers": headers}
    check(ClientError(status_code=429, **facts), Failure(K.RATE_LIMIT, seconds))


class Mixed:
    """Headers as `http.client` and others keep them: whatever the case, None for what is not there."""

    def __init__(self, headers: Mapping[str, object]) -> None:
        self.headers = headers

    def __getitem__(self, name: str) -> object:
        return next((value for known, value in self.headers.items() if known.lower() == name.lower()), None)


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        ({"headers": Mixed({"RETRY-AFTER": "4"})}, 4.0),
        ({"headers": {"retry-after": b"4"}}, 4.0),
        ({"headers": {"retry-after": 4}}, 4.0),
        ({"response": Response(), "headers": {"retry-after": "4"}}, 4.0),
        ({"response": Response({"retry-after": "2"}), "headers": {"retry-after": "4"}}, 2.0),
        ({"response": Response({"retry-after": "soon"}), "headers": {"retry-after": "4"}}, 4.0),
        # litellm puts an answer without headers on its exceptions, and those of the provider beside it.
        ({"litellm_response_headers": {"retry-after": "4"}, "response": Response({})}, 4.0),
        ({"retry_after": 4}, 4.0),
        ({"retry_after": 0.25}, 0.25),
        ({"retry_after": "4"}, 4.0),
        ({"retry_after": -4}, None),
        ({"retry_after": float("nan")}, None),
        ({"retry_after": object()}, None),
        ({"headers": [("retry-after", "4")]}, 4.0),
        ({"headers": "retry-after: 4"}, None),
        ({"headers": 5}, None),
        ({"headers": {"retry-after": object()}}, None),
        ({"headers": {"retry-after": None}}, None),
    ],
)
def test_where_waits_are(facts: dict[str, Any], seconds: float | None) -> None:
    check(ClientError(status_code=429, **facts), Failure(K.RATE_LIMIT, seconds))


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=5))])
def test_a_wait_until_a_date(zone: timezone) -> None:
    moment = (datetime.now(timezone.utc) + timedelta(seconds=1000)).astimezone(zone)
    failure = classify_exception(ClientError(status_code=429, headers={"retry-after": format_datetime(moment)}))
    assert failure is not None
    assert failure.retry_after is not None
    # A date has no fractions of a second, and the test takes its time.
    assert 900 < failure.retry_after <= 1000


@pytest.mark.parametrize("health", [None, Health(), MinuteRules()])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529])
def test_a_wait_is_taken_whatever_the_status_and_the_rules(health: Health | MinuteRules | None, status: int) -> None:
    router = Router([Deployment("d", "m")], clock=ManualClock(30), health=health)
    with contextlib.suppress(ClientError), router.acquire("m"):
        raise ClientError(status_code=status, headers={"retry-after": "2.5"})
    assert router.stats("d").cooldown_remaining == 2.5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CancelledError", None),
        ("Cancelled", None),
        ("PoolTimeout", None),
        ("TimeoutError", K.TIMEOUT),
        ("TimeoutException", K.TIMEOUT),
        ("Timeout", K.TIMEOUT),
        ("APITimeoutError", K.TIMEOUT),
        ("APIConnectionError", K.CONNECTION),
        ("ConnectionError", K.CONNECTION),
        ("ClientConnectionError", K.CONNECTION),
        ("ServerDisconnectedError", K.CONNECTION),
        ("TransportError", K.CONNECTION),
        ("RateLimitError", K.RATE_LIMIT),
        ("AuthenticationError", K.AUTH),
        ("PermissionDeniedError", K.AUTH),
        ("NotFoundError", K.NOT_FOUND),
        ("ContextWindowExceededError", K.CONTEXT_WINDOW),
        ("ContentPolicyViolationError", K.CONTENT_POLICY),
        ("ContentFilterFinishReasonError", K.CONTENT_POLICY),
        ("LengthFinishReasonError", K.BAD_REQUEST),
        ("BadRequestError", K.BAD_REQUEST),
        ("UnprocessableEntityError", K.BAD_REQUEST),
        ("Whatever", K.ERROR),
    ],
)
def test_names(name: str, kind: FailureKind | None) -> None:
    expected = None if kind is None else Failure(kind)
    check(named(name)(), expected)
    # A class of the application's own with such a base means the same.
    check(named("Mine", named(name))(), expected)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), K.TIMEOUT),
        (asyncio.TimeoutError(), K.TIMEOUT),
        (socket.timeout(), K.TIMEOUT),  # noqa: UP041 # the name that older code uses
        (ConnectionRefusedError(), K.CONNECTION),
        (ConnectionResetError(), K.CONNECTION),
        (BrokenPipeError(), K.CONNECTION),
        (socket.gaierror(-2, "unknown"), K.CONNECTION),
        (http.client.RemoteDisconnected("closed"), K.CONNECTION),
        (urllib.error.URLError(ConnectionRefusedError(111, "refused")), K.CONNECTION),
        (urllib.error.URLError(socket.gaierror(-2, "unknown")), K.CONNECTION),
        (urllib.error.URLError(TimeoutError("timed out")), K.TIMEOUT),
        (trio.TooSlowError(), K.TIMEOUT),
        (OSError(5, "disk"), K.ERROR),
        (ValueError(), K.ERROR),
        (json.JSONDecodeError("bad", "{", 0), K.ERROR),
        (AssertionError(), K.ERROR),
        (RecursionError(), K.ERROR),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_standard_library(error: BaseException, kind: FailureKind) -> None:
    check(error, Failure(kind))


def test_a_status_says_more_than_a_name() -> None:
    timeout, limit = named("Timeout", ClientError), named("RateLimitError", ClientError)
    check(timeout("failed", status_code=503), Failure(K.ERROR))
    check(limit("failed", status_code=400), Failure(K.BAD_REQUEST))


def test_a_name_says_more_than_a_status_where_a_status_cannot() -> None:
    for name, kind in (("ContextWindowExceededError", K.CONTEXT_WINDOW), ("ContentPolicyViolationError", K.CONTENT_POLICY)):
        bad_request = named("BadRequestError", ClientError)
        check(named(name, bad_request)("failed", status_code=400), Failure(kind))


OPENAI_CONTEXT = {
    "error": {
        "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
}
OPENAI_RESPONSES_CONTEXT = {
    "error": {
        "message": "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "type": "invalid_request_error",
        "param": "input",
        "code": "context_length_exceeded",
    }
}
VLLM_CONTEXT = {
    "object": "error",
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
    "type": "BadRequestError",
    "code": 400,
}
ANTHROPIC_CONTEXT = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"},
}
ANTHROPIC_CONTEXT_WITH_ANSWER = {
    "type": "error",
    "error": {
        "type": "invalid_request_error",
        "message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    },
}
AZURE_FILTER = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
        },
    }
}
OPENAI_POLICY = {
    "error": {
        "message": "Your request was rejected as a result of our safety system.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "content_policy_violation",
    }
}
ANTHROPIC_FILTER = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
}
PLAIN = {"error": {"message": "Unknown parameter: 'temprature'.", "type": "invalid_request_error", "code": "unknown_parameter"}}

REFUSALS: dict[str, tuple[dict[str, Any], FailureKind]] = {
    "openai context": (OPENAI_CONTEXT, K.CONTEXT_WINDOW),
    "openai responses context": (OPENAI_RESPONSES_CONTEXT, K.CONTEXT_WINDOW),
    "vllm context": (VLLM_CONTEXT, K.CONTEXT_WINDOW),
    "anthropic context": (ANTHROPIC_CONTEXT, K.CONTEXT_WINDOW),
    "anthropic context with answer": (ANTHROPIC_CONTEXT_WITH_ANSWER, K.CONTEXT_WINDOW),
    "azure filter": (AZURE_FILTER, K.CONTENT_POLICY),
    "openai policy": (OPENAI_POLICY, K.CONTENT_POLICY),
    "anthropic filter": (ANTHROPIC_FILTER, K.CONTENT_POLICY),
    "plain": (PLAIN, K.BAD_REQUEST),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_bodies(refusal: str) -> None:
    body, kind = REFUSALS[refusal]
    check(ClientError(status_code=400, body=body), Failure(kind))
    check(ClientError(f"Error code: 400 - {body}", status_code=400), Failure(kind))
    check(ClientError(status_code=400, body=json.dumps(body)), Failure(kind))
    check(ClientError(status_code=400, response=Response(_content=json.dumps(body).encode())), Failure(kind))


# --- what a body, a code and a sentence tell ---

GOOGLE_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head over to: https://ai.google.dev/gemini-api/docs/rate-limits."
)
OPENAI_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
TOO_LARGE = (
    "Request too large for gpt-4 in organization org-x on tokens per min (TPM): Limit 10000, Requested 12000. "
    "The input or output tokens must be reduced in order to run successfully."
)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # Money is no matter of rate, whatever the status.
        (429, {"message": OPENAI_QUOTA, "type": "insufficient_quota", "code": "insufficient_quota"}, K.AUTH),
        (429, {"message": OPENAI_QUOTA}, K.AUTH),
        (429, {"error": {"code": 429, "message": GOOGLE_QUOTA, "status": "RESOURCE_EXHAUSTED"}}, K.RATE_LIMIT),
        (429, {"message": OPENAI_QUOTA, "type": "insufficient_quota", "code": "Throttling.AllocationQuota"}, K.RATE_LIMIT),
        (429, {"error": {"type": "exceeded_current_quota_error", "message": "suspended"}}, K.AUTH),
        (429, {"code": "billing_not_active"}, K.AUTH),
        (400, {"code": "billing_hard_limit_reached"}, K.AUTH),
        (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}}, K.AUTH),
        (402, {"error": {"message": "Insufficient credits", "code": 402}}, K.AUTH),
        (403, {"error": {"errors": [{"reason": "rateLimitExceeded"}], "code": 403}}, K.RATE_LIMIT),
        (
            429,
            {"error": {"code": "rate_limit_exceeded", "type": "tokens", "message": "Limit 30000, Used 29000, Requested 2000."}},
            K.RATE_LIMIT,
        ),
        # Keys.
        (400, {"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}, K.AUTH),
        (400, {"error": {"message": "API key not valid. Please pass a valid API key."}}, K.AUTH),
        (500, {"error": {"message": "upstream said: API key expired"}}, K.AUTH),
        (400, {"error": {"code": "invalid_api_key"}}, K.AUTH),
        (400, {"error": {"message": "User location is not supported for the API use."}}, K.AUTH),
        (403, {"error": {"code": "unsupported_country_region_territory", "message": "not supported"}}, K.AUTH),
        # Models that are gone, and parameters that are.
        (400, {"code": "model_decommissioned"}, K.NOT_FOUND),
        (400, {"message": "The model `x` has been decommissioned and is no longer supported."}, K.NOT_FOUND),
        (400, {"message": "The model 'gpt-5' does not exist or you do not have access to it."}, K.NOT_FOUND),
        (500, {"message": "The model: `x` does not exist"}, K.NOT_FOUND),
        (400, {"message": "x is not a valid model ID"}, K.NOT_FOUND),
        (400, {"type": "invalid_model", "message": "Invalid model: x"}, K.NOT_FOUND),
        (500, {"error": {"code": "DeploymentNotFound"}}, K.NOT_FOUND),
        (400, {"message": "Unsupported parameter: 'max_tokens' is not supported with this model."}, K.BAD_REQUEST),
        (400, {"message": "`temperature` is no longer supported by the model"}, K.BAD_REQUEST),
        (400, {"message": "Invalid type for 'model': expected a string."}, K.BAD_REQUEST),
        # Too large for ever, and too much for now.
        (429, {"code": "rate_limit_exceeded", "type": "tokens", "message": TOO_LARGE}, K.CONTEXT_WINDOW),
        (
            429,
            {"message": "on tokens per minute (TPM): Limit 5000, Used 0, Requested 6189. Please try again in 14s."},
            K.CONTEXT_WINDOW,
        ),
        (413, {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, K.CONTEXT_WINDOW),
        (429, {"message": "Too many tokens, please wait before trying again."}, K.RATE_LIMIT),
        (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}, K.CONTEXT_WINDOW),
        (
            400,
            {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."},
            K.CONTEXT_WINDOW,
        ),
        (400, {"message": "Input is too long for requested model."}, K.CONTEXT_WINDOW),
        (
            400,
            {"message": "This model's maximum prompt length is 131072 but the request contains 200000 tokens."},
            K.CONTEXT_WINDOW,
        ),
        (400, {"error": {"type": "exceed_context_size_error"}}, K.CONTEXT_WINDOW),
        (500, {"error": {"code": "context_length_exceeded"}}, K.CONTEXT_WINDOW),
        # A server that fails while it speaks of windows and filters fails.
        (500, {"error": {"message": "the content filter is down, as is the context window service"}}, K.ERROR),
        # Moderated, and merely forbidden.
        (403, {"code": 403, "message": "no", "metadata": {"reasons": ["violence"], "provider_name": "x"}}, K.CONTENT_POLICY),
        (403, {"error": {"code": 403, "metadata": {"flagged_input": "..."}}}, K.CONTENT_POLICY),
        (403, {"error": {"message": "Content violates usage guidelines."}}, K.CONTENT_POLICY),
        (403, {"error": {"message": "Your account has been flagged."}}, K.AUTH),
        (400, {"error": {"code": "cyber_policy"}}, K.CONTENT_POLICY),
        (400, {"error": {"code": "moderation_blocked"}}, K.CONTENT_POLICY),
        (400, {"code": "data_inspection_failed"}, K.CONTENT_POLICY),
        (400, {"error": {"message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, K.CONTENT_POLICY),
        # What the status says is the last word otherwise.
        (424, {"error": "Request failed during generation", "error_type": "generation"}, K.ERROR),
        (404, {"message": "No endpoints found for x:free."}, K.NOT_FOUND),
        (503, {"error": {"type": "overloaded_error"}}, K.ERROR),
        (401, {"error": {"type": "invalid_request_error"}}, K.AUTH),
    ],
)
def test_codes_and_sentences(status: int, body: dict[str, Any], kind: FailureKind) -> None:
    found = classify_exception(ClientError(status_code=status, body=body))
    assert found is not None
    assert found.kind is kind
    # A client that prints the body only, and one that keeps its text.
    for error in (
        ClientError(f"Error code: {status} - {body}", status_code=status),
        ClientError(status_code=status, body=json.dumps(body)),
    ):
        found = classify_exception(error)
        assert found is not None
        assert found.kind is kind or "metadata" in str(body)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("overloaded_error", K.ERROR),
        ("rate_limit_error", K.RATE_LIMIT),
        ("authentication_error", K.AUTH),
        ("permission_error", K.AUTH),
        ("billing_error", K.AUTH),
        ("invalid_request_error", K.BAD_REQUEST),
        ("request_too_large", K.CONTEXT_WINDOW),
        ("not_found_error", K.NOT_FOUND),
        ("timeout_error", K.TIMEOUT),
        ("api_error", K.ERROR),
        ("server_error", K.ERROR),
        ("rate_limit_exceeded", K.RATE_LIMIT),
        ("insufficient_quota", K.AUTH),
        ("context_length_exceeded", K.CONTEXT_WINDOW),
        ("content_filter", K.CONTENT_POLICY),
    ],
)
def test_errors_within_a_stream(said: str, kind: FailureKind) -> None:
    body = {"type": "error", "error": {"type": said, "message": "no"}}
    check(named("APIStatusError", ClientError)("no", status_code=200, body=body), Failure(kind))
    check(named("APIError", ClientError)("no", code=said, type=None, body=body["error"]), Failure(kind))
    check(named("APIError", ClientError)("no", type=said, code=None), Failure(kind))


def test_a_prompt_that_is_too_long_within_a_stream() -> None:
    check(ClientError(status_code=200, body=ANTHROPIC_CONTEXT), Failure(K.CONTEXT_WINDOW))


def test_a_real_error_within_a_stream() -> None:
    openai = library("openai")
    request = openai.APIConnectionError(request=None).request
    for body, kind in (({"code": 502, "message": "Bad gateway"}, K.ERROR), ({"code": 429, "message": "slow down"}, K.RATE_LIMIT)):
        check(openai.APIError("no", request, body=body), Failure(kind))
    check(openai.APIError("no", request, body={"code": "server_error", "message": "no"}), Failure(K.ERROR))
    check(openai.APIError("no", request, body={"code": "rate_limit_exceeded", "type": "tokens"}), Failure(K.RATE_LIMIT))


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", 429, K.RATE_LIMIT),
        ("ThrottlingException", 400, K.RATE_LIMIT),
        ("throttlingException", 400, K.RATE_LIMIT),
        ("TooManyRequestsException", 400, K.RATE_LIMIT),
        ("ServiceQuotaExceededException", 400, K.RATE_LIMIT),
        ("AccessDeniedException", 403, K.AUTH),
        ("ExpiredTokenException", 400, K.AUTH),
        ("UnrecognizedClientException", 403, K.AUTH),
        ("ValidationException", 400, K.BAD_REQUEST),
        ("ResourceNotFoundException", 404, K.NOT_FOUND),
        ("ModelNotReadyException", 429, K.ERROR),
        ("ModelErrorException", 424, K.ERROR),
        ("ModelTimeoutException", 408, K.TIMEOUT),
        ("InternalServerException", 500, K.ERROR),
        ("ServiceUnavailableException", 503, K.ERROR),
    ],
)
def test_codes_of_botocore(code: str, status: int, kind: FailureKind) -> None:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": "7"}}
    check(ClientError(response={"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}), Failure(kind, 7.0))


class RpcError(Exception):
    """As gRPC raises it: what it knows are methods."""

    def __init__(self, code: str, details: str = "no") -> None:
        self._said = code, details

    def code(self) -> Any:
        return Response(name=self._said[0], value=(8, "in words"))

    def details(self) -> str:
        return self._said[1]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("CANCELLED", None),
        ("UNKNOWN", K.ERROR),
        ("INVALID_ARGUMENT", K.BAD_REQUEST),
        ("DEADLINE_EXCEEDED", K.TIMEOUT),
        ("NOT_FOUND", K.NOT_FOUND),
        ("PERMISSION_DENIED", K.AUTH),
        ("RESOURCE_EXHAUSTED", K.RATE_LIMIT),
        ("FAILED_PRECONDITION", K.BAD_REQUEST),
        ("UNIMPLEMENTED", K.ERROR),
        ("INTERNAL", K.ERROR),
        ("UNAVAILABLE", K.ERROR),
        ("UNAUTHENTICATED", K.AUTH),
    ],
)
def test_codes_of_grpc(code: str, kind: FailureKind | None) -> None:
    expected = None if kind is None else Failure(kind)
    check(RpcError(code), expected)
    check(named("_InactiveRpcError", RpcError)(code), expected)
    # google-api-core and google-genai have the code in words beside a number.
    check(ClientError(status=code), expected)


def test_sentences_of_grpc() -> None:
    check(RpcError("RESOURCE_EXHAUSTED", "Please retry in 4.5s."), Failure(K.RATE_LIMIT, 4.5))
    check(RpcError("UNAVAILABLE", "failed to connect to all addresses"), Failure(K.CONNECTION))


# --- waits in bodies and sentences, and of limits that are spent ---

RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "58s"}
GOOGLE_429 = {"error": {"code": 429, "message": "Please retry in 58.9s.", "status": "RESOURCE_EXHAUSTED", "details": [RETRY_INFO]}}


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        ({"body": GOOGLE_429}, 58.0),
        ({"body": [GOOGLE_429]}, 58.0),
        ({"body": GOOGLE_429["error"]}, 58.0),
        ({"details": GOOGLE_429, "status": "RESOURCE_EXHAUSTED", "code": 429}, 58.0),
        ({"details": [Response(retry_delay=Response(seconds=7, nanos=500_000_000))]}, 7.5),
        ({"body": {"details": [{"retryDelay": {"seconds": 58}}]}}, 58.0),
        ({"body": {"details": [{"retryDelay": "0.5s"}]}}, 0.5),
        ({"body": {"details": [{"retryDelay": "soon"}]}}, None),
        ({"body": json.dumps(GOOGLE_429)}, 58.0),
        ({"body": {"message": "Please try again in 7m12s."}}, 432.0),
        ({"body": {"message": "try again in 120ms"}}, 0.12),
        ({"body": {"message": "Please retry after 26 seconds."}}, 26.0),
        ({"body": {"message": "Please wait 13278 seconds before retrying."}}, 13278.0),
        ({"body": {"message": "x" * 5000 + " try again in 5s"}}, None),
        ({"body": {"message": "try again later"}}, None),
        ({"body": {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}}}}, 30.0),
        # The header that names the next chance rules; one that says none leaves it to the rest.
        ({"headers": {"retry-after": "3"}, "body": GOOGLE_429}, 3.0),
        ({"headers": {"retry-after": "0"}, "body": GOOGLE_429}, 58.0),
        ({"headers": {"retry-after": "0"}}, 0.0),
        # A spent limit lasts until its reset, the later of two; one that is not spent says nothing.
        ({"headers": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}}, 0.12),
        ({"headers": {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "120ms"}}, None),
        ({"headers": {"x-ratelimit-reset-requests": "120ms"}}, None),
        (
            {
                "headers": {
                    "x-ratelimit-remaining-requests": "0",
                    "x-ratelimit-reset-requests": "20s",
                    "x-ratelimit-remaining-tokens": "0",
                    "x-ratelimit-reset-tokens": "6m0s",
                }
            },
            360.0,
        ),
        ({"headers": {"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "33011.38"}}, 33011.38),
        ({"headers": {"ratelimit": '"a";r=0;t=30, "b";r=5;t=60'}}, 30.0),
        ({"headers": {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, "body": "try again in 2s"}, 2.0),
        ({"headers": {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s", "retry-after": "0"}}, 360.0),
    ],
)
def test_waits_of_a_refusal(facts: dict[str, Any], seconds: float | None) -> None:
    found = classify_exception(ClientError(**({"status_code": 429} | facts)))
    assert found is not None
    assert found.kind is K.RATE_LIMIT
    assert found.retry_after == (None if seconds is None else pytest.approx(seconds))


def test_only_a_refusal_waits_for_a_spent_limit() -> None:
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}
    for status in (503, 500, 400, 401):
        check(ClientError(status_code=status, headers=spent), Failure(BY_STATUS[status] or K.ERROR))


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_overload_may_name_a_wait_anywhere(status: int) -> None:
    places: list[dict[str, Any]] = [
        {"headers": {"retry-after": "4"}},
        {"body": {"retryDelay": "4s"}},
        {"body": {"message": "try again in 4 seconds"}},
    ]
    for facts in places:
        assert classify_exception(ClientError(status_code=status, **facts)) == Failure(K.ERROR, 4.0)


def test_a_bad_request_names_no_wait_in_words() -> None:
    check(ClientError("Wrong. Try again in 5s", status_code=400), Failure(K.BAD_REQUEST))
    check(ValueError("try again in 5s"), Failure(K.ERROR))


@pytest.mark.parametrize("moment", [datetime(2015, 10, 21, 7, 28, 30, tzinfo=timezone.utc)])
def test_a_date_is_read_by_the_answers_own(moment: datetime) -> None:
    for said in (
        format_datetime(moment, usegmt=True),
        moment.isoformat(),
        str(int(moment.timestamp())),
        str(int(moment.timestamp() * 1000)),
    ):
        headers = {"Retry-After": said, "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}
        check(ClientError(status_code=429, headers=headers), Failure(K.RATE_LIMIT, 30.0))
        check(ClientError(status_code=429, headers=Mixed(headers)), Failure(K.RATE_LIMIT, 30.0))


# --- what an exception wraps ---


def caused_by(inner: BaseException | None, outer: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


class Attempt:
    """The last attempt as tenacity keeps it."""

    def __init__(self, error: object) -> None:
        self.error = error

    def exception(self, timeout: float | None = None) -> object:
        return self.error


def test_what_is_wrapped_tells_where_nothing_else_does() -> None:
    wait = Failure(K.RATE_LIMIT, 9.0)

    def refused() -> ClientError:
        return ClientError(status_code=429, headers={"retry-after": "9"})

    check(caused_by(refused(), ValueError("mine")), wait)
    check(caused_by(caused_by(refused(), ValueError()), named("RetryError")()), wait)
    check(named("RetryError", ClientError)(last_attempt=Attempt(refused())), wait)
    check(named("RetryError", ClientError)(last_attempt=Attempt(None)), Failure(K.ERROR))
    check(named("RetryError", ClientError)(last_attempt=Raises()), Failure(K.ERROR))
    check(named("MaxRetryError", ClientError)(reason=named("ReadTimeoutError")()), Failure(K.TIMEOUT))
    check(named("MaxRetryError", ClientError)(reason=named("ResponseError")()), Failure(K.ERROR))
    check(named("MaxRetryError")(), Failure(K.CONNECTION))
    # What tells by itself needs no cause.
    check(caused_by(refused(), ClientError(status_code=503)), Failure(K.ERROR))
    check(caused_by(refused(), TimeoutError()), Failure(K.TIMEOUT))
    # What happened to be handled is no cause.
    error = ValueError("mine")
    error.__context__ = refused()
    check(error, Failure(K.ERROR))
    # A caller who gave up, and a router inside.
    check(caused_by(asyncio.CancelledError(), ValueError()), None)
    check(caused_by(NoAvailableDeployment("any", "m", 5.0), ValueError()), None)


def test_causes_without_end() -> None:
    one, other = ValueError(1), ValueError(2)
    caused_by(one, other)
    check(caused_by(other, one), Failure(K.ERROR))
    deep: BaseException = ClientError(status_code=429)
    for _ in range(2000):
        deep = caused_by(deep, ValueError())
    assert classify_exception(deep) == Failure(K.ERROR)
    for broken in (one, other, deep):
        broken.__cause__ = None


# --- connections ---


@pytest.mark.parametrize(
    "name",
    [
        "ConnectError",
        "NetworkError",
        "ReadError",
        "WriteError",
        "RemoteProtocolError",
        "ProtocolError",
        "ProxyError",
        "SSLError",
        "ClientPayloadError",
        "ClientOSError",
        "ServerDisconnectedError",
        "IncompleteRead",
        "IncompleteReadError",
        "ChunkedEncodingError",
        "NewConnectionError",
        "NameResolutionError",
        "EndpointConnectionError",
    ],
)
def test_names_of_broken_connections(name: str) -> None:
    check(named(name)(), Failure(K.CONNECTION))


def test_a_connection_has_no_status_but_a_servers() -> None:
    connection = named("APIConnectionError", ClientError)
    check(connection("failed", status_code=500), Failure(K.CONNECTION))
    check(connection("failed", status_code=500, response=Response(status_code=503)), Failure(K.ERROR))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EHOSTUNREACH, "no"), K.CONNECTION),
        (OSError(errno.ENETUNREACH, "no"), K.CONNECTION),
        (OSError(errno.ENETDOWN, "no"), K.CONNECTION),
        (OSError(errno.EHOSTDOWN, "no"), K.CONNECTION),
        (OSError(errno.EPIPE, "no"), K.CONNECTION),
        (OSError(errno.ETIMEDOUT, "no"), K.TIMEOUT),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno 111] ..."), K.CONNECTION),
        (OSError(errno.ENOENT, "no"), K.ERROR),
        (OSError(errno.EACCES, "no"), K.ERROR),
        (OSError(errno.EMFILE, "no"), K.ERROR),
        (OSError(errno.ENOSPC, "no"), K.ERROR),
        (OSError("any"), K.ERROR),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_oserrors(error: OSError, kind: FailureKind) -> None:
    check(error, Failure(kind))


# --- what has no outcome ---


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        BaseException(),
        named("GreenletExit", BaseException)(),
        named("Timeout", BaseException)(),
        GeneratorExit(),
        KeyboardInterrupt(),
        SystemExit(1),
        RouterError("any"),
        ConfigurationError("any"),
        AliasCycle("any"),
        ModelNotFound("any", "m"),
        DeploymentNotFound("any", "d"),
        NoAvailableDeployment("any", "m", 5.0),
        AllDeploymentsInCooldown("any", "m", 5.0),
        RateLimitExceeded("any", "m", 5.0),
        RequestTooLarge("any", "m", 5, 4),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_to_record(error: BaseException) -> None:
    check(error, None)


def test_the_refusal_of_another_router_is_not_the_deployments_failure() -> None:
    empty = Router([Deployment("e", "m", rpm_limit=1)], clock=ManualClock(30))
    empty.acquire("m").release()
    check_effect(lambda: empty.acquire("m"), None)
    check_effect(lambda: empty.acquire("n"), None)


def test_a_real_cancellation_of_trio() -> None:
    seen: list[BaseException] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except BaseException as error:
                seen.append(error)
                raise

    trio.run(main)
    assert [type(error) for error in seen] == [trio.Cancelled]
    check(seen[0], None)


def test_a_real_timeout_of_trio() -> None:
    async def main() -> None:
        with trio.fail_after(0.001):
            await trio.sleep_forever()

    check_effect(lambda: trio.run(main), Failure(K.TIMEOUT))


def test_a_real_timeout_of_asyncio() -> None:
    async def main() -> None:
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)

    check_effect(lambda: asyncio.run(main()), Failure(K.TIMEOUT))


# --- groups ---

LIMITED = ClientError(status_code=429, headers={"retry-after": "0.05"})
groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in Python 3.11")


def group(*members: BaseException) -> BaseException:
    made: BaseException = getattr(builtins, "BaseExceptionGroup")("some", members)  # noqa: B009 # not there in Python 3.10
    return made


@groups
@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([LIMITED], Failure(K.RATE_LIMIT, 0.05)),
        ([asyncio.CancelledError(), LIMITED], Failure(K.RATE_LIMIT, 0.05)),
        ([LIMITED, TimeoutError()], Failure(K.RATE_LIMIT, 0.05)),
        ([TimeoutError(), LIMITED], Failure(K.TIMEOUT)),
        ([asyncio.CancelledError(), GeneratorExit(), RouterError("any")], None),
        ([ValueError()], Failure(K.ERROR)),
    ],
)
def test_the_first_failure_of_a_group_counts(members: list[BaseException], expected: Failure | None) -> None:
    check(group(*members), expected)
    check(group(group(group(*members))), expected)
    check(group(KeyboardInterrupt(), group(*members)), expected)


@groups
def test_a_deep_group() -> None:
    error: BaseException = LIMITED
    for _ in range(100):
        error = group(error)
    check(error, Failure(K.RATE_LIMIT, 0.05))


def test_a_real_group_of_trio() -> None:
    """On Python 3.10 trio raises the groups of the package exceptiongroup."""

    async def fail() -> NoReturn:
        raise ClientError(status_code=429, headers={"retry-after": "0.05"})

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail)

    check_effect(lambda: trio.run(main), Failure(K.RATE_LIMIT, 0.05))


# --- hostile exceptions ---


class Raises:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise ValueError(name)

    def __getitem__(self, name: str) -> NoReturn:
        raise ValueError(name)

    def __str__(self) -> str:
        raise ValueError

    def __float__(self) -> float:
        raise ValueError

    __repr__ = __str__


class RaisesEverywhereError(Exception):
    """Every attribute that might be looked at is a trap."""

    @property
    def _trap(self) -> NoReturn:
        raise ValueError("trap")

    status_code = status = response = code = body = headers = retry_after = _trap

    def __str__(self) -> str:
        raise ValueError("trap")

    __repr__ = __str__


CIRCLE: dict[str, Any] = {}
CIRCLE["error"] = CIRCLE

HOSTILE: dict[str, BaseException] = {
    "properties": RaisesEverywhereError(),
    "status": ClientError(status_code=Raises(), status=Raises(), code=Raises()),
    "response": ClientError(response=Raises()),
    "headers": ClientError(headers=Raises(), response=Response(Raises())),
    "header": ClientError(headers={"retry-after": Raises(), "retry-after-ms": Raises()}),
    "retry_after": ClientError(retry_after=Raises()),
    "number of no end": ClientError(retry_after=10**400, headers={"retry-after": "9" * 5000}),
    "body that holds itself": ClientError(body=CIRCLE),
    "methods that raise": named("RpcError", ClientError)(code=Raises(), details=Raises()),
    "code without end": ClientError(code="x" * 10**6, type="y" * 10**6, body={"code": "z" * 10**6}),
    "attempt": ClientError(last_attempt=Raises()),
    "group of nothing": named("BaseExceptionGroup")(),
    "group of a lie": named("ExceptionGroup", named("BaseExceptionGroup", ClientError))("a", exceptions=5),
    "group of strangers": named("BaseExceptionGroup", ClientError)("a", exceptions=[5, None, "x"]),
    "group that raises": named("BaseExceptionGroup", RaisesEverywhereError)(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_exceptions_are_errors(name: str) -> None:
    check(HOSTILE[name], Failure(K.ERROR))


def test_a_bad_request_with_a_hostile_body() -> None:
    check(ClientError(status_code=400, body=Raises(), code=Raises()), Failure(K.BAD_REQUEST))


def test_a_hostile_rate_limit() -> None:
    check(ClientError(status_code=429, headers=Raises(), retry_after=Raises()), Failure(K.RATE_LIMIT))


def test_what_stops_the_classification_does_not_stop_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    class FatalError(Exception):
        @property
        def status_code(self) -> NoReturn:
            raise SystemExit

    error = FatalError()

    def fail() -> NoReturn:
        raise error

    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))
    assert check_effect(fail, Failure(K.ERROR)) is error
    assert unraisable == [SystemExit]


# --- real clients against a real server ---


@pytest.fixture(scope="module")
def running_server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    running_server.over = threading.Event()
    yield running_server
    running_server.over.set()


@pytest.fixture
def refusing_url(server: Server) -> Iterator[str]:
    """The address of a port that is taken and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


Post = Callable[[str, float], object]
"""Sends a request to an address, with a timeout."""

MESSAGES = [{"role": "user", "content": "hello"}]


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: its exceptions are covered by made-up ones")


def openai_client() -> Post:
    openai = library("openai")

    def post(url: str, timeout: float) -> None:
        with openai.OpenAI(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
            client.chat.completions.create(model="m", messages=MESSAGES)

    return post


def openai_async_client() -> Post:
    openai = library("openai")

    async def request(url: str, timeout: float) -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
            await client.chat.completions.create(model="m", messages=MESSAGES)

    return lambda url, timeout: asyncio.run(request(url, timeout))


def openai_stream() -> Post:
    openai = library("openai")

    def post(url: str, timeout: float) -> None:
        with (
            openai.OpenAI(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client,
            client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as chunks,
        ):
            for _ in chunks:
                pass

    return post


def anthropic_client() -> Post:
    anthropic = library("anthropic")

    def post(url: str, timeout: float) -> None:
        with anthropic.Anthropic(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
            client.messages.create(model="m", max_tokens=5, messages=MESSAGES)

    return post


def anthropic_async_client() -> Post:
    anthropic = library("anthropic")

    async def request(url: str, timeout: float) -> None:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
            await client.messages.create(model="m", max_tokens=5, messages=MESSAGES)

    return lambda url, timeout: asyncio.run(request(url, timeout))


def httpx_client() -> Post:
    httpx = library("httpx")

    def post(url: str, timeout: float) -> None:
        httpx.post(url, json={}, timeout=timeout).raise_for_status()

    return post


def httpx_async_client() -> Post:
    httpx = library("httpx")

    async def request(url: str, timeout: float) -> None:
        async with httpx.AsyncClient(timeout=timeout) as client:
            (await client.post(url, json={})).raise_for_status()

    return lambda url, timeout: asyncio.run(request(url, timeout))


def aiohttp_client(kind_of_timeout: str) -> Post:
    aiohttp = library("aiohttp")

    async def request(url: str, timeout: float) -> None:
        timeouts = aiohttp.ClientTimeout(**{kind_of_timeout: timeout})
        async with aiohttp.ClientSession(timeout=timeouts) as session, session.post(url, json={}) as response:
            response.raise_for_status()
            await response.read()

    return lambda url, timeout: asyncio.run(request(url, timeout))


def requests_client() -> Post:
    requests = library("requests")

    def post(url: str, timeout: float) -> None:
        with requests.post(url, json={}, timeout=timeout) as response:
            response.raise_for_status()

    return post


def urllib_client() -> Post:
    def post(url: str, timeout: float) -> None:
        try:
            with urllib.request.urlopen(url, b"{}", timeout) as response:
                response.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise

    return post


def litellm_client() -> Post:
    # Otherwise it asks the network for prices when it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = library("litellm")
    litellm.suppress_debug_info = True

    def post(url: str, timeout: float) -> None:
        litellm.completion(
            model="openai/gpt-4o", api_base=url, api_key="key", messages=MESSAGES, timeout=timeout, max_retries=0, num_retries=0
        )

    return post


CLIENTS: dict[str, Callable[[], Post]] = {
    "openai": openai_client,
    "openai async": openai_async_client,
    "openai stream": openai_stream,
    "anthropic": anthropic_client,
    "anthropic async": anthropic_async_client,
    "httpx": httpx_client,
    "httpx async": httpx_async_client,
    "aiohttp": lambda: aiohttp_client("total"),
    "aiohttp by socket": lambda: aiohttp_client("sock_read"),
    "requests": requests_client,
    "urllib": urllib_client,
    "litellm": litellm_client,
}


@pytest.fixture(params=CLIENTS)
def client_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def post(client_name: str) -> Post:
    return CLIENTS[client_name]()


# litellm's own warnings are its own affair.
real = pytest.mark.filterwarnings("ignore:::litellm", "ignore:::pydantic")


@real
@pytest.mark.parametrize("status", BY_STATUS)
def test_real_statuses(server: Server, post: Post, status: int) -> None:
    server.reply = Reply(status, {"Retry-After": "0.05"}, json.dumps(PLAIN).encode())
    kind = BY_STATUS[status]
    expected = None if kind is None else Failure(kind, 0.05)
    error = check_effect(lambda: post(server.url, 10), expected)
    assert classify_exception(error) == expected


@real
@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_real_waits(server: Server, post: Post, headers: dict[str, str], seconds: float | None) -> None:
    server.reply = Reply(429, headers, json.dumps(PLAIN).encode())
    expected = Failure(K.RATE_LIMIT, seconds)
    error = check_effect(lambda: post(server.url, 10), expected)
    assert classify_exception(error) == expected


@real
def test_a_real_wait_until_a_date(server: Server, post: Post) -> None:
    moment = datetime.now(timezone.utc) + timedelta(seconds=1000)
    server.reply = Reply(429, {"Retry-After": format_datetime(moment, usegmt=True)}, json.dumps(PLAIN).encode())
    failure = classify_exception(raised(lambda: post(server.url, 10)))
    assert failure is not None
    assert failure.kind is K.RATE_LIMIT
    assert failure.retry_after is not None
    assert 900 < failure.retry_after <= 1000


@real
@pytest.mark.parametrize("refusal", REFUSALS)
def test_real_bodies(server: Server, post: Post, client_name: str, refusal: str) -> None:
    body, kind = REFUSALS[refusal]
    server.reply = Reply(400, body=json.dumps(body).encode())
    error = check_effect(lambda: post(server.url, 10), Failure(kind))
    failure = classify_exception(error)
    if client_name.startswith(("openai", "anthropic")):
        assert failure == Failure(kind)
    else:
        # The exceptions of plain HTTP clients do not say what the answer was, and litellm knows some of them
        # by heart.
        assert failure is not None
        assert failure.kind in {kind, K.BAD_REQUEST}


@real
def test_a_real_refused_connection(server: Server, refusing_url: str, post: Post) -> None:
    expected = Failure(K.CONNECTION)
    error = check_effect(lambda: post(refusing_url, 10), expected)
    assert classify_exception(error) == expected


@real
def test_a_real_disconnection(server: Server, post: Post) -> None:
    server.reply = Reply(fault="disconnect")
    expected = Failure(K.CONNECTION)
    error = check_effect(lambda: post(server.url, 10), expected)
    assert classify_exception(error) == expected


@real
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_a_real_disconnection_midway(server: Server, post: Post, content_type: str) -> None:
    server.reply = Reply(200, {"content-type": content_type}, b'data: {"id": "1", "choices": []}\n\n', "truncate")
    # Clients do not agree whether half an answer is a fault of the connection; both kinds count alike.
    error = check_effect(lambda: post(server.url, 10), Failure(K.CONNECTION))
    failure = classify_exception(error)
    assert failure in (Failure(K.CONNECTION), Failure(K.ERROR))


@real
def test_a_real_timeout(server: Server, post: Post) -> None:
    server.reply = Reply(fault="stall")
    error = check_effect(lambda: post(server.url, 0.2), Failure(K.TIMEOUT))
    assert classify_exception(error) == Failure(K.TIMEOUT)


@real
def test_a_real_answer_that_is_none(server: Server) -> None:
    server.reply = Reply(body=b"{not json")
    post = openai_client()
    error = check_effect(lambda: post(server.url, 10), Failure(K.ERROR))
    assert classify_exception(error) == Failure(K.ERROR)


def test_a_full_pool_of_httpx_is_not_the_deployments_failure(server: Server) -> None:
    httpx = library("httpx")
    server.reply = Reply(fault="truncate")
    with httpx.Client(limits=httpx.Limits(max_connections=1), timeout=httpx.Timeout(10, pool=0.01)) as client:
        with client.stream("POST", server.url):
            error = check_effect(lambda: client.post(server.url), None)
        assert type(error) is httpx.PoolTimeout
        assert classify_exception(error) is None


def test_a_full_pool_of_openai_is_not_the_deployments_failure(server: Server) -> None:
    openai = library("openai")
    # The HTTP library is not the same in all of its versions.
    http_library = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
    server.reply = Reply(fault="truncate")
    pool = openai.DefaultHttpxClient(limits=http_library.Limits(max_connections=1))
    timeout = http_library.Timeout(10, pool=0.01)
    with openai.OpenAI(base_url=server.url, api_key="key", max_retries=0, timeout=timeout, http_client=pool) as client:
        with client.chat.completions.with_streaming_response.create(model="m", messages=MESSAGES):
            error = check_effect(lambda: client.chat.completions.create(model="m", messages=MESSAGES), None)
        assert type(error.__cause__).__name__ == "PoolTimeout"
        assert classify_exception(error) is None


def test_the_finish_reasons_of_openai() -> None:
    openai = library("openai")
    check(openai.ContentFilterFinishReasonError(), Failure(K.CONTENT_POLICY))
    usage = Response(usage=None)
    check(openai.LengthFinishReasonError(completion=usage), Failure(K.BAD_REQUEST))


def test_the_error_of_urllib_without_a_network() -> None:
    for status, kind in BY_STATUS.items():
        headers = Message()
        headers["Retry-After"] = "0.05"
        error = urllib.error.HTTPError("http://localhost", status, "failed", headers, None)
        check(error, None if kind is None else Failure(kind, 0.05))
        error.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are built in since Python 3.11")
def test_the_headers_of_a_failure_in_a_group_are_read() -> None:
    router = Router([Deployment("d", "m")], clock=ManualClock(30))
    refused = ClientError(status_code=429, headers={"retry-after": "4", "x-ratelimit-remaining-tokens": "7"})
    group = builtins.BaseExceptionGroup("both", [asyncio.CancelledError(), refused])  # type: ignore[attr-defined, unused-ignore]
    with pytest.raises(builtins.BaseExceptionGroup), router.acquire("m"):  # type: ignore[attr-defined, unused-ignore]
        raise group
    stats = router.stats("d")
    assert stats.cooldown_remaining == 4.0
    assert [(said.unit, said.remaining) for said in stats.observed] == [("tokens", 7)]
