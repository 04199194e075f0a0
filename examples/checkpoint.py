"""The file that a training leaves in its folder: to go on from, and to predict with."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastrnn

from .files import Refused
from .forecast import Forecast
from .poems import Poems
from .sentiment import Sentiment
from .tagging import Tagging
from .task import Options, Task
from .translate import Translate

NAME = "checkpoint.pt"
TASKS: dict[str, type[Task]] = {
    "sentiment": Sentiment,
    "tagging": Tagging,
    "poems": Poems,
    "forecast": Forecast,
    "translate": Translate,
}
OWN = ("weight_dropout", "recurrent_dropout", "zoneout", "layer_norm")  # options of fastrnn's layers alone
BACKENDS = {"torch": torch.nn, "fastrnn": fastrnn}


def layer_class(options: Options) -> Callable[..., nn.Module]:
    """What makes the layers. Raises Refused if the backend has no such ones."""
    name = options.rnn.upper()
    found = getattr(BACKENDS[options.backend], name, None)
    if found is None:
        raise Refused(f"--backend {options.backend}: expected a layer of torch.nn, which has no {name}")
    own = {name: value for name in OWN if (value := getattr(options, name))}
    if own and options.backend != "fastrnn":
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in own)
        raise Refused(f"{flags}: expected --backend fastrnn, got {options.backend}, whose layers have none")
    return partial(found, **own) if own else found


def save(folder: Path, task: Task, state: dict[str, Any]) -> None:
    """Writes the state of a training with all that is needed to build its task and its model again."""
    name = next(name for name, kind in TASKS.items() if type(task) is kind)
    symbols = {name: vocabulary.symbols for name, vocabulary in task.vocabularies.items()}
    with atomically(folder / NAME) as file:
        torch.save({"task": name, "options": asdict(task.options), "vocabularies": symbols, **state}, file)


def load(folder: Path) -> tuple[Task, dict[str, Any]]:
    """Raises Refused if there is no checkpoint in the folder."""
    try:
        with fitting(folder):
            state = torch.load(folder / NAME, weights_only=True, map_location="cpu")
            kind = TASKS[state["task"]]
            return kind(kind.Settings(**state["options"]), state["vocabularies"]), state
    except OSError as error:
        raise Refused(f"{folder} is not the folder of a training: {NAME} in it: {error.strerror}") from error


def load_best(folder: Path, device: torch.device) -> tuple[Task, nn.Module]:
    """The task and, on a device, its model: with the best epoch's weights, or the last ones if no epoch has ended."""
    task, state = load(folder)
    with fitting(folder):
        model = task.build(layer_class(task.options))
        model.load_state_dict(state["best"] or state["model"])
    return task, model.to(device).eval()


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Raises Refused where what the checkpoint holds has other names, shapes or types than what takes it."""
    try:
        yield
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise Refused(f"{folder / NAME} is not a checkpoint of this version of fastrnn") from error


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` once all is written: a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}")
    yield temporary
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
