"""The comparison of two revisions: its arithmetic and its refusals. What it measures is not tested."""

import random
import subprocess
import sys
from pathlib import Path

import beside
import pytest
from beside import Cell, Pair

ROOT = Path(__file__).parent.parent


def cell(low: float, ratio: float = 1.0) -> Cell:
    return Cell("select", "least_busy", 10, ratio, low, 2.0, 80.0, 80.0)


def test_the_interval_of_31_is_that_of_the_binomial() -> None:
    # Of X with the distribution Bin(31, 1/2): 2 P(X <= 6) is 0.0009, 2 P(X <= 7) is 0.003.
    low, high = beside.interval([float(i) for i in range(1, 32)], 0.999)
    assert (low, high) == (7.0, 25.0)


def test_an_interval_has_the_median_as_often_as_it_says() -> None:
    chance = random.Random(5)
    inside = 0
    for _ in range(2000):
        low, high = beside.interval([chance.expovariate(1.0) for _ in range(31)], 0.9)
        inside += low <= 0.6931471805599453 <= high
    assert 0.9 * 2000 - 40 <= inside < 0.99 * 2000


def test_a_cell_is_the_median_of_its_pairs() -> None:
    pairs = [Pair(1 + i / 100, 100.0 + i, 100.0) for i in range(31)]
    assert beside.to_cell("select", "least_busy", 10, pairs) == Cell("select", "least_busy", 10, 1.15, 1.06, 1.24, 115.0, 100.0)


def test_too_few_pairs_tell_nothing() -> None:
    with pytest.raises(ValueError, match="9 pairs"):
        beside.interval([1.0] * 9, 0.999)


def test_only_an_interval_above_the_bound_fails(capsys: pytest.CaptureFixture[str]) -> None:
    others = [cell(0.9), cell(0.9)._replace(operation="acquire + release")]
    assert beside.verdict([*others, cell(1.05, 1.3)]) == 0
    assert beside.verdict([*others, cell(1.051, 1.3)]) == 1
    assert "slower: select by least_busy among 10: 1.300" in capsys.readouterr().out


def test_the_geometric_mean_is_one() -> None:
    assert beside.geometric_mean([cell(1.0, 0.5), cell(1.0, 2.0)]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["no-such-revision"], "REV must be a revision of this repository, such as HEAD~1 or a commit, not 'no-such-revision'"),
        (["HEAD", "--pairs", "5"], "'5' must be an int of at least 31"),
        (["HEAD", "--sizes", "10,none"], "'none' must be an int of at least 1"),
        (["HEAD", "--strategies", "best"], "'best' must be one of simple_shuffle"),
    ],
)
def test_what_makes_no_sense_is_refused(args: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "benches/beside.py", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
