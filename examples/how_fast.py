"""How fast is it here? A chart of your own shapes, and where the gain ends. A notebook as a script.

    python -m fastrnn.examples.how_fast    # a minute; pictures in examples/out

Without editing: ``python -m fastrnn bench --cell lstm --batch 32 --steps 100 --input 128 --hidden 256``.
"""

# %% Your shapes: cell, rows, steps, inputs, units, and whatever else there is to say.
from pathlib import Path

import torch
from matplotlib.figure import Figure

import fastrnn
from fastrnn.bench import MODES, Budget, Case, draw_ratios, measure

CASES = {
    "a sentence": Case("yours", "lstm", 1, 50, 128, 256),
    "a batch of sentences": Case("yours", "gru", 32, 50, 128, 128),
    "sentences of many lengths": Case("yours", "lstm", 32, 50, 128, 128, bidirectional=True, ragged=True),
    "one step of a policy": Case("yours", "gru", 16, 1, 64, 256),
}
THREADS = torch.get_num_threads()
BUDGET = Budget(seconds=0.1, min_rounds=5, max_rounds=20)
OUTPUT = Path("examples/out")

# %% Each is compared with torch.nn and float64 first, and then timed in turn with it.
rows = {}
for name, case in CASES.items():
    for mode in MODES:
        found = measure(case, mode, THREADS, BUDGET)
        milliseconds, ratio = 1e3 * found.seconds["fastrnn"].median, found.ratios["torch"].median
        print(f"{name:26} {case.cell_name:4} {mode:9} {milliseconds:8.3f} ms, {ratio:.2f} times as fast", flush=True)
        rows[f"{name}\n{case.cell_name}, {mode}"] = {"torch.nn": ratio}
draw_ratios(rows, f"fastrnn on this machine, {THREADS} threads", OUTPUT / "how-fast.png")
print(f"picture: {OUTPUT / 'how-fast.png'}\n")

# %% [markdown]
# The gain shrinks as products grow: once they fill the processor there is nothing left to save around them. Here is
# where that happens on this machine, for 32 rows and 50 steps.

# %% From few units to many.
UNITS = (16, 32, 64, 128, 256, 512)
figure = Figure(figsize=(8, 4.5), layout="constrained")
axes = figure.subplots()
for cell in ("lstm", "gru"):
    ratios = []
    for units in UNITS:
        found = measure(Case("yours", cell, 32, 50, units, units), "inference", THREADS, BUDGET)
        ratios.append(found.ratios["torch"].median)
    print(
        f"{cell.upper()}, inference: "
        + ", ".join(f"{u} units {ratio:.2f}" for u, ratio in zip(UNITS, ratios, strict=True))
    )
    axes.plot(UNITS, ratios, marker=".", label=cell.upper())
axes.axhline(1, color="0.25", linewidth=1)
axes.set(xlabel="units, and as many inputs", ylabel="times as fast as torch.nn", ylim=(0, None))
axes.set_xscale("log", base=2)
axes.set_xticks(UNITS, map(str, UNITS))
axes.legend()
axes.grid(alpha=0.3)
figure.savefig(OUTPUT / "how-fast-units.png", dpi=120)
print(f"picture: {OUTPUT / 'how-fast-units.png'}\n")

# %% Why: what would run one of these calls.
layer = fastrnn.LSTM(128, 256)
print(fastrnn.explain(layer, torch.randn(50, 32, 128)))
