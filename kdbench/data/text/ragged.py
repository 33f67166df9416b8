"""Sequences of different lengths in one tensor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """N sequences of token ids.

    Attributes:
        values: All ids, int64 [total].
        offsets: Start of each sequence in `values`, then the total length, int64 [N + 1].
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        """Build from lists of ids."""
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        values = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
        return cls(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self) -> list[list[int]]:
        """Return lists of ids."""
        flat, bounds = self.values.tolist(), self.offsets.tolist()
        return [flat[start:stop] for start, stop in itertools.pairwise(bounds)]

    def to(self, device: torch.device | str) -> Ragged:
        """Return a copy on another device."""
        return Ragged(self.values.to(device), self.offsets.to(device))

    def pad(self, index: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
        """Return some sequences, padded on the right to the longest of them.

        Args:
            index: Positions of the sequences, int64 [B].
            pad_id: Id of the padding.

        Returns:
            Ids, int64 [B, L], and a mask, bool [B, L], False at padding; L is at least 1.
        """
        start, length = self.offsets[index], self.offsets[index + 1] - self.offsets[index]
        longest = max(1, int(length.max())) if len(index) else 1
        position = torch.arange(longest, device=index.device)
        mask = position < length[:, None]
        source = (start[:, None] + position).clamp(max=max(0, len(self.values) - 1))
        return self.values[source].masked_fill(~mask, pad_id), mask
