"""Every code block of the README, of CONTRIBUTING and of docs/ runs."""

import ast
import doctest
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from turnout.testing import Provider, ReceivedRequest, Reply
from turnout.transports.pools import Pools

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
needs_make = pytest.mark.skipif(os.name == "nt", reason="the Makefile is for a POSIX shell")
# A block that needs a library of its own says so: ```python needs=boto3
BLOCK = re.compile(r"^```(\w*)(?: needs=([\w.]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def is_there(module: str | None) -> bool:
    try:
        return module is None or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def blocks(page: Path) -> list[tuple[str, str, int]]:
    text = page.read_text()
    found = ((match[1], match[3], text[: match.start()].count("\n") + 1, match[2]) for match in BLOCK.finditer(text))
    return [(language, code, line) for language, code, line, needs in found if is_there(needs)]


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
def test_python_blocks_run_from_top_to_bottom(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for language, code, line in blocks(page):
        if language == "python":
            exec(compile("\n" * line + code, str(page), "exec"), namespace)


@needs_make
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_those_that_exist(page: Path) -> None:
    for language, code, line in blocks(page):
        # The pictures are made and checked by scripts/floors.py.
        assert language in {"python", "sh", "mermaid"}, f"{page.name}:{line}: what is a block of {language!r}, and who runs it?"
        if language == "sh":
            for command in code.splitlines():
                words = command.split("#")[0].split()
                if words[0] == "make":
                    subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
                else:
                    # The checks of a fresh clone build and install the package.
                    assert words == ["pip", "install", "."], f"{page.name}:{line}: nobody runs {command!r}"


def test_the_readme_says_what_it_must() -> None:
    languages = [language for language, _, _ in blocks(ROOT / "README.md")]
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
    for path in sorted((ROOT / "python" / "turnout").rglob("*.py*")):
        if path.suffix not in {".py", ".pyi"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                said = ast.get_docstring(node)
                if said and ">>>" in said:
                    yield f"{path.name}:{getattr(node, 'name', '')}", said


EXAMPLES = list(docstrings())


@pytest.mark.parametrize(("name", "said"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_in_docstrings_run(name: str, said: str) -> None:
    example = doctest.DocTestParser().get_doctest(said, {}, name, None, None)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0
