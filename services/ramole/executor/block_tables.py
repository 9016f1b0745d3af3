"""The block tables of a batch as one array, kept while its sequences decode together. Host memory, no tensors."""

from __future__ import annotations

from collections.abc import Sequence as Ordered

import numpy as np

from ramole.executor.block_pool import BLOCK, NULL
from ramole.executor.sequence import Sequence
from ramole.mixture.plan import IntArray


class BlockTables:
    """`array` [n, W] holds the blocks of each sequence, filled up with `NULL`; `positions` [n] of its next token.

    Args:
        sequences: which change no more than that they grow.
    """

    def __init__(self, sequences: Ordered[Sequence]) -> None:
        self._sequences = sequences
        self._blocks = [sequence.blocks for sequence in sequences]
        self._counts = [0] * len(sequences)
        self.array: IntArray = np.zeros((len(sequences), 0), np.int64)
        self.positions: IntArray = np.zeros(len(sequences), np.int64)

    def are_of(self, sequences: Ordered[Sequence]) -> bool:
        """Whether these are the sequences, in this order, with the blocks that they had, and maybe more."""
        return all(
            sequence is own and sequence.blocks is blocks
            for sequence, own, blocks in zip(sequences, self._sequences, self._blocks, strict=True)
        )

    def update(self) -> None:
        """Follows the sequences."""
        longest = max(map(len, self._blocks))
        if longest > self.array.shape[1]:
            # Twice as wide at once: it is copied seldom.
            wider = np.full((len(self._sequences), 2 * longest), NULL, np.int64)
            wider[:, : self.array.shape[1]] = self.array
            self.array = wider
        for i, blocks in enumerate(self._blocks):
            known = self._counts[i]
            if len(blocks) > known:
                self.array[i, known : len(blocks)] = blocks[known:]
                self._counts[i] = len(blocks)
        self.positions[:] = [sequence.num_cached for sequence in self._sequences]

    def places(self) -> IntArray:
        """Where the next tokens go, among all tokens of all blocks: [n]."""
        blocks = np.take_along_axis(self.array, (self.positions // BLOCK)[:, None], 1)[:, 0]
        return blocks * BLOCK + self.positions % BLOCK

    @property
    def width(self) -> int:
        """Columns that hold all that is cached, the next tokens included."""
        return int(self.positions.max(initial=0)) // BLOCK + 1


def places_of(sequence: Sequence, count: int) -> IntArray:
    """Where the next `count` tokens of a sequence go, among all tokens of all blocks: [count]."""
    positions = np.arange(sequence.num_cached, sequence.num_cached + count)
    return np.array(sequence.blocks, np.int64)[positions // BLOCK] * BLOCK + positions % BLOCK
