"""How near a text comes to a reference, by well-kept libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from kdbench.models.language.pretrained import needs


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ValueError(str(needs("rouge-score"))) from error
    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(reference: str, text: str) -> float:
    """The F of the longest common subsequence of stemmed words (Lin 2004), from 0 to 1."""
    return float(_scorer().score(reference, text)["rougeL"].fmeasure)


def quality(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """ROUGE-L (mean over texts) and BLEU (of the corpus), of 100, of (text, reference) pairs."""
    try:
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise ValueError(str(needs("sacrebleu"))) from error
    found = [rouge_l(gold, text) for text, gold in pairs]
    bleu = corpus_bleu([text for text, _ in pairs], [[gold for _, gold in pairs]])
    return {"rouge_l": round(100 * math.fsum(found) / len(found), 4), "bleu": round(float(bleu.score), 4)}
