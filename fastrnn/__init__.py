"""fastrnn: torch.nn's recurrent layers on fused kernels."""

from fastrnn import functional
from fastrnn.modules import accelerate, explain, freeze, restore
from fastrnn.modules import recurrent as _recurrent
from fastrnn.modules.recurrent import *  # noqa: F403

__all__ = ["accelerate", "explain", "freeze", "functional", "restore"]
__all__ += _recurrent.__all__
