"""RecurrentPPO of sb3-contrib, where it is installed: policies with their sequences in one call, against its own."""

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrnn.examples import recurrent_ppo
from fastrnn.examples.recurrent_ppo import OneCall, Run, differences

B, T, I, H = 3, 6, 4, 8  # noqa: E741


@pytest.fixture
def sb3():
    return pytest.importorskip("sb3_contrib", reason="needs sb3-contrib: pip install 'fastrnn[reinforcement]'")


def policies(**options: Any) -> list[Any]:
    """sb3-contrib's and the one with the mix-in, of the same parameters."""
    import gymnasium
    import numpy
    from sb3_contrib.ppo_recurrent import MlpLstmPolicy

    class Policy(OneCall, MlpLstmPolicy):
        pass

    seen = gymnasium.spaces.Box(-numpy.ones(I, numpy.float32), numpy.ones(I, numpy.float32))
    built = []
    for cls in (MlpLstmPolicy, Policy):
        torch.manual_seed(0)
        built.append(cls(seen, gymnasium.spaces.Discrete(2), lambda _: 1e-3, lstm_hidden_size=H, **options))
    return built


def rnn_states(layers: int) -> Any:
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    torch.manual_seed(1)
    pairs = [tuple(torch.randn(layers, B, H) for _ in range(2)) for _ in range(2)]
    return RNNStates(*pairs)


def starts(where: str) -> Tensor:
    marks = torch.zeros(B, T)
    marks[0, 0] = where != "nowhere"
    marks[1, 3:5] = marks[2, T - 1] = where == "anywhere"
    return marks.flatten()


OPTIONS = {
    "two": {},
    "deep": {"n_lstm_layers": 2},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "actor": {"enable_critic_lstm": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("where", ["nowhere", "first", "anywhere"])
def test_results_and_gradients(options, where, sb3):
    states, results = rnn_states(options.get("n_lstm_layers", 1)), []
    x, actions = torch.randn(B * T, I), torch.randint(2, (B * T,))
    for policy in policies(**options):
        values, log_prob, entropy = policy.evaluate_actions(x, actions, states, starts(where))
        (values.square().mean() + log_prob.mean() + entropy.mean()).backward()
        gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
        results.append(({"values": values, "log_prob": log_prob, "entropy": entropy}, gradients))
    torch.testing.assert_close(results[1], results[0])


def test_a_step_of_each_environment(sb3):
    given, begun = rnn_states(1), torch.tensor([0.0, 1.0, 0.0])
    theirs, ours = (policy(torch.ones(B, I), given, begun, deterministic=True) for policy in policies())
    torch.testing.assert_close(tuple(ours), tuple(theirs))


def test_a_saved_model(sb3, tmp_path):
    class Policy(OneCall, sb3.ppo_recurrent.MlpLstmPolicy):
        pass

    env = recurrent_ppo.environments(2, 0)
    model = sb3.RecurrentPPO(Policy, env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu").learn(16)
    model.save(tmp_path / "model")
    again, seen = sb3.RecurrentPPO.load(tmp_path / "model", device="cpu"), env.reset()
    for theirs, ours in zip(
        model.predict(seen, deterministic=True)[1], again.predict(seen, deterministic=True)[1], strict=True
    ):
        torch.testing.assert_close(theirs, ours)


def test_the_example_compares_both(sb3, monkeypatch, capsys):
    small = "--steps 128 --environments 2 --rollout 32 --batch 32 --epochs 1 --hidden 8"
    monkeypatch.setattr(sys, "argv", ["recurrent_ppo", *small.split()])
    recurrent_ppo.main()
    *_, same, ratio = capsys.readouterr().out.splitlines()
    found = re.fullmatch(r"the same rollouts in 2 of 2 updates; largest relative difference of a loss (\S+)", same)
    assert found and float(found[1]) < 1e-4
    assert re.fullmatch(r"updates \d+\.\d times as fast, all \d+\.\d times", ratio)


def test_losses_are_compared_while_rollouts_are_the_same():
    def run(actions: list[float], loss: float) -> Run:
        return Run(
            actions=[torch.tensor(a) for a in actions],
            losses=[dict.fromkeys(recurrent_ppo.LOSSES, loss) for _ in actions],
        )

    assert differences(run([0, 1, 2], 2.0), run([0, 1, 3], 2.5)) == [0.25, 0.25]


def test_what_is_missing_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recurrent_ppo"])
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    needs = r"examples.recurrent_ppo needs sb3_contrib: pip install 'fastrnn\[reinforcement\]'$"
    with pytest.raises(SystemExit, match=needs):
        recurrent_ppo.main()
