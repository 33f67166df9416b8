"""What is said of the answers that a language model writes to instructions."""

from __future__ import annotations

import math
import string
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch
from kdbench.metrics.text_overlap import rouge_l
from kdbench.metrics.token import TokenScores
from kdbench.models.language.generation import generate, prompts_of
from kdbench.utils.seeding import generator

if TYPE_CHECKING:
    from kdbench.data.text.instructions import InstructionData

SAMPLES = 20
"""Rows that are kept for people to read."""


class AnswerScores(TokenScores):
    """rouge_l: the F of the longest common subsequence of stemmed words with the best of the right answers, of 100;
    exact_match, in per cent, without case, punctuation and spaces; answer_tokens: how long the answers are.

    All three are means over rows and draws. Each draw of each row has chances of its own, the same for every network.
    Beside them the token scores of the right answer.
    """

    def __init__(self, data: InstructionData, split: str) -> None:
        super().__init__()
        self._data, self._split = data, split
        self._draws = data.draws if split not in ("train", "validation") else 1
        self._start()

    def _start(self) -> None:
        self._found: list[tuple[float, bool, int]] = []
        self._kept: list[dict[str, Any]] = []

    @torch.no_grad()
    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Let it answer each prompt."""
        super().update(model, batch, logits, teacher)
        data, rows = self._data, torch.unique_consecutive(batch.index).tolist()
        given = prompts_of(next(iter(batch.texts.values())))
        end, longest = data.limits
        for number in range(self._draws):
            draws = [generator(0, "answers", self._split, number, row) for row in rows]
            chances = [torch.rand(longest, 1, generator=draw, dtype=torch.float64) for draw in draws]
            said = generate([model], given, end, torch.stack(chances), data.temperature)
            texts = [data.decoded(ids) for ids in said]
            for row, text, ids in zip(rows, texts, said, strict=True):
                self._judge(row, text, len(ids), number)

    def _judge(self, row: int, text: str, tokens: int, number: int) -> None:
        asked = self._data.texts[self._split][row]
        score = max(rouge_l(answer, text) for answer in asked.answers)
        same = any(_plain(answer) == _plain(text) for answer in asked.answers)
        self._found.append((score, same, tokens))
        if number == 0 and len(self._kept) < SAMPLES:
            said = {"row": row, "prompt": asked.prompt, "answer": asked.answers[0], "written": text}
            self._kept.append({**said, "rouge_l": round(100 * score, 2)})

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        scores, same, tokens = zip(*self._found, strict=True)
        count = len(scores)
        found = {
            "rouge_l": round(100 * math.fsum(scores) / count, 4),
            "exact_match": round(100 * sum(same) / count, 4),
            "answer_tokens": round(sum(tokens) / count, 2),
            **super().compute(),
        }
        self.samples = self._kept
        self._start()
        return found


def _plain(text: str) -> str:
    """As SQuAD's evaluation compares answers, with the articles."""
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(letters.split())
