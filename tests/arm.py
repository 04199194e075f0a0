"""The CPU kernels on 64-bit Arm: compiled for it on this machine, and run by an emulator."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrnn import _C
from fastrnn.spec import CELLS, BackwardCall, ForwardCall

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
_PACKAGES = {COMPILER: "g++-aarch64-linux-gnu", EMULATOR: "qemu-user"}
_ROOT = Path(__file__).parent.parent


def missing() -> list[str]:
    """The Debian packages without which nothing can be compiled and run here."""
    return [package for tool, package in _PACKAGES.items() if not shutil.which(tool)]


def build(folder: Path) -> Path:
    """``arm_driver.cpp`` on the library of the kernels."""
    csrc, driver = _ROOT / "csrc", folder / "arm_driver"
    library = ["make", f"-j{os.cpu_count()}", "-f", csrc / "core.mk", f"OUT={folder}", f"CXX={COMPILER}"]
    sources = [_ROOT / "tests" / "arm_driver.cpp", folder / "libfastrnn_core.a", "-lgomp"]
    program = [COMPILER, f"@{csrc / 'flags'}", "-static", "-iquote", csrc, *sources, "-o", driver]
    for command in (library, program):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    return driver


class Operators:
    """``layer_forward`` and ``layer_backward`` of fastrnn.ops in float32 and float64, each call a run of the driver."""

    def __init__(self, driver: Path):
        self._driver = driver

    def layer_forward(self, *args: Any, **options: Any) -> tuple[Tensor, list[Tensor], Tensor]:
        call = ForwardCall(*args, **options)
        assert not (call.segments or call.every_state or call.noise or call.layer_norm)
        layer, x = _Layer(call), call.x
        h_0, c_0 = layer.states(call.state)
        y = layer.by_step(x).new_empty(*layer.by_step(x).shape[:-1], layer.D * layer.P)
        saved = x.new_empty(layer.D, layer.N if call.save else 0, len(CELLS[call.cell].saved) * layer.H)
        inputs, results = [*layer.slots(call.weights), x, h_0], [y, torch.empty_like(h_0), c_0, saved]
        y, *final, saved = self._run(layer, False, inputs, results)
        return layer.by_step(y), final[: len(CELLS[call.cell].states)], saved

    def layer_backward(self, *args: Any, **options: Any) -> list[Tensor]:
        call = BackwardCall(*args, **options)
        assert all(call.needed) and not (call.forward.noise or call.layer_norm)
        layer, x, state = _Layer(call.forward), call.x, call.forward.state
        y, dy = layer.by_step(call.y), layer.by_step(call.dy)
        dh_T, dc_T = layer.states(call.dstate)
        inputs = [*layer.slots(call.weights), x, *layer.states(state), y, call.saved, dy, dh_T]
        empty = [torch.empty(t.shape, dtype=t.dtype) for t in (layer.by_step(x), dh_T, *call.weights)]
        results = [*empty[:2], dc_T, *layer.slots(empty[2:])]
        dx, dh_0, dc_0, *dweights = self._run(layer, True, inputs, results)
        return [layer.by_step(dx), *[dh_0, dc_0][: len(state)], *(w for w in dweights if w.numel())]

    def _run(self, layer: "_Layer", backward: bool, inputs: list[Tensor], results: list[Tensor]) -> list[Tensor]:
        """What the driver makes of ``results``."""
        dtype, sizes = results[0].dtype, (layer.T, layer.B, layer.I, layer.H, layer.P, layer.D, layer.N)
        header = [backward, dtype.itemsize, _C.cells().index(layer.cell), torch.get_num_threads(), layer.form, *sizes]
        parts = [np.array([*header, *layer.batch_sizes], np.int64).tobytes()]
        for t in (*inputs, *results):
            parts += [np.int64(t.numel()).tobytes(), t.contiguous().numpy().tobytes()]
        done = subprocess.run([EMULATOR, self._driver], input=b"".join(parts), capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        values = torch.frombuffer(bytearray(done.stdout), dtype=dtype).split([t.numel() for t in results])
        return [v.view(t.shape) for v, t in zip(values, results, strict=True)]


class _Layer:
    """Sizes, and the form of a batch as csrc/runtime/layer.h has it."""

    def __init__(self, call: ForwardCall):
        x, weights, batch_sizes = call.x, call.weights, call.batch_sizes
        self.cell, self.D, self.has_bias, batch_first = call.options
        self.I, self.P, self.H = x.shape[-1], weights[1].shape[1], len(weights[1]) // len(CELLS[self.cell].gates)
        if batch_sizes is None:
            self.form = 1 if batch_first else 0
            self.T, self.B = x.shape[1::-1] if batch_first else x.shape[:2]
            self.N, self.batch_sizes = self.T * self.B, []
        else:
            self.form = 2
            self.T, self.B, self.N = len(batch_sizes), int(batch_sizes[0]), len(x)
            self.batch_sizes = batch_sizes.tolist()
        self._absent = x.new_empty(0)
        self._zeros = [x.new_zeros(self.D, self.B, width) for width in (self.P, self.H)]

    def by_step(self, t: Tensor) -> Tensor:
        """A sequence tensor as it lies in memory, from the shape of the interface, and the other way."""
        return t.transpose(0, 1) if self.form == 1 else t

    def states(self, state: Sequence[Tensor]) -> list[Tensor]:
        """h and c, or what stands for them: zeros."""
        return [*state, *self._zeros[len(state) :]]

    def slots(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """For each direction w_ih, w_hh, b_ih, b_hh and w_hr, absent ones empty."""
        out, count = [], len(weights) // self.D
        for d in range(self.D):
            matrices, others = weights[d * count : d * count + 2], list(weights[d * count + 2 : (d + 1) * count])
            biases = [others.pop(0), others.pop(0)] if self.has_bias else [self._absent] * 2
            out += [*matrices, *biases, *(others or [self._absent])]
        return out
