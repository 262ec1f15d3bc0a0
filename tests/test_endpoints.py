"""Endpoints: where and how a deployment is reached, what they refuse, and that no secret shows."""

import copy
import gc
import pickle
import traceback
import weakref
from typing import Any

import pytest
from turnout import ConfigurationError, Deployment, Endpoint, Env, NoAvailableDeployment, Router

SECRET = "sk-very-secret"


def secret_key() -> str:
    return SECRET


def change(body: dict[str, Any]) -> None:
    body.pop("temperature", None)


def test_no_secret_shows_in_a_text() -> None:
    endpoint = Endpoint(
        "https://h.example/v1?sig=" + SECRET,
        api_key=SECRET,
        headers={"X-Key": SECRET, "x-other": Env("OTHER")},
        query={"token": SECRET},
        rewrite=change,
    )
    deployment = Deployment("a", "m", endpoint=endpoint)
    router = Router([deployment])
    texts = [repr(endpoint), str(endpoint), repr(deployment), repr(router.deployments()), str(router.explain("m")), f"{router}"]
    try:
        endpoint.auth_header(SECRET.encode())
    except TypeError as error:
        texts += traceback.format_exception(error)
    assert not any(SECRET in text for text in texts)
    assert repr(endpoint) == (
        "Endpoint('https://h.example/v1', api_key=…, headers={'x-key': …, 'x-other': Env('OTHER')}, "
        "query={'sig': …, 'token': …}, rewrite=change)"
    )


def test_a_hash_tells_nothing_of_a_secret() -> None:
    one, other = Endpoint("https://h.example/v1", api_key=SECRET), Endpoint("https://h.example/v1", api_key="another")
    assert hash(one) == hash(other)
    assert one != other
    assert one == Endpoint("https://h.example/v1/", api_key=SECRET)
    assert one != "https://h.example/v1"


def test_a_literal_key_is_not_pickled() -> None:
    deployment = Deployment("a", "m", endpoint=Endpoint("https://h.example/v1", api_key=SECRET))
    with pytest.raises(TypeError, match=r"use Env\('NAME'\)") as refused:
        pickle.dumps(deployment)
    assert SECRET not in str(refused.value)
    for key in (Env("KEY"), secret_key, None):
        endpoint = Endpoint("https://h.example/v1", api_key=key, headers={"x-a": Env("A")}, auth=None, rewrite=change)
        data = pickle.dumps(Deployment("a", "m", endpoint=endpoint))
        assert SECRET.encode() not in data
        assert pickle.loads(data).endpoint == endpoint
    kept = deployment.endpoint
    assert copy.copy(kept) is copy.deepcopy(kept) is kept


def test_a_key_is_asked_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = iter(("one", "two"))
    endpoint = Endpoint("https://h.example/v1", api_key=lambda: next(keys))
    assert [endpoint.key(), endpoint.key()] == ["one", "two"]
    endpoint = Endpoint("https://h.example/v1", api_key=Env("TURNOUT_TEST_KEY"))
    with pytest.raises(ConfigurationError, match="'TURNOUT_TEST_KEY' must be set"):
        endpoint.key()
    monkeypatch.setenv("TURNOUT_TEST_KEY", "from the environment")
    assert endpoint.key() == "from the environment"
    monkeypatch.setenv("TURNOUT_TEST_KEY", "changed")
    assert endpoint.key() == "changed"


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({}, ("authorization", "Bearer k")),
        ({"dialect": "anthropic"}, ("x-api-key", "k")),
        ({"auth": "api-key"}, ("api-key", "k")),
        ({"dialect": "anthropic", "auth": "bearer"}, ("authorization", "Bearer k")),
        ({"auth": None}, None),
    ],
)
def test_how_a_key_is_sent(options: dict[str, Any], header: tuple[str, str] | None) -> None:
    endpoint = Endpoint("https://h.example/v1", api_key="k", **options)
    assert endpoint.auth_header(endpoint.key()) == header


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"base_url": "h.example"}, ConfigurationError, "base_url must be an URL such as"),
        ({"base_url": "ftp://h.example"}, ConfigurationError, "base_url must be an URL such as"),
        ({"base_url": "https://"}, ConfigurationError, "base_url must be an URL such as"),
        ({"base_url": "https://h:99999/v1"}, ConfigurationError, "base_url must be an URL such as"),
        ({"base_url": 5}, TypeError, "base_url must be an URL"),
        ({"base_url": f"https://user:{SECRET}@h.example"}, ConfigurationError, "must not hold a user or a password"),
        ({"base_url": "https://h.example/#x"}, ConfigurationError, "fragment"),
        ({"api_key": ""}, ConfigurationError, "api_key must be printable"),
        ({"api_key": f"{SECRET}\n"}, ConfigurationError, "api_key must be printable"),
        ({"api_key": 5}, TypeError, "api_key must be a str"),
        ({"auth": "basic"}, ConfigurationError, "auth must be"),
        ({"dialect": "latin"}, ConfigurationError, "dialect must be 'openai' or 'anthropic', not 'latin'"),
        ({"headers": {"Host": "x"}}, ConfigurationError, "headers must not have 'Host'"),
        ({"headers": {"x": f"{SECRET}\r\ny"}}, ConfigurationError, "one line"),
        ({"headers": {"x": 5}}, TypeError, "headers"),
        ({"headers": ["x"]}, TypeError, "headers must map"),
        ({"query": {"x": 5}}, TypeError, "query must map"),
        ({"rewrite": 5}, TypeError, "rewrite must be a callable"),
    ],
)
def test_bad_arguments_are_refused_and_show_no_secret(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as refused:
        Endpoint(**{"base_url": "https://h.example/v1", **arguments})
    assert SECRET not in str(refused.value)


def test_it_is_frozen() -> None:
    for thing in (Endpoint("https://h.example/v1"), Env("A")):
        with pytest.raises(AttributeError, match="is frozen"):
            thing.base_url = "x"
        with pytest.raises(AttributeError, match="is frozen"):
            del thing.name  # type: ignore[union-attr]


def test_a_request_of_one_dialect_never_reaches_a_deployment_of_another() -> None:
    router = Router(
        [
            Deployment("o", "m", endpoint=Endpoint("https://o.example/v1")),
            Deployment("a", "m", endpoint=Endpoint("https://a.example", dialect="anthropic")),
            Deployment("none", "m"),
        ]
    )
    for _ in range(50):
        assert router.select("m", dialect="anthropic") == "a"
        assert router.select("m", dialect="openai") == "o"
    verdicts = {verdict.deployment_id: verdict for verdict in router.explain("m", dialect="openai").verdicts}
    assert (verdicts["o"].gate, verdicts["a"].gate, verdicts["none"].gate) == (None, "dialect", "dialect")
    assert verdicts["a"].detail == "does not speak the dialect of the request"
    router.remove_deployment("o")
    with pytest.raises(NoAvailableDeployment) as refused:
        router.acquire("m", dialect="openai", timeout=5.0)
    assert refused.value.reasons == {"dialect": 2}
    with pytest.raises(ConfigurationError, match='dialect must be "openai" or "anthropic", not "x"'):
        router.select("m", dialect="x")  # type: ignore[arg-type]
    # An endpoint that is replaced changes the dialect.
    router.add_deployment(Deployment("none", "m", endpoint=Endpoint("https://o.example/v1")))
    assert router.select("m", dialect="openai") == "none"


def test_dialects_and_tags_narrow_together() -> None:
    def endpoint(nth: int) -> Endpoint:
        return Endpoint("https://h.example", dialect="anthropic" if nth % 2 else "openai")

    router = Router([Deployment(str(nth), "m", endpoint=endpoint(nth), tags=["t"] if nth % 3 else []) for nth in range(60)])
    picked = {int(router.select("m", dialect="anthropic", tags={"t"})) for _ in range(500)}
    assert picked == {nth for nth in range(60) if nth % 2 and nth % 3}


def test_an_endpoint_must_be_one() -> None:
    with pytest.raises(TypeError, match="endpoint must be an Endpoint or None, not 'https://"):
        Deployment("a", "m", endpoint="https://h.example/v1")  # type: ignore[arg-type]


def test_a_cycle_through_an_endpoint_is_collected() -> None:
    class Rewrites:
        router: Router

        def __call__(self, body: dict[str, Any]) -> None:
            """Changes nothing."""

    rewrites = Rewrites()
    rewrites.router = Router([Deployment("a", "m", endpoint=Endpoint("https://h.example", rewrite=rewrites))])
    gone = weakref.ref(rewrites)
    del rewrites
    gc.collect()
    assert gone() is None
