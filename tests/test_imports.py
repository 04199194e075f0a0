"""Imports and includes point down."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the top; those of one line do not import each other. "fastrnn" is what its __init__ imports.
ORDER = [
    ["fastrnn.__main__"],  # its command train is an example's
    ["fastrnn.examples", "benches"],
    ["fastrnn.bench"],
    ["fastrnn.models"],
    ["fastrnn.diagnose"],
    ["fastrnn.testing"],
    ["fastrnn"],
    ["fastrnn.exporting"],
    ["fastrnn.modules"],
    ["fastrnn.functional"],
    ["fastrnn.checks"],
    ["fastrnn.ops"],
    ["fastrnn.backends"],
    ["fastrnn.spec"],
    ["fastrnn.waiting"],
    ["fastrnn.kernels"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FOLDERS = {"fastrnn": "fastrnn", "kernels": "fastrnn.kernels", "examples": "fastrnn.examples", "benches": "benches"}
PUBLIC = {"fastrnn", "fastrnn.bench", "fastrnn.models", "fastrnn.diagnose", "fastrnn.functional"}


def modules() -> dict[str, Path]:
    """By name. fastrnn/kernels and fastrnn/examples are links to folders beside it, or nothing."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder)
            if folder != "fastrnn" or inside.parts[0] not in ("kernels", "examples"):
                found[".".join([package, *inside.with_suffix("").parts]).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(name: str, path: Path) -> Iterator[str]:
    """Full names of the modules that one imports, wherever in its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in MODULES or full in RANK else source
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def package_of(name: str) -> str | None:
    """Of ``ORDER``; None for what is not ours, and for the compiled extension."""
    found = max((p for p in RANK if f"{name}.".startswith(f"{p}.")), key=len, default=None)
    return None if found == "fastrnn" and name != "fastrnn" else found


def test_every_package_has_its_place():
    assert {name for name in MODULES if package_of(name) is None} == set()
    assert {package_of(name) for name in MODULES} == set(RANK)


def test_imports_point_down():
    up = []
    for name, path in MODULES.items():
        for other in imported(name, path):
            mine, its = package_of(name), package_of(other)
            if its and its != mine and RANK[its] <= RANK[mine]:
                up.append(f"{name} imports {other}")
    assert not up


def test_the_leaves_import_nothing_of_fastrnn():
    """And the kernels Triton alone."""
    for leaf in ("fastrnn.spec", "fastrnn.kernels"):
        for name in (name for name in MODULES if package_of(name) == leaf):
            others = {other for other in imported(name, MODULES[name]) if package_of(other) != leaf}
            assert not {other for other in others if other.startswith("fastrnn")}, name
            foreign = {other.split(".")[0] for other in others} - sys.stdlib_module_names
            assert leaf != "fastrnn.kernels" or foreign <= {"triton"}, name


def test_examples_use_the_public_interface():
    for name in (name for name in MODULES if package_of(name) == "fastrnn.examples"):
        ours = {other for other in imported(name, MODULES[name]) if other.split(".")[0] == "fastrnn"}
        assert {other for other in ours if package_of(other) != "fastrnn.examples"} <= PUBLIC, name


# C++

FOREIGN = re.compile(r"(torch|ATen|c10|pybind11)/|Python\.h$")
BELOW = {
    "kernels": ["kernels"],
    "runtime": ["kernels", "runtime"],
    "library": ["kernels", "runtime", "library"],
}


@pytest.mark.parametrize("folder", BELOW)
def test_includes_point_down(folder):
    csrc = ROOT / "csrc"
    sources = [path for path in (csrc / folder).rglob("*") if path.suffix in (".h", ".cpp")]
    assert sources, f"csrc/{folder} is empty"
    allowed = [csrc / name for name in BELOW[folder]]
    for path in sources:
        for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.MULTILINE):
            assert not FOREIGN.match(name), f"{path.name} includes {name}"
            if kind == '"':
                places = (path.parent, csrc, csrc / "kernels", csrc / "runtime", csrc / "torch")
                found = next(((p / name).resolve() for p in places if (p / name).exists()), None)
                assert found and any(a in found.parents for a in allowed), f"{path.name} includes {name}"
