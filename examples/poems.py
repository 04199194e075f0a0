"""A two-layer character model learns classical Chinese poems, with torch.nn.LSTM and with fastrnn.LSTM.

Both models start from the same weights and see the same batches in turn, so their losses can be compared epoch by
epoch and their times step by step. Afterwards the trained model continues some famous openings.

    python examples/poems.py [--data TEXT] [--epochs N] [--hidden H] [--seed S] [--output PNG]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import fastrnn

OPENINGS = ["床前", "白日", "春眠", "千山"]
BATCH, WINDOW, STEPS_PER_EPOCH = 16, 48, 20
PEAK_LEARNING_RATE, WARM_UP, CLIP_NORM = 4e-3, 0.1, 1.0
LOSS_TOLERANCE = 1e-3
LONGEST_VERSE = 80

HERE = Path(__file__).resolve().parent


class Poet(nn.Module):
    """Embedding, two recurrent layers of the given class, and scores for the next character."""

    def __init__(self, lstm: Callable[..., nn.Module], vocabulary: int, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.rnn = lstm(hidden, hidden, num_layers=2, batch_first=True)
        self.scores = nn.Linear(hidden, vocabulary)

    def forward(self, characters: Tensor, state: tuple[Tensor, Tensor] | None = None):  # [B, T] -> [B, T, vocabulary]
        y, state = self.rnn(self.embedding(characters), state)
        return self.scores(y), state


class Training:
    """A model, its optimizer and a record of losses (one an epoch) and times (one a step)."""

    def __init__(self, lstm: Callable[..., nn.Module], vocabulary: int, hidden: int, steps: int, seed: int):
        torch.manual_seed(seed)
        self.model = Poet(lstm, vocabulary, hidden)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=PEAK_LEARNING_RATE)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=WARM_UP
        )
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, batch: Tensor) -> float:
        start = time.perf_counter()
        scores, _ = self.model(batch[:, :-1])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.seconds.append(time.perf_counter() - start)
        return loss.item()


def read_poems(path: Path) -> list[str]:
    """The lines of a UTF-8 text; of a line with tabs, what follows the last one."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        sys.exit(f"Cannot read {path}: {error.strerror}.")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        sys.exit(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} (line {line}), {error.reason}."
        )
    poems = [poem for line in text.splitlines() if (poem := line.split("\t")[-1].strip())]
    if not poems:
        sys.exit(f"{path} is empty: there is nothing to learn.")
    characters = sum(len(poem) + 1 for poem in poems)
    if characters < 2 * WINDOW:
        sys.exit(f"{path} is too short: expected at least {2 * WINDOW} characters, got {characters}.")
    return poems


def draw_batch(data: Tensor, line_starts: Tensor, generator: torch.Generator) -> Tensor:
    """Windows [BATCH, WINDOW + 1] of the text: every other one at the start of a line, the others anywhere."""
    starts = torch.randint(len(data) - WINDOW, (BATCH,), generator=generator)
    starts[::2] = line_starts[torch.randint(len(line_starts), (len(starts[::2]),), generator=generator)]
    return data[starts[:, None] + torch.arange(WINDOW + 1)]


def train(trainings: dict[str, Training], data: Tensor, epochs: int, seed: int) -> None:
    """Every batch goes to all models, which take turns at being first, so that a busy machine slows all alike."""
    generator = torch.Generator().manual_seed(seed)
    line_starts = (data[:-WINDOW] == data[0]).nonzero()[:, 0]
    turns = list(trainings)
    print("epoch  " + "  ".join(f"{name:>14}" for name in trainings) + "      difference    ratio of times")
    with tqdm(total=epochs * STEPS_PER_EPOCH, unit="step", leave=False, disable=None) as bar:
        for epoch in range(1, epochs + 1):
            totals = dict.fromkeys(trainings, 0.0)
            for _ in range(STEPS_PER_EPOCH):
                batch = draw_batch(data, line_starts, generator)
                for name in turns:
                    totals[name] += trainings[name].step(batch)
                turns.reverse()
                bar.update()
            for name, training in trainings.items():
                training.losses.append(totals[name] / STEPS_PER_EPOCH)
            losses = [training.losses[-1] for training in trainings.values()]
            difference = max(losses) - min(losses)
            shown = "  ".join(f"{loss:14.5f}" for loss in losses)
            tqdm.write(f"{epoch:5}  {shown}  {difference:14.1e}  {speed_ratio(trainings, STEPS_PER_EPOCH):16.2f}")
            if not difference <= LOSS_TOLERANCE:
                sys.exit(f"The losses differ by {difference:.1e} in epoch {epoch}, more than {LOSS_TOLERANCE}.")


def speed_ratio(trainings: dict[str, Training], last: int = 0) -> float:
    """Median over the (last) steps of the first model's time divided by the second's on the same batch."""
    first, second = (training.seconds[-last:] for training in trainings.values())
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


@torch.no_grad()
def continue_verse(model: Poet, opening: str, alphabet: list[str]) -> str:
    """The likeliest next character, one at a time with carried state, up to the end of the poem."""
    characters = torch.tensor([[alphabet.index(c) for c in "\n" + opening]])
    verse, state = opening, None
    while len(verse) < LONGEST_VERSE:
        scores, state = model(characters, state)
        characters = scores[:, -1:].argmax(-1)
        if alphabet[characters.item()] == "\n":
            break
        verse += alphabet[characters.item()]
    return verse


def save_picture(trainings: dict[str, Training], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, time_axes = figure.subplots(1, 2)
    for (name, training), line in zip(trainings.items(), ("-", "--"), strict=True):
        epochs = range(1, len(training.losses) + 1)
        loss_axes.plot(epochs, training.losses, line, label=name)
        per_epoch = (training.seconds[STEPS_PER_EPOCH * (e - 1) : STEPS_PER_EPOCH * e] for e in epochs)
        time_axes.plot(epochs, [1e3 * statistics.median(seconds) for seconds in per_epoch], line, label=name)
    loss_axes.set(title="Loss (both start from the same weights)", xlabel="epoch", ylabel="cross entropy", yscale="log")
    time_axes.set(title="Time of a training step", xlabel="epoch", ylabel="milliseconds (median)", ylim=(0, None))
    for axes in (loss_axes, time_axes):
        axes.legend()
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE / "data" / "poems.txt", help="any UTF-8 text, a poem a line")
    parser.add_argument("--epochs", type=positive, default=30, help=f"of {STEPS_PER_EPOCH} steps (default %(default)s)")
    parser.add_argument("--hidden", type=positive, default=192, help="hidden size (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the batches (default %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "out" / "poems.png", help="where the picture goes")
    return parser.parse_args()


def main() -> None:
    # Verses and progress must reach a pipe in any locale, and line by line.
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    args = parse_arguments()
    poems = read_poems(args.data)
    text = "\n" + "\n".join(poems) + "\n"
    alphabet = sorted(set(text))
    index = {character: i for i, character in enumerate(alphabet)}
    data = torch.tensor([index[character] for character in text])
    print(f"{len(poems)} lines, {len(text)} characters, {len(alphabet)} distinct; two layers of {args.hidden}")

    steps = args.epochs * STEPS_PER_EPOCH
    trainings = {
        "torch.nn.LSTM": Training(torch.nn.LSTM, len(alphabet), args.hidden, steps, args.seed),
        "fastrnn.LSTM": Training(fastrnn.LSTM, len(alphabet), args.hidden, steps, args.seed),
    }
    baseline, ours = (training.model for training in trainings.values())
    ours.load_state_dict(baseline.state_dict())
    train(trainings, data, args.epochs, args.seed)

    print(f"\nThe losses agree to {LOSS_TOLERANCE} in every epoch.")
    for name, training in trainings.items():
        print(f"{name:>14}: {1 / statistics.median(training.seconds):6.1f} steps per second")
    print(f"A training step with fastrnn.LSTM is {speed_ratio(trainings):.2f} times as fast (median of pairs).\n")

    openings = [o for o in OPENINGS if o in text] or [poem[:2] for poem in poems[:4]]
    for opening in openings:
        verse, other = (continue_verse(model.eval(), opening, alphabet) for model in (ours, baseline))
        print(verse if verse == other else f"{verse}\n    torch.nn.LSTM continues differently: {other}")
    save_picture(trainings, args.output)
    print(f"\nPicture of losses and times: {args.output}")


if __name__ == "__main__":
    main()
