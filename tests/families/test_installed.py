"""What works with which of the HTTP libraries and SDKs installed, and what is said where one is missing. Each
test runs in a process of its own, in which some modules cannot be imported.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Collection
from typing import Any

import pytest
from turnout import Deployment, Endpoint, Router
from turnout.testing import Provider, Reply

# All that the package can make use of.
OTHERS = (
    "aiohttp",
    "anthropic",
    "anyio",
    "certifi",
    "h11",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "httpx_aiohttp",
    "openai",
    "trio",
    "typing_extensions",
)

HIDE = """
import importlib, json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
before = set(sys.modules)

def fails(work):
    try:
        return f"no error, but {{work()!r}}"
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"
"""

ROUTER = """
from turnout import Deployment, Endpoint, Router

def router():
    endpoint = Endpoint({url!r}, api_key="k")
    return Router([Deployment("a", "m", endpoint=endpoint)])
"""


def is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if not is_there(module)]
    return pytest.mark.skipif(bool(missing), reason=f"{missing} is not installed: make test-clients")


def run(code: str, hidden: Collection[str] = (), url: str = "https://h.example/v1") -> Any:
    """Runs code in a process of its own, and returns what it leaves in `said`."""
    script = HIDE.format(hidden=tuple(hidden)) + ROUTER.format(url=url) + code + "\nprint(json.dumps(said))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- none of them ---


@pytest.mark.parametrize("hidden", [(), OTHERS], ids=["all there", "none there"])
def test_the_package_itself_needs_the_standard_library_alone(hidden: tuple[str, ...]) -> None:
    loaded = run(
        """
import turnout
said = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
""",
        hidden,
    )
    assert "turnout" in loaded
    assert [name for name in loaded if name != "turnout" and name not in sys.stdlib_module_names] == []


def test_importing_the_package_loads_no_part_that_needs_more() -> None:
    loaded = run("import turnout; said = sorted(name for name in sys.modules if name.startswith('turnout.'))")
    parts = ("turnout.clients", "turnout.config", "turnout.httpx", "turnout.httpx2", "turnout.testing", "turnout.transports")
    assert "turnout.endpoints" in loaded
    assert [name for name in loaded if name.startswith(parts)] == []


def test_requests_without_http_need_none() -> None:
    said = run(
        """
import asyncio
from turnout import Timeouts, attempts_of

async def send(lease):
    return lease.deployment_id

def fail(lease):
    raise ConnectionError("no")

said = [router().call("m", lambda lease: lease.deployment_id)]
for attempt in router().attempts("m"):
    with attempt as lease:
        said.append(lease.deployment_id)
said.append(asyncio.run(router().call_async("m", send, timeouts=Timeouts(total=None))))
# The time limits of tasks are anyio's.
said.append(fails(lambda: asyncio.run(router().call_async("m", send))))
said.append(fails(lambda: router().call("m", fail)))
""",
        OTHERS,
    )
    assert said[:3] == ["a", "a", "a"]
    assert said[3].startswith("ImportError: ")
    assert "pip install 'turnout[async]'" in said[3]
    assert said[4] == "ConnectionError: no"


def test_what_is_missing_is_named() -> None:
    said = run(
        """
import turnout.clients
names = turnout.clients.__all__
said = {
    **{name: fails(lambda: importlib.import_module(f"turnout.{name}")) for name in ("httpx2", "httpx")},
    **{name: fails(lambda: getattr(turnout.clients, name)(router())) for name in names},
}
""",
        OTHERS,
    )
    for family in ("httpx2", "httpx"):
        assert said.pop(family) == f"ImportError: turnout.{family} needs {family}: pip install 'turnout[{family}]'"
    assert len(said) == 6
    for name, error in said.items():
        sdk = "anthropic" if "Anthropic" in name else "openai"
        assert error.startswith("ImportError: "), error
        assert f"pip install {sdk}" in error, error


# --- one of them ---

# Each with what is missing beside it: the other one, and what that is built on.
FAMILIES = {"httpx2": ("httpx", "httpcore"), "httpx": ("httpx2", "httpcore2")}


@pytest.mark.parametrize("family", [pytest.param(family, marks=needs(family)) for family in FAMILIES])
def test_a_family_works_without_the_other(family: str) -> None:
    other = "httpx" if family == "httpx2" else "httpx2"
    with Provider() as provider:
        said = run(
            f"""
import asyncio
import {family} as library
import turnout.{family} as routed

ask = {{"model": "m", "messages": [], "stream": True}}
with routed.Client(router()) as client:
    said = [client.post("/chat/completions", json=ask).status_code]

async def main():
    async with routed.AsyncClient(router()) as client:
        return (await client.post("/chat/completions", json=ask)).status_code

said.append(asyncio.run(main()))
said.append([
    issubclass(routed.Client, library.Client),
    issubclass(routed.AsyncClient, library.AsyncClient),
    issubclass(routed.RouterTransport, library.BaseTransport),
    issubclass(routed.AsyncRouterTransport, library.AsyncBaseTransport),
])
said.append(fails(lambda: importlib.import_module("turnout.{other}")))
""",
            FAMILIES[family],
            provider.base_url,
        )
    assert said[:3] == [200, 200, [True] * 4]
    assert said[3] == f"ImportError: turnout.{other} needs {other}: pip install 'turnout[{other}]'"
    assert len(provider.requests) == 2


@pytest.mark.parametrize("family", [pytest.param(family, marks=needs(family)) for family in FAMILIES])
def test_importing_a_family_loads_no_sdk_and_not_the_other(family: str) -> None:
    loaded = run(f"import turnout.{family}; said = sorted({{name.partition('.')[0] for name in sys.modules}})")
    assert family in loaded
    assert not {"openai", "anthropic", "aiohttp", *FAMILIES[family]} & set(loaded)


def of_sdk(name: str) -> str | None:
    """The HTTP library that an SDK here is built on."""
    if not is_there(name):
        return None
    bases = importlib.import_module(name).DefaultHttpxClient.__mro__
    return "httpx2" if any(base.__module__.startswith("httpx2") for base in bases) else "httpx"


CLIENTS = {
    "OpenAI": "openai",
    "AsyncOpenAI": "openai",
    "AzureOpenAI": "openai",
    "AsyncAzureOpenAI": "openai",
    "Anthropic": "anthropic",
    "AsyncAnthropic": "anthropic",
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(sdk)) for name, sdk in CLIENTS.items()])
@pytest.mark.parametrize("is_alone", [False, True], ids=["with the other", "alone"])
def test_a_client_is_of_the_family_of_its_sdk(name: str, is_alone: bool) -> None:
    sdk = CLIENTS[name]
    family = of_sdk(sdk)
    assert family is not None
    said = run(
        f"""
import {sdk}, turnout.clients
client = turnout.clients.{name}(router())
said = [
    isinstance(client, {sdk}.{name}),
    client.max_retries,
    [base.__module__.partition(".")[0] for base in type(client._client).__mro__],
    type(client._client).__module__,
]
""",
        FAMILIES[family] if is_alone else (),
    )
    assert said[:2] == [True, 0]
    assert family in said[2]
    assert said[3] == f"turnout.{family}"


@pytest.mark.parametrize("sdk", [pytest.param(sdk, marks=needs(sdk)) for sdk in ("openai", "anthropic")])
def test_an_sdk_without_its_http_library_says_what_to_install(sdk: str) -> None:
    family = of_sdk(sdk)
    assert family is not None
    name = "OpenAI" if sdk == "openai" else "Anthropic"
    said = run(f"import turnout.clients\nsaid = fails(lambda: turnout.clients.{name}(router()))", (family,))
    assert said.startswith("ImportError: ")
    assert f"pip install {sdk}" in said or f"turnout[{family}]" in said


@pytest.mark.parametrize("family", [pytest.param(family, marks=needs(family)) for family in FAMILIES])
@pytest.mark.parametrize("hidden", ["aiohttp", "httpx_aiohttp"])
def test_aiohttp_below_is_asked_for_by_name(family: str, hidden: str) -> None:
    code = f"import turnout.{family} as routed\nsaid = fails(lambda: routed.AsyncClient(router(), inner='aiohttp'))"
    said = run(code, (hidden,))
    assert said == "ImportError: inner='aiohttp' needs httpx-aiohttp: pip install 'turnout[aiohttp]'"


# --- both of them ---


@needs("httpx2", "httpx")
def test_both_families_share_a_router() -> None:
    import httpx
    import httpx2
    import turnout.httpx
    import turnout.httpx2

    ask = {"model": "m", "messages": []}
    with Provider() as provider, Provider() as other:
        endpoints = (Endpoint(provider.base_url, api_key="k"), Endpoint(other.base_url, api_key="k"))
        given = [Deployment(id_, "m", rpm_limit=2, endpoint=endpoint) for id_, endpoint in zip("ab", endpoints, strict=True)]
        router = Router(given, strategy="round_robin", timeouts=turnout.Timeouts(capacity=0.0))
        records: list[turnout.AttemptRecord] = []
        router.on_attempt(records.append)
        new: Any = turnout.httpx2.Client(router)
        old: Any = turnout.httpx.Client(router)
        with new, old:
            for client in (new, old, old, new):
                assert client.post("/chat/completions", json=ask).status_code == 200
            # What the one has used, the other cannot use.
            refused = [client.post("/chat/completions", json=ask) for client in (new, old)]
            assert [answer.status_code for answer in refused] == [429, 429]
            assert [type(answer).__module__.partition(".")[0] for answer in refused] == ["httpx2", "httpx"]
            # A failure that has no answer is one of the client's own family.
            router.set_deployments([Deployment(id_, "m", endpoint=endpoint) for id_, endpoint in zip("ab", endpoints, strict=True)])
            for one in (provider, other):
                one.always(Reply.text("x").drop(after="request"))
            with pytest.raises(httpx2.RemoteProtocolError):
                new.post("/chat/completions", json=ask)
            with pytest.raises(httpx.RemoteProtocolError):
                old.post("/chat/completions", json=ask)
        assert len(records) == len(provider.requests) + len(other.requests)
        assert {record.deployment_id for record in records[:4]} == {"a", "b"}
