"""Anything at all, thrown at every public callable: a clear error or an answer, and nothing broken
afterwards.
"""

import ast
import gc
import math
import sys
from collections import UserDict, UserString
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import turnout
from hypothesis import given
from hypothesis import strategies as st
from turnout import Deployment, FailureKind, Lease, ManualClock, Router, RouterError, Status, Strategy, classify_exception
from turnout.shared import Memory
from turnout.strategies import RoundRobinCounters, RoutingContext

# --- hostile objects ---


class Boom(Exception):
    """What a hostile object raises of its own."""


class Abort(BaseException):
    """The same, as a KeyboardInterrupt would be."""


def boom(*_: object, **__: object) -> Any:
    raise Boom("said by a hostile object")


def abort(*_: object, **__: object) -> Any:
    raise Abort("said by a hostile object")


HOOKS = [
    "__repr__",
    "__str__",
    "__index__",
    "__int__",
    "__float__",
    "__iter__",
    "__next__",
    "__len__",
    "__bool__",
    "__eq__",
    "__hash__",
    "__getitem__",
    "__contains__",
    "__getattribute__",
    "__fspath__",
    "__length_hint__",
    "keys",
    "items",
]


def hostile(name: str, base: type, raises: Callable[..., Any], *hooks: str) -> type:
    return type(name, (base,), dict.fromkeys(hooks, raises))


def liar(value: object) -> type:
    """Its conversions give something else than they should."""
    return type("Liar", (), dict.fromkeys(("__index__", "__float__", "__iter__", "__repr__"), lambda self: value))


class LyingClass:
    """It claims to be a Deployment."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return Deployment


class RaisingClass:
    """Asking what it is raises."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise Boom("said by a hostile object")


class BrokenMapping(Mapping[str, Any]):
    """A mapping whose items are no pairs and whose values are not there."""

    def __getitem__(self, key: str) -> Any:
        raise Boom(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["m", "a"])

    def __len__(self) -> int:
        return -1

    def items(self) -> Any:
        return [1, (2,), ("m", "least_busy", 3)]


def broken_iterator() -> Iterator[str]:
    yield "a"
    raise Boom("said by a hostile object")


RaisesAll = hostile("RaisesAll", object, boom, *HOOKS)
Int = hostile("Int", int, boom, "__index__", "__int__", "__repr__", "__eq__", "__hash__", "__lt__")
Str = hostile("Str", str, boom, "__str__", "__repr__", "__eq__", "__hash__", "__len__", "__iter__")
Float = hostile("Float", float, boom, "__float__", "__repr__", "__lt__", "__eq__", "__hash__")
Dict = hostile("Dict", dict, boom, "keys", "items", "__iter__", "__getitem__", "__len__")
List = hostile("List", list, boom, "__iter__", "__len__", "__getitem__")
Error = hostile("Error", Exception, boom, "__str__", "__repr__", "__getattribute__", "__eq__", "__hash__")
Meta = hostile("Meta", type, boom, "__repr__", "__instancecheck__", "__eq__", "__hash__")

# Each is made anew for each use, since some can be used but once.
HOSTILE: list[Callable[[], Any]] = [
    *(hostile(f"Raises{hook}", object, raises, hook) for hook in HOOKS for raises in (boom, abort)),
    RaisesAll,
    lambda: Int(3),
    lambda: Str("m"),
    lambda: Float(1.5),
    lambda: Dict(m="least_busy"),
    lambda: List(["a"]),
    lambda: Error("said"),
    Meta("Made", (), {}),
    *(liar(value) for value in (None, "x", b"x", 1.5, -1, 2**100, math.nan, [], object())),
    type("Index", (), {"__index__": lambda self: 3}),
    LyingClass,
    RaisingClass,
    BrokenMapping,
    broken_iterator,
    lambda: iter(["a", 5, None]),
    lambda: (number for number in range(3)),
    lambda: UserDict({"m": "least_busy"}),
    lambda: UserString("m"),
    type("BaseExceptionGroup", (Exception,), {"exceptions": [1, None, "x"]}),
    type("WithStatus", (Exception,), {"status_code": 2**100, "response": 5, "headers": BrokenMapping()}),
]

INTS = [0, 1, -1, 2, 255, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**64), 10**400]
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 1e9, 1.0000001e9, 1e300, 5e-324, math.nan, math.inf, -math.inf]
TEXTS = ["", "a", "m", "n", "alias", "\ud800", "a\udfff", "\0", "名", "x" * 5000, "least_busy", "rate_limit", "all", "any"]
OTHERS: list[Any] = [
    None,
    True,
    False,
    Ellipsis,
    NotImplemented,
    1j,
    b"",
    b"a",
    bytearray(b"m"),
    memoryview(b"a"),
    Decimal("1.5"),
    Fraction(1, 3),
    range(3),
    slice(1),
    object(),
    type,
    int,
    Deployment,
    boom,
    math,
    Enum,
    Strategy.LEAST_BUSY,
    FailureKind.ERROR,
    Status.UNHEALTHY,
    ValueError("said"),
    KeyboardInterrupt(),
]


# Objects of turnout itself, where another one belongs.
OURS: list[Callable[[], Any]] = [
    lambda: Deployment("a", "m"),
    lambda: Deployment("a", "n", rpm_limit=1, metadata={"x": RaisesAll()}),
    lambda: Deployment("new", "alias"),
    lambda: RoutingContext(deployment_id="a"),
    RoundRobinCounters,
    lambda: ManualClock(5),
    lambda: Router([Deployment("a", "m")]),
]
PLAIN: list[Any] = [*INTS, *FLOATS, *TEXTS, *OTHERS]
SCALARS: list[Callable[[], Any]] = [*(lambda value=value: value for value in PLAIN), *OURS, *HOSTILE]

# Hypothesis looks at what it draws, which hostile objects do not allow. So it draws recipes, and the test
# cooks them.
Recipe = int | tuple[str, list[int]]
INDEXES = st.integers(0, len(SCALARS) - 1)
ANYTHING: st.SearchStrategy[Recipe] = st.one_of(
    INDEXES, st.tuples(st.sampled_from(["list", "tuple", "iterator", "set", "dict"]), st.lists(INDEXES, max_size=4))
)


def cooked(recipe: Recipe) -> Any:
    if isinstance(recipe, int):
        return SCALARS[recipe]()
    kind, indexes = recipe
    items = [SCALARS[index]() for index in indexes]
    match kind:
        case "list":
            return items
        case "tuple":
            return tuple(items)
        case "iterator":
            return iter(items)
    hashable = [PLAIN[index] for index in indexes if index < len(PLAIN) and type(PLAIN[index]) in (str, int, float)]
    return set(hashable) if kind == "set" else dict(zip(hashable, items, strict=False))


# --- every public callable, read off the stub ---

STUB = Path(turnout.__file__).parent / "_core.pyi"


class Signature:
    """What can be given to one callable."""

    def __init__(self, owner: str | None, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = function.args
        positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
        self.name = f"{owner}.{function.name}" if owner else function.name
        self.positional = [name for name in positional if name not in ("self", "cls")]
        self.optional = len(arguments.defaults)
        self.keywords = [argument.arg for argument in arguments.kwonlyargs]
        self.any_keyword = arguments.kwarg is not None


def read_stub() -> Iterator[Signature]:
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield Signature(None, node)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)) and not member.decorator_list:
                    yield Signature(node.name, member)


SIGNATURES = {signature.name: signature for signature in read_stub()}

# Values that lead further than the first check, by the name of the argument.
NATURAL: dict[str, Any] = {
    "deployment_id": "a",
    "model_name": "m",
    "name": "m",
    "alias": "alias",
    "target": "m",
    "kind": "error",
    "seconds": 5,
    "healthy": True,
    "n": 3,
    "tokens": 3,
    "tags": ["t"],
    "exclude": ["b"],
    "tags_match": "any",
    "latency": 0.5,
    "retry_after": 0.5,
    "timeout": 0.0,
    "priority": 1,
    "strategy": "least_busy",
    "strategies": {"m": "round_robin"},
    "contexts": [RoutingContext(deployment_id="a"), RoutingContext(deployment_id="b")],
    "candidate_ids": ["a"],
    "send": bool,
    "only": ["a"],
    "dialect": "openai",
}


class World:
    """Objects to call upon, with a state that a failed call must leave alone. At the end its lease is
    released.
    """

    def __init__(self) -> None:
        self.clock = ManualClock(100)
        self.deployment = Deployment("c", "n", metadata={"url": "u"})
        self.router = Router(
            [
                Deployment("a", "m", weight=2, rpm_limit=1000, tpm_limit=10**6, max_parallel_requests=5, tags=["t"]),
                Deployment("b", "m"),
                self.deployment,
            ],
            strategies={"n": "round_robin"},
            seed=1,
            clock=self.clock,
        )
        self.router.add_alias("alias", "m")
        self.router.record_success("a", tokens=5, latency=0.25)
        self.router.record_failure("b")
        self.lease = self.router.acquire("m", tokens=7, exclude=["b"])

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.lease.release()

    def state(self) -> Any:
        router = self.router
        return (
            router.snapshot(),
            router.metrics(),
            [id(deployment) for deployment in router.deployments()],
            {name: [deployment.deployment_id for deployment in router.deployments(name)] for name in router.models()},
            router.aliases(),
            (router.strategy, router.strategies),
            self.clock.now(),
            self.lease.released,
        )

    def target(self, name: str) -> Callable[..., Any]:
        owner, _, method = name.rpartition(".")
        holders: dict[str, Any] = {
            "": turnout.strategies,
            "Router": self.router,
            "Lease": self.lease,
            "Deployment": self.deployment,
            "ManualClock": self.clock,
            "Memory": Memory(),
            "RoutingContext": RoutingContext(deployment_id="a"),
            "RoundRobinCounters": RoundRobinCounters(),
        }
        # The constructor as it is called.
        found: Callable[..., Any] = type(holders[owner]) if method == "__new__" else getattr(holders[owner], method)
        return found

    def natural(self, name: str) -> Any:
        match name:
            case "router":
                return self.router
            case "counters":
                return RoundRobinCounters()
            case "clock":
                return self.clock
            case "deployments":
                return [Deployment("a", "m"), Deployment("d", "n")]
            case "deployment":
                return Deployment("d", "n")
            case "exc_type" | "exc" | "traceback":
                return None
            case "metadata":
                return {"url": "u"}
            case "batch":
                return []
        return NATURAL.get(name)

    def check_consistent(self) -> None:
        """Whatever the call did, the counts add up and the router works."""
        router = self.router
        snapshot = router.snapshot()
        assert len(router) == len(router.deployments()) == len(snapshot["deployment_id"])
        assert sum(snapshot["in_flight"]) == router.metrics().in_flight
        for name in router.models():
            explanation = router.explain(name)
            assert [verdict.deployment_id for verdict in explanation.verdicts] == [
                deployment.deployment_id for deployment in router.deployments(name)
            ]
            if explanation.winner is not None:
                lease = router.acquire(name)
                lease.release(unused=True)
                assert lease.deployment_id == explanation.winner
        assert router.snapshot()["in_flight"] == snapshot["in_flight"]


@contextmanager
def no_panic() -> Iterator[list[Any]]:
    """Collects what Python could not raise; a panic must not be among it."""
    unraisable: list[Any] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: unraisable.append(args.exc_type)
    try:
        yield unraisable
    finally:
        sys.unraisablehook = hook
    assert not [error for error in unraisable if error.__name__ == "PanicException"]


# Warnings are errors here, and the old numbers of the minute's rules warn.
ALLOWED = (RouterError, TypeError, ValueError, DeprecationWarning, Boom, Abort)


def call(target: Callable[..., Any], arguments: Iterable[Any], keywords: dict[str, Any]) -> tuple[BaseException | None, Any]:
    """What it raised and what it returned; fails for an error that is not documented."""
    try:
        result = target(*arguments, **keywords)
    except ALLOWED as error:
        return error, None
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__} is not documented: {type(error)}") from error
    return None, result


def drawn_call(signature: Signature, world: World, data: st.DataObject) -> tuple[list[Any], dict[str, Any]]:
    """Natural arguments, some of which are replaced by anything."""
    least = max(len(signature.positional) - signature.optional, 0)
    positional = signature.positional[: data.draw(st.integers(least, len(signature.positional)))]
    keywords = data.draw(st.lists(st.sampled_from(signature.keywords), unique=True)) if signature.keywords else []
    values: dict[str, Any] = {}
    for name in (*positional, *keywords):
        recipe = data.draw(st.none() | ANYTHING)
        values[name] = world.natural(name) if recipe is None else cooked(recipe)
    arguments = [values.pop(name) for name in positional]
    if signature.any_keyword:
        changes = data.draw(st.dictionaries(st.sampled_from(["deployment_id", "tags", "metadata", "x"]), ANYTHING))
        values |= {name: cooked(recipe) for name, recipe in changes.items()}
    return arguments, values


@pytest.mark.parametrize("name", SIGNATURES)
@given(data=st.data())
def test_no_argument_can_break_anything(name: str, data: st.DataObject) -> None:
    with no_panic(), World() as world:
        arguments, keywords = drawn_call(SIGNATURES[name], world, data)
        before = world.state()
        error, result = call(world.target(name), arguments, keywords)
        if error is not None:
            assert world.state() == before
        if isinstance(result, Lease) and result is not world.lease:
            result.release(unused=True)
        world.check_consistent()
        world.lease.release(unused=True)
        assert world.router.metrics().in_flight == 0
        # What was thrown may be kept alive by itself; its end belongs to this example.
        del arguments, keywords, error, result
        gc.collect(0)


def test_the_stub_names_everything_there_is() -> None:
    """What the test above calls is all that can be called."""
    classes: dict[str, type] = {
        "Router": Router,
        "Lease": Lease,
        "Deployment": Deployment,
        "ManualClock": ManualClock,
        "Memory": Memory,
        "RoutingContext": RoutingContext,
        "RoundRobinCounters": RoundRobinCounters,
    }
    for owner, cls in classes.items():
        methods = {f"{owner}.{name}" for name, member in vars(cls).items() if callable(member) and not name.startswith("_")}
        assert methods <= set(SIGNATURES)
    functions = {name for name in turnout.strategies.__all__ if name[0].islower()}
    assert functions <= set(SIGNATURES)


@pytest.mark.parametrize("name", [name for name in SIGNATURES if not name.endswith(("__eq__", "__hash__"))])
def test_a_wrong_number_of_arguments_is_a_type_error(name: str) -> None:
    signature = SIGNATURES[name]
    with World() as world:
        before = world.state()
        target = world.target(name)
        too_many = [world.natural(argument) for argument in signature.positional] + [None]
        with pytest.raises(TypeError):
            target(*too_many)
        if len(signature.positional) > signature.optional:
            with pytest.raises(TypeError):
                target()
        if not signature.any_keyword and "__" not in name:
            with pytest.raises(TypeError):
                target(*too_many[:-1], no_such_keyword=1)
        assert world.state() == before


OPERATIONS: list[Callable[[Any, Any], object]] = [
    lambda one, other: one == other,
    lambda one, other: other == one,
    lambda one, other: one != other,
    lambda one, other: one < other,
    lambda one, other: other in one,
    lambda one, other: one[other],
    lambda one, other: one + other,
    lambda one, other: one(other),
    lambda one, other: isinstance(one, other),
]


@pytest.mark.parametrize("make", HOSTILE, ids=range(len(HOSTILE)))
def test_no_object_breaks_an_operator(make: Callable[[], Any]) -> None:
    with World() as world, no_panic():
        before = world.state()
        for thing in (world.router, world.lease, world.deployment, world.clock, RoutingContext(deployment_id="a")):
            for operation in OPERATIONS:
                call(operation, (thing, make()), {})
            with pytest.raises(AttributeError):
                thing.x = make()  # type: ignore[union-attr]
        assert world.state() == before


@given(recipe=ANYTHING)
def test_nothing_confuses_the_classification_of_exceptions(recipe: Recipe) -> None:
    with no_panic():
        _, outcome = call(classify_exception, [cooked(recipe)], {})
    if outcome is not None:
        assert isinstance(outcome.kind, FailureKind)
        assert outcome.retry_after is None or 0 <= outcome.retry_after <= 1e9


@given(recipe=ANYTHING, attribute=st.sampled_from(["status_code", "status", "code", "response", "headers", "body", "retry_after"]))
def test_no_attribute_of_an_exception_confuses_its_classification(recipe: Recipe, attribute: str) -> None:
    error = Exception("said")
    setattr(error, attribute, cooked(recipe))
    holder = Exception("said")
    holder.response = error  # type: ignore[attr-defined]
    for exception in (error, holder):
        with no_panic():
            _, outcome = call(classify_exception, [exception], {})
        if outcome is not None:
            assert outcome.retry_after is None or 0 <= outcome.retry_after <= 1e9


@pytest.mark.parametrize("make", HOSTILE, ids=range(len(HOSTILE)))
def test_no_exception_that_leaves_a_block_leaks_its_lease(make: Callable[[], Any]) -> None:
    """The caller's exception gets through, whatever it is made of."""
    error = Exception("said")
    for attribute in ("status_code", "headers", "response", "body", "code"):
        setattr(error, attribute, make())
    with World() as world, no_panic():
        with pytest.raises(Exception, match="said") as caught, world.router.acquire("n"):
            raise error
        assert caught.value is error
        world.lease.release()
        assert world.router.metrics().in_flight == 0


# --- objects that call back ---


def calls_back(router: Router) -> Callable[[], None]:
    """Uses and changes the router that is being called."""

    def use() -> None:
        router.select("n")
        with router.acquire("n"):
            router.explain("n")
        router.add_deployment(Deployment("late", "n"))
        router.remove_deployment("late")
        router.set_deployments(router.deployments())
        router.snapshot()
        gc.collect()

    return use


def test_arguments_may_use_the_router_that_reads_them() -> None:
    """Their conversion runs Python code, which must find no lock held."""
    with World() as world:
        use_while_read(world)


def use_while_read(world: World) -> None:
    router = world.router
    use = calls_back(router)

    class Number:
        def __index__(self) -> int:
            use()
            return 3

        def __repr__(self) -> str:
            use()
            return "Number()"

        def __float__(self) -> float:
            use()
            return 3.0

    def names() -> Iterator[str]:
        use()
        yield "b"
        use()

    def deployments() -> Iterator[Deployment]:
        use()
        yield from router.deployments()
        use()

    number: Any = Number()
    assert router.select("n", tokens=number) == "c"
    assert router.select_many("n", number, exclude=names()) == ["c"] * 3
    router.acquire("m", tokens=number, exclude=names()).release(unused=True)
    assert router.explain("n", tags=[], exclude=names()).winner == "c"
    router.record_success("c", tokens=number, latency=number)
    router.record_failure("c", retry_after=number)
    router.report_health("c", True)
    router.cool_down("b", number)
    router.set_deployments(deployments())
    for bad in (lambda: router.select(number), lambda: router.add_deployment(number), lambda: router.stats(number)):
        with pytest.raises(TypeError):
            bad()
    assert world.lease.success(tokens=number, latency=number)
    assert router.metrics().in_flight == 0


def test_what_a_change_drops_may_use_the_router() -> None:
    """The last reference to a deployment may go inside a change; what its metadata does then must find no
    lock held.
    """
    router = Router([Deployment("c", "n")])
    use = calls_back(router)
    dropped: list[str] = []

    class Last:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            use()
            dropped.append(self.name)

    def fresh(name: str) -> Deployment:
        return Deployment("a", "m", metadata={"last": Last(name)})

    router.add_deployment(fresh("replaced"))
    router.add_deployment(fresh("moved").replace(model_name="o"))
    router.add_deployment(fresh("removed"))
    router.remove_deployment("a")
    router.add_deployment(fresh("set"))
    router.set_deployments([Deployment("c", "n")])
    router.add_deployment(fresh("leased"))
    lease = router.acquire("m")
    router.remove_deployment("a")
    assert dropped == ["replaced", "moved", "removed", "set"]
    lease.release()
    del lease
    assert dropped == ["replaced", "moved", "removed", "set", "leased"]


def test_a_deployment_that_compares_itself_may_use_the_router() -> None:
    router = Router([Deployment("c", "n")])
    use = calls_back(router)

    class Value:
        def __eq__(self, other: object) -> bool:
            use()
            return True

        def __hash__(self) -> int:
            return 1

        def __repr__(self) -> str:
            use()
            return "Value()"

    one, other = (Deployment("a", "m", metadata={"value": Value()}) for _ in range(2))
    router.add_deployment(one)
    assert one == other
    assert "Value()" in repr(one)
    assert router.deployments("m") == [other]
