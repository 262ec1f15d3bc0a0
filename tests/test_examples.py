"""The examples run to their ends, against scripted providers."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TOO_SLOW = 2  # the exit status of an example that says that the machine is too slow for it


def run(name: str, *arguments: str, tries: int = 1) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("EU_KEY", "US_KEY")}
    command = [sys.executable, "-W", "error::ResourceWarning", str(EXAMPLES / name), *arguments]
    for _ in range(tries):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        if done.returncode != TOO_SLOW:
            break
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="rich is not installed: make .venv/.demo")
def test_the_demo_loses_nothing() -> None:
    said = " ".join(run("demo.py", "--requests", "200", "--at-once", "16").split())
    assert "0 requests lost" in said
    assert "in flight now: 0" in said


@pytest.mark.skipif(os.name != "posix", reason="the file that workers share needs a Unix system")
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastapi", "httpx", "rich", "uvicorn")),
    reason="fastapi, httpx, rich or uvicorn is not installed: make .venv/.demo",
)
def test_four_workers_admit_exactly_their_quota_and_one_is_killed() -> None:
    said = " ".join(run("demo_shared.py", "--requests", "40", "--seconds", "2", tries=3).split())
    assert "No window admitted more than 40. The windows without a kill admitted exactly as many" in said


@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="fastapi is not installed")
def test_the_gateway_streams() -> None:
    assert run("gateway.py") == "All aboard.\n"


def test_the_batch_answers_all() -> None:
    assert run("batch.py") == "40 answered, 0 failed, 1 retries\n"


def test_the_agent_uses_its_tool() -> None:
    assert run("agent.py") == "In seven minutes.\n"
