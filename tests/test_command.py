"""The command `turnout`, as a user runs it."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from turnout.testing import Provider, Reply


def turnout(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "turnout.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def written(directory: Path, config: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(config, indent=1))
    return path


def config(*providers: Provider, **router: Any) -> dict[str, Any]:
    made = [
        {"id": f"d{nth}", "model_name": "m", "endpoint": {"base_url": one.base_url, "api_key": "sk-very-secret"}, "rpm_limit": 60}
        for nth, one in enumerate(providers)
    ]
    return {"router": router, "deployments": made}


PLAIN = {
    "deployments": [{"id": "a", "model_name": "m", "weight": 3, "tags": ["eu"]}, {"id": "b", "model_name": "m", "tpm_limit": 100}]
}


def test_check_tells_what_a_config_comes_to(tmp_path: Path) -> None:
    done = turnout("check", written(tmp_path, PLAIN | {"aliases": {"x": "m"}}))
    assert (done.returncode, done.stderr) == (0, "")
    assert "100 tokens a minute" in done.stdout
    assert "x stands for m" in done.stdout
    plain = json.loads(turnout("check", "--json", written(tmp_path, PLAIN)).stdout)
    assert [one["id"] for one in plain["deployments"]] == ["a", "b"]
    assert (plain["form"], plain["problems"]) == ("turnout", [])


def test_check_fails_where_no_router_can_be_made_or_where_it_is_strict(tmp_path: Path) -> None:
    wrong = written(tmp_path, {"deployments": [{"id": "a", "model_name": "m", "wieght": 3}]})
    done = turnout("check", wrong)
    assert (done.returncode, f"{wrong}:6: deployments[0].wieght" in done.stdout) == (1, True)
    (problem,) = json.loads(turnout("check", "--json", wrong).stdout)["problems"]
    assert (problem["level"], problem["line"], problem["where"]) == ("error", 6, "deployments[0].wieght")
    doubtful = written(tmp_path, PLAIN | {"router": {"fallbacks": {"general": {"m": ["nobody"]}}}})
    assert turnout("check", doubtful).returncode == 0
    assert turnout("check", "--strict", doubtful).returncode == 1
    for more in ([], ["--json"]):
        done = turnout("check", tmp_path / "none.yaml", *more)
        assert (done.returncode, "cannot be read" in done.stdout + done.stderr) == (1, True)


def test_explain_tells_who_would_serve(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    done = turnout("explain", path, "m", "--tokens", "500")
    assert (done.returncode, "picks 'a'" in done.stdout, "never fits" in done.stdout) == (0, True, True)
    plain = json.loads(turnout("explain", path, "m", "--tag", "eu", "--json").stdout)
    assert [one["gate"] for one in plain["verdicts"]] == [None, "tags"]
    assert turnout("explain", path, "m", "--tag", "mars").returncode == 1
    assert turnout("explain", path, "m", "--exclude", "a", "--exclude", "b").returncode == 1
    unknown = turnout("explain", path, "mm")
    assert (unknown.returncode, "mm" in unknown.stderr) == (1, True)


def test_ping_asks_each_endpoint(tmp_path: Path) -> None:
    with Provider() as one, Provider() as other:
        one.always(Reply.text("x").with_headers({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}))
        other.always(Reply.error(401, message="the key is wrong"))
        path = written(tmp_path, config(one, other))
        done = turnout("ping", path)
        assert (done.returncode, "59 of 60 requests" in done.stdout, "the key is wrong" in done.stdout) == (1, True, True)
        answers = json.loads(turnout("ping", "--json", path).stdout)
        assert [(one["deployment_id"], one["is_well"], one["status"]) for one in answers] == [("d0", True, 200), ("d1", False, 401)]
        assert len(other.requests) == 2  # one each time
        assert one.requests[0].headers["authorization"] == "Bearer sk-very-secret"
        assert "very-secret" not in done.stdout + done.stderr
        other.always(Reply.text("x"))
        assert turnout("ping", path, "m").returncode == 0
        assert turnout("ping", path, "none").returncode == 1
    done = turnout("ping", path, "--timeout", "2")
    assert (done.returncode, "Connect" in done.stdout) == (1, True)
    done = turnout("ping", written(tmp_path, PLAIN))
    assert (done.returncode, "no endpoint" in " ".join(done.stdout.split())) == (1, True)


def test_ping_shows_no_key_that_a_server_repeats(tmp_path: Path) -> None:
    with Provider() as provider:
        provider.always(lambda request: Reply.raw(f"you sent {request.headers['authorization']}".encode(), status=401))
        endpoint = {"base_url": provider.base_url, "api_key": "sk-very-secret"}
        path = written(tmp_path, {"deployments": [{"id": "a", "model_name": "m", "endpoint": endpoint}]})
        for options in ([], ["--json"]):
            done = turnout("ping", path, *options)
            assert (done.returncode, "sk-very-secret" in done.stdout + done.stderr) == (1, False)
            assert "you sent" in done.stdout


def test_ping_speaks_the_dialect_of_an_endpoint(tmp_path: Path) -> None:
    with Provider() as provider:
        entries = [
            {"id": "c", "model_name": "claude", "endpoint": {"base_url": provider.url, "dialect": "anthropic"}},
            {"id": "e", "model_name": "embed", "model": "text-embedding-3", "endpoint": {"base_url": provider.base_url}},
        ]
        assert turnout("ping", written(tmp_path, {"deployments": entries})).returncode == 0
        assert sorted((one.path, one.model) for one in provider.requests) == [
            ("/v1/embeddings", "text-embedding-3"),
            ("/v1/messages", "claude"),
        ]


def test_schema_and_version() -> None:
    assert "deployments" in json.loads(turnout("schema").stdout)["properties"]
    assert turnout("version").stdout.strip() == version("turnout")
    assert json.loads(turnout("version", "--json").stdout) == {"version": version("turnout")}


def test_help_and_completion() -> None:
    for command in ([], ["check"], ["explain"], ["ping"], ["schema"], ["version"]):
        done = turnout(*command, "--help")
        assert (done.returncode, "Usage:" in done.stdout) == (0, True)
    assert turnout("--show-completion", "bash").returncode in (0, 1)  # it needs a shell that it knows
    assert turnout("nonsense").returncode == 2


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml"])
def test_without_its_libraries_one_line_says_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\nfrom turnout.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "pip install 'turnout[c" in done.stderr
