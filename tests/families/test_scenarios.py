"""Every scenario with every client: what reaches a provider, what the program sees, that nothing is left."""

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from turnout import Deployment, Endpoint, Fallbacks, Router, Timeouts
from turnout.testing import Provider, Reply

from families.adapters import ADAPTERS, Adapter, Asked

TEXT = "All aboard: this train goes down the right line."
GOOD = Reply.text(TEXT, input_tokens=30, output_tokens=12)
# LlamaIndex knows OpenAI's models by their names, and refuses others.
NAMES = ("m", "gpt-4o")


class World:
    """Two providers, and a router over them."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.a, self.b = Provider(), Provider()
        for provider in (self.a, self.b):
            provider.start()
            provider.always(GOOD)
        self.make()

    def make(self, **options: Any) -> Router:
        def deployment(id_: str, name: str, provider: Provider, priority: int) -> Deployment:
            url = provider.url if self.adapter.dialect == "anthropic" else provider.base_url
            dialect: Any = self.adapter.dialect
            endpoint = Endpoint(url, api_key=f"key-of-{id_[0]}", dialect=dialect)
            return Deployment(id_, name, model=f"model-{id_[0]}", priority=priority, tpm_limit=10**6, endpoint=endpoint)

        pairs = [(deployment(f"a-{name}", name, self.a, 0), deployment(f"b-{name}", name, self.b, 1)) for name in NAMES]
        self.router = Router([one for pair in pairs for one in pair], strategy="priority_based", **options)
        return self.router

    def ask(self, stream: bool = False, **more: Any) -> str:
        return self.adapter.ask(Asked(self.router, stream=stream, **more))

    def fails(self, stream: bool = False, **more: Any) -> BaseException:
        with pytest.raises(Exception) as failed:  # noqa: PT011 - each client has its own
            self.ask(stream, **more)
        return failed.value

    def tokens(self, id_: str) -> int:
        return sum(self.router.stats(f"{id_}-{name}").total_tokens for name in NAMES)

    def kinds(self) -> dict[str, int]:
        return {id_: sum(self.router.stats(f"{id_}-{name}").total_failures for name in NAMES) for id_ in "ab"}

    def stop(self) -> None:
        self.a.stop()
        self.b.stop()


def there(adapter: Adapter) -> Any:
    missing = pytest.mark.skipif(not adapter.is_there, reason=f"{adapter.needs} is not installed: make test-clients")
    return pytest.param(adapter, marks=missing, id=adapter.name)


@pytest.fixture(params=[there(adapter) for adapter in ADAPTERS])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(request.param)
    yield made
    gc.collect()
    assert made.router.metrics().in_flight == 0
    made.stop()


@pytest.fixture(params=[False, True], ids=["plain", "stream"])
def stream(request: pytest.FixtureRequest, world: World) -> bool:
    if request.param and not world.adapter.streams:
        pytest.skip(f"{world.adapter.name} does not stream here")
    return bool(request.param)


def status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or what it was raised from, tells."""
    seen = 0
    while error is not None and seen < 10:
        for thing in (error, getattr(error, "last_attempt", None)):
            code = getattr(thing, "status_code", None)
            if isinstance(code, int):
                return code
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def chain(error: BaseException | None) -> str:
    names: list[str] = []
    while error is not None and len(names) < 10:
        names.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return " < ".join(names)


# --- what goes well ---


def test_the_right_host_path_key_and_model(world: World, stream: bool) -> None:
    assert world.ask(stream) == TEXT
    (got,) = world.a.requests
    assert (got.path, got.model) == (world.adapter.path, "model-a")
    name = "x-api-key" if world.adapter.dialect == "anthropic" else "authorization"
    assert got.headers[name] == ("key-of-a" if world.adapter.dialect == "anthropic" else "Bearer key-of-a")
    assert world.b.requests == []


def test_the_usage_is_settled(world: World, stream: bool) -> None:
    world.ask(stream)
    assert world.tokens("a") == 42


def test_a_compressed_answer(world: World) -> None:
    world.a.always(GOOD.encode(gzip=True))
    assert world.ask() == TEXT
    assert world.tokens("a") == 42


# --- another deployment answers ---

FAULTS: dict[str, Callable[[], Reply]] = {
    "429": lambda: Reply.error(429, retry_after=20),
    "500": lambda: Reply.error(500),
    "503": lambda: Reply.error(503),
    "401": lambda: Reply.error(401),
    "dropped": lambda: GOOD.drop(after="request"),
    "no body": lambda: GOOD.drop(after="head"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_deployment_answers(world: World, stream: bool, fault: str) -> None:
    world.a.always(FAULTS[fault]())
    assert world.ask(stream) == TEXT
    assert (len(world.a.requests), len(world.b.requests)) == (1, 1)
    assert world.kinds() == {"a": 1, "b": 0}
    assert world.tokens("b") == 42


def test_an_error_as_the_first_event(world: World) -> None:
    if not world.adapter.streams:
        pytest.skip("it does not stream")
    world.a.always(GOOD.fail(after=0, status=529 if world.adapter.dialect == "anthropic" else 503))
    assert world.ask(stream=True) == TEXT
    assert len(world.b.requests) == 1


def test_one_that_hangs(world: World, stream: bool) -> None:
    world.make(timeouts=Timeouts(attempt=0.4))
    world.a.always(GOOD.hang(after="request"))
    assert world.ask(stream) == TEXT
    assert world.kinds()["a"] == 1


def test_one_that_stalls_before_its_first_event(world: World) -> None:
    if not world.adapter.streams:
        pytest.skip("it does not stream")
    world.make(timeouts=Timeouts(first_token=0.4))
    world.a.always(GOOD.delay(first_event=30.0, trickle=0.05))
    began = time.monotonic()
    assert world.ask(stream=True) == TEXT
    assert time.monotonic() - began < 5


def test_a_prompt_that_is_too_long_goes_to_its_fallback(world: World) -> None:
    world.make(fallbacks=Fallbacks(context_window={name: ["large"] for name in NAMES}))
    url = world.b.url if world.adapter.dialect == "anthropic" else world.b.base_url
    dialect: Any = world.adapter.dialect
    world.router.add_deployment(Deployment("l", "large", model="model-l", endpoint=Endpoint(url, api_key="k", dialect=dialect)))
    world.a.always(Reply.error(400, code="context_length_exceeded", message="prompt is too long: 200000 tokens > 199999 maximum"))
    assert world.ask() == TEXT
    assert world.b.requests[-1].model == "model-l"


# --- what cannot be served ---


def test_a_wrong_request_is_sent_once(world: World, stream: bool) -> None:
    world.a.always(Reply.error(400, message="wrong"))
    error = world.fails(stream)
    assert status(error) == 400, chain(error)
    assert (len(world.a.requests), len(world.b.requests)) == (1, 0)


def test_all_refuse(world: World, stream: bool) -> None:
    for provider in (world.a, world.b):
        provider.always(Reply.error(429, retry_after=100))
    error = world.fails(stream)
    assert status(error) == 429, chain(error)
    assert (len(world.a.requests), len(world.b.requests)) == (1, 1)


def test_all_drop(world: World, stream: bool) -> None:
    for provider in (world.a, world.b):
        provider.always(GOOD.drop(after="request"))
    began = time.monotonic()
    error = world.fails(stream)
    assert time.monotonic() - began < 3
    assert "onnection" in chain(error)
    # Exactly the attempts of the router: the client does not retry on top.
    assert len(world.a.requests) + len(world.b.requests) == 3


def test_all_hang(world: World, stream: bool) -> None:
    world.make(timeouts=Timeouts(total=0.9, attempt=0.3))
    for provider in (world.a, world.b):
        provider.always(GOOD.hang(after="request"))
    began = time.monotonic()
    error = world.fails(stream)
    assert 0.85 <= time.monotonic() - began < 4
    assert "ime" in chain(error)


def test_an_unknown_model(world: World) -> None:
    error = world.fails(model="gpt-4")
    assert status(error) == 404, chain(error)
    assert "did you mean" in chain(error)


def test_no_capacity(world: World, stream: bool) -> None:
    world.make(timeouts=Timeouts(capacity=0.0))
    for deployment in world.router.deployments():
        world.router.cool_down(deployment.deployment_id, 60.0)
    error = world.fails(stream)
    assert status(error) == 429, chain(error)
    assert world.a.requests == world.b.requests == []


# --- streams that do not end ---


def needs_stream(world: World) -> None:
    if not world.adapter.streams:
        pytest.skip("it does not stream")


def test_a_stream_that_is_cut(world: World) -> None:
    needs_stream(world)
    world.a.always(GOOD.drop(after=5))
    world.fails(stream=True)
    assert (world.kinds(), len(world.b.requests)) == ({"a": 1, "b": 0}, 0)


def test_a_stream_that_ends_without_its_end(world: World) -> None:
    needs_stream(world)
    world.a.always(GOOD.truncate(after=5))
    error = world.fails(stream=True)
    assert "without its end" in chain(error), chain(error)
    assert world.kinds()["a"] == 1


def test_a_stream_that_is_left(world: World) -> None:
    needs_stream(world)
    if world.adapter.name in ("openai-agents",):
        pytest.skip("it reads a stream to its end in a task of its own")
    world.a.always(Reply.text(" ".join(["word"] * 200), input_tokens=30).delay(between=0.02))
    world.ask(stream=True, leave_after=2)
    gc.collect()
    deadline = time.monotonic() + 5
    while world.router.metrics().in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert world.kinds() == {"a": 0, "b": 0}
    assert sum(world.router.stats(f"a-{name}").tpm_current for name in NAMES) < 150
    assert world.router.metrics().total_successes == 0
