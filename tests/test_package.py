"""The package as a whole: what an import costs, what it exports and says of itself, and that nothing keeps a
router alive.
"""

import ast
import gc
import inspect
import pickle
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest
import turnout
from turnout import (
    Deployment,
    Lease,
    ManualClock,
    Router,
    RoutingContext,
    enums,
    exceptions,
    limits,
    options,
    probe,
    providers,
    records,
    strategies,
)
from turnout.providers import exceptions as provider_exceptions
from turnout.providers import headers
from turnout.strategies import RoundRobinCounters

ROOT = Path(turnout.__file__).parent
FACES = [turnout, providers, strategies]
HOMES = [enums, exceptions, limits, options, provider_exceptions, headers, records]
MODULES = [*FACES, *HOMES, probe]
CORE = "turnout._core"


def names_of(module: ModuleType) -> list[str]:
    return [name for name in vars(module) if not name.startswith("_")]


NATIVE = [Deployment, Lease, ManualClock, RoutingContext, RoundRobinCounters]


# --- import ---


def test_importing_loads_only_the_standard_library() -> None:
    script = "import sys; before = set(sys.modules); import turnout; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert CORE in loaded
    assert {name.partition(".")[0] for name in loaded} - {"turnout"} <= sys.stdlib_module_names


def test_importing_loads_nothing_heavy() -> None:
    script = "import sys; import turnout; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())
    assert "turnout.router" in loaded
    assert loaded & {"asyncio", "dataclasses", "email", "http", "inspect", "logging", "socket", "ssl", "typing_extensions"} == set()


def test_every_name_is_found_when_it_is_first_asked_for() -> None:
    script = """
import turnout
assert set(turnout.__all__) <= set(dir(turnout))
for name in turnout.__all__:
    getattr(turnout, name)
for name in ("limits", "options", "probe", "providers", "records", "strategies", "waiting"):
    assert getattr(turnout, name).__name__ == f"turnout.{name}"
try:
    turnout.Rooter
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "module 'turnout' has no attribute 'Rooter'\n", "")


@pytest.mark.parametrize(
    ("old", "new", "name"), [("headers", headers, "read_rate_limits"), ("outcomes", provider_exceptions, "classify_exception")]
)
def test_old_names_of_modules_work_and_warn(old: str, new: ModuleType, name: str) -> None:
    for statement in (f"from turnout.{old} import {name}", f"import turnout; {name} = turnout.{old}.{name}"):
        sys.modules.pop(f"turnout.{old}", None)
        vars(turnout).pop(old, None)
        scope: dict[str, Any] = {}
        with pytest.warns(DeprecationWarning, match=new.__name__) as warned:
            exec(compile(statement, "a program", "exec"), scope)
        assert {warning.filename for warning in warned} == {"a program"}
        assert scope[name] is getattr(new, name)


def test_old_pickles_of_what_moved_are_read() -> None:
    for old, record in (("outcomes", turnout.Failure(turnout.FailureKind.ERROR)), ("headers", turnout.RateLimits(1.0, ()))):
        module = type(record).__module__
        pickled = pickle.dumps(record, protocol=0).replace(module.encode(), f"turnout.{old}".encode())
        sys.modules.pop(f"turnout.{old}", None)
        with pytest.warns(DeprecationWarning, match=module):
            assert pickle.loads(pickled) == record


def test_importing_warns_of_nothing_and_prints_nothing() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import turnout"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_interpreter_ends_with_live_leases_and_no_noise() -> None:
    script = """
import turnout
router = turnout.Router([turnout.Deployment("a", "m", metadata={"router": []})])
router.get_deployment("a").metadata["router"].append(router)
lease = router.acquire("m")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    assert "panic" not in done.stderr


def test_types_are_marked_as_there() -> None:
    assert (ROOT / "py.typed").is_file()
    assert (ROOT / "_core.pyi").is_file()


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", turnout.__version__)


# --- names ---


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_is_sorted_and_exists(module: ModuleType) -> None:
    exported: list[str] = module.__all__
    assert exported == sorted(exported)
    assert len(set(exported)) == len(exported)
    assert all(hasattr(module, name) for name in exported)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_is_complete(module: ModuleType) -> None:
    """The modules that gather what others define export all of it; the others what they define themselves."""
    home = "turnout" if module in FACES else module.__name__
    own = {name for name in names_of(module) if getattr(getattr(module, name), "__module__", "").startswith(home)}
    # Used by the native half, and of no use to others.
    own -= {"Reading", "read_exception", "read_exception_headers"}
    assert own <= set(module.__all__)


def test_what_submodules_export_is_exported() -> None:
    for module in HOMES:
        for name in module.__all__:
            assert getattr(turnout, name) is getattr(module, name)
            assert name in turnout.__all__


def test_everything_says_where_it_is_found() -> None:
    """So that reprs, pickles and documentation name what users import."""
    for module in (turnout, strategies):
        for name in module.__all__:
            member: Any = getattr(module, name)
            if inspect.isclass(member):
                assert not member.__module__.split(".")[-1].startswith("_"), name
                assert member.__qualname__ == name
                assert getattr(sys.modules[member.__module__], name) is member


# --- native classes ---


@pytest.mark.parametrize("cls", NATIVE, ids=lambda cls: cls.__name__)
def test_native_classes_are_final_and_frozen(cls: type) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Sub", (cls,), {})
    assert "__dict__" not in vars(cls)


class Named(Router):
    """A router with something of its own."""

    def __new__(cls, deployments: list[Deployment], *, name: str, **options: Any) -> "Named":
        self = super().__new__(cls, deployments, **options)
        self.name = name
        return self

    name: str

    def first(self, model_name: str) -> str:
        return f"{self.name}: {self.select(model_name)}"


def test_a_router_can_be_subclassed() -> None:
    router = Named([Deployment("a", "m")], name="eu", strategy="round_robin")
    assert router.first("m") == "eu: a"
    assert repr(router) == "<Named of 1 deployments, 1 models, round_robin>"
    assert isinstance(router, Router)
    assert [context.deployment_id for context in strategies.build_routing_contexts(router, ["a"])] == ["a"]
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(router)


def test_a_router_takes_methods_that_are_written_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router, "size", lambda self: len(self), raising=False)
    router: Any = Named([Deployment("a", "m")], name="eu")
    assert router.size() == Router([Deployment("a", "m")]).size() == 1  # type: ignore[attr-defined]


def test_a_router_has_no_attributes_of_its_own() -> None:
    with pytest.raises(AttributeError):
        Router().name = "eu"  # type: ignore[attr-defined]


def test_a_lease_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match="Lease"):
        Lease()


@pytest.mark.parametrize("name", ["deployment", "deployment_id", "model_name", "tokens", "released", "other"])
def test_a_lease_is_frozen(name: str) -> None:
    router = Router([Deployment("a", "m")])
    with router.acquire("m") as lease, pytest.raises(AttributeError):
        setattr(lease, name, 5)


def test_no_python_frame_between_the_caller_and_a_pick() -> None:
    for name in ("select", "acquire", "select_many", "explain"):
        assert type(inspect.getattr_static(Router, name)).__name__ == "method_descriptor"
    # The id is an object that is there already.
    deployment = Deployment("a" * 30, "m")
    router = Router([deployment])
    assert router.select("m") is router.select("m")
    assert router.select("m") is deployment.deployment_id
    with router.acquire("m") as lease:
        assert lease.deployment_id is deployment.deployment_id
        assert lease.deployment is deployment


# --- documentation ---


def documented() -> Iterator[tuple[str, str | None, Any]]:
    """Each public class, method, property and function of the stub: its name, its docstring, and what it is
    at runtime.
    """
    core = sys.modules[CORE]
    for node in ast.parse((ROOT / "_core.pyi").read_text()).body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        member = getattr(core, node.name)
        yield node.name, ast.get_docstring(node), member
        if isinstance(node, ast.ClassDef):
            if node.name == "Router":
                assert callable(member.call)  # loads the methods that are written in Python
            for inner in node.body:
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", ast.get_docstring(inner), vars(member)[inner.name]


DOCUMENTED = list(documented())


def summary(said: str | None) -> str:
    """The first paragraph in plain words, without the marks of reStructuredText."""
    return re.sub(r":\w+:`|`", "", " ".join((said or "").strip().split("\n\n")[0].split()))


def is_property(member: Any) -> bool:
    return type(member).__name__ == "getset_descriptor"


@pytest.mark.parametrize(
    ("said", "member"), [pytest.param(said, member, id=name) for name, said, member in DOCUMENTED if not is_property(member)]
)
def test_a_docstring_is_there_and_says_the_same_at_runtime(said: str | None, member: Any) -> None:
    assert summary(said)
    assert summary(inspect.getdoc(member)) == summary(said)


def test_properties_are_documented_at_runtime_too() -> None:
    properties = {
        name: (summary(said), summary(inspect.getdoc(member))) for name, said, member in DOCUMENTED if is_property(member)
    }
    assert len(properties) > 20
    assert all(said for said, _ in properties.values())
    assert {name: texts for name, texts in properties.items() if texts[0] != texts[1]} == {}


def test_everything_in_the_stub_is_documented() -> None:
    assert len(DOCUMENTED) > 60


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_python_modules_document_what_they_export(module: ModuleType) -> None:
    assert module.__doc__
    for name in module.__all__:
        member = getattr(module, name)
        # Python 3.10 takes Callable[...] for a class.
        if (inspect.isclass(member) and get_origin(member) is None) or inspect.isfunction(member):
            assert inspect.getdoc(member), name


# --- garbage ---


class Token:
    """Something that a weak reference can watch, which the native classes are not."""

    holds: Any = None


def is_collected(token: weakref.ref[Token]) -> bool:
    gc.collect()
    return token() is None


def test_a_router_goes_without_the_collector() -> None:
    gc.disable()
    try:
        token = Token()
        watch = weakref.ref(token)
        router = Router([Deployment("a", "m", metadata={"token": token})])
        router.acquire("m").release()
        del router, token
        assert watch() is None
    finally:
        gc.enable()


def cycle_through_metadata() -> weakref.ref[Token]:
    token = Token()
    token.holds = Router([Deployment("a", "m", metadata={"token": token}), Deployment("b", "m")])
    return weakref.ref(token)


def cycle_after_changes() -> weakref.ref[Token]:
    token = Token()
    router = token.holds = Router([Deployment("a", "m", metadata={"token": token})])
    router.add_alias("fast", "m")
    router.add_deployment(Deployment("a", "n", metadata={"token": token}))
    router.set_deployments([Deployment("a", "m", metadata={"token": token}), Deployment("b", "m", metadata={"token": token})])
    router.remove_deployment("b")
    router.acquire("fast").release()
    return weakref.ref(token)


def cycle_through_a_subclass() -> weakref.ref[Token]:
    token = Token()
    router = token.holds = Named([Deployment("a", "m")], name="eu")
    router.token = token  # type: ignore[attr-defined]
    router.acquire("m").release()
    return weakref.ref(token)


def cycle_of_two_routers() -> weakref.ref[Token]:
    token = Token()
    shared = Deployment("a", "m", metadata={"token": token})
    token.holds = [Router([shared]), Router([shared])]
    return weakref.ref(token)


def cycle_of_a_deployment() -> weakref.ref[Token]:
    token = Token()
    token.holds = Deployment("a", "m", metadata={"token": token})
    return weakref.ref(token)


def cycle_with_an_ended_lease() -> weakref.ref[Token]:
    token = Token()
    router = Router([Deployment("a", "m", metadata={"token": token})])
    token.holds = [router, router.acquire("m")]
    token.holds[1].release()
    return weakref.ref(token)


@pytest.mark.parametrize(
    "make",
    [
        cycle_through_metadata,
        cycle_through_a_subclass,
        cycle_after_changes,
        cycle_of_two_routers,
        cycle_of_a_deployment,
        cycle_with_an_ended_lease,
    ],
    ids=lambda make: make.__name__,
)
def test_a_cycle_is_collected(make: Any) -> None:
    assert is_collected(make())


def test_a_live_lease_in_a_cycle_is_collected_and_warns() -> None:
    """Lost is lost, also where the lease is held only by what it leads to itself."""
    router = Router()

    def lose() -> weakref.ref[Token]:
        token = Token()
        router.add_deployment(Deployment("a", "m", metadata={"token": token}))
        token.holds = router.acquire("m")
        router.remove_deployment("a")
        return weakref.ref(token)

    watch = lose()
    with pytest.warns(ResourceWarning, match='"a"'):
        assert is_collected(watch)


def test_what_is_still_used_is_not_collected() -> None:
    token = Token()
    watch = weakref.ref(token)
    router = token.holds = Router([Deployment("a", "m", metadata={"token": token})])
    lease = router.acquire("m")
    del token, router
    gc.collect()
    assert watch() is not None
    assert lease.deployment.metadata["token"].holds.select("m") == "a"
    lease.release()
