"""Small files of every kind, from which libFuzzer goes on: ``python tests/fuzz_library.py FOLDER``."""

import sys
from pathlib import Path

import torch
from torch import nn

import fastrnn
from fastrnn.exporting.describe import FORMATS
from fastrnn.exporting.links import Affine, Pool


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    first = {"batch_first": True}
    layers = fastrnn.GRU(3, 2, 2, **first), fastrnn.CIFG(2, 2, bias=False, **first)
    models: dict[str, list[nn.Module]] = {
        "classifier": [nn.Embedding(3, 2), fastrnn.LSTM(2, 2, bidirectional=True, **first), Pool("last", 2)],
        "frames": [nn.Linear(2, 3), nn.ReLU(), layers[0], nn.Linear(2, 1, bias=False), nn.Sigmoid()],
        "series": [Affine(torch.ones(2), torch.zeros(2)), layers[1], Pool("mean"), nn.Tanh()],
        "max": [fastrnn.RNN(1, 3, nonlinearity="relu", **first), Pool("max"), nn.Softmax(-1)],
        "projected": [fastrnn.LSTM(1, 3, proj_size=2, **first)],
    }
    for name, model in models.items():
        for weights in FORMATS[: 1 if name == "projected" else None]:
            fastrnn.export(model, folder / f"{name}-{weights}", weights)


if __name__ == "__main__":
    main()
