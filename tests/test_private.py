"""Private training by Opacus, where it is installed: what it makes of the layers, against a loop over samples."""

import re
import sys
from typing import Any

import pytest
import torch
from comparison import LAYERS, assert_same, inputs, layers
from torch import Tensor, nn

import fastrnn
from fastrnn.examples import private

B, T, I, H = 5, 4, 3, 4  # noqa: E741


@pytest.fixture
def opacus():
    module = pytest.importorskip("opacus", reason="needs opacus: pip install 'fastrnn[privacy]'")
    # It sets a flag of cuDNN, which PyTorch's own test modules forbid to the whole process once they are imported.
    with torch.backends.__allow_nonbracketed_mutation():
        yield module


# Of its random numbers, of hooks on what has no gradient, and of how well it bounds the privacy of so few samples.
quietly = pytest.mark.filterwarnings("ignore:(Secure RNG|Full backward hook|Optimal order):UserWarning")


class Outputs(nn.LSTM):
    """For ``accelerate``."""

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input)[0]


def outputs_of(kind: str, **options: Any) -> nn.Module:
    """A layer whose result is its output alone."""
    class_name, arguments = LAYERS[kind]
    cls: Any = getattr(fastrnn, class_name)

    class Outputs(cls):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)[0]

    return Outputs(I, H, batch_first=True, **arguments, **options)


def tagger(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.Tanh(), nn.LazyLinear(2)).double()
    model(inputs(1, 1, I))
    return model


def labels() -> Tensor:
    return torch.arange(B) % 2


def by_sample(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """By a loop."""
    losses = nn.functional.cross_entropy(model(x).mean(1), labels(), reduction="none")
    each = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
    stacked = [torch.stack(gradients) for gradients in zip(*each, strict=True)]
    return dict(zip(dict(model.named_parameters()), stacked, strict=True))


def attribute(model: nn.Module, name: str) -> dict[str, Tensor]:
    return {key: getattr(p, name) for key, p in model.named_parameters()}


@layers
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "deep"])
@pytest.mark.parametrize("mode", ["hooks", "functorch"])
@quietly
def test_gradients_by_sample(kind, options, mode, opacus):
    model, x = tagger(outputs_of(kind, **options)), inputs(B, T, I)
    expected = by_sample(model, x)
    private = opacus.GradSampleModule(model, force_functorch=mode == "functorch")
    nn.functional.cross_entropy(private(x).mean(1), labels()).backward()
    assert_same(attribute(model, "grad_sample"), expected)


@quietly
def test_a_layer_that_accelerate_has_swapped(opacus):
    model, x = tagger(Outputs(I, H, batch_first=True)), inputs(B, T, I)
    expected = by_sample(model, x)
    fastrnn.accelerate(model)
    private = opacus.GradSampleModule(model)
    nn.functional.cross_entropy(private(x).mean(1), labels()).backward()
    assert_same(attribute(model, "grad_sample"), expected)


@quietly
def test_a_batch_that_poisson_sampling_left_empty(opacus):
    model = tagger(outputs_of("lstm"))
    opacus.GradSampleModule(model)(inputs(0, T, I)).sum().backward()
    assert {g.shape[0] for g in attribute(model, "grad_sample").values()} == {0}


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ghost"])
@quietly
def test_clipped_gradients(mode, opacus):
    model, x = tagger(outputs_of("gru")), inputs(B, T, I)
    expected = by_sample(model, x)
    norms = torch.stack([t.flatten(1).norm(dim=1) for t in expected.values()]).norm(dim=0)
    largest = float(norms.median())
    shares = (largest / (norms + 1e-6)).clamp(max=1)
    clipped = {name: torch.einsum("n,n...->...", shares, t) for name, t in expected.items()}

    private, optimizer, *others = opacus.PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), 1.0),
        criterion=nn.CrossEntropyLoss(),
        data_loader=torch.utils.data.DataLoader(x, B),
        noise_multiplier=0.0,
        max_grad_norm=largest,
        grad_sample_mode=mode,
    )
    criterion = others[0] if mode == "ghost" else nn.CrossEntropyLoss()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    criterion(private(x).mean(1), labels()).backward()
    optimizer.step()
    assert_same({name: (before[name] - p.detach()) * B for name, p in model.named_parameters()}, clipped)


@quietly
def test_the_example_spends_what_it_was_given(opacus, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["private", "--epsilon", "3", "--epochs", "2", "--hidden", "8"])
    private.main()
    *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +2 +[01]\.\d{3} +(2\.9\d|3\.00) +\d+\.\d\d", last)


def test_what_is_missing_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["private"])
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(SystemExit, match=r"examples.private needs opacus: pip install 'fastrnn\[privacy\]'$"):
        private.main()
