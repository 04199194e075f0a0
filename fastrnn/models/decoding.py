"""From scores to tokens, one step at a time: sampling, greedy search, beam search.

A model takes part as ``advance(tokens [B, T], state) -> (scores of the next token [B, V], new state)``.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastrnn.models.recurrence import State, map_state, state_parts

__all__ = ["Advance", "beam_search", "check_decoding", "collect", "evaluating", "rollout"]

Advance = Callable[[Tensor, Any], tuple[Tensor, State]]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; afterwards every module is in the mode in which it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def check_decoding(length: int, temperature: float = 0.0, top_k: int = 0) -> None:
    if length < 1:
        raise ValueError(f"expected a length of at least 1, got {length}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected at least 0 and finite, got {temperature}")
    if top_k < 0:
        raise ValueError(f"top_k: expected at least 1, or 0 for all tokens, got {top_k}")


def rollout(
    advance: Advance,
    tokens: Tensor,
    state: State | None,
    length: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int | None = None,
) -> Iterator[Tensor]:
    """Reads ``tokens`` [B, T], then yields ``length`` times the next token of every row, [B], and reads it in turn."""
    generator = None if seed is None else torch.Generator(tokens.device).manual_seed(seed)
    for _ in range(length):
        scores, state = advance(tokens, state)
        chosen = _choose(scores, temperature, top_k, generator)
        yield chosen
        tokens = chosen.unsqueeze(1)


def _choose(scores: Tensor, temperature: float, top_k: int, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return scores.argmax(-1)
    scores = scores.float()
    if top_k:
        best = scores.topk(min(top_k, scores.size(-1)))  # by index, since more than top_k may be equal
        scores = torch.full_like(scores, -torch.inf).scatter(-1, best.indices, best.values)
    # Relative to the best, so that a small temperature leaves that one finite; as 0 or infinity it would make nan.
    bounds = torch.finfo(scores.dtype)
    scores = (scores - scores.amax(-1, keepdim=True)) / min(max(temperature, bounds.tiny), bounds.max)
    return torch.multinomial(scores.softmax(-1), 1, generator=generator).squeeze(1)


def collect(steps: Iterable[Tensor], stop: int | None) -> list[list[int]]:
    """The tokens of each row before its ``stop``, taking steps [B] until every row has met it."""
    taken: list[Tensor] = []
    ended: Tensor | bool = False
    for step in steps:
        taken.append(step)
        if stop is not None:
            ended = ended | (step == stop)
            if bool(ended.all()):
                break
    return [_before(stop, row) for row in torch.stack(taken, 1).tolist()]


def _before(stop: int | None, row: list[int]) -> list[int]:
    return row[: row.index(stop)] if stop in row else row


def beam_search(
    advance: Advance, state: State, batch: int, start: int, stop: int, longest: int, width: int, length_penalty: float
) -> list[list[int]]:
    """The best of ``width`` hypotheses for each of ``batch`` rows, its tokens before ``stop``.

    ``state`` and what ``advance`` takes have ``width`` rows in succession for each row of the batch. Hypotheses are
    ranked by their log probability divided by ``((5 + length) / 6) ** length_penalty`` (Wu et al. 2016), where the
    length counts ``stop``. One that has met ``stop`` stays in the beam as it is, until a better one displaces it.
    """
    device = state_parts(state)[0].device
    first_row = torch.arange(batch, device=device)[:, None] * width
    tokens = torch.full((batch, width, 1), start, device=device)  # of each hypothesis, start included
    total = torch.full((batch, width), -torch.inf, device=device)
    total[:, 0] = 0  # all hypotheses of a row are the same at first: one of them is enough
    length = torch.zeros(batch, width, device=device)
    ended = torch.zeros(batch, width, dtype=torch.bool, device=device)
    for _ in range(longest):
        scores, state = advance(tokens[:, :, -1].reshape(-1, 1), state)
        gain = scores.float().log_softmax(-1).unflatten(0, (batch, width))
        nothing = torch.full_like(gain[0, 0], -torch.inf)
        nothing[stop] = 0
        gain = torch.where(ended[:, :, None], nothing, gain)
        length = length + ~ended
        candidates = total[:, :, None] + gain
        rank = candidates / ((5 + length) / 6)[:, :, None] ** length_penalty
        best = rank.flatten(1).topk(width).indices  # in descending order
        parent, token = best // gain.size(2), best % gain.size(2)
        total = candidates.flatten(1).gather(1, best)
        length = length.gather(1, parent)
        tokens = torch.cat([tokens.gather(1, parent[:, :, None].expand_as(tokens)), token[:, :, None]], 2)
        ended = token == stop
        if bool(ended.all()):
            break
        rows = (first_row + parent).flatten()
        state = map_state(lambda s, rows=rows: s.index_select(1, rows), state)
    return [_before(stop, row) for row in tokens[:, 0, 1:].tolist()]
