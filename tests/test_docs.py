"""Every code block of the README, of CONTRIBUTING and of docs/ runs. The site has every page and every public
name.
"""

import ast
import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pages
import pytest
import turnout
from turnout.testing import Provider, ReceivedRequest, Reply
from turnout.transports.pools import Pools

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
needs_make = pytest.mark.skipif(os.name == "nt", reason="the Makefile is for a POSIX shell")
# A block that needs a library of its own says so: ```python needs=boto3. One that is a file has its name:
# ```yaml title="router.yaml"
BLOCK = re.compile(r"^```(\w*)(?: needs=([\w.]+))?(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# LiteLLM imports more at its first request, and pydantic warns of some of that.
imports_litellm = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")


class Block(NamedTuple):
    language: str
    title: str | None
    code: str
    line: int


def is_there(module: str | None) -> bool:
    try:
        return module is None or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    # A fence of another form would be no block here, and nobody would run it.
    assert text.count("\n```") == 2 * sum(1 for _ in BLOCK.finditer(text)), f"{page.name} has a fence that is not understood"
    return [
        Block(match[1], match[3], match[4], text[: match.start()].count("\n") + 1)
        for match in BLOCK.finditer(text)
        if is_there(match[2])
    ]


GEMINI = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello."}]}, "finishReason": "STOP"}]}
BEDROCK = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello."}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    "metrics": {"latencyMs": 1},
}


def answer(request: ReceivedRequest) -> Reply:
    """What the providers of other clients answer."""
    if request.path.endswith(":generateContent"):
        return Reply.json(GEMINI)
    return Reply.json(BEDROCK) if request.path.endswith("/converse") else Reply.text()


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A provider that answers for every host of an example."""
    with Provider() as provider:
        provider.always(answer)
        get = Pools.get

        def here(pools: Pools, origin: str) -> Any:
            port = int(provider.url.rpartition(":")[2])
            transport = get(pools, provider.url)

            class Here(type(transport)):  # type: ignore[misc]
                def __init__(self) -> None:
                    """Shares the connections of the other one."""
                    self.__dict__ = transport.__dict__

                def handle_request(self, request: Any) -> Any:
                    request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
                    return super().handle_request(request)

                async def handle_async_request(self, request: Any) -> Any:
                    request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
                    return await super().handle_async_request(request)

            return Here()

        monkeypatch.setattr(Pools, "get", here)
        monkeypatch.setenv("EU_KEY", "any")
        monkeypatch.setenv("US_KEY", "any")
        # These clients do not pass through the pools.
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", provider.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", provider.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "any")
        if is_there("litellm"):
            import litellm  # type: ignore[import-not-found, unused-ignore]

            real = litellm.completion
            monkeypatch.setattr(litellm, "completion", lambda **asked: real(**{**asked, "api_base": provider.base_url}))
        yield provider


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.usefixtures("providers")
@imports_litellm
def test_python_blocks_run_from_top_to_bottom(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)


@needs_make
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    written = None  # by the last command
    for language, title, code, line in blocks(page):
        where = f"{page.name}:{line}"
        # The pictures are made and checked by scripts/floors.py.
        assert language in {"python", "sh", "mermaid", "text", "yaml"}, (
            f"{where}: what is a block of {language!r}, and who runs it?"
        )
        if language == "yaml":
            assert title, f"{where}: which file is this?"
            (tmp_path / title).write_text(code)
        elif language == "text":
            assert written is not None, f"{where}: no command wrote this"
            assert [each.rstrip() for each in written.splitlines()] == code.splitlines(), where
        elif language == "sh":
            for command in code.splitlines():
                written = run(shlex.split(command, comments=True), where, tmp_path)


def run(words: list[str], where: str, directory: Path) -> str | None:
    """Runs a command of a page, and returns what it wrote."""
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return None
    if words[0] == "turnout":
        command = [sys.executable, "-m", "turnout.cli", *words[1:]]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), where
        return done.stdout
    # The checks of a fresh clone build and install the package.
    assert words == ["pip", "install", "."], f"{where}: nobody runs {words}"
    return None


def test_the_readme_says_what_it_must() -> None:
    languages = [block.language for block in blocks(ROOT / "README.md")]
    assert languages.count("python") >= 2
    assert "make demo" in (ROOT / "README.md").read_text()


@needs_make
def test_make_alone_lists_every_public_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    public = [name for names in re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE) for name in names.split()]
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = [line.split(maxsplit=1) for line in shown.splitlines()[1:]]
    assert sorted(name for name, _ in lines) == sorted(public)


def docstrings() -> Iterator[tuple[str, str]]:
    """Every docstring of the package and of its stub that has an example."""
    package = ROOT / "python" / "turnout"
    for path in sorted(package.rglob("*.py*")):
        if path.suffix not in {".py", ".pyi"} or ("litellm" in path.parts and not is_there("litellm")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                said = ast.get_docstring(node)
                if said and ">>>" in said:
                    yield f"{path.relative_to(package).as_posix()}:{getattr(node, 'name', '')}", said


EXAMPLES = list(docstrings())


@imports_litellm
@pytest.mark.parametrize(("name", "said"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_in_docstrings_run(name: str, said: str) -> None:
    example = doctest.DocTestParser().get_doctest(said, {}, name, None, None)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0


def pages_of(nav: Any) -> Iterator[str]:
    """Finds the pages of a part of the navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(part)


def test_the_site_has_every_page_once() -> None:
    import yaml  # not in the environments of client libraries

    class Settings(yaml.SafeLoader):
        """Reads the tags of MkDocs, which name functions, as text."""

    Settings.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Settings)["nav"]
    docs = ROOT / "docs"
    assert sorted(pages_of(nav)) == sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))


def names_of(module: str) -> list[str]:
    """Reads ``__all__`` of a module without its import, which may need a library."""
    path = ROOT / "python" / Path(*module.split("."))
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


# Their names are public beside those of the package itself.
INTEGRATIONS = sorted(
    path.stem
    for path in (ROOT / "python" / "turnout" / "integrations").iterdir()
    if not path.name.startswith("_") and path.suffix != ".json"
)
MODULES = sorted([*turnout._SUBMODULES, "config", "logs", *(f"integrations.{name}" for name in INTEGRATIONS)])
# What the methods of a router return, but nobody makes.
RETURNED = {"turnout.execution.attempts.Attempt", "turnout.execution.attempts.Attempts"}


def test_the_reference_has_every_public_name_once() -> None:
    shown = Counter(
        name for page in (ROOT / "docs" / "api").glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    )
    own = set(turnout.__all__)
    expected = RETURNED | {f"turnout.{name}" for name in own}
    for module in MODULES:
        # A module that has only names of the package, such as turnout.limits, has no place. A class of an
        # integration is another one, even if it has the same name.
        known = set() if module.startswith("integrations.") else own
        if further := set(names_of(f"turnout.{module}")) - known:
            expected |= {f"turnout.{module}", *(f"turnout.{module}.{name}" for name in further)}
    # An integration may have more in modules of its own.
    more = {name for name in shown if any(name.startswith(f"turnout.integrations.{each}.") for each in INTEGRATIONS)}
    assert sorted(shown.elements()) == sorted(expected | more)


def test_links_out_of_the_docs_are_made_for_the_site(caplog: pytest.LogCaptureFixture) -> None:
    assert doctest.testmod(pages) == doctest.TestResults(failed=0, attempted=3)
    assert pages.for_site("[one](decisions/0001.md), ![p](../p.svg), [away](https://x.y/z)", "a.md", None) == (
        "[one](decisions/0001.md), ![p](../p.svg), [away](https://x.y/z)"
    )
    assert pages.for_site("```text\n[x](../README.md)\n```", "a.md", None) == "```text\n[x](../README.md)\n```"
    assert pages.for_site("[the way in](../../CONTRIBUTING.md#set-up)", "decisions/1.md", None) == "the way in (`CONTRIBUTING.md`)"
    assert not caplog.records
    pages.for_site("[x](../src/nothing.rs)", "guide.md", None)
    assert [record.getMessage() for record in caplog.records] == ["docs/guide.md links to ../src/nothing.rs, which does not exist"]
