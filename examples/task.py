"""What the trainer and the command line ask of a task."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

import fastrnn

from .batches import WINDOW, Batches, bucket
from .files import Malformed, Refused, Source
from .maps import mapped
from .records import Examples, Part, Record, lengths, write
from .text import Vocabulary

Model = TypeVar("Model", bound=nn.Module)
LONGEST = 2000  # symbols; whoever wants more knows why
HELD_OUT = 1000  # examples; more of them take time in every epoch and tell little more
# Kinds of layers, by which ``--rnn`` names them. ``torch.nn`` may lack one.
LAYERS = [name.lower() for name, it in vars(fastrnn).items() if isinstance(it, type) and issubclass(it, nn.RNNBase)]


@dataclass(frozen=True)
class Options:
    """What a training depends on besides its data. Every field is an option of the command line."""

    rnn: str = field(default="lstm", metadata={"choices": LAYERS})
    backend: Literal["torch", "fastrnn"] = "fastrnn"
    layers: int = 1
    hidden: int = 128
    dropout: float = 0.3
    weight_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    layer_norm: bool = False
    epochs: int = 0
    batch: int = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    rate: float = 2e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    patience: int = 0
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class TextOptions(Options):
    embedding: int = 128
    longest: int = 0


class Task(ABC, Generic[Model]):
    """One kind of training: its files, its model, how to judge and how to use it.

    An example is whatever ``read`` makes of a line; those of a file are made when they are asked for. ``vocabularies``
    and the options are all that a task knows, and go into the checkpoint.
    """

    Settings: ClassVar[type[Options]]
    metric: ClassVar[str]  # the one of evaluate's that chooses the best epoch
    is_better: Callable[[float, float], bool] = staticmethod(operator.gt)
    epochs: ClassVar[int] = 10  # of a file that is not very small
    predicts_lines: ClassVar[bool] = True  # one by one; otherwise predict takes the whole input at once

    def __init__(self, options: Any, vocabularies: dict[str, list[str]] | None = None):
        self.options = options
        self.vocabularies = {name: Vocabulary(symbols) for name, symbols in (vocabularies or {}).items()}

    @abstractmethod
    def read(self, path: Path | None) -> Any:
        """The examples in a file, or the shipped ones. Labels must be those of the training file, once it is known."""

    @abstractmethod
    def fit(self, examples: Any) -> None:
        """Learns the vocabularies of training examples."""

    def learn(self, examples: Any) -> None:
        """``fit``, or what came of it when the same file was learned from before."""
        self.fit(examples)

    @abstractmethod
    def build(self, rnn: Callable[..., nn.Module]) -> Model:
        """The model, with random weights, on that class of recurrent layers."""

    @abstractmethod
    def loss(self, model: Model, batch: Sequence[Any]) -> Tensor:
        """The mean loss of a batch of examples. Tensors are made on torch's default device, where the model is."""

    def terms(self, batch: Sequence[Any]) -> int:
        """How many terms the loss of a batch is the mean of: its weight, where it is a part of a larger batch."""
        return len(batch)

    @abstractmethod
    def evaluate(self, model: Model, examples: Any) -> dict[str, float]:
        """Figures of held-out examples, quick enough for every epoch."""

    def report(self, model: Model, examples: Any) -> dict[str, float]:
        """Figures of the finished model, which may take longer."""
        return self.evaluate(model, examples)

    @abstractmethod
    def predict(self, model: Model, text: str) -> str:
        """What the model says of a line. Raises Refused if it can make nothing of it."""

    def generate(self, model: Model, prefix: str, length: int, **sampling: Any) -> Iterator[str]:
        """Text that follows the prefix, piece by piece as it comes."""
        raise Refused(f"a model for {type(self).__name__.lower()} does not generate text")

    def split(self, examples: Any) -> tuple[Any, Any, Any]:
        """Training examples, those that choose the best epoch, and those that the report is about.

        A tenth is held out, the same whatever the seed.
        """
        if len(examples) < 2:
            raise Refused(f"expected at least 2 examples, of which one is held out, got {len(examples)}")
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
        cut = min(max(len(order) // 10, 1), HELD_OUT)
        held_out, training = Part(examples, order[:cut]), order[cut:]
        if len(order) > WINDOW:
            training = training.sort().values  # neighbours in the file, of which windows are made
        return Part(examples, training), held_out, held_out

    def batches(self, examples: Any, generator: torch.Generator | None = None) -> Batches:
        """Batches of examples of similar length, in random order if there is a generator."""
        return bucket(examples, lengths(examples), self.options.batch, generator)


class TextTask(Task[Model]):
    """A task on sequences of words or characters."""

    reads_by: ClassVar[tuple[str, ...]]  # the options on which records depend

    @abstractmethod
    def records(self, source: Source) -> Iterator[Record]:
        """What is to be kept of the examples in a file. Raises Refused for one that cannot be used."""

    @abstractmethod
    def example(self, text: str) -> Any:
        """The example of a record's text."""

    def read_examples(self, source: Source, longest: int = 0) -> Examples:
        """Those in a file, cut if ``longest`` is not 0. Raises Malformed for a very long one with no --longest."""
        key = {"task": type(self).__name__} | {name: getattr(self.options, name) for name in self.reads_by}
        found = mapped(source, key, lambda writer: write(self.records(source), writer))
        line, length = found.facts["longest"]
        if length > LONGEST and not self.options.longest:
            expected = f"at most {LONGEST} symbols (--longest N cuts after N)"
            raise Malformed(source.path, line, expected, f"{length}, the longest in the file")
        return Examples(found, self.example, longest)

    def learn(self, examples: Any) -> None:
        def fitted() -> dict[str, list[str]]:
            self.fit(examples)
            return {name: vocabulary.symbols for name, vocabulary in self.vocabularies.items()}

        if found := getattr(examples, "map", None):
            symbols = found.remember(f"{len(examples)}-{self.options.longest}", fitted)
            self.vocabularies = {name: Vocabulary(symbols) for name, symbols in symbols.items()}
        else:
            fitted()

    def sizes(self) -> dict[str, Any]:
        """Those of the options that every model takes."""
        options = self.options
        return {name: getattr(options, name) for name in ("embedding", "hidden", "layers", "dropout")}

    def cut(self, symbols: list[str]) -> list[str]:
        return symbols[: self.options.longest or None]
