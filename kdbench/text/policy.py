"""Whose words a language model learns from: the data set's, the teacher's, its own, or its own as the teacher lets
them pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core import IGNORED, Batch, Tokens
from kdbench.seeding import generator
from kdbench.text.causal import CausalLM

WRITERS = ("teacher", "student", "both")


@dataclass(frozen=True, slots=True)
class Policy:
    """Who writes the responses of a share of the steps, drawn step by step; the others have the data set's.

    writer: `teacher` (sequence-level distillation, Kim and Rush 2016, arXiv:1606.07947), `student` (on policy,
    Agarwal et al. 2024, arXiv:2306.13649) or `both` (speculative distillation, Xu et al. 2024, arXiv:2410.11325: the
    student proposes each word, and one that is not among the teacher's top_k likeliest is replaced by a draw of the
    teacher's). temperature: of the draws; 0 takes the likeliest word. Gradients do not go through what is written.
    """

    writer: str
    share: float = 1.0
    temperature: float = 1.0
    top_k: int = 25

    def __post_init__(self) -> None:
        if self.writer not in WRITERS:
            raise ValueError(f"loss.policy.writer={self.writer}; possible: {', '.join(WRITERS)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"loss.policy.share is a share of the steps, above 0 to 1, got {self.share}")
        if self.temperature < 0 or self.top_k < 1:
            raise ValueError(
                f"loss.policy: temperature from 0 and top_k from 1, got {self.temperature} and {self.top_k}"
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
        given = [_given(*row) for row in zip(tokens.ids.tolist(), tokens.labels.tolist(), strict=True)]
        with _answering(networks) as writers:
            draw = generator(seed, "written", batch.epoch, batch.step)
            said = self._write(writers, given, end, longest, draw)
        return _with(batch, view, given, said, end)

    def _write(
        self,
        networks: Sequence[CausalLM],
        given: Sequence[Sequence[int]],
        end: int,
        longest: int,
        draw: torch.Generator,
    ) -> list[list[int]]:
        """The responses; the first of two networks proposes, the last one has the say."""
        device = next(networks[0].parameters()).device
        width = max(map(len, given))
        ids = torch.tensor([[end] * (width - len(row)) + list(row) for row in given], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in given], device=device)
        done = torch.zeros(len(given), dtype=torch.bool, device=device)
        memories: list[Any] = [None] * len(networks)
        words: list[Tensor] = []
        while len(words) < longest and not bool(done.all()):
            logits = []
            for place, network in enumerate(networks):
                answer, memories[place] = network.next_word(ids, mask, memories[place])
                logits.append(answer)
            word = self._draw(logits[0], draw)
            if len(networks) > 1:
                top = logits[1].topk(min(self.top_k, logits[1].shape[-1])).indices
                accepted = (top == word[:, None]).any(dim=1)
                word = torch.where(accepted, word, self._draw(logits[1], draw))
            words.append(torch.where(done, end, word))
            done = done | (words[-1] == end)
            ids, mask = words[-1][:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return [_until(row, end) for row in torch.stack(words, dim=1).tolist()]

    def _draw(self, logits: Tensor, draw: torch.Generator) -> Tensor:
        """A word for each row [B]; from the CPU's generator, so that every device draws the same."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        chances = (logits.double() / self.temperature).softmax(dim=-1).cpu()
        return torch.multinomial(chances, 1, generator=draw)[:, 0].to(logits.device)


@contextmanager
def _answering(networks: Sequence[nn.Module | None]) -> Iterator[list[CausalLM]]:
    """The language models in eval mode."""
    writers = [network for network in networks if isinstance(network, CausalLM)]
    if len(writers) < len(networks):
        raise ValueError("loss.policy: only the language models of kdbench write")
    training = [writer.training for writer in writers]
    for writer in writers:
        writer.eval()
    try:
        yield writers
    finally:
        for writer, before in zip(writers, training, strict=True):
            writer.train(before)


def _given(ids: Sequence[int], labels: Sequence[int]) -> list[int]:
    """The mark, the prompt and the mark: all before the first word of the response."""
    first = next(place for place, label in enumerate(labels) if label != IGNORED)
    return list(ids[: first + 1])


def _until(words: Sequence[int], end: int) -> list[int]:
    """The words up to the first end, which is one of them."""
    return list(words[: words.index(end) + 1]) if end in words else list(words)


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
