"""Sequences of different lengths as one tensor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """N sequences of token ids: values int64 [total], and where each begins: offsets int64 [N + 1]."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        """From lists of ids."""
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        values = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
        return cls(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self) -> list[list[int]]:
        """As lists of ids again."""
        flat, bounds = self.values.tolist(), self.offsets.tolist()
        return [flat[start:stop] for start, stop in itertools.pairwise(bounds)]

    def to(self, device: torch.device | str) -> Ragged:
        """On another device."""
        return Ragged(self.values.to(device), self.offsets.to(device))

    def padded(self, index: Tensor, filler: int) -> tuple[Tensor, Tensor]:
        """The sequences at `index` [B], padded at the right to the longest of them: int64 [B, L], and bool [B, L] where
        they are. L is at least 1."""
        start, length = self.offsets[index], self.offsets[index + 1] - self.offsets[index]
        longest = max(1, int(length.max())) if len(index) else 1
        place = torch.arange(longest, device=index.device)
        mask = place < length[:, None]
        where = (start[:, None] + place).clamp(max=max(0, len(self.values) - 1))
        return self.values[where].masked_fill(~mask, filler), mask
