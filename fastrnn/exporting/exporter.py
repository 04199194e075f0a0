"""``export``: a file of a model, for libfastrnn, ONNX Runtime or AOTInductor, compared with the model once written."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrnn.exporting.chain import Chain, Model, chain_of
from fastrnn.exporting.describe import FORMATS, Operation, describe
from fastrnn.exporting.load import load, rebuilt
from fastrnn.exporting.tensors import write
from fastrnn.modules.frozen import freeze

__all__ = ["FILE_FORMATS", "Exported", "export"]

_VERSION = "1"
_BATCH, _STEPS = 3, 7  # of the comparison
# Of the output's largest magnitude. What is stored in fewer bits is compared with the values that these stand for.
_ALLOWED = 1e-4


@dataclass(frozen=True)
class Exported:
    """A file. ``error`` is the largest difference of its output from the model's, beside its ``magnitude``."""

    path: Path
    bytes: int
    error: float
    magnitude: float


def export(model: Model, path: str | Path, weights: str = "float32", format: str = "c") -> Exported:
    """Writes a model for programs without Python, and compares what the file computes with the model.

    Args:
        model: a model of ``fastrnn.models``; a recurrent layer; a list of modules that are applied one after another;
            or a model whose ``forward`` is such a chain. Modules are recurrent layers of fastrnn and ``torch.nn``,
            frozen ones too, Linear, Embedding, ReLU, Tanh, Sigmoid, Softmax over the features, Dropout and Identity,
            and, in ``forward``, the step ``y[:, -1]`` and the final ``h[-1]``.
        path: the file to write.
        weights: how the matrices of what is not frozen are stored: ``"float32"``, ``"bfloat16"`` or ``"int8"``, as
            ``fastrnn.freeze`` rounds them. For ``"onnx"`` and ``"pt2"`` those of recurrent layers alone.
        format: ``"c"``: for libfastrnn, in the format safetensors; ``fastrnn.h`` has the details. ``"onnx"``: for ONNX
            Runtime. ``"pt2"``: a package of AOTInductor, for a process that loads ``libfastrnn_torch.so``. The last two
            take x and the states of the layers, ``state_0``, ``state_1``, ..., and give y and the final states, with
            free sizes of batch and time.

    Raises:
        TypeError: something in the model cannot be exported; it is named.
        ValueError: an unknown ``weights`` or ``format``, a path of a ``"pt2"`` that does not end so, or parameters that
            are not float32 on the CPU.
        RuntimeError: what the file computes differs from the model.
        ImportError: ``"onnx"`` without onnxruntime, which checks the file.
    """
    if weights not in FORMATS:
        raise ValueError(f"weights: expected one of {', '.join(FORMATS)}, got {weights!r}")
    if format not in _WRITE:
        raise ValueError(f"format: expected one of {', '.join(_WRITE)}, got {format!r}")
    path = Path(path)
    if format == "pt2" and path.suffix != ".pt2":
        raise ValueError(f"path: expected one that ends in .pt2, as AOTInductor wants it, got {path}")
    chain = chain_of(model).requires_grad_(False)
    _check_parameters(chain)
    x = chain.example(_BATCH, _STEPS)
    with torch.no_grad():
        expected = chain(x)[0]
        _compare("the chain of its modules", expected, _output_of(model, x, expected))
        rounded, got = _WRITE[format](chain, x, weights, path)
    _compare(str(path), got, rounded)
    error = (got - expected).abs().max().item()
    return Exported(path, path.stat().st_size, error, expected.abs().max().item())


def _check_parameters(chain: Chain) -> None:
    for name, p in chain.links.named_parameters():
        if p.dtype != torch.float32 or p.device.type != "cpu":
            raise ValueError(f"{name}: expected torch.float32 on the CPU, got {p.dtype} on {p.device}")


def _output_of(model: Model, x: Tensor, like: Tensor) -> Tensor:
    """Of the model itself, if it can be called; ``like``, its chain's, if it is but a list."""
    if isinstance(model, (Sequence, nn.Sequential)):
        return like
    own: Any = copy.deepcopy(model).eval()
    result = getattr(own, "chain_output", own)(x)
    return (result[0] if isinstance(result, tuple) else result).reshape(like.shape)


def _compare(name: str, got: Tensor, expected: Tensor) -> None:
    allowed = _ALLOWED * max(1.0, expected.abs().max().item())
    error = (got - expected).abs().max().item()
    if not error <= allowed:
        raise RuntimeError(f"{name}: expected the model's output to {allowed:.1e}, got it with an error of {error:.1e}")


def _for_c(chain: Chain, x: Tensor, weights: str, path: Path) -> tuple[Tensor, Tensor]:
    operations = describe(chain, weights)
    tensors = {f"{k}.{name}": t for k, op in enumerate(operations) for name, t in op.tensors.items()}
    write(path, tensors, {"fastrnn": _VERSION} | {str(k): op.text for k, op in enumerate(operations)})
    return _widened_output(operations, chain, x), _output(load(path), chain, x)


def _widened_output(operations: list[Operation], like: Chain, x: Tensor) -> Tensor:
    """Of float32 layers with the values that the weights stand for: nothing rounds their activations."""
    return _output(rebuilt(operations), like, x)


def _output(rebuilt_chain: Chain, like: Chain, x: Tensor) -> Tensor:
    """In the order of dimensions of ``like``, of which it is made."""
    if like.batch_first:
        return rebuilt_chain(x)[0]
    y = rebuilt_chain(x.transpose(0, 1))[0]
    return y if like.pools else y.transpose(0, 1)


def _for_onnx(chain: Chain, x: Tensor, weights: str, path: Path) -> tuple[Tensor, Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("format 'onnx' needs onnxruntime, which checks the file: pip install onnxruntime") from error
    chain, states = _frozen(chain, weights), chain.zeros(_BATCH)
    names = ["x", *(f"state_{k}" for k in range(len(states)))]
    outputs = ["y", *(f"final_{k}" for k in range(len(states)))]
    batch, steps = (0, 1) if chain.batch_first else (1, 0)
    free = {"x": {batch: "batch", steps: "steps"}} | {name: {1: "batch"} for name in names[1:] + outputs[1:]}
    free["y"] = {0: "batch"} if chain.pools else free["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter, whose nodes take free sizes, says that it is old
        torch.onnx.export(
            chain, (x, *states), path, dynamo=False, input_names=names, output_names=outputs, dynamic_axes=free
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(names, (x, *states), strict=True)}
    return _widened_output(describe(chain, "float32"), chain, x), torch.from_numpy(session.run(["y"], feed)[0])


def _for_pt2(chain: Chain, x: Tensor, weights: str, path: Path) -> tuple[Tensor, Tensor]:
    chain, states = _frozen(chain, weights), chain.zeros(_BATCH)
    batch, steps = torch.export.Dim("batch", max=2**20), torch.export.Dim("steps", max=2**20)
    leading = {0: batch, 1: steps} if chain.batch_first else {0: steps, 1: batch}
    program = torch.export.export(chain, (x, *states), dynamic_shapes=(leading, tuple([{1: batch} for _ in states])))
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return chain(x)[0], torch._inductor.aoti_load_package(str(path))(x, *states)[0]


def _frozen(chain: Chain, weights: str) -> Chain:
    return chain if weights == "float32" else freeze(chain, weights)


_Write = Callable[[Chain, Tensor, str, Path], tuple[Tensor, Tensor]]
# Each gives what the file is to compute, and what it does.
_WRITE: dict[str, _Write] = {"c": _for_c, "onnx": _for_onnx, "pt2": _for_pt2}
FILE_FORMATS = tuple(_WRITE)
