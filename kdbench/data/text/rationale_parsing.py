"""Rationale and label in a large language model's completion of a few-shot prompt.

The rules are those of the official data loader of Distilling step-by-step (Hsieh et al. 2023, arXiv:2305.02301). The
parts of a completion in another form are blank, and the row stays, because the official code trains students on
blanks, too. Each function returns (rationale, label).
"""

from __future__ import annotations

import re
from collections.abc import Callable

BLANK = " "

Parts = tuple[str, str]


def cqa(completion: str) -> Parts:
    """Parse up to the next `Q:`; the label follows `(x)`, without one full stop.

    The official rule fails if the phrase is missing.
    """
    head, phrase, tail = completion.split("Q:")[0].rstrip().partition("So the answer is")
    if not phrase or "So the answer is" in tail:
        return BLANK, BLANK
    parts = re.split(r"\(.\)", tail)
    label = parts[1].strip().removesuffix(".") if len(parts) > 1 else ""
    return head.rstrip(), label or BLANK


def svamp(completion: str) -> Parts:
    """Parse up to the next `Q:`; the label is the text from the first to the last parenthesis."""
    head, phrase, tail = completion.split("Q:")[0].rstrip().partition("The answer is")
    if not phrase or "The answer is" in tail:
        return BLANK, BLANK
    label = re.search(r"\(.*\)", tail)
    return head.rstrip(), label.group(0) if label else BLANK


def esnli(completion: str) -> Parts:
    """Parse the rationale before `Answer:` and the label after it, up to the next `Premise`."""
    _, phrase, tail = completion.partition("Answer: ")
    label = tail.split("Answer: ")[0].split("Premise")[0].rstrip()
    return completion.split("Answer:")[0].rstrip(), label if phrase else BLANK


def anli1(completion: str) -> Parts:
    """Parse up to the next `Premise:`; the label loses its last character, whatever it is."""
    head, phrase, tail = completion.split("Premise:")[0].rstrip().partition("So the answer is")
    if not phrase or "So the answer is" in tail:
        return "", ""
    return head.rstrip(), tail.lstrip()[:-1]


RULES: dict[str, Callable[[str], Parts]] = {"cqa": cqa, "svamp": svamp, "esnli": esnli, "anli1": anli1}
