"""Layer normalisation, Ba et al. (2016), of what a row holds over all units: only a program that has all of them can.

The products with h, over the gates that are added together, and the cell's own state on its way to h;
``fastrnn.spec.reference`` has the rule. Backward takes means and deviations again from the values before.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .tiles import load_planes


class Norm(NamedTuple):
    """Of a normalised layer.

    Attributes:
        gain: [D, G*H], of the products with h.
        bias: [D, G*H], added behind it.
        state_gain: [D, H], of a cell's own state. This and the next are there for cells that have one.
        state_bias: [D, H].
        epsilon: added to variances.
    """

    gain: Any
    bias: Any
    state_gain: Any
    state_bias: Any
    epsilon: Any


class NormGradients(NamedTuple):
    """What backward leaves besides the gates' gradients.

    Attributes:
        products: [N, D*G*H], of the products with h before they are normalised.
        output: [D, N, H], of the cell's own state as ``h`` is formed from it, where there is one.
    """

    products: Any
    output: Any


class Norms(NamedTuple):
    """``Norm`` as tiles, those of gates in tuples, and the state's in tuples of one.

    Attributes:
        within: which units there are.
        hidden: how many.
    """

    gain: Any
    bias: Any
    state_gain: Any
    state_bias: Any
    epsilon: Any
    within: Any
    hidden: Any


@triton.jit
def norms_of(norm, place, HIDDEN: tl.constexpr, GATES: tl.constexpr, STATES: tl.constexpr, ROWS: tl.constexpr = 1):
    """Tiles [ROWS, U], one row or as many as there are batch entries; empty for a layer that is not normalised.

    As many have the layout of all other tiles that are loaded; one has its own and passes through shared memory to meet
    others (pointwise, LSTM, backward on sm_90: 69 barriers of the block in place of 25). But where a loop keeps most
    registers for other values, one leaves more of them.
    """
    if norm is None:
        return ()
    else:
        within = (place.unit < HIDDEN)[None, :]
        unit = tl.broadcast_to(place.unit[None, :], [ROWS, place.unit.shape[0]])
        of_gates = place.direction * (GATES * HIDDEN) + unit
        gain = load_planes(norm.gain + of_gates, within, HIDDEN, GATES)
        bias = load_planes(norm.bias + of_gates, within, HIDDEN, GATES)
        state_gain, state_bias = (), ()
        if STATES > 1:
            of_state = place.direction * HIDDEN + unit
            state_gain = load_planes(norm.state_gain + of_state, within, HIDDEN, 1)
            state_bias = load_planes(norm.state_bias + of_state, within, HIDDEN, 1)
        epsilon = tl.full([1, 1], norm.epsilon, tl.float64).to(gain[0].dtype)
        return Norms(gain, bias, state_gain, state_bias, epsilon, within, HIDDEN)


@triton.jit
def normalised_gates(products, norms, TOGETHER: tl.constexpr):
    """``gh`` from the products with h, which have their biases already where nothing is normalised.

    ``TOGETHER``: how many gates, in their order, are normalised together.
    """
    if len(norms) == 0:
        return products
    else:
        gates, remaining = (), products
        for group in tl.static_range(len(TOGETHER)):
            normal, _ = _normalised(remaining[: TOGETHER[group]], norms)
            gates += normal
            remaining = remaining[TOGETHER[group] :]
        return _scaled(gates, norms.gain, norms.bias)


@triton.jit
def through_gates(dgates, products, norms, TOGETHER: tl.constexpr):
    """Gradients of the products from those of ``gh``."""
    if len(norms) == 0:
        return dgates
    else:
        gradients, remaining, dnormal = (), products, _product(dgates, norms.gain)
        for group in tl.static_range(len(TOGETHER)):
            gradients += _through_norm(dnormal[: TOGETHER[group]], remaining[: TOGETHER[group]], norms)
            remaining, dnormal = remaining[TOGETHER[group] :], dnormal[TOGETHER[group] :]
        return gradients


@triton.jit
def output(c, norms):
    """A cell's own state as ``h`` is formed from it."""
    if len(norms) == 0:
        return c
    else:
        normal, _ = _normalised((c,), norms)
        return _scaled(normal, norms.state_gain, norms.state_bias)[0]


@triton.jit
def through_output(doutput, c, norms):
    """The gradient of a cell's own state by way of ``h``."""
    if len(norms) == 0:
        return doutput
    else:
        return _through_norm(_product((doutput,), norms.state_gain), (c,), norms)[0]


@triton.jit
def _normalised(tiles, norms):
    """And [R, 1], what they were multiplied by."""
    mean = _mean(tiles, norms)
    centred = ()
    for i in tl.static_range(len(tiles)):
        centred += (tiles[i] - mean,)
    scale = 1 / tl.sqrt(_mean(_product(centred, centred), norms) + norms.epsilon)
    normal = ()
    for i in tl.static_range(len(tiles)):
        normal += (centred[i] * scale,)
    return normal, scale


@triton.jit
def _through_norm(dnormal, tiles, norms):
    normal, scale = _normalised(tiles, norms)
    plain, with_value = _mean(dnormal, norms), _mean(_product(dnormal, normal), norms)
    gradients = ()
    for i in tl.static_range(len(tiles)):
        gradients += (scale * (dnormal[i] - plain - normal[i] * with_value),)
    return gradients


@triton.jit
def _mean(tiles, norms):
    """[R, 1], of all units of a row in all tiles."""
    total = tiles[0]
    for i in tl.static_range(1, len(tiles)):
        total += tiles[i]
    return tl.sum(tl.where(norms.within, total, 0), 1, keep_dims=True) / (len(tiles) * norms.hidden)


@triton.jit
def _product(left, right):
    products = ()
    for i in tl.static_range(len(left)):
        products += (left[i] * right[i],)
    return products


@triton.jit
def _scaled(normal, gain, bias):
    scaled = ()
    for i in tl.static_range(len(normal)):
        scaled += (normal[i] * gain[i] + bias[i],)
    return scaled
