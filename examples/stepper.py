"""One step of a training after another: a model, its optimizer, and the rate, on one process or on several."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .devices import CPU, running
from .task import Task
from .workers import ALONE, Workers

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),  # reads large embeddings once
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
WARM_UP = 0.1  # of all steps
SHORTEST_SCHEDULE = 20  # steps; one of 10 divides by zero, as its warm-up is a single step
APART = 1_000_003  # seeds of neighbouring processes


@dataclass(frozen=True)
class Run:
    """How a training is run: of what it learns, this changes the rounding, and the numbers that dropout draws."""

    device: torch.device = CPU
    workers: Workers = ALONE
    compile: bool = False
    shard: bool = False  # the model over the workers; otherwise each has a whole one


HERE = Run()


class _Loss(nn.Module):
    """A task's loss as what a module's forward gives, which is where PyTorch joins processes."""

    def __init__(self, task: Task, model: nn.Module, device: torch.device):
        super().__init__()
        self.model, self._task, self._device = model, task, device

    def forward(self, batch: Sequence[Any]) -> Tensor:
        with running(self._device, self._task.options.precision):
            return self._task.loss(self.model, batch)


class Stepper:
    """A model with its optimizer; the rate rises and falls over the given number of steps (Smith and Topin, 2019).

    With a ``state`` of another one it goes on from there.
    """

    def __init__(
        self,
        task: Task,
        rnn: Callable[..., nn.Module],
        steps: int,
        run: Run = HERE,
        state: dict[str, Any] | None = None,
    ):
        self.task, self.run = task, run
        options = task.options
        torch.manual_seed(options.seed)
        random.seed(options.seed)
        self.model: Any = task.build(rnn)
        if state:
            self.model.load_state_dict(state["model"])
        self._loss = self._joined()
        self.optimizer = OPTIMIZERS[options.optimizer](
            self.model.parameters(), lr=options.rate, weight_decay=options.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.rate, total_steps=max(steps, SHORTEST_SCHEDULE), pct_start=WARM_UP
        )
        if state:
            self.optimizer.load_state_dict(self._spread(state["optimizer"]))
            self.schedule.load_state_dict(state["schedule"])
        if not run.workers.first:  # whose weights are the same and whose dropout is not
            torch.manual_seed((options.seed + APART * run.workers.rank) % 2**32)

    def _joined(self) -> nn.Module:
        run = self.run
        loss = _Loss(self.task, self.model, run.device)
        if run.shard:
            from .sharding import shard  # takes half a second to import

            shard(loss, run.device, run.workers.number)
        else:
            self.model.to(run.device)
        if run.compile:
            logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # packing breaks the graph, as is known
            self.model.compile(dynamic=True)
        if run.workers.several and not run.shard:
            return DistributedDataParallel(loss)
        return loss

    def settle(self, batch: Sequence[Any]) -> None:
        """To be called before the first step of several processes.

        DistributedDataParallel orders gradients anew after the first backward, and with them its sums' rounding. A
        training that goes on would take its first step in another order than the one that never stopped.
        """
        if isinstance(self._loss, DistributedDataParallel):
            with torch.random.fork_rng():
                self._loss(batch[:1]).backward()
            self.optimizer.zero_grad()

    def step(self, batch: Sequence[Any]) -> float:
        """Learns of a batch, which is the same in all processes. Its loss."""
        workers = self.run.workers
        part, share = workers.part(batch, self.task.terms)
        self.model.train()
        loss = self._loss(part)
        self.optimizer.zero_grad()
        (loss * (share * workers.number)).backward()  # the processes' gradients are averaged
        nn.utils.clip_grad_norm_(self.model.parameters(), self.task.options.clip)
        self.optimizer.step()
        self.schedule.step()
        return workers.total(loss.item() * share)[0]

    def evaluate(self, examples: Any) -> dict[str, float]:
        """Figures of the model. All processes find them, which spread weights need; those of the first are taken."""
        with torch.no_grad(), running(self.run.device, self.task.options.precision):
            figures = self.task.evaluate(self.model.eval(), examples)
        return self.run.workers.of_first(lambda: figures)

    def weights(self) -> dict[str, Tensor]:
        """A copy on the CPU; empty in all processes but the first."""
        weights = self._whole(self.model.state_dict())
        if not self.run.workers.first:
            return {}
        return {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}

    def state(self) -> dict[str, Any]:
        """What another one goes on from. That of the first process is whole."""
        return {name: self._whole(getattr(self, name).state_dict()) for name in ("model", "optimizer", "schedule")}

    def _whole(self, state: dict[str, Any]) -> dict[str, Any]:
        if not self.run.shard:
            return state
        from .sharding import whole

        return whole(state, keep=self.run.workers.first)

    def _spread(self, state: dict[str, Any]) -> dict[str, Any]:
        if not self.run.shard:
            return state
        from .sharding import spread

        return spread(state, self.optimizer)
