"""The benches that run in simulated time: the same seed writes the same bytes, and turnout keeps to their
budgets.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

BENCHES = Path(__file__).resolve().parent.parent / "benches"


def run(bench: str, file: Path, seed: int = 1) -> bytes:
    """What a bench writes, if it meets its budgets."""
    command = [sys.executable, str(BENCHES / bench), "--quick", "--seed", str(seed), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return file.read_bytes()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What limits.py finds out, cell by cell."""
    found: list[dict[str, Any]] = json.loads(run("limits.py", tmp_path_factory.mktemp("limits") / "1.json"))["rows"]
    assert found
    return found


@pytest.mark.parametrize("bench", ["limits.py", "black_hole.py"])
def test_a_seed_repeats_every_byte_and_budgets_hold(bench: str, tmp_path: Path) -> None:
    first, again, other = (run(bench, tmp_path / f"{i}.json", seed) for i, seed in enumerate((1, 1, 2)))
    assert first == again
    assert first != other


def test_nobody_beats_the_omniscient_and_every_request_ends(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for client in row["clients"].values():
            assert client["work"] <= 1 + 1e-9
            assert client["served"] + client["gave_up"] == 2000


def test_limits_by_the_minute_are_not_enough_elsewhere(rows: list[dict[str, Any]]) -> None:
    """Otherwise the bench would not tell matching limits from others."""
    refused = Counter[str]()
    for row in rows:
        refused[row["cell"]["kind"]] += row["clients"]["minute"]["refused"]
    assert refused["fixed"] == 0
    assert refused["slices"] > 0
    assert refused["bucket"] > 0
