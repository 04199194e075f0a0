"""freeze: what the layers compute, what they refuse, and how their weights are kept."""

import copy
import pickle

import pytest
import torch
from comparison import CELL_MODULES, LAYERS, cells, each, every_module, inputs, layers, pair, rows, states, tensors
from problems import MULTIPLY_BFLOAT16, every_isa
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import fastrnn
from fastrnn import _C
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS

pytestmark = pytest.mark.usefixtures("single_thread")

every_format = pytest.mark.parametrize("weights", ["bfloat16", "int8"])
every_copy = pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: loaded(m)],
    ids=["copy", "pickle", "state_dict"],
)

# Errors of h, whose size is about 1, that the rounding of activations may leave after some steps of these layers.
TOLERANCE = {"bfloat16": 2e-2, "int8": 2e-4}
SIZES = [(1, 1, 1), (5, 17, 3), (33, 40, 6), (5, 64, 1), (65, 70, 37)]  # inputs, hidden units, rows


def frozen_pair(kinds, kind, weights, *sizes, **options):
    """A frozen module, and its peer in float64 with the weights that it holds."""
    exact, module = pair(kinds, kind, *sizes, **options)
    fastrnn.freeze(module, weights)
    with torch.no_grad():
        for name, parameter in exact.named_parameters():
            parameter.copy_(getattr(module, name))
    return module, exact.double()


def loaded(module):
    """Another layer frozen in the same way, given the state_dict."""
    other = fastrnn.freeze(nn.LSTM(5, 17, 2, bidirectional=True), module.stored_as)
    other.load_state_dict(module.state_dict())
    return other


def assert_close(got, expected, tolerance):
    for a, b in zip(tensors(got), tensors(expected), strict=True):
        assert a.dtype == torch.float32 and not a.requires_grad
        torch.testing.assert_close(a.double(), b.detach(), rtol=0, atol=tolerance)


@every_isa
@every_format
@layers
@pytest.mark.parametrize("I,H,B", SIZES)
def test_layers_compute_with_the_rounded_weights(kind, weights, I, H, B, isa):  # noqa: E741
    tolerance = TOLERANCE[weights] if _C.has_bfloat16() else 1e-5
    options = {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "bias": H != 17, "batch_first": H == 40}
    module, exact = frozen_pair(LAYERS, kind, weights, I, H, **options)
    exact.dropout = 0.0
    x = inputs(*((B, 9) if H == 40 else (9, B)), I, dtype=torch.float32)
    for hx in (None, states(kind, rows(options), B, H, dtype=torch.float32)):
        assert_close(module(x, hx), exact(x.double(), each(Tensor.double, hx)), tolerance)


@every_isa
@every_format
@cells
def test_cells_compute_with_the_rounded_weights(kind, weights, isa):
    tolerance = TOLERANCE[weights] if _C.has_bfloat16() else 1e-5
    module, exact = frozen_pair(CELL_MODULES, kind, weights, 33, 17)
    x = inputs(5, 33, dtype=torch.float32)
    hx = states(kind, None, 5, 17, dtype=torch.float32)
    assert_close([module(x, hx)], [exact(x.double(), each(Tensor.double, hx))], tolerance)
    assert_close([module(x[0])], [exact(x[0].double())], tolerance)


@every_format
@layers
def test_ragged_and_unbatched_inputs(kind, weights):
    module, exact = frozen_pair(LAYERS, kind, weights, 5, 17, bidirectional=True)
    sequences = [inputs(length, 5, dtype=torch.float32) for length in (3, 9, 1, 4, 4)]
    hx = states(kind, 2, len(sequences), 17, dtype=torch.float32)
    packed = pack_sequence(sequences, enforce_sorted=False)
    for state in (None, hx):
        y, h = module(packed, state)
        y_exact, h_exact = exact(packed.to(torch.float64), each(Tensor.double, state))
        assert_close(h, h_exact, TOLERANCE[weights])
        assert_close(pad_packed_sequence(y)[0], pad_packed_sequence(y_exact)[0], TOLERANCE[weights])
    assert_close(module(sequences[1]), exact(sequences[1].double()), TOLERANCE[weights])


@pytest.mark.skipif("avx512bf16" not in _C.runnable_isas(), reason="needs a processor that multiplies int8")
def test_int8_products_are_exact_but_for_16_bits_of_the_activations():
    """A linear cell of one step shows the sums: their error is half a unit of fixed point for each activation."""
    torch.manual_seed(0)
    module = nn.RNN(1000, 16, nonlinearity="relu", bias=False)
    fastrnn.freeze(module, "int8")
    x = torch.rand(1, 50, 1000) + 0.5  # the same sign, so that the sums are not cut at 0 by chance
    module.weight_ih_l0_int8.abs_()
    exact = x[0].double() @ module.weight_ih_l0.double().T
    limit = x.max() / 32767 / 2 * module.weight_ih_l0.sum(1).max() + 1e-6 * exact.max()
    assert (module(x)[0][0] - exact).abs().max() <= limit


# Blocks of rows that end within a tile, few rows beside many, sums that end within a tile; and ragged batches.
TILE_SIZES = [(1, 17, 3), (70, 65, 40), (33, 40, 70)]  # inputs, hidden units, rows


def outputs_of(module, isas, I, H, B):  # noqa: E741
    """On each of the instruction sets: of a batch as it is, and of a ragged one."""
    x = inputs(7, B, I, dtype=torch.float32)
    ragged = pack_sequence([x[: 1 + row % 7, row] for row in range(B)], enforce_sorted=False)
    found = []
    for isa in isas:
        _C.force_isa(isa)
        found.append([*tensors(module(x)), *tensors(module(ragged)[1]), module(ragged)[0].data])
    return found


def assert_same(found):
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif("avx512bf16" not in _C.runnable_isas(), reason="needs a processor that multiplies int8")
@layers
@pytest.mark.parametrize("I,H,B", TILE_SIZES)
def test_int8_has_the_same_bits_on_vectors_and_tiles(kind, I, H, B, isa_as_before):  # noqa: E741
    _, module = pair(LAYERS, kind, I, H, bidirectional=True)
    assert_same(outputs_of(fastrnn.freeze(module, "int8"), MULTIPLY_BFLOAT16, I, H, B))


@pytest.mark.skipif("amx" not in _C.runnable_isas(), reason="needs a processor with AMX, and its system's permission")
@layers
@pytest.mark.parametrize("I,H,B", TILE_SIZES)
def test_tiles_in_software_are_those_of_the_processor(kind, I, H, B, isa_as_before):  # noqa: E741
    _, module = pair(LAYERS, kind, I, H, bidirectional=True)
    assert_same(outputs_of(fastrnn.freeze(module, "bfloat16"), ["amx", "software_tiles"], I, H, B))


@every_isa
@every_format
@layers
def test_threads_and_neighbours_do_not_change_a_bit(kind, weights, isa):
    _, module = pair(LAYERS, kind, 33, 300, bidirectional=True)
    fastrnn.freeze(module, weights)
    x = inputs(20, 11, 33, dtype=torch.float32)
    expected = list(tensors(module(x)))
    torch.set_num_threads(2)
    for many, one in zip(tensors(module(x)), expected, strict=True):
        assert torch.equal(many, one)
    for some in ([4], [9, 10], range(2, 8)):
        for one, alone in zip(expected, tensors(module(x[:, some])), strict=True):
            assert torch.equal(one[:, some], alone)


@every_isa
@every_format
@layers
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(kind, weights, bad, isa):
    _, module = pair(LAYERS, kind, 5, 17)
    fastrnn.freeze(module, weights)
    x = inputs(6, 4, 5, dtype=torch.float32)
    expected = module(x)[0]
    x[2, 1, 3] = bad
    y = module(x)[0]
    others = [0, 2, 3]
    assert torch.equal(y[:, others], expected[:, others]) and torch.equal(y[:2], expected[:2])
    if bad != bad or weights == "int8" and _C.has_bfloat16():
        assert y[2:, 1].isnan().all()
    hx = torch.zeros(1, 4, 17)
    hx[0, 1, 3] = torch.nan
    y = module(x, hx_of((hx, *[torch.zeros(1, 4, 17)] * (len(CELLS[kind].states) - 1))))[0]
    assert y[:, 1].isnan().all() and y[:, others].isfinite().all()


@every_isa
@every_format
@layers
@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e30])
def test_extreme_rows_and_weights(kind, weights, scale, isa):
    _, module = pair(LAYERS, kind, 5, 17)
    with torch.no_grad():
        module.weight_ih_l0[:9] *= scale
    fastrnn.freeze(module, weights)
    x = torch.ones(3, 4, 5)
    expected = module(x)[0]
    assert not expected.isnan().any()
    for tiny in (0.0, 1e-42):
        x[:, 1:] = tiny
        y = module(x)[0]
        assert torch.equal(y[:, :1], expected[:, :1])
        assert torch.equal(y[:, 1:], module(torch.zeros(3, 3, 5))[0])


@every_format
@every_copy
def test_copies_compute_the_same(weights, duplicate):
    torch.manual_seed(0)
    module = fastrnn.freeze(nn.LSTM(5, 17, 2, bidirectional=True), weights)
    x = inputs(6, 3, 5, dtype=torch.float32)
    for a, b in zip(tensors(duplicate(module)(x)), tensors(module(x)), strict=True):
        assert torch.equal(a, b)


@every_format
def test_a_written_buffer_is_seen(weights):
    torch.manual_seed(0)
    module = fastrnn.freeze(nn.GRU(5, 17), weights)
    x = inputs(6, 3, 5, dtype=torch.float32)
    before = module(x)[0]
    for name, buffer in module.named_buffers():
        buffer.neg_()
        changed = module(x)[0]
        assert not torch.equal(changed, before), name
        buffer.neg_()
        assert torch.equal(module(x)[0], before), name
    replaced = torch.func.functional_call(module, {"bias_ih_l0": module.bias_ih_l0 + 1}, x)[0]
    assert not torch.equal(replaced, before)


@every_format
def test_a_layer_is_packed_anew_for_another_instruction_set(weights):
    module, exact = frozen_pair(LAYERS, "lstm", weights, 33, 40)
    x = inputs(6, 3, 33, dtype=torch.float32)
    before = _C.isa()
    try:
        for isa in _C.runnable_isas():
            _C.force_isa(isa)
            assert_close(module(x), exact(x.double()), TOLERANCE[weights])
    finally:
        _C.force_isa(before)


def test_frozen_and_called_in_inference_mode():
    torch.manual_seed(0)
    with torch.inference_mode():
        module = fastrnn.freeze(nn.GRU(5, 17), "int8")
        x = torch.randn(6, 3, 5)
        before = module(x)[0]
        module.load_state_dict(fastrnn.freeze(nn.GRU(5, 17), "int8").state_dict())
        assert not torch.equal(module(x)[0], before)
        twin = copy.deepcopy(module)
        assert not twin.bias_ih_l0.is_inference()  # or the panels would be packed at every call
        assert torch.equal(twin(x)[0], module(x)[0])
        twin.bias_ih_l0.neg_()
        assert not torch.equal(twin(x)[0], module(x)[0])


def fill(module):
    module.weight_hh_l0 = nn.Parameter(torch.zeros(68, 17))


def test_memory_can_be_shared():
    module = nn.Sequential(fastrnn.freeze(nn.GRU(5, 17), "int8"))
    before = module(inputs(6, 3, 5, dtype=torch.float32))[0]
    module.share_memory()
    assert all(buffer.is_shared() for buffer in module.buffers())
    assert torch.equal(module(inputs(6, 3, 5, dtype=torch.float32))[0], before)


refused_changes = {
    "assign": fill,
    "assign-bias": lambda m: setattr(m, "bias_ih_l0", torch.zeros(68)),
    "assign-list": lambda m: setattr(m, "_flat_weights", [w * 2 for w in m._flat_weights]),
    "assign-buffer": lambda m: setattr(m, "weight_ih_l0_int8", torch.zeros(68, 5)),
    "initialise": lambda m: m.reset_parameters(),
    "float64": lambda m: m.double(),
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "meta": lambda m: m.to("meta"),
    "float-weights": lambda m: m.load_state_dict(nn.LSTM(5, 17).state_dict(), strict=False),
    "other-format": lambda m: m.load_state_dict(fastrnn.freeze(nn.LSTM(5, 17), "bfloat16").state_dict(), strict=False),
}


@pytest.mark.parametrize("change", refused_changes.values(), ids=refused_changes)
def test_changes_are_refused(change):
    module = fastrnn.freeze(nn.LSTM(5, 17), "int8")
    assert not list(module.parameters())
    x = inputs(6, 3, 5, dtype=torch.float32)
    before, state = module(x)[0], copy.deepcopy(module.state_dict())
    with pytest.raises(RuntimeError, match="frozen to int8"):
        change(module)
    assert module.state_dict().keys() == state.keys()
    assert torch.equal(module.float().cpu()(x)[0], before)


@every_module
def test_gradients_are_refused(kinds, kind):
    _, module = pair(kinds, kind, 5, 17)
    fastrnn.freeze(module, "int8")
    x = inputs(3, 5, dtype=torch.float32)
    leaf = x.clone().requires_grad_()
    hx = states(kind, *((1, None) if kinds is LAYERS else (None, 3)), 17, dtype=torch.float32)
    assert not next(tensors([module(x)])).requires_grad
    with torch.no_grad():
        module(leaf)
    with pytest.raises(RuntimeError, match="inference only"):
        module(leaf)
    for s in tensors([hx]):
        s.requires_grad_()
    with pytest.raises(RuntimeError, match="inference only"):
        module(x, hx)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(5, 17, 2, bidirectional=True)
        self.again = self.encoder
        self.decoder = fastrnn.GRUCell(34, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.decoder(self.encoder(x)[0][-1]))


@every_format
def test_a_model_is_frozen_in_place(weights):
    torch.manual_seed(0)
    model = Model()
    x = inputs(6, 3, 5, dtype=torch.float32)
    expected, head = model(x), model.head.weight
    seen = []
    model.encoder.register_forward_hook(lambda *_: seen.append("forward"))
    assert fastrnn.freeze(model, weights) is model
    assert model.again is model.encoder and model.head.weight is head
    torch.testing.assert_close(model(x), expected, rtol=0, atol=5e-2)
    assert seen == ["forward"]
    assert fastrnn.freeze(model, weights) is model
    assert f"weights read as {weights}" in fastrnn.explain(model) and weights in repr(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
    torch._dynamo.reset()


@every_isa
def test_explain_says_what_becomes_of_the_weights(isa):
    text = fastrnn.explain(fastrnn.freeze(nn.GRU(5, 17), "int8"))
    how = "multiplied as they are" if _C.has_bfloat16() else "widened to float32"
    unit = " on the matrix unit" if isa in ("amx", "software_tiles") else ""
    assert f"weights read as int8 and {how}{unit} ({isa})" in text


def test_accelerated_modules_are_frozen_but_for_subclasses():
    class Own(nn.GRU):
        pass

    model = fastrnn.accelerate(nn.ModuleDict({"plain": nn.GRU(5, 17), "own": Own(5, 17)}))
    fast = type(model["own"])
    with pytest.warns(UserWarning, match="not replaced by a frozen layer:\n  own: it is of .*Own, a subclass$"):
        fastrnn.freeze(model, "int8")
    assert type(model["plain"]) is type(fastrnn.freeze(fastrnn.GRU(5, 17), "int8"))
    assert type(model["own"]) is fast


def pruned():
    gru = nn.GRU(5, 17)
    prune.l1_unstructured(gru, "weight_hh_l0", 0.5)
    return gru


@pytest.mark.parametrize(
    "make", [pruned, lambda: parametrizations.weight_norm(nn.GRU(5, 17), "weight_hh_l0")], ids=["pruned", "weight_norm"]
)
def test_computed_weights_are_frozen_as_they_are(make):
    torch.manual_seed(0)
    gru = make()
    x = inputs(6, 3, 5, dtype=torch.float32)
    expected, w = gru(x)[0], gru.weight_hh_l0.detach()
    fastrnn.freeze(gru, "bfloat16")
    assert torch.equal(gru.weight_hh_l0, w.bfloat16().float())
    torch.testing.assert_close(gru(x)[0], expected, rtol=0, atol=2e-2)


def with_nan():
    gru = nn.GRU(5, 17)
    gru.weight_hh_l0.data[3, 4] = torch.nan
    return gru


def assigned():
    gru = nn.GRU(5, 17)
    gru._flat_weights = [w * 2 for w in gru._flat_weights]
    return gru


def hooked():
    return torch.nn.utils.spectral_norm(nn.GRU(5, 17), "weight_hh_l0")


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: nn.LSTM(5, 17, dtype=torch.float64), "got torch.float64"),
        (lambda: fastrnn.GRU(5, 17, dtype=torch.bfloat16), "got torch.bfloat16"),
        (lambda: nn.LSTM(5, 17, proj_size=3), "proj_size=3"),
        (lambda: nn.LSTM(5, 17, device="meta"), "on meta"),
        (lambda: fastrnn.freeze(nn.LSTM(5, 17), "bfloat16"), "frozen to bfloat16"),
        (with_nan, "finite values in weight_hh_l0"),
        (hooked, "computed in another way"),
        (assigned, "other tensors were assigned to _flat_weights"),
        (lambda: fastrnn.accelerate(assigned()), "other tensors were assigned to _flat_weights"),
        (lambda: nn.GRU(70000, 1), "at most 65536 columns in weight_ih_l0"),
    ],
)
def test_what_cannot_be_frozen_is_named_and_nothing_is_changed(make, message):
    model = nn.ModuleDict({"good": nn.GRU(5, 17), "wrong": make()})
    classes = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=f"wrong: .*{message}"):
        fastrnn.freeze(model, "int8")
    assert [type(m) for m in model.modules()] == classes


def test_bad_arguments():
    with pytest.raises(ValueError, match="'bfloat16' or 'int8', got 'int4'"):
        fastrnn.freeze(nn.GRU(5, 17), "int4")
    linear = nn.Linear(2, 2)
    assert fastrnn.freeze(linear, "int8") is linear
    module = fastrnn.freeze(nn.GRU(5, 17), "int8")
    with pytest.raises(ValueError, match="expected torch.float32 on the CPU, got torch.float64"):
        module(torch.zeros(6, 3, 5, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="Expected 5, got 4"):
        module(torch.zeros(6, 3, 4))
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        module(torch.zeros(6, 3, 5), torch.zeros(1, 2, 17))
    with pytest.raises(RuntimeError, match="sequence length"):
        module(torch.zeros(0, 3, 5))


def test_without_the_extension(monkeypatch):
    monkeypatch.setattr("fastrnn.backends.cpu.extension", None)
    monkeypatch.setattr("fastrnn.backends.cpu.missing", "it is not built")
    with pytest.raises(RuntimeError, match="it is not built"):
        fastrnn.freeze(nn.GRU(5, 17), "int8")
