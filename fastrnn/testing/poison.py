"""Memory full of NaN, so that a result that nobody has written, or that was read too early, is seen."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from fastrnn.spec import CELLS
from fastrnn.testing.problem import Case, Problem, by_operators, make_problem

__all__ = ["poisoned"]


@contextmanager
def poisoned(workspace_of: torch.dtype | None = None) -> Iterator[None]:
    """Tensors that nobody has written hold NaN; with a dtype, so does what the kernels of the CPU keep between calls.

    That memory is a thread's own: the number of threads set when this is entered is that of the calls inside.
    """
    if workspace_of is not None:
        _spoil_workspace(workspace_of)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # PyTorch fills only while it is asked for determinism, which some of its own operations for GPUs do not offer.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _spoil_workspace(dtype: torch.dtype) -> None:
    """A layer made of NaN, larger than most cases, leaves NaN wherever it computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # In 16 bits part of a layer is computed in float32, or all of it.
    for each in [torch.float64] if dtype == torch.float64 else [torch.float32, dtype]:
        by_operators(_nan_problem(each))
    torch.set_num_threads(threads)


@lru_cache
def _nan_problem(dtype: torch.dtype) -> Problem:
    largest = max(CELLS, key=lambda cell: len(CELLS[cell].gates))
    p = make_problem(largest, Case(2, 32, 128, 128), dtype)
    for tensor in (p.x, *p.state, *p.weights, p.dy, *p.dstate):
        tensor.fill_(torch.nan)
    return p
