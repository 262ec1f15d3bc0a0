"""Hypothesis profiles, the clock that tests move by hand, and the bound on chance."""

import math
import os
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings
from turnout import ManualClock

# The examples of the fast profile are the same in every run. TURNOUT_SLOW=1 looks at many more, and at others
# every time.
settings.register_profile("fast", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("slow", max_examples=3000, deadline=None, print_blob=True)
settings.load_profile("slow" if os.environ.get("TURNOUT_SLOW") == "1" else "fast")


@pytest.fixture
def clock() -> ManualClock:
    """A clock that reads 0 at the start of a test."""
    return ManualClock()


@pytest.fixture(scope="session")
def assert_shares() -> Callable[[Sequence[int], Sequence[float]], None]:
    """Compares how often each candidate was drawn with its probability.

    By Chernoff's bound a share is as far off as this allows in 1 of 10^9 cases, beyond five standard
    deviations; unlike those, the bound holds for candidates that are expected less than once, too.
    """

    def check(counts: Sequence[int], probabilities: Sequence[float]) -> None:
        draws = sum(counts)
        for count, probability in zip(counts, probabilities, strict=True):
            assert draws * divergence(count / draws, probability) < math.log(2e9), (counts, probabilities)

    return check


def divergence(observed: float, expected: float) -> float:
    """How unlike two biased coins are (Kullback and Leibler)."""
    sides = ((observed, expected), (1 - observed, 1 - expected))
    return sum(seen * (math.log(seen / claimed) if claimed > 0 else math.inf) for seen, claimed in sides if seen > 0)
