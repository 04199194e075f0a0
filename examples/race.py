"""Trainings side by side."""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from fastrnn.diagnose import bytes_kept

from .stepper import Stepper
from .task import Task
from .trainer import usual_epochs


class Racer:
    """A training, with a record of its losses (one an epoch) and times (one a step)."""

    def __init__(self, task: Task, rnn: Callable[..., nn.Module], steps: int):
        self.stepper = Stepper(task, rnn, steps)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, batch: Sequence[Any]) -> float:
        start = time.perf_counter()
        loss = self.stepper.step(batch)
        self.seconds.append(time.perf_counter() - start)
        return loss


def race(racers: Iterable[Racer], batches: Iterable[Sequence[Any]], bar: tqdm) -> None:
    """An epoch. Every batch goes to all, who take turns at being first, so that a busy machine slows all alike."""
    turns = list(racers)
    totals = dict.fromkeys(turns, 0.0)
    number = 0
    for batch in batches:
        for racer in turns:
            totals[racer] += racer.step(batch)
        turns.reverse()
        number += 1
        bar.update()
    for racer, total in totals.items():
        racer.losses.append(total / number)


class Figures(NamedTuple):
    """Of one kind of layer in one task."""

    parameters: int
    seconds: float  # of an epoch
    kept: int  # bytes for backward, of a batch in the middle
    quality: float


class Trained(NamedTuple):
    """What came of one task, by kind of layer; the models are those of the best epochs."""

    task: Task
    models: dict[str, Any]
    figures: dict[str, Figures]


def train(
    name: str, task: Task, layers: dict[str, Callable[..., nn.Module]], path: Path | None, epochs: int = 0
) -> Trained:
    """Trains a model on each kind of layer, by default for as many epochs as the command line at most."""
    examples = task.read(path)
    training, held_out, test = task.split(examples)
    task.fit(training)
    steps = len(task.batches(training))
    epochs = epochs or usual_epochs(task, steps)
    racers = {kind: Racer(task, rnn, epochs * steps) for kind, rnn in layers.items()}
    best: dict[str, tuple[float, nn.Module]] = {}
    with tqdm(total=epochs * steps, desc=name, unit="step", leave=False, disable=None) as bar:
        for epoch in range(epochs):
            race(racers.values(), task.batches(training, torch.Generator().manual_seed(epoch)), bar)
            for kind, racer in racers.items():
                model = racer.stepper.model.eval()
                result = evaluate(task, model, held_out)
                if kind not in best or task.is_better(result, best[kind][0]):
                    best[kind] = result, copy.deepcopy(model)
    models = {kind: model for kind, (_, model) in best.items()}
    figures = {
        kind: Figures(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            seconds=statistics.median(racers[kind].seconds) * steps,
            kept=_kept(task, model, task.batches(training)[steps // 2]),
            quality=evaluate(task, model, test),
        )
        for kind, model in models.items()
    }
    return Trained(task, models, figures)


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, examples: Any) -> float:
    return task.evaluate(model, examples)[task.metric]


def _kept(task: Task, model: nn.Module, batch: Sequence[Any]) -> int:
    model.train()
    kept = bytes_kept(lambda: task.loss(model, batch), [*model.parameters(), *model.buffers()])
    model.eval()
    return kept
