"""Work captured once in a CUDA graph and started many times, at a few microseconds for all of it."""

import threading
from collections.abc import Callable

import torch

__all__ = ["can_capture", "capture"]

_of_thread = threading.local()


def can_capture(device: torch.device) -> bool:
    """Whether work on ``device`` can be captured: not where the caller is capturing it already."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return not torch.cuda.is_current_stream_capturing()


def capture(warm_up: Callable[[], None], work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Runs ``warm_up``, which launches the same as ``work``, and captures ``work`` as a graph, not started yet.

    Kernels are loaded and workspaces allocated at the first launch on a stream, which must not be a captured one.

    Not through ``torch.cuda.graph``, which synchronises, collects garbage and empties the allocator's cache first.
    """
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        here, aside = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            warm_up()
            # Other threads may allocate meanwhile; in the default mode that would break the capture.
            graph.capture_begin(capture_error_mode="thread_local")
            work()
            graph.capture_end()
        here.wait_stream(aside)
    return graph.replay


def _side_stream(device: int) -> torch.cuda.Stream:
    # One for all captures of a thread: cuBLAS keeps a workspace of 32 MiB for every stream that it has seen.
    streams = _of_thread.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]
