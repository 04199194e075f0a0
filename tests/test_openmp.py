"""One OpenMP run-time in a process, torch's; how its threads wait in fastrnn's own programs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastrnn import waiting
from fastrnn.backends import cpu

threaded = pytest.mark.skipif(
    not (cpu.extension and cpu.extension.openmp_library()), reason="needs the extension, on OpenMP's threads"
)
RUN_TIMES = re.compile(r"/\S*/lib(?:gomp|omp|iomp)[^/\s]*$", re.MULTILINE)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in waiting.SETTINGS}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**kept, **environment})
    assert done.returncode == 0, done.stderr
    return done


@threaded
def test_the_extension_runs_on_the_run_time_of_torch():
    program = "import torch, fastrnn; print(open('/proc/self/maps').read()); print(fastrnn._C.openmp_library())"
    done = python("-c", program)
    assert "run-time" not in done.stderr
    *mapped, ours = map(os.path.realpath, RUN_TIMES.findall(done.stdout))
    assert set(mapped) == {ours}


# Symbols are looked for in what is preloaded before the libraries of the extension, unless these are bound deeply.
SECOND = """
import os, sys, torch
sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
import fastrnn
"""


@threaded
@pytest.mark.skipif(not hasattr(os, "RTLD_DEEPBIND"), reason="needs glibc")
def test_a_second_run_time_is_told(tmp_path):
    first = Path(cpu.extension.openmp_library())
    second = tmp_path / "libgomp.so.9"
    second.write_bytes(first.read_bytes().replace(b"libgomp.so.1\0", b"libgomp.so.9\0"))
    assert "run-time" not in python("-c", "import torch, fastrnn", LD_PRELOAD=str(second)).stderr
    told = python("-c", SECOND, LD_PRELOAD=str(second)).stderr
    assert f"layers run on threads of the OpenMP run-time {first}, torch's operations on those of another" in told


@threaded
@pytest.mark.parametrize(
    "command, environment, spins",
    [
        (["-m", "fastrnn", "info"], {}, f"'{waiting.SPINS}'"),
        (["-m", "fastrnn", "info"], {"GOMP_SPINCOUNT": "77"}, "'77'"),
        (["-m", "fastrnn", "info"], {"OMP_WAIT_POLICY": "passive"}, "'0'"),
        (["-c", "import fastrnn"], {}, "'300000'"),
    ],
    ids=["command line", "user's count", "user's policy", "library"],
)
def test_threads_spin_briefly_in_programs_of_ours(command, environment, spins):
    shown = python(*command, OMP_DISPLAY_ENV="verbose", **environment).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("not the run-time of GNU")
    assert re.search(r"GOMP_SPINCOUNT = (\S+)", shown)[1] == spins


@pytest.mark.parametrize(
    "argv, original, ours",
    [
        (["-m", "info"], ["python", "-m", "fastrnn", "info"], True),
        (["-m"], ["python", "-X", "utf8", "-mfastrnn"], True),
        (["-m", "--data", "x"], ["python", "-m", "fastrnn.examples.demo", "--data", "x"], True),
        (["-m", "fastrnn"], ["python", "-m", "pytest", "fastrnn"], False),
        (["-m"], ["python", "-m", "fastrnn_tools"], False),
        (["train.py", "fastrnn"], ["python", "train.py", "fastrnn"], False),
        (["-c"], ["python", "-c", "import fastrnn"], False),
        ([], [""], False),
    ],
)
def test_programs_of_ours_are_known(argv, original, ours, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert waiting._is_ours() == ours
