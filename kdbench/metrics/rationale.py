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
from kdbench.metrics.arithmetic import same, value
from kdbench.metrics.base import Metric
from kdbench.metrics.classification import ECE_BINS
from kdbench.metrics.text_overlap import quality
from kdbench.models.language.t5 import T5

SAMPLES = 20
"""The number of rows kept for people to read."""

LEAST_IN_BIN = 20
"""The smallest number of rows in a bin of equal mass."""


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
        self._start()

    def _start(self) -> None:
        self._nll = self._tokens = 0.0
        self._predictions: list[Prediction] = []
        self._rationales: dict[int, str] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Generate the labels of a batch, and the rationales that are to be compared."""
        self._nll += F.cross_entropy(logits, batch.target, reduction="sum").item()
        self._tokens += len(batch.target)
        rows = torch.unique_consecutive(batch.index).tolist()
        first, explain = next(iter(batch.texts.values())), batch.texts.get("explain")
        assert isinstance(model, T5)
        self._predictions += self._labels(model, first, rows)
        wanted = [place for place, row in enumerate(rows) if row in self._explained]
        if explain is not None and wanted:
            some = Tokens(explain.ids[wanted], explain.mask[wanted], explain.labels[wanted])
            texts = model.generate(some, self._max_rationale).ids.tolist()
            self._rationales |= {
                rows[place]: self._decode(ids) for place, ids in zip(wanted, texts, strict=True)
            }

    def _labels(self, model: T5, tokens: Tokens, rows: Sequence[int]) -> list[Prediction]:
        answers = model.generate(tokens, self._max_answer)
        by_token = answers.log_probability.double().exp()
        whole = answers.log_probability.double().sum(dim=1).exp()
        predictions = []
        for place, row in enumerate(rows):
            text = self._decode(answers.ids[place].tolist())
            first = int(answers.ids[place, 0]) == int(tokens.labels[place, 0])
            right = self._is_right(text, self._label(row))
            predictions.append(
                Prediction(row, text, right, whole[place].item(), first, by_token[place, 0].item())
            )
        return predictions

    def _label(self, row: int) -> str:
        return self._round_trip(self._questions[row].label)

    def _is_right(self, text: str, label: str) -> bool:
        return same(value(text), value(label)) if self._is_arithmetic else text == label

    def compute(self) -> dict[str, float]:
        """Return the scores so far, and start again."""
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
            values = [(value(one.text), value(self._label(one.row))) for one in predictions]
            scores["value_exact"] = _share(own is not None and own == gold for own, gold in values)
            scores["unparsed"] = _share(own is None for own, _ in values)
        if self._rationales:
            pairs = [(text, self._questions[row].rationale) for row, text in self._rationales.items()]
            scores |= quality(pairs)
        self.samples = [self._sample(one) for one in predictions[:SAMPLES]]
        self._start()
        return scores

    def _sample(self, one: Prediction) -> dict[str, Any]:
        row = self._questions[one.row]
        sample = {"row": one.row, "input": row.input, "label": row.label, "prediction": one.text}
        sample |= {"right": one.right, "confidence": round(one.confidence, 4)}
        if one.row in self._rationales:
            sample |= {"rationale": self._rationales[one.row], "llm_rationale": row.rationale}
        return sample


def calibration(confidence: Sequence[float], right: Sequence[bool], name: str) -> dict[str, float]:
    """Return expected calibration errors in per cent: `name` in bins of equal width, `name`_mass of equal mass."""
    sure = torch.tensor(confidence, dtype=torch.float64)
    hits = torch.tensor(right, dtype=torch.float64)
    below_1 = 1 - torch.finfo(torch.float32).eps  # torchmetrics ends its last bin before 1
    width = BinaryCalibrationError(ECE_BINS, validate_args=False)
    width.update(sure.float().clamp(max=below_1), hits.long())
    order = sure.argsort(stable=True)
    bins = max(1, min(ECE_BINS, len(order) // LEAST_IN_BIN))
    gaps = [
        len(part) * abs(hits[part].mean() - sure[part].mean()).item()
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
