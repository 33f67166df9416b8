"""docs/performance.md, written from the results of `kdbench bench` and of the programs in benchmarks/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.benchmark.scaling import cache_bytes
from kdbench.benchmark.settings import SETTINGS
from kdbench.benchmark.stopwatch import PARTS
from kdbench.benchmark.summary import TARGETS, TOLERANCE, paid_words
from kdbench.utils.formatting import markdown_table
from tools.docs.performance_sections import accuracy, on_gpu

Results = Mapping[str, Any]
"""The content of a JSON file of a benchmark, or a part of it."""

HEAD = f"""# Performance

Read this page to know what a training step costs next to a plain PyTorch loop, and what caches, cohorts and bf16 save.

`python scripts/render_performance.py` (`make docs`) writes this page from measurements: benchmarks/bench.json comes
from `kdbench bench --json benchmarks/bench.json`, accuracy.json and gpu.json in the same folder from the programs of
these names. A test fails when the page is stale. A cell is empty where nothing was measured.

## What is compared

* The reference, benchmarks/reference.py, is the training loop of the CIFAR-100 literature in plain PyTorch: PIL images
  pass through torchvision's transforms in a Dataset behind a DataLoader, in float32; both networks return features; the
  loss is KD with cross-entropy, the optimiser SGD; loss, top-1 and top-5 are read with `.item()` after every step.
* kdbench is a run of `kdbench train`: Lightning calls `StudentModule.training_step`, and hooks time its parts. Chunks
  of kdbench alternate with as many reference steps in one process, on the same images and threads. The first turns are
  discarded, and so is the first step of every turn, which finds the other side's data in the CPU caches. A ratio is the
  reference's median time over kdbench's, per student.
* In bf16 the teacher's BatchNorms are folded into the convolutions before them (kdbench/models/bn_folding.py).
* CPU time is that of the whole process. Waiting threads sleep (OMP_WAIT_POLICY=passive), so that CPU time is valid on a
  busy machine too. Wall time is valid on a quiet machine only.
* The reference itself is checked: the shares of its step must lie within {TOLERANCE:.0f} points of those that published
  loops had on another CPU; otherwise no ratio is given.
* The peak is that of a 3x3 convolution with 256 input and output channels in the row's precision, measured before and
  after the row's turns. Shares and per cent of the peak refer to CPU time; images/s refer to wall time and are summed
  over the students.
* The warm cache is a sealed cache of all views, filled with zeros and read once before the measurement, as after a
  first run.
"""

BARE = """## Compared with a bare loop

A step of kdbench alternates with the same operations in a loop that does nothing else: the same batch every time, the
teacher without folding (or a constant in place of stored outputs), student, KD and SGD, with the same precision and
kernels. The ratio exceeds 1 by the cost of Lightning, of the batch, of the cache and of kdbench itself; it falls below
1 where folding saves more. CPU time / wall time.
"""

UNIT = """Costs are CPU times in units of one reference step at batch 64, measured in turn: resnet56 -> resnet20 for
cohorts, resnet20 -> resnet8 for batch sizes.
"""

COHORT = """### Students in a cohort

A step of K students takes s + K u: s is shared (batch and teacher forward), u belongs to one student (forward, loss,
backward, SGD). A student thus costs s/K + u, and never less than u, which is also its cost with a warm cache. Memory
grows by 8 bytes per parameter of each student (weights and momentum; 4 more where the weights of the best epoch are
kept), but not by activations and gradients, because the students of a batch run one after another. Recorded steps
(cuda_graph=true) keep the activations of each student. Predicted from the parts of K = 1:
"""

BATCH_SIZE = """### Batch size

A step of B images takes a + b B: a does not grow with the batch (launching operations, SGD, synchronising threads).
Predicted by the line through the smallest and the largest batch:
"""

DATA_SIZE = """### Data set size

The time of a step does not depend on the number of images N. Images stay in memory, padded by p: 3 N (H + 2p) (W + 2p)
bytes. A cache of all V views takes 2 N V C bytes for C classes (float16; twice that in float32).
"""

RANKS = """### Ranks

Nothing has been measured (docs/ddp.md). In theory, R ranks with B/R rows each take (s + u)/R, plus an all-reduce of 4 P
bytes of gradients after the backward pass (P parameters; 2 (R - 1)/R of that over each link). An objective that couples
rows gathers another 4 B D bytes (D numbers a row). Several GPUs are better used by several cohorts.
"""

IMAGENET = 1_281_167, 1_000
"""Training images and classes of ImageNet-1k."""


def page(bench: Results | None, paired: Results | None = None, gpu: Results | None = None) -> str:
    """Return docs/performance.md; what is None counts as not measured.

    Args:
        bench: The content of benchmarks/bench.json, written by `kdbench bench`.
        paired: The content of benchmarks/accuracy.json.
        gpu: The content of benchmarks/gpu.json.
    """
    results = bench or {}
    pairs = {pair["pair"]: pair for pair in results.get("pairs", [])}
    scale = results.get("scale", {})
    parts = [HEAD, "## Results and targets\n", _conditions(results), _targets(pairs)]
    parts += [_pair(pair) for pair in pairs.values()]
    parts += [_missed_targets(pairs), BARE, _bare(results.get("bare", {}))]
    parts += [
        "## Lightning and memory\n",
        _lightning(results.get("lightning")),
        _memory(results.get("memory")),
    ]
    parts += ["## Scale\n", UNIT, COHORT, _predictions("students", scale.get("cohorts"), (1, 2, 4, 8))]
    parts += [BATCH_SIZE, _predictions("batch", scale.get("batches"), (16, 64, 256))]
    parts += [DATA_SIZE, _data(scale.get("data", [])), _imagenet(), RANKS, accuracy(paired), on_gpu(gpu)]
    return "\n".join(parts)


def _conditions(results: Results) -> str:
    if not results:
        return "Not measured yet.\n"
    origin = results["provenance"]
    machine, threads = origin["machine"], origin["threads"]
    text = (
        f"`{results['command']}` on {machine['processor']}, {machine['cpus']} CPUs, {threads} thread(s) on both sides, "
        f"{results['dataset']}, torch {origin['versions']['torch']}, commit {origin['commit']}, "
        f"load {results['load']:.1f} at the start."
    )
    if not results["bf16_units"]:
        text += (
            " This CPU has no bf16 units and emulates bfloat16: its bf16 rows say nothing about CPUs with bf16 units, "
            "for which the targets are."
        )
    return text + "\n"


def _targets(pairs: Results) -> str:
    """Return the ratios by CPU and wall time with their targets, for every setting and pair."""
    rows = []
    for name, setting in SETTINGS.items():
        row = {"ratio to the reference, per student": setting.about}
        for pair, targets in TARGETS.items():
            ratios = [_ratio(one) for one in pairs.get(pair, {}).get("rows", []) if one["setting"] == name]
            target = [f"(target {targets[name]:g})"] if name in targets else []
            row[_name(pair)] = " ".join([*ratios, *target])
        rows.append(row)
    return markdown_table(rows) + "\n\nCPU time / wall time.\n"


def _missed_targets(pairs: Results) -> str:
    """List the targets that are missed by CPU time and by wall time; empty where there are none."""
    missed = [
        f"{_name(pair)}, {row['about']}: {_ratio(row)} instead of {TARGETS[pair][row['setting']]:g}"
        for pair in TARGETS
        for row in pairs.get(pair, {}).get("rows", [])
        if row["ratio"] and max(row["ratio"].values()) < TARGETS[pair].get(row["setting"], 0)
    ]
    if not missed:
        return ""
    text = (
        "Missed by CPU time and by wall time. The targets come from another day and machine; the next section shows\n"
        "what a bare loop of the same operations takes on this one."
    )
    return "\n".join(["## Missed targets\n", text, "", *(f"* {one}" for one in missed), ""])


def _bare(results: Results) -> str:
    rows = [
        {
            "pair": _name(pair),
            "setting": row["setting"],
            "ms per step": f"{row['ours']['cpu']:.0f} / {row['ours']['wall']:.0f}",
            "bare": f"{row['bare']['cpu']:.0f} / {row['bare']['wall']:.0f}",
            "ratio": f"{row['over']['cpu']:.3f} / {row['over']['wall']:.3f}",
        }
        for pair, measured in results.items()
        for row in measured
    ]
    return (markdown_table(rows) if rows else "Not measured yet.") + "\n"


def _ratio(row: Results) -> str:
    if row["ratio"] is None:
        return "no ratio"
    return f"{row['ratio']['cpu']:.2f} / {row['ratio']['wall']:.2f}"


def _pair(pair: Results) -> str:
    reference = pair["reference"]
    rows = [_cost("reference", "1", reference, reference["cpu_ms"], reference["wall_ms"])]
    for row in pair["rows"]:
        about = row["about"] + (" (emulated)" if row["emulated"] else "")
        rows.append(_cost(about, _ratio(row), row, row["ms"]["cpu"], row["ms"]["wall"]))
    lines = [f"### {_name(pair['pair'])}\n", markdown_table(rows), "", _check(pair["check"]), ""]
    lines += [f"* {row['about']}: {_fill(row)}" for row in pair["rows"] if row["cached"]]
    return "\n".join(lines) + "\n"


def _cost(about: str, ratio: str, row: Results, cpu_ms: float, wall_ms: float) -> dict[str, str]:
    peak = row["peak_percent"]
    return {
        "setting": about,
        "ratio": ratio,
        "images/s": f"{row['images_per_second']:.0f}",
        "CPU ms per step": f"{cpu_ms:.0f}",
        "ms per step": f"{wall_ms:.0f}",
        "% of the peak": "" if peak is None else f"{peak:.0f}",
        **{f"{part} %": f"{row['share'][part]:.0f}" for part in PARTS},
    }


def _check(check: Results) -> str:
    if check["passed"] is None:
        return "The shares of the reference are not checked: no published ones are known for this pair."
    shares = ", ".join(
        f"{part} {check['measured'][part]:.0f} % ({share:.0f} %)" for part, share in check["expected"].items()
    )
    off = ", ".join(check["off"])
    verdict = "as expected" if check["passed"] else f"off in {off}, so no ratio is given"
    return f"Shares of the reference, with the expected ones in brackets: {shares}: {verdict}."


def _fill(row: Results) -> str:
    fill = row["fill"]
    pays = "never pays off" if fill["paid_after_runs"] is None else f"pays off {paid_words(row)}"
    hours = fill["hours"]["wall"]
    return f"filling the cache takes {fill['views']:,} forward passes of the teacher, {hours:.1f} h; {pays}."


def _lightning(results: Results | None) -> str:
    about = {
        "outside_us": "between two calls of training_step",
        "manual_backward_us": "manual_backward, beyond backward itself",
        "optimizers_us": "access to the optimisers",
        "step_us": "total",
    }
    rows = [
        {"us per optimiser step": part, "measured": f"{results[key]:.1f}" if results else ""}
        for key, part in about.items()
    ]
    share = f"{results['percent_of_40_ms']:.2f} %" if results else "not measured yet"
    return (
        "The cost of Lightning at log_every=50, where one `training_step` runs 50 optimiser steps:\n\n"
        f"{markdown_table(rows)}\n\nShare of a step of 40 ms (target: under 1 %): {share}.\n"
    )


def _memory(results: Results | None) -> str:
    if results is None:
        return "Memory over a run: not measured yet.\n"
    return (
        f"Memory over {results['steps']} steps with evaluations: {results['early_mib']:.0f} MiB in the second quarter, "
        f"{results['late_mib']:.0f} MiB in the last ({results['growth_mib']:+.1f}).\n"
    )


def _predictions(what: str, measured: Sequence[Results] | None, sizes: Sequence[int]) -> str:
    columns = ("cost of a step", "predicted", "measured / predicted")
    rows = []
    for row in measured or []:
        cost, predicted = row["cost"], row["predicted"]
        values = (f"{value:.2f}" for value in (cost, predicted, cost / predicted))
        rows.append({what: row[what], **dict(zip(columns, values, strict=True))})
    return markdown_table(rows or [{what: size, **dict.fromkeys(columns, "")} for size in sizes]) + "\n"


def _data(measured: Sequence[Results]) -> str:
    rows = [
        {
            "data set": row["dataset"],
            "images": f"{row['images']:,}",
            "CPU ms per batch": f"{row['batch_ms']:.2f}",
            "MB in memory, computed": f"{row['bytes']['computed'] / 1e6:.1f}",
            "measured": f"{row['bytes']['measured'] / 1e6:.1f}",
            "MB of a full cache, computed": f"{row['cache_bytes']['computed'] / 1e6:.0f}",
            "measured on disk": _megabytes(row["cache_bytes"]["measured"]),
        }
        for row in measured
    ]
    return (markdown_table(rows) if rows else "Not measured yet.") + "\n"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f}"


def _imagenet() -> str:
    images, classes = IMAGENET
    rows = [
        {
            "views": views,
            "all logits, GB": f"{cache_bytes(images, views, classes) / 1e9:.1f}",
            "16 largest, GB": f"{cache_bytes(images, views, classes, top=16) / 1e9:.2f}",
        }
        for views in (1, 4, 16)
    ]
    return (
        f"Computed, not measured: ImageNet ({images:,} images, {classes:,} classes) with K fixed views of each image\n"
        "in float16, and with only the 16 largest logits and their classes (4 bytes each; not implemented):\n\n"
        f"{markdown_table(rows)}\n"
    )


def _name(pair: str) -> str:
    return pair.replace(":", " -> ")
