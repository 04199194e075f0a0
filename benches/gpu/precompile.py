"""Compiles kernels on all processors before the device needs them, into Triton's cache.

One kernel takes 1 to 5 s, a full run needs some 500, and what is compiled during a check keeps the device waiting.
"""

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for

from fastrnn.backends.triton.build import build
from fastrnn.backends.triton.kernel import Kernel
from fastrnn.backends.triton.plans import Device

__all__ = ["Precompiler"]


class Precompiler:
    """Use as a context: what is still to be compiled at its end is given up."""

    def __init__(self, device: Device, processes: int | None = None) -> None:
        self._device = device
        self._jobs: dict[Kernel, Future[str | None]] = {}
        # One processor is left to the process that drives the device, one to this one.
        processes = processes or max(1, len(os.sched_getaffinity(0)) - 2)
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))

    def __enter__(self) -> "Precompiler":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, kernels: Iterable[Kernel]) -> None:
        for kernel in kernels:
            if kernel not in self._jobs:
                self._jobs[kernel] = self._pool.submit(_compile, kernel, self._device)

    def wait(self, kernels: Iterable[Kernel], seconds: float) -> bool:
        """Until these are compiled; false if time ran out. What fails here fails again where it is used."""
        return not wait_for([self._jobs[kernel] for kernel in kernels], max(0.0, seconds)).not_done

    def stop(self) -> None:
        """Starts nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def errors(self) -> dict[str, str]:
        done = {kernel: job for kernel, job in self._jobs.items() if job.done() and not job.cancelled()}
        found = {str(kernel): str(job.exception() or job.result() or "") for kernel, job in done.items()}
        return {name: error for name, error in found.items() if error}


def _compile(kernel: Kernel, device: Device) -> str | None:
    try:
        build(kernel, device)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None
