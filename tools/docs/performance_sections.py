"""Parts of docs/performance.md with measurements of their own: a GPU, and what fast settings cost in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.utils.formatting import markdown_table

Found = Mapping[str, Any]

ON_GPU = """## On a GPU

With `cuda_graph=true` a step is recorded once and replayed: the batch (crop, flip, normalise) and the teacher's
answers as one CUDA graph, and each student's forward, loss, backward and SGD as another, so that what a student draws
does not depend on who trains beside it. Between two steps the host copies which rows come next, sets the learning rate
and the seed, and launches; it waits for the device once in `log_every` steps. Smaller last batches run as they are. A
loss whose weight rises, or that looks at the epoch's number, is recorded anew where that changes. Refused, with the
reason: several processes, streamed images and text, AdamW, and losses that draw by the step's number (crd, vitkd), ask
for strong views (mlkd) or about images beside the batch (mcmi).

Without a GPU the tests replay recordings of every other recipe on the CPU, operation for operation, and find the
weights of steps that were run (reviewkd's up to rounding; tests/test_graph.py, most of them by `make test-slow`), and
they go through each recipe's step on a device that has shapes alone, where reading a number or mixing devices fails.
{ran}

`python benchmarks/gpu.py` measures what follows, in parts of at most 9 minutes: 240 epochs of resnet32x4 -> resnet8x4
at batch 64, from the speed of the steps but for the last row, which is the time that a whole run trained.
"""
NOT_RUN = "On CUDA itself it has not been run yet: it is off unless asked for, and its cells below are empty."

ROWS = {
    "reference": ("the literature's loop, float32, worker processes", None),
    "eager-fp32": ("live teacher, fp32, steps as they are", None),
    "eager": ("live teacher, bf16, steps as they are", None),
    "graph-fp32": ("live teacher, fp32, recorded", None),
    "graph": ("live teacher, bf16, recorded", 2.5),
    "cohort-4": ("cohort of 4, bf16, recorded, per student", 1.5),
    "cohort-8": ("cohort of 8, bf16, recorded, per student", 1.5),
    "row": ("a whole run, bf16, recorded, without evaluations", 2.5),
}

RECORDED = {"graph-fp32", "graph", "cohort-4", "cohort-8", "row"}

ACCURACY = """## Accuracy of the fast settings

Paired runs on all of CIFAR-100, the same seeds and so the same batches and views, by `python benchmarks/accuracy.py`: a
setting's test top-1 at the last epoch minus that of the live float32 teacher and student, mean over the seeds with the
95 % interval of Student's t. `stored` is the cache in float16; `bf16-teacher` and `bf16` are the settings of
`precision`. None of these is a default but the cache, where one is there that serves the run.
"""


def on_gpu(found: Found | None) -> str:
    """The section of one GPU."""
    parts = (found or {}).get("parts", {})
    base = parts.get("reference", {}).get("images_per_second")
    rows = []
    for name, (words, aim) in ROWS.items():
        part = parts.get(name, {})
        speed, minutes = (
            part.get("images_per_second"),
            part.get("minutes_a_row", part.get("training_minutes")),
        )
        rows.append(
            {
                "setting": words,
                "aim, minutes": "" if aim is None else f"{aim:g}",
                "minutes": "" if minutes is None else f"{minutes:.2f}",
                "images/s": "" if speed is None else f"{speed:,.0f}",
                "ratio": "" if not (speed and base) else f"{speed / base:.1f}",
            }
        )
    commits = ", ".join(dict.fromkeys(part.get("commit") or "unknown" for part in parts.values()))
    where = f"\nOn {found['device']}, commit {commits}.\n" if found else ""
    recorded = found is not None and found["device"] != "cpu" and set(parts) & RECORDED
    return f"{ON_GPU.format(ran='' if recorded else NOT_RUN)}{where}\n{markdown_table(rows)}\n"


def accuracy(found: Found | None) -> str:
    """The section of paired runs."""
    if not found:
        return f"{ACCURACY}\nNot measured yet.\n"
    rows = [
        {
            "setting": setting,
            "pair": measured["pair"].replace(":", " -> "),
            "epochs": measured["epochs"],
            "loss": loss,
            "seeds": len(paired["seeds"]),
            "live, fp32": _mean(paired["live"]),
            "setting's": _mean(paired[setting]),
            "difference, points": f"{paired['difference']:+.2f} +- {paired['interval95']:.2f}",
        }
        for setting, measured in found.items()
        for loss, paired in measured["losses"].items()
    ]
    made = [
        f"* {setting}: `{measured['command']}` on {measured['machine']['processor']}, "
        f"commit {measured['commit'] or 'unknown'}"
        for setting, measured in found.items()
    ]
    return f"{ACCURACY}\n{markdown_table(rows)}\n\n" + "\n".join(made) + "\n"


def _mean(scores: list[float]) -> str:
    return f"{sum(scores) / len(scores):.2f}"
