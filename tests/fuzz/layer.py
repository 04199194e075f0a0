"""A layer to compute, as data, drawn from one number."""

import random
from dataclasses import asdict, dataclass, fields, replace

from fastrnn import _C
from fastrnn.spec import CELLS, LayerSpec
from fastrnn.testing import CELL_MODULES, LAYERS

DTYPES = ("float32", "float64", "bfloat16", "float16")
FORMATS = ("bfloat16", "int8")
# Steps of the reference and multiplications, which bound the time of a layer.
_MOST_STEPS, _MOST_WORK = 60, 4e6
_ODD = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 130, 200, 255, 256, 257, 300)


@dataclass(frozen=True)
class Layer:
    """A module and one call of it. The defaults are the plainest.

    Attributes:
        single: a cell, for one step.
        form: ``batched``, ``unbatched``, or ``packed`` with ``lengths``, sorted or not. Of a batch that is not packed
            they are an argument of the call.
        resets: probability of one at each step.
        reset_state: given ``once``, ``by_step``, or not at all.
        x_layout, hx_layout: how the tensor lies in memory; an absent ``hx`` is zeros.
        mode: ``train``, ``eval``, ``no_grad`` or ``inference_mode``.
        frozen: the format of frozen weights, or empty.
        rounds: products may take float32 rounded to bfloat16.
        recurrent_dropout, zoneout: probabilities, drawn in ``train``.
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
    rounds: bool = False
    resets: float = 0.0
    reset_state: str = ""
    every_state: bool = False
    recompute: bool | int = False
    recurrent_dropout: float = 0.0
    zoneout: tuple[float, float] = (0.0, 0.0)
    layer_norm: bool = False
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
            f"{kind.class_name}({', '.join(sizes)}) in {self.dtype}"
            + f", frozen to {self.frozen}" * bool(self.frozen)
            + ", products in bfloat16" * self.rounds,
            f"{self.isa}, {self.threads} threads, {self.mode}",
            f"{call}; x {self.x_layout}, hx {self.hx_layout}",
        ]
        asked = ("resets", "reset_state", "every_state", "recompute", "recurrent_dropout", "zoneout", "layer_norm")
        parts += [", ".join(f"{name}={given[name]}" for name in asked if name in given)] * any(map(given.get, asked))
        parts += [f"no gradient of {', '.join(self.no_gradient)}"] * bool(self.no_gradient)
        parts += [f"not in the loss: outputs {', '.join(map(str, self.no_loss))}"] * bool(self.no_loss)
        return "; ".join(parts)

    @property
    def spec(self) -> LayerSpec:
        directions = 2 if self.bidirectional else 1
        return LayerSpec(self.cell, directions, self.bias, self.batch_first, self.P > 0, self.layer_norm)

    @property
    def outputs(self) -> int:
        """Tensors that a call returns."""
        return len(CELLS[self.cell].states) * (1 + self.every_state) + (not self.single)

    @property
    def inference(self) -> bool:
        return bool(self.frozen) or self.mode in ("no_grad", "inference_mode")


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
    if layer.dtype == "float32" and not frozen:
        layer = replace(layer, rounds=chance(0.3))
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
    if not frozen and chance(0.15):
        # Products with x are formed by ATen then, which rounds nothing, so that no peer rounds as the layer does.
        layer = replace(layer, layer_norm=True, rounds=False)
    layer = _with_segments(_with_noise(layer, at), at)
    if not layer.inference and chance(0.5):
        names = differentiable(layer)
        kept = at.randint(1, len(names)) if chance(0.9) else 0
        layer = replace(layer, no_gradient=tuple(sorted(at.sample(names, len(names) - kept))))
    if not layer.inference and chance(0.4):
        left_out = at.sample(range(layer.outputs), at.randint(0, layer.outputs - 1))
        layer = replace(layer, no_loss=tuple(sorted(left_out)))
    return layer


def _with_noise(layer: Layer, at: random.Random) -> Layer:
    if layer.single:
        return layer
    if at.random() < 0.15 and not layer.frozen:
        layer = replace(layer, recurrent_dropout=at.choice((0.25, 0.5)))
    if at.random() < 0.2:
        of_h, of_c = (at.choice((0.0, 0.1, 0.5, 1.0)) for _ in range(2))
        layer = replace(layer, zoneout=(of_h * (not layer.P), of_c * (len(CELLS[layer.cell].states) > 1)))
    return layer


def _with_segments(layer: Layer, at: random.Random) -> Layer:
    """With lengths, resets and the like, where the layer takes them."""
    if layer.single:
        return layer
    if layer.form != "packed" and at.random() < 0.2:
        layer = replace(layer, lengths=tuple(at.randint(0, layer.T) for _ in range(layer.B)))
    if layer.form != "packed" and at.random() < 0.25:
        layer = replace(layer, resets=at.choice((0.05, 0.3, 1.0)), reset_state=at.choice(("", "once", "by_step")))
    if not layer.frozen:
        layer = replace(layer, every_state=at.random() < 0.15)
    if not (layer.inference or layer.layer_norm) and at.random() < 0.2:
        in_one = layer.lengths or layer.resets or any(layer.zoneout)
        apart = layer.form != "packed" and not (layer.bidirectional and in_one)
        apart &= not layer.rounds  # whether products are rounded goes by the rows of a part, not of the layer
        layer = replace(layer, recompute=at.randint(1, layer.T + 1) if apart and at.random() < 0.5 else True)
    return layer


def _too_much(layer: Layer) -> bool:
    runs = layer.num_layers * layer.spec.directions
    products = len(CELLS[layer.cell].gates) * layer.H * (layer.I + 2 * layer.H)
    return layer.T * runs > _MOST_STEPS or layer.T * (layer.B + 1) * runs * products > _MOST_WORK


def differentiable(layer: Layer) -> list[str]:
    states = len(CELLS[layer.cell].states) if layer.hx_layout != "absent" else 0
    if layer.single:
        parameters = list(layer.spec.weight_names)
    else:
        ends = ("", "_reverse")[: layer.spec.directions]
        parameters = [
            f"{name}_l{k}{end}" for k in range(layer.num_layers) for end in ends for name in layer.spec.weight_names
        ]
    resets = len(CELLS[layer.cell].states) if layer.reset_state else 0
    return ["x", *(f"hx[{i}]" for i in range(states)), *(f"reset_state[{i}]" for i in range(resets)), *parameters]
