"""What a stranger writes passes strict type checkers against the installed package; mistakes do not."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The clients of docs/clients.md, in two lines each, and all else that takes a router.
EACH = """
import anthropic
import httpx
import httpx2
import openai
import turnout
import turnout.httpx
import turnout.httpx2
from turnout import Deployment, Endpoint, Env, Fallbacks, Lease, Retry, Router, Timeouts
from turnout.clients import Anthropic, AsyncAnthropic, AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI


async def token() -> str:
    return "fresh"


endpoints = [
    Endpoint("https://eu.example.com/v1", api_key=Env("EU_KEY")),
    Endpoint("https://us.example.com/v1", api_key=token, headers={"x-a": Env("A")}, query={"v": "1"}, auth="api-key"),
    Endpoint("https://api.example.com", api_key=lambda: "fresh", dialect="anthropic"),
]
router = Router(
    [Deployment(f"d-{nth}", "m", endpoint=endpoint) for nth, endpoint in enumerate(endpoints)],
    retry=Retry(attempts=2),
    fallbacks=Fallbacks({"m": ["other"]}),
    timeouts=Timeouts(total=60, first_token=10),
)
chat: openai.OpenAI = OpenAI(router)
chat_async: openai.AsyncOpenAI = AsyncOpenAI(router, timeout=30.0)
azure: openai.AzureOpenAI = AzureOpenAI(router)
azure_async: openai.AsyncAzureOpenAI = AsyncAzureOpenAI(router)
messages: anthropic.Anthropic = Anthropic(router)
messages_async: anthropic.AsyncAnthropic = AsyncAnthropic(router, default_model="m")
new: httpx2.Client = turnout.httpx2.Client(router)
new_async: httpx2.AsyncClient = turnout.httpx2.AsyncClient(router, inner="aiohttp")
old: httpx.Client = turnout.httpx.Client(router)
old_async: httpx.AsyncClient = turnout.httpx.AsyncClient(router)
over: httpx2.AsyncClient = httpx2.AsyncClient(transport=turnout.httpx2.AsyncRouterTransport(router))
plain: openai.OpenAI = openai.OpenAI(http_client=new, base_url=turnout.BASE_URL, api_key="-", max_retries=0)
other: anthropic.AsyncAnthropic = anthropic.AsyncAnthropic(http_client=new_async, api_key="-", max_retries=0)


def send(lease: Lease) -> int:
    return len(lease.deployment_id)


async def send_async(lease: Lease) -> int:
    return len(lease.deployment_id)


def two_lines() -> str:
    text = ""
    with OpenAI(router) as client:
        reply = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        text += reply.choices[0].message.content or ""
        for chunk in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True):
            text += chunk.choices[0].delta.content or ""
        text += client.responses.create(model="m", input="x").output_text
    with Anthropic(router) as client_of_anthropic:
        message = client_of_anthropic.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])
        text += "".join(block.text for block in message.content if block.type == "text")
    return text


async def two_lines_of_a_task() -> str:
    text = ""
    async with AsyncOpenAI(router) as client:
        chunks = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        async for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
    async with AsyncAnthropic(router) as client_of_anthropic:
        async with client_of_anthropic.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        ) as stream:
            async for piece in stream.text_stream:
                text += piece
    return text


async def main() -> int:
    total = router.call("m", send) + await router.call_async("m", send_async, tokens=9)
    for attempt in router.attempts("m"):
        with attempt as lease:
            total += send(lease)
    async for attempt in router.attempts("m"):
        async with attempt as lease:
            total += await send_async(lease)
    with router.options(tags=["eu"]):
        return total
"""


Checker = Callable[[Path], list[tuple[int, str]]]

# Mistakes, each in a line of its own.
HEAD = (
    "import openai\nimport turnout.httpx2\nfrom turnout import Deployment, Endpoint, Router\nfrom turnout.clients import OpenAI\n"
)
WRONG = [
    'endpoint = Endpoint("https://h.example", dialect="latin")',
    'endpoint = Endpoint("https://h.example", api_key=5)',
    'deployment = Deployment("a", "m", endpoint="https://h.example")',
    "client = OpenAI(5)",
    "client: openai.AsyncOpenAI = OpenAI(Router([]))",
    "transport = turnout.httpx2.AsyncRouterTransport(Router([]), inner='curl')",
    'number: str = Router([]).call("m", lambda lease: 5)',
]


def is_there(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def mypy(file: Path) -> list[tuple[int, str]]:
    """The errors of mypy: line, text."""
    options = ["--strict", "--config-file=", f"--cache-dir={file.parent}", "--no-error-summary", "--no-pretty"]
    run = [sys.executable, "-m", "mypy", *options, str(file)]
    done = subprocess.run(run, cwd=file.parent, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = re.findall(rf"^{re.escape(file.name)}:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert (done.returncode == 0) == (not found), done.stdout
    return [(int(line), said) for line, said in found]


def basedpyright(file: Path) -> list[tuple[int, str]]:
    """The errors of basedpyright: line, text."""
    # Its own default also warns of what is usual elsewhere, such as a result that nobody uses.
    (file.parent / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    run = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(file)]
    done = subprocess.run(run, cwd=file.parent, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in (0, 1), done.stderr
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] == 1
    return [(one["range"]["start"]["line"] + 1, one["message"]) for one in said["generalDiagnostics"] if one["severity"] == "error"]


def needs(checker: str, group: str) -> pytest.MarkDecorator:
    reason = f"{checker} or an SDK is not installed: {group}"
    return pytest.mark.skipif(not is_there(checker, "openai", "anthropic", "httpx", "httpx2"), reason=reason)


CHECKERS = [
    pytest.param(mypy, id="mypy", marks=needs("mypy", "make lint")),
    pytest.param(basedpyright, id="basedpyright", marks=needs("basedpyright", "make lint")),
]


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_a_stranger_writes_is_typed(tmp_path: Path, checker: Checker) -> None:
    file = tmp_path / "stranger.py"
    file.write_text(EACH)
    assert checker(file) == []


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_wrong_is_found(tmp_path: Path, checker: Checker) -> None:
    """Otherwise all could be `Any`."""
    file = tmp_path / "stranger.py"
    file.write_text(HEAD + "\n".join(f"def wrong_{nth}() -> None:\n    {line}" for nth, line in enumerate(WRONG)))
    first = HEAD.count("\n") + 2
    found = {line for line, _ in checker(file)}
    missed = [line for nth, line in enumerate(WRONG) if first + 2 * nth not in found]
    assert missed == []
