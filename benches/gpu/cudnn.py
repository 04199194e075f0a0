"""Which algorithm PyTorch asks cuDNN for.

The rules of ``get_algo``, ``use_persist_common_heuristics``, ``use_persist_device_heuristics`` and
``use_rnn_persist_small_h`` in
https://github.com/pytorch/pytorch/blob/00fc08aa616fbdec70496aebee034ac90b083ff4/aten/src/ATen/native/cudnn/RNN.cpp
for compute capability 8 and newer. Since https://github.com/pytorch/pytorch/pull/164411 cuDNN 9.13 and newer takes
bfloat16; before, torch.nn runs such layers step by step without cuDNN.
"""

import torch

from benches.cases import Case

__all__ = ["algorithm"]

STANDARD, PERSISTENT, SMALL_H = "standard", "persistent static", "persistent static, small H"
_SMALL_H = {"lstm": (192, 128), "gru": (192, 128), "rnn_tanh": (384, 256), "rnn_relu": (384, 256)}  # forward, backward
# The persistent algorithm by the device's rules: the batch from which hidden sizes must be below 896; none for 0.
_PERSISTENT_BELOW = {"lstm": 129, "gru": 0, "rnn_tanh": 96, "rnn_relu": 96}


def algorithm(case: Case, backward: bool, capability: tuple[int, int], multiprocessors: int) -> str:
    """For forward or backward of a case that cuDNN takes."""
    dtype = getattr(torch, case.dtype)
    if case.proj_size or case.ragged:
        return STANDARD
    if dtype != torch.float64 and case.hidden_size <= _SMALL_H[case.cell][backward]:
        return SMALL_H
    if dtype == torch.float16 and _sizes_fit(case) and _device_fits(case, capability, multiprocessors):
        return PERSISTENT
    return STANDARD


def _sizes_fit(case: Case) -> bool:
    sizes = case.hidden_size % 128 == 0 and case.input_size % 128 == 0 and case.hidden_size <= 1024
    return sizes and case.layers == 1 and not case.bidirectional


def _device_fits(case: Case, capability: tuple[int, int], multiprocessors: int) -> bool:
    major, minor = capability
    if major < 8 or minor == 6 or multiprocessors < 98 or not _PERSISTENT_BELOW[case.cell]:
        return False
    if case.batch % 8 or case.batch > 128:
        return False
    return case.batch < _PERSISTENT_BELOW[case.cell] or case.hidden_size < 896
