"""The curves of a training."""

from pathlib import Path

from matplotlib.figure import Figure


def draw(history: list[dict[str, float]], metric: str, path: Path) -> None:
    """Writes the loss and the metric of each epoch to a PNG file."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        axes.plot(epochs, [row[name] for row in history], marker="." if len(epochs) < 20 else None)
        axes.set(title=f"{name} ({'training' if name == 'loss' else 'held out'})", xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")
