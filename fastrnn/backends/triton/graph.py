"""Work captured once in a CUDA graph and started many times, at a few microseconds for all of it."""

from collections.abc import Callable
from functools import cache

import torch

__all__ = ["can_capture", "capture"]


def can_capture(device: torch.device) -> bool:
    """Whether work on ``device`` can be captured: not where the caller is capturing it already."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def capture(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """``work`` as a graph, not started yet; what it launches must have been compiled and launched once before.

    Not through ``torch.cuda.graph``, which synchronises, collects garbage and empties the allocator's cache first.
    """
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        here, aside = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            # Other threads may allocate meanwhile; in the default mode that would break the capture.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        here.wait_stream(aside)
    return graph.replay


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    # One for all captures: cuBLAS keeps a workspace of 32 MiB for every stream that it has seen.
    return torch.cuda.Stream(device)
