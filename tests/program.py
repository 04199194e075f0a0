"""A program that knows torch and the library of operators alone: ``python program.py LIBRARY FOLDER``.

Runs each file of TorchScript (.pt), of torch.export (.ep) and of AOTInductor (.pt2) in the folder on the calls beside
it (NAME.calls), forward and, where the program has parameters, backward. The results go to FILE.results.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LOADERS: dict[str, Callable[[str], Any]] = {
    ".pt": torch.jit.load,
    ".ep": lambda file: torch.export.load(file).module(),
    ".pt2": lambda file: torch._inductor.aoti_load_package(file),
}


def flat(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    else:
        for item in nested:
            yield from flat(item)


def run(program: Any, arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """Outputs and the gradients of the sum of their squares, by name."""
    outputs = list(flat(program(*arguments)))
    named = {f"output[{k}]": y.detach() for k, y in enumerate(outputs)}
    parameters = dict(program.named_parameters()) if hasattr(program, "named_parameters") else {}
    if not parameters:
        return named
    loss = sum(y.square().sum() for y in outputs)
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, list(parameters.values()))
    return named | {f"d {name}": gradient for name, gradient in zip(parameters, found, strict=True)}


def main(library: str, folder: str) -> None:
    torch.ops.load_library(library)
    for calls in sorted(Path(folder).glob("*.calls")):
        for ending, load in LOADERS.items():
            file = calls.with_suffix(ending)
            if file.exists():
                program = load(str(file))
                results = [run(program, arguments) for arguments in torch.load(calls)]
                torch.save(results, f"{file}.results")
    assert "fastrnn" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
