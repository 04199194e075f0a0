"""Steps of private training by Opacus, on its DPLSTM and on ``fastrnn.LSTM``: ``python -m benches.private``.

A text classifier on random texts. The gradients of every text are first compared with those of a loop on
``torch.nn.LSTM``, then the sums of the clipped ones; then whole steps are timed in turn: forward, backward, clipping,
noise, Adam. Opacus has two ways to the gradients of a text: rules for the layers that it knows, which DPLSTM is made
of, and ``torch.func`` for others (``hooks``), or for all (``functorch``).
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from benches.machine import describe
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Budget, Quartiles, race

STEPS, BATCH, HIDDEN = 50, 32, (64, 128, 256)
WORDS, CLASSES = 1000, 2
LARGEST_GRADIENT = 0.1  # of a text: all are clipped


@dataclass(frozen=True)
class Contender:
    name: str
    of_opacus: bool
    mode: str


OURS = "fastrnn.LSTM, hooks"
CONTENDERS = [
    Contender("DPLSTM, hooks", True, "hooks"),
    Contender("DPLSTM, functorch", True, "functorch"),
    Contender("fastrnn.LSTM, functorch", False, "functorch"),
    Contender(OURS, False, "hooks"),
]


class First(nn.Module):
    """Of a layer's results."""

    def forward(self, results: tuple[Any, ...]) -> Tensor:
        return results[0]


class Outputs(fastrnn.LSTM):
    """Opacus computes gradients by sample of what returns one tensor."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[0]


class Classifier(nn.Module):
    def __init__(self, hidden: int, *rnn: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, hidden)
        self.rnn = nn.Sequential(*rnn)
        self.scores = nn.Linear(hidden, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scores(self.rnn(self.embedding(tokens)).mean(1))

    def parts(self) -> dict[str, nn.Module]:
        """One by one, for DPLSTM has the names of ``torch.nn.LSTM`` in a ``state_dict`` of its own alone."""
        return {"embedding": self.embedding, "rnn": self.rnn[0], "scores": self.scores}

    def named(self) -> dict[str, Any]:
        """The parameters by these names."""
        parts = self.parts().items()
        return {f"{part}.{name}": p for part, m in parts for name, p in m.state_dict(keep_vars=True).items()}


class Training:
    """One contender's model, made private, and a batch for it."""

    def __init__(self, contender: Contender, reference: Classifier, batch: Tensor, wanted: Tensor) -> None:
        from opacus import PrivacyEngine
        from opacus.layers import DPLSTM

        hidden = reference.scores.in_features
        sizes = {"input_size": hidden, "hidden_size": hidden, "batch_first": True}
        rnn = (DPLSTM(**sizes), First()) if contender.of_opacus else (Outputs(**sizes),)
        self.bare = Classifier(hidden, *rnn)
        for mine, theirs in zip(self.bare.parts().values(), reference.parts().values(), strict=True):
            mine.load_state_dict(theirs.state_dict())
        dataset = torch.utils.data.TensorDataset(batch, wanted)
        self.model, self.optimizer, _ = PrivacyEngine().make_private(
            module=self.bare,
            optimizer=torch.optim.Adam(self.bare.parameters(), 1e-3),
            data_loader=torch.utils.data.DataLoader(dataset, BATCH),
            noise_multiplier=1.0,
            max_grad_norm=LARGEST_GRADIENT,
            grad_sample_mode=contender.mode,
        )
        self.batch, self.wanted = batch, wanted

    def backward(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.batch), self.wanted).backward()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()

    def of_parameters(self, attribute: str) -> dict[str, Tensor]:
        return {name: getattr(p, attribute) for name, p in self.bare.named().items()}


def verified(hidden: int) -> dict[str, Training]:
    """All contenders, whose gradients are those of a loop."""
    torch.manual_seed(0)
    reference = Classifier(hidden, nn.LSTM(hidden, hidden, batch_first=True), First())
    batch, wanted = torch.randint(WORDS, (BATCH, STEPS)), torch.randint(CLASSES, (BATCH,))
    each: list[Any] = []
    for text, label in zip(batch.split(1), wanted.split(1), strict=True):
        loss = nn.functional.cross_entropy(reference(text), label)
        each.append(torch.autograd.grad(loss, list(reference.parameters())))
    stacked = [torch.stack(gradients) for gradients in zip(*each, strict=True)]
    by_text = dict(zip(reference.named(), stacked, strict=True))
    norms = torch.stack([t.flatten(1).norm(dim=1) for t in by_text.values()]).norm(dim=0)
    shares = (LARGEST_GRADIENT / norms).clamp(max=1)
    clipped = {name: torch.einsum("n,n...->...", shares, t) for name, t in by_text.items()}

    found = {}
    for contender in CONTENDERS:
        training = found[contender.name] = Training(contender, reference, batch, wanted)
        training.backward()
        torch.testing.assert_close(training.of_parameters("grad_sample"), by_text, rtol=1e-3, atol=1e-6)
        training.optimizer.clip_and_accumulate()
        torch.testing.assert_close(training.of_parameters("summed_grad"), clipped, rtol=1e-3, atol=1e-6)
        training.step()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.private", description="Private training by Opacus.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--hidden", type=int, nargs="*", default=HIDDEN)
    parser.add_argument("--seconds", type=float, default=1.0, help="for the slowest of each comparison")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # Opacus's, of random numbers and hooks
    rows = []
    for hidden in options.hidden:
        runs = {name: training.step for name, training in verified(hidden).items()}
        times = race(runs, Budget(options.seconds, min_rounds=5))
        for name in runs:
            median = Quartiles.of(times.seconds[name]).median
            ratio = f"{times.ratio(name, OURS).median:.2f}"
            rows.append([name, str(STEPS), str(BATCH), str(hidden), f"{median * 1e3:.1f}", ratio])
    machine = describe(options.threads)
    print("  ".join(f"{key} {machine[key]}" for key in ("cpu", "isa", "threads", "load")))
    print(format_table(["layer, mode", "T", "B", "H", "ms", "ratio"], rows, 1, markdown=False))


if __name__ == "__main__":
    main()
