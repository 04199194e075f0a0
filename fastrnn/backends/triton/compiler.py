"""Builds kernels in processes of their own, measures and writes them."""

import contextlib
import io
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import triton

from fastrnn.backends.triton.build import build
from fastrnn.backends.triton.kernel import Kernel
from fastrnn.backends.triton.plans import Device

__all__ = ["Job", "Outcome", "compile_all"]


@dataclass(frozen=True)
class Job:
    device: Device
    kernel: Kernel

    @property
    def folder(self) -> str:
        """Below the folder of all kernels."""
        return f"{self.device.architecture}/{self.kernel.key()}"


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        fault: why the kernel is not fit for use, in one line.
        registers: of a thread.
        spilled: bytes of a thread's registers that lie in memory.
        shared: bytes of shared memory.
        block_k: length of the pieces of a product's sum, shorter than planned where those would spill.
        files: written for loading: metadata and binary.
    """

    fault: str | None
    seconds: float = 0.0
    registers: int | None = None
    spilled: int | None = None
    shared: int | None = None
    block_k: int | None = None
    files: tuple[str, ...] = ()


def compile_all(jobs: Sequence[Job], processes: int, output: Path | None) -> Iterator[Outcome]:
    """The outcome of each job, in order. With ``output``, files are written to each job's folder below it."""
    idle: SimpleQueue[_Process] = SimpleQueue()
    workers = [_Process() for _ in range(min(processes, len(jobs)))]
    for worker in workers:
        idle.put(worker)

    def compile_one(job: Job) -> Outcome:
        worker = idle.get()
        try:
            return worker.compile(job, output)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(max(1, len(workers)))
    try:
        yield from threads.map(compile_one, jobs)
    finally:
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class _Process:
    """One process. LLVM ends it on some errors, and only the job at hand should be lost by that."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None

    def compile(self, job: Job, output: Path | None) -> Outcome:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _end_with_parent)
        try:
            return self._executor.submit(_compile, job, output).result()
        except BrokenProcessPool:
            self.close()
            return Outcome("does not compile: the compiler ended its process")

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
        self._executor = None


def _end_with_parent() -> None:
    """Without this a process would wait for work for ever, its parent killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _compile(job: Job, output: Path | None) -> Outcome:
    # A cache of its own: nothing is found in it, so the time is that of a compilation, and the user's stays as it is.
    # Where ptxas fails, Triton prints the whole program.
    with TemporaryDirectory(prefix="fastrnn-") as cache, contextlib.redirect_stdout(io.StringIO()):
        triton.knobs.cache.dir = cache
        triton.knobs.compilation.store_binary_only = False  # the assembly is read
        started = time.perf_counter()
        try:
            compiled, kernel, (registers, spilled, shared) = build(job.kernel, job.device)
            seconds = time.perf_counter() - started
            files = _write(job, compiled, output / job.folder) if output else ()
        except Exception as error:
            return Outcome(f"does not compile: {_one_line(error)}", time.perf_counter() - started)
    block_k = dict(kernel.constants).get("BLOCK_K")
    return Outcome(_fault(job.device, spilled, shared), seconds, registers, spilled, shared, block_k, files)


def _one_line(error: Exception) -> str:
    """Triton's errors have the source, often all of it, between their beginning and what is wrong."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 400 else f"{text[:150]} [...] {text[-240:]}"


def _fault(device: Device, spilled: int, shared: int) -> str | None:
    faults = []
    if spilled:
        faults.append(f"spills {spilled:,} bytes of registers a thread")
    if shared > device.shared_memory:
        faults.append(f"takes {shared:,} bytes of shared memory, {device.name} has {device.shared_memory:,}")
    return " and ".join(faults) or None


def _write(job: Job, compiled: Any, folder: Path) -> tuple[str, ...]:
    """Triton's metadata and the binary, which are named in the result, and the assembly."""
    binary, assembly = ("hsaco", "amdgcn") if job.device.amd else ("cubin", "ptx")
    metadata = next(path for name, path in compiled.metadata_group.items() if name.endswith(".json"))
    folder.mkdir(parents=True, exist_ok=True)
    name = job.kernel.name
    (folder / f"{name}.json").write_bytes(Path(metadata).read_bytes())
    (folder / f"{name}.{binary}").write_bytes(compiled.asm[binary])
    (folder / f"{name}.{assembly}").write_text(compiled.asm[assembly])
    return f"{name}.json", f"{name}.{binary}"
