"""RNN, GRU, LSTM and a Transformer encoder of equal width, trained side by side on the same tasks.

All take the same batches in turn, at each task's usual learning rate. Shown are the parameters, the time of an epoch,
the memory that a batch keeps between forward and backward, and the result of the best epoch. The task recall, to name
the first symbol of up to 50, shows what each remembers over how many steps: the share of sequences that it answers, and
how much of the answer's gradient arrives at the first symbol compared with the last, before training and after. A
second picture has the gradient flow through the recurrent layers, step by step (``fastrnn.diagnose``).

    python -m fastrnn.examples.compare [--tasks TASK ...] [--data TASK=FILE ...] [--epochs N] [--output PNG]
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure, SubFigure

from .arguments import picture, positive, reporting, seed
from .checkpoint import BACKENDS, TASKS
from .files import Refused
from .race import Trained, train
from .recall import FLOW_LENGTH, LENGTHS, LONGEST, Recall, Recalled, flow, recalled
from .transformer import Transformer

# Without translate: a Transformer leaves no state from which a decoder could go on.
COMPARED = {name: kind for name, kind in TASKS.items() if name != "translate"} | {"recall": Recall}


def print_task(name: str, trained: Trained) -> None:
    metric = trained.task.metric
    print(f"\n{name:12}  {'parameters':>12}  {'s / epoch':>9}  {'kept / MB':>9}  {metric:>10}")
    for kind, figures in trained.figures.items():
        size, kept = f"{figures.parameters:12,}", f"{figures.kept / 1e6:9.1f}"
        print(f"{kind:12}  {size}  {figures.seconds:9.2f}  {kept}  {figures.quality:10.4g}", flush=True)


def print_recalled(found: dict[str, Recalled]) -> None:
    titles = {
        "accuracy": f"accuracy of recall by length; trained on lengths up to {LONGEST}",
        "ratio_before": "gradient at the first symbol / at the last, before training",
        "ratio_after": "gradient at the first symbol / at the last, after training",
    }
    for field, title in titles.items():
        print(f"\n{title}\n{'':12}" + "".join(f"{length:>9}" for length in LENGTHS))
        for kind, values in found.items():
            print(f"{kind:12}" + "".join(f"{value:9.2g}" for value in getattr(values, field)))


def save_picture(results: dict[str, Trained], found: dict[str, Recalled], path: Path) -> None:
    figure = Figure(figsize=(12, 10 if found else 7), layout="constrained")
    parts = figure.subfigures(3 if found else 2, 1, squeeze=False)[:, 0]
    _draw_costs(parts[0], results)
    for axes, (name, trained) in zip(
        parts[1].subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
    ):
        for kind, figures in trained.figures.items():
            axes.bar(kind.replace("former", "-\nformer"), figures.quality)
        axes.set(title=f"{name}: {trained.task.metric} {'↑' if trained.task.is_better(1, 0) else '↓'}")
    if found:
        _draw_recalled(parts[2], found)
    figure.savefig(path, dpi=120)


def _draw_costs(figure: SubFigure, results: dict[str, Trained]) -> None:
    titles = {"parameters": "parameters", "seconds": "seconds of an epoch", "kept": "bytes kept for backward"}
    kinds = list(next(iter(results.values())).figures)
    for axes, (field, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for i, kind in enumerate(kinds):
            places = [place + (i - (len(kinds) - 1) / 2) / (len(kinds) + 1) for place in range(len(results))]
            values = [getattr(trained.figures[kind], field) for trained in results.values()]
            axes.bar(places, values, 1 / (len(kinds) + 1), label=kind)
        axes.set(title=title, yscale="log")
        axes.set_xticks(range(len(results)), results, fontsize="small")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(kinds))


def _draw_recalled(figure: SubFigure, found: dict[str, Recalled]) -> None:
    titles = {
        "accuracy": "recall: accuracy",
        "ratio_before": "gradient at first / last symbol, untrained",
        "ratio_after": "the same, trained",
    }
    for axes, (field, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for values in found.values():
            axes.plot(LENGTHS, getattr(values, field), marker=".")
        axes.set(title=title, xlabel="length", xscale="log", ylim=(0, 1.05))
        if field != "accuracy":
            axes.set(yscale="log", ylim=(1e-20, 10))
        axes.grid(alpha=0.3)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=COMPARED, default=list(COMPARED), metavar="TASK")
    text = "what a task learns, in place of the data that are here; may be given for each task"
    parser.add_argument(
        "--data", type=_task_and_file, nargs="+", action="extend", default=[], metavar="TASK=FILE", help=text
    )
    parser.add_argument("--hidden", type=positive(int), default=128, help="width of all (default %(default)s)")
    parser.add_argument("--layers", type=positive(int), default=1, help="of all (default %(default)s)")
    parser.add_argument("--epochs", type=positive(int), default=0, help="default: as many as train takes at most")
    parser.add_argument("--backend", choices=BACKENDS, default="fastrnn", help="whose recurrent layers")
    parser.add_argument("--seed", type=seed, default=0, help="of weights and dropout (default %(default)s)")
    parser.add_argument(
        "--output", type=picture, default=Path("examples/out/compare.png"), help="where the picture goes"
    )
    return parser.parse_args()


def _task_and_file(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    tasks = [task for task in COMPARED if task in TASKS]
    if name not in tasks or not path:
        raise argparse.ArgumentTypeError(f"expected TASK=FILE, TASK one of {', '.join(tasks)}, got {text!r}")
    return name, Path(path)


@reporting("python -m fastrnn.examples.compare")
def main() -> None:
    args = parse_arguments()
    files = dict(args.data)
    if unused := files.keys() - set(args.tasks):
        raise Refused(f"--data: expected files for {', '.join(args.tasks)}, got one for {', '.join(unused)}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    layers = {name: getattr(BACKENDS[args.backend], name) for name in ("RNN", "GRU", "LSTM")}
    layers["Transformer"] = Transformer
    results = {}
    for name in args.tasks:
        kind = COMPARED[name]
        task = kind(kind.Settings(hidden=args.hidden, layers=args.layers, seed=args.seed))
        results[name] = train(name, task, layers, files.get(name), args.epochs)
        print_task(name, results[name])
    found = recalled(results["recall"], layers) if "recall" in results else {}
    if found:
        print_recalled(found)
        gradients = flow(results["recall"])
        path = args.output.with_stem(f"{args.output.stem}-gradients")
        gradients.draw(path)
        print(f"\nThrough {FLOW_LENGTH} steps, drawn in {path}, {gradients}")
    save_picture(results, found, args.output)
    print(f"\nPicture: {args.output}")


if __name__ == "__main__":
    main()
