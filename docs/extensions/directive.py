"""Directives that put HTML into a page."""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst import Directive

__all__ = ["HtmlDirective"]


class HtmlDirective(Directive):
    """Puts what ``html`` makes of the directive's arguments into the page."""

    has_content = False
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", self.html(*self.arguments), format="html")]

    def html(self, *arguments: str) -> str:
        raise NotImplementedError
