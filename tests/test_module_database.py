"""PyTorch's own database of inputs for its modules: the same results, gradients and errors."""

import copy

import pytest
import torch
from comparison import assert_same, results, tensors

import fastrnn
from fastrnn.modules.counterparts import FAST

pytest.importorskip("expecttest", reason="PyTorch's database needs it")
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db  # noqa: E402

pytestmark = pytest.mark.usefixtures("single_thread")

RECURRENT = [info for info in module_db if info.module_cls in FAST]
SETTINGS = {"device": "cpu", "dtype": torch.float64, "requires_grad": True}


def samples(which):
    """Module, mode and input. ``which`` names a function of an entry."""
    torch.manual_seed(0)
    for info in RECURRENT:
        for training in (True, False):
            found = getattr(info, which)(info, training=training, with_packed_sequence=True, **SETTINGS)
            for k, sample in enumerate(found):
                name = f"{info.module_cls.__name__}-{'train' if training else 'eval'}-{k}"
                yield pytest.param(info.module_cls, training, sample, id=name)


def test_every_recurrent_module_is_in_the_database():
    assert {info.module_cls for info in RECURRENT} == set(FAST)


def built(cls, constructor_input, training, **options):
    torch.manual_seed(1)
    return cls(*constructor_input.args, **{**options, **constructor_input.kwargs}).train(training)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("cls,training,sample", list(samples("module_inputs_func")))
def test_results_and_gradients(cls, training, sample):
    given = sample.constructor_input, training
    theirs, ours = (built(which, *given, dtype=torch.float64) for which in (cls, FAST[cls]))
    arguments = sample.forward_input.args
    assert not sample.forward_input.kwargs
    expected = results(theirs, *arguments)
    assert_same(results(ours, *arguments), expected)
    assert_same(results(fastrnn.accelerate(copy.deepcopy(theirs)), *arguments), expected)
    with torch.no_grad():  # a shorter way
        found, wanted = (dict(enumerate(tensors(module(*arguments)))) for module in (ours, theirs))
    assert_same(found, wanted)


@pytest.mark.parametrize("cls,training,sample", list(samples("module_error_inputs_func")))
def test_errors(cls, training, sample):
    call = sample.module_error_input

    def error(which):
        with pytest.raises(sample.error_type, match=sample.error_regex) as caught:
            module = built(which, call.constructor_input, training)
            if sample.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
                return None
            module(*call.forward_input.args, **call.forward_input.kwargs)
        return caught.type, str(caught.value)

    assert error(FAST[cls]) == error(cls)
