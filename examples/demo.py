"""Poems learned with torch.nn.LSTM and with fastrnn.LSTM, side by side.

Both models start from the same weights and take the same batches in turn, so their losses can be compared epoch by
epoch and their times step by step. Afterwards both continue some famous openings. What other layers gain on this
machine is measured at the end: a training step of an LSTM, as here, gains least.

    python -m fastrnn.examples.demo [--data TEXT] [--epochs N] [--hidden H] [--seed S] [--output PNG]
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

import fastrnn
from fastrnn.models import LanguageModel

from .arguments import picture, positive, reporting, seed
from .files import Refused
from .gains import show_gains
from .poems import DATA, Example, Poems, PoemsOptions
from .race import Racer, race

OPENINGS = ["床前", "白日", "春眠", "千山"]
STEPS = 20  # of an epoch
BATCH, WINDOW = 16, 48
LONGEST_VERSE = 80
LOSS_TOLERANCE = 1e-3


def compete(racers: dict[str, Racer], examples: list[Example], epochs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    print("epoch  " + "  ".join(f"{name:>14}" for name in racers) + "      difference    ratio of times")
    with tqdm(total=epochs * STEPS, unit="step", leave=False, disable=None) as bar:
        for epoch in range(1, epochs + 1):
            race(racers.values(), (draw_batch(examples, generator) for _ in range(STEPS)), bar)
            losses = [racer.losses[-1] for racer in racers.values()]
            difference = max(losses) - min(losses)
            shown = "  ".join(f"{loss:14.5f}" for loss in losses)
            tqdm.write(f"{epoch:5}  {shown}  {difference:14.1e}  {speed_ratio(racers, STEPS):16.2f}")
            if not difference <= LOSS_TOLERANCE:
                raise Refused(f"the losses differ by {difference:.1e} in epoch {epoch}, more than {LOSS_TOLERANCE}")


def draw_batch(examples: list[Example], generator: torch.Generator) -> list[Example]:
    """Windows of the text: every other one at the start of a line, the others anywhere."""
    symbols = [symbol for example in examples for symbol in example.symbols]
    first = list(itertools.accumulate((len(example.symbols) for example in examples), initial=0))[:-1]
    anywhere = torch.randint(max(len(symbols) - WINDOW, 1), (BATCH // 2,), generator=generator).tolist()
    lines = [first[i] for i in torch.randint(len(first), (BATCH // 2,), generator=generator).tolist()]
    return [Example(symbols[start : start + WINDOW + 1]) for start in lines + anywhere]


def speed_ratio(racers: dict[str, Racer], last: int = 0) -> float:
    """Median over the (last) steps of the first model's time divided by the second's on the same batch."""
    first, second = (racer.seconds[-last:] for racer in racers.values())
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def continue_verse(task: Poems, model: LanguageModel, opening: str) -> str:
    """The likeliest next character, one at a time, up to the end of the poem."""
    return opening + "".join(task.generate(model, opening, LONGEST_VERSE, temperature=0.0))


def save_picture(racers: dict[str, Racer], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, time_axes = figure.subplots(1, 2)
    for (name, racer), line in zip(racers.items(), ("-", "--"), strict=True):
        epochs = range(1, len(racer.losses) + 1)
        loss_axes.plot(epochs, racer.losses, line, label=name)
        per_epoch = (racer.seconds[STEPS * (e - 1) : STEPS * e] for e in epochs)
        time_axes.plot(epochs, [1e3 * statistics.median(seconds) for seconds in per_epoch], line, label=name)
    loss_axes.set(
        title="Loss (both start from the same weights)", xlabel="epoch", ylabel="cross entropy", ylim=(0, None)
    )
    time_axes.set(title="Time of a training step", xlabel="epoch", ylabel="milliseconds (median)", ylim=(0, None))
    for axes in (loss_axes, time_axes):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="any UTF-8 text, a poem a line")
    parser.add_argument("--epochs", type=positive(int), default=30, help=f"of {STEPS} steps (default %(default)s)")
    parser.add_argument("--hidden", type=positive(int), default=192, help="hidden size (default %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the weights and of the batches (default %(default)s)")
    parser.add_argument("--output", type=picture, default=Path("examples/out/poems.png"), help="where the picture goes")
    return parser.parse_args()


@reporting("python -m fastrnn.examples.demo")
def main() -> None:
    args = parse_arguments()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    # Without dropout: what is compared is how the poems are learned, by heart.
    task = Poems(
        PoemsOptions(hidden=args.hidden, embedding=args.hidden, layers=2, dropout=0.0, tied=False, seed=args.seed)
    )
    examples = list(task.read(args.data))
    task.fit(examples)
    layers = {"torch.nn.LSTM": torch.nn.LSTM, "fastrnn.LSTM": fastrnn.LSTM}
    racers = {name: Racer(task, rnn, args.epochs * STEPS) for name, rnn in layers.items()}
    known = len(task.vocabularies["characters"])
    print(f"{len(examples)} lines, {known} distinct characters; two layers of {args.hidden}")
    compete(racers, examples, args.epochs, args.seed)

    print(f"\nThe losses agree to {LOSS_TOLERANCE} in every epoch.")
    for name, racer in racers.items():
        print(f"{name:>14}: {1 / statistics.median(racer.seconds):6.1f} steps per second")
    print(f"A training step with fastrnn.LSTM is {speed_ratio(racers):.2f} times as fast (median of pairs).\n")

    texts = ["".join(symbol for symbol in example.symbols if len(symbol) == 1) for example in examples]
    for opening in [o for o in OPENINGS if any(o in text for text in texts)] or [text[:2] for text in texts[:4]]:
        other, verse = (continue_verse(task, racer.stepper.model, opening) for racer in racers.values())
        print(verse if verse == other else f"{verse}\n    torch.nn.LSTM continues differently: {other}")
    save_picture(racers, args.output)
    print(f"\nPicture of losses and times: {args.output}\n")
    show_gains(args.output.with_stem(f"{args.output.stem}-gains"))


if __name__ == "__main__":
    main()
