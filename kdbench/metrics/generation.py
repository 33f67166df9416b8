"""Scores of the responses that a language model generates to instructions."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch
from kdbench.metrics.text_overlap import rouge_l
from kdbench.metrics.token import TokenScores
from kdbench.models.language.generation import generate, prompts_of
from kdbench.utils.seeding import generator

NUM_SAMPLES = 20
"""Number of rows in the samples for people to read."""


class Reference(Protocol):
    """A prompt and the responses that are right."""

    @property
    def prompt(self) -> str:
        """The text that the network continues."""

    @property
    def answers(self) -> Sequence[str]:
        """The right responses, at least one."""


class ResponseScores(TokenScores):
    """ROUGE-L, exact match and length of generated responses, with the token scores of the first reference.

    * `rouge_l`: F-measure of the longest common subsequence of stemmed words with the best reference, times 100.
    * `exact_match`: in per cent; case, punctuation and spaces do not count.
    * `answer_tokens`: the mean length in tokens.

    All three are means over rows and draws. Each draw of each row has its own random numbers, the same for every
    network.

    Args:
        references: The rows of the split, in its order.
        decode: Turns token ids into text.
        split: The name of the split, which seeds the draws.
        draws: How often each prompt is answered.
        temperature: The sampling temperature; 0 is greedy decoding.
        end: The id of the token that ends a response.
        max_tokens: The maximum length of a response, in tokens.
    """

    def __init__(
        self,
        references: Sequence[Reference],
        decode: Callable[[Sequence[int]], str],
        split: str,
        *,
        draws: int,
        temperature: float,
        end: int,
        max_tokens: int,
    ) -> None:
        super().__init__()
        self._references, self._decode, self._split = references, decode, split
        self._draws, self._temperature = draws, temperature
        self._end, self._max_tokens = end, max_tokens
        self._reset_samples()

    def _reset_samples(self) -> None:
        self._scores: list[tuple[float, bool, int]] = []
        self._collected_samples: list[dict[str, Any]] = []

    @torch.no_grad()
    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Generate the responses to the prompts of a batch, and score them."""
        super().update(model, batch, logits, teacher)
        rows = torch.unique_consecutive(batch.index).tolist()
        prompts = prompts_of(next(iter(batch.texts.values())))
        for number in range(self._draws):
            draws = [generator(0, "answers", self._split, number, row) for row in rows]
            uniforms = [
                torch.rand(self._max_tokens, 1, generator=draw, dtype=torch.float64) for draw in draws
            ]
            responses = generate([model], prompts, self._end, torch.stack(uniforms), self._temperature)
            for row, ids in zip(rows, responses, strict=True):
                self._score(row, self._decode(ids), len(ids), number)

    def _score(self, row: int, text: str, tokens: int, number: int) -> None:
        reference = self._references[row]
        score = max(rouge_l(answer, text) for answer in reference.answers)
        is_match = any(_normalise(answer) == _normalise(text) for answer in reference.answers)
        self._scores.append((score, is_match, tokens))
        if number == 0 and len(self._collected_samples) < NUM_SAMPLES:
            sample = {"row": row, "prompt": reference.prompt, "answer": reference.answers[0], "written": text}
            self._collected_samples.append({**sample, "rouge_l": round(100 * score, 2)})

    def compute(self) -> dict[str, float]:
        """Return the scores by name and reset."""
        scores, matches, tokens = zip(*self._scores, strict=True)
        count = len(scores)
        result = {
            "rouge_l": round(100 * math.fsum(scores) / count, 4),
            "exact_match": round(100 * sum(matches) / count, 4),
            "answer_tokens": round(sum(tokens) / count, 2),
            **super().compute(),
        }
        self.samples = self._collected_samples
        self._reset_samples()
        return result


def _normalise(text: str) -> str:
    """Normalise a text as SQuAD's evaluation does, but keep articles."""
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(letters.split())
