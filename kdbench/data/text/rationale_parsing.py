"""What a large language model continued a few-shot prompt with, taken apart into rationale and label, by the rules of
Distilling step-by-step (Hsieh et al. 2023, arXiv:2305.02301; the official data loader).

Where a completion does not have the form asked for, its parts are blank, and the row is kept: the student of the
official code is trained on the blank, and so is ours. Each function returns (rationale, label).
"""

from __future__ import annotations

import re
from collections.abc import Callable

BLANK = " "

Parts = tuple[str, str]


def cqa(completion: str) -> Parts:
    """Up to the next `Q:`; the label is what follows `(x)`, without one full stop. The official rule stops with an
    error where the phrase is missing."""
    head, found, tail = completion.split("Q:")[0].rstrip().partition("So the answer is")
    if not found or "So the answer is" in tail:
        return BLANK, BLANK
    after = re.split(r"\(.\)", tail)
    label = after[1].strip().removesuffix(".") if len(after) > 1 else ""
    return head.rstrip(), label or BLANK


def svamp(completion: str) -> Parts:
    """Up to the next `Q:`; the label is what is between the first and the last parenthesis."""
    head, found, tail = completion.split("Q:")[0].rstrip().partition("The answer is")
    if not found or "The answer is" in tail:
        return BLANK, BLANK
    label = re.search(r"\(.*\)", tail)
    return head.rstrip(), label.group(0) if label else BLANK


def esnli(completion: str) -> Parts:
    """The rationale is before `Answer:`, the label after it, up to the next `Premise`."""
    _, found, tail = completion.partition("Answer: ")
    label = tail.split("Answer: ")[0].split("Premise")[0].rstrip()
    return completion.split("Answer:")[0].rstrip(), label if found else BLANK


def anli1(completion: str) -> Parts:
    """Up to the next `Premise:`; the label loses its last character, whatever that is."""
    head, found, tail = completion.split("Premise:")[0].rstrip().partition("So the answer is")
    if not found or "So the answer is" in tail:
        return "", ""
    return head.rstrip(), tail.lstrip()[:-1]


RULES: dict[str, Callable[[str], Parts]] = {"cqa": cqa, "svamp": svamp, "esnli": esnli, "anli1": anli1}
