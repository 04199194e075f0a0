"""One trainer for all tasks: stops early, saves what it has, and goes on from there bit for bit."""

import csv
import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import checkpoint
from .files import Refused
from .stepper import HERE, Run, Stepper
from .task import Task
from .workers import Alone

FEWEST_STEPS = 500  # of a training whose number of epochs is not given


def usual_epochs(task: Task, batches: int) -> int:
    """How many epochs of so many batches a training takes whose options do not say."""
    return max(task.epochs, math.ceil(FEWEST_STEPS / batches))


@dataclass
class Progress:
    """How far a training has come."""

    epoch: int = 0  # that are finished
    position: int = 0  # batches taken of the next one, the sum of their losses, and their time
    loss: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0


class Trainer:
    """Trains a task in a folder: ``checkpoint.pt``, ``metrics.csv`` and, at the end, ``curves.png``.

    The order of batches depends on the seed and the epoch alone. ``facts`` are kept in the checkpoint as they are, and
    with a ``state`` from there the training goes on as if it had never stopped, if it does on as many processes.
    Several have a trainer each, on the same data; the first one writes.
    """

    def __init__(
        self,
        task: Task,
        training: Any,
        held_out: Any,
        folder: Path,
        facts: dict[str, Any],
        state: dict[str, Any] | None = None,
        run: Run = HERE,
    ):
        self.task, self.training, self.held_out, self.folder, self.facts = task, training, held_out, folder, facts
        self.workers, self.device = run.workers, run.device
        batches = task.batches(training)
        if not task.options.epochs:
            task.options = replace(task.options, epochs=usual_epochs(task, len(batches)))
        if not task.options.patience:
            task.options = replace(task.options, patience=math.ceil(task.options.epochs / 2))
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self._waiting_since: float | None = None  # until the first step of this process
        with checkpoint.fitting(folder) if state else nullcontext():
            steps = task.options.epochs * len(batches)
            self.stepper = Stepper(task, checkpoint.layer_class(task.options), steps, run, state)
            if state:
                self.progress = Progress(**state["progress"])
                self.best = state["best"]
                if self.workers.rank < len(state["generators"]):
                    _set_generators(state["generators"][self.workers.rank], self.device)
        self.stepper.settle([batches.examples[0]])

    @property
    def finished(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        return self.progress.epoch == self.task.options.epochs or waited >= self.task.options.patience

    def run(self, minutes: float = math.inf, since: float | None = None) -> str:
        """Trains to the end, or says why it stopped: Ctrl-C, or the minutes are over. Saves after each epoch and then.

        All processes stop where one has a reason. How long the first step took since a ``time.monotonic()`` is said.

        Raises:
            Refused: if memory does not suffice, or the loss is not finite.
        """
        deadline = time.monotonic() + 60 * minutes
        self._waiting_since = since
        reason = ""
        with _interrupts(self.workers.several) as interrupts:

            def stopped() -> str:
                interrupted, late = self.workers.total(len(interrupts), time.monotonic() >= deadline)
                return "interrupted" if interrupted else "time is up" if late else ""

            while not (self.finished or reason):
                if self._train(stopped):
                    self._end_epoch()
                self._save()
                reason = "" if self.finished else stopped()
        if self.progress.history and self.workers.first:
            from .picture import draw  # matplotlib takes a while to import

            draw(self.progress.history, self.task.metric, self.folder / "curves.png")
        return reason

    def _train(self, stopped: Callable[[], str]) -> bool:
        """The rest of an epoch. Whether it came to its end."""
        progress, options = self.progress, self.task.options
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + progress.epoch)
        batches = self.task.batches(self.training, generator)
        start = time.perf_counter()
        bar = tqdm(
            total=len(batches),
            initial=progress.position,
            desc=f"epoch {progress.epoch + 1}",
            leave=False,
            disable=None if self.workers.first else True,
        )
        with bar:
            for place in range(progress.position, len(batches)):
                if stopped():
                    break
                loss = self._step(batches[place])
                if self._waiting_since is not None and self.workers.first:
                    tqdm.write(f"first step after {time.monotonic() - self._waiting_since:.1f} s")
                self._waiting_since = None
                progress.loss += loss
                progress.position += 1
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
        progress.seconds += time.perf_counter() - start
        return progress.position == len(batches)

    def _step(self, batch: Sequence[Any]) -> float:
        asked = f"a batch of {len(batch)}, its longest sequence of {max(len(example[0]) for example in batch)}"
        with self.memory_for(asked):
            loss = self.stepper.step(batch)
        if not math.isfinite(loss):
            raise Refused(f"the loss is {loss} in epoch {self.progress.epoch + 1}; a lower --rate may help")
        return loss

    @contextmanager
    def memory_for(self, asked: str) -> Iterator[None]:
        """Raises Refused where it does not suffice."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            saved = f"; {self.folder} has what was learned before epoch {self.progress.epoch + 1}"
            advice = "a smaller --batch or a --longest takes less" + saved * (self.progress.epoch > 0)
            raise Alone(f"out of memory with {asked}; {advice}") from error

    def _end_epoch(self) -> None:
        progress, task = self.progress, self.task
        with self.memory_for("what is held out"):
            figures = self.stepper.evaluate(self.held_out)
        before = [row[task.metric] for row in progress.history]
        row = {"epoch": progress.epoch + 1, "loss": progress.loss / progress.position, **figures}
        row["rate"] = float(self.stepper.schedule.get_last_lr()[0])
        row["seconds"] = round(progress.seconds, 2)
        progress.history.append(row)
        progress.epoch += 1
        progress.position, progress.loss, progress.seconds = 0, 0.0, 0.0
        better = all(task.is_better(figures[task.metric], other) for other in before)
        if better:
            progress.best_epoch = progress.epoch
            self.best = self.stepper.weights()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        if self.workers.first:
            tqdm.write(f"epoch {progress.epoch}/{task.options.epochs}  {shown}{'  best' if better else ''}")

    def _save(self) -> None:
        state = {
            **self.facts,
            **self.stepper.state(),
            "best": self.best,
            "progress": asdict(self.progress),
            "generators": self.workers.gather(_generators(self.device)),
        }
        if not self.workers.first:
            return
        checkpoint.save(self.folder, self.task, state)
        if self.progress.history:
            with checkpoint.atomically(self.folder / "metrics.csv") as path, path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.progress.history[0])
                writer.writeheader()
                writer.writerows(self.progress.history)


def _generators(device: torch.device) -> dict[str, Any]:
    """The states of what this process draws random numbers from."""
    states = {"torch": torch.get_rng_state(), "python": random.getstate()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _set_generators(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def _interrupts(several: bool) -> Iterator[list[int]]:
    """Ctrl-C adds to a list in place of raising; the second one raises, as always.

    Not so with several processes: torchrun passes on to each what the terminal has sent it already.
    """
    seen: list[int] = []

    def handle(number: int, _: Any) -> None:
        seen.append(number)
        if not several:
            signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
