"""What is said in more than one place is held together: keywords, names and fields, in Rust, Python, the stub
and the docs.
"""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import turnout
from turnout import (
    DeploymentStats,
    EventKind,
    FailureKind,
    Health,
    Learning,
    MinuteRules,
    Router,
    RouterMetrics,
    Status,
    Strategy,
    Waiting,
)

ROOT = Path(__file__).parent.parent
STUB = ROOT / "python" / "turnout" / "_core.pyi"

# The keywords of a request: each with its default and its type. The methods take them all; see also
# `with_keywords` in src/python/picks.rs.
KEYWORDS = {
    "tokens": (0, "int"),
    "input_tokens": (None, "int | None"),
    "output_tokens": (None, "int | None"),
    "tags": (None, "Iterable[str] | None"),
    "tags_match": ("all", "_TagsMatch"),
    "exclude": (None, "Iterable[str] | None"),
    "only": (None, "Iterable[str] | None"),
    "dialect": (None, "_Dialect | None"),
}
PICKS = ("select", "select_many", "acquire", "acquire_async", "explain")


def source(path: str) -> str:
    return (ROOT / "src" / path).read_text()


def quoted(text: str) -> list[str]:
    return re.findall(r'"([a-z0-9_-]+)"', text)


def stub_class(name: str) -> ast.ClassDef:
    return next(node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name)


def literals(alias: str) -> set[str]:
    """The strings of a literal type of the stub."""
    assigned = next(
        node.value
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == alias
    )
    assert assigned is not None
    return set(ast.literal_eval(ast.unparse(assigned).removeprefix("Literal")))


# --- keywords of a request ---


@pytest.mark.parametrize("name", PICKS)
def test_every_pick_takes_the_keywords(name: str) -> None:
    parameters = inspect.signature(getattr(Router, name)).parameters
    taken = {key: parameter.default for key, parameter in parameters.items() if key in KEYWORDS}
    assert taken == {key: default for key, (default, _) in KEYWORDS.items()}
    assert list(taken) == list(KEYWORDS)


@pytest.mark.parametrize("name", PICKS)
def test_the_stub_shows_the_keywords(name: str) -> None:
    method = next(
        node
        for node in stub_class("Router").body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
    )
    shown = {
        argument.arg: (ast.literal_eval(default), ast.unparse(argument.annotation))
        for argument, default in zip(method.args.kwonlyargs, method.args.kw_defaults, strict=True)
        if argument.arg in KEYWORDS and default is not None and argument.annotation is not None
    }
    assert shown == KEYWORDS


def test_the_list_of_keywords_is_that_of_the_native_half() -> None:
    rows = re.findall(r"^ {12}(\w+): .* = \"(.*)\",$", source("python/picks.rs"), re.MULTILINE)
    assert [(name, ast.literal_eval(shown)) for name, shown in rows] == [(name, default) for name, (default, _) in KEYWORDS.items()]


# --- names ---


def test_strategies_are_those_of_the_native_half() -> None:
    rows = re.findall(r"^ {12}\w+: \w+, \"(\w+)\" \[(.*)\];$", source("strategy/name.rs"), re.MULTILINE)
    names, spellings = [name for name, _ in rows], [spelling for _, others in rows for spelling in quoted(others)]
    assert [str(strategy) for strategy in Strategy] == names
    assert literals("_StrategyName") == {*names, *spellings}
    for spelling in spellings:
        assert Router(strategy=spelling).strategy in Strategy  # type: ignore[arg-type]


def names_in(path: str, enum: str) -> list[str]:
    """The names that an enum of the native half gives its variants."""
    text = source(path)
    return re.findall(r"Self::\w+ => \"(\w+)\"", text[text.index(f"impl {enum} {{") :].partition("\n}\n")[0])


def test_the_other_enums_are_those_of_the_native_half() -> None:
    assert [str(kind) for kind in FailureKind] == names_in("health/failure.rs", "FailureKind")
    assert literals("_FailureKindName") == {str(kind) for kind in FailureKind}
    assert [str(status) for status in Status] == names_in("health/vitals.rs", "Status")
    assert [str(kind) for kind in EventKind] == names_in("base/events.rs", "EventKind")


def test_units_are_those_of_the_native_half() -> None:
    units = names_in("limits/unit.rs", "Unit")
    assert list(inspect.signature(turnout.Limit).parameters)[: len(units)] == units


GATES = re.findall(r"^ {16}\w+ (\w+) (?:wish|cooldown|rate_limit|other),$", source("base/gate.rs"), re.MULTILINE)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("NoAvailableDeployment", turnout.NoAvailableDeployment.__doc__),
        ("Verdict", turnout.Verdict.__doc__),
    ],
)
def test_the_documentation_names_the_gates_in_their_order(place: str, text: str) -> None:
    assert len(GATES) == 16
    named = [name for name in re.findall(r"``(\w+)``", text) if name in GATES]
    assert named == GATES, place


def test_the_guide_names_every_gate() -> None:
    assert set(re.findall(r"\w+", (ROOT / "docs" / "guide.md").read_text())) >= set(GATES)


# --- fields ---


@pytest.mark.parametrize(
    ("options", "reader"), [(Health, "health"), (Learning, "learning"), (MinuteRules, "minute_rules"), (Waiting, "waiting")]
)
def test_options_are_read_whole(options: Any, reader: str) -> None:
    text = source("python/options.rs")
    body = text[text.index(f"fn {reader}(") :].partition("\n}\n")[0]
    read = set(re.findall(r'(?:get(?:attr)?|seconds|count)\("(\w+)"[,)]', body))
    assert read == {field.name for field in fields(options)}


def test_statistics_have_the_fields_that_the_native_half_fills_in_order() -> None:
    text = source("python/records.rs")
    stats = text[text.index("fn fields<") :].partition("\n}\n")[0]
    assert re.findall(r'^ {8}\("(\w+)"', stats, re.MULTILINE) == [field.name for field in fields(DeploymentStats)]
    metrics = text[text.index("fn router_metrics<") :].partition("\n}\n")[0]
    counted = names_in("attempts/counts.rs", "Counted")
    first, _, rest = metrics.partition("counts.all()")
    before, after = (re.findall(r'set_item\("(\w+)"', part) for part in (first, rest))
    assert before + counted + after == [field.name for field in fields(RouterMetrics)]


def test_snapshots_and_statistics_say_the_same() -> None:
    router = Router([turnout.Deployment("a", "m", rpm_limit=5), turnout.Deployment("b", "m")])
    snapshot = router.snapshot()
    for nth, name in enumerate("ab"):
        stats = router.stats(name)
        assert {key: column[nth] for key, column in snapshot.items()} == {key: getattr(stats, key) for key in snapshot}
