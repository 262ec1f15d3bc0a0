"""The exceptions, what their messages say, and which objects can be copied."""

import copy
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import turnout
from turnout import (
    AliasCycle,
    AllDeploymentsInCooldown,
    ConfigurationError,
    Deployment,
    DeploymentNotFound,
    Lease,
    ManualClock,
    MinuteRules,
    ModelNotFound,
    NoAvailableDeployment,
    RateLimitExceeded,
    RequestTooLarge,
    Router,
    RouterError,
    RoutingContext,
    StoreLost,
    TooManyWaiters,
    Waiting,
    WaitTimeout,
    exceptions,
)
from turnout.strategies import RoundRobinCounters

U32 = 2**32 - 1
U64 = 2**64 - 1

BASES: dict[type[BaseException], tuple[type[BaseException], ...]] = {
    RouterError: (Exception,),
    ConfigurationError: (RouterError, ValueError),
    AliasCycle: (ConfigurationError,),
    ModelNotFound: (RouterError, LookupError),
    DeploymentNotFound: (RouterError, LookupError),
    NoAvailableDeployment: (RouterError,),
    AllDeploymentsInCooldown: (NoAvailableDeployment,),
    RateLimitExceeded: (NoAvailableDeployment,),
    WaitTimeout: (NoAvailableDeployment, TimeoutError),
    TooManyWaiters: (NoAvailableDeployment,),
    RequestTooLarge: (RouterError,),
    StoreLost: (RouterError,),
}


# --- the tree ---


@pytest.mark.parametrize("error", BASES, ids=lambda error: error.__name__)
def test_the_tree(error: type[BaseException]) -> None:
    assert error.__bases__ == BASES[error]
    assert getattr(turnout, error.__name__) is error
    assert error.__module__ == "turnout.exceptions"


def test_the_tree_is_complete() -> None:
    assert sorted(error.__name__ for error in BASES) == exceptions.__all__
    drawn = exceptions.__doc__ or ""
    assert all(error.__name__ in drawn for error in BASES)


# --- pickling ---

RAISED: list[Exception] = [
    RouterError("said"),
    ConfigurationError("said"),
    AliasCycle("said"),
    ModelNotFound("said", "gpt-4", ("gpt-4o",)),
    ModelNotFound("said"),
    DeploymentNotFound("said", "b", ("a",)),
    DeploymentNotFound("said"),
    NoAvailableDeployment("said", "m", 1.5, {"cooling_down": 2, "rpm_limit": 1}),
    NoAvailableDeployment("said"),
    AllDeploymentsInCooldown("said", "m", 0.05, {"cooling_down": 2}),
    RateLimitExceeded("said", "m", None, {"tpm_limit": 2}),
    WaitTimeout("said", "m", 1.5, {"cooling_down": 2}),
    TooManyWaiters("said", "m", None, {"max_parallel_requests": 2}),
    RequestTooLarge("said", "m", U64, 1000),
    RequestTooLarge("said"),
    StoreLost("said"),
]


def facts_of(error: Exception) -> dict[str, Any]:
    """The attributes; a note is part of what is said."""
    return {name: value for name, value in vars(error).items() if name != "__notes__"}


def alike(one: Exception, other: Exception) -> bool:
    return (type(one), one.args, facts_of(one), str(one)) == (type(other), other.args, facts_of(other), str(other))


def said(error: Exception) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_an_error_survives_a_pickle_and_a_copy(error: Exception) -> None:
    assert str(error) == "said"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert alike(pickle.loads(pickle.dumps(error, protocol)), error)
    assert alike(copy.copy(error), error)
    assert alike(copy.deepcopy(error), error)
    assert repr(error).startswith(type(error).__name__)


def busy() -> Router:
    router = Router(
        [Deployment("cool", "cool"), Deployment("spent", "spent", rpm_limit=1), Deployment("small", "small", tpm_limit=5)],
        clock=ManualClock(47.6),
    )
    router.cool_down("cool", 5)
    router.record_success("spent")
    router.add_alias("x", "y")
    return router


@pytest.mark.parametrize(
    ("expected", "call", "attributes"),
    [
        (ConfigurationError, lambda router: router.select("cool", tokens=-1), {}),
        (AliasCycle, lambda router: router.add_alias("y", "x"), {}),
        (ModelNotFound, lambda router: router.select("cooler"), {"model_name": "cooler", "near": ("cool",)}),
        (DeploymentNotFound, lambda router: router.stats("smal"), {"deployment_id": "smal", "near": ("small",)}),
        (
            NoAvailableDeployment,
            lambda router: router.select("cool", exclude=["cool"]),
            {"model_name": "cool", "retry_after": None, "reasons": {"excluded": 1}},
        ),
        (
            AllDeploymentsInCooldown,
            lambda router: router.select("cool"),
            {"model_name": "cool", "retry_after": 5.0, "reasons": {"cooling_down": 1}},
        ),
        (
            RateLimitExceeded,
            lambda router: router.select("spent"),
            {"model_name": "spent", "retry_after": pytest.approx(12.4), "reasons": {"rpm_limit": 1}},
        ),
        (
            RequestTooLarge,
            lambda router: router.acquire("small", tokens=6),
            {"model_name": "small", "tokens": 6, "largest_limit": 5},
        ),
    ],
)
def test_an_error_that_a_router_raises_carries_its_attributes(
    expected: type[Exception], call: Callable[[Router], object], attributes: dict[str, Any]
) -> None:
    with pytest.raises(expected) as caught:
        call(busy())
    error = caught.value
    assert type(error) is expected
    assert facts_of(error) == attributes
    assert alike(pickle.loads(pickle.dumps(error)), error)
    assert alike(copy.deepcopy(error), error)


# --- what messages say: the argument, the value, and what is allowed ---

MESSAGES: list[tuple[type[Exception], Callable[[Router], object], list[str]]] = [
    (ConfigurationError, lambda router: Deployment("", "m"), ["deployment_id", "at least one character", '""']),
    (ConfigurationError, lambda router: Deployment("a", ""), ["model_name", "at least one character", '""']),
    (ConfigurationError, lambda router: Deployment("a", "m", model=""), ["model", "at least one character", '""']),
    (ConfigurationError, lambda router: Deployment("a", "m", tags=["x", ""]), ["tag", "at least one character", '""']),
    (ConfigurationError, lambda router: Deployment("a", "m", weight=-1), ["weight", "0 to 4294967295", "-1"]),
    (ConfigurationError, lambda router: Deployment("a", "m", weight=2**32), ["weight", "0 to 4294967295", "4294967296"]),
    (ConfigurationError, lambda router: Deployment("a", "m", priority=2**32), ["priority", "0 to 4294967295", "4294967296"]),
    (ConfigurationError, lambda router: Deployment("a", "m", rpm_limit=0), ["rpm_limit", "1 to 18446744073709551615", "0"]),
    (ConfigurationError, lambda router: Deployment("a", "m", tpm_limit=2**64), ["tpm_limit", "1 to 1844", "18446744073709551616"]),
    (
        ConfigurationError,
        lambda router: Deployment("a", "m", max_parallel_requests=0),
        ["max_parallel_requests", "1 to 4294967295"],
    ),
    (ConfigurationError, lambda router: Deployment("\ud800", "m"), ["deployment_id", "surrogates", "ud800"]),
    (TypeError, lambda router: Deployment(5, "m"), ["deployment_id", "str", "5 (int)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Deployment("a", None), ["model_name", "str", "None"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Deployment("a", "m", weight=1.0), ["weight", "int", "1.0 (float)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Deployment("a", "m", weight="3"), ["weight", "int", "'3' (str)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Deployment("a", "m", tags="eu"), ["tags", "iterable of str", "'eu'"]),
    (TypeError, lambda router: Deployment("a", "m", tags=[5]), ["tags", "str", "5 (int)"]),  # type: ignore[list-item]
    (TypeError, lambda router: Deployment("a", "m", metadata=[1]), ["metadata", "mapping", "[1]"]),  # type: ignore[arg-type]
    (ConfigurationError, lambda router: Router(strategy="fastest"), ["strategy", "fastest", "least_busy"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Router(strategy=5), ["strategy", "str", "5 (int)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Router(strategies=["m"]), ["strategies", "mapping", "['m']"]),  # type: ignore[arg-type]
    (ConfigurationError, lambda router: Router(health=MinuteRules(allowed_fails=-1)), ["allowed_fails", "0 to", "-1"]),
    (ConfigurationError, lambda router: Router(health=MinuteRules(min_requests=-1)), ["min_requests", "0 to", "-1"]),
    (ConfigurationError, lambda router: Router(health=MinuteRules(cooldown_time=-0.5)), ["cooldown_time", "0 to 1e9", "-0.5"]),
    (ConfigurationError, lambda router: Router(health=MinuteRules(cooldown_time=float("nan"))), ["cooldown_time", "finite", "nan"]),
    (
        ConfigurationError,
        lambda router: Router(health=MinuteRules(success_threshold=0)),
        ["success_threshold", "1 to 4294967295", "0"],
    ),
    (ConfigurationError, lambda router: Router(waiting=Waiting(max_waiters=-1)), ["max_waiters", "0 to 4294967295", "-1 (int)"]),
    (TypeError, lambda router: Router(waiting=5), ["waiting", "a Waiting or None", "5 (int)"]),  # type: ignore[arg-type]
    (ConfigurationError, lambda router: Router(seed=-1), ["seed", "0 to 18446744073709551615", "-1"]),
    (TypeError, lambda router: Router(seed=1.5), ["seed", "int", "1.5"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Router(clock=5), ["clock", "ManualClock", "5 (int)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Router(5), ["deployments", "iterable of Deployment", "5 (int)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: Router(["a"]), ["deployments", "Deployment", "'a' (str)"]),  # type: ignore[list-item]
    (ConfigurationError, lambda router: router.select("cool", tokens=-1), ["tokens", "0 to 18446744073709551615", "-1"]),
    (ConfigurationError, lambda router: router.acquire("cool", tokens=2**64), ["tokens", "18446744073709551616"]),
    (ConfigurationError, lambda router: router.acquire("cool", timeout=-1), ["timeout", "0 to 1e9", "-1"]),
    (ConfigurationError, lambda router: router.acquire("cool", priority=2**31), ["priority", "-2147483648 to 2147483647"]),
    (TypeError, lambda router: router.select("cool", tokens=1.5), ["tokens", "int", "1.5 (float)"]),  # type: ignore[arg-type]
    (ConfigurationError, lambda router: router.select_many("cool", -1), ["n ", "0 to 10000000", "-1"]),
    (ConfigurationError, lambda router: router.cool_down("cool", -1), ["seconds", "0 to 1e9", "-1"]),
    (ConfigurationError, lambda router: router.cool_down("cool", float("inf")), ["seconds", "finite", "inf"]),
    (ConfigurationError, lambda router: router.cool_down("cool", 10**400), ["seconds", "0 to 1e9"]),
    (TypeError, lambda router: router.cool_down("cool", "5"), ["seconds", "'5' (str)"]),  # type: ignore[arg-type]
    (ConfigurationError, lambda router: router.record_success("cool", latency=-1), ["latency", "0 to 1e9", "-1"]),
    (ConfigurationError, lambda router: router.record_success("cool", tokens=-1), ["tokens", "-1"]),
    (ConfigurationError, lambda router: router.record_failure("cool", "5xx"), ["kind", "5xx", "rate_limit"]),  # type: ignore[arg-type]
    (ConfigurationError, lambda router: router.record_failure("cool", retry_after=1e10), ["retry_after", "1e9"]),
    (TypeError, lambda router: router.record_failure("cool", 429), ["kind", "str", "429 (int)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: router.report_health("cool", "yes"), ["healthy", "bool", "'yes'"]),  # type: ignore[arg-type]
    (ConfigurationError, lambda router: ManualClock(-1), ["start", "0 to 1e10", "-1"]),
    (ConfigurationError, lambda router: ManualClock().advance(-1), ["seconds", "0 to 1e9", "-1"]),
    (ConfigurationError, lambda router: ManualClock(1e10).advance(1), ["seconds", "1e10", "1"]),
    (ConfigurationError, lambda router: ManualClock().set(float("nan")), ["seconds", "finite", "nan"]),
    (TypeError, lambda router: router.select(5), ["model_name", "str", "5 (int)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: router.stats(None), ["deployment_id", "str", "None"]),  # type: ignore[arg-type]
    (TypeError, lambda router: router.add_alias("a", 5), ["target", "str", "5 (int)"]),  # type: ignore[arg-type]
    (TypeError, lambda router: router.deployments(5), ["model_name", "str", "5 (int)"]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("expected", "call", "words"), MESSAGES, ids=[f"{place}-{words[0].strip()}" for place, (*_, words) in enumerate(MESSAGES)]
)
def test_a_message_names_the_argument_the_value_and_what_is_allowed(
    expected: type[Exception], call: Callable[[Router], object], words: list[str]
) -> None:
    router = busy()
    before = router.snapshot()
    with pytest.raises(expected) as caught:
        call(router)
    assert type(caught.value) is expected
    assert [word for word in words if word not in said(caught.value)] == []
    assert router.snapshot() == before


def test_a_message_stays_short_whatever_the_value() -> None:
    with pytest.raises(TypeError) as caught:
        Deployment("a", "m", weight="x" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_a_long_wrong_name_is_refused_at_once() -> None:
    """Model names come from requests: likeness must not be sought for so long that all others wait."""
    name = "x" * 1_000_000
    router = Router([Deployment(f"d{number}", f"model-{number}") for number in range(1000)])
    start = time.process_time()
    with pytest.raises(ModelNotFound) as caught:
        router.select(name)
    with pytest.raises(DeploymentNotFound):
        router.stats(name)
    # To compare every letter with every known name takes ten times as long.
    assert time.process_time() - start < 1
    assert caught.value.model_name == name


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb"])
def test_a_name_with_surrogates_is_a_clear_error(name: str) -> None:
    """Nothing can have such a name, so asking for it is either not found or a value that is not allowed."""
    router = busy()
    for call in (router.select, router.acquire, router.explain, router.resolve, router.stats, router.remove_deployment):
        with pytest.raises(RouterError):
            call(name)
    with pytest.raises(RouterError):
        router.add_alias(name, "cool")


# --- copies ---


def everything() -> Deployment:
    return Deployment(
        "a",
        "m",
        model="provider/m",
        weight=2,
        priority=3,
        rpm_limit=4,
        tpm_limit=5,
        max_parallel_requests=6,
        tags=["x", "y", "x"],
        metadata={"url": "u", "list": [1]},
    )


CHANGES: list[dict[str, Any]] = [
    {"deployment_id": "b"},
    {"model_name": "n"},
    {"model": "provider/n"},
    {"weight": 9},
    {"priority": 9},
    {"rpm_limit": None},
    {"tpm_limit": 9},
    {"max_parallel_requests": None},
    {"tags": ["y", "x"]},
    {"tags": ()},
    {"metadata": None},
    {"metadata": {"url": "v"}},
]
NAMES = [
    "deployment_id",
    "model_name",
    "model",
    "weight",
    "priority",
    "rpm_limit",
    "tpm_limit",
    "max_parallel_requests",
    "tags",
    "metadata",
]


def test_a_deployment_keeps_what_it_was_given() -> None:
    deployment = everything()
    facts = {name: getattr(deployment, name) for name in NAMES}
    assert facts == {
        "deployment_id": "a",
        "model_name": "m",
        "model": "provider/m",
        "weight": 2,
        "priority": 3,
        "rpm_limit": 4,
        "tpm_limit": 5,
        "max_parallel_requests": 6,
        "tags": ("x", "y"),
        "metadata": {"url": "u", "list": [1]},
    }
    usual = Deployment("a", "m")
    assert [getattr(usual, name) for name in NAMES] == ["a", "m", "m", 1, 0, None, None, None, (), {}]


@pytest.mark.parametrize(("name", "most"), [("weight", U32), ("priority", U32), ("max_parallel_requests", U32), ("rpm_limit", U64)])
def test_the_ends_of_the_ranges_are_allowed(name: str, most: int) -> None:
    least = 0 if name in ("weight", "priority") else 1
    for value in (least, most):
        assert getattr(Deployment("a", "m", **{name: value}), name) == value  # type: ignore[arg-type]


def test_metadata_is_a_copy_that_cannot_be_changed() -> None:
    given = {"url": "u"}
    deployment = Deployment("a", "m", metadata=given)
    given["url"] = "changed"
    assert deployment.metadata["url"] == "u"
    with pytest.raises(TypeError):
        deployment.metadata["url"] = "changed"  # type: ignore[index]
    with pytest.raises(TypeError):
        Deployment("a", "m").metadata["url"] = "new"  # type: ignore[index]
    assert "url" not in Deployment("a", "m").metadata


@pytest.mark.parametrize("name", NAMES)
def test_a_deployment_is_frozen(name: str) -> None:
    deployment = everything()
    with pytest.raises(AttributeError):
        setattr(deployment, name, getattr(deployment, name))
    with pytest.raises(AttributeError):
        delattr(deployment, name)
    with pytest.raises(AttributeError):
        deployment.other = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("deployment", [everything(), Deployment("a", "m"), Deployment("é'\"\n", "名")], ids=repr)
def test_a_deployment_survives_a_pickle_and_a_copy(deployment: Deployment) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(deployment, protocol)) == deployment
    for twin in (copy.copy(deployment), copy.deepcopy(deployment), deployment.replace(), eval(repr(deployment))):
        assert twin == deployment
        assert hash(twin) == hash(deployment)
        assert repr(twin) == repr(deployment)
        assert type(twin) is Deployment
    if deployment.metadata:
        assert copy.deepcopy(deployment).metadata["list"] is not deployment.metadata["list"]
        assert copy.copy(deployment).metadata["list"] is deployment.metadata["list"]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_fact_makes_a_difference_and_can_be_replaced(change: dict[str, Any]) -> None:
    deployment = everything()
    other = deployment.replace(**change)
    assert other != deployment
    assert other == other.replace()
    changed = {name for name in NAMES if getattr(other, name) != getattr(deployment, name)}
    assert changed == set(change)
    assert deployment == everything()


def test_a_model_that_was_not_given_follows_the_model_name() -> None:
    assert Deployment("a", "m").replace(model_name="n").model == "n"
    assert Deployment("a", "m", model="p").replace(model_name="n").model == "p"


def test_replace_refuses_what_the_constructor_refuses() -> None:
    deployment = everything()
    with pytest.raises(ConfigurationError, match="weight"):
        deployment.replace(weight=-1)
    with pytest.raises(TypeError, match="wait"):
        deployment.replace(wait=3)
    with pytest.raises(TypeError):
        deployment.replace(3)  # type: ignore[call-arg]


def test_a_deployment_is_equal_to_deployments_only() -> None:
    deployment = Deployment("a", "m")
    assert deployment == Deployment("a", "m", model="m", weight=1, tags=[], metadata={})
    others: list[object] = ["a", ("a", "m"), None, RoutingContext(deployment_id="a"), object()]
    assert all(deployment != other for other in others)
    assert len({deployment, Deployment("a", "m"), Deployment("b", "m")}) == 2
    with pytest.raises(TypeError):
        sorted([deployment, Deployment("b", "m")])  # type: ignore[type-var]


def test_repr_says_what_is_not_usual() -> None:
    assert repr(Deployment("a", "m")) == "Deployment('a', 'm')"
    assert repr(everything()) == (
        "Deployment('a', 'm', model='provider/m', weight=2, priority=3, rpm_limit=4, tpm_limit=5, max_parallel_requests=6, "
        "tags=('x', 'y'), metadata={'url': 'u', 'list': [1]})"
    )


def counting_things() -> list[Any]:
    router = Router([Deployment("a", "m")])
    lease = router.acquire("m")
    lease.release()
    return [router, lease, ManualClock(5), RoundRobinCounters()]


@pytest.mark.parametrize("thing", counting_things(), ids=lambda thing: type(thing).__name__)
def test_what_counts_can_be_neither_pickled_nor_copied(thing: Any) -> None:
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=type(thing).__name__):
            duplicate(thing)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=type(thing).__name__):
            pickle.loads(pickle.dumps(thing, protocol))


def test_reprs_are_for_people() -> None:
    router = Router([Deployment("a", "m")])
    lease: Lease = router.acquire("m", tokens=7)
    assert repr(lease) == '<Lease on "a" of "m", 7 tokens, in flight>'
    lease.release()
    assert repr(lease) == '<Lease on "a" of "m", 7 tokens, ended>'
    assert "1.5" in repr(ManualClock(1.5))


# --- calls where nothing can be imported ---

# Each call, and the type of what it returns or raises.
SANDBOXED = {
    "Router": "type",
    "router.select('nope')": "ModelNotFound",
    "router.select('m')": "str",
    "router.acquire('full')": "NoAvailableDeployment",
    "router.acquire('full', timeout=0.001)": "WaitTimeout",
    "router.acquire('m')": "Lease",
    "router.acquire('m', tokens=-1)": "ConfigurationError",
    "router.acquire('small', tokens=9)": "RequestTooLarge",
    "router.acquire('spent', tokens=9)": "RateLimitExceeded",
    "router.acquire('cooled')": "AllDeploymentsInCooldown",
    "router.acquire_async('full', timeout=0.001).close()": "NoneType",
    "router.stats('nope')": "DeploymentNotFound",
    "router.stats('d')": "DeploymentStats",
    "router.stats('limited').limits": "tuple",
    "router.snapshot()": "dict",
    "router.explain('m')": "Explanation",
    "router.metrics()": "RouterMetrics",
    "router.strategy": "Strategy",
    "router.observe('d', {'retry-after': '0'})": "NoneType",
    "router.record_failure('d', 'nope')": "ConfigurationError",
    "router.record_failure('d', 'error')": "NoneType",
    "router.cool_down('cooled', 1.0)": "NoneType",
    "router.add_alias('x', 'x')": "AliasCycle",
    "router.configure(strategy='best')": "ConfigurationError",
    "router.configure(strategies=[1])": "TypeError",
    "router.configure(health=1)": "TypeError",
    "router.get_deployment('limited').limits": "tuple",
    "Deployment('', 'm')": "ConfigurationError",
    "Deployment('d', 'm', metadata=1)": "TypeError",
    "Deployment('d', 'm', limits=[1])": "TypeError",
    "Router(strategy='best')": "ConfigurationError",
    "failed()": "NoneType",
    "lost()": "NoneType",
}

SANDBOX = """
import builtins, sys, warnings
from turnout import Deployment, Limit, Router
router = Router([
    Deployment("d", "m"), Deployment("limited", "limited", limits=[Limit(requests=9)]),
    Deployment("full", "full", max_parallel_requests=1), Deployment("small", "small", tpm_limit=5),
    Deployment("spent", "spent", rpm_limit=1), Deployment("cooled", "cooled"),
])
held = router.acquire("full")
router.acquire("spent").release()
router.cool_down("cooled", 60)
router.subscribe(lambda event: None)

def failed():
    try:
        with router.acquire("m"):
            raise ValueError
    except ValueError:
        pass

def lost():
    router.acquire("m")
    return None

warnings.simplefilter("ignore")
names = {"Deployment": Deployment, "Router": Router, "router": router, "failed": failed, "lost": lost}
codes = sys.argv[1:]
imported = set(sys.modules)
def refuse(name, *args, **kwargs):
    raise AssertionError(f"{name} was imported")
builtins.__import__ = refuse
sys.meta_path.clear()
for code in codes:
    try:
        said = type(eval(code, {"__builtins__": {}, **names})).__name__
    except BaseException as error:
        said = type(error).__name__
    print(said)
print(*set(sys.modules) - imported)
"""


def test_calls_import_nothing_once_there_is_a_router() -> None:
    """Native code imports by the builtins of the frame that called it: PyO3/pyo3#1035, #4913."""
    done = subprocess.run([sys.executable, "-c", SANDBOX, *SANDBOXED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *said, imported = done.stdout.split("\n")[:-1]
    assert dict(zip(SANDBOXED, said, strict=True)) == SANDBOXED
    assert imported == ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("Router", "Router"),
        ("lambda: Deployment('', 'm')", "ConfigurationError"),
        ("lambda: Deployment('d', 'm', limits=[1])", "TypeError"),
        ("lambda: least_busy([1])", "TypeError"),
    ],
)
def test_a_sandbox_may_be_the_first_to_call(code: str, expected: str) -> None:
    program = f"""
from turnout import Deployment, Router
from turnout.strategies import least_busy
call = eval({code!r}, {{"__builtins__": {{}}, "Deployment": Deployment, "Router": Router, "least_busy": least_busy}})
try:
    print(type(eval("call()", {{"__builtins__": {{}}, "call": call}})).__name__)
except Exception as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr
