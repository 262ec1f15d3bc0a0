"""The metrics of routers: names and labels, and what a real Prometheus server reads of them.

The server is looked for as ``prometheus``. Without it these tests are skipped, unless TURNOUT_TEST_ALL=1.
"""

import gc
import importlib.resources
import json
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from turnout import (
    ConfigurationError,
    Deployment,
    FailureKind,
    Health,
    Lease,
    Limit,
    ManualClock,
    NoAvailableDeployment,
    Quota,
    Retry,
    Router,
    Status,
)

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from turnout.integrations.prometheus import Collector
from turnout.shared import Memory

ROOT = Path(__file__).parent.parent
ODD = 'a "quoted" \\ back\nslash, {braces}, é, 東京, 🚦, \x00 and \x7f'
DASHBOARD = json.loads((importlib.resources.files("turnout.integrations") / "grafana.json").read_text("utf-8"))

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(registry: CollectorRegistry) -> Values:
    """All values by the name and labels; the text is parsed, so that it is escaped on the way."""
    found: Values = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def registry_of(router: Any, **options: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collector(router, **options))
    return registry


def full_router() -> Router:
    """A router in which every metric has a value."""
    quota = Quota("q", Limit(tokens=100, per=60), Limit(requests=50, per=60))
    clock = ManualClock(1.0)
    router = Router(
        [
            Deployment("a", "m", model="gpt", domain="eu", rpm_limit=30, tpm_limit=900, max_parallel_requests=4, quotas=[quota]),
            Deployment("b", "m", limits=[Limit(requests=600, per=1.5, kind="bucket", burst=10), Limit(input_tokens=50, per=60)]),
            Deployment("c", "free"),
        ],
        clock=clock,
        seed=1,
        health=Health(cooldown_jitter=0.0),
        shared=Memory(),
    )
    lease = router.acquire("m", tokens=5, exclude={"b"})
    clock.advance(0.25)
    lease.first_token()
    clock.advance(0.25)
    lease.success(tokens=7)
    for unit in ("requests", "tokens"):
        router.observe("c", {f"x-ratelimit-remaining-{unit}": "9", f"x-ratelimit-reset-{unit}": "60s"})
        spent = {f"x-ratelimit-limit-{unit}": "100" if unit == "tokens" else "50"}
        router.observe("a", {**spent, f"x-ratelimit-remaining-{unit}": "3", f"x-ratelimit-reset-{unit}": "60s"})
    router.acquire("free").failure("rate_limit")
    return router


def attempt(router: Router) -> None:
    """Makes an attempt that fails, and one that ends well and notes its first token."""

    failures = [ConnectionError()]

    def send(lease: Lease) -> None:
        if failures:
            raise failures.pop()
        lease.first_token()

    router.call("m", send)


# --- names ---


def test_every_metric_has_a_value_and_is_described() -> None:
    router = full_router()
    registry = registry_of(router, attempts=True)
    attempt(router)
    collected = {(m.name, m.type, m.documentation) for m in registry.collect() if m.samples}
    collector = Collector(router, attempts=True)
    assert collected == {(m.name, m.type, m.documentation) for m in collector.describe()}
    assert all(not m.samples for m in collector.describe())


def test_values_are_those_of_the_router() -> None:
    router = full_router()
    found = values(registry_of(router))

    def value(name: str, **labels: str) -> float:
        return found[(f"turnout_{name}", frozenset(labels.items()))]

    a = {"group": "m", "deployment": "a"}
    assert value("deployment_requests_total", **a) == 1
    assert value("deployment_tokens_total", **a) == 7
    assert value("deployment_latency_seconds", **a) == 0.5
    assert value("deployment_first_token_seconds", **a) == 0.25
    assert value("deployment_info", **a, model="gpt", domain="eu") == 1
    assert value("deployment_limit_requests", **a, per="60", kind="fixed") == 30
    assert value("deployment_limit_tokens", **a, per="60", kind="fixed", tokens="all") == 900
    assert value("deployment_limit_used_tokens", **a, per="60", kind="fixed", tokens="all") == 7
    assert value("deployment_limit_requests", group="m", deployment="b", per="1.5", kind="bucket") == 10
    assert value("deployment_limit_tokens", group="m", deployment="b", per="60", kind="fixed", tokens="input") == 50
    assert value("quota_limit_tokens", quota="q", per="60", kind="fixed", tokens="all") == 100
    assert value("quota_limit_used_requests", quota="q", per="60", kind="fixed") == 1
    assert value("deployment_failures_total", group="free", deployment="c") == 1
    assert value("deployment_status", group="free", deployment="c", status="available") == 1
    assert value("deployment_status", group="free", deployment="c", status="cooling_down") == 0
    assert value("group_deployments", group="m", status="available") == 2
    assert value("deployments_left_out") == 0


def test_names_and_units_follow_the_rules() -> None:
    for metric in Collector(Router(), attempts=True).describe():
        assert re.fullmatch(r"turnout_[a-z_]+", metric.name)
        assert metric.documentation.endswith(".")
        assert metric.type in {"counter", "gauge", "histogram", "info"}
        # The kind adds these suffixes itself. Base units: no milliseconds, minutes or percent.
        assert not re.search(r"_(total|info|count|sum|bucket|ms|milliseconds|minutes|percent)$", metric.name)


def test_the_linter_of_prometheus_has_nothing_to_say() -> None:
    promtool = needed("promtool")
    router, other = full_router(), full_router()
    for routers in (router, {"x": router, "y": other}):
        registry = registry_of(routers, attempts=True)
        attempt(router)
        text = generate_latest(registry)
        assert text.count(b"\n") > 150
        ran = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
        assert (ran.returncode, ran.stdout + ran.stderr) == (0, b"")


def test_another_namespace() -> None:
    assert {m.name.partition("_")[0] for m in Collector(Router(), namespace="llm").describe()} == {"llm"}


ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)


def test_the_page_has_every_metric_with_its_type_labels_and_unit() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    told = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in ROW.findall(page)}
    real: dict[str, tuple[str, frozenset[str]]] = {}
    router = full_router()
    registry = registry_of(router, attempts=True)
    attempt(router)
    for metric in registry.collect():
        # A histogram has samples of several names, some with a bound.
        (labels,) = {frozenset(sample.labels) - {"le"} for sample in metric.samples}
        names = {sample.name for sample in metric.samples}
        real[metric.name if metric.type == "histogram" else names.pop()] = (metric.type, labels)
    assert told == real
    for name, _, _, unit, meaning in ROW.findall(page):
        stem = name.removesuffix("_total")
        for suffix in ("seconds", "ratio", "tokens", "requests"):
            if stem.endswith(f"_{suffix}"):
                assert unit.strip() == suffix
        assert meaning.strip()


# --- bounds ---


def test_deployments_beyond_the_bound_are_counted() -> None:
    router = Router([Deployment(f"d{i}", f"m{i % 7}", quotas=[Quota(f"q{i}", Limit(requests=9))]) for i in range(50)])
    found = values(registry_of(router, max_deployments=3))
    labels = [dict(labels) for _, labels in found]
    assert {own["deployment"] for own in labels if "deployment" in own} == {"d0", "d1", "d2"}
    assert {own["group"] for own in labels if "group" in own} == {"m0", "m1", "m2"}
    assert {own["quota"] for own in labels if "quota" in own} == {"q0", "q1", "q2"}
    assert found[("turnout_deployments_left_out", frozenset())] == 47
    # A group that is shown counts all its members.
    assert found[("turnout_group_deployments", frozenset({("group", "m0"), ("status", "available")}))] == 8


@pytest.mark.parametrize(("most", "left_out"), [(None, 0), (0, 1_500), (1_000, 500), (2_000, 0)])
def test_the_bound_can_be_chosen(most: int | None, left_out: int) -> None:
    router = Router([Deployment(f"d{i}", "m") for i in range(1_500)])
    registry = registry_of(router, max_deployments=most)
    assert registry.get_sample_value("turnout_deployments_left_out") == left_out
    shown = sum(name == "turnout_deployment_requests_total" for name, _ in values(registry))
    assert shown == 1_500 - left_out


def test_limits_that_differ_in_no_label_are_one_series() -> None:
    router = Router(
        [Deployment("a", "m", rpm_limit=30, limits=[Limit(requests=20, per=60), Limit(requests=25, per=60, offset=5.0)])]
    )
    found = values(registry_of(router))
    own = frozenset({("group", "m"), ("deployment", "a"), ("per", "60"), ("kind", "fixed")})
    assert found[("turnout_deployment_limit_requests", own)] == 20


# --- attempts ---


def test_attempts_are_counted_by_outcome_and_time() -> None:
    clock = ManualClock(1.0)
    router = Router([Deployment("a", "m")], clock=clock, retry=Retry(attempts=1))
    registry = registry_of(router, attempts=True)
    own = {"group": "m", "deployment": "a"}

    def send(lease: Lease) -> None:
        clock.advance(0.25)
        lease.first_token()
        clock.advance(2.25)

    router.call("m", send)
    router.call("m", send)
    with pytest.raises(ValueError, match="odd"):
        router.call("m", lambda lease: int("odd"))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"turnout_attempt_{name}", {**own, **labels})

    assert value("outcomes_total", outcome="success") == 2
    assert sum(value("outcomes_total", outcome=kind.value) or 0 for kind in FailureKind) == 1
    assert [value("duration_seconds_bucket", le=le) for le in ("0.1", "1.0", "2.5", "+Inf")] == [1, 1, 3, 3]
    assert (value("duration_seconds_count"), value("duration_seconds_sum")) == (3, 5.0)
    assert [value("first_token_seconds_bucket", le=le) for le in ("0.1", "0.25", "+Inf")] == [0, 2, 2]
    assert (value("first_token_seconds_count"), value("first_token_seconds_sum")) == (2, 0.5)


def test_attempts_of_a_deployment_that_is_gone_are_forgotten() -> None:
    router = Router([Deployment("a", "m")])
    registry = registry_of(router, attempts=True)
    own = {"group": "m", "deployment": "a", "outcome": "success"}
    for expected in (1, 2):
        router.call("m", lambda lease: None)
        assert registry.get_sample_value("turnout_attempt_outcomes_total", own) == expected
    router.remove_deployment("a")
    assert registry.get_sample_value("turnout_attempt_outcomes_total", own) is None
    router.add_deployment(Deployment("a", "m"))
    assert registry.get_sample_value("turnout_attempt_outcomes_total", own) is None
    router.call("m", lambda lease: None)
    assert registry.get_sample_value("turnout_attempt_outcomes_total", own) == 1


def test_a_collector_that_is_gone_does_not_listen() -> None:
    router = Router([Deployment("a", "m")])
    collector = Collector(router, attempts=True)
    assert len(router._execution.listeners) == 1
    del collector
    gc.collect()
    assert len(router._execution.listeners) == 0


# --- routers ---


def test_several_routers_in_one_collector() -> None:
    first, second = Router([Deployment("a", "m")]), Router([Deployment("a", "m")])
    first.acquire("m").success()
    registry = registry_of({ODD: first, "second": second})
    own = {"group": "m", "deployment": "a"}
    assert registry.get_sample_value("turnout_deployment_requests_total", {**own, "router": ODD}) == 1
    assert registry.get_sample_value("turnout_deployment_requests_total", {**own, "router": "second"}) == 0
    assert all("router" in dict(labels) for _, labels in values(registry))


def test_a_second_collector_needs_another_namespace() -> None:
    router = Router()
    registry = registry_of(router)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(Collector(router))
    registry.register(Collector(router, namespace="other"))
    assert registry.get_sample_value("other_attempts_total") == 0


@pytest.mark.parametrize("attempts", [False, True])
def test_a_router_is_not_kept_alive(attempts: bool) -> None:
    router = Router([Deployment("a", "m")])
    collector, weak = Collector(router, attempts=attempts), weakref.ref(router)
    registry = CollectorRegistry()
    registry.register(collector)
    assert values(registry)
    del router
    gc.collect()
    assert weak() is None
    assert values(registry) == {}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (("no",), {}, TypeError, "router must be a Router or a mapping of them, not 'no'"),
        (({"a": 1},), {}, TypeError, "router 'a' must be a Router, not 1"),
        (({1: Router()},), {}, TypeError, "the name of a router must be a str, not 1"),
        (({"\ud800": Router()},), {}, ConfigurationError, r"without surrogates, not '\\ud800'"),
        ((Router(),), {"namespace": 1}, TypeError, "namespace must be a str, not 1"),
        ((Router(),), {"namespace": "a-b"}, ConfigurationError, "namespace must be of .*, not 'a-b'"),
        ((Router(),), {"namespace": "a\n"}, ConfigurationError, "namespace must be"),
        ((Router(),), {"max_deployments": -1}, ConfigurationError, "max_deployments must be at least 0, not -1"),
        ((Router(),), {"max_deployments": True}, TypeError, "max_deployments must be an int or None, not True"),
    ],
)
def test_odd_arguments_are_refused(arguments: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Collector(*arguments, **options)


# --- counters ---


def test_a_request_that_is_given_back_unsent_is_none() -> None:
    router = Router([Deployment("a", "m")])
    registry = registry_of(router)
    router.acquire("m").release()
    counts = []
    for way in ("success", "unused", "used"):
        lease = router.acquire("m")
        counts.append(registry.get_sample_value("turnout_deployment_requests_total", {"group": "m", "deployment": "a"}))
        end = lease.success() if way == "success" else lease.release(unused=way == "unused")
        assert end
        counts.append(registry.get_sample_value("turnout_deployment_requests_total", {"group": "m", "deployment": "a"}))
    assert counts == [1, 2, 2, 2, 2, 3]


def test_a_counter_never_falls_while_requests_are_given_back() -> None:
    """A fall by one would be read as a new start from 0, and all that was counted as new."""
    router = Router([Deployment("a", "m"), Deployment("b", "m")])
    registry = registry_of(router)
    ended = threading.Event()

    def end(lease: Lease, way: int) -> None:
        if way == 0:
            lease.success()
        elif way == 1:
            lease.failure("bad_request")
        else:
            lease.release(unused=way == 2)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        while not ended.is_set():
            end(router.acquire("m", tokens=3), draw.randrange(4))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    try:
        before: Values = {}
        for _ in range(200):
            now = {key: value for key, value in values(registry).items() if key[0].endswith("_total")}
            assert all(now[key] >= value for key, value in before.items())
            before = now
    finally:
        ended.set()
        for worker in workers:
            worker.join()
    assert before[("turnout_deployment_requests_total", frozenset({("group", "m"), ("deployment", "a")}))] > 0


def test_a_deployment_that_goes_during_a_scrape_has_its_last_values() -> None:
    class Going(Router):
        def snapshot(self) -> dict[str, list[Any]]:
            found = super().snapshot()
            self.remove_deployment("a")
            return found

    router = Going([Deployment("a", "m"), Deployment("b", "n")])
    found = values(registry_of(router))
    assert found[("turnout_deployment_requests_total", frozenset({("group", "m"), ("deployment", "a")}))] == 0
    # These are asked for later.
    assert [dict(own)["group"] for name, own in found if name == "turnout_group_requests_waiting"] == ["n"]
    assert [dict(own)["deployment"] for name, own in found if name == "turnout_deployment_info"] == ["b"]


def test_deployments_come_and_go_while_it_is_scraped() -> None:
    router = Router([Deployment("a", "m")])
    registry = registry_of(router)
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            router.set_deployments([Deployment(f"d{i}", f"m{i}") for i in range(3)])
            router.set_deployments([Deployment("a", "m")])

    worker = threading.Thread(target=change)
    worker.start()
    try:
        for _ in range(200):
            values(registry)
    finally:
        ended.set()
        worker.join()


# --- a real server ---


def needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        if os.environ.get("TURNOUT_TEST_ALL") == "1":
            pytest.fail(f"{program} is not installed, and TURNOUT_TEST_ALL=1")
        pytest.skip(f"{program} is not installed: apt-get install prometheus")
    return found


class Server(NamedTuple):
    """A Prometheus server that scrapes a registry ten times a second."""

    url: str
    registry: CollectorRegistry

    def ask(self, path: str, **asked: str) -> Any:
        url = f"{self.url}{path}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            said = json.load(answer)
        assert said["status"] == "success"
        return said["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        return [(one["metric"], float(one["value"][1])) for one in self.ask("/api/v1/query", query=expression)["result"]]

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def wait_for(self, expression: str, value: float) -> None:
        until(lambda: self.value(expression) == value, lambda: f"{expression} is {self.value(expression)}, not {value}")

    def wait_for_any(self, expression: str) -> None:
        """Rates need two scrapes."""
        until(lambda: bool(self.query(expression)), lambda: f"nothing for {expression}")


def until(reached: Callable[[], bool], why: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60.0
    while not reached():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


CONFIG = """
global: {{scrape_interval: 100ms, scrape_timeout: 100ms}}
scrape_configs:
- job_name: turnout
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program, folder = needed("prometheus"), tmp_path_factory.mktemp("prometheus")
    registry = CollectorRegistry()
    http, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "prometheus.yml").write_text(CONFIG.format(port=http.server_port))
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            found = Server(f"http://{address}", registry)

            def ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return found.value("up") == 1
                except OSError:
                    return False

            until(ready, (folder / "log").read_text)
            yield found
        finally:
            process.terminate()
            process.wait()
            http.shutdown()
            http.server_close()
            thread.join()


@pytest.fixture
def scraped(server: Server) -> Iterator[Callable[..., Server]]:
    collectors: list[Collector] = []

    def scrape(router: Any, **options: Any) -> Server:
        collectors.append(Collector(router, **options))
        server.registry.register(collectors[-1])
        return server

    yield scrape
    for collector in collectors:
        server.registry.unregister(collector)


def test_a_real_server_reads_the_values(scraped: Callable[..., Server]) -> None:
    router = Router([Deployment(ODD, "m\n" + ODD, rpm_limit=60), Deployment("b", "m")])
    server = scraped(router, namespace="values")
    # A string of PromQL is escaped like one of Go: these are JSON's escapes, but for the surrogates of pairs.
    selector = f"{{group={json.dumps(chr(109) + chr(10) + ODD, ensure_ascii=False)}}}".replace("\x7f", "\\u007f")
    server.wait_for(f"values_deployment_requests_total{selector}", 0)
    for _ in range(3):
        router.acquire("m\n" + ODD, tokens=10).success()
    router.cool_down("b", 3_600.0)
    server.wait_for(f"values_deployment_requests_total{selector}", 3)
    server.wait_for(f"values_deployment_tokens_total{selector}", 30)
    ((labels, _),) = server.query(f"values_deployment_requests_total{selector}")
    assert (labels["group"], labels["deployment"], labels["job"]) == ("m\n" + ODD, ODD, "turnout")
    server.wait_for('values_deployment_status{deployment="b", status="cooling_down"}', 1)
    server.wait_for('sum(values_deployment_status{deployment="b"})', 1)
    left = server.value('values_deployment_cooldown_remaining_seconds{deployment="b"}')
    assert left is not None
    assert 3_500 < left <= 3_600
    kinds = server.ask("/api/v1/metadata")
    assert kinds["values_deployment_requests"][0]["type"] == "counter"
    assert kinds["values_deployment_latency_seconds"][0]["type"] == "gauge"
    assert server.value("up") == 1


def test_a_real_server_reads_several_routers(scraped: Callable[..., Server]) -> None:
    first, second = Router([Deployment("a", "m")]), Router([Deployment("a", "m")])
    server = scraped({"first": first, "second": second}, namespace="several")
    first.acquire("m").success()
    server.wait_for('several_deployment_requests_total{router="first"}', 1)
    server.wait_for('several_deployment_requests_total{router="second"}', 0)


def test_a_real_server_sees_one_new_start_where_a_deployment_comes_back(scraped: Callable[..., Server]) -> None:
    router = Router([Deployment("a", "m"), Deployment("b", "n")])
    server = scraped(router, namespace="again")
    requests = 'again_deployment_requests_total{deployment="a"}'
    server.wait_for(requests, 0)
    for _ in range(5):
        router.acquire("m").success()
    server.wait_for(requests, 5)
    # Given back unsent: no request, and no new start.
    lease = router.acquire("m")
    server.wait_for('again_deployment_requests_in_flight{deployment="a"}', 1)
    lease.release(unused=True)
    server.wait_for('again_deployment_requests_in_flight{deployment="a"}', 0)
    assert server.value(f"resets({requests}[5m])") == 0
    router.remove_deployment("a")
    until(lambda: server.value(requests) is None, lambda: "the series goes on")
    router.add_deployment(Deployment("a", "m"))
    server.wait_for(requests, 0)
    for _ in range(2):
        router.acquire("m").success()
    server.wait_for(requests, 2)
    assert server.value(f"resets({requests}[5m])") == 1


def test_a_real_server_knows_all_that_the_dashboard_asks(scraped: Callable[..., Server]) -> None:
    router = full_router()
    server = scraped(router, attempts=True)
    attempt(router)
    server.wait_for("turnout_deployments_left_out", 0)
    names = {sample.name for metric in server.registry.collect() for sample in metric.samples}
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert len(expressions) >= 16
    for expression in expressions:
        asked = set(re.findall(r"turnout_\w+", expression))
        assert asked, expression
        assert asked <= names, expression
        plain = expression.replace("$job", "turnout").replace("$group", ".*")
        plain = plain.replace("$__rate_interval", "1m").replace("$__range", "1m")
        assert "$" not in plain
        # A comparison drops what is not cooling down.
        server.wait_for_any(plain.removesuffix(" > 0"))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            assert server.query(f"group by ({label}) ({metric})")
            assert variable["query"]["query"] == variable["definition"]


# --- the dashboard ---


def test_the_dashboard_has_no_panel_twice_or_over_another() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


def test_the_formats_agree() -> None:
    router = full_router()
    registry = registry_of(router)
    text = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    assert encode(registry).endswith(b"# EOF\n")
    openmetrics = [line for line in encode(registry).decode().splitlines() if not line.startswith("#")]
    assert len(text) == len(openmetrics)
    assert {line.rsplit(" ", 1)[0] for line in text} == {line.rsplit(" ", 1)[0] for line in openmetrics}


def test_nobody_waits_and_somebody_waits() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)])
    registry = registry_of(router)
    with router.acquire("m"):
        with pytest.raises(NoAvailableDeployment):
            router.acquire("m")
        waiter = threading.Thread(target=lambda: router.acquire("m", timeout=30.0).success())
        waiter.start()
        until(lambda: registry.get_sample_value("turnout_group_requests_waiting", {"group": "m"}) == 1, lambda: "nobody waits")
    waiter.join()
    assert registry.get_sample_value("turnout_group_requests_waiting", {"group": "m"}) == 0


@pytest.mark.parametrize("status", Status)
def test_a_deployment_has_one_status(status: Status) -> None:
    clock = ManualClock(1.0)
    router = Router([Deployment("a", "m"), Deployment("b", "m")], clock=clock)
    if status in {Status.COOLING_DOWN, Status.DEGRADED}:
        router.cool_down("a", 1.0)
    if status is Status.DEGRADED:
        clock.advance(1.0)
    if status is Status.UNHEALTHY:
        router.report_health("a", False)
    assert router.stats("a").status is status
    found = values(registry_of(router))
    for one in Status:
        own = frozenset({("group", "m"), ("deployment", "a"), ("status", one.value)})
        assert found[("turnout_deployment_status", own)] == (one is status)
