"""What an installation asks of torch: what pyproject.toml says, or the minor version that a wheel was built with."""

import subprocess
import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def metadata(folder: Path, *options: str) -> Distribution:
    folder.mkdir()
    command = [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={folder}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return PathDistribution(folder / "fastrnn.egg-info")


def accepts(distribution: Distribution, version: str) -> bool:
    ranges = [r.specifier for r in map(Requirement, distribution.requires or []) if r.name == "torch"]
    assert ranges
    return all(allowed.contains(version) for allowed in ranges)


def test_a_wheel_to_pass_on_asks_for_the_torch_that_it_was_built_with(tmp_path):
    project, pinned = metadata(tmp_path / "project"), metadata(tmp_path / "pinned", "--pin-torch")
    major, minor, *_ = Version(torch.__version__).release
    assert pinned.version == f"{project.version}+torch{major}.{minor}"
    assert accepts(pinned, torch.__version__) and accepts(pinned, f"{major}.{minor}.9")
    for other in (f"{major}.{minor + 1}.0", f"{major}.{minor - 1}.9", f"{major + 1}.{minor}.0"):
        assert not accepts(pinned, other)
    assert accepts(project, f"{major}.{minor + 1}.0")
    assert {*project.requires} < {*pinned.requires}  # nothing else is asked for, or is no more
