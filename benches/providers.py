"""Who is timed: each provider makes, for a workload, a function that runs it once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

import fastrnn
from benches.cases import Case
from benches.verify import check_close
from benches.workload import Workload, build, run_inference, run_training
from fastrnn.spec import CELLS
from fastrnn.testing import counterpart_of

__all__ = ["ONNXRT", "OURS", "TORCH", "make_runs", "module_run", "module_runs", "onnxrt_available"]

TORCH, OURS, ONNXRT = "torch", "fastrnn", "onnxrt"

Run = Callable[[], object]


def onnxrt_available() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def make_runs(work: Workload, training: bool, threads: int) -> dict[str, Run]:
    """The runs of every provider that takes the workload, fastrnn last. Call them without grad for inference."""
    runs: dict[str, Run] = {}
    if not training and onnxrt_available() and _onnxrt_takes(work.case):
        runs[ONNXRT] = _onnxrt_run(work, threads)
    return runs | module_runs(work, training)


def module_runs(work: Workload, training: bool) -> dict[str, Run]:
    """The runs of torch.nn and of fastrnn, in this order."""
    return {
        name: module_run(build(library, work.case, work.weights, work.values.dtype), work, training)
        for name, library in ((TORCH, nn), (OURS, fastrnn))
    }


def module_run(module: nn.Module, work: Workload, training: bool) -> Run:
    """One pass, and in training the gradients of input and parameters."""
    if not training:
        module.eval()
        return lambda: module(work.input, work.state)
    wanted = [work.values.requires_grad_(), *module.train().parameters()]
    return lambda: run_training(module, work, wanted)


def _onnxrt_takes(case: Case) -> bool:
    return case.dtype == "float32" and not case.ragged and not case.proj_size


def _onnxrt_run(work: Workload, threads: int) -> Run:
    import onnxruntime

    from benches.onnx_model import onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Workers wait hot for the next call, but for 1 ms instead of 40, which the other providers would pay for.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    counterpart = counterpart_of(work.case.cell)
    model = onnx_model(replace(work.case, cell=counterpart.cell), counterpart.weights(work.weights))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    states = () if work.state is None else (work.state,) if isinstance(work.state, Tensor) else work.state
    names = CELLS[work.case.cell].states[: len(states)]
    feed = {"x": work.values.numpy()} | {f"{name}_0": s.numpy() for name, s in zip(names, states, strict=True)}

    with torch.no_grad():
        expected = run_inference(build(nn, work.case, work.weights, torch.float32), work)
    check_close([torch.from_numpy(value) for value in session.run(None, feed)], expected, "ONNX Runtime")
    return lambda: session.run(None, feed)
