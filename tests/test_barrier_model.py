"""The barrier's protocol in a model checker: every order of its programs, in relaxed memory; ``barrier.pml`` has it."""

import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("barrier.pml")
COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and COMPILER), reason="needs spin (package spin) and a C compiler"
)

SIZES = {
    "2-programs-of-2-threads": ("PROGRAMS=2", "THREADS=2", "STEPS=3"),
    "3-programs": ("PROGRAMS=3", "THREADS=1", "STEPS=3"),
}
STALE, OVERWRITTEN = "assertion violated (seen[", "assertion violated (stored["


def check(folder: Path, *definitions: str) -> str:
    """What the search of all states says."""

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("spin", *(f"-D{definition}" for definition in definitions), "-a", str(MODEL))
    # Without -O2, which takes a second and saves a tenth of one.
    run(str(COMPILER), "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c")
    report = run("./pan", "-m100000")
    assert "max search depth too small" not in report
    return report


@pytest.mark.parametrize("sizes", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("slots", [None, 2], ids=["as-built", "two-slots"])
def test_every_program_reads_the_step_before_and_all_end(sizes, slots, tmp_path):
    """Two places for h, in turn, would do: who writes one again has waited for all that read it."""
    report = check(tmp_path, *sizes, *([f"SLOTS={slots}"] if slots else []))
    assert "errors: 0" in report and "Search not completed" not in report, report


@pytest.mark.parametrize(
    "fault,found",
    [
        ("NO_RELEASE", STALE),
        ("NO_ACQUIRE", STALE),
        ("NO_BARRIER_BEFORE", STALE),
        ("NO_BARRIER_AFTER", STALE),
        ("FEWER_ARRIVALS", STALE),
        ("SLOTS=1", OVERWRITTEN),
    ],
)
def test_planted_faults_are_found(fault, found, tmp_path):
    assert found in check(tmp_path, *SIZES["2-programs-of-2-threads"], fault)
