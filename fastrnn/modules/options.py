"""The options of layers and cells that ``torch.nn``'s lack; ``fastrnn.LSTM`` explains them."""

from typing import Any

import torch
from torch.nn import Module

from fastrnn.checks import check_probability, check_recompute, check_zoneout
from fastrnn.functional import DEFAULTS, Options
from fastrnn.spec import WHOLE, LayerSpec, Segments

__all__ = ["OwnOptions", "begin_gains"]

_NONE = (0.0, 0.0)


def begin_gains(module: Module) -> None:
    """Gains become 1, and the bias of a normalised state 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters(recurse=False):
            if "_ln_" in name:
                parameter.fill_(name.startswith("weight"))


class OwnOptions:
    """Of a layer or cell: attributes of the module where they are not the defaults, so that a module of ``torch.nn``
    has all that one without them needs."""

    weight_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float | tuple[float, float] = 0.0
    layer_norm: bool = False
    recompute: bool | int = False

    training: bool

    def _set_own(
        self,
        spec: LayerSpec,
        weight_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        recompute: bool | int = False,
    ) -> None:
        zoned = check_zoneout(zoneout, spec)
        check_recompute(recompute, spec, None, WHOLE, zoned)
        given = {
            "weight_dropout": check_probability("weight_dropout", weight_dropout),
            "recurrent_dropout": check_probability("recurrent_dropout", recurrent_dropout),
            "zoneout": zoned if zoned != _NONE else 0.0,
            "recompute": recompute,
        }
        for name, value in given.items():
            if value:
                setattr(self, name, value)

    def own_options(self) -> dict[str, Any]:
        """Those that are not the defaults."""
        names = ("weight_dropout", "recurrent_dropout", "zoneout", "layer_norm", "recompute")
        return {name: vars(self)[name] for name in names if vars(self).get(name)}

    def _with_own(self, text: str) -> str:
        """``extra_repr`` of a module of ``torch.nn`` with these behind it."""
        return ", ".join([text, *(f"{name}={value}" for name, value in self.own_options().items())])

    def _takes_own_way(self) -> bool:
        """A call, as the module is now, asks for more than ``torch.nn``'s."""
        dropouts = self.training and (self.weight_dropout or self.recurrent_dropout)
        return bool(dropouts or self.zoneout or self.layer_norm or self.recompute)

    def _zoneout_of_states(self) -> tuple[float, float]:
        return self.zoneout if isinstance(self.zoneout, tuple) else _NONE

    def _options_of_call(self, segments: Segments, every_state: bool) -> Options:
        zoneout = self._zoneout_of_states()
        asked = Options(segments, every_state, self.recompute, zoneout=zoneout, draws=self.training)
        if self.training:
            asked = asked._replace(weight_dropout=self.weight_dropout, recurrent_dropout=self.recurrent_dropout)
        return asked if segments or every_state or self._takes_own_way() else DEFAULTS
