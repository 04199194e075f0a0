"""Batches in random order, of any number of examples: only their order is held in memory."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

WINDOW = 1 << 17  # examples of a large file that are mixed at a time
BLOCK = 1 << 10  # neighbours in the file that come into one window
POOL = 50  # batches that are sorted by length together


def shuffled(number: int, generator: torch.Generator) -> Tensor:
    """The numbers below ``number`` in random order, int64.

    A large file is drawn from in windows, each of random blocks (Xu et al. 2022, CorgiPile), so that what is near in
    time is near on the disk, too.
    """
    if number <= WINDOW:
        return torch.randperm(number, generator=generator)
    blocks = torch.arange(number).split(BLOCK)
    order = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()])
    for window in order.split(WINDOW):
        window.copy_(window[torch.randperm(len(window), generator=generator)])
    return order


class Batches(Sequence[list[Any]]):
    """Batches of examples, which are made when they are asked for.

    ``order`` gives the order of the examples, and that of the batches into which it is cut.
    """

    def __init__(self, examples: Sequence[Any], size: int, order: Callable[[], tuple[Tensor, Tensor]]):
        self.examples = examples
        self._size, self._find = size, order

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self._size)

    def __getitem__(self, place: Any) -> list[Any]:
        examples, batches = self._order
        first = int(batches[place]) * self._size
        return [self.examples[i] for i in examples[first : first + self._size].tolist()]

    @cached_property
    def _order(self) -> tuple[Tensor, Tensor]:
        return self._find()


def alike(examples: Sequence[Any], size: int, generator: torch.Generator | None) -> Batches:
    """Batches of examples of the same length: drawn at random with a generator, else as they stand."""
    number = len(examples)

    def order() -> tuple[Tensor, Tensor]:
        chosen = shuffled(number, generator) if generator else torch.arange(number)
        return chosen, torch.arange(math.ceil(number / size))

    return Batches(examples, size, order)


def bucket(examples: Sequence[Any], lengths: Tensor, size: int, generator: torch.Generator | None) -> Batches:
    """Batches of examples of similar length: drawn at random with a generator, else sorted by length.

    Random batches are sorted within pools, which keeps padding and regularity low.
    """
    number = math.ceil(len(lengths) / size)

    def order() -> tuple[Tensor, Tensor]:
        if generator is None:
            return lengths.argsort(stable=True), torch.arange(number)
        chosen = shuffled(len(lengths), generator)
        for pool in chosen.split(size * POOL):
            pool.copy_(pool[lengths[pool].argsort(stable=True)])
        batches = torch.arange(number)
        for window in batches.split(max(WINDOW // (size * POOL), 1) * POOL):
            window.copy_(window[torch.randperm(len(window), generator=generator)])
        return chosen, batches

    return Batches(examples, size, order)
