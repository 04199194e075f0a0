"""Which symbol came first, after up to 50 random ones: what layers remember over many steps."""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastrnn.diagnose import GradientFlow, gradient_flow
from fastrnn.models import SequenceClassifier

from .race import Trained, evaluate
from .sentiment import Example, Sentiment, SentimentOptions
from .task import Task
from .transformer import Transformer

SYMBOLS = "abcdefgh"
LONGEST = 50  # to learn from
NUMBER = 3500  # sequences
LENGTHS = (10, 20, 50, 100, 200, 500)  # of what they are asked afterwards
FLOW_LENGTH = 100
PROBES = 100  # sequences of each


@dataclass(frozen=True)
class RecallOptions(SentimentOptions):
    bidirectional: bool = False
    dropout: float = 0.0
    word_dropout: float = 0.0
    weight_decay: float = 0.0
    level: Literal["word", "char"] = "char"


class Recall(Sentiment):
    """Sentiment's task on sequences that are drawn here, answered from the state after the last symbol."""

    Settings = RecallOptions

    def read(self, path: Path | None = None) -> list[Example]:
        draw = random.Random(0)
        return [draw_example(draw, draw.randint(2, LONGEST)) for _ in range(NUMBER)]

    def build(self, rnn: Callable[..., nn.Module]) -> SequenceClassifier:
        words, labels = (len(self.vocabularies[name]) for name in ("words", "labels"))
        return SequenceClassifier(words, labels, rnn=rnn, **self.sizes(), pooling="last")


def draw_example(draw: random.Random, length: int) -> Example:
    symbols = draw.choices(SYMBOLS, k=length)
    return Example(symbols, symbols[0])


def probe(length: int) -> list[Example]:
    draw = random.Random(length)
    return [draw_example(draw, length) for _ in range(PROBES)]


class Recalled(NamedTuple):
    """Of one kind of layer, for each of LENGTHS."""

    accuracy: list[float]
    ratio_before: list[float]  # gradient_ratio, before training and after
    ratio_after: list[float]


def recalled(trained: Trained, layers: dict[str, Callable[..., nn.Module]]) -> dict[str, Recalled]:
    task = trained.task
    probes = [probe(length) for length in LENGTHS]
    found = {}
    for kind, model in trained.models.items():
        torch.manual_seed(task.options.seed)
        before = task.build(layers[kind])
        found[kind] = Recalled(
            [evaluate(task, model, examples) for examples in probes],
            [gradient_ratio(task, before, examples) for examples in probes],
            [gradient_ratio(task, model, examples) for examples in probes],
        )
    return found


def gradient_ratio(task: Task, model: Any, examples: Sequence[Example]) -> float:
    """How large the loss's gradient is with respect to the first symbol's embedding, compared with the last one's.

    The geometric mean over examples of equal length, of maximum norms in float64: no square of 1e-170 becomes zero.
    """
    model = copy.deepcopy(model).double()
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda *call: embedded.append(call[-1]))
    (gradient,) = torch.autograd.grad(task.loss(model, examples), embedded)
    norms = gradient.abs().amax(2)
    return float((norms[:, 0] / norms[:, -1]).log().mean().exp())


def flow(trained: Trained) -> GradientFlow:
    """Of all recurrent layers, after training."""
    found = []
    for kind, model in trained.models.items():
        if not isinstance(model.rnn, Transformer):
            layers = gradient_flow(_Loss(trained.task, model), probe(FLOW_LENGTH)).layers
            found += [replace(layer, name=layer.name.replace("model.rnn", kind)) for layer in layers]
    return GradientFlow(tuple(found))


class _Loss(nn.Module):
    """The loss of a batch of examples, as a module."""

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, examples: Sequence[Example]) -> Tensor:
        return self.task.loss(self.model, examples)
