"""LiteLLM's proxy with one line in its config: nothing stays in flight, and each attempt counts once."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from turnout.testing import Provider, Reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    pytest.importorskip("litellm", reason="litellm is in an environment of its own: make test-litellm-proxy")
    pytest.importorskip("litellm.router_python_host", reason="litellm is older than 1.110")
    for needed in ("fastapi", "uvicorn", "orjson", "apscheduler", "semver", "soundfile", "redis"):
        pytest.importorskip(needed, reason="litellm's proxy is in an environment of its own: make test-litellm-proxy")

from hosting import MESSAGES, QUIET, counted, entry, in_flight, nothing_in_flight

pytestmark = QUIET
KEY = "sk-" + "0123456789abcdef" * 4
CHAT = "/v1/chat/completions"
STARTS = "from litellm.proxy.proxy_cli import run_server; run_server()"
# What a test sees of the proxy's process: a page with what turnout has counted.
COUNTS = """
import gc

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy.proxy_server import app
from turnout.integrations.litellm.proxy import hook as picks

FIELDS = ("in_flight", "total_requests", "total_successes", "total_failures", "total_tokens")

@app.get("/counts/{model}")
def counts(model: str) -> dict:
    gc.collect()
    router = picks.turnout_router
    stats = [router.stats(one.deployment_id) for one in router.deployments(model)]
    found = {name: [getattr(one, name) for one in stats] for name in FIELDS}
    return {**found, "status": [str(one.status) for one in stats]}

hook = CustomLogger()
"""


class Proxy(NamedTuple):
    """A proxy in a process of its own."""

    provider: Provider
    client: httpx.Client
    output: Path

    def chat(self, model: str, **more: Any) -> httpx.Response:
        return self.client.post(CHAT, json={"model": model, "messages": MESSAGES, **more})

    def counts(self, model: str) -> dict[str, Any]:
        answer = self.client.get(f"/counts/{model}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def settled(self, model: str) -> dict[str, Any]:
        """Waits until nothing is in flight. Some ends are known a moment later."""
        within(20, lambda: sum(self.counts(model)["in_flight"]) == 0)
        return self.counts(model)


def within(seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    with Provider() as provider:
        entries = [entry(provider, f"{name}{nth}", name) for name in ("well", "bad", "late", "limited") for nth in range(3)]
        entries += [entry(provider, "narrow0", "narrow", rpm=1), entry(provider, "spare0", "spare")]
        entries += [entry(provider, f"ranked{nth}", "ranked", order=nth) for nth in (1, 2)]
        entries += [entry(provider, f"tagged-{tag}", "tagged", tags=[tag]) for tag in ("paid", "free", "default")]
        sized = [entry(provider, f"sized{nth}", "sized") for nth in range(3)]
        for one in sized[1:]:
            one["model_info"]["max_input_tokens"] = 5
        entries += sized
        config = {
            "model_list": entries,
            "router_settings": {
                "num_retries": 0,
                "routing_strategy": "least-busy",
                "fallbacks": [{"narrow": ["spare"]}],
                "enable_tag_filtering": True,
                "enable_pre_call_checks": True,
            },
            "litellm_settings": {"callbacks": ["turnout.integrations.litellm.proxy.hook", "counts.hook"]},
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        (folder / "counts.py").write_text(COUNTS)
        port, output = free_port(), folder / "output.txt"
        command = [sys.executable, "-c", STARTS, "--config", str(folder / "config.yaml"), "--host", "127.0.0.1"]
        env = {**os.environ, "LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with output.open("wb") as file:
            process = subprocess.Popen([*command, "--port", str(port)], env=env, cwd=folder, stdout=file, stderr=file)
        headers = {"authorization": f"Bearer {KEY}"}
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False) as client:

                def answers() -> bool:
                    assert process.poll() is None, output.read_text()
                    try:
                        return client.get("/health/liveliness").status_code == 200
                    except httpx.TransportError:
                        return False

                within(120, answers)
                yield Proxy(provider, client, output)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def _usual_replies(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.provider.always(Reply.text())


def change(before: dict[str, Any], after: dict[str, Any], name: str) -> int:
    grown: int = sum(after[name]) - sum(before[name])
    return grown


def test_success(proxy: Proxy) -> None:
    used = [proxy.chat("well").json()["usage"]["total_tokens"] for _ in range(9)]
    counts = proxy.settled("well")
    assert sum(counts["total_requests"]) == sum(counts["total_successes"]) == 9
    assert sum(counts["total_tokens"]) == sum(used)


def test_requests_at_once_are_spread(proxy: Proxy) -> None:
    before = proxy.settled("well")
    first = len(proxy.provider.requests)
    proxy.provider.always(Reply.text().delay(head=1))
    with ThreadPoolExecutor(9) as pool:
        calls = [pool.submit(proxy.chat, "well") for _ in range(9)]
        proxy.provider.wait_for_requests(first + 9)
        assert proxy.counts("well")["in_flight"] == [3, 3, 3]
        assert [call.result().status_code for call in calls] == [200] * 9
    after = proxy.settled("well")
    assert change(before, after, "total_successes") == 9


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages"])
def test_a_stream_that_is_read(proxy: Proxy, path: str) -> None:
    before = proxy.settled("well")
    said = {"input": "hi"} if path == "/v1/responses" else {"messages": MESSAGES, "max_tokens": 9}
    for _ in range(6):
        with proxy.client.stream("POST", path, json={"model": "well", "stream": True, **said}) as answer:
            assert answer.status_code == 200
            assert list(answer.iter_lines())
    after = proxy.settled("well")
    assert change(before, after, "total_requests") == change(before, after, "total_successes") == 6
    assert change(before, after, "total_tokens") > 0


def test_a_client_that_hangs_up(proxy: Proxy) -> None:
    before = proxy.settled("well")
    proxy.provider.always(Reply.text("one two three four").hang(after=2))
    for _ in range(6):
        with proxy.client.stream("POST", CHAT, json={"model": "well", "messages": MESSAGES, "stream": True}) as answer:
            lines = answer.iter_lines()
            assert next(lines)
            assert sum(proxy.counts("well")["in_flight"]) >= 1
    after = proxy.settled("well")
    assert change(before, after, "total_requests") == 6
    assert change(before, after, "total_failures") == 0


def test_a_client_that_does_not_wait(proxy: Proxy) -> None:
    """The proxy goes on to wait for the provider. So the place is taken until that has answered."""
    first = len(proxy.provider.requests)
    proxy.provider.always(Reply.text().delay(head=2))
    with pytest.raises(httpx.TimeoutException):
        proxy.client.post(CHAT, json={"model": "late", "messages": MESSAGES}, timeout=0.5)
    proxy.provider.wait_for_requests(first + 1)
    assert sum(proxy.counts("late")["in_flight"]) == 1
    assert sum(proxy.settled("late")["total_requests"]) == 1


def test_failures(proxy: Proxy) -> None:
    proxy.provider.always(Reply.error(500))
    assert [proxy.chat("bad").status_code for _ in range(2)] == [500, 500]
    counts = proxy.settled("bad")
    assert sum(counts["total_requests"]) == sum(counts["total_failures"]) == 2


def test_a_refusal_of_the_provider(proxy: Proxy) -> None:
    proxy.provider.always(Reply.error(429, retry_after=60))
    assert proxy.chat("limited").status_code == 429
    counts = proxy.settled("limited")
    assert counts["status"].count("cooling_down") == 1
    proxy.provider.always(Reply.text())
    assert [proxy.chat("limited").status_code for _ in range(6)] == [200] * 6
    assert sum(proxy.settled("limited")["total_failures"]) == 1


def test_retries(proxy: Proxy) -> None:
    before = proxy.settled("well")
    proxy.provider.script(Reply.error(500), Reply.error(500))
    assert proxy.chat("well", num_retries=2).status_code == 200
    after = proxy.settled("well")
    assert change(before, after, "total_requests") == 3
    assert change(before, after, "total_failures") == 2


def test_tags(proxy: Proxy) -> None:
    answers = [proxy.chat("tagged", metadata={"tags": [tag]}) for tag in ("paid", "free", "paid", "free")]
    assert [answer.status_code for answer in [*answers, proxy.chat("tagged")]] == [200] * 5, answers[0].text
    assert proxy.settled("tagged")["total_requests"] == [2, 2, 1]


def test_long_prompts(proxy: Proxy) -> None:
    long = [{"role": "user", "content": "one two three four five six seven eight"}]
    answers = [proxy.client.post(CHAT, json={"model": "sized", "messages": long}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4, answers[0].text
    assert proxy.settled("sized")["total_requests"] == [4, 0, 0]


def test_orders(proxy: Proxy) -> None:
    assert [proxy.chat("ranked").status_code for _ in range(3)] == [200] * 3
    assert proxy.settled("ranked")["total_requests"] == [3, 0]
    proxy.provider.script(Reply.error(500))
    assert proxy.chat("ranked").status_code == 200
    assert proxy.settled("ranked")["total_successes"] == [3, 1]


def test_a_refused_pick_falls_back(proxy: Proxy) -> None:
    answers = [proxy.chat("narrow") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3, answers[-1].text
    assert proxy.settled("narrow")["total_requests"] == [1]
    assert proxy.settled("spare")["total_requests"] == [2]


def test_a_refused_pick_without_a_fallback(proxy: Proxy) -> None:
    answers = [proxy.chat("narrow", disable_fallbacks=True) for _ in range(2)]
    assert answers[-1].status_code == 429
    assert "rpm" in answers[-1].text
    assert 0 < float(answers[-1].headers["retry-after"]) <= 60
    assert sum(proxy.settled("narrow")["in_flight"]) == 0


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any, Provider]]:
    """A Router as the proxy has it, in this process, with a hook of its own."""
    import litellm
    from litellm.proxy import proxy_server
    from turnout.integrations.litellm.proxy import Hook

    with Provider() as provider:
        router = litellm.Router(model_list=[entry(provider, id_) for id_ in "abc"], routing_strategy="least-busy", num_retries=0)
        hook = Hook()
        assert hook.turnout_router is None
        monkeypatch.setattr(proxy_server, "llm_router", router)
        monkeypatch.setattr(litellm, "callbacks", [*litellm.callbacks, hook])
        yield router, hook, provider


def test_cancelled_calls(inside: tuple[Any, Any, Provider]) -> None:
    router, hook, provider = inside
    provider.always(Reply.text().hang(after="request"))

    async def run() -> None:
        calls = [asyncio.create_task(router.acompletion("m", MESSAGES)) for _ in range(9)]
        await asyncio.to_thread(provider.wait_for_requests, 9)
        assert [hook.turnout_router.stats(id_).in_flight for id_ in "abc"] == [3, 3, 3]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)  # callbacks of tasks
        assert in_flight(hook.turnout_router) == 0

    asyncio.run(run())
    assert counted(hook.turnout_router) == (9, 0, 0)


def test_streams_that_are_dropped(inside: tuple[Any, Any, Provider]) -> None:
    router, hook, provider = inside
    provider.always(Reply.text("one two three four").hang(after=3))

    async def run() -> None:
        streams = [await router.acompletion("m", MESSAGES, stream=True) for _ in range(6)]
        assert in_flight(hook.turnout_router) == 6
        del streams
        await nothing_in_flight(hook.turnout_router)

    asyncio.run(run())
    assert counted(hook.turnout_router) == (6, 0, 0)


def test_an_upload_goes_to_all(inside: tuple[Any, Any, Provider]) -> None:
    router, hook, provider = inside
    file = {"id": "f", "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch", "status": "processed"}
    provider.always(Reply.json(file))
    asyncio.run(router.acreate_file(model="m", file=("x.jsonl", b"{}"), purpose="batch"))
    assert len(provider.requests) == 3
    assert in_flight(hook.turnout_router) == 0


def test_a_module_beside_the_config(tmp_path: Path) -> None:
    from litellm.proxy.types_utils.utils import get_instance_fn

    (tmp_path / "turnout.yaml").write_text("deployments: [{id: a, model_name: m}]")
    (tmp_path / "mine.py").write_text(
        "import turnout\n"
        "from turnout.integrations.litellm.proxy import Hook\n"
        f"hook = Hook(turnout.Router.from_config({str(tmp_path / 'turnout.yaml')!r}))\n"
    )
    hook = get_instance_fn("mine.hook", str(tmp_path / "config.yaml"))
    assert hook.turnout_router.models() == ["m"]


def test_the_last_of_all_no_secret_is_printed(proxy: Proxy) -> None:
    assert "sk-any" not in proxy.output.read_text()
