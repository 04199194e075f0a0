"""Models with recurrent layers of packages that build on ``torch.nn``: small data, random weights, no downloads.

Each entry imports its package when it is called and returns a model and what is computed with it, to one tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODELS"]

Built = tuple[nn.Module, Callable[[Any], Tensor]]


def _time_series() -> Any:
    """Two series in a dataset of pytorch-forecasting."""
    import numpy
    import pandas
    from pytorch_forecasting import TimeSeriesDataSet

    steps = numpy.arange(400)
    columns = {"time": numpy.tile(steps, 2), "series": numpy.repeat(["a", "b"], 400)}
    table = pandas.DataFrame(columns | {"value": numpy.sin(columns["time"] / 7.0) + 2})
    return TimeSeriesDataSet(
        table,
        time_idx="time",
        target="value",
        group_ids=["series"],
        min_encoder_length=30,
        max_encoder_length=60,
        max_prediction_length=20,
        time_varying_unknown_reals=["value"],
    )


def _pytorch_forecasting(name: str, **options: Any) -> Built:
    import pytorch_forecasting

    dataset = _time_series()
    model = getattr(pytorch_forecasting, name).from_dataset(dataset, hidden_size=64, **options)
    batch, _ = next(iter(dataset.to_dataloader(train=True, batch_size=32)))
    return model, lambda model: model(batch)["prediction"]


def _torchrl(name: str) -> Built:
    """Trajectories that begin anew somewhere in the middle: torchrl splits and pads them for torch.nn's layers."""
    import torchrl.modules
    from tensordict import TensorDict

    lstm = name == "LSTMModule"
    states = ["h", "c"] if lstm else ["h"]
    keys = {"in_keys": ["x", *states], "out_keys": ["y", *(("next", state) for state in states)]}
    model = getattr(torchrl.modules, name)(input_size=16, hidden_size=64, default_recurrent_mode=True, **keys)
    batch = {state: torch.zeros(32, 40, 1, 64) for state in states} | {
        "x": torch.randn(32, 40, 16),
        "is_init": torch.rand(32, 40, 1) < 0.1,
    }
    return model, lambda model: model(TensorDict(batch, [32, 40]))["y"]


def _higher() -> Built:
    """What two steps of an inner loop make of a model; in training a function of its weights before them."""
    import higher

    x, wanted = torch.randn(20, 16, 16), torch.randn(20, 16, 32)

    def run(model: nn.Module) -> Tensor:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"copy_initial_weights": False, "track_higher_grads": model.training}
        with torch.enable_grad(), higher.innerloop_ctx(model, optimizer, **options) as (inner, step):
            for _ in range(2):
                step.step((inner(x)[0] - wanted).square().mean())
            return inner(x)[0]

    return nn.LSTM(16, 32), run


def _flair() -> Built:
    import flair
    from flair.data import Dictionary, Sentence
    from flair.embeddings import CharacterEmbeddings
    from flair.models import SequenceTagger

    flair.device = torch.device("cpu")
    tags = Dictionary(add_unk=False)
    for tag in ("NOUN", "VERB", "DET"):
        tags.add_item(tag)
    characters = Dictionary()
    for character in "abcdefghijklmnopqrstuvwxyz":
        characters.add_item(character)
    tagger = SequenceTagger(CharacterEmbeddings(characters), tags, "pos", hidden_size=128, use_crf=False)
    text = "the quick brown fox jumps over the lazy dog and runs away from the old house"
    sentences = [Sentence(text) for _ in range(16)]
    for sentence in sentences:
        for token in sentence:
            token.add_label("pos", "NOUN")
    return tagger, lambda model: model.forward_loss(sentences)[0]


def _sb3_contrib() -> Built:
    import gymnasium
    import numpy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates
    from sb3_contrib.ppo_recurrent import MlpLstmPolicy

    observed = gymnasium.spaces.Box(-numpy.ones(8, numpy.float32), numpy.ones(8, numpy.float32))
    policy = MlpLstmPolicy(observed, gymnasium.spaces.Discrete(4), lambda _: 1e-3, lstm_hidden_size=128)
    pair = (torch.zeros(1, 8, 128), torch.zeros(1, 8, 128))
    begins = (torch.rand(8 * 32) < 0.05).float()
    x, actions = torch.randn(8 * 32, 8), torch.randint(4, (8 * 32,))
    return policy, lambda model: model.evaluate_actions(x, actions, RNNStates(pair, pair), begins)[1]


def _fastai() -> Built:
    from fastai.text.models.awdlstm import AWD_LSTM

    tokens = torch.randint(1, 1000, (16, 40))

    def run(model: Any) -> Tensor:
        model.reset()
        return model(tokens)

    return AWD_LSTM(1000, 100, 200, 2, pad_token=0), run


def _gluonts() -> Built:
    from gluonts.torch.model.deepar.module import DeepARModel

    model = DeepARModel(
        freq="h",
        context_length=48,
        prediction_length=24,
        num_feat_dynamic_real=2,
        num_feat_static_real=1,
        num_feat_static_cat=1,
        cardinality=[4],
        hidden_size=64,
    )
    past = model._past_length
    batch = {
        "feat_static_cat": torch.zeros(32, 1, dtype=torch.long),
        "feat_static_real": torch.randn(32, 1),
        "past_time_feat": torch.randn(32, past, 2),
        "past_target": torch.randn(32, past).abs(),
        "past_observed_values": torch.ones(32, past),
        "future_time_feat": torch.randn(32, 24, 2),
        "future_target": torch.randn(32, 24).abs(),
        "future_observed_values": torch.ones(32, 24),
    }
    return model, lambda model: model.loss(**batch)


def _neuralforecast() -> Built:
    from neuralforecast.models import GRU

    model = GRU(h=12, input_size=48, encoder_hidden_size=64)
    windows = {"insample_y": torch.randn(32, 48, 1)} | dict.fromkeys(("futr_exog", "hist_exog", "stat_exog"))
    return model, lambda model: model(windows)


def _tianshou() -> Built:
    from tianshou.utils.net.common import Recurrent

    x = torch.randn(64, 20, 16)
    model = Recurrent(layer_num=2, state_shape=16, action_shape=4, hidden_layer_size=128)
    return model, lambda model: model(x)[0]


# By package and model.
MODELS: dict[tuple[str, str], Callable[[], Built]] = {
    ("pytorch-forecasting", "TemporalFusionTransformer"): partial(_pytorch_forecasting, "TemporalFusionTransformer"),
    ("pytorch-forecasting", "DeepAR"): partial(_pytorch_forecasting, "DeepAR"),
    ("pytorch-forecasting", "RecurrentNetwork"): partial(_pytorch_forecasting, "RecurrentNetwork", cell_type="GRU"),
    ("torchrl", "LSTMModule"): partial(_torchrl, "LSTMModule"),
    ("torchrl", "GRUModule"): partial(_torchrl, "GRUModule"),
    ("higher", "inner loop"): _higher,
    ("flair", "SequenceTagger"): _flair,
    ("sb3-contrib", "MlpLstmPolicy"): _sb3_contrib,
    ("fastai", "AWD_LSTM"): _fastai,
    ("gluonts", "DeepAR"): _gluonts,
    ("neuralforecast", "GRU"): _neuralforecast,
    ("tianshou", "Recurrent"): _tianshou,
}
