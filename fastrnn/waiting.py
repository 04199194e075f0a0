"""How the threads of OpenMP wait for work in fastrnn's own programs, ``python -m fastrnn`` and those in examples.

GNU's run-time, which torch brings, lets them spin for 300,000 turns, 17 ms on an Intel Xeon, before they sleep. Beside
a busy process they spin away their share of the core and are not there when work comes.
"""

import os
import sys

# 0.3 ms on an Intel Xeon, less where a pause takes fewer cycles.
SPINS = 5000
# With one of these the user has decided.
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_briefly() -> None:
    """In a program of ours, unless the user said how to wait. Before torch is loaded, and the run-time with it."""
    if _is_ours() and not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def _is_ours() -> bool:
    # ``python -m NAME`` imports the package of NAME first; for so long "-m" stands where the program's path will.
    if sys.argv[:1] != ["-m"]:
        return False
    name = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    return name.split(".")[0] == "fastrnn"
