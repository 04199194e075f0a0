"""The next values of a time series: real numbers in, real numbers out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fastrnn.exporting.links import Affine, Pool
from fastrnn.models.recurrence import Recurrent, State, build
from fastrnn.modules import LSTM

__all__ = ["Forecaster", "pinball_loss"]


class Forecaster(nn.Module):
    """Recurrent layers over a multivariate series, and its next ``horizon`` values, of the first ``targets`` features.

    Direct: one linear layer from the last output gives all steps of the horizon. ``recursive``: it gives all features
    of the next step, which are read in turn; then the horizon may be chosen at each call. With ``quantiles``, rising
    numbers between 0 and 1, the direct kind forecasts each of them.

    ``fit_normalisation(x)`` keeps mean and standard deviation of the features in the model, as buffers ``mean`` and
    ``deviation``. Inputs are normalised inside, and forecasts are in the units of the inputs.

    Call: ``prediction = model(x, state=None, horizon=None)``.
        x: [B, T, features] in the parameters' dtype. state: what ``read`` returned for the steps before; zeros if None.
        prediction: [B, horizon, targets], with quantiles [B, horizon, targets, Q].

    Raises:
        ValueError: more targets than features, quantiles that do not rise from above 0 to below 1, quantiles of a
            recursive forecaster (a quantile of one step says nothing of the next), a horizon below 1, another horizon
            of a direct one.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        features: int,
        horizon: int,
        *,
        targets: int = 1,
        rnn: Recurrent = LSTM,
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.0,
        recursive: bool = False,
        quantiles: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon: expected at least 1, got {horizon}")
        bounds = [0.0, *quantiles, 1.0]
        if any(low >= high for low, high in zip(bounds, bounds[1:], strict=False)):
            raise ValueError(f"quantiles: expected numbers that rise between 0 and 1, got {tuple(quantiles)}")
        if quantiles and recursive:
            raise ValueError("quantiles: expected none of a recursive forecaster")
        if not 1 <= targets <= features:
            raise ValueError(f"targets: expected 1 to {features}, the number of features, got {targets}")
        self.horizon, self.targets, self.recursive, self.quantiles = horizon, targets, recursive, tuple(quantiles)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.rnn = build(rnn, features, hidden, layers, dropout=dropout)
        self.head = nn.Linear(hidden, features if recursive else horizon * targets * max(1, len(quantiles)))
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def fit_normalisation(self, x: Tensor) -> None:
        """Takes mean and deviation of each feature from ``x`` [..., features]. One that is constant is not scaled."""
        rows = x.flatten(0, -2)
        # Of differences, which for a constant feature are exactly zero: its mean may differ from it by rounding.
        deviation = (rows - rows[:1]).std(0, correction=0)
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def read(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The layers' output [B, T, hidden] over ``x`` [B, T, features], and the state to go on from."""
        return self.rnn((x - self.mean) / self.deviation, state)

    def forward(self, x: Tensor, state: State | None = None, horizon: int | None = None) -> Tensor:
        horizon = self.horizon if horizon is None else horizon
        if horizon != self.horizon and not self.recursive:
            raise ValueError(f"horizon: expected {self.horizon}, for which this forecaster was built, got {horizon}")
        if horizon < 1:
            raise ValueError(f"horizon: expected at least 1, got {horizon}")
        y, state = self.read(x, state)
        mean, deviation = self.mean[: self.targets], self.deviation[: self.targets]
        if self.recursive:
            ahead = self._step_by_step(y, state, horizon)[:, :, : self.targets]
            return ahead * deviation + mean
        ahead = self.head(self.dropout(y[:, -1]))
        if not self.quantiles:
            return ahead.unflatten(1, (self.horizon, self.targets)) * deviation + mean
        return ahead.unflatten(1, (self.horizon, self.targets, -1)) * deviation[:, None] + mean[:, None]

    def chain(self) -> list[nn.Module]:
        """What ``fastrnn.export`` writes: the horizon's values side by side; of a recursive forecaster all features of
        the next step, which a program gives it back as its next input."""
        mean, deviation = self.mean, self.deviation
        if not self.recursive:
            size = (self.horizon, self.targets, max(1, len(self.quantiles)))
            mean, deviation = (v[: self.targets, None].expand(size).flatten() for v in (mean, deviation))
        normalised = Affine(1 / self.deviation, -self.mean / self.deviation)
        return [normalised, self.rnn, Pool("last"), self.head, Affine(deviation, mean)]

    def chain_output(self, x: Tensor) -> Tensor:
        if not self.recursive:
            return self(x)
        return self.head(self.read(x)[0][:, -1]) * self.deviation + self.mean

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Of ``target`` [B, horizon, targets] in normalised units: mean squared error, or pinball loss of quantiles."""
        expected = prediction.shape[:3]
        if target.shape != expected:
            raise ValueError(f"target: expected {tuple(expected)}, got {tuple(target.shape)}")
        deviation = self.deviation[: self.targets]
        if self.quantiles:
            return pinball_loss(prediction / deviation[:, None], target / deviation, self.quantiles)
        return mse_loss(prediction / deviation, target / deviation)

    def _step_by_step(self, y: Tensor, state: State, horizon: int) -> Tensor:
        steps = [self.head(self.dropout(y[:, -1:]))]
        while len(steps) < horizon:
            y, state = self.rnn(steps[-1], state)
            steps.append(self.head(self.dropout(y)))
        return torch.cat(steps, 1)


def pinball_loss(prediction: Tensor, target: Tensor, quantiles: Sequence[float]) -> Tensor:
    """The loss whose minimum is the quantile (Koenker and Bassett, 1978), the mean over everything.

    ``prediction`` is [..., Q], one for each of ``quantiles``, ``target`` [...].
    """
    q = torch.tensor(quantiles, dtype=prediction.dtype, device=prediction.device)
    error = target.unsqueeze(-1) - prediction
    return torch.maximum(q * error, (q - 1) * error).mean()
