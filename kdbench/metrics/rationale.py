"""Scores of a student that predicts a label and explains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import BinaryCalibrationError

from kdbench.core.types import Batch, Tokens
from kdbench.metrics.arithmetic import evaluate, values_match
from kdbench.metrics.base import Metric
from kdbench.metrics.classification import ECE_BINS
from kdbench.metrics.text_overlap import overlap_scores
from kdbench.models.language.t5 import T5

NUM_SAMPLES = 20
"""Number of rows in the samples for people to read."""

MIN_BIN_ROWS = 20
"""Smallest number of rows in a bin of equal mass."""


class Question(Protocol):
    """A question with its gold label and the language model's rationale."""

    @property
    def input(self) -> str:
        """The question."""

    @property
    def label(self) -> str:
        """The gold label."""

    @property
    def rationale(self) -> str:
        """The rationale of the language model."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The generated label of one row, with the confidence in all of its tokens together and in the first."""

    row: int
    text: str
    right: bool
    confidence: float
    first_right: bool
    first_confidence: float


class RationaleScores(Metric):
    """Accuracy and calibration of generated labels, and the quality of rationales.

    * `accuracy`, in per cent: labels that are generated exactly, by greedy decoding; for arithmetic, expressions with
      the value of the gold expression, within 1e-6.
    * `exact_match`; for arithmetic also `value_exact` (the same float) and `unparsed` (no expression), in per cent.
    * `nll`: of the label's tokens under teacher forcing, in nats.
    * `ece`, `ece_mass`: calibration error of the probability of the whole answer, in per cent, in 15 bins of equal
      width and of equal mass (at least 20 rows each); `ece_first`, `ece_first_mass`: of the first token.
    * `rouge_l` (F-measure of stemmed words) and `bleu`, times 100: rationales against those of the language model, of
      students that explain.

    Args:
        questions: The rows of the split, in its order.
        decode: Turns token ids into text.
        round_trip: Turns a label into what the tokenizer gives back for it: the text of a perfect answer.
        max_answer: The length of a generated label, in tokens.
        max_rationale: The length of a generated rationale, in tokens.
        explained: The rows whose rationales are generated.
        is_arithmetic: Whether labels are arithmetic expressions.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        decode: Callable[[Sequence[int]], str],
        round_trip: Callable[[str], str],
        *,
        max_answer: int,
        max_rationale: int,
        explained: Collection[int] = (),
        is_arithmetic: bool = False,
    ) -> None:
        super().__init__()
        self._questions, self._decode, self._round_trip = questions, decode, round_trip
        self._max_answer, self._max_rationale = max_answer, max_rationale
        self._explained, self._is_arithmetic = explained, is_arithmetic
        self._reset_samples()

    def _reset_samples(self) -> None:
        self._nll = self._tokens = 0.0
        self._predictions: list[Prediction] = []
        self._rationales: dict[int, str] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Generate the labels of a batch, and the rationales of `explained` rows."""
        self._nll += F.cross_entropy(logits, batch.target, reduction="sum").item()
        self._tokens += len(batch.target)
        rows = torch.unique_consecutive(batch.index).tolist()
        first, explain = next(iter(batch.texts.values())), batch.texts.get("explain")
        assert isinstance(model, T5)
        self._predictions += self._labels(model, first, rows)
        positions = [position for position, row in enumerate(rows) if row in self._explained]
        if explain is not None and positions:
            selected = Tokens(explain.ids[positions], explain.mask[positions], explain.labels[positions])
            texts = model.generate(selected, self._max_rationale).ids.tolist()
            self._rationales |= {
                rows[position]: self._decode(ids) for position, ids in zip(positions, texts, strict=True)
            }

    def _labels(self, model: T5, tokens: Tokens, rows: Sequence[int]) -> list[Prediction]:
        answers = model.generate(tokens, self._max_answer)
        token_probability = answers.log_probability.double().exp()
        sequence_probability = answers.log_probability.double().sum(dim=1).exp()
        predictions = []
        for position, row in enumerate(rows):
            text = self._decode(answers.ids[position].tolist())
            first = int(answers.ids[position, 0]) == int(tokens.labels[position, 0])
            right = self._is_right(text, self._label(row))
            predictions.append(
                Prediction(
                    row,
                    text,
                    right,
                    sequence_probability[position].item(),
                    first,
                    token_probability[position, 0].item(),
                )
            )
        return predictions

    def _label(self, row: int) -> str:
        return self._round_trip(self._questions[row].label)

    def _is_right(self, text: str, label: str) -> bool:
        return values_match(evaluate(text), evaluate(label)) if self._is_arithmetic else text == label

    def compute(self) -> dict[str, float]:
        """Return the scores by name and reset."""
        predictions = self._predictions
        exact = [one.text == self._label(one.row) for one in predictions]
        right, first_right = [one.right for one in predictions], [one.first_right for one in predictions]
        scores = {
            "accuracy": _share(right),
            "exact_match": _share(exact),
            "nll": round(self._nll / max(1.0, self._tokens), 6),
            **calibration([one.confidence for one in predictions], right, "ece"),
            **calibration([one.first_confidence for one in predictions], first_right, "ece_first"),
        }
        if self._is_arithmetic:
            values = [(evaluate(one.text), evaluate(self._label(one.row))) for one in predictions]
            scores["value_exact"] = _share(own is not None and own == gold for own, gold in values)
            scores["unparsed"] = _share(own is None for own, _ in values)
        if self._rationales:
            pairs = [(text, self._questions[row].rationale) for row, text in self._rationales.items()]
            scores |= overlap_scores(pairs)
        self.samples = [self._sample(one) for one in predictions[:NUM_SAMPLES]]
        self._reset_samples()
        return scores

    def _sample(self, one: Prediction) -> dict[str, Any]:
        row = self._questions[one.row]
        sample = {"row": one.row, "input": row.input, "label": row.label, "prediction": one.text}
        sample |= {"right": one.right, "confidence": round(one.confidence, 4)}
        if one.row in self._rationales:
            sample |= {"rationale": self._rationales[one.row], "llm_rationale": row.rationale}
        return sample


def calibration(confidence: Sequence[float], right: Sequence[bool], name: str) -> dict[str, float]:
    """Compute expected calibration errors in per cent.

    Args:
        confidence: Probability of each answer.
        right: Whether each answer is correct.
        name: Prefix of the results.

    Returns:
        `NAME` in bins of equal width, `NAME_mass` in bins of equal mass.
    """
    probability = torch.tensor(confidence, dtype=torch.float64)
    correct = torch.tensor(right, dtype=torch.float64)
    below_1 = 1 - torch.finfo(torch.float32).eps  # torchmetrics ends its last bin before 1
    width = BinaryCalibrationError(ECE_BINS, validate_args=False)
    width.update(probability.float().clamp(max=below_1), correct.long())
    order = probability.argsort(stable=True)
    bins = max(1, min(ECE_BINS, len(order) // MIN_BIN_ROWS))
    gaps = [
        len(part) * abs(correct[part].mean() - probability[part].mean()).item()
        for part in order.tensor_split(bins)
        if len(part)
    ]
    return {
        name: round(100 * float(width.compute()), 4),
        f"{name}_mass": round(100 * math.fsum(gaps) / len(order), 4),
    }


def _share(hits: Iterable[bool]) -> float:
    values = [bool(hit) for hit in hits]
    return round(100 * sum(values) / max(1, len(values)), 4)
