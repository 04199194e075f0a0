"""What is wrong with a model: gradients on their way through time, and the memory that a training step keeps."""

from fastrnn.diagnose.gradients import GradientFlow, LayerFlow, gradient_flow
from fastrnn.diagnose.kept import bytes_kept

__all__ = ["GradientFlow", "LayerFlow", "bytes_kept", "gradient_flow"]
