"""Configs of unlike projects: the command, LiteLLM's Router and the one in its place agree on them."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from turnout.testing import Provider, ReceivedRequest, Reply

yaml = pytest.importorskip("yaml", reason="PyYAML is in the environments of LiteLLM: make test-clients")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    litellm = pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-clients")

from hosting import MESSAGES  # noqa: E402
from turnout.integrations.litellm import Router  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in ("UserWarning", "DeprecationWarning")]  # litellm's

CONFIGS = Path(__file__).parent / "configs"
NAMES = ["startup", "company", "lab"]
# What the proxy of LiteLLM hands on to its Router.
OF_THE_PROXY = ("num_retries", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks")
TOO_LONG = [{"role": "user", "content": "too long"}]


def answer(request: ReceivedRequest) -> Reply:
    """What the provider answers, by what it is asked alone."""
    if request.model == "gpt-broken":
        return Reply.error(500)
    if request.model == "gpt-4o" and "too long" in str(request.json):
        return Reply.error(400, code="context_length_exceeded")
    return Reply.text(f"{request.model} for {request.json.get('max_tokens')}")


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with Provider() as provider:
        provider.always(answer)
        monkeypatch.setenv("TURNOUT_TEST_BASE", provider.base_url)
        monkeypatch.setenv("TURNOUT_TEST_AZURE", provider.url)
        monkeypatch.setenv("TURNOUT_TEST_ROOT", provider.url)
        monkeypatch.setenv("TURNOUT_TEST_KEY", "sk-secret-of-a-test")
        yield provider


def said(call: Callable[[], Any]) -> str:
    """What a call comes to: the text of its answer, or its error."""
    try:
        got = call()
    except Exception as error:
        return type(error).__name__
    if hasattr(got, "data"):
        return f"{len(got.data)} vectors"
    if hasattr(got, "choices"):
        return str(got.choices[0].message.content)
    return "".join(part.choices[0].delta.content or "" for part in got if part.choices)


REQUESTS: dict[str, list[tuple[Callable[[Any], Any], str]]] = {
    "startup": [
        (lambda router: router.completion("chat", MESSAGES), "gpt-4o for None"),
        (lambda router: router.completion("default", MESSAGES), "gpt-4o for None"),
        (lambda router: router.completion("chat-long", MESSAGES), "gpt-4.1 for 2048"),
        (lambda router: router.completion("chat", TOO_LONG), "gpt-4.1 for 2048"),
        (lambda router: router.completion("broken", MESSAGES), "gpt-4o for None"),
        (lambda router: router.completion("openai/o3-mini", MESSAGES), "o3-mini for None"),
        (lambda router: router.completion("chat", MESSAGES, max_tokens=7), "gpt-4o for 7"),
        (lambda router: router.completion("chat", MESSAGES, stream=True), "gpt-4o for None"),
        (lambda router: router.completion("unknown", MESSAGES), "BadRequestError"),
    ],
    "company": [
        (lambda router: router.completion("gpt-4o", MESSAGES), "gpt-4o-prod for None"),
        (lambda router: router.completion("gpt-latest", MESSAGES), "gpt-4o-prod for None"),
        (lambda router: router.completion("gpt-4o", MESSAGES, metadata={"tags": ["us"]}), "gpt-4o-prod for None"),
        (lambda router: router.embedding("embed", input=["a", "b"]), "2 vectors"),
        (lambda router: router.completion("unknown", MESSAGES), "BadRequestError"),
    ],
    "lab": [
        (lambda router: router.completion("llama", MESSAGES), "llama-3.3-70b for None"),
        (lambda router: router.completion("claude-sonnet-4", MESSAGES, max_tokens=5), "claude-sonnet-4 for 5"),
    ],
}


@pytest.mark.parametrize(("name", "nth"), [(name, nth) for name in NAMES for nth in range(len(REQUESTS[name]))])
def test_both_routers_give_the_same_answers(provider: Provider, name: str, nth: int) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    settings = {key: value for key, value in (config.get("litellm_settings") or {}).items() if key in OF_THE_PROXY}
    settings.update(config.get("router_settings") or {})
    ask, expected = REQUESTS[name][nth]
    theirs = litellm.Router(model_list=config["model_list"], **settings)
    ours = Router(config["model_list"], **settings)
    got: list[str] = []
    for router in (theirs, ours):
        before = len(provider.requests)
        got.append(said(partial(ask, router)))
        # Their last request, without what names the attempt, is the same too.
        sent = provider.requests[before:]
        got.append(json.dumps([sent[-1].path, sent[-1].json], sort_keys=True) if sent else "")
    assert got[0] == got[2] == expected
    assert got[1] == got[3]
    assert ours.turnout.metrics().in_flight == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_command_finds_nothing_wrong(provider: Provider, name: str) -> None:
    pytest.importorskip("typer", reason="the command needs typer: make test-clients")
    run = subprocess.run(
        [sys.executable, "-m", "turnout.cli", "check", str(CONFIGS / f"{name}.yaml"), "--strict", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (run.returncode, "sk-secret-of-a-test" in run.stdout) == (0, False), run.stdout + run.stderr
    checked = json.loads(run.stdout)
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    in_service = [entry for entry in config["model_list"] if not (entry.get("model_info") or {}).get("blocked")]
    assert [one["model_name"] for one in checked["deployments"]] == [entry["model_name"] for entry in in_service]
