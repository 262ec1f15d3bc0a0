"""Builds the files of a release for this machine, and tries each in an environment of its own.

    python scripts/wheels.py [--interpreters 3.10 3.13] [--out target/wheels] [--skip-build]

It builds the source distribution and a wheel for each CPython that it finds. It looks for the versions that
the release workflow builds, on ``PATH`` and among those of pyenv. A wheel is a manylinux2014 wheel where the
package ziglang is installed. Elsewhere it has the oldest tag that the system's C library allows.

Then it checks:

- A wheel holds the package, the native library for its interpreter, the licence and no more.
- The source distribution holds the sources of both halves and no more.
- A wheel is installed without an index and without Rust in reach. ``tests/smoke.py`` passes. ``import
  turnout`` loads nothing but the standard library and turnout.
- The source distribution is installed where Rust is in reach and maturin is not, from the first interpreter.
  The same checks follow.

The table tells what was measured: sizes in kB (1,000 bytes), and the milliseconds that ``import turnout``
adds to an interpreter. These are the median over pairs of fresh processes, one with and one without.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "turnout"
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
TARGET = ROOT / "target" / "wheels-build"
OLDEST = "manylinux2014"
PAIRS = 15

BESIDES = {"Cargo.lock", "Cargo.toml", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "benches/core.rs", "pyproject.toml"}
"""What the source distribution holds besides ``src/`` and ``python/``."""

TELL = "import json, sys, sysconfig; print(json.dumps([sys.implementation.name, sys.version_info[:2], \
bool(sysconfig.get_config_var('Py_GIL_DISABLED')), sysconfig.get_config_var('EXT_SUFFIX'), sys.executable]))"

ALONE = """
import shutil, sys
assert shutil.which("cargo") is None and shutil.which("rustc") is None, "Rust is in reach"
before = set(sys.modules)
import turnout
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert new - {"turnout"} <= sys.stdlib_module_names, f"import turnout loads {sorted(new - {'turnout'} - sys.stdlib_module_names)}"
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython of this machine.

    Attributes:
        version: As the release workflow writes it: ``"3.13"``, or ``"3.14t"`` without the GIL.
        suffix: How the names of its native modules end.
        path: Its program.
    """

    version: str
    suffix: str
    path: str


def wanted(workflow: Path = WORKFLOW) -> list[str]:
    """Returns the versions that the release workflow builds for."""
    found = re.search(r"^  INTERPRETERS: (.+)$", workflow.read_text(), re.MULTILINE)
    assert found, f"{workflow} names no INTERPRETERS"
    return found[1].split()


def programs(version: str) -> Iterator[str]:
    """Yields the programs of that name, those of ``PATH`` first. Not all of them need run: a shim of pyenv
    fails if its version is not switched on.
    """
    places = [Path(place) for place in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for place in [*places, *sorted(pyenv.glob("versions/*/bin"))]:
        program = place / f"python{version}"
        if program.is_file():
            yield str(program)


def interpreter(program: str) -> Interpreter | None:
    """Asks a program what it is. None if it does not run or is no CPython."""
    done = subprocess.run([program, "-c", TELL], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    name, (major, minor), free_threaded, suffix, path = json.loads(done.stdout)
    return Interpreter(f"{major}.{minor}{'t' if free_threaded else ''}", suffix, path) if name == "cpython" else None


def interpreters(versions: Sequence[str]) -> list[Interpreter]:
    """Finds one interpreter of each version that this machine has."""
    found = []
    for version in versions:
        each = (interpreter(program) for program in programs(version))
        first = next((one for one in each if one is not None and one.version == version), None)
        if first is not None:
            found.append(first)
    return found


def version_of_cargo() -> str:
    """Returns the version in Cargo.toml, which is the only place that names it."""
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1", "--manifest-path", str(ROOT / "Cargo.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    version: str = json.loads(done.stdout)["packages"][0]["version"]
    return version


def build(found: Sequence[Interpreter], out: Path) -> None:
    """Builds the source distribution and a wheel for each interpreter, in an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    maturin = [sys.executable, "-m", "maturin"]
    # maturin asks the first python3 of PATH for zig.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET), "PATH": path}
    portable = ["--zig", "--compatibility", OLDEST] if sys.platform == "linux" and find_spec("ziglang") else []
    subprocess.run([*maturin, "sdist", "--out", str(out)], cwd=ROOT, env=environment, check=True)
    for one in found:
        arguments = ["build", "--release", "--locked", *portable, "--interpreter", one.path, "--out", str(out)]
        subprocess.run([*maturin, *arguments], cwd=ROOT, env=environment, check=True)


# --- what they hold ---


def sources(folder: Path) -> set[str]:
    """Returns the files of a folder as paths from its parent, without what building and running leave."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder.parent).as_posix() for path in files if path.suffix not in {".so", ".pyd"}}


def faults_of_wheel(names: Sequence[str], version: str, suffix: str) -> Iterator[str]:
    """Yields a line for each file that a wheel lacks or holds without need.

    Args:
        names: The files of the wheel.
        version: Its version.
        suffix: How the names of native modules end for its interpreter.
    """
    info = f"turnout-{version}.dist-info"
    needed = sources(PACKAGE) | {f"turnout/_core{suffix}", f"{info}/licenses/LICENSE"}
    needed |= {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    # A list of what it is made of, if maturin writes one.
    held = {name for name in names if not name.endswith("/") and not name.startswith(f"{info}/sboms/")}
    yield from (f"{name} is missing" for name in sorted(needed - held))
    yield from (f"{name} does not belong there" for name in sorted(held - needed))


def faults_of_sdist(names: Sequence[str], version: str) -> Iterator[str]:
    """Yields a line for each file that the source distribution lacks or holds without need."""
    needed = BESIDES | sources(ROOT / "src") | {f"python/{name}" for name in sources(PACKAGE)}
    held = {name.removeprefix(f"turnout-{version}/") for name in names}
    yield from (f"{name} is missing" for name in sorted(needed - held))
    yield from (f"{name} does not belong there" for name in sorted(held - needed))


# --- whether they work ---


def environment_of(folder: Path, *reach: str) -> dict[str, str]:
    """Returns variables under which only an environment's own programs are in reach, and those of some more
    folders.
    """
    left_out = ("PYTHON", "VIRTUAL_ENV", "MATURIN", "CARGO_TARGET_DIR", "RUSTFLAGS", "PYO3")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {"PATH": os.pathsep.join([str(folder / "bin"), *reach]), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def install(file: Path, one: Interpreter, folder: Path) -> str:
    """Installs a file in a new environment.

    Returns:
        The environment's interpreter.
    """
    subprocess.run([one.path, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    if file.suffix == ".whl":
        environment, arguments = environment_of(folder), ["--no-index"]
    else:
        # Rust and the system's linker. No maturin: pip brings the one that pyproject.toml names.
        cargo = shutil.which("cargo")
        assert cargo, "the source distribution needs Rust"
        environment, arguments = environment_of(folder, str(Path(cargo).parent), os.defpath), []
    subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments, str(file)], cwd=folder, env=environment, check=True)
    return python


def try_out(python: str, version: str, folder: Path) -> None:
    """Runs the smoke test and looks at what the import loads, where no Rust is in reach."""
    environment = environment_of(folder)
    for arguments in ([str(ROOT / "tests" / "smoke.py"), version], ["-I", "-c", ALONE]):
        subprocess.run([python, *arguments], cwd=folder, env=environment, check=True)


def import_time(python: str) -> float:
    """Returns the milliseconds that the import adds to an interpreter."""

    def run(script: str) -> float:
        began = time.perf_counter()
        subprocess.run([python, "-I", "-c", script], check=True)
        return (time.perf_counter() - began) * 1e3

    run("import turnout")  # bytecode is written once
    return median(run("import turnout") - run("pass") for _ in range(PAIRS))


def size_of_library(python: str) -> int:
    """Returns the bytes of the installed native module."""
    done = subprocess.run(
        [python, "-I", "-c", "import os, turnout._core as core; print(os.path.getsize(core.__file__))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def check(file: Path, one: Interpreter, version: str) -> tuple[str, ...]:
    """Checks a file, and measures it.

    Returns:
        Its row in the table.

    Raises:
        SystemExit: If it holds too little or too much.
    """
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            faults = list(faults_of_wheel(wheel.namelist(), version, one.suffix))
    else:
        with tarfile.open(file) as sdist:
            faults = list(faults_of_sdist(sdist.getnames(), version))
    if faults:
        sys.exit("\n".join(f"{file.name}: {fault}" for fault in faults))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "environment"
        python = install(file, one, folder)
        try_out(python, version, folder)
        sizes = [f"{size / 1e3:,.0f}" for size in (file.stat().st_size, size_of_library(python))]
        return file.name, one.version, *sizes, f"{import_time(python):.1f}"


def file_of(one: Interpreter | None, files: Sequence[Path]) -> Path:
    """Finds the wheel of an interpreter, or without one the source distribution.

    Raises:
        SystemExit: If it is not there.
    """
    end = ".tar.gz"
    if one is not None:
        end = f"-cp{one.version.rstrip('t').replace('.', '')}-cp{one.version.replace('.', '')}-"
    found = [file for file in files if end in file.name]
    if len(found) != 1:
        sys.exit(f"there is not one file of {end!r} but {len(found)} among {[file.name for file in files]}")
    return found[0]


def main() -> int:
    """Builds, checks and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--interpreters", nargs="+", metavar="VERSION", default=wanted(), help="versions to look for")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "wheels", help="where the files go; it is emptied before")
    parser.add_argument("--skip-build", action="store_true", help="only check what is there")
    options = parser.parse_args()
    found = interpreters(options.interpreters)
    if not found:
        sys.exit(f"no CPython here is one of {', '.join(options.interpreters)}")
    if not options.skip_build:
        build(found, options.out)
    version = version_of_cargo()
    files = sorted(options.out.glob(f"turnout-{version}*"))
    rows: list[tuple[str, ...]] = [("file", "Python", "kB", "library, kB", "import, ms")]
    rows += [check(file_of(one, files), one, version) for one in found]
    rows += [check(file_of(None, files), found[0], version)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        print("  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]))
    missing = [each for each in options.interpreters if each not in {one.version for one in found}]
    if missing:
        print(f"not on this machine: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
