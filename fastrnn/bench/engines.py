"""Peers that load a layer as an ONNX model and infer alone. Each is imported where it is installed and used."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastrnn.bench.case import Case
from fastrnn.bench.verify import check_close
from fastrnn.bench.workload import Workload, build, converted, run_inference
from fastrnn.spec import CELLS
from fastrnn.testing import counterpart_of

__all__ = ["ENGINES", "ONNXRT", "OPENVINO", "Engine"]

ONNXRT, OPENVINO = "onnxrt", "openvino"

Run = Callable[[], object]
Outputs = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Engine:
    """``start`` takes a float32 model in bytes, its inputs by name, the case and a number of threads.

    It gives a function that runs the model once, and one that runs it and returns its outputs.
    """

    title: str
    packages: tuple[str, ...]
    products: tuple[str, ...]
    start: Callable[[bytes, dict[str, Tensor], Case, int], tuple[Run, Outputs]]

    @property
    def available(self) -> bool:
        return all(importlib.util.find_spec(name) is not None for name in self.packages)

    def takes(self, case: Case) -> bool:
        return case.products in self.products and not case.ragged and not case.proj_size

    def run(self, work: Workload, threads: int) -> Run:
        """The model of a workload, checked."""
        from fastrnn.bench.onnx_model import onnx_model

        wide = converted(work, torch.float32)
        counterpart = counterpart_of(work.case.cell)
        model = onnx_model(replace(work.case, cell=counterpart.cell), counterpart.weights(wide.weights))
        states = () if work.state is None else (work.state,) if isinstance(work.state, Tensor) else work.state
        names = CELLS[work.case.cell].states[: len(states)]
        inputs = {"x": work.values} | {f"{name}_0": state for name, state in zip(names, states, strict=True)}
        run, outputs = self.start(model.SerializeToString(), inputs, work.case, threads)
        with torch.no_grad():
            expected = run_inference(build(nn, work.case, wide.weights, torch.float32), wide)
        check_close(outputs(), expected, getattr(torch, work.case.products), self.title)
        return run


def _onnxrt(model: bytes, inputs: dict[str, Tensor], case: Case, threads: int) -> tuple[Run, Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Workers wait hot for the next call, but for 1 ms instead of 40, which the other providers would pay for.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in inputs.items()}
    return lambda: session.run(None, feed), lambda: [torch.from_numpy(value) for value in session.run(None, feed)]


def _openvino(model: bytes, inputs: dict[str, Tensor], case: Case, threads: int) -> tuple[Run, Outputs]:
    """Inputs and outputs are of the case's dtype: bfloat16 there saves OpenVINO 3 to 14 % of its time."""
    import openvino

    core = openvino.Core()
    prepared = openvino.preprocess.PrePostProcessor(core.read_model(model))
    types = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}
    kind = types[case.dtype]
    names = ["y", *(f"{state}_n" for state in CELLS[case.cell].states)]
    for name in inputs:
        prepared.input(name).tensor().set_element_type(kind)
    for name in names:
        prepared.output(name).tensor().set_element_type(kind)
    options = {
        "INFERENCE_PRECISION_HINT": types[case.products].to_string(),  # or it would be bfloat16 wherever that is fast
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(prepared.build(), "CPU", options).create_infer_request()
    # NumPy has no bfloat16: its bits travel as integers of their size.
    bits = torch.int16 if case.dtype == "bfloat16" else torch.float32
    for name, value in inputs.items():
        array = value.contiguous().view(bits).numpy()
        request.set_tensor(name, openvino.Tensor(array, list(array.shape), kind))

    def outputs() -> list[Tensor]:
        request.infer()
        arrays = [request.get_tensor(name).data for name in names]
        return [torch.tensor(a.view(f"i{a.itemsize}")).view(getattr(torch, case.dtype)) for a in arrays]

    return lambda: request.infer(share_outputs=True), outputs


ENGINES = {
    ONNXRT: Engine("ONNX Runtime", ("onnx", "onnxruntime"), ("float32",), _onnxrt),
    OPENVINO: Engine("OpenVINO", ("onnx", "openvino"), ("float32", "bfloat16"), _openvino),
}
