"""Why did my RNN forget? Gradients on their way back through the steps, in pictures. A notebook as a script.

python -m fastrnn.examples.forgetting    # half a minute; pictures in examples/out
"""

# %% The task: name the first symbol of a sequence, after some random ones.
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import fastrnn
from fastrnn.diagnose import GradientFlow, gradient_flow

SYMBOLS, ROWS, LONGEST, UNITS = 8, 64, 40, 64
OUTPUT = Path("examples/out")


def draw(length: int) -> tuple[Tensor, Tensor]:
    """Sequences [T, B, SYMBOLS] and their first symbols [B]."""
    symbols = torch.randint(SYMBOLS, (length, ROWS))
    return one_hot(symbols, SYMBOLS).float(), symbols[0]


class Recall(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(UNITS, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][-1])


def models() -> dict[str, Recall]:
    """Fresh ones. The last differs from an LSTM in one number: the bias with which its forget gate starts."""
    torch.manual_seed(0)
    found = {kind.__name__: Recall(kind(SYMBOLS, UNITS)) for kind in (fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM)}
    open_gate = fastrnn.LSTM(SYMBOLS, UNITS)
    with torch.no_grad():
        # The gates are i, f, g, o; with sigmoid(3) = 0.95 of it the cell state stays from step to step.
        open_gate.get_parameter("bias_ih_l0")[UNITS : 2 * UNITS] = 3.0
    return found | {"LSTM, forget bias 3": Recall(open_gate)}


# %% Before training: how much of the loss's gradient arrives at each step?
def flows(of: dict[str, Recall]) -> dict[str, GradientFlow]:
    x, first = draw(LONGEST)
    return {name: gradient_flow(model, x, lambda scores: cross_entropy(scores, first)) for name, model in of.items()}


def show(title: str, found: dict[str, GradientFlow], path: Path) -> None:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    print(f"\n{title}: gradient at the first step, compared with the last")
    for name, flow in found.items():
        layer = flow.layers[0]
        print(f"  {name:20} {layer.ratio:8.1e}  {layer.verdict}")
        axes.plot(range(1, len(layer.norms) + 1), layer.norms / layer.norms[-1], label=f"{name}: {layer.verdict}")
    axes.set(
        title=title, xlabel="step", ylabel="gradient, compared with the last step", yscale="log", ylim=(1e-12, 100)
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    print(f"  picture: {path}")


OUTPUT.mkdir(parents=True, exist_ok=True)
fresh = models()
show("Before training", flows(fresh), OUTPUT / "forgetting-before.png")

# %% [markdown]
# A step multiplies the gradient by the derivative of the next state with respect to this one. A fresh RNN, GRU or LSTM
# shrinks it each time, and after 40 steps next to nothing is left: "vanishing" (Hochreiter 1991; Bengio et al. 1994).
# An LSTM whose forget gate starts open passes it on (Gers et al. 2000; Jozefowicz et al. 2015).


# %% Training, on sequences of 2 to 40 symbols.
def train(model: Recall, steps: int = 400) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x, first = draw(int(torch.randint(2, LONGEST + 1, (), generator=generator)))
        loss = cross_entropy(model(x), first)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def accuracy(model: Recall, length: int) -> float:
    x, first = draw(length)
    with torch.no_grad():
        return float((model(x).argmax(1) == first).float().mean())


LENGTHS = (5, 10, 20, 40, 80)
print(f"\nAccuracy after training, by length; by chance it is {1 / SYMBOLS:.2f}")
print(" " * 22 + "".join(f"{length:>6}" for length in LENGTHS))
for name, model in fresh.items():
    train(model)
    print(f"  {name:20}" + "".join(f"{accuracy(model, length):6.2f}" for length in LENGTHS))

# %% After training: who has learned to let the gradient pass?
show("After training", flows(fresh), OUTPUT / "forgetting-after.png")

# %% [markdown]
# The open-gated LSTM may still be called vanishing after training, and answers everything: what it has learned to keep
# needs no more of the gradient. A low accuracy beside a vanishing gradient is the sign to look for.
#
# What to do when `gradient_flow` says "vanishing" for your model: open the forget gate at the start, as above; take a
# GRU or LSTM in place of an RNN; let the loss see more steps than the last. Against "exploding" clip the gradient.
