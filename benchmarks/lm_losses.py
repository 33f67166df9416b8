"""Measure what a token-level loss costs over a large vocabulary: all rows at once, and chunked.

    python benchmarks/lm_losses.py [--out benchmarks/lm_losses.json]

Each measurement goes from the hidden states and last layers of both networks (D = 256, float32, one thread) to the
gradients of the student's: the time, and the peak memory beyond what was allocated before, gradients included. Both
ways must give the same value. All rows at once are measured only where they fit into free memory.
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
from kdbench.losses.chunked import CHUNK_LOGITS
from kdbench.losses.composite import Loss
from kdbench.utils.provenance import provenance

WIDTH = 256
CASES = (
    (512, 50_000, ("fkl", "js", "abkd")),
    (512, 150_000, ("fkl", "js")),
    (4096, 150_000, ("fkl",)),
)
"""Number of tokens, size of the vocabulary, losses."""

LOSSES: dict[str, dict[str, float]] = {
    "fkl": {},
    "js": {},
    "abkd": {"alpha": 0.2, "beta": 0.7, "temperature": 1.0},
}
COPIES = 12
"""Float32 copies of [N, V] that a loss on all rows at once may hold."""

Case = tuple[ProjectedLogits, ProjectedLogits, Batch]


def make_case(tokens: int, vocab_size: int) -> Case:
    """Return random logits of student and teacher, [tokens, vocab_size] each, and labels."""
    torch.manual_seed(0)
    layers = [(torch.randn(tokens, WIDTH), torch.randn(vocab_size, WIDTH) / WIDTH**0.5) for _ in range(2)]
    student, teacher = (ProjectedLogits(hidden, weight) for hidden, weight in layers)
    target = torch.randint(vocab_size, (tokens,))
    return student, teacher, Batch(target, target, torch.arange(tokens))


def step(loss: Loss, case: Case, whole: bool) -> tuple[float, list[Tensor]]:
    """Return the value of a loss and its gradients by the student's hidden states and last layer.

    Args:
        loss: The loss.
        case: Student, teacher and labels.
        whole: Compute the logits of all rows at once instead of chunk by chunk.
    """
    student, teacher, batch = case
    leaves = [student.hidden.clone().requires_grad_(), student.weight.clone().requires_grad_()]
    logits = ProjectedLogits(*leaves)
    if whole:
        with torch.no_grad():
            theirs = Outputs(teacher.dense())
        total, _ = loss._evaluate(Outputs(logits.dense()), theirs, batch, [len(batch.target)])
    else:
        total, _ = loss(Outputs(logits), Outputs(teacher), batch)
    return total.item(), list(torch.autograd.grad(total, leaves))


def measure(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result of `work`, its seconds, and the peak memory in MiB beyond what was allocated before."""
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    seconds = time.perf_counter() - started
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return result, seconds, max(itertools.accumulate((size for _, size in changes), initial=0)) / 2**20


def measure_loss(name: str, tokens: int, vocab_size: int) -> dict[str, Any]:
    """Measure a loss at one size in both ways, and check that both agree."""
    loss = Loss({name: 1.0}, {name: objectives.create(name, **LOSSES[name])})
    case = make_case(tokens, vocab_size)
    (value, gradients), seconds, mib = measure(lambda: step(loss, case, whole=False))
    row = {"loss": name, "tokens": tokens, "vocab_size": vocab_size, "chunked_s": seconds, "chunked_mib": mib}
    if 4 * COPIES * tokens * vocab_size < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        (expected, others), seconds, mib = measure(lambda: step(loss, case, whole=True))
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(gradients, others, rtol=1e-3, atol=1e-7)
        row |= {"whole_s": seconds, "whole_mib": mib}
    return {key: round(cell, 2) if isinstance(cell, float) else cell for key, cell in row.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every loss at every size, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for tokens, vocab_size, names in CASES:
        for name in names:
            rows.append(measure_loss(name, tokens, vocab_size))
            print(json.dumps(rows[-1]), flush=True)
    machine = provenance()
    about = (
        f"Once each, with one thread on {machine['machine']['processor']}, torch {torch.__version__}, "
        f"D = {WIDTH}, float32, {CHUNK_LOGITS:,} logits at once."
    )
    if options.out:
        content = {"about": about, "width": WIDTH, "rows": rows, "provenance": machine}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
