"""Metrics of routers for Prometheus.

A collector of ``prometheus_client`` that asks the routers when it is scraped. Nothing is done on the way to a
pick. It needs prometheus_client: ``pip install 'turnout[prometheus]'``.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from operator import sub
from typing import Any, NamedTuple
from weakref import finalize, ref

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as _Collector

from turnout import Router, Status, __version__
from turnout.exceptions import ConfigurationError, ModelNotFound
from turnout.integrations._attempts import BOUNDS, AttemptCounts
from turnout.records import LimitStats, ObservedStats

__all__ = ["Collector"]


class _Family(NamedTuple):
    """What is known of a metric before there is a value."""

    kind: str
    help: str


# Without the namespace, and without the suffix that the kind adds: _total or _info. A column of the snapshot
# that is not None is a value.
_OF_DEPLOYMENT = {
    "total_requests": ("deployment_requests", "counter", "Requests that were sent and have ended."),
    "total_successes": ("deployment_successes", "counter", "Requests that ended with a success."),
    "total_failures": ("deployment_failures", "counter", "Requests that ended with a failure that counts against its health."),
    "total_tokens": ("deployment_tokens", "counter", "Tokens of requests that ended with a success."),
    "in_flight": ("deployment_requests_in_flight", "gauge", "Requests in flight."),
    "max_parallel_requests": ("deployment_max_requests_in_flight", "gauge", "Most requests in flight, as configured."),
    "learnt_parallel_requests": (
        "deployment_learnt_max_requests_in_flight",
        "gauge",
        "Most requests in flight, as learnt from refusals.",
    ),
    "avg_latency": ("deployment_latency_seconds", "gauge", "Smoothed latency of requests."),
    "avg_first_token": ("deployment_first_token_seconds", "gauge", "Smoothed time to the first token."),
    "cooldown_remaining": ("deployment_cooldown_remaining_seconds", "gauge", "Time until its cooldown ends, 0 outside of one."),
    "consecutive_failures": ("deployment_consecutive_failures", "gauge", "Failures since the last success or cooldown."),
    "trips": ("deployment_trips", "gauge", "Cooldowns that are not forgotten."),
    "slow_start_share": (
        "deployment_slow_start_ratio",
        "gauge",
        "Part of its fair share that slow start lets it have, 1 outside of one.",
    ),
}
_OF_ROUTER = {
    "attempts": ("attempts", "counter", "Attempts of whole requests."),
    "retries": ("retries", "counter", "Attempts that followed a failed one on the same model name."),
    "fallbacks": ("fallbacks", "counter", "First attempts on another model name."),
    "hedges": ("hedges", "counter", "Attempts that began beside a slow one."),
    "budget_refusals": ("budget_refusals", "counter", "Attempts that the budget of retries refused."),
    "events_dropped": ("events_dropped", "counter", "Events that were dropped, since too many waited to be told."),
}
_OF_STORE = {
    "processes": ("store_processes", "gauge", "Processes that share limits through the store, this one included."),
    "syncs": ("store_messages", "counter", "Messages that the shared store has answered."),
    "sync_errors": ("store_errors", "counter", "Times that the shared store did not answer."),
    "store_age": ("store_age_seconds", "gauge", "Time since the shared store last answered."),
    "store_lost": ("store_lost", "gauge", "1 while the shared store does not answer."),
    "recovering": ("store_recovering", "gauge", "1 while the shared store learns what it has lost, and grants nothing."),
}
_FAMILIES = {
    "router": _Family("info", "The version of turnout and the router's strategy."),
    **{name: _Family(kind, said) for name, kind, said in (_OF_ROUTER | _OF_STORE).values()},
    "deployments_left_out": _Family("gauge", "Deployments that have no series of their own, since there are too many."),
    "group_deployments": _Family("gauge", "Deployments of the group by their status."),
    "group_requests_waiting": _Family("gauge", "Requests that wait for capacity."),
    "group_panicking": _Family("gauge", "1 while so few deployments are in service that their health is ignored."),
    "deployment": _Family("info", "The provider's model and the failure domain of the deployment."),
    "deployment_status": _Family("gauge", "1 for the status that the deployment has, 0 for the others."),
    **{name: _Family(kind, said) for name, kind, said in _OF_DEPLOYMENT.values()},
    **{
        f"{whose}_{what}_{unit}": _Family("gauge", said)
        for whose in ("deployment", "quota")
        for what, said in (
            ("limit", "The limit: the most that can be used at once."),
            ("limit_used", "What is used of the limit, reservations included."),
            ("observed_remaining", "What the provider said is left."),
        )
        for unit in ("requests", "tokens")
    },
}
_OF_ATTEMPTS = {
    "attempt_outcomes": _Family("counter", "Attempts of whole requests by what they ended with."),
    "attempt_duration_seconds": _Family("histogram", "How long attempts of whole requests took."),
    "attempt_first_token_seconds": _Family("histogram", "Time to the first token of these attempts, where it was noted."),
}
_SUFFIXES = {"counter": "_total", "info": "_info", "gauge": ""}
_TOKENS = {"tokens": "all", "input_tokens": "input", "output_tokens": "output"}
_NAMESPACE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Collector(_Collector):
    """A collector of ``prometheus_client`` for one router or several.

    Routers are asked when they are scraped. They are not kept alive: a router that is gone has no series.
    docs/metrics.md names every metric.

    Args:
        router: The router; or several, by names that become the label ``router``. All routers of a registry
            belong into one collector: the formats of Prometheus allow each metric once. A second collector
            with the same namespace is refused by the registry.
        namespace: What all names begin with, letters, digits and underscores.
        max_deployments: Most deployments of a router that have series of their own, at least 0; None for no
            limit. They are the first in the order of registration. ``turnout_deployments_left_out`` counts
            the others. Groups and quotas have series if one of these deployments belongs to them.
        attempts: Whether to listen to :meth:`turnout.Router.on_attempt` too, for outcomes and histograms of
            the attempts of whole requests. That adds about five microseconds to an attempt, and nothing to a
            pick. Closing the router ends it.

    Raises:
        ConfigurationError: A value is out of range, or a name is not allowed.
        TypeError: A value is of the wrong type.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> from turnout import Deployment, Router
        >>> from turnout.integrations.prometheus import Collector
        >>> registry = CollectorRegistry()
        >>> router = Router([Deployment("eu", "gpt-4o")])
        >>> registry.register(Collector(router))
        >>> router.acquire("gpt-4o").success(tokens=12)
        True
        >>> labels = {"group": "gpt-4o", "deployment": "eu"}
        >>> registry.get_sample_value("turnout_deployment_tokens_total", labels)
        12
    """

    def __init__(
        self,
        router: Router | Mapping[str, Router],
        *,
        namespace: str = "turnout",
        max_deployments: int | None = 1_000,
        attempts: bool = False,
    ) -> None:
        if not isinstance(namespace, str):
            raise TypeError(f"namespace must be a str, not {namespace!r} ({type(namespace).__name__})")
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigurationError(f"namespace must be of the letters a-z and A-Z, digits and underscores, not {namespace!r}")
        if max_deployments is not None:
            if isinstance(max_deployments, bool) or not isinstance(max_deployments, int):
                raise TypeError(
                    f"max_deployments must be an int or None, not {max_deployments!r} ({type(max_deployments).__name__})"
                )
            if max_deployments < 0:
                raise ConfigurationError(f"max_deployments must be at least 0, not {max_deployments}")
        self._namespace = namespace
        self._most = max_deployments
        self._known = {**_FAMILIES, **_OF_ATTEMPTS} if attempts else _FAMILIES
        # With the labels that all series of the router have.
        self._routers: list[tuple[ref[Router], dict[str, str], AttemptCounts | None]] = []
        for member, labels in list(_labelled(router)):
            counts = None
            if attempts:
                counts = AttemptCounts()
                # A collector that is gone counts no more.
                finalize(self, member.on_attempt(counts)).atexit = False
            self._routers.append((ref(member), labels, counts))

    def describe(self) -> Iterable[Metric]:
        """Return every metric, without a value. A registry finds by them what clashes."""
        return self._families().values()

    def collect(self) -> Iterable[Metric]:
        """Return every metric, with the values of this moment."""
        families = self._families()
        for weak, labels, counts in self._routers:
            router = weak()
            if router is not None:
                _Reading(families, labels).read(router, self._most, counts)
        return families.values()

    def _families(self) -> dict[str, Metric]:
        return {name: Metric(f"{self._namespace}_{name}", family.help, family.kind) for name, family in self._known.items()}


class _Reading:
    """Takes the values of one router."""

    def __init__(self, families: Mapping[str, Metric], labels: dict[str, str]) -> None:
        self._families = families
        self._labels = labels

    def read(self, router: Router, most: int | None, counts: AttemptCounts | None) -> None:
        metrics = router.metrics()
        columns = router.snapshot()
        # A request that is given back unsent falls out of the total. Less those in flight, it never falls.
        columns["total_requests"] = list(map(sub, columns["total_requests"], columns["in_flight"]))
        ids, groups, statuses = columns["deployment_id"], columns["model_name"], columns["status"]
        shown = len(ids) if most is None else min(most, len(ids))
        self._add("router", {**self._labels, "version": __version__, "strategy": str(router.strategy)}, 1)
        for column, (name, _, _) in _OF_ROUTER.items():
            self._add(name, self._labels, getattr(metrics, column))
        if metrics.processes:
            for column, (name, _, _) in _OF_STORE.items():
                value = getattr(metrics, column)
                if value is not None:
                    self._add(name, self._labels, int(value) if isinstance(value, bool) else value)
        self._add("deployments_left_out", self._labels, len(ids) - shown)
        self._read_groups(router, dict.fromkeys(groups[:shown]), Counter(zip(groups, statuses, strict=True)), metrics.panicking)

        labels = [
            {**self._labels, "group": group, "deployment": deployment_id}
            for deployment_id, group in zip(ids[:shown], groups, strict=False)
        ]
        for column, (name, _, _) in _OF_DEPLOYMENT.items():
            for own, value in zip(labels, columns[column], strict=False):
                if value is not None:
                    self._add(name, own, value)
        for own, found in zip(labels, statuses, strict=False):
            for status in Status:
                self._add("deployment_status", {**own, "status": status.value}, int(status is found))
        known = {deployment.deployment_id: deployment for deployment in router.deployments()}
        for deployment_id, own in zip(ids, labels, strict=False):
            deployment = known.get(deployment_id)
            if deployment is not None:  # it may have been removed since
                self._add("deployment", {**own, "model": deployment.model, "domain": deployment.domain or ""}, 1)
        self._read_limits(columns, labels)
        if counts is not None:
            self._read_attempts(counts, dict(zip(ids, labels, strict=False)))

    def _read_groups(
        self, router: Router, groups: Iterable[str], members: Mapping[tuple[str, Status], int], panicking: tuple[str, ...]
    ) -> None:
        for group in groups:
            own = {**self._labels, "group": group}
            for status in Status:
                self._add("group_deployments", {**own, "status": status.value}, members.get((group, status), 0))
            with suppress(ModelNotFound):  # it may have been removed since
                self._add("group_requests_waiting", own, router.waiting(group))
            self._add("group_panicking", own, int(group in panicking))

    def _read_limits(self, columns: Mapping[str, list[Any]], labels: list[dict[str, str]]) -> None:
        # Prometheus refuses a scrape that has a series twice. A quota is met at each of its deployments, and
        # two limits may differ in nothing that is a label: the one that is nearest to its end counts.
        nearest: dict[tuple[str, ...], _Amount] = {}
        for row, own in enumerate(labels):
            for amount in _amounts(columns, row):
                bearer = own if amount.quota is None else {**self._labels, "quota": amount.quota}
                labelled = {**bearer, **amount.labels}
                key = (amount.name, *labelled.values())
                if key not in nearest or amount.remaining < nearest[key].remaining:
                    nearest[key] = amount._replace(labels=labelled)
        for amount in nearest.values():
            for what, value in amount.values.items():
                self._add(amount.name.format(what), amount.labels, value)

    def _read_attempts(self, counts: AttemptCounts, shown: Mapping[str, dict[str, str]]) -> None:
        counts.forget_others(shown)
        for deployment_id, own in shown.items():
            found = counts.read(deployment_id)
            if found is None:
                continue
            outcomes, histograms = found
            for outcome, count in outcomes.items():
                self._add("attempt_outcomes", {**own, "outcome": outcome}, count)
            for name, (cumulated, total) in histograms.items():
                metric = self._families[name]
                for bound, count in zip((*map(str, BOUNDS), "+Inf"), cumulated, strict=True):
                    metric.add_sample(f"{metric.name}_bucket", {**own, "le": bound}, count)
                metric.add_sample(f"{metric.name}_count", own, cumulated[-1])
                metric.add_sample(f"{metric.name}_sum", own, total)

    def _add(self, name: str, labels: dict[str, str], value: float) -> None:
        metric = self._families[name]
        metric.add_sample(metric.name + _SUFFIXES[metric.type], labels, value)


class _Amount(NamedTuple):
    """What there is of a limit. The name has a gap for what each of the values is."""

    name: str
    quota: str | None
    labels: dict[str, str]
    remaining: int
    values: dict[str, int]


def _amounts(columns: Mapping[str, list[Any]], row: int) -> Iterator[_Amount]:
    """Find the limits of a deployment and of its quotas, and what the provider said is left of its own."""
    for unit, short in (("requests", "rpm"), ("tokens", "tpm")):
        limit, used = columns[f"{short}_limit"][row], columns[f"{short}_current"][row]
        if limit is not None:
            yield _limit(unit, None, "60", "fixed", limit, used)
    stats: LimitStats
    for stats in columns["limits"][row]:
        limit = stats.limit
        # The most that can be used at once is what the used units are a part of.
        yield _limit(limit.unit, stats.quota, f"{limit.per:.15g}", limit.kind, limit.burst or limit.amount, stats.used)
    observed: ObservedStats
    for observed in columns["observed"][row]:
        name, labels = _unit(observed.unit)
        left = observed.remaining
        yield _Amount(f"{_bearer(observed.quota)}_{{}}_{name}", observed.quota, labels, left, {"observed_remaining": left})


def _limit(unit: str, quota: str | None, per: str, kind: str, limit: int, used: int) -> _Amount:
    name, labels = _unit(unit)
    labels |= {"per": per, "kind": kind}
    return _Amount(f"{_bearer(quota)}_{{}}_{name}", quota, labels, limit - used, {"limit": limit, "limit_used": used})


def _bearer(quota: str | None) -> str:
    return "deployment" if quota is None else "quota"


def _unit(unit: str) -> tuple[str, dict[str, str]]:
    """Return the unit of the metric, and the labels that tell which of these units."""
    return ("requests", {}) if unit == "requests" else ("tokens", {"tokens": _TOKENS[unit]})


def _labelled(router: object) -> Iterator[tuple[Router, dict[str, str]]]:
    """Check the routers, and return each with its labels."""
    if isinstance(router, Router):
        yield router, {}
        return
    if not isinstance(router, Mapping):
        raise TypeError(f"router must be a Router or a mapping of them, not {router!r} ({type(router).__name__})")
    for name, member in router.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a router must be a str, not {name!r} ({type(name).__name__})")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ConfigurationError(f"the name of a router must be a str without surrogates, not {name!r}")
        if not isinstance(member, Router):
            raise TypeError(f"router {name!r} must be a Router, not {member!r} ({type(member).__name__})")
        yield member, {"router": name}
