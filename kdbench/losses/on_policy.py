"""Whose words a language model learns from: the data set's, the teacher's, its own, or its own as the teacher lets
them pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from kdbench.core.types import IGNORED, Batch, Tokens
from kdbench.models.language.generation import beam_search, generate, prompts_of
from kdbench.utils.seeding import generator

WRITERS = ("teacher", "student", "both")


@dataclass(frozen=True, slots=True)
class Policy:
    """Who writes the responses of a share of the steps, drawn step by step; the others have the data set's.

    writer: `teacher` (sequence-level distillation, Kim and Rush 2016, arXiv:1606.07947), `student` (on policy,
    Agarwal et al. 2024, arXiv:2306.13649) or `both` (speculative distillation, Xu et al. 2024, arXiv:2410.11325: the
    student proposes each word, and one that is not among the teacher's top_k likeliest is replaced by a draw of the
    teacher's). temperature: of the draws; 0 takes the likeliest word, or with several beams the likeliest text that a
    search with so many finds. Gradients do not go through what is written.
    """

    neutral_options: ClassVar[Mapping[str, Any]] = {"beams": 1}
    """See `Objective.neutral_options`."""

    writer: str
    share: float = 1.0
    temperature: float = 1.0
    top_k: int = 25
    beams: int = 1

    def __post_init__(self) -> None:
        if self.writer not in WRITERS:
            raise ValueError(f"loss.policy.writer={self.writer}; possible: {', '.join(WRITERS)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"loss.policy.share is a share of the steps, above 0 to 1, got {self.share}")
        if self.temperature < 0 or self.top_k < 1:
            raise ValueError(
                f"loss.policy: temperature from 0 and top_k from 1, got {self.temperature} and {self.top_k}"
            )

        if self.beams < 1 or (self.beams > 1 and (self.temperature > 0 or self.writer == "both")):
            raise ValueError(
                f"loss.policy.beams={self.beams}: from 1, and several for one writer that draws nothing "
                f"(loss.policy.temperature=0)"
            )

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher has a part in what is written."""
        return self.writer != "student"

    def is_due(self, seed: int, epoch: int, step: int) -> bool:
        """Whether this step's responses are written."""
        return torch.rand((), generator=generator(seed, "policy", epoch, step)).item() < self.share

    @torch.no_grad()
    def rewritten(
        self, batch: Batch, student: nn.Module, teacher: nn.Module | None, end: int, longest: int, seed: int
    ) -> Batch:
        """The batch with written responses of at most `longest` words: `end` ends them, or their length does.

        A function of (seed, epoch, step), the prompts and the networks, which are left in the mode they were in.
        """
        sides = {"student": student, "teacher": teacher}
        networks = [network for name, network in sides.items() if self.writer in (name, "both")]
        (view, tokens), *_ = batch.texts.items()
        given = prompts_of(tokens)
        if self.beams > 1:
            return _with(batch, view, given, beam_search(networks[0], given, end, longest, self.beams), end)
        draw = generator(seed, "written", batch.epoch, batch.step)
        chances = torch.rand(len(given), longest, len(networks), generator=draw, dtype=torch.float64)
        said = generate(networks, given, end, chances, self.temperature, self.top_k)
        return _with(batch, view, given, said, end)


def _with(
    batch: Batch, view: str, given: Sequence[Sequence[int]], said: Sequence[Sequence[int]], filler: int
) -> Batch:
    """The batch with these responses to what is given."""
    inputs = [[*before, *words[:-1]] for before, words in zip(given, said, strict=True)]
    labels = [[IGNORED] * (len(before) - 1) + list(words) for before, words in zip(given, said, strict=True)]
    longest = max(map(len, inputs))
    old = batch.texts[view]
    ids = old.ids.new_tensor([row + [filler] * (longest - len(row)) for row in inputs])
    target = old.labels.new_tensor([row + [IGNORED] * (longest - len(row)) for row in labels])
    mask = torch.arange(longest, device=ids.device) < ids.new_tensor([len(row) for row in inputs])[:, None]
    tokens = Tokens(ids, mask, target)
    starts = old.valid.long().cumsum(dim=1).eq(1) & old.valid  # one row of each text, for its index
    index = batch.index[starts[old.valid]]
    rows = index[:, None].expand_as(target)[tokens.valid]
    return replace(
        batch, inputs=ids, target=target[tokens.valid], index=rows, texts={**batch.texts, view: tokens}
    )
