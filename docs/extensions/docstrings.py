"""The docstrings' ``name: what it is``, indented below a sentence, as a list of fields."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_FIELD = re.compile(r"^(\s+)((?:\w+, )*\w+): (?=\S)")
# Google's sections, which napoleon reads.
_SECTION = re.compile(r"^\s*(Args|Attributes|Raises|Returns|Yields):$")


def fields(lines: list[str]) -> list[str]:
    """Of a docstring: what is indented below anything but a section or ``::`` becomes ``:name: what it is``."""
    found, plain, margin = [], True, ""
    for line in lines:
        if line and not line.startswith(" "):
            plain, margin = bool(_SECTION.match(line)) or line.endswith("::"), ""
        field = None if plain else _FIELD.match(line)
        if field and (not margin or len(field[1]) <= len(margin)):  # deeper it is text, such as "training: one mask"
            margin = field[1]
            found.append(_FIELD.sub(r"\1:\2: ", line))
        else:  # what goes on below a field is indented as its text, though the docstring may spare it
            found.append(margin + line if margin and line.strip() else line)
    return found


def _process(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    lines[:] = fields(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
