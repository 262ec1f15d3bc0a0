"""Keys in texts and tracebacks: those that are wrong, and what is refused before anything is sent."""

import pickle
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
import test_typed
from turnout import ConfigurationError, Deployment, Endpoint, Env, Retry, Router, Timeouts
from turnout.testing import Provider

from families.modes import MODES, Mode
from families.test_secrets import ASK, PACKAGE, texts_of

SECRET = "sk-very-secret-5317"


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    made: Mode = request.param
    return made


def locals_of(error: BaseException) -> list[tuple[str, str]]:
    """The variables with the secret in this package's frames: function, name."""
    found = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(PACKAGE):
            for name, value in frame.f_locals.items():
                try:
                    text = repr(value)
                except Exception:
                    text = ""
                if SECRET in text:
                    found.append((frame.f_code.co_name, name))
    return found


def outcome(mode: Mode, endpoint: Endpoint) -> tuple[BaseException | None, list[str]]:
    """The error of a request, if there is one, and all that is said. It needs a real transport: that is what
    refuses bad headers.
    """
    router = Router([Deployment("a", "m", endpoint=endpoint)], retry=Retry(attempts=1), timeouts=Timeouts(capacity=0.0))
    try:
        (answer,) = mode.ask(mode.client(router), [ASK])
    except Exception as error:
        return error, texts_of(error)
    return None, [answer.body.decode(), str(router.metrics())]


# --- keys in texts ---


def test_a_key_of_two_lines_is_in_no_error(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a variable often ends with a line end. The HTTP library quotes the header that it refuses."""
    monkeypatch.setenv("TURNOUT_TEST_SECRET", SECRET + "\n")
    with Provider() as provider:
        for options in (
            {"api_key": lambda: SECRET + "\n"},
            {"api_key": Env("TURNOUT_TEST_SECRET")},
            {"headers": {"x-key": Env("TURNOUT_TEST_SECRET")}},
            {"headers": {"x-key": SECRET + " "}},
        ):
            given: dict[str, Any] = options
            error, texts = outcome(mode, Endpoint(provider.base_url, **given))
            assert error is None
            assert [text for text in texts if SECRET in text] == []
            assert SECRET in provider.requests[-1].headers.get("x-key", "") + provider.requests[-1].headers.get("authorization", "")


@pytest.mark.parametrize("key", [SECRET.encode(), SECRET + "\ud800"], ids=["bytes", "surrogate"])
def test_a_key_of_a_wrong_kind_is_in_no_traceback(mode: Mode, key: Any) -> None:
    error, texts = outcome(mode, Endpoint("http://h.example/v1", api_key=lambda: key))
    assert [text for text in texts if SECRET in text] == []
    assert "api_key must give" in "".join(texts)
    assert error is None or locals_of(error) == []


@pytest.mark.parametrize("options", [{"base_url": "ftp://h.example"}, {"dialect": "latin"}, {"query": {"a": 5}}], ids=str)
def test_an_endpoint_that_is_refused_shows_no_key_in_its_traceback(options: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, TypeError)) as refused:
        Endpoint(**{"base_url": "https://h.example/v1", "api_key": SECRET, **options})
    assert locals_of(refused.value) == []


def test_an_endpoint_that_is_refused_has_a_text() -> None:
    """Up to Python 3.12, `traceback.TracebackException(capture_locals=True)` fails if a variable has none."""
    with pytest.raises(ConfigurationError) as refused:
        Endpoint("ftp://h.example")
    at = refused.value.__traceback__
    while at is not None:
        if "self" in at.tb_frame.f_locals:
            assert repr(at.tb_frame.f_locals["self"]).startswith("Endpoint(")
        at = at.tb_next


def test_a_base_url_that_is_refused_is_shown_without_its_query() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Endpoint(f"h.example/v1?key={SECRET}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("where", ["query", "proxy"])
def test_a_secret_is_in_no_traceback_of_the_pools(mode: Mode, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """What goes wrong while a pool is opened, such as a bad proxy or a missing certificate."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"nonsense://user:{SECRET if where == 'proxy' else 'x'}@proxy.example")
    error, texts = outcome(mode, Endpoint("http://h.example/v1", query={"sig": SECRET if where == "query" else "x"}))
    assert [text for text in texts if SECRET in text] == []
    assert "names a proxy that cannot be used" in "".join(texts)
    assert error is None or locals_of(error) == []


def test_a_literal_key_in_a_header_is_not_pickled() -> None:
    """It is as much a key as `api_key`, which is refused."""
    endpoint = Endpoint("https://h.example/v1", headers={"Authorization": f"Bearer {SECRET}"})
    with pytest.raises(TypeError, match="Env"):
        pickle.dumps(endpoint)


# --- types ---


@pytest.mark.parametrize("checker", test_typed.CHECKERS)
def test_the_first_example_of_the_readme_is_typed(tmp_path: Path, checker: test_typed.Checker) -> None:
    """`ask` is a list of dicts of str, which openai's types do not take."""
    found = re.search(r"^```python\n(.*?)^```$", (test_typed.ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    file = tmp_path / "stranger.py"
    file.write_text(found[1])
    assert checker(file) == []
