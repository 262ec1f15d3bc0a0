"""Checks that the Rust sources stand on floors, and draws them.

A floor is a folder of ``src/`` or a file beside the folders. ``lib.rs``, which exports all of it, stands on
no floor. A file imports only from its own folder and from floors below. No two files import each other,
directly or through others: a name that a ``mod.rs`` re-exports belongs to the file that defines it. Code that
must call upward calls a trait that stands below (``Wakes``, ``Watch``, ``Member``, …) or a callback.

    python scripts/floors.py            checks; fails with one line a fault
    python scripts/floors.py --write    also draws the picture in docs/architecture.md anew
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src"
PAGE = ROOT / "docs" / "architecture.md"

# From the top to the bottom, each with its purpose.
FLOORS = {
    "python": "conversions for Python",
    "router": "the one door",
    "settings": "how a router is set up",
    "sharing": "how limits are shared",
    "wait": "lines of those that wait",
    "pick": "index first, then a walk",
    "lease": "reservations and outcomes",
    "gates": "checks, and what is left",
    "registry": "ids, groups, aliases",
    "group": "entries and their group",
    "index": "trees of a group",
    "counters": "one block a deployment",
    "strategy": "the rules that pick",
    "facts": "deployments, requests",
    "health": "words and rules of health",
    "said": "headers of answers",
    "limits": "meters, quotas, observations",
    "stores": "what keeps the books of processes",
    "shared": "the books: pieces of limits",
    "attempts": "the budget of retries",
    "wire": "bodies of requests and answers",
    "base": "time, chance, locks, gates, errors",
}

MOST_LINES = 400
MOST_COLUMNS = 110  # of a comment; rustfmt looks after the code
# Files that may be longer, each with the reason.
LONGER: dict[str, str] = {}

_TESTS = re.compile(r"^#\[cfg\(test\)\]\n(?:#\[.*\]\n)*(?:pub(?:\(crate\))? )?mod tests \{", re.MULTILINE)
# In one pass: a comment may stand in a string, and a quote in a comment or in a character.
_COMMENT_OR_TEXT = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|r(?P<hashes>\#*)".*?"(?P=hashes)|"(?:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\[^'\n]+)'""", re.DOTALL
)
_USE = re.compile(r"^\s*(?:#\[cfg\(test\)\]\s*)?((?:pub(?:\([a-z]+\))?\s+)?)use\s+([^;]+);", re.MULTILINE)
_PATH = re.compile(r"(?<![\w:.$'])((?:crate|super|self|[a-z_]\w*)(?:::\w+)+)")

Module = tuple[str, ...]


def code(text: str) -> str:
    """Returns a source without its tests, comments and the insides of strings."""
    text = _COMMENT_OR_TEXT.sub(lambda found: "" if found["comment"] else '""', text)
    while found := _TESTS.search(text):
        depth, end = 1, found.end()
        while depth and end < len(text):
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        text = text[: found.start()] + text[end:]
    return text


def expand(tree: str) -> Iterator[tuple[str, str]]:
    """Yields the paths of a ``use`` tree, each with its local name.

    >>> list(expand("a::{b, c as d, e::{self, F}}"))
    [('a::b', 'b'), ('a::c', 'd'), ('a::e', 'e'), ('a::e::F', 'F')]
    """
    tree = " ".join(tree.split())
    head, brace, rest = tree.partition("{")
    if not brace:
        path, _, name = tree.partition(" as ")
        path = path.strip().removesuffix("::self")
        yield path, name.strip() or path.rpartition("::")[2]
        return
    depth, part = 0, ""
    for letter in rest.rstrip()[:-1] + ",":
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            if part.strip():
                yield from expand(head + part.strip())
            part = ""
        else:
            part += letter


class Sources:
    """The files of the crate, by module path."""

    def __init__(self, folder: Path) -> None:
        """Reads all files of a folder."""
        self.folder = folder
        self.files: dict[Module, Path] = {}
        for path in sorted(folder.rglob("*.rs")):
            parts = path.relative_to(folder).with_suffix("").parts
            if "tests" in parts:  # a file of tests alone: it may need what stands above
                continue
            self.files[parts[:-1] if parts[-1] in ("mod", "lib") else parts] = path
        self.text = {module: code(path.read_text()) for module, path in self.files.items()}
        self.exports: dict[Module, dict[str, str]] = defaultdict(dict)
        self.uses: dict[Module, list[tuple[str, str]]] = defaultdict(list)
        for module, text in self.text.items():
            for visibility, tree in _USE.findall(text):
                for target, name in expand(tree):
                    if visibility:
                        self.exports[module][name] = target
                    else:
                        self.uses[module].append((target, name))

    def module(self, at: Module, path: str) -> tuple[Module, str | None] | None:
        """Finds the file that defines what a path means in a module, and the name there; None for a path
        outside this crate.
        """
        first, *rest = path.split("::")
        if first == "crate":
            here: Module = ()
        elif first == "self":
            here = at
        elif first == "super":
            here = at[:-1]
            while rest and rest[0] == "super":
                here, rest = here[:-1], rest[1:]
        elif (*at, first) in self.files:
            here, rest = (*at, first), rest
        else:
            return None
        for nth, name in enumerate(rest):
            if (*here, name) in self.files:
                here = (*here, name)
            elif name in self.exports[here]:
                exported = "::".join([self.exports[here][name], *rest[nth + 1 :]])
                found = self.module(here, exported)
                # A macro is exported by its own name.
                return found if found is not None and found != (here, name) else (here, name)
            else:
                return here, name
        return here, None

    def imports(self, module: Module) -> set[Module]:
        """Finds the files that a file imports."""
        found: set[Module] = set()
        modules: dict[str, str] = {}
        for path, name in self.uses[module]:
            target = self.module(module, path)
            if target is not None:
                found.add(target[0])
                if target[1] is None:
                    modules[name] = path
        for path in _PATH.findall(_USE.sub("", self.text[module])):
            first, _, rest = path.partition("::")
            if first in ("crate", "super") or (first == "self" and rest):
                target = self.module(module, path)
            elif first in modules:
                target = self.module(module, f"{modules[first]}::{rest}")
            else:
                continue
            if target is not None:
                found.add(target[0])
        return found - {module, ()}

    def graph(self) -> dict[Module, set[Module]]:
        """Finds the imports of each file."""
        return {module: self.imports(module) for module in self.files if module}


def floor(module: Module) -> str:
    """Returns the floor that a file stands on."""
    return module[0]


def lines_of_code(text: str) -> int:
    """Counts the lines of a source that have code."""
    return sum(1 for line in text.splitlines() if line.strip())


def circles(graph: dict[Module, set[Module]]) -> list[list[Module]]:
    """Finds the sets of files that import each other in a circle (Tarjan's strongly connected components,
    1972).
    """
    index: dict[Module, int] = {}
    low: dict[Module, int] = {}
    stack: list[Module] = []
    found: list[list[Module]] = []

    def visit(node: Module) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def faults(sources: Sources, graph: dict[Module, set[Module]]) -> Iterator[str]:
    """Yields a line for each circle, each import from a floor above, and each file that is too long."""
    order = list(FLOORS)

    def name(module: Module) -> str:
        return f"src/{sources.files[module].relative_to(sources.folder)}"

    for circle in circles(graph):
        yield "files import each other in a circle: " + ", ".join(map(name, circle))
    for module, targets in graph.items():
        if floor(module) not in FLOORS:
            yield f"{name(module)} stands on no floor: add {floor(module)} to FLOORS in scripts/floors.py"
            continue
        for target in sorted(targets):
            if floor(target) in FLOORS and order.index(floor(target)) < order.index(floor(module)):
                yield f"{name(module)} imports {name(target)} from a floor above"
    for module, exported in list(sources.exports.items()):
        for path in exported.values():
            origin = sources.module(module, path)
            if module and origin is not None and order.index(floor(origin[0])) < order.index(floor(module)):
                yield f"{name(module)} exports {path} from a floor above"
    for module, file in sources.files.items():
        for number in wide_comments(file.read_text()):
            yield f"{name(module)}:{number} has a comment of over {MOST_COLUMNS} columns"
    for module, text in sources.text.items():
        lines = lines_of_code(text)
        if lines > MOST_LINES and name(module) not in LONGER:
            yield f"{name(module)} has {lines} lines of code, at most {MOST_LINES} are allowed: split it, or say why in LONGER"


def wide_comments(text: str) -> list[int]:
    """Returns the numbers of the lines whose comments are too wide; examples in documentation are code.

    >>> wide_comments("/" * 120)
    [1]
    """
    wide, is_example = [], False
    for number, line in enumerate(text.splitlines(), 1):
        comment = line.strip()
        is_example ^= comment.startswith(("/// ```", "//! ```"))
        if comment.startswith("//") and not is_example and len(line) > MOST_COLUMNS and "|" not in comment:
            wide.append(number)
    return wide


def picture(sources: Sources, graph: dict[Module, set[Module]]) -> str:
    """Draws the floors as a Mermaid graph: an arrow for each import that does not follow from other
    arrows.
    """
    below: dict[str, set[str]] = {name: set() for name in FLOORS}
    for module, targets in graph.items():
        here = floor(module)
        below[here] |= {floor(target) for target in targets} - {here}

    def reaches(start: str, end: str) -> bool:
        return any(next_ == end or reaches(next_, end) for next_ in below[start])

    lines = ["```mermaid", "graph TD"]
    lines += [f'    {name}["<b>{name}</b><br>{purpose}"]' for name, purpose in FLOORS.items()]
    for name in FLOORS:
        direct = [other for other in below[name] if not any(reaches(between, other) for between in below[name] - {other})]
        lines += [f"    {name} --> {other}" for other in sorted(direct, key=list(FLOORS).index)]
    return "\n".join([*lines, "```"])


def main() -> int:
    """Checks the sources, and returns the exit status."""
    parser = argparse.ArgumentParser(description="Checks the floors of src/.")
    parser.add_argument("--write", action="store_true", help="draw the picture in docs/architecture.md anew")
    write = parser.parse_args().write
    sources = Sources(SOURCES)
    graph = sources.graph()
    found = list(faults(sources, graph))
    begin, end = "<!-- floors: made by scripts/floors.py --write -->", "<!-- floors end -->"
    page = PAGE.read_text()
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not found:  # a picture of floors in a circle has no end
        drawn = f"{before}{begin}\n{picture(sources, graph)}\n{end}{after}"
        if write:
            PAGE.write_text(drawn)
        elif drawn != page:
            found.append("the picture in docs/architecture.md is out of date: run python scripts/floors.py --write")
    for fault in found:
        print(fault, file=sys.stderr)
    if not found:
        print(f"{len(graph)} files on {len(FLOORS)} floors: no circle, no import from above, no file of over {MOST_LINES} lines")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
