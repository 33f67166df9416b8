"""What is said of a student that predicts and explains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from kdbench.data.text.rationale import RationaleData

SAMPLES = 20
"""How many rows are kept for people to read."""

LEAST_IN_BIN = 20
"""Rows in a bin of equal mass."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was written for one row, and how sure the network was: of all its tokens together, and of the first."""

    row: int
    text: str
    right: bool
    confidence: float
    first_right: bool
    first_confidence: float


class RationaleScores(Metric):
    """accuracy in per cent: of labels that are written as they are (SVAMP: that have the value of the gold expression,
    within 1e-6), by greedy decoding, at most dataset.max_answer tokens.

    exact_match; on SVAMP value_exact (the very same float) and unparsed (no expression), in per cent. nll: of the
    label's tokens, teacher forced, in nats. ece, ece_mass: calibration error of the probability of the whole answer,
    in per cent, in 15 bins of equal width and of equal mass (at least 20 rows each); ece_first, ece_first_mass: of the
    first token's. On the splits that are scored at the end, of students that explain: rouge_l (F of stemmed words) and
    bleu, of 100, of their rationales against the language model's, over dataset.quality_samples rows.
    """

    def __init__(self, data: RationaleData, split: str) -> None:
        super().__init__()
        self._data, self._split = data, split
        self._start()

    def _start(self) -> None:
        self._nll = self._tokens = 0.0
        self._predictions: list[Prediction] = []
        self._rationales: dict[int, str] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Let it write the label, and at the end the rationale."""
        self._nll += F.cross_entropy(logits, batch.target, reduction="sum").item()
        self._tokens += len(batch.target)
        rows = torch.unique_consecutive(batch.index).tolist()
        first, asked = next(iter(batch.texts.values())), batch.texts.get("explain")
        assert isinstance(model, T5)
        self._predictions += self._labels(model, first, rows)
        wanted = [place for place, row in enumerate(rows) if row in self._data.generated]
        if asked is not None and self._split in self._data.final_splits and wanted:
            some = Tokens(asked.ids[wanted], asked.mask[wanted], asked.labels[wanted])
            said = model.generate(some, self._data.max_rationale).ids.tolist()
            self._rationales |= {
                rows[place]: self._data.decoded(ids) for place, ids in zip(wanted, said, strict=True)
            }

    def _labels(self, model: T5, tokens: Tokens, rows: Sequence[int]) -> list[Prediction]:
        said = model.generate(tokens, self._data.max_answer)
        sure = said.log_probability.double().exp()
        whole = said.log_probability.double().sum(dim=1).exp()
        found = []
        for place, row in enumerate(rows):
            text = self._data.decoded(said.ids[place].tolist())
            first = int(said.ids[place, 0]) == int(tokens.labels[place, 0])
            right = self._is_right(text, self._label(row))
            found.append(Prediction(row, text, right, whole[place].item(), first, sure[place, 0].item()))
        return found

    def _label(self, row: int) -> str:
        """The label as the tokenizer gives it back: what a perfect student would write."""
        data = self._data
        ids = data.tokenizer.encode(data.texts[self._split][row].label, add_special_tokens=False).ids
        return data.decoded(ids)

    @property
    def _is_arithmetic(self) -> bool:
        return self._data.name == "svamp"

    def _is_right(self, text: str, label: str) -> bool:
        return same(value(text), value(label)) if self._is_arithmetic else text == label

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        made = self._predictions
        exact = [one.text == self._label(one.row) for one in made]
        scores = {
            "accuracy": _share(one.right for one in made),
            "exact_match": _share(exact),
            "nll": round(self._nll / max(1.0, self._tokens), 6),
            **calibration([one.confidence for one in made], [one.right for one in made], "ece"),
            **calibration(
                [one.first_confidence for one in made], [one.first_right for one in made], "ece_first"
            ),
        }
        if self._is_arithmetic:
            values = [(value(one.text), value(self._label(one.row))) for one in made]
            scores["value_exact"] = _share(own is not None and own == gold for own, gold in values)
            scores["unparsed"] = _share(own is None for own, _ in values)
        if self._rationales:
            gold = self._data.texts[self._split]
            scores |= quality([(text, gold[row].rationale) for row, text in self._rationales.items()])
        self.samples = [self._sample(one) for one in made[:SAMPLES]]
        self._start()
        return scores

    def _sample(self, one: Prediction) -> dict[str, Any]:
        row = self._data.texts[self._split][one.row]
        said = {"row": one.row, "input": row.input, "label": row.label, "prediction": one.text}
        said |= {"right": one.right, "confidence": round(one.confidence, 4)}
        if one.row in self._rationales:
            said |= {"rationale": self._rationales[one.row], "llm_rationale": row.rationale}
        return said


def calibration(confidence: Sequence[float], right: Sequence[bool], name: str) -> dict[str, float]:
    """Expected calibration errors in per cent, `name` in bins of equal width, `name`_mass in bins of equal mass."""
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
    found = [bool(hit) for hit in hits]
    return round(100 * sum(found) / max(1, len(found)), 4)
