"""What is counted of the attempts of whole requests, for `turnout.integrations.prometheus`."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Container
from threading import RLock

from turnout.execution.record import AttemptRecord

__all__ = ["BOUNDS", "AttemptCounts"]

# From a refusal at once to a long answer.
BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0)


class _Histogram:
    """Counts times by their bounds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a time."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def cumulated(self) -> list[int]:
        """Return how many times are at most as long as each of the bounds; last, how many there are."""
        total = 0
        return [total := total + count for count in self._counts]


class _OfDeployment:
    """The counts of one deployment."""

    def __init__(self) -> None:
        self.outcomes = Counter[str]()
        self.durations = _Histogram()
        self.first_tokens = _Histogram()


class AttemptCounts:
    """A callback of :meth:`turnout.Router.on_attempt` that counts by deployment."""

    def __init__(self) -> None:
        self._of: dict[str, _OfDeployment] = {}
        # An attempt may end while memory is collected, and so while this thread holds the lock.
        self._lock = RLock()

    def __call__(self, record: AttemptRecord) -> None:
        """Count an attempt that has ended."""
        with self._lock:
            counts = self._of.get(record.deployment_id)
            if counts is None:
                counts = self._of.setdefault(record.deployment_id, _OfDeployment())
            counts.outcomes["success" if record.kind is None else str(record.kind)] += 1
            counts.durations.add(record.seconds)
            if record.first_token is not None:
                counts.first_tokens.add(record.first_token)

    def forget_others(self, known: Container[str]) -> None:
        """Forget the deployments that are not shown, so that ids that come and go do not pile up."""
        with self._lock:
            for deployment_id in [one for one in self._of if one not in known]:
                del self._of[deployment_id]

    def read(self, deployment_id: str) -> tuple[Counter[str], dict[str, tuple[list[int], float]]] | None:
        """Return what was counted of a deployment, at one moment.

        Returns:
            How many attempts had which outcome; and the histograms by the names of their metrics, each as its
            cumulated counts and its sum. None if nothing was counted.
        """
        with self._lock:
            counts = self._of.get(deployment_id)
            if counts is None:
                return None
            histograms = {"attempt_duration_seconds": counts.durations, "attempt_first_token_seconds": counts.first_tokens}
            return counts.outcomes.copy(), {name: (found.cumulated(), found.sum) for name, found in histograms.items()}
