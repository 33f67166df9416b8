"""The page on performance, written from what `kdbench bench --json` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.benchmark.scaling import cache_bytes
from kdbench.benchmark.settings import SETTINGS
from kdbench.benchmark.stopwatch import PARTS
from kdbench.benchmark.summary import TARGETS, TOLERANCE, paid_words
from kdbench.utils.formatting import markdown_table
from tools.docs.performance_sections import accuracy, on_gpu

Found = Mapping[str, Any]

HEAD = f"""# Performance

Written by `python scripts/render_performance.py` (`make docs`) from what was measured: benchmarks/bench.json by
`kdbench bench --json benchmarks/bench.json`, accuracy.json and gpu.json beside it by the programs of these names. A
test fails when it is stale. A cell is empty where nothing was measured.

## What is compared

* The reference, benchmarks/reference.py, is the loop that the CIFAR-100 literature runs, in plain PyTorch: PIL images
  through torchvision's transforms in a Dataset behind a DataLoader, float32, features from both networks, KD with the
  cross-entropy, SGD, and after every step loss, top-1 and top-5 read with `.item()`.
* kdbench is a run as `kdbench train` makes it: Lightning calls `StudentModule.training_step`, and hooks tell the parts
  apart. Its chunks take turns with as many steps of the reference, in one process, on the same images and threads. The
  first turns are not counted, nor the first step of any, which finds the other side's maps in the caches. A ratio is
  one of medians: the reference's time over kdbench's, for each student.
* In bf16 the teacher's BatchNorms are in the weights of the convolutions before them (kdbench/models/bn_folding.py).
* CPU time is that of the whole process, with threads that wait asleep (OMP_WAIT_POLICY=passive), so that it holds on a
  busy machine too; the clock is what a quiet machine shows.
* The reference is checked: the shares of its step must lie within {TOLERANCE:.0f} points of those that published loops
  had on another CPU, else there is no ratio.
* The peak is that of a 3x3 convolution of 256 channels to 256 in the row's precision, measured before and after the
  row's turns. Shares and per cent of the peak are by CPU time, images/s by the clock and summed over the students.
* The cache of the warm rows is a sealed one of all views, full of zeros, read through once before it is measured, as
  after a first run.
"""

BARE = """## Beside a bare loop

A step of kdbench in turns with the same operations in a loop that does nothing else: one batch again and again, the
teacher unfolded (or a constant for stored answers), student, KD, SGD; the same precision and kernels. What is over 1
is Lightning, the batch, the cache and all that is kdbench's own; under 1 is what folding saves. By CPU time / by the
clock.
"""

UNIT = """Costs are CPU time in steps of the reference at batch 64, which took turns with what was measured: of
resnet56 -> resnet20 for cohorts, of resnet20 -> resnet8 for batches.
"""

COHORT = """### Students in a cohort

A step of K students takes s + K u: s is shared (the batch, and the teacher's answer), u is a student's own (forward,
loss, backward, SGD). So a student costs s/K + u, never less than u, which is also what a warm cache leaves. Memory
grows by 8 bytes for each parameter of each student (weights and momentum; 4 more where the best epoch's weights are
kept), and not by activations and gradients, as the students of a batch come one after the other. Recorded steps
(cuda_graph=true) keep each student's activations. Foretold from the parts of K = 1:
"""

BATCH_SIZE = """### Batch size

A step of B images takes a + b B: a does not grow with the batch (launching each operation, SGD, threads that wait for
each other). Foretold by the line through the smallest and the largest batch:
"""

DATA_SIZE = """### Data set size

A step does not depend on the number of images N. They are resident, padded by p: 3 N (H + 2p) (W + 2p) bytes. A cache
of all V views holds 2 N V C bytes (float16, C classes; twice that in float32).
"""

RANKS = """### Ranks

Nothing is measured (docs/ddp.md). On paper, R ranks with B/R rows each take (s + u)/R and an all-reduce of 4 P bytes
of gradients (P parameters; 2 (R - 1)/R of that over each link), after the backward pass, and an objective that couples
rows gathers 4 B D bytes more (D numbers a row). Several GPUs are better used by several cohorts.
"""

IMAGENET = 1_281_167, 1_000
"""Training images and classes of ImageNet-1k."""


def page(measured: Found | None, paired: Found | None = None, gpu: Found | None = None) -> str:
    """docs/performance.md, of what the benchmarks bench, accuracy.py and gpu.py found."""
    found = measured or {}
    pairs = {pair["pair"]: pair for pair in found.get("pairs", [])}
    scale = found.get("scale", {})
    parts = [HEAD, "## Measured and aimed at\n", _where(found), _targets(pairs)]
    parts += [_pair(pair) for pair in pairs.values()]
    parts += [_short(pairs), BARE, _bare(found.get("bare", {}))]
    parts += ["## Lightning, and memory\n", _lightning(found.get("lightning")), _memory(found.get("memory"))]
    parts += ["## Scale\n", UNIT, COHORT, _foretold("students", scale.get("cohorts"), (1, 2, 4, 8))]
    parts += [BATCH_SIZE, _foretold("batch", scale.get("batches"), (16, 64, 256))]
    parts += [DATA_SIZE, _data(scale.get("data", [])), _imagenet(), RANKS, accuracy(paired), on_gpu(gpu)]
    return "\n".join(parts)


def _where(found: Found) -> str:
    if not found:
        return "Not measured yet.\n"
    facts = found["provenance"]
    machine, threads = facts["machine"], facts["threads"]
    words = (
        f"`{found['command']}` on {machine['processor']}, {machine['cpus']} CPUs, {threads} thread(s) on both sides, "
        f"{found['dataset']}, torch {facts['versions']['torch']}, commit {facts['commit']}, "
        f"load {found['load']:.1f} when it began."
    )
    if not found["bf16_units"]:
        words += (
            " This CPU has no bf16 units and emulates bfloat16: the rows in bf16 say nothing of a CPU that has them, "
            "for which the aims are."
        )
    return words + "\n"


def _targets(pairs: Found) -> str:
    """Ratio by CPU time, by the clock, and the target, for every setting of every pair."""
    rows = []
    for name, setting in SETTINGS.items():
        row = {"ratio to the reference, per student": setting.about}
        for pair, targets in TARGETS.items():
            found = [_ratio(one) for one in pairs.get(pair, {}).get("rows", []) if one["setting"] == name]
            aim = [f"(aim {targets[name]:g})"] if name in targets else []
            row[_name(pair)] = " ".join([*found, *aim])
        rows.append(row)
    return markdown_table(rows) + "\n\nBy CPU time / by the clock.\n"


def _short(pairs: Found) -> str:
    """Which aims are missed by both clocks."""
    missed = [
        f"{_name(pair)}, {row['about']}: {_ratio(row)} instead of {TARGETS[pair][row['setting']]:g}"
        for pair in TARGETS
        for row in pairs.get(pair, {}).get("rows", [])
        if row["ratio"] and max(row["ratio"].values()) < TARGETS[pair].get(row["setting"], 0)
    ]
    if not missed:
        return ""
    words = (
        "Short of the aim by CPU time and by the clock. The aims are of another day and machine; what a loop of the\n"
        "same operations takes on this one, with nothing of kdbench around it, is under the list."
    )
    return "\n".join(["## What is short\n", words, "", *(f"* {one}" for one in missed), ""])


def _bare(found: Found) -> str:
    rows = [
        {
            "pair": _name(pair),
            "setting": row["setting"],
            "ms a step": f"{row['ours']['cpu']:.0f} / {row['ours']['wall']:.0f}",
            "bare": f"{row['bare']['cpu']:.0f} / {row['bare']['wall']:.0f}",
            "over": f"{row['over']['cpu']:.3f} / {row['over']['wall']:.3f}",
        }
        for pair, measured in found.items()
        for row in measured
    ]
    return (markdown_table(rows) if rows else "Not measured yet.") + "\n"


def _ratio(row: Found) -> str:
    if row["ratio"] is None:
        return "no ratio"
    return f"{row['ratio']['cpu']:.2f} / {row['ratio']['wall']:.2f}"


def _pair(pair: Found) -> str:
    reference = pair["reference"]
    rows = [_cost("reference", "1", reference, reference["cpu_ms"], reference["wall_ms"])]
    for row in pair["rows"]:
        about = row["about"] + (" (emulated)" if row["emulated"] else "")
        rows.append(_cost(about, _ratio(row), row, row["ms"]["cpu"], row["ms"]["wall"]))
    lines = [f"### {_name(pair['pair'])}\n", markdown_table(rows), "", _check(pair["check"]), ""]
    lines += [f"* {row['about']}: {_fill(row)}" for row in pair["rows"] if row["cached"]]
    return "\n".join(lines) + "\n"


def _cost(about: str, ratio: str, row: Found, cpu_ms: float, wall_ms: float) -> dict[str, str]:
    peak = row["peak_percent"]
    return {
        "setting": about,
        "ratio": ratio,
        "images/s": f"{row['images_per_second']:.0f}",
        "CPU-ms a step": f"{cpu_ms:.0f}",
        "ms a step": f"{wall_ms:.0f}",
        "% of the peak": "" if peak is None else f"{peak:.0f}",
        **{f"{part} %": f"{row['share'][part]:.0f}" for part in PARTS},
    }


def _check(check: Found) -> str:
    if check["passed"] is None:
        return "The shares of the reference are not checked: none are known of this pair."
    said = ", ".join(
        f"{part} {check['measured'][part]:.0f} % ({share:.0f} %)" for part, share in check["expected"].items()
    )
    off = ", ".join(check["off"])
    verdict = "as they should be" if check["passed"] else f"off in {off}, so there is no ratio"
    return f"Shares of the reference, in brackets those known: {said}: {verdict}."


def _fill(row: Found) -> str:
    fill = row["fill"]
    paid = "never paid" if fill["paid_after_runs"] is None else f"paid {paid_words(row)}"
    hours = fill["hours"]["wall"]
    return f"filling the cache takes {fill['views']:,} answers of the live teacher, {hours:.1f} h; {paid}."


def _lightning(found: Found | None) -> str:
    about = {
        "outside_us": "between two calls of training_step",
        "manual_backward_us": "manual_backward, beyond backward itself",
        "optimizers_us": "asking for the optimisers",
        "step_us": "all of it",
    }
    rows = [
        {"us of an optimiser step": words, "measured": f"{found[key]:.1f}" if found else ""}
        for key, words in about.items()
    ]
    share = f"{found['percent_of_40_ms']:.2f} %" if found else "not measured yet"
    return (
        "What Lightning costs at log_every=50, where a `training_step` is 50 optimiser steps:\n\n"
        f"{markdown_table(rows)}\n\nOf a step of 40 ms (aim: under 1 %): {share}.\n"
    )


def _memory(found: Found | None) -> str:
    if found is None:
        return "Memory over a run: not measured yet.\n"
    return (
        f"Memory over {found['steps']} steps with evaluations: {found['early_mib']:.0f} MiB in the second quarter, "
        f"{found['late_mib']:.0f} MiB in the last ({found['growth_mib']:+.1f}).\n"
    )


def _foretold(what: str, measured: Sequence[Found] | None, sizes: Sequence[int]) -> str:
    columns = ("a step costs", "foretold", "measured / foretold")
    rows = []
    for row in measured or []:
        cost, foretold = row["cost"], row["foretold"]
        values = (f"{value:.2f}" for value in (cost, foretold, cost / foretold))
        rows.append({what: row[what], **dict(zip(columns, values, strict=True))})
    return markdown_table(rows or [{what: size, **dict.fromkeys(columns, "")} for size in sizes]) + "\n"


def _data(measured: Sequence[Found]) -> str:
    rows = [
        {
            "data set": row["dataset"],
            "images": f"{row['images']:,}",
            "CPU-ms for a batch": f"{row['batch_ms']:.2f}",
            "resident MB, computed": f"{row['bytes']['computed'] / 1e6:.1f}",
            "found": f"{row['bytes']['found'] / 1e6:.1f}",
            "full cache MB, computed": f"{row['cache_bytes']['computed'] / 1e6:.0f}",
            "found on disk": _megabytes(row["cache_bytes"]["found"]),
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
        f"Computed, not measured: ImageNet ({images:,} images, {classes:,} classes) with K fixed views of each image,\n"
        "in float16; and with the 16 largest logits and their classes alone (4 bytes each), which is not built:\n\n"
        f"{markdown_table(rows)}\n"
    )


def _name(pair: str) -> str:
    return pair.replace(":", " -> ")
