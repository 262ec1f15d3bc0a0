"""The bench beside LiteLLM's Router runs with the LiteLLM that is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("litellm", reason="the client libraries are in an environment of their own: make test-clients")

BENCH = Path(__file__).parent.parent.parent / "benches" / "beside_litellm.py"


def test_the_bench_runs(tmp_path: Path) -> None:
    into = tmp_path / "rows.json"
    options = ["--pairs", "1", "--sizes", "2", "--only", "picks", "calls", "construction", "--json", str(into)]
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(BENCH), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads(into.read_text())}
    parts = {"construction, 2 deployments", "select, least_busy, 2", "acquire, latency_based, 2", "a mocked call, 2"}
    assert parts <= rows.keys()
    assert all(row["litellm"] > 0 and row["turnout"] > 0 for row in rows.values())
