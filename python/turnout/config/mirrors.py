"""Models of pydantic that mirror the options of a router: the same names, types, defaults and words.

They are made from the options themselves, so the two cannot differ.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

__all__ = ["STRICT", "mirror"]

STRICT = ConfigDict(extra="forbid", frozen=True)
_ENTRY = re.compile(r"^    (\*{0,2}\w+): ", re.MULTILINE)


def _texts(doc: str | None) -> dict[str, str]:
    """Return what a docstring says of each argument.

    Args:
        doc: The docstring, in Google's style.

    Returns:
        The texts by name.
    """
    said = inspect.cleandoc(doc or "")
    _, _, after = said.partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", after, maxsplit=1)[0]
    pieces = _ENTRY.split(section)[1:]
    return {name.lstrip("*"): " ".join(text.split()) for name, text in zip(pieces[::2], pieces[1::2], strict=True)}


def mirror(options: type, **replaced: Any) -> Any:
    """Return the type of a setting that stands for options.

    Args:
        options: The class of the options, a dataclass.
        **replaced: Types of fields that a config writes in another way.

    Returns:
        A type for pydantic. Its values are objects of the class.
    """
    hints, said = get_type_hints(options), _texts(options.__doc__)
    members: dict[str, Any] = {}
    for field in fields(options):
        kind, words = replaced.get(field.name, hints[field.name]), said.get(field.name)
        if field.default is MISSING and field.default_factory is MISSING:
            member = Field(description=words)
        elif isinstance(field.default, (str, int, float, type(None))):
            member = Field(field.default, description=words)
        else:
            # It is left to the class. It has no form in a config.
            member = Field(default_factory=lambda: None, description=words)
        members[field.name] = (kind, member)
    model = create_model(options.__name__, __config__=STRICT, __doc__=_summary(options), **members)
    return Annotated[model, AfterValidator(_maker(options))]


def _maker(options: Callable[..., Any]) -> Callable[[BaseModel], Any]:
    def made(given: BaseModel) -> Any:
        return options(**{name: getattr(given, name) for name in given.model_fields_set})

    return made


def _summary(options: type) -> str:
    return inspect.cleandoc(options.__doc__ or "").partition("\n\n")[0]
