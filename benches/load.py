"""Speed while another program takes half of one core: ``python -m benches.load [--threads N] [--quick] [--save NAME]``.

A dozen of the cases, verified first, are timed on as many cores as threads: quietly, then beside a process that keeps
one of these cores busy for ever. The scheduler gives each of the two about half of that core, in slices of some
milliseconds, so a round lasts many slices. *Growth* is the time beside it over the quiet time. 2 is what a static split
among the threads costs where the scheduler leaves the threads where they are. With GOMP_SPINCOUNT=5000 in the
environment, which fastrnn's own programs set, calls of 0.1 to 3 ms take 1.9 to 2.5 times as long on two threads of an
Intel Xeon, and 2.7 to 9.3 times without it: OpenMP's idle threads then spin through slices that others could use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tqdm import tqdm

from benches.cases import CASES, MODES, Case
from benches.machine import describe
from benches.results import save
from fastrnn.bench.providers import OURS, TORCH, module_runs
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.bench.verify import check_fastrnn
from fastrnn.bench.workload import make_workload

_GOAL = 2.3
_NAMES = {
    "keyword-spotting-rnn_tanh-B1-T100-I64-H64",
    "sentence-encoder-lstm-B1-T100-I256-H256",
    "ocr-line-gru-B1-T255-I512-H256",
    "music-tagger-lstm-B8-T100-I128-H128",
    "line-reader-rnn_tanh-B8-T128-I256-H256-L2-bi",
    "activity-gru-B32-T100-I64-H64",
    "char-lm-lstm-B32-T100-I128-H128",
    "tagger-lstm-B32-T60-I100-H128-bi-ragged",
    "reviews-gru-B32-T200-I128-H128-ragged",
    "word-lm-lstm-B64-T100-I128-H512",
    "pixel-rows-rnn_relu-B64-T28-I28-H64",
    "speech-separation-gru-B64-T100-I64-H128-bi",
}
_HEADER = ["case", "shape", "cell", "mode"]
_HEADER += [f"{who} {what}" for who in (TORCH, OURS) for what in ("quiet ms", "loaded ms", "growth")] + ["vs torch"]


@dataclass(frozen=True)
class Loaded:
    """One case in one mode: seconds by provider, quietly and beside a busy process, and the ratio to torch.nn there."""

    case: Case
    mode: str
    quiet: dict[str, Quartiles]
    loaded: dict[str, Quartiles]
    ratio: Quartiles

    def growth(self, name: str) -> float:
        return self.loaded[name].median / self.quiet[name].median

    def row(self) -> list[str]:
        cells = [self.case.name, self.case.shape, self.case.cell, self.mode]
        for name in (TORCH, OURS):
            cells += [f"{times[name].median * 1e3:.4g}" for times in (self.quiet, self.loaded)]
            cells.append(f"{self.growth(name):.2f}")
        return [*cells, f"{self.ratio.median:.2f}"]


@contextmanager
def busy(core: int) -> Iterator[None]:
    """Keeps a core busy with a process that does nothing else."""
    program = f"import os\nos.sched_setaffinity(0, [{core}])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            yield
        finally:
            process.kill()


def measure(case: Case, mode: str, core: int, budget: Budget) -> Loaded:
    training = mode == "training"
    work = make_workload(case)
    check_fastrnn(work, training)
    runs = module_runs(work, training)
    with torch.set_grad_enabled(training):
        quiet = race(runs, budget)
        with busy(core):
            loaded = race(runs, budget)
    seconds = [{name: Quartiles.of(values) for name, values in times.seconds.items()} for times in (quiet, loaded)]
    return Loaded(case, mode, *seconds, loaded.ratio(TORCH, OURS))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.load", description="Time layers beside a busy process.")
    parser.add_argument("--threads", type=int, default=2, help="threads of both libraries, and cores given to them")
    parser.add_argument("--quick", action="store_true", help="few short rounds: a rough look")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/NAME.json")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    if len(cores) < options.threads:
        parser.error(f"--threads: expected at most {len(cores)}, the cores of this process, got {options.threads}")
    os.sched_setaffinity(0, cores)  # before any thread is started; each inherits it
    torch.set_num_threads(options.threads)
    budget = Budget(0.1, 3, 3, 0.03) if options.quick else Budget(1, 9, 9, 0.1)

    machine = describe(options.threads)
    chosen = [(case, mode) for case in CASES if case.id in _NAMES for mode in MODES]
    results = [measure(case, mode, cores[-1], budget) for case, mode in tqdm(chosen, leave=False)]
    print(format_table(_HEADER, [result.row() for result in results], 4, markdown=False))
    worst = max(results, key=lambda result: result.growth(OURS))
    growth = worst.growth(OURS)
    verdict = "reached" if growth <= _GOAL else "missed"
    print(f"\nworst growth of fastrnn: {growth:.2f}, {worst.case.id} {worst.mode}; goal {_GOAL}: {verdict}")
    if options.save:
        print(f"written: {save(options.save, machine, results)}")


if __name__ == "__main__":
    main()
