"""Every link of the built pages leads somewhere: ``python docs/check.py FOLDER``.

Files, anchors and pictures inside the folder are looked up. Addresses elsewhere are counted and named, not visited.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LINKS = {"a": "href", "link": "href", "img": "src", "script": "src"}


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        target = given.get(_LINKS.get(tag, ""))
        if target:
            self.links.append(target)


def check(folder: Path) -> tuple[int, set[str], list[str]]:
    """How many links there are, addresses elsewhere, and what is wrong."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    count, elsewhere, wrong = 0, set(), []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            count += 1
            if parts.scheme or parts.netloc:
                elsewhere.add(link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            shown = f"{path.relative_to(folder.resolve())}: {link}"
            if not target.is_file():
                wrong.append(f"{shown}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{shown}: no such anchor")
    return count, elsewhere, wrong


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1], "index.html").is_file():
        sys.exit("python docs/check.py: expected one folder of built pages")
    folder = Path(sys.argv[1])
    count, elsewhere, wrong = check(folder)
    pages = len(list(folder.rglob("*.html")))
    print(
        f"{pages} pages, {count} links and anchors checked, {len(wrong)} wrong; not visited: {len(elsewhere)} elsewhere"
    )
    print("".join(f"  {link}\n" for link in sorted(elsewhere)), end="")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
