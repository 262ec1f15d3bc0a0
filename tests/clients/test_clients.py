"""What real client libraries raise when real servers refuse them.

Every case has a source: the provider's documents, or a public report. The libraries are in an environment of
their own: `make test-clients`. docs/providers.md shows what is read, and names these tests.
"""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import pytest
from served import Reply, Server
from turnout import Deployment, Failure, FailureKind, ManualClock, Router, classify_exception
from turnout.providers.exceptions import read_exception

# Otherwise it asks the network for prices when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

aiohttp = pytest.importorskip("aiohttp", reason="the client libraries are in an environment of their own: make test-clients")
anthropic = pytest.importorskip("anthropic", reason="make test-clients")
botocore = pytest.importorskip("botocore.session", reason="make test-clients")
botocore_config = pytest.importorskip("botocore.config", reason="make test-clients")
botocore_exceptions = pytest.importorskip("botocore.exceptions", reason="make test-clients")
cohere = pytest.importorskip("cohere", reason="make test-clients")
genai = pytest.importorskip("google.genai", reason="make test-clients")
google_exceptions = pytest.importorskip("google.api_core.exceptions", reason="make test-clients")
groq = pytest.importorskip("groq", reason="make test-clients")
grpc = pytest.importorskip("grpc", reason="make test-clients")
httpcore = pytest.importorskip("httpcore", reason="make test-clients")
httpx = pytest.importorskip("httpx", reason="make test-clients")
httpx2 = pytest.importorskip("httpx2", reason="make test-clients")
litellm = pytest.importorskip("litellm", reason="make test-clients")
mistral_client = pytest.importorskip("mistralai.client", reason="make test-clients")
openai = pytest.importorskip("openai", reason="make test-clients")
rpc_details = pytest.importorskip("google.rpc.error_details_pb2", reason="make test-clients")
rpc_durations = pytest.importorskip("google.protobuf.duration_pb2", reason="make test-clients")
requests = pytest.importorskip("requests", reason="make test-clients")
tenacity = pytest.importorskip("tenacity", reason="make test-clients")
together = pytest.importorskip("together", reason="make test-clients")
urllib3 = pytest.importorskip("urllib3", reason="make test-clients")

K = FailureKind

# Their own warnings are their own affair.
pytestmark = pytest.mark.filterwarnings("ignore")

MESSAGES: Any = [{"role": "user", "content": "hello"}]

Call = Callable[[str, float], object]
"""Sends a request to an address, with a timeout in seconds."""


# --- clients ---


def call_openai(url: str, timeout: float) -> None:
    with openai.OpenAI(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)


def call_azure(url: str, timeout: float) -> None:
    with openai.AzureOpenAI(azure_endpoint=url, api_version="v", api_key="key", max_retries=0, timeout=timeout) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)


def call_anthropic(url: str, timeout: float) -> None:
    with anthropic.Anthropic(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
        client.messages.create(model="m", max_tokens=5, messages=MESSAGES)


def call_google_genai(url: str, timeout: float) -> None:
    options = genai.types.HttpOptions(base_url=url, timeout=round(timeout * 1000))
    client = genai.Client(api_key="key", http_options=options)
    client.models.generate_content(model="m", contents="hello")


def call_mistralai(url: str, timeout: float) -> None:
    with mistral_client.Mistral(api_key="key", server_url=url, timeout_ms=round(timeout * 1000)) as client:
        client.chat.complete(model="m", messages=MESSAGES)


def call_cohere(url: str, timeout: float) -> None:
    client = cohere.ClientV2("key", base_url=url, timeout=timeout)
    client.chat(model="m", messages=MESSAGES, request_options={"max_retries": 0})


def call_groq(url: str, timeout: float) -> None:
    with groq.Groq(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)


def call_together(url: str, timeout: float) -> None:
    with together.Together(base_url=url, api_key="key", max_retries=0, timeout=timeout) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)


def call_botocore(url: str, timeout: float) -> None:
    config = botocore_config.Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
    client = botocore.Session().create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=config,
    )
    client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "hello"}]}])


def call_litellm(url: str, timeout: float, model: str = "openai/gpt-4o") -> None:
    litellm.suppress_debug_info = True
    litellm.completion(model=model, api_base=url, api_key="key", messages=MESSAGES, timeout=timeout, max_retries=0, num_retries=0)


def call_litellm_anthropic(url: str, timeout: float) -> None:
    call_litellm(url, timeout, "anthropic/claude-sonnet-4-5")


def call_httpx(url: str, timeout: float) -> None:
    httpx.post(url, json={}, timeout=timeout).raise_for_status()


def call_httpx2(url: str, timeout: float) -> None:
    httpx2.post(url, json={}, timeout=timeout).raise_for_status()


def call_requests(url: str, timeout: float) -> None:
    with requests.post(url, json={}, timeout=timeout) as response:
        response.raise_for_status()


def call_aiohttp(url: str, timeout: float) -> None:
    async def call() -> None:
        timeouts = aiohttp.ClientTimeout(total=timeout)
        async with aiohttp.ClientSession(timeout=timeouts) as session, session.post(url, json={}) as response:
            response.raise_for_status()
            await response.read()

    asyncio.run(call())


def call_urllib3(url: str, timeout: float) -> None:
    with urllib3.PoolManager(retries=False, timeout=timeout) as pool:
        pool.request("POST", url, body=b"{}")


def call_urllib3_retrying(url: str, timeout: float) -> None:
    with urllib3.PoolManager(retries=urllib3.Retry(1, backoff_factor=0), timeout=timeout) as pool:
        pool.request("POST", url, body=b"{}")


def call_httpcore(url: str, timeout: float) -> None:
    timeouts = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)}
    with httpcore.ConnectionPool() as pool:
        pool.request("POST", url, content=b"{}", extensions=timeouts)


def call_tenacity(url: str, timeout: float) -> None:
    tenacity.retry(stop=tenacity.stop_after_attempt(2))(call_openai)(url, timeout)


# Those whose exceptions carry the body of a refusal.
OF_OPENAI: dict[str, Call] = {
    "openai": call_openai,
    "groq": call_groq,
    "together": call_together,
    "litellm": call_litellm,
    "tenacity": call_tenacity,
}
OF_ANTHROPIC: dict[str, Call] = {"anthropic": call_anthropic, "litellm": call_litellm_anthropic}
SDKS: dict[str, Call] = {
    **OF_OPENAI,
    "azure": call_azure,
    "anthropic": call_anthropic,
    "google-genai": call_google_genai,
    "mistralai": call_mistralai,
    "cohere": call_cohere,
    "botocore": call_botocore,
}
# Those that raise an exception for a status.
RAISING: dict[str, Call] = {
    **SDKS,
    "httpx": call_httpx,
    "httpx2": call_httpx2,
    "requests": call_requests,
    "aiohttp": call_aiohttp,
}
CLIENTS: dict[str, Call] = {
    **RAISING,
    "urllib3": call_urllib3,
    "urllib3 retrying": call_urllib3_retrying,
    "httpcore": call_httpcore,
}


# --- servers ---


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


def raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def check(error: BaseException, kind: FailureKind | None, wait: float | None) -> None:
    """Looks at an exception, and at what is left of it after it went through a lease's block."""
    failure = classify_exception(error)
    if kind is None:
        assert failure is None, repr(error)
    else:
        assert failure is not None
        assert (failure.kind, failure.retry_after) == (kind, wait if wait is None else pytest.approx(wait, abs=1.1)), repr(error)
    router = Router([Deployment("d", "m")], clock=ManualClock(1000))
    with pytest.raises(type(error)), router.acquire("m"):
        raise error
    is_neutral = kind in (None, K.BAD_REQUEST, K.CONTENT_POLICY, K.CONTEXT_WINDOW)
    assert router.stats("d").total_failures == (0 if is_neutral else 1)
    if kind is not K.RATE_LIMIT:
        assert router.stats("d").learnt_parallel_requests is None


# --- refusals ---


@dataclass(frozen=True)
class Refusal:
    """An answer of a provider, and what it means."""

    provider: str
    what: str
    clients: Mapping[str, Call]
    status: int
    body: object
    kind: FailureKind
    wait: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


def of_openai(message: str, type_: str | None = None, code: object = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def of_anthropic(message: str, type_: str, **more: object) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_, "message": message, **more}, "request_id": "req_1"}


def of_google(code: int, status: str, message: str, *details: object) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": details}}


_GENAI: dict[str, Call] = {"google-genai": call_google_genai}
_MISTRAL: dict[str, Call] = {"mistralai": call_mistralai}
_COHERE: dict[str, Call] = {"cohere": call_cohere}
_BEDROCK: dict[str, Call] = {"botocore": call_botocore}
_ONLY_OPENAI: dict[str, Call] = {"openai": call_openai}
_WITH_LITELLM: dict[str, Call] = {"openai": call_openai, "litellm": call_litellm}
_AZURE: dict[str, Call] = {"azure": call_azure}
_GROQ: dict[str, Call] = {"groq": call_groq, "openai": call_openai}
_TOGETHER: dict[str, Call] = {"together": call_together, "openai": call_openai}

_OPENAI_ERRORS = "https://platform.openai.com/docs/guides/error-codes"
_OPENAI_LIMITS = "https://platform.openai.com/docs/guides/rate-limits"
_ANTHROPIC_ERRORS = "https://docs.anthropic.com/en/api/errors"
_ANTHROPIC_LIMITS = "https://docs.anthropic.com/en/api/rate-limits"
_GEMINI_ERRORS = "https://ai.google.dev/gemini-api/docs/troubleshooting"
_OPENROUTER_ERRORS = "https://openrouter.ai/docs/errors"
_GROQ_LIMITS = "https://console.groq.com/docs/rate-limits"
_BEDROCK_ERRORS = "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_Errors"

REFUSALS = [
    # --- OpenAI ---
    Refusal(
        "OpenAI",
        "the wait is in the message",
        OF_OPENAI,
        429,
        of_openai(
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29500, Requested 1200. "
            "Please try again in 1.4s.",
            "tokens",
            "rate_limit_exceeded",
        ),
        K.RATE_LIMIT,
        1.4,
        source=_OPENAI_LIMITS,
    ),
    Refusal(
        "OpenAI",
        "the wait is in a header",
        OF_OPENAI,
        429,
        of_openai("Rate limit reached", "requests", "rate_limit_exceeded"),
        K.RATE_LIMIT,
        0.25,
        {"retry-after-ms": "250", "retry-after": "1"},
        _OPENAI_LIMITS,
    ),
    Refusal(
        "OpenAI",
        "the request is larger than the limit",
        _ONLY_OPENAI,
        429,
        of_openai(
            "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 45000. The input or output tokens "
            "must be reduced in order to run successfully.",
            "tokens",
            "rate_limit_exceeded",
        ),
        K.CONTEXT_WINDOW,
        source="https://github.com/openai/openai-python/issues/1134",
    ),
    Refusal(
        "OpenAI",
        "out of money",
        OF_OPENAI,
        429,
        of_openai(
            "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
            "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
            "insufficient_quota",
            "insufficient_quota",
        ),
        K.AUTH,
        source=_OPENAI_ERRORS,
    ),
    Refusal(
        "OpenAI",
        "a dead key",
        OF_OPENAI,
        401,
        of_openai("Incorrect API key provided: key.", "invalid_request_error", "invalid_api_key"),
        K.AUTH,
        source=_OPENAI_ERRORS,
    ),
    Refusal(
        "OpenAI",
        "a retired model",
        OF_OPENAI,
        404,
        of_openai("The model `gpt-4-32k` has been deprecated", "invalid_request_error", "model_not_found"),
        K.NOT_FOUND,
        source="https://platform.openai.com/docs/deprecations",
    ),
    Refusal(
        "OpenAI",
        "an oversized prompt",
        OF_OPENAI,
        400,
        of_openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
        K.CONTEXT_WINDOW,
        source="https://github.com/openai/openai-python/issues/1134",
    ),
    Refusal(
        "OpenAI",
        "a flagged prompt",
        _WITH_LITELLM,
        400,
        of_openai(
            "Your request was rejected as a result of our safety system.", "invalid_request_error", "content_policy_violation"
        ),
        K.CONTENT_POLICY,
        source=_OPENAI_ERRORS,
    ),
    Refusal(
        "OpenAI",
        "a malformed request",
        OF_OPENAI,
        400,
        of_openai("Invalid type for 'messages': expected an array.", "invalid_request_error", "invalid_type"),
        K.BAD_REQUEST,
        source=_OPENAI_ERRORS,
    ),
    Refusal(
        "OpenAI",
        "overloaded",
        OF_OPENAI,
        503,
        of_openai("The engine is currently overloaded, please try again later", "server_error"),
        K.ERROR,
        3.0,
        {"Retry-After": "3"},
        _OPENAI_ERRORS,
    ),
    # --- Azure ---
    Refusal(
        "Azure",
        "the wait is in headers of its own",
        _AZURE,
        429,
        of_openai(
            "Requests to the ChatCompletions_Create Operation have exceeded token rate limit. Please retry after 12 seconds.",
            None,
            "429",
        ),
        K.RATE_LIMIT,
        11.5,
        {"x-ms-retry-after-ms": "11500"},
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/quota",
    ),
    Refusal(
        "Azure",
        "the wait is in the message",
        _AZURE,
        429,
        of_openai(
            "Requests to the ChatCompletions_Create Operation have exceeded token rate limit. Please retry after 12 seconds.",
            None,
            "429",
        ),
        K.RATE_LIMIT,
        12.0,
        source="https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/quota",
    ),
    Refusal(
        "Azure",
        "content filter",
        _AZURE,
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        K.CONTENT_POLICY,
        source="https://learn.microsoft.com/en-us/azure/ai-services/openai/concepts/content-filter",
    ),
    Refusal(
        "Azure",
        "no such deployment",
        _AZURE,
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
        K.NOT_FOUND,
        source="https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/create-resource",
    ),
    # --- Anthropic ---
    Refusal(
        "Anthropic",
        "the wait is in a header",
        OF_ANTHROPIC,
        429,
        of_anthropic("Number of request tokens has exceeded your per-minute rate limit", "rate_limit_error"),
        K.RATE_LIMIT,
        17.0,
        {"retry-after": "17"},
        _ANTHROPIC_LIMITS,
    ),
    Refusal(
        "Anthropic",
        "overloaded",
        OF_ANTHROPIC,
        529,
        of_anthropic("Overloaded", "overloaded_error"),
        K.ERROR,
        None,
        source=_ANTHROPIC_ERRORS,
    ),
    Refusal(
        "Anthropic",
        "an oversized prompt",
        OF_ANTHROPIC,
        400,
        of_anthropic("prompt is too long: 210000 tokens > 200000 maximum", "invalid_request_error"),
        K.CONTEXT_WINDOW,
        source=_ANTHROPIC_ERRORS,
    ),
    Refusal(
        "Anthropic",
        "an oversized body",
        {"anthropic": call_anthropic},
        413,
        of_anthropic("Request exceeds the maximum size", "request_too_large"),
        K.CONTEXT_WINDOW,
        source=_ANTHROPIC_ERRORS,
    ),
    Refusal(
        "Anthropic",
        "out of money",
        OF_ANTHROPIC,
        400,
        of_anthropic(
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or "
            "purchase credits.",
            "invalid_request_error",
        ),
        K.AUTH,
        source="https://github.com/anthropics/anthropic-sdk-typescript/issues/357",
    ),
    Refusal(
        "Anthropic",
        "the workspace's limit of money",
        OF_ANTHROPIC,
        400,
        of_anthropic(
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
            "invalid_request_error",
        ),
        K.AUTH,
        source=_ANTHROPIC_ERRORS,
    ),
    Refusal(
        "Anthropic",
        "an enforced limit of money",
        OF_ANTHROPIC,
        429,
        of_anthropic(
            "This request would exceed your organization's spend limit.",
            "rate_limit_error",
            details={"error_code": "enforced_spend_limit_reached"},
        ),
        K.AUTH,
        source=_ANTHROPIC_ERRORS,
    ),
    Refusal(
        "Anthropic",
        "a dead key",
        OF_ANTHROPIC,
        401,
        of_anthropic("invalid x-api-key", "authentication_error"),
        K.AUTH,
        source=_ANTHROPIC_ERRORS,
    ),
    Refusal(
        "Anthropic",
        "a retired model",
        OF_ANTHROPIC,
        404,
        of_anthropic("model: claude-2.0", "not_found_error"),
        K.NOT_FOUND,
        source=_ANTHROPIC_ERRORS,
    ),
    # --- Google ---
    Refusal(
        "Google",
        "RetryInfo",
        _GENAI,
        429,
        of_google(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details.",
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "58s"},
        ),
        K.RATE_LIMIT,
        58.0,
        source="https://github.com/googleapis/python-genai/issues/1875",
    ),
    Refusal(
        "Google",
        "a dead key",
        _GENAI,
        400,
        of_google(
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
        ),
        K.AUTH,
        source=_GEMINI_ERRORS,
    ),
    Refusal(
        "Google",
        "an oversized prompt",
        _GENAI,
        400,
        of_google(
            400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
        ),
        K.CONTEXT_WINDOW,
        source="https://github.com/googleapis/python-genai/issues/2114",
    ),
    Refusal(
        "Google",
        "a retired model",
        _GENAI,
        404,
        of_google(404, "NOT_FOUND", "models/gemini-1.0-pro is not found for API version v1beta"),
        K.NOT_FOUND,
        source=_GEMINI_ERRORS,
    ),
    Refusal(
        "Google",
        "overloaded",
        _GENAI,
        503,
        of_google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        K.ERROR,
        source=_GEMINI_ERRORS,
    ),
    # --- Mistral ---
    Refusal(
        "Mistral",
        "a limit of rate",
        _MISTRAL,
        429,
        {"message": "Requests rate limit exceeded"},
        K.RATE_LIMIT,
        3.0,
        {"retry-after": "3"},
        "https://docs.mistral.ai/deployment/laplateforme/tier/",
    ),
    Refusal(
        "Mistral",
        "an oversized prompt",
        _MISTRAL,
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
            "type": "invalid_request_error",
            "code": 3051,
        },
        K.CONTEXT_WINDOW,
        source="https://docs.mistral.ai/api/",
    ),
    Refusal(
        "Mistral",
        "a dead key",
        _MISTRAL,
        401,
        {"message": "Unauthorized", "request_id": "1"},
        K.AUTH,
        source="https://docs.mistral.ai/api/",
    ),
    Refusal(
        "Mistral",
        "an unknown model",
        _MISTRAL,
        400,
        {"object": "error", "message": "Invalid model: mistral-tiny-2312", "type": "invalid_model", "code": "1500"},
        K.NOT_FOUND,
        source="https://docs.mistral.ai/api/",
    ),
    # --- Cohere ---
    Refusal(
        "Cohere",
        "a limit of rate",
        _COHERE,
        429,
        {"message": "You are using a Trial key, which is limited to 20 API calls / minute."},
        K.RATE_LIMIT,
        30.0,
        {"retry-after": "30"},
        "https://docs.cohere.com/reference/errors",
    ),
    Refusal(
        "Cohere",
        "an oversized prompt",
        _COHERE,
        400,
        {"message": "too many tokens: size limit exceeded by 11326 tokens. Try using shorter or fewer inputs."},
        K.CONTEXT_WINDOW,
        source="https://docs.cohere.com/reference/errors",
    ),
    Refusal(
        "Cohere",
        "a dead key",
        _COHERE,
        401,
        {"message": "invalid api token"},
        K.AUTH,
        source="https://docs.cohere.com/reference/errors",
    ),
    Refusal(
        "Cohere",
        "an unknown model",
        _COHERE,
        404,
        {"message": "model 'command-light' not found"},
        K.NOT_FOUND,
        source="https://docs.cohere.com/reference/errors",
    ),
    # --- OpenRouter ---
    Refusal(
        "OpenRouter",
        "flagged under a 403",
        _ONLY_OPENAI,
        403,
        {"error": {"code": 403, "message": "Input was flagged", "metadata": {"reasons": ["hate"], "flagged_input": "…"}}},
        K.CONTENT_POLICY,
        source=_OPENROUTER_ERRORS,
    ),
    Refusal(
        "OpenRouter",
        "out of credits",
        _WITH_LITELLM,
        402,
        {"error": {"code": 402, "message": "Insufficient credits"}},
        K.AUTH,
        source=_OPENROUTER_ERRORS,
    ),
    Refusal(
        "OpenRouter",
        "no provider is up",
        _ONLY_OPENAI,
        502,
        {"error": {"code": 502, "message": "Provider returned error"}},
        K.ERROR,
        4.0,
        {"Retry-After": "4"},
        _OPENROUTER_ERRORS,
    ),
    Refusal(
        "OpenRouter",
        "headers in the body, by the answer's own Date",
        _ONLY_OPENAI,
        429,
        {
            "error": {
                "code": 429,
                "message": "Rate limit exceeded: free-models-per-min",
                "metadata": {
                    "headers": {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1741305640000"}
                },
            }
        },
        K.RATE_LIMIT,
        40.0,
        {"Date": "Fri, 07 Mar 2025 00:00:00 GMT"},
        "https://github.com/OpenRouterTeam/ai-sdk-provider/issues/38",
    ),
    # --- Groq ---
    Refusal(
        "Groq",
        "the wait is in a header",
        _GROQ,
        429,
        of_openai("Rate limit reached for model `llama`. Please try again in 2.5s.", "tokens", "rate_limit_exceeded"),
        K.RATE_LIMIT,
        2.0,
        {"retry-after": "2", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"},
        _GROQ_LIMITS,
    ),
    Refusal(
        "Groq",
        "an oversized request",
        _GROQ,
        413,
        of_openai(
            "Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 9000",
            "tokens",
            "rate_limit_exceeded",
        ),
        K.CONTEXT_WINDOW,
        source="https://console.groq.com/docs/errors",
    ),
    Refusal(
        "Groq",
        "a retired model",
        _GROQ,
        400,
        of_openai(
            "The model `mixtral-8x7b-32768` has been decommissioned and is no longer supported.",
            "invalid_request_error",
            "model_decommissioned",
        ),
        K.NOT_FOUND,
        source="https://console.groq.com/docs/deprecations",
    ),
    Refusal(
        "Groq",
        "no capacity",
        _GROQ,
        498,
        of_openai("Flex tier capacity exceeded", "", "capacity_exceeded"),
        K.ERROR,
        source="https://console.groq.com/docs/errors",
    ),
    # --- Together ---
    Refusal(
        "Together",
        "an oversized prompt under a 403",
        _TOGETHER,
        403,
        of_openai(
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 4000 `inputs` tokens and 512 "
            "`max_new_tokens`",
            "invalid_request_error",
        ),
        K.CONTEXT_WINDOW,
        source="https://docs.together.ai/docs/error-codes",
    ),
    Refusal(
        "Together",
        "a limit of rate",
        _TOGETHER,
        429,
        of_openai("You have reached the rate limit", "rate_limit", "rate_limit"),
        K.RATE_LIMIT,
        1.0,
        {"retry-after": "1"},
        "https://docs.together.ai/docs/rate-limits",
    ),
    Refusal(
        "Together",
        "out of money",
        _TOGETHER,
        402,
        of_openai("Credit limit exceeded", "credit_limit"),
        K.AUTH,
        source="https://docs.together.ai/docs/error-codes",
    ),
    # --- Fireworks ---
    Refusal(
        "Fireworks",
        "a suspended account",
        _ONLY_OPENAI,
        412,
        of_openai(
            "Account our-team is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices.",
            "error",
        ),
        K.AUTH,
        source="https://docs.fireworks.ai/guides/inference-error-codes",
    ),
    Refusal(
        "Fireworks",
        "a limit of rate",
        _ONLY_OPENAI,
        429,
        {"error": {"message": "Rate limit exceeded", "object": "error"}},
        K.RATE_LIMIT,
        30.0,
        {"x-ratelimit-limit-requests": "6000", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"},
        "https://docs.fireworks.ai/guides/quotas_usage/rate-limits",
    ),
    # --- vLLM ---
    Refusal(
        "vLLM",
        "an oversized prompt",
        _ONLY_OPENAI,
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        K.CONTEXT_WINDOW,
        source="https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
    ),
    Refusal(
        "vLLM",
        "an unknown model",
        _ONLY_OPENAI,
        404,
        {"object": "error", "message": "The model `llama` does not exist.", "type": "NotFoundError", "param": None, "code": 404},
        K.NOT_FOUND,
        source="https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
    ),
    # --- AWS ---
    Refusal(
        "Bedrock",
        "throttled",
        _BEDROCK,
        429,
        {"message": "Too many requests, please wait before trying again."},
        K.RATE_LIMIT,
        headers={"x-amzn-ErrorType": "ThrottlingException"},
        source=_BEDROCK_ERRORS,
    ),
    Refusal(
        "Bedrock",
        "throttled under a 400",
        _BEDROCK,
        400,
        {"message": "Rate exceeded"},
        K.RATE_LIMIT,
        headers={"x-amzn-ErrorType": "ThrottlingException"},
        source="https://github.com/crewAIInc/crewAI/issues/7377",
    ),
    Refusal(
        "Bedrock",
        "an oversized prompt",
        _BEDROCK,
        400,
        {"message": "Input is too long for requested model."},
        K.CONTEXT_WINDOW,
        headers={"x-amzn-ErrorType": "ValidationException"},
        source=_BEDROCK_ERRORS,
    ),
    Refusal(
        "Bedrock",
        "no access",
        _BEDROCK,
        403,
        {"message": "You don't have access to the model with the specified model ID."},
        K.AUTH,
        headers={"x-amzn-ErrorType": "AccessDeniedException"},
        source=_BEDROCK_ERRORS,
    ),
    Refusal(
        "Bedrock",
        "an expired token",
        _BEDROCK,
        403,
        {"message": "The security token included in the request is expired"},
        K.AUTH,
        headers={"x-amzn-ErrorType": "ExpiredTokenException"},
        source=_BEDROCK_ERRORS,
    ),
    Refusal(
        "Bedrock",
        "a model that is not ready",
        _BEDROCK,
        429,
        {"message": "Model is not ready for inference."},
        K.ERROR,
        headers={"x-amzn-ErrorType": "ModelNotReadyException"},
        source=_BEDROCK_ERRORS,
    ),
    # --- the proxy of LiteLLM ---
    Refusal(
        "LiteLLM's proxy",
        "out of budget",
        _WITH_LITELLM,
        400,
        of_openai("Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", "budget_exceeded", "400"),
        K.AUTH,
        source="https://docs.litellm.ai/docs/proxy/users",
    ),
]

CASES = [(refusal, name) for refusal in REFUSALS for name in refusal.clients]


@pytest.mark.parametrize(("refusal", "name"), CASES, ids=lambda it: it if isinstance(it, str) else f"{it.provider}: {it.what}")
def test_refusals(server: Server, refusal: Refusal, name: str) -> None:
    assert refusal.source
    server.reply = Reply(refusal.status, refusal.headers, json.dumps(refusal.body).encode())
    check(raised(lambda: refusal.clients[name](server.url, 10)), refusal.kind, refusal.wait)


# --- statuses and waits, by every client ---

STATUSES = {401: K.AUTH, 404: K.NOT_FOUND, 413: K.CONTEXT_WINDOW, 429: K.RATE_LIMIT, 500: K.ERROR, 503: K.ERROR, 529: K.ERROR}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", RAISING)
def test_statuses(server: Server, name: str, status: int) -> None:
    server.reply = Reply(status, {"Retry-After": "7"}, b'{"message": "no"}')
    check(raised(lambda: RAISING[name](server.url, 10)), STATUSES[status], 7.0)


# --- what does not get an answer ---


@pytest.mark.parametrize("name", CLIENTS)
def test_a_refused_connection(server: Server, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        check(raised(lambda: CLIENTS[name](url, 10)), K.CONNECTION, None)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_disconnection(server: Server, name: str) -> None:
    server.reply = Reply(fault="disconnect")
    check(raised(lambda: CLIENTS[name](server.url, 10)), K.CONNECTION, None)


@pytest.mark.parametrize("name", CLIENTS)
def test_an_answer_that_does_not_come(server: Server, name: str) -> None:
    server.reply = Reply(fault="stall")
    check(raised(lambda: CLIENTS[name](server.url, 0.2)), K.TIMEOUT, None)


def test_a_connection_that_takes_too_long() -> None:
    # Not one of these is sent: made by their own classes.
    for error in (
        botocore_exceptions.ConnectTimeoutError(endpoint_url="https://bedrock-runtime.us-east-1.amazonaws.com"),
        requests.exceptions.ConnectTimeout("connect timed out"),
        httpx.ConnectTimeout("timed out"),
        urllib3.exceptions.ConnectTimeoutError(None, "timed out"),
        aiohttp.ConnectionTimeoutError("timed out"),
    ):
        check(error, K.TIMEOUT, None)


def test_a_full_pool_is_the_clients_own_affair() -> None:
    for error in (httpx.PoolTimeout("full"), httpx2.PoolTimeout("full"), httpcore.PoolTimeout("full")):
        check(error, None, None)
    check(urllib3.exceptions.EmptyPoolError(None, "full"), None, None)


def test_a_request_that_botocore_does_not_send() -> None:
    check(botocore_exceptions.ParamValidationError(report='Missing required parameter in input: "modelId"'), K.BAD_REQUEST, None)
    check(botocore_exceptions.NoCredentialsError(), K.AUTH, None)


# --- in the middle of a stream ---

_STARTED = b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}\n\n'
STREAMED: dict[str, tuple[dict[str, Any], FailureKind, float | None]] = {
    "a limit of rate": (
        of_openai("Rate limit reached. Please try again in 2s.", "requests", "rate_limit_exceeded"),
        K.RATE_LIMIT,
        2.0,
    ),
    "an error of the server": (of_openai("The server had an error", "server_error", None), K.ERROR, None),
    "flagged": (of_openai("flagged by the content filter", "invalid_request_error", "content_filter"), K.CONTENT_POLICY, None),
    "no upstream": ({"error": {"code": 502, "message": "Provider disconnected"}}, K.ERROR, None),
}


@pytest.mark.parametrize("what", STREAMED)
def test_errors_in_a_stream_of_openai(server: Server, what: str) -> None:
    body, kind, wait = STREAMED[what]
    server.reply = Reply(200, {"content-type": "text/event-stream"}, _STARTED + b"data: " + json.dumps(body).encode() + b"\n\n")

    def stream() -> None:
        with openai.OpenAI(base_url=server.url, api_key="key", max_retries=0) as client:
            for _ in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                pass

    check(raised(stream), kind, wait)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [("overloaded_error", K.ERROR), ("rate_limit_error", K.RATE_LIMIT), ("api_error", K.ERROR), ("authentication_error", K.AUTH)],
)
def test_errors_in_a_stream_of_anthropic(server: Server, type_: str, kind: FailureKind) -> None:
    event = b"event: error\ndata: " + json.dumps(of_anthropic("failed", type_)).encode() + b"\n\n"
    server.reply = Reply(200, {"content-type": "text/event-stream"}, event)

    def stream() -> None:
        with anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0) as client:
            for _ in client.messages.create(model="m", max_tokens=5, messages=MESSAGES, stream=True):
                pass

    check(raised(stream), kind, None)


@pytest.mark.parametrize("what", ["a limit of rate", "an error of the server"])
def test_errors_in_a_stream_of_litellm(server: Server, what: str) -> None:
    body, kind, wait = STREAMED[what]
    server.reply = Reply(200, {"content-type": "text/event-stream"}, _STARTED + b"data: " + json.dumps(body).encode() + b"\n\n")

    def stream() -> None:
        for _ in litellm.completion(
            model="openai/gpt-4o", api_base=server.url, api_key="key", messages=MESSAGES, stream=True, max_retries=0, num_retries=0
        ):
            pass

    check(raised(stream), kind, wait)


def test_what_litellm_raises_in_a_stream_says_what_it_was_raised_for() -> None:
    refused = raised(lambda: exec("raise error", {"error": rate_limited()}))
    error = litellm.exceptions.MidStreamFallbackError(
        message="failed",
        model="m",
        llm_provider="openai",
        original_exception=refused,
        generated_content="",
        is_pre_first_chunk=False,
    )
    check(error, K.RATE_LIMIT, 9.0)


# --- wrappers ---


def rate_limited() -> Any:
    response = httpx.Response(429, headers={"retry-after": "9"}, request=httpx.Request("POST", "http://localhost"))
    return openai.RateLimitError("slow down", response=response, body=None)


def test_tenacity_says_what_it_gave_up_for() -> None:
    def call() -> None:
        raise rate_limited()

    error = raised(tenacity.retry(stop=tenacity.stop_after_attempt(2))(call))
    assert type(error) is tenacity.RetryError
    check(error, K.RATE_LIMIT, 9.0)


# --- grpc and google-api-core ---

GRPC = {
    "RESOURCE_EXHAUSTED": K.RATE_LIMIT,
    "UNAUTHENTICATED": K.AUTH,
    "PERMISSION_DENIED": K.AUTH,
    "NOT_FOUND": K.NOT_FOUND,
    "INVALID_ARGUMENT": K.BAD_REQUEST,
    "DEADLINE_EXCEEDED": K.TIMEOUT,
    "INTERNAL": K.ERROR,
    "UNAVAILABLE": K.ERROR,
}


@pytest.fixture(scope="module")
def grpc_url() -> Iterator[str]:
    """A server whose methods fail with the status of their names."""

    def failing(name: str) -> Any:
        def fail(request: bytes, context: Any) -> bytes:
            context.abort(grpc.StatusCode[name], f"{name} was asked for")
            return b""

        return grpc.unary_unary_rpc_method_handler(fail)

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handlers = grpc.method_handlers_generic_handler("service", {name: failing(name) for name in GRPC})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def fail_by_grpc(url: str, status: str) -> BaseException:
    with grpc.insecure_channel(url) as channel:
        return raised(lambda: channel.unary_unary(f"/service/{status}")(b"", timeout=10))


@pytest.mark.parametrize("status", GRPC)
def test_statuses_of_grpc(grpc_url: str, status: str) -> None:
    check(fail_by_grpc(grpc_url, status), GRPC[status], None)


@pytest.mark.parametrize("status", GRPC)
def test_statuses_of_google_api_core(grpc_url: str, status: str) -> None:
    check(google_exceptions.from_grpc_error(fail_by_grpc(grpc_url, status)), GRPC[status], None)


def test_a_server_of_grpc_that_is_not_there(server: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        check(fail_by_grpc(f"127.0.0.1:{taken.getsockname()[1]}", "INTERNAL"), K.CONNECTION, None)


def test_the_wait_of_google_api_core() -> None:
    wait = rpc_details.RetryInfo(retry_delay=rpc_durations.Duration(seconds=41))
    error = google_exceptions.ResourceExhausted("slow down", details=[wait])
    check(error, K.RATE_LIMIT, 41.0)


# --- cancellation ---


def test_a_call_that_is_cancelled_is_no_failure(server: Server) -> None:
    server.reply = Reply(fault="stall")

    async def cancelled() -> BaseException:
        async def call() -> None:
            async with openai.AsyncOpenAI(base_url=server.url, api_key="key", max_retries=0) as client:
                await client.chat.completions.create(model="m", messages=MESSAGES)

        task = asyncio.create_task(call())
        await asyncio.sleep(0.1)
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        assert result is not None
        return result

    assert classify_exception(asyncio.run(cancelled())) is None


# --- headers ---


@dataclass(frozen=True)
class Told:
    """Headers of a provider, and what they say: of each unit the limit, what is left, and the reset."""

    provider: str
    headers: Mapping[str, str]
    observed: Mapping[str, tuple[int | None, int, float | None]]
    scope: str | None
    source: str


_DATE = {"Date": "Thu, 26 Nov 2026 12:00:00 GMT"}
HEADERS = [
    Told(
        "OpenAI",
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        {"requests": (60, 59, 1.0), "tokens": (150_000, 149_984, 360.0)},
        None,
        _OPENAI_LIMITS,
    ),
    Told(
        "Azure",
        {"x-ratelimit-remaining-requests": "9", "x-ratelimit-remaining-tokens": "900", "x-ratelimit-limit-tokens": "30,000"},
        {"requests": (None, 9, None), "tokens": (30_000, 900, None)},
        None,
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/quota",
    ),
    Told(
        "Anthropic",
        {
            **_DATE,
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-26T12:00:30Z",
            "anthropic-ratelimit-input-tokens-limit": "40000",
            "anthropic-ratelimit-input-tokens-remaining": "39000",
            "anthropic-ratelimit-input-tokens-reset": "2026-11-26T12:00:02Z",
        },
        {"requests": (50, 0, 30.0), "input_tokens": (40_000, 39_000, 2.0)},
        None,
        _ANTHROPIC_LIMITS,
    ),
    Told(
        "Anthropic, unified",
        {
            **_DATE,
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-5h-status": "rejected",
            "anthropic-ratelimit-unified-5h-reset": "1795701600",
            "anthropic-ratelimit-unified-reset": "1795701600",
        },
        {},
        "account",
        "https://github.com/router-for-me/CLIProxyAPI/issues/3148",
    ),
    Told(
        "Groq",
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        {"requests": (14_400, 14_370, 179.56), "tokens": (18_000, 17_997, 7.66)},
        None,
        _GROQ_LIMITS,
    ),
    Told(
        "IETF, draft 06",
        {"RateLimit-Limit": "100", "RateLimit-Remaining": "50", "RateLimit-Reset": "50"},
        {"requests": (100, 50, 50.0)},
        None,
        "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-06",
    ),
    Told(
        "IETF, draft 07",
        {"RateLimit": "limit=100, remaining=50, reset=5", "RateLimit-Policy": "100;w=10"},
        {"requests": (100, 50, 5.0)},
        None,
        "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07",
    ),
    Told(
        "IETF, drafts 08 to 10",
        {"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'},
        {"requests": (100, 50, 30.0)},
        None,
        "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10",
    ),
    Told(
        "Mistral",
        {
            "x-ratelimit-limit-req-minute": "60",
            "x-ratelimit-remaining-req-minute": "59",
            "x-ratelimit-limit-tokens-minute": "500000",
            "x-ratelimit-remaining-tokens-minute": "499000",
        },
        {"requests": (60, 59, None), "tokens": (500_000, 499_000, None)},
        None,
        "https://docs.mistral.ai/deployment/laplateforme/tier/",
    ),
    Told(
        "Cohere",
        {"x-endpoint-monthly-call-limit": "1000", "x-trial-endpoint-call-limit": "20", "x-trial-endpoint-call-remaining": "18"},
        {"requests": (20, 18, None)},
        None,
        "https://docs.cohere.com/docs/rate-limits",
    ),
    Told(
        "OpenRouter",
        {**_DATE, "X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795694410000"},
        {"requests": (20, 0, 10.0)},
        None,
        _OPENROUTER_ERRORS,
    ),
    Told(
        "Together",
        {
            "x-ratelimit-limit": "20",
            "x-ratelimit-remaining": "19",
            "x-ratelimit-reset": "1",
            "x-tokenlimit-limit": "20000",
            "x-tokenlimit-remaining": "19000",
        },
        {"requests": (20, 19, 1.0), "tokens": (20_000, 19_000, None)},
        None,
        "https://docs.together.ai/docs/rate-limits",
    ),
    Told(
        "Fireworks",
        {
            "x-ratelimit-limit-requests": "6000",
            "x-ratelimit-remaining-requests": "5999",
            "x-ratelimit-limit-tokens-prompt": "60000",
            "x-ratelimit-remaining-tokens-prompt": "59000",
        },
        {"requests": (6000, 5999, None), "input_tokens": (60_000, 59_000, None)},
        None,
        "https://docs.fireworks.ai/guides/quotas_usage/rate-limits",
    ),
]


@pytest.mark.parametrize("told", HEADERS, ids=lambda told: told.provider)
def test_headers_through_a_real_client(server: Server, told: Told) -> None:
    server.reply = Reply(429, told.headers, b"{}")
    reading = read_exception(raised(lambda: call_openai(server.url, 10)))
    assert reading is not None
    said = {observed.unit: (observed.limit, observed.remaining, observed.reset) for observed in reading.observed}
    assert said == {unit: pytest.approx(facts, abs=1.1) if None not in facts else facts for unit, facts in told.observed.items()}
    assert reading.scope == told.scope


def test_a_failure_is_what_the_package_exports() -> None:
    assert classify_exception(rate_limited()) == Failure(K.RATE_LIMIT, 9.0)
