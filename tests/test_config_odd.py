"""Configs that are odd, too large, or written to hurt. Each is an error, and no secret shows."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from turnout import ConfigurationError, ModelNotFound, Router
from turnout.cli import checking
from turnout.config import check, load, watch

SECRET = "sk-VERY-SECRET"


def litellm(entry: dict[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
    return {"model_list": [{"model_name": "m", "litellm_params": {"model": "openai/x", **(entry or {})}}], **more}


def own(*deployments: Any, **more: Any) -> dict[str, Any]:
    return {"deployments": [*deployments], **more}


KEY = {"api_key": SECRET}
LEAKS: list[dict[str, Any]] = [
    {"deployments": {"a": {"endpoint": KEY}}},
    own({"id": "a", "model_name": "m", "endpoint": [KEY]}),
    own({"id": [KEY], "model_name": KEY}),
    litellm(router_settings={"fallbacks": [{"m": [{"modle": "x", **KEY}]}]}),
    litellm(router_settings={"fallbacks": [{"m": {"model": "x", **KEY}}]}),
    litellm(router_settings={"fallbacks": {"m": KEY}, "retry_policy": [KEY]}),
    litellm(router_settings={"model_group_alias": {"a": KEY}, "routing_groups": KEY}),
    litellm({"tags": KEY, "rpm": KEY, "weight": [KEY]}),
    litellm({"model": KEY}),
    litellm({"extra_headers": {"Authorization": f"Bearer {SECRET}"}, "extra_body": KEY, "apiKey": SECRET, "api-key": SECRET}),
    litellm({"vertex_credentials": {"private_key": SECRET}, "aws_access_key_id": SECRET}),
    {"model_list": [{"model_name": "m", "litellm_params": {"model": "bedrock/x", "api_base": f"https://u:{SECRET}@h/v1"}}]},
    {"model_list": [{"model_name": "m", "litellm_params": {"model": "openai/x"}, "model_info": KEY}]},
]


@pytest.mark.parametrize("nth", range(len(LEAKS)))
def test_a_secret_shows_in_no_problem_and_in_no_text(nth: int) -> None:
    found = check(LEAKS[nth])
    shown = [json.dumps(checking.as_data(found)), *map(str, found.problems), *(one.deployment_id for one in found.deployments)]
    hosts_hidden = "bedrock" not in str(LEAKS[nth])
    if hosts_hidden:  # an address with a password is kept as it is, for who sends the requests
        shown.append(repr(found))
    for text in shown:
        assert SECRET not in text


YAML: dict[str, str] = {
    "a date that is none": "deployments:\n- id: 2024-13-45\n  model_name: m\n",
    "a number that is none": "deployments:\n- {id: a, model_name: m, rpm_limit: !!int abc}\n",
    "many digits": f"deployments:\n- {{id: a, model_name: m, rpm_limit: {'9' * 5000}}}\n",
    "a bomb": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)),
    "a cycle": "deployments: &a [*a]\n",
    "a cycle in an entry": "model_list:\n- model_name: m\n  litellm_params: &p {model: openai/x, q: *p}\n",
    "depth": "deployments: " + "{a: " * 3_000 + "1" + "}" * 3_000 + "\n",
}


@pytest.mark.parametrize("name", YAML)
def test_an_odd_file_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(YAML[name])
    with pytest.raises(ConfigurationError) as failed:
        load(path)
    assert len(str(failed.value)) < 1_000


@pytest.mark.parametrize(
    "data",
    [
        litellm({"rpm": 10**5000}),
        litellm({"rpm": "1e99999999"}),
        litellm({"rpm": "1e30"}),
        litellm({"input_cost_per_token": "1e400"}),
        litellm({"cooldown_time": "1e400"}),
        litellm(router_settings={"timeout": 10**400}),
        litellm({"extra_headers": ["a"]}),
        litellm(router_settings={"default_fallbacks": "m"}),
        litellm(router_settings={"retry_policy": 5}),
        litellm(router_settings={"model_group_retry_policy": []}),
        litellm(router_settings={"enable_tag_filtering": "true"}),
        own({"id": "a", "model_name": "m", "endpoint": {"base_url": "https://h/v1", "headers": {"A": "Bearer ${TOKEN}"}}}),
        litellm({"api_key": "x-${TOKEN}"}),
    ],
)
def test_an_odd_value_is_an_error_with_its_place(data: dict[str, Any]) -> None:
    problem, *_ = check(data).problems
    assert problem.level == "error"
    assert problem.where


def test_keys_that_are_no_texts_harm_nothing() -> None:
    entry = {"model": "openai/x", 5: "five", None: "none"}
    assert not check({"model_list": [{"model_name": "m", "litellm_params": entry}]}).problems


@pytest.mark.parametrize("path", ["a\0b", "\udcff"])
def test_a_path_that_is_none_is_an_error(path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(path)


def test_the_first_fallbacks_of_a_name_count() -> None:
    found = check(
        litellm(router_settings={"fallbacks": [{"m": ["m2"]}, {"m": ["m3"]}], "model_group_alias": {"m2": "m", "m3": "m"}})
    )
    assert found.options["fallbacks"].general == {"m": ("m2",)}
    assert any("the first ones count" in str(one) for one in found.problems)


def test_no_cooldowns_means_none_for_each_entry() -> None:
    [deployment] = check(litellm({"cooldown_time": 30}, router_settings={"disable_cooldowns": True})).deployments
    assert deployment.health is None


def test_a_long_time_limit_is_not_cut_short_by_that_of_the_whole_call() -> None:
    assert check(litellm(litellm_settings={"request_timeout": 6000})).options["timeouts"].total is None
    found = check(litellm(litellm_settings={"request_timeout": 30}, router_settings={"timeout": 0}))
    assert found.options["timeouts"].attempt == 30


def test_settings_of_a_group_and_variables_of_the_file_are_named() -> None:
    groups = [{"group_name": "g", "models": ["m"], "routing_strategy": "least-busy", "routing_strategy_args": {}}]
    found = check(litellm(router_settings={"routing_groups": groups}, environment_variables={"A": "b"}))
    assert [one.where for one in found.problems] == [
        "environment_variables",
        "router_settings.routing_groups[0].routing_strategy_args",
    ]


def test_the_lines_of_an_anchor_are_those_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("deployments:\n  - &a\n    id: x\n    model_name: m\n    wieght: 3\n  - *a\n")
    assert check(path).problems[0].line == 5


# --- changes of a router in use ---

OLD = own({"id": "a", "model_name": "ma"}, router={"strategy": "least_busy", "tiers": True}, aliases={"f": "ma"})
NEW = own({"id": "a", "model_name": "mb"}, router={"strategy": "round_robin"}, aliases={"f": "mb"})


def test_reloads_at_once_leave_one_of_them() -> None:
    router, old, new = Router.from_config(OLD), load(OLD), load(NEW)
    for _ in range(200):
        barrier = threading.Barrier(2)

        def put(loaded: Any, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            loaded.put_into(router)

        threads = [threading.Thread(target=put, args=(loaded,)) for loaded in (old, new)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = (router.models(), router.aliases(), str(router.strategy), router.tiers)
        assert left in ((["ma"], {"f": "ma"}, "least_busy", True), (["mb"], {"f": "mb"}, "round_robin", False))


def test_an_alias_leads_somewhere_at_any_time() -> None:
    deployments = [{"id": "a", "model_name": "ma"}, {"id": "b", "model_name": "mb"}]
    loaded = [load(own(*deployments, aliases={"f": target})) for target in ("ma", "mb")]
    router = loaded[0].router()
    missed: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                router.select("f")
            except ModelNotFound as error:
                missed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for nth in range(500):
        loaded[nth % 2].put_into(router)
    done.set()
    thread.join()
    assert not missed


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"x": "y", "y": "m"}, {"y": "x", "x": "m"}),
        ({"x": "m"}, {"y": "x", "x": "n"}),
        ({"x": "m", "y": "m"}, {}),
        ({}, {"x": "y", "y": "n"}),
    ],
)
def test_aliases_are_as_the_config_says(before: dict[str, str], after: dict[str, str]) -> None:
    deployments = [{"id": "a", "model_name": "m"}, {"id": "b", "model_name": "n"}]
    router = Router.from_config(own(*deployments, aliases=before))
    router.reload(own(*deployments, aliases=after))
    assert router.aliases() == after
    router.reload(own({"id": "c", "model_name": "x"}))
    assert (router.aliases(), router.models()) == ({}, ["x"])


def test_a_watch_goes_on_after_its_callback_failed(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(own({"id": "a", "model_name": "m"})))
    router = Router.from_config(path)
    told = threading.Event()

    def fail(error: Exception) -> None:
        told.set()
        raise ZeroDivisionError

    end = watch(router, path, interval=0.01, on_error=fail)
    try:
        path.write_text("{")
        assert told.wait(20)
        path.write_text(json.dumps(own({"id": "a", "model_name": "other"})))
        deadline = threading.Event()
        for _ in range(2_000):
            if router.models() == ["other"]:
                break
            deadline.wait(0.01)
        assert router.models() == ["other"]
    finally:
        end()


def test_what_a_terminal_would_follow_is_written_out() -> None:
    assert checking.printable("a\x1b[31mRED\nnext") == "a\\x1b[31mRED\\nnext"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_amid_a_reload_leaves_the_child_free_to_reload() -> None:
    router, new = Router.from_config(OLD), load(NEW)
    with router._execution.reloading:
        child = os.fork()
        if not child:
            new.put_into(router)
            os._exit(router.models() != ["mb"])
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert router.models() == ["ma"]
