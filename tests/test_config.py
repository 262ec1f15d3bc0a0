"""Configs: turnout's own form, where values come from, what is wrong, changes of a router in use."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from turnout import (
    ConfigurationError,
    Deployment,
    Endpoint,
    Env,
    Fallbacks,
    Health,
    Hedge,
    Learning,
    Lease,
    Limit,
    ManualClock,
    MinuteRules,
    Options,
    Quota,
    Retry,
    Router,
    Strategy,
    Timeouts,
    Waiting,
)
from turnout.config import check, load, schema, watch
from turnout.config.own import Config, DeploymentConfig, EndpointConfig, RouterConfig

YAML = """\
router:
  strategy: least_busy
  retry: {attempts: 5, backoff: {base: 0.2}}
  timeouts:
    total: 60
  fallbacks:
    general: {gpt-4o: [mini]}
aliases: {fast: gpt-4o}
quotas:
  org:
    - requests: 100
deployments:
  - id: a
    model_name: gpt-4o
    rpm_limit: ${RPM}
    quotas: [org]
    endpoint: {base_url: "https://${HOST}/v1", api_key: "${KEY}"}
  - id: b
    model_name: mini
    weight: 3
"""
TOML = """\
[router]
strategy = "least_busy"
[[deployments]]
id = "a"
model_name = "m"
"""


def written(directory: Path, text: str, name: str = "config.yaml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def problems(config: Any) -> list[str]:
    return [str(problem) for problem in check(config).problems]


def one(**facts: Any) -> dict[str, Any]:
    return {"deployments": [{"id": "a", "model_name": "m", **facts}]}


# --- what comes out ---


def test_a_file_makes_a_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPM", "77")
    monkeypatch.setenv("HOST", "h.example")
    router = Router.from_config(written(tmp_path, YAML), strict=True)
    endpoint = Endpoint("https://h.example/v1", api_key=Env("KEY"))
    quota = Quota("org", Limit(requests=100))
    assert router.deployments() == [
        Deployment("a", "gpt-4o", rpm_limit=77, quotas=[quota], endpoint=endpoint),
        Deployment("b", "mini", weight=3),
    ]
    assert (router.strategy, router.aliases()) == (Strategy.LEAST_BUSY, {"fast": "gpt-4o"})
    options = router._execution.options
    assert options.timeouts == Timeouts(total=60)
    assert options.retry is not None
    assert (options.retry.attempts, options.retry.backoff.base) == (5, 0.2)


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", TOML), ("a.json", json.dumps(one())), ("a.JSON", json.dumps(one(), indent="\t"))]
)
def test_other_formats(tmp_path: Path, name: str, text: str) -> None:
    assert Router.from_config(str(written(tmp_path, text, name))).select("m") == "a"


def test_every_option_has_its_place() -> None:
    router = {
        "strategy": "round_robin",
        "strategies": {"m": "least_busy"},
        "tiers": True,
        "health": {"window": 30, "outlier_factor": None},
        "learning": {"headers": False},
        "waiting": {"max_waiters": 5},
        "retry": {"attempts": 2, "kinds": ["timeout"], "budget": None},
        "fallbacks": {"general": {"m": ["n"]}, "rate_limit": {"m": ["n"]}},
        "timeouts": {"total": None, "first_token": 3},
        "hedge": {"after": 0.5},
        "model_options": {"m": {"retry": {"attempts": 9}}},
    }
    loaded = load({"router": router, "deployments": [{"id": name, "model_name": name} for name in "mn"]})
    assert loaded.options == {
        "strategy": Strategy.ROUND_ROBIN,
        "strategies": {"m": Strategy.LEAST_BUSY},
        "tiers": True,
        "health": Health(window=30),
        "learning": Learning(headers=False),
        "waiting": Waiting(max_waiters=5),
        "retry": Retry(attempts=2, kinds=["timeout"], budget=None),
        "fallbacks": Fallbacks({"m": ["n"]}, rate_limit={"m": ["n"]}),
        "timeouts": Timeouts(total=None, first_token=3),
        "hedge": Hedge(after=0.5),
        "model_options": {"m": Options(retry=Retry(attempts=9))},
    }
    facts = {
        "model": "x",
        "weight": 2,
        "priority": 3,
        "tpm_limit": 4,
        "max_parallel_requests": 5,
        "limits": [{"requests": 9, "per": 86400, "timezone": "Europe/Berlin"}],
        "tags": ["eu"],
        "metadata": {"any": {"thing": [1]}},
        "domain": "eu-1",
        "minute_rules": {"allowed_fails": 1},
        "endpoint": {
            "base_url": "https://h.example",
            "headers": {"x": "${X}"},
            "query": {"v": "1"},
            "auth": None,
            "dialect": "anthropic",
        },
    }
    (deployment,) = load(one(**facts)).deployments
    assert deployment == Deployment(
        "a",
        "m",
        model="x",
        weight=2,
        priority=3,
        tpm_limit=4,
        max_parallel_requests=5,
        limits=[Limit(requests=9, per=86400, timezone="Europe/Berlin")],
        tags=["eu"],
        metadata={"any": {"thing": [1]}},
        domain="eu-1",
        health=MinuteRules(allowed_fails=1),
        endpoint=Endpoint("https://h.example", headers={"x": Env("X")}, query={"v": "1"}, auth=None, dialect="anthropic"),
    )


def test_the_form_has_all_that_the_api_has() -> None:
    import inspect

    def names(function: Any) -> set[str]:
        return set(inspect.signature(function).parameters)

    old = {"allowed_fails", "min_requests", "cooldown_time", "success_threshold"}
    beside = {"deployments", "seed", "clock"}
    assert RouterConfig.model_fields.keys() == names(Router) - old - beside | {"minute_rules"}
    assert DeploymentConfig.model_fields.keys() == names(Deployment) - {"deployment_id"} | {"id", "minute_rules"}
    assert EndpointConfig.model_fields.keys() == names(Endpoint) - {"rewrite"}
    assert Config.model_fields.keys() == {"router", "aliases", "quotas", "deployments"}


def test_the_schema_describes_every_setting() -> None:
    said = schema()
    assert said == schema()
    for name, part in {**said["$defs"], "Config": said}.items():
        for setting, facts in part.get("properties", {}).items():
            assert facts.get("description"), f"{name}.{setting} is not described"
    assert "least_busy" in said["$defs"]["RouterConfig"]["properties"]["strategy"]["enum"]
    json.dumps(said)


# --- what is wrong, and where ---

WRONG: list[tuple[Any, str]] = [
    (one(wieght=3), "deployments[0].wieght: there is no such setting: did you mean 'weight'?"),
    (one(weight="x"), "deployments[0].weight: input should be a valid integer, unable to parse string as an integer, not 'x'"),
    (one(weight=-1), "deployments[0]: weight must be an int from 0 to 4294967295, not -1"),
    (one(limits=[{"requests": 0}]), "deployments[0].limits[0]: requests must be an int from 1 to"),
    (
        one(quotas=["orgs"]) | {"quotas": {"org": [{"requests": 1}]}},
        "deployments[0].quotas: there is no quota 'orgs': did you mean 'org'?",
    ),
    (one() | {"quotas": {"org": []}}, "quotas.org: the quota 'org' must have at least one limit"),
    (one(endpoint={"base_url": "x"}), "deployments[0].endpoint: base_url must be an URL"),
    (one(endpoint={"base_url": "https://x", "api_key": 5}), "deployments[0].endpoint.api_key: this must be a text"),
    (one(endpoint={"base_url": "https://x", "dialekt": 5}), "endpoint.dialekt: there is no such setting: did you mean 'dialect'?"),
    (one(health={}, minute_rules={}), "deployments[0]: there must be health or minute_rules, not both"),
    (one() | {"router": {"strategy": "lest_busy"}}, "router.strategy: unknown strategy"),
    (one() | {"router": {"retry": {"attempts": 0}}}, "router.retry: attempts must be an int from 1"),
    (
        one() | {"router": {"retry": {"backoff": {"bas": 1}}}},
        "router.retry.backoff.bas: there is no such setting: did you mean 'base'?",
    ),
    (one() | {"rooter": {}}, "rooter: there is no such setting: did you mean 'router'?"),
    ({"router": {}}, "deployments: this is required"),
    ({"deployments": [{"id": "a"}]}, "deployments[0].model_name: this is required"),
    ({"deployments": one()["deployments"] * 2}, 'the id "a" is given twice'),
    (one() | {"model_list": []}, "this is of two forms: 'model_list' is LiteLLM's, 'deployments' is turnout's"),
    (one() | {"aliases": {"m": "x"}}, '"m" is a model name'),
]


@pytest.mark.parametrize(("config", "said"), WRONG, ids=[said[:50] for _, said in WRONG])
def test_what_is_wrong_is_named(config: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as failed:
        Router.from_config(config)
    assert said in str(failed.value)


def test_all_problems_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path, "deployments:\n- id: a\n  model_name: m\n  weight: x\n- id: b\n  model_name: m\n  rpm_limit: ${NOT_THERE}\n"
    )
    with pytest.raises(ConfigurationError) as failed:
        Router.from_config(path)
    assert str(failed.value).splitlines() == [
        f"{path}:7: deployments[1].rpm_limit: the environment variable 'NOT_THERE' is not set, and a limit must not vanish",
        f"{path}:4: deployments[0].weight: input should be a valid integer, unable to parse string as an integer, not 'x'",
    ]


def test_names_that_lead_nowhere_are_warned_of() -> None:
    config = one() | {
        "aliases": {"x": "nobody"},
        "router": {"fallbacks": {"general": {"m": ["n"], "q": ["m"]}}, "strategies": {"z": "least_busy"}},
    }
    said = "\n".join(problems(config))
    for name, why in (
        ("nobody", "which an alias stands for"),
        ("n", "which is a fallback"),
        ("q", "which has fallbacks"),
        ("z", "which has options of its own"),
    ):
        assert f"nobody serves {name!r}, {why}" in said
    with pytest.warns(UserWarning, match="some settings have no effect") as warned:
        Router.from_config(config)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    with pytest.raises(ConfigurationError, match="nobody serves 'n'"):
        Router.from_config(config, strict=True)


UNREADABLE = [
    ("a.yaml", "x: 1\na: [1", "a.yaml:2: "),
    ("a.yaml", "a: \x07", "a.yaml: "),
    ("a.toml", "a = ", "a.toml: "),
    ("a.json", "{", "a.json: "),
    ("a.yaml", "- 1", "must be a mapping, not a list"),
    ("a.yaml", "1: 2", "must be a text, not 1"),
    ("a.yaml", "deployments: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ("a.yaml", "[" * 5000, "nested too deeply"),
    ("a.yaml", "", "deployments: this is required"),
]


@pytest.mark.parametrize(("name", "text", "said"), UNREADABLE)
def test_what_cannot_be_read_is_an_error(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as failed:
        Router.from_config(written(tmp_path, text, name))
    assert said in str(failed.value)


def test_no_file_and_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Router.from_config(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="it is not UTF-8"):
        Router.from_config(tmp_path / "x.yaml")
    with pytest.raises(TypeError, match="must be a path or a mapping, not one of type int"):
        Router.from_config(3)  # type: ignore[arg-type]


def test_what_stands_twice_is_warned_of(tmp_path: Path) -> None:
    path = written(tmp_path, "deployments: []\ndeployments:\n- {id: a, model_name: m}\n")
    assert problems(path) == [f"{path}:2: deployments: this stands twice, and the last one counts"]


# --- secrets ---


def test_keys_are_left_to_the_environment_and_shown_nowhere(tmp_path: Path) -> None:
    secret = "sk-very-secret"
    endpoint = {"base_url": "https://h.example", "api_key": secret, "headers": {"x-own": secret}, "dialekt": "x"}
    with pytest.raises(ConfigurationError) as failed:
        Router.from_config(one(endpoint=endpoint, metadata={"db_password": "${DB}"}))
    assert secret not in str(failed.value)
    del endpoint["dialekt"]
    loaded = load(one(endpoint=endpoint, metadata={"db_password": "${DB}"}))
    assert secret not in repr(loaded)
    assert loaded.deployments[0].metadata["db_password"] == Env("DB")
    made = loaded.deployments[0].endpoint
    assert made is not None
    assert made.key() == secret
    with pytest.raises(ConfigurationError) as failed:
        Router.from_config(one(endpoint={"base_url": "https://h.example", "headers": {"x-own": ["sk-very-secret"]}}))
    assert secret not in str(failed.value)


def test_a_setting_whose_variable_is_not_set_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESENT", "7")
    monkeypatch.delenv("ABSENT", raising=False)
    loaded = check(one(weight="${PRESENT}", domain="${ABSENT}", metadata={"a": "x-${PRESENT}-y", "b": ["${ABSENT}", "$PRESENT"]}))
    (deployment,) = loaded.deployments
    assert (deployment.weight, deployment.domain) == (7, None)
    assert deployment.metadata == {"a": "x-7-y", "b": ["$PRESENT"]}
    assert [problem.level for problem in loaded.problems] == ["warning", "warning"]


# --- a router that is in use ---


def test_a_reload_keeps_counts_leases_and_waiters() -> None:
    router = Router.from_config(one(max_parallel_requests=1) | {"aliases": {"x": "m"}})
    lease = router.acquire("x")
    got: list[Lease] = []
    waiter = threading.Thread(target=lambda: got.append(router.acquire("m", timeout=10)))
    waiter.start()
    while not router.waiting("m"):
        time.sleep(0.001)
    router.reload(
        one(max_parallel_requests=2, weight=5)
        | {"aliases": {"y": "m"}, "router": {"strategy": "least_busy", "hedge": {"after": 1}}}
    )
    waiter.join()
    assert [waited.deployment_id for waited in got] == ["a"]
    assert (router.stats("a").in_flight, router.stats("a").total_requests) == (2, 2)
    assert (router.aliases(), router.strategy, router.get_deployment("a").weight) == ({"y": "m"}, Strategy.LEAST_BUSY, 5)
    assert router._execution.options.hedge == Hedge(after=1)
    lease.success()
    got[0].success()
    router.reload(one())
    assert router.aliases() == {}
    assert router.strategy is Strategy.SIMPLE_SHUFFLE
    assert router._execution.options.hedge is None


def test_a_reload_that_is_wrong_changes_nothing() -> None:
    router = Router.from_config(one() | {"aliases": {"x": "m"}})
    for wrong in (one(weight=-1), one() | {"aliases": {"m": "x"}}, {"deployments": one()["deployments"] * 2}):
        with pytest.raises(ConfigurationError):
            router.reload(wrong)
        assert (router.deployments(), router.aliases()) == ([Deployment("a", "m")], {"x": "m"})


def test_a_watch_takes_changes_over_until_it_ends(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(one()), "config.json")
    router = Router.from_config(path)
    errors: list[Exception] = []
    end = watch(router, path, interval=0.01, on_error=errors.append)

    def until(is_so: Any) -> None:
        deadline = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    path.write_text("{")
    until(lambda: errors)
    assert isinstance(errors[0], ConfigurationError)
    # A link that turns to another file, as in a mounted map.
    other = written(tmp_path, json.dumps(one(weight=9)), "other.json")
    link = tmp_path / "link"
    link.symlink_to(other)
    os.replace(link, path)
    until(lambda: router.get_deployment("a").weight == 9)
    end()
    end()
    path.unlink()
    path.write_text(json.dumps(one(weight=3)))
    time.sleep(0.05)
    assert router.get_deployment("a").weight == 9
    for wrong, error in ((0.0, ConfigurationError), ("1", TypeError)):
        with pytest.raises(error, match="interval must be"):
            watch(router, path, interval=wrong)  # type: ignore[arg-type]


def test_a_watch_keeps_no_router_alive(tmp_path: Path) -> None:
    import gc
    import weakref

    path = written(tmp_path, json.dumps(one()), "config.json")
    router: Any = Router.from_config(path)
    before, weak = threading.active_count(), weakref.ref(router)
    watch(router, path, interval=0.01)
    router = None
    gc.collect()
    assert weak() is None
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_router_of_a_class_of_its_own_with_a_clock() -> None:
    class Mine(Router):
        pass

    clock = ManualClock()
    router = Mine.from_config(one(), seed=3, clock=clock)
    assert type(router) is Mine
    clock.advance(5.0)
    assert router._now() == clock.now()


def test_without_its_libraries_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import turnout\n"
        "try: turnout.Router.from_config({})\n"
        "except ImportError as error: print(error)\n"
        "assert 'yaml' not in sys.modules\n"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "pip install 'turnout[config]'" in said


def test_the_schema_takes_what_is_taken() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the schema: make lint installs it")
    good = {
        "router": {"tiers": "${TIERS}", "retry": {"attempts": 2}},
        "deployments": [{"id": "a", "model_name": "m", "rpm_limit": "${RPM}", "weight": "os.environ/W", "tpm_limit": 5}],
    }
    jsonschema.validate(good, schema())
    for wrong in ({"rpm_limit": "many"}, {"rpm_limit": 1.5}, {"wieght": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"deployments": [{"id": "a", "model_name": "m", **wrong}]}, schema())
