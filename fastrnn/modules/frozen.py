"""``freeze``: recurrent layers for inference on the CPU, with weights of 16 or 8 bits.

A module is frozen by assigning its ``__class__``, as ``accelerate`` does, so hooks, mode and shared references stay.
Its Parameters give way to buffers, which hold what was rounded: the C++ kernels pack them for the processor at hand
at the first call, and again after a buffer was written to.
"""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Module, RNNBase
from torch.nn.utils import parametrize, prune

from fastrnn.backends import cpu
from fastrnn.functional import DEFAULTS, Options, of_layer_alone
from fastrnn.modules import onnx
from fastrnn.modules.counterparts import FASTRNN, PLAIN
from fastrnn.modules.layers import Layers, assigned_weights
from fastrnn.modules.replace import Choice, become, own_class, reason_of_foreign, swappable
from fastrnn.ops import frozen_forward
from fastrnn.ops.function import needs_gradient
from fastrnn.spec import WHOLE, LayerSpec, pair_of

__all__ = ["Frozen", "freeze", "stored", "weight_names"]

M = TypeVar("M", bound=Module)

State = tuple[Tensor, ...]

_FORMATS = ("bfloat16", "int8")


def freeze(model: M, weights: str) -> M:
    """Makes every recurrent layer and cell in ``model``, ``torch.nn``'s and fastrnn's, an inference layer, in place.

    Where a step is bound by reading weights, which is at batch sizes of a few rows, fewer bits are faster. Large
    batches may be slower than in float32, but on a processor with AMX they gain as much. Input, output, states, biases
    and gates stay float32, sums are taken in float32 or exactly; the layers take and return what they did, on the CPU
    alone.

    Args:
        model: ``torch.nn`` and fastrnn modules with float32 parameters on the CPU. The weights are those of this
            moment: parametrizations and pruning are applied and removed.
        weights: how ``weight_ih`` and ``weight_hh`` are stored.
            ``"bfloat16"``: rounded to nearest. On a processor with AVX512-BF16 the activations that they are
            multiplied with are rounded to bfloat16 too.
            ``"int8"``: integers of at most 127 times a float32 scale for each row, its largest magnitude / 127. With
            AVX512-VNNI the activations that they are multiplied with are 16-bit fixed point, scaled for each row and
            step; a row of ``input`` or ``hx`` with NaN or infinity then gives NaN.
            On other processors weights are widened to float32 in registers, which gains little.

    The frozen layers have no Parameters, drop nothing out, and ignore autocast. ``state_dict``, pickle and
    ``copy.deepcopy`` keep what was rounded, for any processor. ``weight_ih_l0`` and its like read as float32 and
    cannot be assigned. In-place changes of the buffers are seen at the next call if they count in the tensor's
    ``_version``; those through ``.data``, NumPy or another process do not.

    Largest and root mean square error of the output over 100 steps against float64, H = I = 512, B = 1, PyTorch's
    initial weights, normal input, on a processor with both instructions (``python -m benches.frozen``)::

                 bfloat16           int8
        LSTM     3.0e-3, 3.6e-4     4.2e-3, 6.0e-4
        GRU      4.9e-3, 7.4e-4     6.7e-3, 1.2e-3

    Trained weights have other errors: compare the model's own results before and after.

    Returns:
        ``model``. What cannot be frozen, such as instances of subclasses, is left as it is and named in one warning.

    Raises:
        RuntimeError: the compiled extension is missing.
        ValueError: ``weights`` is neither format, or a layer is projected, not float32 on the CPU, frozen to the other
            format, has a weight that a hook computes, or for int8 one that is not finite or longer than 65,536 in a
            row. Nothing is changed then.

    Of a frozen layer's call: RuntimeError where a gradient would be needed, and as the layer did before.
    """
    if weights not in _FORMATS:
        raise ValueError(f"weights: expected {' or '.join(map(repr, _FORMATS))}, got {weights!r}")
    if cpu.extension is None:
        raise RuntimeError(f"freeze needs the CPU kernels, but {cpu.missing}")
    for name, module in model.named_modules():
        if isinstance(module, Frozen) and module.stored_as != weights:
            raise ValueError(f"{name or 'the model'}: expected a float32 layer, got one frozen to {module.stored_as}")
    found = swappable(model, _frozen_for, "a frozen layer")
    for name, module, _ in found:
        reason = _reason_against(module, weights)
        if reason:
            raise ValueError(f"{name or 'the model'}: {reason}")
    for _, module, cls in found:
        _freeze(module, cls, weights)
    return model


def _frozen_for(module: Module) -> Choice:
    own = own_class(module)
    if own in FROZEN or isinstance(module, Frozen):
        return FROZEN.get(own)
    return (
        f"it is of {own.__qualname__}, a subclass" if isinstance(module, tuple(FROZEN)) else reason_of_foreign(module)
    )


def weight_names(module: Any) -> list[list[str]]:
    """For each stacked layer and direction: weight_ih, weight_hh and, with bias, bias_ih, bias_hh."""
    if isinstance(module, RNNBase):
        return module._all_weights
    return [["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bool(module.bias)]


def _reason_against(module: Any, weights: str) -> str | None:
    if getattr(module, "proj_size", 0):
        return f"expected no projection, got proj_size={module.proj_size}"
    if getattr(module, "layer_norm", False):
        return "expected no layer_norm"
    if isinstance(module, RNNBase) and assigned_weights(module) is not None:
        return "expected its own weights, other tensors were assigned to _flat_weights"
    for name in sum(weight_names(module), []):
        w = getattr(module, name)
        if w.dtype != torch.float32 or w.device.type != "cpu":
            return f"expected {name} in torch.float32 on the CPU, got {w.dtype} on {w.device}"
        computed = name not in module._parameters and not parametrize.is_parametrized(module, name)
        if computed and not isinstance(_pruning(module, name), prune.BasePruningMethod):
            return f"expected {name} to be a Parameter, parametrized or pruned; it is computed in another way"
        if weights == "int8" and w.dim() == 2:
            if w.size(1) > 65536:
                return f"expected at most 65536 columns in {name} for int8, got {w.size(1)}"
            if not w.isfinite().all():
                return f"expected finite values in {name} for int8"
    return None


def _pruning(module: Module, name: str) -> Any:
    hooks = module._forward_pre_hooks.values()
    return next((hook for hook in hooks if getattr(hook, "_tensor_name", None) == name), None)


def _freeze(module: Any, cls: type[Module], weights: str) -> None:
    names = weight_names(module)
    for name in sum(names, []):
        if parametrize.is_parametrized(module, name):
            parametrize.remove_parametrizations(module, name)
        elif _pruning(module, name):
            prune.remove(module, name)
    become(module, cls)
    # Tensors made in inference mode do not count their changes, by which the kernels know when to pack anew.
    with torch.inference_mode(False), torch.no_grad():
        for name in sum(names, []):
            w = module._parameters.pop(name).detach().clone()
            for key, buffer in stored(name, w, weights).items():
                module.register_buffer(key, buffer)
    module.stored_as = weights
    per_layer = len(names) // getattr(module, "num_layers", 1)
    module._order = [_order(names[i : i + per_layer], weights) for i in range(0, len(names), per_layer)]


def stored(name: str, w: Tensor, weights: str) -> dict[str, Tensor]:
    """The buffers that stand for one weight [G*H, K] or bias [G*H]."""
    if w.dim() == 1:
        return {name: w}
    if weights == "bfloat16":
        return {f"{name}_bfloat16": w.bfloat16()}
    scale = w.abs().amax(1) / 127
    rounded = torch.where(scale[:, None] > 0, w / scale[:, None], 0).round().clamp(-127, 127)
    return {f"{name}_int8": rounded.to(torch.int8), f"{name}_scale": scale}


def _order(directions: list[list[str]], weights: str) -> list[str]:
    """Names of the buffers of one stacked layer, in the order of the operator."""
    order = []
    for w_ih, w_hh, *biases in directions:
        order += [f"{w_ih}_{weights}", f"{w_hh}_{weights}", *biases]
        if weights == "int8":
            order += [f"{w_ih}_scale", f"{w_hh}_scale"]
    return order


class Frozen(Module):
    """What ``freeze`` leaves of a recurrent module. ``stored_as`` is the format of its weights."""

    stored_as: str
    _order: list[list[str]]

    def __getattr__(self, name: str) -> Any:
        buffers = self.__dict__.get("_buffers", {})
        if f"{name}_bfloat16" in buffers:
            return buffers[f"{name}_bfloat16"].float()
        if f"{name}_int8" in buffers:
            return buffers[f"{name}_int8"].float() * buffers[f"{name}_scale"][:, None]
        return super().__getattr__(name)

    @property
    def _script_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in sum(self._order, [])]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_flat_weights" or name in sum(weight_names(self) + self.__dict__.get("_order", []), []):
            self._refuse(f"{name} cannot be assigned")
        super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        self._refuse("its weights cannot be initialised")

    def _refuse(self, what: str) -> NoReturn:
        raise RuntimeError(f"{type(self).__name__} is frozen to {self.stored_as}: {what}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # What the layer takes and returns decides, not its buffers: float() would change those of bfloat16.
        made = fn(torch.empty(0))
        if made.dtype != torch.float32 or made.device.type != "cpu":
            self._refuse(f"it stays in torch.float32 on the CPU, {made.dtype} on {made.device} was asked for")
        if made.is_shared():
            for buffer in self._buffers.values():
                if buffer is not None:
                    buffer.share_memory_()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        given = {key for key in state_dict if key.startswith(f"{prefix}weight_")}
        expected = {f"{prefix}{name}" for name in sum(self._order, []) if name.startswith("weight_")}
        if given and not expected <= given:
            *_, errors = arguments
            errors.append(f"expected {prefix}* of a layer frozen to {self.stored_as}, got {', '.join(sorted(given))}")
        else:
            super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # As in _freeze: pickle and deepcopy may run in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            for name, buffer in self._buffers.items():
                if buffer is not None and buffer.is_inference():
                    self._buffers[name] = buffer.clone()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stored_as={self.stored_as}"

    def _check(self, x: Tensor, state: State) -> None:
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(f"input: expected torch.float32 on the CPU, got {x.dtype} on {x.device}")
        if needs_gradient((x, *state)) or forward_ad._current_level >= 0:
            self._refuse("it is for inference only, so call it in torch.no_grad() or on tensors that need no gradient")

    def _stack(
        self, spec: LayerSpec, x: Tensor, state: State, batch_sizes: Tensor | None, options: Options = DEFAULTS
    ) -> tuple[Tensor, State, State]:
        """All layers on arguments that were checked, as ``functional.stack``."""
        if options.every_state:
            self._refuse("it does not keep the states after every step, so call it without return_states")
        if onnx.exporting():
            weights = [getattr(self, name) for name in sum(weight_names(self), [])]
            return onnx.stack(
                spec, x, state, weights, batch_sizes, num_layers=len(self._order), dropout=0.0, options=options
            )
        finals = []
        layers = len(self._order)
        for i, names in enumerate(self._order):
            of_layer = state if layers == 1 else [s[i * spec.directions : (i + 1) * spec.directions] for s in state]
            weights = [self._buffers[name] for name in names]
            lengths, reset, reset_state = of_layer_alone(options, i, layers, spec).segments
            arguments: Any = (x, *pair_of(of_layer), weights, batch_sizes, *spec.arguments)
            x, final = frozen_forward(*arguments, lengths, reset, *pair_of(reset_state), *options.zoneout)
            finals.append(final)
        if layers == 1:
            return x, tuple(finals[0]), ()
        return x, tuple([torch.cat(s) for s in zip(*finals, strict=True)]), ()


class _FrozenLayers(Frozen):
    def _run(
        self: Any, x: Tensor, state: State, batch_sizes: Tensor | None, options: Options
    ) -> tuple[Tensor, State, State]:
        self._check(x, (*state, *options.segments.reset_state))
        self._check_sizes(x, state, batch_sizes)
        self._check_options(x, batch_sizes, options)
        return self._stack(self.layer_spec, x, state, batch_sizes, options)


class _FrozenCell(Frozen):
    def _run(self: Any, x: Tensor, state: State) -> State:
        self._check(x, state)
        self._check_input(x, state)
        initial = tuple([s.unsqueeze(0) for s in state])
        options = self._options_of_call(WHOLE, False)
        _, final, _ = self._stack(self.layer_spec, x.unsqueeze(0), initial, None, options)
        return tuple([s.squeeze(0) for s in final])


def _frozen_class(cls: type[Module]) -> type[Module]:
    bases = (_FrozenLayers if issubclass(cls, Layers) else _FrozenCell, cls)
    doc = f"``{cls.__name__}`` after ``freeze``."
    return type(f"Frozen{cls.__name__}", bases, {"__module__": __name__, "__doc__": doc})


# One for every class of fastrnn, under its name in this module, where pickle looks for it.
_FROZEN_OF = {cls: _frozen_class(cls) for cls in FASTRNN}
globals().update({frozen.__name__: frozen for frozen in _FROZEN_OF.values()})
FROZEN: dict[type[Module], type[Module]] = _FROZEN_OF | {PLAIN[cls]: _FROZEN_OF[cls] for cls in PLAIN}
