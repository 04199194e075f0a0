"""Which instruction set runs: by the environment, and by force."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn
from fastrnn import _C


def import_with_isa(name: str) -> subprocess.CompletedProcess:
    root = str(Path(fastrnn.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", "from fastrnn import _C; print(_C.isa())"],
        env=os.environ | {"FASTRNN_CPU_ISA": name, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_environment_chooses_the_instruction_set():
    assert import_with_isa("baseline").stdout.strip() == "baseline"


def test_environment_with_an_unknown_instruction_set():
    process = import_with_isa("mmx")
    assert process.returncode != 0
    assert "instruction set 'mmx' was asked for" in process.stderr
    assert ", ".join(_C.runnable_isas()) in process.stderr


def test_force_isa_refuses_unknown_names_and_keeps_the_old_one():
    before = _C.isa()
    with pytest.raises(ValueError, match=f"'sse9' was asked for, .* run {', '.join(_C.runnable_isas())}"):
        _C.force_isa("sse9")
    assert _C.isa() == before
