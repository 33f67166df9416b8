"""Sections of docs/performance.md with results of their own: a GPU, and the accuracy of fast settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.utils.formatting import markdown_table

Results = Mapping[str, Any]
"""The content of a JSON file of a benchmark."""

ON_GPU = """## On a GPU

`cuda_graph=true` records a step once and replays it. One CUDA graph holds the batch (crop, flip, normalise) and the
teacher's forward pass; each student's forward, loss, backward and SGD are a graph of their own, so that a student's
random numbers do not depend on the other students of its cohort. Between two steps the host copies the indices of the
next rows, sets learning rate and seed, and launches; it waits for the device once every `log_every` steps. Smaller last
batches run without a graph. A loss whose weight ramps up, or that reads the epoch, is recorded again when that changes.
Not supported, and refused with the reason: several processes, streamed images and text, AdamW, and losses that draw by
the number of the step (crd, vitkd), need strong views (mlkd) or read images outside the batch (mcmi).

Without a GPU the tests replay recordings of every other recipe on the CPU, operation by operation, and compare the
weights with those of executed steps (reviewkd's up to rounding; tests/training/test_cuda_graph.py, most of them in
`make test-slow`). They also run each recipe's step on a device that has shapes only, where reading a number or mixing
devices fails.
{status}

`python benchmarks/gpu.py` measures the table below, in parts of at most 9 minutes: 240 epochs of resnet32x4 ->
resnet8x4 at batch 64, extrapolated from the speed of steps; the last row is the training time of a whole run.
"""
NOT_RUN = "It has not been run on CUDA yet: it is off by default, and its cells below are empty."

ROWS = {
    "reference": ("the loop of the literature, float32, worker processes", None),
    "eager-fp32": ("live teacher, fp32, without graphs", None),
    "eager": ("live teacher, bf16, without graphs", None),
    "graph-fp32": ("live teacher, fp32, recorded", None),
    "graph": ("live teacher, bf16, recorded", 2.5),
    "cohort-4": ("cohort of 4, bf16, recorded, per student", 1.5),
    "cohort-8": ("cohort of 8, bf16, recorded, per student", 1.5),
    "row": ("a whole run, bf16, recorded, without evaluations", 2.5),
}
"""By part of the benchmark: the setting in words, and the target in minutes."""

RECORDED = {"graph-fp32", "graph", "cohort-4", "cohort-8", "row"}

ACCURACY = """## Accuracy of the fast settings

Paired runs on all of CIFAR-100 with equal seeds, and therefore equal batches and views, by `python
benchmarks/accuracy.py`: the test top-1 of a setting at the last epoch minus that of a live teacher and student in
float32, as the mean over the seeds with the 95 % interval of Student's t. `stored` is the cache in float16;
`bf16-teacher` and `bf16` are values of `precision`. Only the cache is a default, where a cache for the run exists.
"""


def on_gpu(results: Results | None) -> str:
    """Return the section about one GPU.

    Args:
        results: The content of benchmarks/gpu.json; None where nothing was measured.
    """
    parts = (results or {}).get("parts", {})
    base = parts.get("reference", {}).get("images_per_second")
    rows = []
    for name, (setting, target) in ROWS.items():
        part = parts.get(name, {})
        speed, minutes = (
            part.get("images_per_second"),
            part.get("minutes_a_row", part.get("training_minutes")),
        )
        rows.append(
            {
                "setting": setting,
                "target, minutes": "" if target is None else f"{target:g}",
                "minutes": "" if minutes is None else f"{minutes:.2f}",
                "images/s": "" if speed is None else f"{speed:,.0f}",
                "ratio": "" if not (speed and base) else f"{speed / base:.1f}",
            }
        )
    commits = ", ".join(dict.fromkeys(part.get("commit") or "unknown" for part in parts.values()))
    where = f"\nOn {results['device']}, commit {commits}.\n" if results else ""
    recorded = results is not None and results["device"] != "cpu" and set(parts) & RECORDED
    return f"{ON_GPU.format(status='' if recorded else NOT_RUN)}{where}\n{markdown_table(rows)}\n"


def accuracy(results: Results | None) -> str:
    """Return the section about paired runs.

    Args:
        results: The content of benchmarks/accuracy.json; None where nothing was measured.
    """
    if not results:
        return f"{ACCURACY}\nNot measured yet.\n"
    rows = [
        {
            "setting": setting,
            "pair": measured["pair"].replace(":", " -> "),
            "epochs": measured["epochs"],
            "loss": loss,
            "seeds": len(paired["seeds"]),
            "live, fp32": _mean(paired["live"]),
            "with the setting": _mean(paired[setting]),
            "difference, points": f"{paired['difference']:+.2f} +- {paired['interval95']:.2f}",
        }
        for setting, measured in results.items()
        for loss, paired in measured["losses"].items()
    ]
    commands = [
        f"* {setting}: `{measured['command']}` on {measured['machine']['processor']}, "
        f"commit {measured['commit'] or 'unknown'}"
        for setting, measured in results.items()
    ]
    return f"{ACCURACY}\n{markdown_table(rows)}\n\n" + "\n".join(commands) + "\n"


def _mean(scores: list[float]) -> str:
    return f"{sum(scores) / len(scores):.2f}"
