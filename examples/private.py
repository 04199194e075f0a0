"""Sentiment learned with differential privacy (Abadi et al., 2016), by Opacus.

Opacus clips the gradient of every text and adds noise, so that the model tells little of any one of them. In place of
``torch.nn``'s layers, which it refuses, it has layers of its own, step by step in Python; of fastrnn's it computes the
gradients by text through ``torch.func``. Files are those of ``train sentiment``; privacy wants thousands of texts, and
there are 190 here. Not private are the words of the vocabulary and the largest length.

    python -m fastrnn.examples.private [--data FILE] [--epsilon E] [--epochs N] [--batch B] [--hidden H] [--seed S]
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastrnn

from .arguments import positive, reporting, seed
from .sentiment import Example, Sentiment, SentimentOptions
from .text import PADDING, Vocabulary, pad

LARGEST_GRADIENT = 1.0  # norm of a text's
RATE = 1e-2
RARE = 5  # words that occur less often are unknown: each costs a row of the embedding's gradient for every text


class Outputs(fastrnn.LSTM):
    """An LSTM whose result is its output alone: Opacus computes gradients by sample of what returns one tensor."""

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input)[0]


class Classifier(nn.Module):
    """Scores of texts [B, T] by the mean of the outputs at real positions."""

    def __init__(self, vocabulary: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden, padding_idx=PADDING)
        self.rnn = Outputs(hidden, hidden, batch_first=True)
        self.scores = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        real = (tokens != PADDING).unsqueeze(2)
        y = self.rnn(self.embedding(tokens)) * real
        return self.scores(y.sum(1) / real.sum(1))


def dataset(task: Sentiment, examples: list[Example]) -> TensorDataset:
    tokens, _ = pad([task.vocabularies["words"].encode(example.symbols) for example in examples])
    labels = task.vocabularies["labels"].indices
    return TensorDataset(tokens, torch.tensor([labels.get(example.label, -1) for example in examples]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="lines of text TAB label; default: what is here")
    parser.add_argument("--epsilon", type=positive(float), default=8.0, help="to spend at most (default %(default)s)")
    parser.add_argument("--epochs", type=positive(int), default=10, help="(default %(default)s)")
    parser.add_argument("--batch", type=positive(int), default=64, help="texts, on average (default %(default)s)")
    parser.add_argument("--hidden", type=positive(int), default=64, help="hidden size (default %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="(default %(default)s)")
    return parser.parse_args()


@reporting("python -m fastrnn.examples.private")
def main() -> None:
    args = parse_arguments()
    from opacus import PrivacyEngine  # which --help does without

    torch.manual_seed(args.seed)
    task = Sentiment(SentimentOptions(), {})
    training, held_out, _ = task.split(task.read(args.data))
    task.fit(training)
    task.vocabularies["words"] = Vocabulary.of((example.symbols for example in training), RARE)
    (tokens, labels), delta = dataset(task, held_out).tensors, len(training) ** -1.1

    model = Classifier(len(task.vocabularies["words"]), len(task.vocabularies["labels"]), args.hidden)
    engine = PrivacyEngine()
    model, optimizer, loader = engine.make_private_with_epsilon(
        module=model,
        optimizer=torch.optim.Adam(model.parameters(), RATE),
        data_loader=DataLoader(dataset(task, training), args.batch),
        target_epsilon=args.epsilon,
        target_delta=delta,
        epochs=args.epochs,
        max_grad_norm=LARGEST_GRADIENT,
    )
    print(f"{len(training)} texts to learn from, {len(held_out)} held out; delta {delta:.1e}", end=", ")
    print(f"noise {optimizer.noise_multiplier:.2f} of the largest gradient\nepoch  accuracy  epsilon  seconds")
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        for batch, wanted in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), wanted).backward()
            optimizer.step()
        seconds = time.perf_counter() - start
        with torch.no_grad():
            accuracy = (model(tokens).argmax(1) == labels).double().mean()
        print(f"{epoch:5}  {accuracy:8.3f}  {engine.get_epsilon(delta):7.2f}  {seconds:7.2f}")


if __name__ == "__main__":
    main()
