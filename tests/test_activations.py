"""The activations over their whole range, seen through the layers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import every_isa_of_floats
from torch import Tensor

import fastrnn
from fastrnn.spec import CELLS

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def sampled(dtype: torch.dtype) -> Tensor:
    """Dense over the range where the activations are not constant, every magnitude down to denormals, zeros and NaN."""
    limits = torch.finfo(dtype)
    widest, exponents = (110, 45.5) if dtype == torch.float32 else (750, 324)
    magnitudes = 10 ** -torch.linspace(0, exponents, 20_001, dtype=torch.float64)
    edges = [0.0, limits.tiny, limits.tiny / 4, limits.max]
    positive = torch.cat([magnitudes, torch.tensor(edges, dtype=torch.float64)])
    dense = torch.linspace(-widest, widest, 100_001, dtype=torch.float64)
    narrow = torch.linspace(-9, 9, 50_001, dtype=torch.float64)
    return torch.cat([dense, narrow, positive, -positive, torch.tensor([torch.nan])]).to(dtype)


def constant(module: torch.nn.RNNBase, **gates: tuple[float, float]) -> torch.nn.RNNBase:
    """No recurrence; gate ``name=(weight, bias)`` sees weight x + bias, the others nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        blocks = CELLS[module.mode.lower()].gates
        for name, (weight, bias) in gates.items():
            module.weight_ih_l0.view(len(blocks), -1)[blocks.index(name)] = weight
            module.bias_ih_l0.view(len(blocks), -1)[blocks.index(name)] = bias
    return module


# 17 equal units: whole vectors and a part of one, on every instruction set
UNITS = 17


def tanh_by_rnn(x: Tensor) -> Tensor:
    return constant(fastrnn.RNN(1, UNITS, dtype=x.dtype), h=(1, 0))(x.view(1, -1, 1))[0][0]


def tanh_by_gru(x: Tensor) -> Tensor:
    return constant(fastrnn.GRU(1, UNITS, dtype=x.dtype), n=(1, 0), z=(0, -1e4))(x.view(1, -1, 1))[0][0]


def tanh_by_lstm(x: Tensor) -> Tensor:
    """Of its cell state, kept as it is: forget and output gate open, input gate closed, and c = x - 0 keeps -0."""
    lstm = constant(fastrnn.LSTM(1, UNITS, dtype=x.dtype), i=(0, -1e4), f=(0, 1e4), g=(0, -1), o=(0, 1e4))
    c = x.view(1, -1, 1).expand(1, -1, UNITS)
    return lstm(x.new_zeros(1, len(x), 1), (torch.zeros_like(c), c))[0][0]


def sigmoid_by_lstm(x: Tensor) -> Tensor:
    """Of its forget gate, times a cell state of one."""
    ones = x.new_ones(1, len(x), UNITS)
    return constant(fastrnn.LSTM(1, UNITS, dtype=x.dtype), f=(1, 0))(x.view(1, -1, 1), (ones, ones))[1][1][0]


def sigmoid_by_gru(x: Tensor) -> Tensor:
    """Of its update gate, times a state of one."""
    ones = x.new_ones(1, len(x), UNITS)
    return constant(fastrnn.GRU(1, UNITS, dtype=x.dtype), z=(1, 0))(x.view(1, -1, 1), ones)[0][0]


def wider(x: Tensor) -> np.ndarray:
    if x.dtype == torch.float32:
        return x.double().numpy()
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("numpy's longdouble is no wider than float64 on this platform")
    return x.numpy().astype(np.longdouble)


def exact_sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
every_activation = pytest.mark.parametrize(
    "compute,exact",
    [
        (tanh_by_rnn, np.tanh),
        (tanh_by_gru, np.tanh),
        (tanh_by_lstm, np.tanh),
        (sigmoid_by_lstm, exact_sigmoid),
        (sigmoid_by_gru, exact_sigmoid),
    ],
    ids=lambda f: f.__name__,
)


@torch.no_grad()
def assert_within_four_ulps(compute: Callable, exact: Callable, dtype: torch.dtype) -> None:
    x = sampled(dtype)
    got, expected = compute(x), exact(wider(x))
    column = got[:, :1]
    assert torch.equal(got.isnan(), x.isnan().unsqueeze(1).expand_as(got))
    assert ((got == column) | got.isnan()).all(), "equal units give equal results"
    here = ~x.isnan().numpy()
    got, expected = column[:, 0].numpy()[here], expected[here]
    ulp = np.spacing(np.abs(expected).astype(got.dtype)).astype(expected.dtype)
    worst = np.argmax(np.abs(got.astype(expected.dtype) - expected) / ulp)
    error = abs(got[worst].astype(expected.dtype) - expected[worst]) / ulp[worst]
    assert error <= 4, f"{error:.1f} ulps at {x.numpy()[here][worst]!r}"


@every_isa_of_floats
@every_dtype
@every_activation
def test_activations_are_within_four_ulps_everywhere(compute, exact, dtype, isa):
    assert_within_four_ulps(compute, exact, dtype)


@every_isa_of_floats
@every_dtype
@torch.no_grad()
def test_activations_at_infinity(dtype, isa):
    """Brought in by the bias: as an input, infinity times the weight 0 of the other gates is NaN."""
    for infinity in (torch.inf, -torch.inf):
        x, ones = torch.zeros(1, 5, 1, dtype=dtype), torch.ones(1, 5, UNITS, dtype=dtype)
        rnn = constant(fastrnn.RNN(1, UNITS, dtype=dtype), h=(0, infinity))
        assert (rnn(x)[0] == (1 if infinity > 0 else -1)).all()
        gru = constant(fastrnn.GRU(1, UNITS, dtype=dtype), z=(0, infinity))
        assert (gru(x, ones)[0] == (1 if infinity > 0 else 0)).all()
        lstm = constant(fastrnn.LSTM(1, UNITS, dtype=dtype), f=(0, infinity))
        assert (lstm(x, (ones, ones))[1][1] == (1 if infinity > 0 else 0)).all()


@every_isa_of_floats
@every_dtype
@torch.no_grad()
def test_tanh_is_odd_to_the_last_bit(dtype, isa):
    x = sampled(dtype)
    x = torch.cat([x[~x.isnan()], torch.tensor([torch.inf, -torch.inf], dtype=dtype)])
    y = tanh_by_lstm(x)[:, 0]
    assert torch.equal(y.signbit(), x.signbit())
    assert torch.equal(tanh_by_lstm(-x)[:, 0], -y)
