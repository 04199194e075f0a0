"""The documentation: its Python runs, its commands can be called, and what it names is there."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from fastrnn.__main__ import parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NOT_RUN = re.compile(r"# not run: \S.+")
# Commands that concern other programs.
FOREIGN = {"pip", "torchrun", "python"}
# Paths that something makes.
MADE = ("benches/out", "build/", "dist/", "runs/", ".venv", ".torch-", ".clang")
COMMANDS = next(iter(parser()._subparsers._group_actions)).choices


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2))) for m in found]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_block_is_of_a_known_kind():
    """All but text, which is what a program prints, are run or looked up here."""
    found = {block.language for page in PAGES for block in blocks(page)}
    assert found <= {"python", "sh", "diff", "cpp", "cmake", "text"}, found


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=name)
def test_a_page_is_a_program(page, single_thread, tmp_path, monkeypatch):
    """Its blocks run from top to bottom, but for those whose first line says why not."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in blocks(page):
        if block.language == "python" and not NOT_RUN.match(block.text):
            exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)


def test_both_sides_of_a_difference_are_python():
    for page in PAGES:
        for block in (block for block in blocks(page) if block.language == "diff"):
            for side in "-+":
                lines = [line[1:] for line in block.text.splitlines() if line[:1] in (side, " ", "")]
                compile("\n".join(lines), f"{page}:{block.line}", "exec")


def test_other_code_stands_in_the_sources():
    """Line for line, in one file."""
    files = {"cpp": (ROOT / "csrc").rglob("*.h"), "cmake": [ROOT / "tests/cpp_program/CMakeLists.txt"]}
    sources = {kind: [lines_of(path.read_text()) for path in paths] for kind, paths in files.items()}
    for page in PAGES:
        for block in blocks(page):
            if block.language in sources:
                known = sources[block.language]
                assert any(lines_of(block.text) <= lines for lines in known), f"{name(page)}:{block.line}"


def lines_of(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines()}


def commands() -> list[tuple[str, str, bool]]:
    """Page and command, of blocks of shell and of running text, which may leave out arguments."""
    found = []
    for page in PAGES:
        shell = "".join(block.text for block in blocks(page) if block.language == "sh").replace("\\\n", " ")
        found += [(name(page), line, True) for line in shell.splitlines() if line.strip()]
        said = re.findall(r"`((?:make|python -m) [^`\n]+)`", page.read_text())
        found += [(name(page), line, False) for line in said]
    return found


def test_commands_can_be_called():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for page, line, whole in commands():
        for part in line.split(" && "):
            words = [word for word in shlex.split(part, comments=True) if not re.match(r"[A-Z_]+=", word)]
            reason = reason_against(words, targets, whole)
            if reason:
                wrong.append(f"{page}: {line.strip()}: {reason}")
    assert not wrong, "\n".join(wrong)


def reason_against(words: list[str], targets: set[str], whole: bool) -> str | None:
    if words[0] == "make":
        return None if words[1] in targets else f"no target {words[1]}"
    if words[:2] != ["python", "-m"]:
        return None if words[0] in FOREIGN else f"expected a command among {', '.join(sorted(FOREIGN))}"
    module, *arguments = words[2:]
    if module != "fastrnn":
        return None if importlib.util.find_spec(module) else f"no module {module}"
    if not whole:
        return None if not arguments or arguments[0] in COMMANDS else f"no command {arguments[0]}"
    try:
        parser().parse_args(arguments)
    except SystemExit:
        return "refused"
    return None


def test_paths_that_are_named_exist():
    tops = ("fastrnn", "csrc", "kernels", "tests", "examples", "benches", "docs")
    folders = [ROOT, *(path for top in tops for path in (ROOT / top, *(ROOT / top).rglob("*")) if path.is_dir())]
    said = re.compile(r"`((?:\.?[\w-]+/)+[\w.-]*|[\w-]+\.(?:py|h|cpp|mk|md))`")
    wrong = []
    for page in PAGES:
        for path in said.findall(page.read_text()):
            if not path.startswith(MADE) and not any((folder / path).exists() for folder in folders):
                wrong.append(f"{name(page)}: {path}")
    assert not wrong, "\n".join(wrong)


def test_the_picture_of_the_readme_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import readme_picture

    assert readme_picture.PICTURE.read_text() == readme_picture.draw()


def test_links_and_anchors_of_built_pages_are_checked(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import check

    good = '<h1 id="top"></h1><a href="a/other.html#there"></a><a href="#top"></a><a href="https://x.y"></a>'
    wrong = '<p id="there"></p><img src="../gone.png"><a href="../index.html#gone"></a><a href="b.html"></a>'
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(good)
    (tmp_path / "a/other.html").write_text(wrong)
    count, elsewhere, found = check.check(tmp_path)
    assert (count, elsewhere) == (6, {"https://x.y"})
    assert found == [
        "a/other.html: ../gone.png: no such file",
        "a/other.html: ../index.html#gone: no such anchor",
        "a/other.html: b.html: no such file",
    ]


def test_indented_names_of_docstrings_are_fields(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from extensions.docstrings import fields

    text = """Call: ``y = rnn(x)``.
    x, y: [T, B, I], in
        training: with noise.
    goes on
    hx: zeros.

Equation::

    r: literal

Raises:
    ValueError: a size.
"""
    expected = """Call: ``y = rnn(x)``.
    :x, y: [T, B, I], in
            training: with noise.
        goes on
    :hx: zeros.

Equation::

    r: literal

Raises:
    ValueError: a size.
"""
    assert fields(text.splitlines()) == expected.splitlines()
