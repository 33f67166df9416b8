"""Evaluate the measurements: check of the reference, speed ratios, share of the peak; describe them in text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.benchmark.stopwatch import shares

Raw = dict[str, Any]

TOLERANCE = 8.0
"""Largest accepted difference of a share, in points."""

EXPECTED: dict[str, dict[str, float]] = {
    "resnet32x4:resnet8x4": {"teacher": 61, "student": 14, "backward": 25},
    "resnet56:resnet20": {"teacher": 42, "student": 24, "backward": 31},
    "wrn_40_2:wrn_16_2": {"teacher": 46, "student": 19, "backward": 33},
}
"""Per cent of a step's CPU time in two published loops, measured once on an AMD EPYC (Zen 5), batch 64, float32."""

TARGETS: dict[str, dict[str, float]] = {
    "resnet32x4:resnet8x4": {
        "live-fp32": 1.25,
        "live-bf16": 2.5,
        "cohort-bf16": 4.5,
        "warm-bf16": 6.0,
        "warm-cohort-bf16": 6.0,
    },
    "resnet56:resnet20": {
        "live-fp32": 1.3,
        "live-bf16": 2.05,
        "cohort-bf16": 2.9,
        "warm-bf16": 3.3,
        "warm-cohort-bf16": 3.3,
    },
    "wrn_40_2:wrn_16_2": {
        "live-fp32": 1.25,
        "live-bf16": 2.4,
        "cohort-bf16": 3.4,
        "warm-bf16": 4.2,
        "warm-cohort-bf16": 4.2,
    },
}
"""Target ratios to the reference, per student, on a CPU with bfloat16 units."""


def judge(pair: str, rows: Sequence[Raw], work: Mapping[str, float], batch: int) -> Raw:
    """Return the results of a pair: the check of the reference, and every row with its derived numbers.

    Args:
        pair: TEACHER:STUDENT.
        rows: One row of measurements for each setting.
        work: GFLOP of a step, `teacher_gflop` and `student_gflop`.
        batch: Batch size.
    """
    check = check_reference(pair, rows)
    results = [{**row, **_derived(pair, row, work, batch, check["passed"] is not False)} for row in rows]
    reference = {clock: _over_rows(rows, clock) for clock in ("cpu", "wall")}
    step = {clock: sum(parts.values()) for clock, parts in reference.items()}
    work_done = work["teacher_gflop"] + work["student_gflop"]
    fp32 = [row["peak"]["cpu"] for row in rows if row["precision"] == "fp32"]
    return {
        "pair": pair,
        "batch": batch,
        **work,
        "check": check,
        "reference": {
            "cpu_ms": step["cpu"],
            "wall_ms": step["wall"],
            "images_per_second": 1e3 * batch / step["wall"],
            "share": shares(reference["cpu"]),
            "peak_percent": 1e5 * work_done / step["cpu"] / max(fp32) if fp32 else None,
        },
        "rows": results,
    }


def check_reference(pair: str, rows: Sequence[Raw]) -> Raw:
    """Compare the reference's shares of CPU time with those of published loops.

    Returns:
        `passed` (None if no shares are known of this pair), `expected`, `measured`, and the deviating shares in `off`.
    """
    measured = shares(_over_rows(rows, "cpu"))
    expected = EXPECTED.get(pair, {})
    off = {
        part: measured[part] for part, share in expected.items() if abs(measured[part] - share) > TOLERANCE
    }
    return {"passed": not off if expected else None, "expected": expected, "measured": measured, "off": off}


def _over_rows(rows: Sequence[Raw], clock: str) -> dict[str, float]:
    """Return the reference's parts in ms: the median over the settings."""
    parts = [row["reference"]["parts"][clock] for row in rows]
    return {part: statistics.median(each[part] for each in parts) for part in parts[0]}


def _derived(pair: str, row: Raw, work: Mapping[str, float], batch: int, with_ratio: bool) -> Raw:
    ms = {clock: statistics.median(row["ours"][f"{clock}_ms"]) for clock in ("cpu", "wall")}
    theirs = {clock: statistics.median(row["reference"][f"{clock}_ms"]) for clock in ("cpu", "wall")}
    students = row["students"]
    teacher = 0.0 if row["cached"] else work["teacher_gflop"]
    done = teacher + students * work["student_gflop"]
    follows: Raw = {
        "ms": ms,
        "ratio": {clock: students * theirs[clock] / ms[clock] for clock in ms} if with_ratio else None,
        "target": TARGETS.get(pair, {}).get(row["setting"]),
        "images_per_second": 1e3 * batch * students / ms["wall"],
        "share": shares(row["ours"]["parts"]["cpu"]),
        "peak_percent": 1e5 * done / ms["cpu"] / row["peak"]["cpu"],
    }
    if "fill" in row:
        follows["fill"] = {**row["fill"], **_fill(row, batch)}
    return follows


def _fill(row: Raw, batch: int) -> Raw:
    """Return the cost of filling the whole cache at the measured speed, and the runs after which it is recovered."""
    fill = row["fill"]
    views = fill["images"] * fill["views_per_image"]
    saved = fill["teacher"]["wall"] - row["ours"]["parts"]["wall"]["teacher"]
    spent = fill["views_per_image"] * fill["teacher"]["wall"]
    return {
        "views": views,
        "hours": {clock: views / batch * ms / 3.6e6 for clock, ms in fill["teacher"].items()},
        "paid_after_runs": spent / (fill["epochs"] * saved) if saved > 0 else None,
    }


# ---- text


def check_words(pair: Raw) -> str:
    """Describe the check of the reference in one line."""
    check = pair["check"]
    if check["passed"] is None:
        return "the reference is not checked: no published shares are known for this pair"
    parts = ", ".join(
        f"{part} {check['measured'][part]:.0f} (known {share:.0f})"
        for part, share in check["expected"].items()
    )
    if check["passed"]:
        return f"the reference passes its check; % of its step: {parts}"
    return (
        f"the reference differs by more than {TOLERANCE:.0f} points in {', '.join(check['off'])}: no ratio. "
        f"% of its step: {parts}"
    )


def reference_words(pair: Raw) -> str:
    """Describe the reference in one line."""
    reference = pair["reference"]
    return f"{'reference':34} {_cost_words(reference, reference['cpu_ms'])}"


def row_words(row: Raw) -> str:
    """Describe a setting in one line, starting with the ratio."""
    emulated = "; emulated: this CPU has no bf16 units" if row["emulated"] else ""
    ratio = "no ratio"
    if row["ratio"] is not None:
        ratio = f"{row['ratio']['cpu']:.2f} x by CPU time, {row['ratio']['wall']:.2f} x by wall time"
    target = f" (target {row['target']:g})" if row["target"] else ""
    per = f" for {row['students']} students" if row["students"] > 1 else ""
    return f"{row['about']:34} {ratio}{target}; {_cost_words(row, row['ms']['cpu'])}{per}{emulated}"


def fill_words(row: Raw) -> str:
    """Describe the cost of filling the cache."""
    fill = row["fill"]
    runs = "never" if fill["paid_after_runs"] is None else paid_words(row)
    return (
        f"{'':34} filling the cache: {fill['views']:,} views, {fill['hours']['wall']:.2f} h at the live teacher's "
        f"speed; recovered {runs}"
    )


def paid_words(row: Mapping[str, Any]) -> str:
    """Say after how many runs the cache has paid off. A cohort calls the teacher once, so it counts as one run."""
    what = "runs" if row["students"] == 1 else f"cohorts of {row['students']}"
    return f"after {row['fill']['paid_after_runs']:.2f} {what}, of {row['fill']['epochs']} epochs each"


def _cost_words(row: Raw, ms: float) -> str:
    parts = ", ".join(f"{part} {share:.0f}" for part, share in row["share"].items() if share >= 0.5)
    peak = "" if row["peak_percent"] is None else f"; {row['peak_percent']:.0f} % of the peak"
    return f"{row['images_per_second']:.0f} images/s, {ms:.0f} CPU-ms a step: {parts} %{peak}"
