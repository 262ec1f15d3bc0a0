"""Makes docstrings and the stub of the native module into what the API reference of the site needs.

Griffe, which reads the sources for it, loads this file: see ``extensions`` in mkdocs.yml.

- A reference, such as ``:class:`turnout.Limit```, becomes a link. One that leads nowhere fails the build.
- An example becomes a block of code. The two colons before an indented one become one.
- The arguments of a class are those of its ``__new__``, where the native module has no ``__init__``.
"""

import re
from typing import Any

import griffe  # type: ignore[import-not-found, unused-ignore]

_ROLE = re.compile(r":(?:class|func|meth|exc|mod|attr|data):`([\w.]+)`")
_COLONS = re.compile(r"::$", re.MULTILINE)
# From a prompt to the next empty line.
_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n.*\S.*)*", re.MULTILINE)


class Roles(griffe.Extension):  # type: ignore[misc, unused-ignore]
    """Changes all of a package, once it is loaded."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """Change a package."""
        self._walk(pkg)

    def _walk(self, thing: Any) -> None:
        if thing.docstring:
            text = _EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", _COLONS.sub(":", thing.docstring.value))
            thing.docstring.value = _ROLE.sub(lambda role: f"[`{role[1]}`][{_path(thing, role[1])}]", text)
        if thing.is_class and "__new__" in thing.members and "__init__" not in thing.members:
            made = thing.members["__init__"] = thing.members.pop("__new__")
            made.name, made.returns = "__init__", None
        for member in thing.members.values():
            if not member.is_alias:
                self._walk(member)


def _path(thing: Any, name: str) -> str:
    """Returns the full name of what a name means in a docstring."""
    if name.startswith("turnout."):
        return name
    first, _, rest = name.partition(".")
    try:
        found = thing.resolve(first)
    except griffe.NameResolutionError:
        return name  # a link that leads nowhere, which fails the build
    return f"{found}.{rest}" if rest else str(found)
