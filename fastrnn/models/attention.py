"""Attention of a decoder to the states of an encoder, for any number of steps at once."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Attention", "Memory"]


class Memory(NamedTuple):
    """What is attended to: values [B, S, M], their keys [B, S, K], and bool [B, S], true where a position is real."""

    values: Tensor
    keys: Tensor
    real: Tensor


class Attention(nn.Module):
    """Attention that follows the decoder's recurrent layers (Luong et al. 2015), and so needs no loop over time::

        weights = softmax(energy(query, keys)),  vector = tanh(W [weights values; query])

    The energy is ``"dot"``, query . key (Luong et al. 2015; where the values are wider or narrower than the query, a
    key is a linear function of its value, their "general"), or ``"additive"``, v . tanh(W query + U value) (Bahdanau
    et al. 2015).

    Call: ``vector, weights = attention(query, attention.memory(values, real))``.
        query, vector: [B, T, queries]. values: [B, S, values]. real: bool [B, S], at least one true in each row.
        weights: [B, T, S], of sum 1 over S, exactly zero at padding.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind: str, queries: int, values: int) -> None:
        super().__init__()
        if kind not in _ENERGIES:
            raise ValueError(f"attention: expected None or one of {', '.join(_ENERGIES)}, got {kind!r}")
        self.energy: _Dot | _Additive = _ENERGIES[kind](queries, values)
        self.combine = nn.Linear(values + queries, queries)

    def memory(self, values: Tensor, real: Tensor) -> Memory:
        return Memory(values, self.energy.key(values), real)

    def forward(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        energy = self.energy(query, memory.keys)
        weights = energy.masked_fill(~memory.real[:, None], -torch.inf).softmax(2)
        return self.combine(torch.cat([weights @ memory.values, query], 2)).tanh(), weights


class _Dot(nn.Module):
    def __init__(self, queries: int, values: int) -> None:
        super().__init__()
        self.key = nn.Identity() if queries == values else nn.Linear(values, queries, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:  # [B, T, Q] and [B, S, Q] -> [B, T, S]
        return query @ keys.transpose(1, 2)


class _Additive(nn.Module):
    def __init__(self, queries: int, values: int) -> None:
        super().__init__()
        self.query = nn.Linear(queries, queries, bias=False)
        self.key = nn.Linear(values, queries)
        self.energy = nn.Linear(queries, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:  # [B, T, Q] and [B, S, Q] -> [B, T, S]
        return self.energy((self.query(query)[:, :, None] + keys[:, None]).tanh()).squeeze(3)


_ENERGIES: dict[str, type[_Dot] | type[_Additive]] = {"dot": _Dot, "additive": _Additive}
