"""What makes programs of modules."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from benches.compatibility.rows import SIZES, Model, Ragged, Side, batch, gradients, pair, row, same, same_at


@row("torch.jit.trace: saved, other sizes, gradients")
def _(side: Side) -> None:
    model, expected = pair(side)
    loaded = saved(torch.jit.trace(model, batch()))
    same_at(SIZES, loaded, expected)
    x = batch(2, 5)
    same(gradients(loaded, loaded(x).sum()), gradients(expected, expected(x).sum()))


@row("torch.jit.trace: packed, other lengths")
def _(side: Side) -> None:
    model, expected = pair(side, Ragged)
    loaded = saved(torch.jit.trace(model, (batch(), torch.tensor([4, 3, 1]))))
    x, lengths = batch(4, 6), torch.tensor([6, 5, 5, 2])
    same(loaded(x, lengths), expected(x, lengths))


@row("torch.jit.script: saved, other sizes")
def _(side: Side) -> None:
    model, expected = pair(side)
    same_at(SIZES, saved(torch.jit.script(model)), expected)


def saved(program: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(program, file)
    file.seek(0)
    return torch.jit.load(file)


@row("torch.fx.symbolic_trace")
def _(side: Side) -> None:
    model, expected = pair(side)
    same_at(SIZES, torch.fx.symbolic_trace(model), expected)


@row("torch.compile(fullgraph=True)")
def _(side: Side) -> None:
    model, expected = pair(side)
    same_at(SIZES[:1], torch.compile(model, fullgraph=True), expected)


@row("torch.export: free batch and length")
def _(side: Side) -> None:
    model, expected = pair(side)
    free = {axis: torch.export.Dim(name, max=64) for axis, name in enumerate(("batch", "steps"))}
    same_at(SIZES, torch.export.export(model, (batch(),), dynamic_shapes=(free,)).module(), expected)


@row("torch.export, AOTInductor package")
def _(side: Side) -> None:
    model, expected = pair(side)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            torch.export.export(model, (batch(),)), package_path=str(Path(folder, "model.pt2"))
        )
        same_at(SIZES[:1], torch._inductor.aoti_load_package(path), expected)


def exported_to_onnx(side: Side, dynamo: bool) -> None:
    import onnxruntime

    model, expected = pair(side)
    file = io.BytesIO()
    sizes = {0: "batch", 1: "steps"}
    free: dict[str, Any] = {"dynamic_shapes": (sizes,)} if dynamo else {"dynamic_axes": {"x": sizes}}
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model.eval(), (batch(),), file, dynamo=dynamo, input_names=["x"], **free)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    same_at(SIZES, lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), expected)


@row("torch.onnx.export(dynamo=False), ONNX Runtime", "onnx", "onnxruntime")
def _(side: Side) -> None:
    exported_to_onnx(side, dynamo=False)


@row("torch.onnx.export(dynamo=True), ONNX Runtime", "onnx", "onnxruntime", "onnxscript")
def _(side: Side) -> None:
    exported_to_onnx(side, dynamo=True)


@row("SummaryWriter.add_graph", "tensorboard")
def _(side: Side) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_graph(Model(side.layer), batch())
