"""What a token-level loss costs over a large vocabulary: all rows at once, and in pieces (kdbench.losses.chunked).

    python benchmarks/lm_losses.py [--out benchmarks/lm_losses.json]

From hidden states and last layers of both sides (D = 256, float32, one thread) to the gradients by the student's: the
time, and the most memory that is held at once beyond what was there before, the gradients included. Both ways must
come to one value. Where all rows at once would take more than is free, they are not tried.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kdbench import objectives
from kdbench.core.logits import ProjectedLogits
from kdbench.core.types import Batch, Outputs
from kdbench.losses.chunked import NUMBERS_AT_ONCE
from kdbench.losses.composite import Loss
from kdbench.training.run_folder import provenance

WIDTH = 256
CASES = (
    (512, 50_000, ("fkl", "js", "abkd")),
    (512, 150_000, ("fkl", "js")),
    (4096, 150_000, ("fkl",)),
)
"""Tokens, words, losses."""

LOSSES: dict[str, dict[str, float]] = {
    "fkl": {},
    "js": {},
    "abkd": {"alpha": 0.2, "beta": 0.7, "temperature": 1.0},
}
COPIES = 12
"""Float32 copies of [N, V] that a plain loss may hold; whether to try."""


def sides(tokens: int, words: int) -> tuple[ProjectedLogits, ProjectedLogits, Batch]:
    """Student, teacher and labels, drawn anew."""
    torch.manual_seed(0)
    made = [(torch.randn(tokens, WIDTH), torch.randn(words, WIDTH) / WIDTH**0.5) for _ in range(2)]
    student, teacher = (ProjectedLogits(features, weight) for features, weight in made)
    target = torch.randint(words, (tokens,))
    return student, teacher, Batch(target, target, torch.arange(tokens))


def step(
    loss: Loss, case: tuple[ProjectedLogits, ProjectedLogits, Batch], whole: bool
) -> tuple[float, list[Tensor]]:
    """The value and the gradients by the student's features and last layer."""
    student, teacher, batch = case
    leaves = [student.hidden.clone().requires_grad_(), student.weight.clone().requires_grad_()]
    answer = ProjectedLogits(*leaves)
    if whole:
        with torch.no_grad():
            theirs = Outputs(teacher.dense())
        total, _ = loss._evaluate(Outputs(answer.dense()), theirs, batch, [len(batch.target)])
    else:
        total, _ = loss(Outputs(answer), Outputs(teacher), batch)
    return total.item(), list(torch.autograd.grad(total, leaves))


def measure(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, its seconds, and the MiB that torch's allocator holds at most beyond what it held before."""
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = work()
    seconds = time.perf_counter() - started
    events = seen.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return found, seconds, max(itertools.accumulate((size for _, size in changes), initial=0)) / 2**20


def row(name: str, tokens: int, words: int) -> dict[str, Any]:
    """Both ways of one loss at one size."""
    loss = Loss({name: 1.0}, {name: objectives.create(name, **LOSSES[name])})
    case = sides(tokens, words)
    (value, gradients), seconds, mib = measure(lambda: step(loss, case, whole=False))
    found = {"loss": name, "tokens": tokens, "words": words, "pieces_s": seconds, "pieces_mib": mib}
    if 4 * COPIES * tokens * words < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        (expected, others), seconds, mib = measure(lambda: step(loss, case, whole=True))
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(gradients, others, rtol=1e-3, atol=1e-7)
        found |= {"whole_s": seconds, "whole_mib": mib}
    return {key: round(cell, 2) if isinstance(cell, float) else cell for key, cell in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every loss at every size, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for tokens, words, names in CASES:
        for name in names:
            rows.append(row(name, tokens, words))
            print(json.dumps(rows[-1]), flush=True)
    dataset_info = provenance()
    about = (
        f"Once each, with one thread on {dataset_info['machine']['processor']}, torch {torch.__version__}, "
        f"D = {WIDTH}, float32, {NUMBERS_AT_ONCE:,} logits at once."
    )
    if options.out:
        content = {"about": about, "width": WIDTH, "rows": rows, "provenance": dataset_info}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
