"""gradient_flow: total derivatives, equal to those of a loop written by hand, and verdicts on layers known to be so."""

import pytest
import torch
from comparison import (
    CELL_MODULES,
    LAYERS,
    assert_same,
    build,
    inputs,
    layers,
    modules_of,
    pair,
    results,
    rows,
    states,
    tensors,
    with_options,
)
from model_cases import LENGTHS as SOURCE_LENGTHS
from model_cases import TARGET, TOKENS, every_class, seeded, seq2seq
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn.diagnose import bytes_kept, gradient_flow
from fastrnn.diagnose.stepped import run_stepped

pytestmark = pytest.mark.usefixtures("single_thread")

T, B, F, H = 7, 3, 4, 5
LENGTHS = torch.tensor([2, 7, 4])


def packed(x: Tensor):
    return pack_padded_sequence(x, LENGTHS, enforce_sorted=False)


class Stepped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *arguments):
        return run_stepped(self.module, *arguments)[:2]


FORMS = {
    "dense": ({}, inputs(T, B, F)),
    "batch-first": ({"batch_first": True}, inputs(B, T, F)),
    "unbatched": ({}, inputs(T, F)),
    "packed": ({}, packed(inputs(T, B, F))),
    "stack": ({"num_layers": 2, "bidirectional": True}, packed(inputs(T, B, F))),
    "no-bias": ({"bias": False, "bidirectional": True}, inputs(T, B, F)),
}


@layers
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "state"])
def test_a_stepped_module_is_the_module(kind, form, given):
    options, x = FORMS[form]
    theirs, _ = pair(LAYERS, kind, F, H, dtype=torch.float64, **options)
    batch = None if form == "unbatched" else B
    hx = states(kind, rows(options), batch, H, dtype=torch.float64) if given else None
    expected = results(theirs, x, hx)
    for module in modules_of(LAYERS, kind, F, H, dtype=torch.float64, **options):
        found = results(Stepped(module), x, hx)
        assert_same({name.replace("module.", ""): value for name, value in found.items()}, expected)


@pytest.mark.filterwarnings("ignore:fastrnn. .* with layer_norm:UserWarning")
@pytest.mark.parametrize("own", [{"zoneout": 0.3}, {"layer_norm": True, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_stepped_module_has_what_torch_lacks(kind, own):
    module = build(fastrnn, LAYERS, kind, F, H, dtype=torch.float64, **own).eval()
    found = results(Stepped(module), inputs(T, B, F))
    expected = results(module, inputs(T, B, F))
    assert_same({name.replace("module.", ""): value for name, value in found.items()}, expected)


@with_options({"projected": {"proj_size": 2, "num_layers": 2}})
def test_a_stepped_projection_is_the_projection(kind, options):
    theirs, ours = pair(LAYERS, kind, F, H, dtype=torch.float64, **options)
    found = results(Stepped(ours), inputs(T, B, F))
    assert_same({name.replace("module.", ""): value for name, value in found.items()}, results(theirs, inputs(T, B, F)))


def by_hand(kind: str, module: nn.Module, x: Tensor, loss) -> list[Tensor]:
    """Norms of the gradients with respect to every state, in a loop over the peer's cells: [T] for each layer."""
    found = []
    for layer in range(module.num_layers):
        names = {name: f"{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        cell, _ = pair(CELL_MODULES, kind, x[0].size(1), H, dtype=torch.float64)
        cell.load_state_dict({name: getattr(module, source) for name, source in names.items()})
        steps, hx = [], None
        for row in x:
            # What is handed on stands for itself: torch.nn's cell computes h from the c that it returns.
            handed = [part.clone() for part in tensors(cell(row, hx))]
            for part in handed:
                part.retain_grad()
            steps.append(handed)
            hx = tuple(handed) if len(handed) > 1 else handed[0]
        x = [handed[0] for handed in steps]
        found.append(steps)
    loss(torch.stack(x)).backward()

    def norm(parts: list[Tensor]) -> Tensor:
        return torch.cat([part.grad for part in parts if part.grad is not None]).norm()

    return [torch.stack([norm(parts) for parts in steps]) for steps in found]


@layers
def test_the_gradients_are_those_of_a_loop_written_by_hand(kind):
    def weighted(y: Tensor) -> Tensor:  # of all steps, so that each has a part of its own besides what comes back
        return (y * inputs(*y.shape).cos()).sum()

    for module in modules_of(LAYERS, kind, F, H, dtype=torch.float64, num_layers=2):
        for loss in (weighted, lambda y: weighted(y[-1:])):
            flow = gradient_flow(module, inputs(T, B, F), lambda output, loss=loss: loss(output[0]))
            expected = by_hand(kind, module, inputs(T, B, F), loss)
            for layer, norms in zip(flow.layers, expected, strict=True):
                torch.testing.assert_close(layer.norms, norms)


class Loop(nn.Module):
    """Layers of cells, one step after another; the output of all steps."""

    def __init__(self, cells):
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, x: Tensor) -> Tensor:
        states: list = [None] * len(self.cells)
        outputs = []
        for row in x:
            for i, cell in enumerate(self.cells):
                states[i] = cell(row, states[i])
                row = next(tensors(states[i]))
            outputs.append(row)
        return torch.stack(outputs)


@layers
@pytest.mark.parametrize("shape", [(T, B, F), (T, F)], ids=["rows", "unbatched"])
def test_cells_in_a_loop_are_as_the_layer(kind, shape):
    x = inputs(*shape)
    layer = modules_of(LAYERS, kind, F, H, num_layers=2, dtype=torch.float64)[0]
    expected = gradient_flow(layer, x, lambda output: output[0][-1].sum())
    for cells in zip(*(modules_of(CELL_MODULES, kind, n, H, dtype=torch.float64) for n in (F, H)), strict=True):
        for i, cell in enumerate(cells):
            cell.load_state_dict({name: getattr(layer, f"{name}_l{i}") for name, _ in cell.named_parameters()})
        flow = gradient_flow(Loop(cells), x)
        assert [found.name for found in flow.layers] == ["cells.0", "cells.1"]
        for found, wanted in zip(flow.layers, expected.layers, strict=True):
            torch.testing.assert_close(found.norms, wanted.norms)
            assert found.radii == wanted.radii and found.ratio == pytest.approx(wanted.ratio)


@layers
def test_the_backward_direction_is_judged_in_its_own_order(kind):
    for module in modules_of(LAYERS, kind, F, H, dtype=torch.float64, bidirectional=True):
        single = modules_of(LAYERS, kind, F, H, dtype=torch.float64)[0]
        with torch.no_grad():
            for name, parameter in single.named_parameters():
                parameter.copy_(getattr(module, name + "_reverse"))
        forward, backward = gradient_flow(module, inputs(T, B, F)).layers
        assert backward.name.endswith("backward") and not forward.name.endswith("backward")
        (expected,) = gradient_flow(single, inputs(T, B, F).flip(0)).layers
        torch.testing.assert_close(backward.norms, expected.norms)
        assert backward.ratio == pytest.approx(expected.ratio)


class Chunks(nn.Module):
    """A layer called on one chunk after another, each call from the ``passed`` state that the one before returned."""

    def __init__(self, rnn, passed=lambda state: state):
        super().__init__()
        self.rnn, self.passed = rnn, passed

    def forward(self, *chunks):
        state = None
        for chunk in chunks:
            y, state = self.rnn(chunk, state if state is None else self.passed(state))
        return y


@layers
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("form", ["dense", "batch-first", "unbatched"])
def test_a_call_from_the_state_that_another_returned_goes_on_with_its_steps(kind, form, size):
    options, x = FORMS[form]
    for module in modules_of(LAYERS, kind, F, H, dtype=torch.float64, num_layers=2, **options):
        expected = gradient_flow(module, x)
        flow = gradient_flow(Chunks(module), x.split(size, 1 if "batch_first" in options else 0))
        assert [layer.name for layer in flow.layers] == ["rnn, layer 0", "rnn, layer 1"]
        for found, wanted in zip(flow.layers, expected.layers, strict=True):
            torch.testing.assert_close(found.norms, wanted.norms)
            assert found.ratio == pytest.approx(wanted.ratio)


def test_a_backward_direction_goes_on_in_its_own_order():
    module = fastrnn.GRU(F, H, bidirectional=True, dtype=torch.float64)
    single = nn.GRU(F, H, dtype=torch.float64)
    single.load_state_dict({name: getattr(module, name + "_reverse") for name, _ in single.named_parameters()})
    chunks = inputs(T, B, F).split(4)
    _, backward = gradient_flow(Chunks(module), chunks).layers
    (expected,) = gradient_flow(single, torch.cat([chunk.flip(0) for chunk in chunks])).layers
    torch.testing.assert_close(backward.norms, expected.norms)


def test_rows_that_are_padded_in_one_chunk_go_on_in_the_next():
    module = fastrnn.LSTM(F, H, dtype=torch.float64)
    x, more = inputs(T, B, F), inputs(4, B, F)
    (together,) = gradient_flow(Chunks(module), (packed(x), more)).layers
    rows = [torch.cat([x[:n, b : b + 1], more[:, b : b + 1]]) for b, n in enumerate(LENGTHS.tolist())]
    ratios = torch.tensor([gradient_flow(module, row).layers[0].ratio for row in rows])
    assert together.ratio == pytest.approx(float(ratios.log().mean().exp()), rel=1e-5)
    assert len(together.norms) == T + 4


@pytest.mark.parametrize("passed", [torch.clone, torch.detach, lambda state: state[:, [1, 0, 2]]])
def test_a_call_from_any_other_state_is_reported_for_itself(passed):
    flow = gradient_flow(Chunks(nn.GRU(F, H, dtype=torch.float64), passed), inputs(T, B, F).split(4))
    assert [layer.name for layer in flow.layers] == ["rnn, layer 0", "rnn (call 2), layer 0"]


def test_of_two_calls_from_one_state_the_first_goes_on():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(F, H)

        def forward(self, x):
            _, (h, c) = self.lstm(x)
            return [self.lstm(x, (h, c)), self.lstm(input=x, hx=(h, c))]

    flow = gradient_flow(Branches(), inputs(T, B, F).float())
    assert {layer.name: len(layer.norms) for layer in flow.layers} == {
        "lstm, layer 0": 2 * T,
        "lstm (call 2), layer 0": T,
    }


@every_class
@pytest.mark.parametrize("attention", [None, "dot"])
def test_a_decoder_called_step_by_step_is_as_called_once(attention, rnn):
    model = seeded(seq2seq(attention=attention, layers=2), rnn=rnn)
    expected, stepwise = (
        gradient_flow(model, (TOKENS, SOURCE_LENGTHS, TARGET, forcing), lambda scores: scores[:, -1].sum())
        for forcing in (1.0, 1 - 1e-12)
    )
    for found, wanted in zip(stepwise.layers, expected.layers, strict=True):
        assert found.name == wanted.name
        torch.testing.assert_close(found.norms, wanted.norms)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_row_counts_from_its_first_to_its_last_step(bidirectional):
    module = fastrnn.GRU(F, H, num_layers=2, bidirectional=bidirectional, dtype=torch.float64)
    x = inputs(T, B, F)
    together = gradient_flow(module, packed(x))
    alone = [gradient_flow(module, x[:n, b : b + 1]) for b, n in enumerate(LENGTHS.tolist())]
    for k, layer in enumerate(together.layers):
        squares = torch.zeros(T, dtype=torch.float64)
        for flow in alone:
            norms = flow.layers[k].norms
            squares[: len(norms)] += norms**2
        torch.testing.assert_close(layer.norms, squares.sqrt())
        ratios = torch.tensor([flow.layers[k].ratio for flow in alone])
        assert layer.ratio == pytest.approx(float(ratios.log().mean().exp()), rel=1e-5)


def test_padding_that_the_loss_ignores_is_no_last_step():
    module = fastrnn.LSTM(F, H, dtype=torch.float64)
    x, columns = inputs(T, B, F), torch.arange(B)
    (dense,) = gradient_flow(module, x, lambda output: output[0][LENGTHS - 1, columns].sum()).layers
    (ragged,) = gradient_flow(module, packed(x)).layers
    assert dense.ratio == pytest.approx(ragged.ratio)


class Model(nn.Module):
    def __init__(self, rnn, returned=torch.mean):
        super().__init__()
        self.rnn, self.returned = rnn, returned
        self.head = nn.Linear(rnn.hidden_size, 1)

    def forward(self, x, lengths):
        y, _ = self.rnn(input=pack_padded_sequence(x, lengths, enforce_sorted=False))
        return self.returned(self.head(pad_packed_sequence(y)[0][lengths - 1, torch.arange(len(lengths))]).square())


def with_recurrence(rnn: nn.Module, matrix: Tensor) -> nn.Module:
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(matrix)
    return rnn


ROTATION = torch.linalg.qr(inputs(H, H)).Q.float()


@pytest.mark.parametrize("namespace", [nn, fastrnn], ids=["torch.nn", "fastrnn"])
def test_verdicts(namespace):
    x, lengths = 1e-5 * inputs(30, B, F).float(), torch.tensor([30, 28, 30])
    verdicts = {}
    for scale in (0.5, 1.0, 1.5):
        rnn = with_recurrence(namespace.RNN(F, H, bias=False, nonlinearity="tanh"), scale * ROTATION)
        flow = gradient_flow(Model(rnn), (x, lengths))
        verdicts[scale] = flow.verdict
        assert flow.layers[0].radii == {"h": pytest.approx(scale, rel=1e-5)}
        assert f"gradient flow: {flow.verdict}\nrnn, layer 0: {flow.verdict}" in str(flow)
        assert f"h {scale:.2f}" in str(flow)
    assert verdicts == {0.5: "vanishing", 1.0: "healthy", 1.5: "exploding"}


@pytest.mark.parametrize("namespace", [nn, fastrnn], ids=["torch.nn", "fastrnn"])
@pytest.mark.parametrize("bias,expected", [(-3.0, "vanishing"), (5.0, "healthy")])
def test_the_forget_bias_of_an_lstm_decides(bias, expected, namespace):
    x, lengths = inputs(30, B, F).float(), torch.tensor([30, 28, 30])
    torch.manual_seed(0)
    lstm = namespace.LSTM(F, 32)
    with torch.no_grad():
        lstm.bias_ih_l0[32:64] = bias
    assert gradient_flow(Model(lstm), (x, lengths)).verdict == expected


def test_a_gradient_that_overflows_explodes_and_a_layer_without_one_is_unused():
    flow = gradient_flow(with_recurrence(nn.RNN(F, H, bias=False), 100 * torch.eye(H)), torch.zeros(40, B, F))
    assert flow.verdict == "exploding" and flow.layers[0].ratio == torch.inf
    flow = gradient_flow(nn.GRU(F, H), inputs(T, B, F).float(), lambda output: output[0].mul(0).sum())
    assert flow.verdict == "unused"


@pytest.mark.parametrize("steps,loss", [(1, None), (T, lambda output: output[0][0].sum())])
def test_one_step_proves_nothing(steps, loss):
    flow = gradient_flow(nn.GRU(F, H), inputs(steps, B, F).float(), loss)
    assert flow.verdict == "single step" and flow.layers[0].ratio == 1


def test_spectral_radii_of_every_gate_and_of_a_projection():
    lstm = fastrnn.LSTM(F, H, proj_size=2, num_layers=2, dtype=torch.float64)
    for k, layer in enumerate(gradient_flow(lstm, inputs(T, B, F)).layers):
        blocks = getattr(lstm, f"weight_hh_l{k}").detach().unflatten(0, (4, H))
        product = blocks @ getattr(lstm, f"weight_hr_l{k}").detach()
        expected = torch.linalg.eigvals(product).abs().amax(1).tolist()
        assert list(layer.radii) == ["i", "f", "g", "o"]
        assert list(layer.radii.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "returned,loss",
    [(torch.mean, None), (torch.clone, None), (torch.clone, torch.mean)],
    ids=["loss-of-its-own", "default", "given"],
)
def test_the_model_is_left_as_it_was(returned, loss, tmp_path):
    model = Model(fastrnn.LSTM(F, H, num_layers=2), returned).train().requires_grad_(False)
    x, lengths = inputs(T, B, F).float(), LENGTHS
    expected = model(x, lengths)
    with torch.no_grad():
        flow = gradient_flow(model, (x, lengths), loss)
    assert len(flow.layers) == 2 and flow.verdict != "unused"
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not model.rnn._forward_hooks
    assert torch.equal(model(x, lengths), expected)
    pytest.importorskip("matplotlib")
    flow.draw(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").stat().st_size > 1000


def test_every_call_of_a_layer_is_reported():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(F, F)

        def forward(self, x):
            return self.gru(self.gru(x)[0])[0]

    names = [layer.name for layer in gradient_flow(Twice(), inputs(T, B, F).float()).layers]
    assert names == ["gru, layer 0", "gru (call 2), layer 0"]


@pytest.mark.parametrize("namespace", [nn, fastrnn], ids=["torch.nn", "fastrnn"])
def test_the_default_loss_is_of_what_ran_last_even_if_it_ran_first_too(namespace):
    class Turns(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = namespace.GRUCell(F, F), namespace.GRUCell(F, F)

        def forward(self, x):
            return self.first(x, self.second(x, self.first(x)))

    flow = gradient_flow(Turns(), inputs(B, F).float())
    assert [layer.name for layer in flow.layers] == ["second", "first"]
    assert float(flow.layers[1].norms[1]) == pytest.approx((B * F) ** 0.5)  # of the sum, by itself


class Nested(nn.GRUCell):
    def forward(self, input, hx=None):
        h = super().forward(input, hx)
        return h, (h, h)


class Shrinking(Loop):
    def forward(self, x: Tensor) -> Tensor:
        (cell,) = self.cells
        return cell(x[1, :2], cell(x[0])[:2])


class Forgetful(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input)


@pytest.mark.parametrize(
    "module,loss,error,message",
    [
        (nn.Linear(F, H), None, ValueError, "expected a recurrent layer that runs, found none"),
        (nn.Sequential(nn.GRU(F, H), Forgetful(F, H)), None, TypeError, "1: expected a layer .* forward of its own"),
        (
            Shrinking([nn.GRUCell(F, H)]),
            None,
            ValueError,
            r"cells.0: expected states of one shape .* \(3, 5\) and then \(2",
        ),
        (Loop([Nested(F, H)]), None, TypeError, r"cells.0: .* a tensor or a tuple of tensors, got Tensor, tuple"),
        (nn.GRU(F, H), lambda output: output[0], ValueError, "a finite scalar tensor that requires grad, got tensor"),
        (nn.GRU(F, H), lambda output: output[0].sum().item(), ValueError, "a finite scalar tensor .* got -?[0-9]"),
        (nn.GRU(F, H), lambda output: output[0].sum().log() * torch.nan, ValueError, "finite scalar .* got nan"),
        (nn.GRU(F, H), lambda output: output[0].sum().detach(), ValueError, "tensor that requires grad"),
    ],
)
def test_errors_say_what_was_expected(module, loss, error, message):
    with pytest.raises(error, match=message):
        gradient_flow(module, inputs(T, B, F).float(), loss)
    assert not any(m._forward_hooks for m in module.modules())


class Minimal(nn.modules.rnn.RNNCellBase):
    """A minimal gated unit (Zhou et al. 2016): two gates."""

    def __init__(self):
        super().__init__(F, H, bias=False, num_chunks=2)

    def forward(self, x, h):
        f, n = (nn.functional.linear(x, self.weight_ih) + nn.functional.linear(h, self.weight_hh)).chunk(2, -1)
        return h + f.sigmoid() * (n.tanh() - h)


def test_a_cell_of_ones_own_has_numbered_gates():
    cell = Minimal()
    (found,) = gradient_flow(cell, (torch.randn(B, F), torch.randn(B, H))).layers
    assert list(found.radii) == ["0", "1"] and found.verdict == "single step"


def test_bytes_kept_are_those_that_only_backward_needs():
    linear, x = nn.Linear(F, H), torch.randn(B, F)
    assert bytes_kept(lambda: linear(x).tanh().tanh(), [*linear.parameters(), x]) == 2 * 4 * B * H
    with torch.no_grad():
        assert bytes_kept(lambda: linear(x).tanh(), []) == 0
