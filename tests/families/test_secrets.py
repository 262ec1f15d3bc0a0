"""Keys stay where they belong: with the deployment that they are for, and in no text. Nothing of one account
or one provider reaches another.
"""

import gc
import importlib.util
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import turnout
from turnout import AttemptRecord, Deployment, Endpoint, Env, Retry, Router, Timeouts, attempts_of
from turnout.testing import Provider, Reply

from families.modes import MODES, Mode, Sends

HELLO: Any = [{"role": "user", "content": "hello"}]
ASK: dict[str, Any] = {"method": "POST", "url": "/chat/completions", "json": {"model": "m", "messages": HELLO}}
STREAM: dict[str, Any] = {**ASK, "json": {**ASK["json"], "stream": True}}
GOOD = Reply.text("All aboard.")

# In no text may there be a word of these.
KEY_A, KEY_B = "sk-of-a-5317", "sk-of-b-5317"
IN_HEADER, IN_QUERY, IN_ENV = "header-5317", "query-5317", "env-5317"
SECRETS = (KEY_A, KEY_B, IN_HEADER, IN_QUERY, IN_ENV)

# What a client sends for its own account, or for the one host that it sees.
ACCOUNT = "account-of-the-client"

PACKAGE = str(Path(turnout.__file__).parent)


def has_secret(text: object) -> list[str]:
    return [secret for secret in SECRETS if secret in str(text)]


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed: make test-clients")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    made: Mode = request.param
    return made


class Providers:
    """Two providers, each of an account of its own, and a router that prefers the first."""

    def __init__(self) -> None:
        self.a, self.b = Provider(), Provider()
        for provider in (self.a, self.b):
            provider.start()
            provider.always(GOOD)
        self.router = self.make()

    def make(self, dialect: Any = "openai", **options: Any) -> Router:
        def deployment(id_: str, provider: Provider, key: str) -> Deployment:
            endpoint = Endpoint(
                provider.url if dialect == "anthropic" else provider.base_url,
                api_key=key,
                headers={"x-extra": IN_HEADER, "x-env": Env("TURNOUT_TEST_SECRET")},
                query={"sig": IN_QUERY},
                dialect=dialect,
            )
            return Deployment(id_, "m", endpoint=endpoint, priority=ord(id_))

        given = [deployment("a", self.a, KEY_A), deployment("b", self.b, KEY_B)]
        # None of these tests is about cooldowns, so none waits for the end of one.
        options.setdefault("timeouts", Timeouts(capacity=0.0))
        self.router = Router(given, strategy="priority_based", **options)
        return self.router

    def stop(self) -> None:
        self.a.stop()
        self.b.stop()


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Providers]:
    monkeypatch.setenv("TURNOUT_TEST_SECRET", IN_ENV)
    made = Providers()
    yield made
    gc.collect()
    assert made.router.metrics().in_flight == 0
    made.stop()


def texts_of(error: BaseException) -> list[str]:
    """All that a program may print of an error, and of those that it came from."""
    texts, seen = [], 0
    at: BaseException | None = error
    while at is not None and seen < 10:
        texts += [str(at), repr(at), repr(at.args), *getattr(at, "__notes__", ())]
        response, request = getattr(at, "response", None), getattr(at, "_request", None)
        texts += [
            repr(thing) for thing in (response, request, getattr(response, "headers", None), getattr(request, "headers", None))
        ]
        texts += [repr(getattr(request, "url", None)), repr(attempts_of(at))]
        at, seen = at.__cause__ or at.__context__, seen + 1
    return texts


def locals_of(error: BaseException) -> list[tuple[str, str, str]]:
    """The variables of this package's frames: function, name, text. `traceback.TracebackException` has them
    too, with `capture_locals`, but it fails where the frames of others have a variable without a text.
    """
    found, ahead, seen = [], [error], set()
    while ahead:
        at = ahead.pop()
        seen.add(id(at))
        for frame, _ in traceback.walk_tb(at.__traceback__):
            if frame.f_code.co_filename.startswith(PACKAGE):
                found += [(frame.f_code.co_name, name, repr(value)) for name, value in frame.f_locals.items()]
        ahead += [cause for cause in (at.__cause__, at.__context__) if cause is not None and id(cause) not in seen]
    return found


# --- texts ---

FAILURES: dict[str, Callable[[], Reply]] = {
    "dropped": lambda: GOOD.drop(after="request"),
    "no body": lambda: GOOD.drop(after="head"),
    "cut": lambda: GOOD.drop(after=2),
    "without its end": lambda: GOOD.truncate(after=2),
    "too slow": lambda: GOOD.hang(after="head"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_no_secret_is_in_an_error_or_its_traceback(mode: Mode, providers: Providers, failure: str) -> None:
    providers.make(timeouts=Timeouts(first_token=0.1, capacity=0.0), retry=Retry(attempts=2))
    for provider in (providers.a, providers.b):
        provider.always(FAILURES[failure]())
    with pytest.raises(mode.http.TransportError) as failed:
        mode.ask(mode.client(providers.router), [STREAM])
    shown = locals_of(failed.value)
    assert {function for function, _, _ in shown} & {"handle", "_carry", "next"}
    assert [(function, name) for function, name, text in shown if has_secret(text)] == []
    assert [text for text in texts_of(failed.value) if has_secret(text)] == []
    # They were sent, so each could have shown.
    assert providers.a.requests[-1].headers["authorization"] == f"Bearer {KEY_A}"
    assert (providers.a.requests[-1].headers["x-env"], providers.a.requests[-1].query["sig"]) == (IN_ENV, IN_QUERY)


@pytest.mark.parametrize("where", ["send", "chunks"])
def test_no_secret_is_in_what_a_transport_of_the_user_raises(mode: Mode, providers: Providers, where: str) -> None:
    """An error that nobody expects comes out as it is, through the frames that had the key."""

    def provides(request: Any) -> Sends:
        assert KEY_A in str(request.headers.raw)

        def chunks() -> Iterator[bytes]:
            yield b'data: {"choices":[]}\n\n'
            raise ZeroDivisionError

        if where == "send":
            raise ZeroDivisionError
        return Sends(chunks())

    with pytest.raises(ZeroDivisionError) as failed:
        mode.ask(mode.client(providers.router, inner=mode.inner(provides)), [STREAM])
    shown = locals_of(failed.value)
    assert "answer" in {function for function, _, _ in shown} or where == "chunks"
    assert [(function, name) for function, name, text in shown if has_secret(text)] == []


def test_no_secret_is_in_what_a_rewrite_raises(mode: Mode, providers: Providers) -> None:
    def rewrite(body: dict[str, Any]) -> None:
        raise ZeroDivisionError

    endpoint = Endpoint(providers.a.base_url, api_key=KEY_A, headers={"x": IN_HEADER}, query={"q": IN_QUERY}, rewrite=rewrite)
    providers.router.set_deployments([Deployment("a", "m", endpoint=endpoint)])
    with pytest.raises(ZeroDivisionError) as failed:
        mode.ask(mode.client(providers.router), [ASK])
    assert [(function, name) for function, name, text in locals_of(failed.value) if has_secret(text)] == []


def test_no_secret_is_in_the_log(mode: Mode, providers: Providers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # Those of the HTTP libraries have levels of their own below that.
    core = "httpcore2" if mode.library == "httpx2" else "httpcore"
    for name in (mode.library, core, f"{core}.http11", f"{core}.connection"):
        caplog.set_level(1, logger=name)
    providers.a.script(Reply.error(500), GOOD.drop(after="request"), Reply.error(429), GOOD)
    mode.ask(mode.client(providers.router), [ASK, STREAM, ASK, STREAM])
    loggers = {record.name.partition(".")[0] for record in caplog.records}
    assert {mode.library, core} <= loggers
    assert [record.getMessage() for record in caplog.records if has_secret(record.getMessage()) or has_secret(record.args)] == []


def test_no_secret_is_in_what_the_router_tells(mode: Mode, providers: Providers) -> None:
    records: list[AttemptRecord] = []
    events: list[Any] = []
    router = providers.router
    router.on_attempt(records.append)
    router.subscribe(events.append)
    providers.a.always(Reply.error(401))
    got = mode.ask(mode.client(router), [ASK, STREAM])
    # A deployment that refuses the key is left alone for a while, which is an event.
    assert records
    assert events
    told = [
        *records,
        *events,
        router,
        router.deployments(),
        router.metrics(),
        [router.stats(id_) for id_ in "ab"],
        router.explain("m"),
        router.explain("m", exclude={"b"}),
        [(answer.headers, answer.body) for answer in got],
    ]
    assert [text for text in map(repr, told) if has_secret(text)] == []
    assert [text for text in map(str, told) if has_secret(text)] == []


def test_no_secret_is_in_a_pickle(providers: Providers) -> None:
    router, endpoint = providers.router, Endpoint("https://h.example/v1", api_key=KEY_A)
    for thing in (endpoint, Deployment("a", "m", endpoint=endpoint), router.deployments()):
        with pytest.raises(TypeError, match="Env") as refused:
            pickle.dumps(thing)
        assert not has_secret(refused.value)
    named = Endpoint("https://h.example/v1", api_key=Env("TURNOUT_TEST_SECRET"), headers={"x": Env("TURNOUT_TEST_SECRET")})
    for thing in (named, Deployment("a", "m", endpoint=named)):
        data = pickle.dumps(thing)
        assert b"TURNOUT_TEST_SECRET" in data
        assert IN_ENV.encode() not in data


def test_no_secret_is_in_the_pickle_of_an_error(mode: Mode, providers: Providers) -> None:
    providers.make(retry=Retry(attempts=1))
    providers.a.always(GOOD.drop(after="request"))
    with pytest.raises(mode.http.TransportError) as failed:
        mode.ask(mode.client(providers.router), [ASK])
    # A queue of tasks sends it to another process, with what hangs on it.
    data = pickle.dumps({"attempts": attempts_of(failed.value), "notes": getattr(failed.value, "__notes__")})  # noqa: B009
    assert b"connection" in data
    assert not has_secret(data)


# --- what reaches a deployment ---

OF_THE_CLIENT = {
    "authorization": f"Bearer {ACCOUNT}",
    "x-api-key": ACCOUNT,
    "api-key": ACCOUNT,
    "cookie": f"session={ACCOUNT}",
    "proxy-authorization": f"Basic {ACCOUNT}",
    "OpenAI-Organization": ACCOUNT,
    "OpenAI-Project": ACCOUNT,
}


@pytest.mark.parametrize("key", [KEY_A, None], ids=["key", "no key"])
def test_nothing_of_the_clients_account_reaches_a_deployment(mode: Mode, providers: Providers, key: str | None) -> None:
    providers.router.set_deployments([Deployment("a", "m", endpoint=Endpoint(providers.a.base_url, api_key=key))])
    options = {"headers": OF_THE_CLIENT, "cookies": {"other": ACCOUNT}}
    mode.ask(mode.client(providers.router, **options), [ASK, STREAM])
    mode.ask(mode.client(providers.router, auth=("user", ACCOUNT)), [{**ASK, "headers": OF_THE_CLIENT}])
    assert len(providers.a.requests) == 3
    for got in providers.a.requests:
        assert got.headers.get("authorization") == (None if key is None else f"Bearer {key}")
        assert ACCOUNT not in str(got.headers)
        assert not {"x-api-key", "api-key", "cookie", "proxy-authorization"} & set(got.headers)


def test_each_deployment_gets_its_own_key_alone(mode: Mode, providers: Providers) -> None:
    fresh = iter(("one", "two", "three"))
    endpoint = Endpoint(providers.a.base_url, api_key=lambda: next(fresh))
    providers.router.add_deployment(Deployment("c", "m", priority=1, endpoint=endpoint))
    providers.a.script(*[Reply.error(500)] * 2)
    got = mode.ask(mode.client(providers.router), [ASK, ASK])
    assert [answer.headers["x-turnout-deployment"] for answer in got] == ["b", "c"]
    sent = [[got.headers["authorization"] for got in provider.requests] for provider in (providers.a, providers.b)]
    assert sent == [["Bearer one", f"Bearer {KEY_A}", "Bearer two"], [f"Bearer {KEY_B}"]]
    # What the endpoint of one adds is not for the other either.
    assert [got.query.get("sig") for got in providers.a.requests] == [None, IN_QUERY, None]
    assert [got.headers.get("x-extra") for got in providers.a.requests] == [None, IN_HEADER, None]


ENVIRONMENT = {
    "OPENAI_API_KEY": ACCOUNT,
    "OPENAI_ORG_ID": ACCOUNT,
    "OPENAI_PROJECT_ID": ACCOUNT,
    "OPENAI_BASE_URL": f"https://{ACCOUNT}.example/v1",
    "AZURE_OPENAI_API_KEY": ACCOUNT,
    "AZURE_OPENAI_AD_TOKEN": ACCOUNT,
    "AZURE_OPENAI_ENDPOINT": f"https://{ACCOUNT}.example",
    "ANTHROPIC_API_KEY": ACCOUNT,
    "ANTHROPIC_AUTH_TOKEN": ACCOUNT,
    "ANTHROPIC_BASE_URL": f"https://{ACCOUNT}.example",
}


@needs("openai")
@pytest.mark.parametrize("name", ["OpenAI", "AzureOpenAI"])
def test_nothing_of_the_sdks_account_reaches_a_deployment(providers: Providers, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from turnout import clients

    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    options = {"organization": ACCOUNT, "default_headers": {"Cookie": ACCOUNT}}
    if name == "OpenAI":
        options["project"] = ACCOUNT
    with getattr(clients, name)(providers.router, **options) as client:
        client.chat.completions.create(model="m", messages=HELLO)
        client.with_options(api_key=ACCOUNT).chat.completions.create(model="m", messages=HELLO, extra_headers={"api-key": ACCOUNT})
        client.responses.create(model="m", input="hello")
    assert len(providers.a.requests) == 3
    for got in providers.a.requests:
        assert got.headers["authorization"] == f"Bearer {KEY_A}"
        assert not {name for name in got.headers if name in ("api-key", "cookie") or name.startswith("openai-")}
        assert ACCOUNT not in str((got.headers, got.query, got.path, got.body))
        # The key that an SDK must have to be made.
        assert "turnout" not in {got.headers["authorization"].removeprefix("Bearer "), got.headers.get("api-key")}


@needs("anthropic")
def test_nothing_of_anthropics_account_reaches_a_deployment(providers: Providers, monkeypatch: pytest.MonkeyPatch) -> None:
    from turnout.clients import Anthropic

    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    router = providers.make(dialect="anthropic")
    with Anthropic(router, default_headers={"Cookie": ACCOUNT}) as client:
        client.messages.create(model="m", max_tokens=9, messages=HELLO)
        client.with_options(api_key=ACCOUNT).messages.create(model="m", max_tokens=9, messages=HELLO)
        bearer = {"authorization": f"Bearer {ACCOUNT}"}
        client.messages.create(model="m", max_tokens=9, messages=HELLO, extra_headers=bearer)
    assert len(providers.a.requests) == 3
    for got in providers.a.requests:
        assert got.headers["x-api-key"] == KEY_A
        assert not {"authorization", "cookie"} & set(got.headers)
        assert ACCOUNT not in str((got.headers, got.query, got.path, got.body))


# --- what comes back ---


@pytest.mark.parametrize(
    "reply",
    [GOOD, Reply.error(500), Reply.error(400), Reply.error(429), GOOD.fail(after=0)],
    ids=["good", "500", "400", "429", "in band"],
)
@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["plain", "stream"])
def test_a_cookie_reaches_neither_client_nor_another(mode: Mode, providers: Providers, reply: Reply, ask: dict[str, Any]) -> None:
    providers.make(retry=Retry(attempts=2))
    for id_, provider in (("a", providers.a), ("b", providers.b)):
        provider.always(reply.with_headers({"set-cookie": f"session=of-{id_}; Path=/; Domain=turnout.invalid"}))
    # Both have one host: a jar of the client would send the cookies of the one to the other.
    client = mode.client(providers.router)
    got = mode.ask(client, [ask, ask, {**ask, "headers": {"x-turnout-only": "b"}}])
    assert [answer for answer in got if "set-cookie" in answer.headers] == []
    assert dict(client.cookies) == {}
    sent = providers.a.requests + providers.b.requests
    assert len(sent) >= 2
    assert [got for got in sent if "cookie" in got.headers] == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(mode: Mode, providers: Providers, status: int) -> None:
    providers.router.set_deployments([Deployment("a", "m", endpoint=Endpoint(providers.a.base_url, api_key=KEY_A))])
    to = {"location": f"{providers.b.base_url}/chat/completions", "set-cookie": "session=of-a"}
    providers.a.always(Reply.raw(b"", status=status).with_headers(to))
    # openai's own client is told to follow them.
    got = mode.ask(mode.client(providers.router, follow_redirects=True), [ASK, STREAM])
    assert {answer.status for answer in got} == {502}
    assert {answer.headers["x-should-retry"] for answer in got} == {"false"}
    assert not any("location" in answer.headers or "set-cookie" in answer.headers for answer in got)
    assert providers.b.requests == []


@needs("openai")
def test_a_redirect_is_an_error_of_the_sdk(providers: Providers) -> None:
    import openai
    from turnout.clients import OpenAI

    for provider in (providers.a, providers.b):
        provider.always(Reply.raw(b"", status=307).with_headers({"location": "https://elsewhere.example/v1/chat/completions"}))
    with OpenAI(providers.router) as client, pytest.raises(openai.InternalServerError, match="elsewhere") as failed:
        client.chat.completions.create(model="m", messages=HELLO)
    assert failed.value.status_code == 502
    assert [text for text in texts_of(failed.value) if has_secret(text)] == []
