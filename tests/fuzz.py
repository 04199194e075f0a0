"""Random layers against the reference: ``python -m tests.fuzz [--minutes N] [--layers N] [--seed S]``.

A layer is a module, its options and a call, all drawn from one number, its seed. Outputs, final states and gradients
are held to the accuracy rule, with the reference in float64 as the truth and the reference in the same dtype as the
peer. What fails is told in a line that repeats it, then made smaller for as long as it still fails.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import multiprocessing
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import fastrnn
from fastrnn import _C
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, LayerSpec
from fastrnn.testing import CELL_MODULES, LAYERS, compare, on_reference, poisoned

DTYPES = ("float32", "float64", "bfloat16", "float16")
FORMATS = ("bfloat16", "int8")
_FLOOR_ULPS = 8
# float64 has no oracle more exact than itself: 1e-12 of the largest value, as in test_kernels.py.
_FLOOR_ULPS_FLOAT64 = 4500
_PEERS = 16  # more of them, for what breaks the rule with the first
_TOLD = 2  # the exit status of the process that has told of a failure itself
_PATIENCE = 120.0  # seconds for one layer
# Steps of the reference and multiplications, which bound the time of a layer.
_MOST_STEPS, _MOST_WORK = 60, 4e6
_ODD = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 130, 200, 255, 256, 257, 300)


@dataclass(frozen=True)
class Layer:
    """A module and one call of it. The defaults are the plainest.

    Attributes:
        single: a cell, for one step.
        form: ``batched``, ``unbatched``, or ``packed`` with ``lengths``, sorted or not.
        x_layout, hx_layout: how the tensor lies in memory; an absent ``hx`` is zeros.
        mode: ``train``, ``eval``, ``no_grad`` or ``inference_mode``.
        frozen: the format of frozen weights, or empty.
        no_gradient: of ``x``, ``hx[i]`` and the parameters by name, what does not require grad.
        no_loss: places among output and final states of what does not enter the loss.
    """

    seed: int
    cell: str
    isa: str
    dtype: str = "float32"
    single: bool = False
    T: int = 1
    B: int = 1
    I: int = 1  # noqa: E741
    H: int = 1
    P: int = 0
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    form: str = "batched"
    lengths: tuple[int, ...] = ()
    x_layout: str = "contiguous"
    hx_layout: str = "absent"
    mode: str = "train"
    frozen: str = ""
    no_gradient: tuple[str, ...] = ()
    no_loss: tuple[int, ...] = ()
    threads: int = 1

    def __str__(self) -> str:
        plain = {field.name: field.default for field in fields(self)}
        given = {name: value for name, value in asdict(self).items() if value != plain[name]}
        kind = (CELL_MODULES if self.single else LAYERS)[self.cell]
        sizes = [f"{self.I}", f"{self.H}", *(f"{name}={value!r}" for name, value in kind.arguments.items())]
        options = {"num_layers", "bidirectional", "bias", "batch_first"} & given.keys()
        sizes += [f"{name}={given[name]}" for name in plain if name in options]
        sizes += [f"proj_size={self.P}"] * bool(self.P)
        steps = [] if self.single else [f"T={self.T}"]
        rows = [] if self.form == "unbatched" else [f"B={self.B}"]
        call = ", ".join([*steps, *rows, self.form, *[f"lengths {self.lengths}"] * bool(self.lengths)])
        parts = [
            f"{kind.class_name}({', '.join(sizes)}) in {self.dtype}" + f", frozen to {self.frozen}" * bool(self.frozen),
            f"{self.isa}, {self.threads} threads, {self.mode}",
            f"{call}; x {self.x_layout}, hx {self.hx_layout}",
        ]
        parts += [f"no gradient of {', '.join(self.no_gradient)}"] * bool(self.no_gradient)
        parts += [f"not in the loss: outputs {', '.join(map(str, self.no_loss))}"] * bool(self.no_loss)
        return "; ".join(parts)

    @property
    def spec(self) -> LayerSpec:
        directions = 2 if self.bidirectional else 1
        return LayerSpec(self.cell, directions, self.bias, self.batch_first, self.P > 0)

    @property
    def inference(self) -> bool:
        return bool(self.frozen) or self.mode in ("no_grad", "inference_mode")


# Drawing


def draw(seed: int) -> Layer:
    at = random.Random(seed)

    def chance(probability: float) -> bool:
        return at.random() < probability

    def size() -> int:
        kind = at.random()
        return at.randint(1, 9) if kind < 0.5 else at.choice(_ODD) if kind < 0.85 else at.randint(1, 300)

    cell = at.choice(list(CELLS))
    single = chance(0.15)
    frozen = at.choice(FORMATS) if chance(0.15) else ""
    form = at.choices(("batched", "unbatched", "packed"), (5, 1, 3))[0]
    form = "batched" if single and form == "packed" else form
    batch = 0 if chance(0.04) else at.randint(1, 5) if chance(0.6) else at.randint(1, 40)
    layer = Layer(
        seed,
        cell,
        at.choice(_C.runnable_isas()),
        "float32" if frozen else at.choices(DTYPES, (4, 3, 2, 1))[0],
        single,
        T=1 if single or chance(0.15) else at.randint(2, 9) if chance(0.8) else at.randint(2, 50),
        B=1 if form == "unbatched" else max(batch, int(form == "packed")),
        I=size(),
        H=size(),
        num_layers=1 if single or chance(0.6) else at.randint(2, 3),
        bidirectional=not single and chance(0.4),
        bias=chance(0.7),
        batch_first=not single and chance(0.4),
        form=form,
        x_layout=at.choices(("contiguous", "sliced", "transposed", "misaligned"), (5, 2, 2, 1))[0],
        hx_layout=at.choices(("absent", "contiguous", "sliced", "expanded"), (4, 3, 2, 1))[0],
        mode=at.choices(("train", "eval", "no_grad", "inference_mode"), (6, 1, 2, 2))[0],
        frozen=frozen,
        threads=at.randint(1, 5),
    )
    if CELLS[cell].projectable and not single and not frozen and layer.H > 1 and chance(0.4):
        layer = replace(layer, P=at.randint(1, layer.H - 1))
    while _too_much(layer):
        name = at.choice(["T", "B", "I", "H"])
        layer = replace(layer, **{name: max(getattr(layer, name) // 2, min(getattr(layer, name), 1))})
        layer = replace(layer, P=min(layer.P, layer.H - 1))
    if form == "packed":
        lengths = [at.randint(1, layer.T) for _ in range(layer.B)]
        lengths[at.randrange(layer.B)] = layer.T
        layer = replace(layer, lengths=tuple(sorted(lengths, reverse=True) if chance(0.5) else lengths))
    if not layer.inference and chance(0.5):
        names = _differentiable(layer)
        kept = at.randint(1, len(names)) if chance(0.9) else 0
        layer = replace(layer, no_gradient=tuple(sorted(at.sample(names, len(names) - kept))))
    outputs = len(CELLS[cell].states) + (not single)
    if not layer.inference and chance(0.4):
        layer = replace(layer, no_loss=tuple(sorted(at.sample(range(outputs), at.randint(0, outputs - 1)))))
    return layer


def _too_much(layer: Layer) -> bool:
    runs = layer.num_layers * layer.spec.directions
    products = len(CELLS[layer.cell].gates) * layer.H * (layer.I + 2 * layer.H)
    return layer.T * runs > _MOST_STEPS or layer.T * (layer.B + 1) * runs * products > _MOST_WORK


def _differentiable(layer: Layer) -> list[str]:
    states = len(CELLS[layer.cell].states) if layer.hx_layout != "absent" else 0
    if layer.single:
        parameters = list(layer.spec.weight_names)
    else:
        ends = ("", "_reverse")[: layer.spec.directions]
        parameters = [
            f"{name}_l{k}{end}" for k in range(layer.num_layers) for end in ends for name in layer.spec.weight_names
        ]
    return ["x", *(f"hx[{i}]" for i in range(states)), *parameters]


# Computing


def _module(layer: Layer) -> nn.Module:
    class_name, arguments = (CELL_MODULES if layer.single else LAYERS)[layer.cell]
    options: dict[str, Any] = {"bias": layer.bias, "dtype": getattr(torch, layer.dtype), **arguments}
    if not layer.single:
        options |= {name: getattr(layer, name) for name in ("num_layers", "bidirectional", "batch_first")}
    if layer.P:
        options["proj_size"] = layer.P
    torch.manual_seed(layer.seed)
    return getattr(fastrnn, class_name)(layer.I, layer.H, **options)


def _laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values, but for ``expanded``, where every row is the first, in another place of memory."""
    if layout == "sliced":
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
        wide[..., 1::2] = t
        return wide[..., 1::2]
    if layout == "transposed":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "misaligned":
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
    if layout == "expanded" and t.dim() > 1 and t.shape[-2] > 0:
        return t[..., :1, :].expand(t.shape)
    return t


def _arguments(layer: Layer) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(layer.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(getattr(torch, layer.dtype))

    rows = [] if layer.form == "unbatched" else [layer.B]
    steps = [] if layer.single else [layer.T]
    x = normal(*(rows + steps if layer.batch_first else steps + rows), layer.I)
    depth = [] if layer.single else [layer.num_layers * layer.spec.directions]
    widths = layer.spec.state_widths(layer.H, layer.P or layer.H).values()
    given = layer.hx_layout != "absent"
    state = tuple(_laid_out(normal(*depth, *rows, width), layer.hx_layout) for width in widths) if given else ()
    if layer.form != "packed":
        return _laid_out(x, layer.x_layout), state
    lengths = torch.tensor(layer.lengths)
    in_order = bool((lengths.diff() <= 0).all())
    packed = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=in_order)
    return packed._replace(data=_laid_out(packed.data, layer.x_layout)), state


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, PackedSequence):
        yield nested.data
    else:
        for item in nested:
            yield from _tensors(item)


def _results(layer: Layer, module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs by place, and gradients by name, zeros where there is none."""
    x, state = _arguments(layer)
    module.train(layer.mode == "train")
    wanted: dict[str, Tensor] = {}

    def leaf(name: str, t: Tensor) -> Tensor:
        t = t.detach().to(dtype)
        if not layer.inference and name not in layer.no_gradient:
            wanted[name] = t.requires_grad_()
        return t

    argument = x._replace(data=leaf("x", x.data)) if isinstance(x, PackedSequence) else leaf("x", x)
    state = tuple(leaf(f"hx[{i}]", s) for i, s in enumerate(state))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not layer.inference and name not in layer.no_gradient)
        if parameter.requires_grad:
            wanted[name] = parameter
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(layer.mode, nullcontext)
    with context():
        outputs = list(_tensors(module(argument, hx_of(state) if state else None)))
    found = {f"output[{i}]": y.detach() for i, y in enumerate(outputs)}
    assert any(y.requires_grad for y in outputs) == bool(wanted), "an output requires grad where nothing does, or none"
    if wanted:
        generator = torch.Generator().manual_seed(layer.seed)
        drawn = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
        pairs = zip(outputs, drawn, strict=True)
        # Of one step, the reference's c does not depend on the projection.
        loss = [(y, dy) for i, (y, dy) in enumerate(pairs) if i not in layer.no_loss and y.requires_grad]
        given = list(wanted.values())
        gradients: Any = [None] * len(given)
        if loss:
            ys, dys = zip(*loss, strict=True)
            gradients = torch.autograd.grad(ys, given, dys, allow_unused=True)
        for (name, t), gradient in zip(wanted.items(), gradients, strict=True):
            found[f"d {name}"] = torch.zeros_like(t) if gradient is None else gradient
    return found


_ATEN = torch.ops.aten
_ACTIVATIONS = (_ATEN.tanh.default, _ATEN.sigmoid.default)
# With the place of the factor whose last dimension is summed. Inference mode leaves linear as it is.
_PRODUCTS = {_ATEN.mm.default: 0, _ATEN.addmm.default: 1, _ATEN.linear.default: 0}


class _Disturbed(TorchDispatchMode):
    """Rounding as it may be: activations are up to four ulps off, as test_activations.py allows, and their derivatives
    follow from them. Sums of K products are off by sqrt(K) / 4 ulps of the largest, and at least one, as where they are
    added one after another.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ACTIVATIONS:
            return self._off(result, 4 * result.double())
        if func in _PRODUCTS and result.numel():
            ulps = max(1.0, args[_PRODUCTS[func]].shape[-1] ** 0.5 / 4)
            return self._off(result, ulps * result.double().abs().max())
        return result

    def _off(self, value: Tensor, scale: Tensor) -> Tensor:
        noise = torch.rand(value.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return (value.double() + torch.finfo(value.dtype).eps * noise * scale).to(value.dtype)


def failures(layer: Layer) -> list[str]:
    """What is wrong with fastrnn's results; empty where all is right."""
    dtype = getattr(torch, layer.dtype)
    _C.force_isa(layer.isa)
    torch.set_num_threads(1)
    module = _module(layer)
    twin = on_reference(module)
    if layer.frozen:
        fastrnn.freeze(module, layer.frozen)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                parameter.copy_(getattr(module, name))
    exact = _results(layer, copy.deepcopy(twin).double(), torch.float64)
    torch.set_num_threads(layer.threads)
    try:
        with poisoned(dtype):
            got = _results(layer, module, dtype)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        torch.set_num_threads(1)
    if got.keys() != exact.keys():
        return [f"expected {', '.join(exact)}; got {', '.join(got)}"]
    forms = {name: (value.dtype, value.shape) for name, value in got.items()}
    wrong = [f"{name}: got {forms[name]}" for name, value in exact.items() if forms[name] != (dtype, value.shape)]
    return wrong or _inaccurate(layer, got, exact, twin)


def _inaccurate(layer: Layer, got: dict[str, Tensor], exact: dict[str, Tensor], twin: nn.Module) -> list[str]:
    """What breaks the accuracy rule. ``twin`` is the module on the reference."""
    dtype = getattr(torch, layer.dtype)
    # Where the processor multiplies frozen weights as they are, activations are rounded too, no coarser than these.
    peers = {"bfloat16": torch.bfloat16, "int8": torch.float16} if _C.multiplies_bfloat16() else {}
    measure = peers.get(layer.frozen, dtype)
    twin = twin.to(measure)
    floor = _FLOOR_ULPS_FLOAT64 if dtype == torch.float64 else _FLOOR_ULPS

    def wrong() -> dict[str, str]:
        peer = {name: value.to(dtype) for name, value in _results(layer, twin, measure).items()}
        return {found.name: str(found) for found in compare(got, peer, exact, floor) if not found.ok}

    suspects = wrong()
    # A tensor of a few values may be exact in the peer by luck. Then peers that round otherwise are the measure: what
    # is wrong breaks the rule with each of them.
    for seed in range(_PEERS):
        if suspects:
            with _Disturbed(seed):
                again = wrong()
            suspects = {name: again[name] for name in suspects.keys() & again.keys()}
    return sorted(suspects.values())


# Making smaller


def _valid(layer: Layer) -> Layer:
    """With what depends on the sizes made to fit them."""
    lengths = tuple(min(n, layer.T) for n in layer.lengths[: layer.B]) if layer.form == "packed" else ()
    if lengths and max(lengths) < layer.T:
        lengths = (layer.T, *lengths[1:])
    names = _differentiable(layer)
    return replace(
        layer,
        lengths=lengths,
        P=min(layer.P, layer.H - 1),
        no_gradient=tuple(name for name in layer.no_gradient if name in names),
    )


_OPTIONS = ("bidirectional", "bias", "batch_first", "x_layout", "hx_layout", "mode", "frozen", "threads")


def _smaller(layer: Layer) -> Iterator[Layer]:
    """The most telling first."""
    least = {"B": min(layer.B, 1), "P": 0}
    for name in ("num_layers", "T", "B", "H", "I", "P"):
        value, low = getattr(layer, name), least.get(name, 1)
        for other in dict.fromkeys((low, value // 2, value - 1)):
            if low <= other < value:
                yield replace(layer, **{name: other})
    for field in fields(layer):
        if field.name in _OPTIONS and getattr(layer, field.name) != field.default:
            yield replace(layer, **{field.name: field.default})
    if layer.form != "batched":
        yield replace(layer, form="batched")
    if layer.dtype != "float64" and not layer.frozen:
        yield replace(layer, dtype="float64")
    if layer.lengths and list(layer.lengths) != sorted(layer.lengths, reverse=True):
        yield replace(layer, lengths=tuple(sorted(layer.lengths, reverse=True)))
    outputs = len(CELLS[layer.cell].states) + (not layer.single)
    for i in set(range(outputs)) - set(layer.no_loss):
        if len(layer.no_loss) + 1 < outputs:
            yield replace(layer, no_loss=tuple(sorted((*layer.no_loss, i))))
    for name in _differentiable(layer) if not layer.inference else ():
        if name not in layer.no_gradient:
            yield replace(layer, no_gradient=tuple(sorted((*layer.no_gradient, name))))


def shrink(layer: Layer, fails: Callable[[Layer], bool], seconds: float = 60.0) -> Layer:
    """The smallest that was found to fail."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        smaller = next((other for other in map(_valid, _smaller(layer)) if fails(other)), None)
        if smaller is None:
            break
        layer = smaller
    return layer


# The command


def _report(found: Counter[tuple[str, str]], layers: int, seconds: float) -> str:
    columns = [*DTYPES, *(f"frozen {name}" for name in FORMATS), *_C.runnable_isas(), "packed", "gradients"]
    lines = [["", "layers", *columns]]
    for cell in CELLS:
        lines.append([cell, *(str(found[cell, column]) for column in ["layers", *columns])])
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    table = "\n".join("  ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) for line in lines)
    return f"{layers} layers in {seconds:.0f} s, all right\n{table}"


def _run(options: argparse.Namespace, current: Any) -> None:
    """In a process of its own."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    begin, done, found = time.monotonic(), 0, Counter[tuple[str, str]]()
    while done < options.layers if options.layers else time.monotonic() - begin < 60 * options.minutes:
        seed = current.value = options.seed + done
        layer = draw(seed)
        wrong = failures(layer)
        if wrong:
            print(f"python -m tests.fuzz --seed {seed} --layers 1: {'; '.join(wrong)}\n{layer}", flush=True)
            current.value = -1  # making it smaller takes long
            small = shrink(layer, lambda other: bool(failures(other)))
            print(f"smaller: {small}\n{small!r}\n{'; '.join(failures(small))}")
            sys.exit(_TOLD)
        done += 1
        kinds = ["layers", f"frozen {layer.frozen}" if layer.frozen else layer.dtype, layer.isa]
        kinds += ["packed"] * (layer.form == "packed") + ["gradients"] * (not layer.inference)
        found.update((layer.cell, kind) for kind in kinds)
    print(_report(found, done, time.monotonic() - begin))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random layers against the reference.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--layers", type=int, default=0, help="as many instead, whatever time they take")
    parser.add_argument("--seed", type=int, help="of the first layer; each has the next. Without it, a random one")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.randrange(10**9)
    print(f"seed {options.seed}", flush=True)
    # What crashes or waits for ever is told by its seed too.
    context = multiprocessing.get_context("spawn")
    current = context.Value("q", -1)
    process = context.Process(target=_run, args=(options, current), daemon=True)
    process.start()
    before = -1
    while process.is_alive():
        process.join(_PATIENCE)
        if process.is_alive() and current.value == before != -1:
            process.kill()
            print(f"python -m tests.fuzz --seed {before} --layers 1: no answer in {_PATIENCE:.0f} s\n{draw(before)}")
            return 1
        before = current.value
    if process.exitcode not in (0, _TOLD):
        told = f"the process ended with code {process.exitcode}"
        print(f"python -m tests.fuzz --seed {current.value} --layers 1: {told}\n{draw(max(current.value, 0))}")
    return 1 if process.exitcode else 0


if __name__ == "__main__":
    sys.exit(main())
