"""The command line's ``train``, ``predict`` and ``generate``."""

import argparse
import io
import math
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch

from . import checkpoint, devices, workers
from .arguments import INTERRUPTED, add_machine, at_least_0, positive, reporting, seed, share
from .files import Refused, check_text, input_lines, number_lines, read_input
from .stepper import Run
from .task import Options, Task

HELP = {
    "rnn": "kind of layer",
    "backend": "whose layers",
    "layers": "layers on top of each other",
    "hidden": "units of a layer",
    "embedding": "numbers for each symbol",
    "bidirectional": "read backwards too",
    "attention": "how the decoder finds its place in the source",
    "dropout": "share of values left out in training",
    "weight_dropout": "share of recurrent weights left out in training, of fastrnn's layers",
    "recurrent_dropout": "share of a state left out in training, the same at all steps, of fastrnn's layers",
    "zoneout": "share of a state that stays as it was at each step, of fastrnn's layers",
    "layer_norm": "normalise products and cell states, of fastrnn's layers",
    "word_dropout": "share of words left out in training",
    "epochs": "passes over the data, at most; 0 chooses by their size",
    "batch": "sequences in a batch",
    "optimizer": "rule of learning",
    "rate": "highest learning rate",
    "weight_decay": "share of each weight that is added to its gradient",
    "clip": "largest norm of the gradient",
    "patience": "epochs without a better result, after which training stops; 0 stands for half of all",
    "seed": "of weights, batches and dropout",
    "longest": "symbols after which a sequence is cut; 0 leaves all whole and refuses very long ones",
    "precision": "what layers and products compute in; bfloat16 is PyTorch's autocast",
    "level": "what a symbol is",
    "tied": "score characters with the matrix that embeds them",
    "target": "column to forecast; the last one unless named",
    "columns": "what the model sees",
    "window": "rows that the model sees; 0 chooses by the length of the file",
    "horizon": "rows to forecast; 0 chooses likewise",
    "sort": "bring rows in the order of their dates, or take them as they stand; default: refuse others",
    "fill": "interpolate rows that are missing, or take those around as neighbours; default: refuse gaps",
    "column": "column of the tags, from 1; 0 stands for UPOS in CoNLL-U, else the last",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "train a model on your own file, or on a small one that is here"
    tasks = commands.add_parser("train", help=text, description=f"{text[0].upper()}{text[1:]}.").add_subparsers(
        title="tasks", dest="task", required=True, metavar="TASK"
    )
    for name, kind in checkpoint.TASKS.items():
        _add_task(tasks, name, kind)

    command = commands.add_parser("predict", help="what a trained model says of texts, or how good it is on a file")
    command.set_defaults(run=predict)
    command.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    command.add_argument("text", nargs="*", metavar="TEXT", help="default: lines from the standard input")
    command.add_argument("--data", type=Path, metavar="FILE", help="a file as for training, for the figures of it")
    _add_inference(command)

    command = commands.add_parser("generate", help="text that follows a prefix")
    command.set_defaults(run=generate)
    command.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    command.add_argument("prefix", nargs="?", default="", metavar="PREFIX")
    command.add_argument("--length", type=positive(int), default=200, help="characters, at most; default: %(default)s")
    text = "1 draws as learned, less prefers the likely, 0 takes the likeliest; default: %(default)s"
    command.add_argument("--temperature", type=at_least_0(float), default=0.7, help=text)
    text = "draw among so many likeliest; default: all"
    command.add_argument("--top-k", type=positive(int), default=0, metavar="K", help=text)
    command.add_argument("--seed", type=seed, help="for the same text again")
    _add_inference(command)


def _add_inference(command: argparse.ArgumentParser) -> None:
    add_machine(command)
    precisions = get_args(get_type_hints(Options)["precision"])
    command.add_argument("--precision", choices=precisions, help="default: as it was trained")


def _add_task(tasks: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, kind: type[Task]) -> None:
    about = sys.modules[kind.__module__].__doc__ or ""
    formatter = argparse.RawDescriptionHelpFormatter
    # What is not given stays away from the result: a training that goes on may have no new options.
    task = tasks.add_parser(
        name,
        help=about.split("\n")[0].rstrip("."),
        description=about,
        argument_default=argparse.SUPPRESS,
        formatter_class=formatter,
    )
    task.set_defaults(run=train)
    task.add_argument("--data", type=Path, metavar="FILE", help="what to learn; default: what is here")
    task.add_argument("--valid", type=Path, metavar="FILE", help="what to judge by; default: a part of the data")
    task.add_argument("--minutes", type=positive(float), metavar="M", help="stop after that time and keep the best")
    task.add_argument("--output", type=Path, metavar="DIR", help=f"new folder; default: runs/{name}")
    task.add_argument("--resume", type=Path, metavar="DIR", help="go on where the training in that folder stopped")
    add_machine(task)
    task.add_argument("--compile", action="store_true", default=False, help="by torch.compile, at the first batches")
    text = "spread the model over the processes that torchrun has started; otherwise each has a whole one"
    task.add_argument("--shard", action="store_true", default=False, help=text)
    hints = get_type_hints(kind.Settings)
    for option in fields(kind.Settings):
        _add_option(task, option, hints[option.name])


def _add_option(task: argparse.ArgumentParser, option: Field, hint: Any) -> None:
    name, default = option.name, option.default
    how: dict[str, Any]
    if option.metadata:
        how = dict(option.metadata)
    elif get_origin(hint) is Literal:
        how = {"choices": get_args(hint)}
    elif hint is bool:
        how = {"action": argparse.BooleanOptionalAction}
    elif hint is str:
        how = {"type": str}
    elif name == "seed":
        how = {"type": seed}
    elif "dropout" in name:
        how = {"type": share}
    elif default == 0 or name in ("weight_decay", "longest"):
        how = {"type": at_least_0(hint)}
    else:
        how = {"type": positive(hint)}
    shown = "" if default in ("", None) else f"; default: {default}"
    task.add_argument(f"--{name.replace('_', '-')}", help=HELP[name] + shown, **how)


@reporting("python -m fastrnn train")
def train(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    with workers.joined("python -m fastrnn train") as group:
        device = group.together(lambda: devices.find(args.device, workers.place()))
        if args.shard and not group.several:
            raise Refused("--shard: expected several processes, as torchrun starts them, got one")
        _train(args, Run(device, group, args.compile, args.shard))


class _Begun(NamedTuple):
    """A training, new or one that goes on."""

    task: Task
    folder: Path
    paths: dict[str, Path | None]
    state: dict[str, Any] | None


class _Data(NamedTuple):
    training: Any
    held_out: Any
    test: Any
    digest: str


def _train(args: argparse.Namespace, run: Run) -> None:
    from .trainer import Trainer  # needs tqdm, which predicting does without

    begun = time.monotonic()
    group = run.workers
    task, folder, paths, state = group.of_first(lambda: _begin(args))
    with nullcontext() if group.first else redirect_stderr(io.StringIO()):  # what the files made the readers say
        # One process of each machine reads first, and the others find what it has kept.
        leads, read = not workers.place(), partial(_read, task, paths, fit=state is None)
        early = group.together(lambda: read() if leads else None)
        late = group.together(lambda: None if leads else read())
    data = early or late
    assert data
    if len(set(group.gather(data.digest))) > 1:
        raise Refused("expected the same data for all processes, got different files")
    if state is not None and state["digest"] != data.digest:
        raise Refused("the data have changed since the training began")
    facts = {name: str(path.resolve()) if path else "" for name, path in paths.items()} | {"digest": data.digest}
    trainer = Trainer(task, data.training, data.held_out, folder, facts, state, run)
    if trainer.finished:
        raise Refused(f"the training in {folder} is finished, after {trainer.progress.epoch} epochs")

    if group.first:
        folder.mkdir(parents=True, exist_ok=True)
    say = print if group.first else _say_nothing
    numbers = [len(task.batches(examples).examples) for examples in (data.training, data.held_out)]
    parameters = sum(parameter.numel() for parameter in trainer.stepper.model.parameters())
    say(f"{numbers[0]} examples to learn from, {numbers[1]} held out; {parameters} parameters; folder {folder}")
    reason = trainer.run(getattr(args, "minutes", math.inf), begun)
    if reason:
        start = "torchrun ..." if group.several else "python"
        again = f"{start} -m fastrnn train {args.task} --resume {shlex.quote(str(folder))}"
        where = f"epoch {trainer.progress.epoch + 1}, after {trainer.progress.position} batches of it"
        say(f"Stopped in {where}: {reason}. Saved in {folder}. To go on: {again}")
    if reason == "interrupted":
        sys.exit(INTERRUPTED)
    what = "TEXT" if task.predicts_lines else "< FILE"
    say(f"Saved in {folder}. To use it: python -m fastrnn predict {shlex.quote(str(folder))} {what}")
    if not group.first:
        return
    device = devices.CPU if run.shard else run.device  # which may be too small for the whole
    _, best = checkpoint.load_best(folder, device)
    with torch.no_grad(), devices.running(device, task.options.precision), trainer.memory_for("what is held out"):
        figures = task.report(best, data.test)
    which = f"best, of epoch {trainer.progress.best_epoch}" if trainer.best else "so far, no epoch has ended"
    print(f"{which}: {_format(figures)}")


def _begin(args: argparse.Namespace) -> _Begun:
    """What the first process finds: on other machines there is no checkpoint."""
    given = {name: value for name, value in vars(args).items() if name not in _NO_OPTIONS}
    paths = {name: getattr(args, name, None) for name in ("data", "valid")}
    if not hasattr(args, "resume"):
        folder = _new_folder(args)
        kind = checkpoint.TASKS[args.task]
        task = kind(kind.Settings(**given), {})
        return _Begun(task, folder, paths, None)
    folder = args.resume
    if hasattr(args, "output"):
        raise Refused("--output: expected nothing beside --resume, which goes on in its own folder")
    task, state = checkpoint.load(folder)
    _check_same(args.task, given, state)
    paths = {name: path or (Path(state[name]) if state[name] else None) for name, path in paths.items()}
    return _Begun(task, folder, paths, state)


def _read(task: Task, paths: dict[str, Path | None], fit: bool) -> _Data:
    """The data of a task, which learns its vocabularies from them if asked to."""
    training = task.read(paths["data"])
    digest = training.digest if paths["data"] else ""
    if paths["valid"] is None:
        training, held_out, test = task.split(training)
    if fit:
        task.learn(training)
    if paths["valid"] is not None:
        held_out = test = task.read(paths["valid"])
        digest += held_out.digest
    return _Data(training, held_out, test, digest)


def _say_nothing(_: str) -> None:
    pass


_NO_OPTIONS = ("task", "run", "data", "valid", "minutes", "output", "resume", "device", "threads", "compile", "shard")


def _check_same(task: str, given: dict[str, Any], state: dict[str, Any]) -> None:
    if task != state["task"]:
        raise Refused(f"--resume: expected a training of {task}, got one of {state['task']}")
    for name, value in given.items():
        if value != state["options"][name]:
            expected = f"--{name.replace('_', '-')} {state['options'][name]}"
            raise Refused(f"--resume goes on as the training began: expected {expected}, got {value}")


def _new_folder(args: argparse.Namespace) -> Path:
    if hasattr(args, "output"):
        if (args.output / checkpoint.NAME).exists():
            raise Refused(f"--output: expected a new folder, got {args.output}, which --resume would continue")
        return args.output
    folders = (Path("runs", f"{args.task}{suffix}") for suffix in ["", *(f"-{n}" for n in range(2, 10_000))])
    return next(folder for folder in folders if not folder.exists())


@reporting("python -m fastrnn predict")
@torch.no_grad()
def predict(args: argparse.Namespace) -> None:
    with _loaded(args) as (task, model):
        _predict(args, task, model)


def _predict(args: argparse.Namespace, task: Task, model: torch.nn.Module) -> None:
    if args.data:
        print(_format(task.report(model, task.read(args.data))))
        return
    if task.predicts_lines:
        kind, lines = ("text", iter(args.text)) if args.text else ("line", input_lines())
        sys.exit(not _answer(task, model, kind, lines))
    text = "\n".join(args.text) if args.text else read_input()
    check_text(text)
    if not text.strip():
        raise Refused("expected text, got nothing")
    print(task.predict(model, text))


def _answer(task: Task, model: torch.nn.Module, kind: str, texts: Iterator[str]) -> bool:
    """Prints a line for each text, which is empty where there is no answer. Whether all have one."""
    number = failed = 0
    for number, text in enumerate(texts, 1):
        try:
            check_text(text)
            if not text.strip():
                raise Refused("expected text, got nothing")
            print(task.predict(model, " ".join(line for _, line in number_lines(text.strip()))))
        except Refused as error:
            print(f"python -m fastrnn predict: {kind} {number}: {error}", file=sys.stderr)
            print()
            failed += 1
    if not number:
        raise Refused("expected text, got nothing")
    return not failed


@reporting("python -m fastrnn generate")
def generate(args: argparse.Namespace) -> None:
    check_text(args.prefix)
    with _loaded(args) as (task, model):
        print(args.prefix, end="", flush=True)
        sampling = {"temperature": args.temperature, "top_k": args.top_k, "seed": args.seed}
        for text in task.generate(model, args.prefix, args.length, **sampling):
            print(text, end="", flush=True)
        print()


@contextmanager
def _loaded(args: argparse.Namespace) -> Iterator[tuple[Task, torch.nn.Module]]:
    """What a training has left, on the device and in the precision that are asked for."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = devices.find(args.device)
    task, model = checkpoint.load_best(args.folder, device)
    with devices.running(device, args.precision or task.options.precision):
        yield task, model


def _format(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
