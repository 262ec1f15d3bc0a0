"""The check of wheels finds what it is there to find; the version stands in one place."""

import re
import sys
import sysconfig
from pathlib import Path

import pytest
import turnout
import wheels

ROOT = Path(__file__).parent.parent
CARGO = (ROOT / "Cargo.toml").read_text()
VERSION = re.findall(r'^version = "(.+)"$', CARGO, re.MULTILINE)[0]
SUFFIX = ".cpython-313-x86_64-linux-gnu.so"


def wheel() -> list[str]:
    info = f"turnout-{VERSION}.dist-info"
    package = [path.relative_to(ROOT / "python").as_posix() for path in (ROOT / "python" / "turnout").rglob("*")
               if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts]  # fmt: skip
    about = ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "sboms/turnout.cyclonedx.json"]
    return [*package, f"turnout/_core{SUFFIX}", *(f"{info}/{name}" for name in about)]


def test_a_whole_wheel_has_no_fault() -> None:
    assert {"turnout/py.typed", "turnout/_core.pyi", "turnout/__init__.py"} <= set(wheel())
    assert list(wheels.faults_of_wheel(wheel(), VERSION, SUFFIX)) == []


@pytest.mark.parametrize(
    "name", ["turnout/py.typed", "turnout/_core.pyi", f"turnout/_core{SUFFIX}", f"turnout-{VERSION}.dist-info/licenses/LICENSE"]
)
def test_what_a_wheel_lacks_is_found(name: str) -> None:
    names = [each for each in wheel() if each != name]
    assert list(wheels.faults_of_wheel(names, VERSION, SUFFIX)) == [f"{name} is missing"]


@pytest.mark.parametrize(
    "name", ["tests/smoke.py", "turnout/_core.cpython-311-x86_64-linux-gnu.so", "turnout/__pycache__/router.cpython-313.pyc"]
)
def test_what_a_wheel_holds_without_need_is_found(name: str) -> None:
    assert list(wheels.faults_of_wheel([*wheel(), name], VERSION, SUFFIX)) == [f"{name} does not belong there"]


def test_the_library_of_another_interpreter_is_found() -> None:
    found = list(wheels.faults_of_wheel(wheel(), VERSION, ".cpython-310-x86_64-linux-gnu.so"))
    assert found == ["turnout/_core.cpython-310-x86_64-linux-gnu.so is missing", f"turnout/_core{SUFFIX} does not belong there"]


def test_a_source_distribution_holds_the_sources() -> None:
    top = f"turnout-{VERSION}"
    folders = [path for half in ("src", "python") for path in (ROOT / half).rglob("*")]
    sources = [f"{top}/{path.relative_to(ROOT).as_posix()}" for path in folders
               if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts]  # fmt: skip
    names = [*sources, *(f"{top}/{name}" for name in wheels.BESIDES)]
    assert list(wheels.faults_of_sdist(names, VERSION)) == []
    assert list(wheels.faults_of_sdist([*names, f"{top}/tests/smoke.py"], VERSION)) == ["tests/smoke.py does not belong there"]
    names.remove(f"{top}/src/lib.rs")
    assert list(wheels.faults_of_sdist(names, VERSION)) == ["src/lib.rs is missing"]


def test_interpreters_are_asked_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may fail, or be another version than its name says."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    runs = f'exec "{sys.executable}" "$@"'
    for folder, version, program in (("shim", here, "exit 127"), ("wrong", "3.9", runs), ("right", here, runs)):
        place = tmp_path / folder / f"python{version}"
        place.parent.mkdir()
        place.write_text(f"#!/bin/sh\n{program}\n")
        place.chmod(0o755)
    monkeypatch.setenv("PATH", ":".join(str(tmp_path / folder) for folder in ("shim", "wrong", "right")))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    found = wheels.interpreters(["3.9", here, "3.99"])
    assert [(one.version, one.path) for one in found] == [(here, sys.executable)]
    assert found[0].suffix == sysconfig.get_config_var("EXT_SUFFIX")


def test_the_versions_are_those_of_the_release_workflow() -> None:
    supported = re.search(r'^requires-python = ">=(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert supported
    assert wheels.wanted()[0] == supported[1]


# --- the version ---


def test_the_version_is_that_of_cargo_toml() -> None:
    assert turnout.__version__ == VERSION, "the native half was built from another version"
    lock = (ROOT / "Cargo.lock").read_text()
    assert re.findall(r'^name = "turnout"\nversion = "(.+)"$', lock, re.MULTILINE) == [VERSION]


def test_the_changelog_tells_of_the_version() -> None:
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert VERSION in sections
    assert sections[0] in ("Unreleased", VERSION), "no newer version is told of"


def test_no_second_place_names_the_version() -> None:
    """Two places that name it do not agree for long."""
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    names_it = re.compile(rf"""(?:turnout|version)\W{{0,5}}v?{re.escape(VERSION)}(?![\d.]*\d)""", re.IGNORECASE)
    kinds = {".py", ".pyi", ".md", ".toml", ".yml", ".json", ".rs"}
    own = ("python", "src", "docs", "tests", "benches", "examples", "scripts", ".github")
    places = [path for folder in own for path in (ROOT / folder).rglob("*") if path.suffix in kinds and path.is_file()]
    places += [ROOT / "README.md", ROOT / "pyproject.toml"]
    assert len(places) > 200
    assert [str(path.relative_to(ROOT)) for path in places if names_it.search(path.read_text())] == []
    assert names_it.search(CARGO)
