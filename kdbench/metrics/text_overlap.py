"""Overlap of generated texts with references: ROUGE-L and BLEU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from kdbench.models.language.pretrained import missing_package


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ValueError(str(missing_package("rouge-score"))) from error
    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(reference: str, text: str) -> float:
    """Return the F-measure of the longest common subsequence of stemmed words (Lin 2004), 0 to 1.

    Raises:
        ValueError: If the package rouge-score is not installed.
    """
    return float(_scorer().score(reference, text)["rougeL"].fmeasure)


def overlap_scores(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Score texts against references.

    Args:
        pairs: (text, reference) for each sample.

    Returns:
        `rouge_l` (mean over texts) and `bleu` (of the corpus), 0 to 100.

    Raises:
        ValueError: If the packages rouge-score or sacrebleu are not installed.
    """
    try:
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise ValueError(str(missing_package("sacrebleu"))) from error
    scores = [rouge_l(reference, text) for text, reference in pairs]
    bleu = corpus_bleu([text for text, _ in pairs], [[reference for _, reference in pairs]])
    return {"rouge_l": round(100 * math.fsum(scores) / len(scores), 4), "bleu": round(float(bleu.score), 4)}
