"""The command line in several processes at once, as torchrun starts them."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

# Processes are forked from one that has imported everything and run nothing.
CONTEXT = multiprocessing.get_context("forkserver")
_EXAMPLES = ["fastrnn.examples.trainer", "fastrnn.examples.sharding", "fastrnn.examples.picture"]
CONTEXT.set_forkserver_preload(
    ["fastrnn.__main__", *_EXAMPLES, "sacrebleu", "torch._dynamo"]
)  # optimizers take the last


class Ended(NamedTuple):
    code: int | None
    out: str
    errors: str


def start(number: int, arguments: Sequence[object], folder: Path, interrupt: int = 0) -> list[BaseProcess]:
    """Processes in ``folder``; the last one sends itself SIGINT in the step of that number."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(number):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_PORT": port}
        interrupted = interrupt if rank == number - 1 else 0
        process = CONTEXT.Process(
            target=_main, args=(environment, list(map(str, arguments)), folder, interrupted), daemon=True
        )
        process.start()
        started.append(process)
    return started


def end(processes: list[BaseProcess], folder: Path) -> list[Ended]:
    for process in processes:
        process.join(60)
    texts = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(len(processes))]
    return [Ended(process.exitcode, *text) for process, text in zip(processes, texts, strict=True)]


def run(number: int, *arguments: object, folder: Path, interrupt: int = 0) -> list[Ended]:
    return end(start(number, arguments, folder, interrupt), folder)


def _main(environment: dict[str, object], arguments: list[str], folder: Path, interrupt: int) -> None:
    import torch

    from fastrnn.__main__ import main
    from fastrnn.examples import picture, poems
    from fastrnn.examples.stepper import Stepper

    os.environ |= {"MASTER_ADDR": "localhost"} | {name: str(value) for name, value in environment.items()}
    os.chdir(folder)
    for descriptor, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(f"{environment['RANK']}.{name}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), descriptor)
    torch.set_num_threads(1)
    poems.SAMPLES = 1
    picture.draw = lambda *_: None  # type: ignore[assignment]
    step, steps = Stepper.step, iter(range(1, 10_000))

    def interrupted(*given):
        if next(steps) == interrupt:
            signal.raise_signal(signal.SIGINT)
        return step(*given)

    Stepper.step = interrupted  # type: ignore[method-assign]
    sys.argv = ["fastrnn", *arguments]
    main()
