"""The check of floors finds what it is there to find."""

import doctest
from pathlib import Path

import floors
import pytest

BASE = {"lib.rs": "mod base;", "base/mod.rs": "pub(crate) mod time;", "base/time.rs": "pub(crate) type Nanos = u64;"}


def found(folder: Path, files: dict[str, str]) -> list[str]:
    for name, text in {**BASE, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sources = floors.Sources(folder)
    return list(floors.faults(sources, sources.graph()))


def test_the_sources_stand_on_floors() -> None:
    sources = floors.Sources(floors.SOURCES)
    graph = sources.graph()
    assert list(floors.faults(sources, graph)) == []
    assert sum(map(len, graph.values())) > 300, "the imports were found"


def test_an_import_from_above_is_found(tmp_path: Path) -> None:
    files = {
        "base/time.rs": "use crate::limits::Limit;",
        "limits/mod.rs": "mod limit;\npub use limit::Limit;",
        "limits/limit.rs": "",
    }
    assert found(tmp_path, files) == ["src/base/time.rs imports src/limits/limit.rs from a floor above"]


@pytest.mark.parametrize(
    "back",
    ["use super::one::One;", "use super::One;", "fn f() { super::one::g() }", "use crate::limits;\nfn f() { limits::one::g() }",
     "use crate::{base::time::Nanos, limits::{self, one::{One as Other}}};"],
)  # fmt: skip
def test_a_circle_is_found_by_whatever_way_round(tmp_path: Path, back: str) -> None:
    files = {
        "limits/mod.rs": "mod one;\nmod two;\npub(crate) use one::One;",
        "limits/one.rs": "use super::two::Two;",
        "limits/two.rs": back,
    }
    assert found(tmp_path, files) == ["files import each other in a circle: src/limits/one.rs, src/limits/two.rs"]


def test_comments_strings_and_tests_import_nothing(tmp_path: Path) -> None:
    no_code = '// use crate::limits::Limit;\nfn f() -> &str { "crate::limits::g" }\n'
    source = no_code + "#[cfg(test)]\nmod tests {\nuse crate::limits::Limit;\n}"
    assert found(tmp_path, {"base/time.rs": source, "limits/mod.rs": ""}) == []


@pytest.mark.parametrize(
    "source",
    [
        "pub use crate::router::Router;",
        "#[cfg(test)]\nmod tests {\nfn f() { {} }\n}\nuse crate::router::Router;",
        "const Q: char = '\"';\nuse crate::router::Router;\nconst R: char = '\"';",
        'const U: &str = "https://x"; fn f() { crate::router::g() }',
        'const A: &str = "/*";\nuse crate::router::Router;\nconst B: &str = "*/";',
        'const A: &str = r#"a " b"#;\nuse crate::router::Router;',
    ],
)
def test_nothing_hides_an_import(tmp_path: Path, source: str) -> None:
    [fault] = found(tmp_path, {"base/time.rs": source, "router.rs": "pub struct Router;"})
    assert fault.startswith("src/base/time.rs ")
    assert fault.endswith("from a floor above")


def test_a_long_file_is_found_and_its_tests_do_not_count(tmp_path: Path) -> None:
    line, tests = "fn f() {}\n", "#[cfg(test)]\nmod tests {\n" + "fn g() {}\n" * 500 + "}"
    assert found(tmp_path, {"base/time.rs": line * 400 + "// so be it\n" * 100 + tests}) == []
    [fault] = found(tmp_path, {"base/time.rs": line * 401})
    assert fault.startswith("src/base/time.rs has 401 lines of code")


def test_a_wide_comment_is_found(tmp_path: Path) -> None:
    wide = "// " + "word " * 25
    example = "/// ```\n/// let x = " + "1 + " * 30 + "1;\n/// ```\nfn f() {}\n"
    assert found(tmp_path, {"base/time.rs": example + wide}) == ["src/base/time.rs:5 has a comment of over 110 columns"]


def test_a_new_folder_needs_a_floor(tmp_path: Path) -> None:
    [fault] = found(tmp_path, {"attic/mod.rs": ""})
    assert "attic" in fault


def test_the_examples_in_the_script_run() -> None:
    assert doctest.testmod(floors).failed == 0
