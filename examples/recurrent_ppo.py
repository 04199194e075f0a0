"""Reinforcement learning with memory: RecurrentPPO of sb3-contrib, whose LSTM runs in one call.

The state must be zero where an episode starts, so sb3-contrib's policies run their LSTM step by step in Python.
``OneCall`` hands the starts to ``fastrnn.LSTM`` as ``reset``; nothing else changes::

    class Policy(OneCall, MlpLstmPolicy): ...
    model = RecurrentPPO(Policy, environment)

Both are trained here, from one seed, to balance a pole of which positions are seen, but no velocities. The losses agree
to rounding, which in the end may pick another action: they are compared as long as the rollouts are the same.

    python -m fastrnn.examples.recurrent_ppo [--steps N] [--environments N] [--rollout N] [--batch N] [--epochs N]
        [--hidden N] [--seed S]
"""

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn

from .arguments import positive, reporting, seed

TASK = "CartPole-v1"
LOSSES = ("policy_gradient_loss", "value_loss", "entropy_loss")
LEAST_LOSS = 1e-2  # smaller ones are sums of larger terms, whose rounding they show


class OneCall(nn.Module):
    """A mix-in for the recurrent policies of sb3-contrib, in front of one: its sequences in a call each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fastrnn.accelerate(self)  # the same parameters, which the policy's optimizer has by now

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: Any
    ) -> Any:
        """Outputs [B * T, H] and final states, from ``features`` [B * T, I] and ``episode_starts`` [B * T], row by row.

        ``lstm`` is one of the policy's, so fastrnn's.
        """
        rows = lstm_states[0].shape[1]
        x = features.reshape(rows, -1, lstm.input_size).transpose(0, 1)
        starts = episode_starts.reshape(rows, -1).transpose(0, 1) != 0
        y, states = lstm(x, lstm_states, reset=starts)
        return y.transpose(0, 1).flatten(0, 1), states


@dataclass
class Run:
    """A training: seconds of its parts, and each update's actions and mean losses."""

    collecting: float = 0.0
    updating: float = 0.0
    reward: float = 0.0
    actions: list[Tensor] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)


def environments(count: int, start: int) -> Any:
    import gymnasium
    from stable_baselines3.common.env_util import make_vec_env

    class WithoutVelocities(gymnasium.ObservationWrapper):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            seen = env.observation_space
            self.observation_space = gymnasium.spaces.Box(seen.low[::2], seen.high[::2])

        def observation(self, observation: Any) -> Any:
            return observation[::2]  # position and angle, each before its velocity

    return make_vec_env(TASK, count, start, wrapper_class=WithoutVelocities)


def train(policy: Any, args: argparse.Namespace) -> Run:
    from sb3_contrib import RecurrentPPO

    run = Run()

    class Timed(RecurrentPPO):
        def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
            start = time.perf_counter()
            goes_on = super().collect_rollouts(*args, **kwargs)
            run.collecting += time.perf_counter() - start
            return goes_on

        def train(self) -> None:
            run.actions.append(torch.tensor(self.rollout_buffer.actions))
            start = time.perf_counter()
            super().train()
            run.updating += time.perf_counter() - start
            run.losses.append({name: float(self.logger.name_to_value[f"train/{name}"]) for name in LOSSES})

    model = Timed(
        policy,
        environments(args.environments, args.seed),
        n_steps=args.rollout,
        batch_size=args.batch,
        n_epochs=args.epochs,
        policy_kwargs={"lstm_hidden_size": args.hidden},
        seed=args.seed,
        device="cpu",
    )
    model.learn(args.steps)
    episodes = [episode["r"] for episode in model.ep_info_buffer or ()]
    run.reward = sum(episodes) / max(1, len(episodes))
    return run


def differences(theirs: Run, ours: Run) -> list[float]:
    """The largest between the losses of an update, relative to the loss, while the rollouts are the same."""
    found = []
    for k, (expected, actual) in enumerate(zip(theirs.losses, ours.losses, strict=True)):
        if not torch.equal(theirs.actions[k], ours.actions[k]):
            break
        found.append(max(abs(actual[name] - expected[name]) / max(abs(expected[name]), LEAST_LOSS) for name in LOSSES))
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "(default %(default)s)"
    parser.add_argument("--steps", type=positive(int), default=8192, help=f"of all environments {default}")
    parser.add_argument("--environments", type=positive(int), default=8, help=f"side by side {default}")
    parser.add_argument("--rollout", type=positive(int), default=128, help=f"steps before an update {default}")
    parser.add_argument("--batch", type=positive(int), default=128, help=f"steps learned from at once {default}")
    parser.add_argument("--epochs", type=positive(int), default=10, help=f"of an update {default}")
    parser.add_argument("--hidden", type=positive(int), default=256, help=f"hidden size {default}")
    parser.add_argument("--seed", type=seed, default=0, help=default)
    return parser.parse_args()


@reporting("python -m fastrnn.examples.recurrent_ppo")
def main() -> None:
    args = parse_arguments()
    import sb3_contrib  # which --help does without

    class Policy(OneCall, sb3_contrib.ppo_recurrent.MlpLstmPolicy):
        pass

    print(f"{TASK} without velocities, {args.environments} environments, {args.hidden} units")
    print("LSTM           collecting s  updating s  reward")
    runs = []
    for name, policy in (("step by step", "MlpLstmPolicy"), ("in one call", Policy)):
        run = train(policy, args)
        print(f"{name:12}  {run.collecting:13.2f}  {run.updating:10.2f}  {run.reward:6.1f}")
        runs.append(run)
    theirs, ours = runs
    found, updates = differences(theirs, ours), len(theirs.losses)
    largest = f"; largest relative difference of a loss {max(found):.0e}" if found else ""
    print(f"the same rollouts in {len(found)} of {updates} updates{largest}")
    print(f"updates {theirs.updating / ours.updating:.1f} times as fast, all {total(theirs) / total(ours):.1f} times")


def total(run: Run) -> float:
    return run.collecting + run.updating


if __name__ == "__main__":
    main()
