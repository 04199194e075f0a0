"""fastrnn: torch.nn's recurrent layers on fused kernels."""

from fastrnn.waiting import spin_briefly

spin_briefly()

from fastrnn import functional  # noqa: E402
from fastrnn.exporting import export  # noqa: E402
from fastrnn.modules import accelerate, explain, freeze, restore  # noqa: E402
from fastrnn.modules import recurrent as _recurrent  # noqa: E402
from fastrnn.modules.recurrent import *  # noqa: E402, F403

__all__ = ["accelerate", "explain", "export", "freeze", "functional", "restore"]
__all__ += _recurrent.__all__
