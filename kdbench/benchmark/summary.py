"""What was measured, judged: is the reference what the literature runs, how much faster are we, how near the limit."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.benchmark.stopwatch import shares

Raw = dict[str, Any]

TOLERANCE = 8.0
"""Points of a share."""

EXPECTED: dict[str, dict[str, float]] = {
    "resnet32x4:resnet8x4": {"teacher": 61, "student": 14, "backward": 25},
    "resnet56:resnet20": {"teacher": 42, "student": 24, "backward": 31},
    "wrn_40_2:wrn_16_2": {"teacher": 46, "student": 19, "backward": 33},
}
"""Per cent of CPU time of the step of two published loops, measured once on an AMD EPYC (Zen 5), batch 64, float32."""

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
"""Ratios to the reference, per student, on a CPU that multiplies bfloat16 itself."""


def judge(pair: str, rows: Sequence[Raw], work: Mapping[str, float], batch: int) -> Raw:
    """The pair's result: the check of the reference, and every row with what follows from it."""
    check = check_reference(pair, rows)
    judged = [{**row, **_follows(pair, row, work, batch, check["passed"] is not False)} for row in rows]
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
        "rows": judged,
    }


def check_reference(pair: str, rows: Sequence[Raw]) -> Raw:
    """Whether the reference's shares of CPU time are those known of published loops.

    passed: None where nothing is known of this pair.
    """
    measured = shares(_over_rows(rows, "cpu"))
    expected = EXPECTED.get(pair, {})
    off = {
        part: measured[part] for part, share in expected.items() if abs(measured[part] - share) > TOLERANCE
    }
    return {"passed": not off if expected else None, "expected": expected, "measured": measured, "off": off}


def _over_rows(rows: Sequence[Raw], clock: str) -> dict[str, float]:
    """The reference's parts in ms: the median over the settings that it took turns with."""
    parts = [row["reference"]["parts"][clock] for row in rows]
    return {part: statistics.median(each[part] for each in parts) for part in parts[0]}


def _follows(pair: str, row: Raw, work: Mapping[str, float], batch: int, with_ratio: bool) -> Raw:
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
    """What filling the whole cache costs at the measured speed, and after how many runs it has paid."""
    fill = row["fill"]
    views = fill["images"] * fill["views_per_image"]
    saved = fill["teacher"]["wall"] - row["ours"]["parts"]["wall"]["teacher"]
    spent = fill["views_per_image"] * fill["teacher"]["wall"]
    return {
        "views": views,
        "hours": {clock: views / batch * ms / 3.6e6 for clock, ms in fill["teacher"].items()},
        "paid_after_runs": spent / (fill["epochs"] * saved) if saved > 0 else None,
    }


# ---- in words


def check_words(pair: Raw) -> str:
    """The reference's check in a line."""
    check = pair["check"]
    if check["passed"] is None:
        return "the reference is not checked: no shares are known of this pair"
    said = ", ".join(
        f"{part} {check['measured'][part]:.0f} (known {share:.0f})"
        for part, share in check["expected"].items()
    )
    if check["passed"]:
        return f"the reference is as it should be: % of its step: {said}"
    return (
        f"the reference is off by more than {TOLERANCE:.0f} points in {', '.join(check['off'])}: no ratio. "
        f"% of its step: {said}"
    )


def reference_words(pair: Raw) -> str:
    """The reference's own line."""
    reference = pair["reference"]
    return f"{'reference':34} {_cost_words(reference, reference['cpu_ms'])}"


def row_words(row: Raw) -> str:
    """A setting's line, the ratio first."""
    emulated = "; emulated: this CPU has no bf16 units" if row["emulated"] else ""
    ratio = "no ratio"
    if row["ratio"] is not None:
        ratio = f"{row['ratio']['cpu']:.2f} x by CPU time, {row['ratio']['wall']:.2f} x by the clock"
    target = f" (target {row['target']:g})" if row["target"] else ""
    per = f" for {row['students']} students" if row["students"] > 1 else ""
    return f"{row['about']:34} {ratio}{target}; {_cost_words(row, row['ms']['cpu'])}{per}{emulated}"


def fill_words(row: Raw) -> str:
    """What a warm cache has cost before it was warm."""
    fill = row["fill"]
    runs = "never" if fill["paid_after_runs"] is None else paid_words(row)
    return (
        f"{'':34} filling it: {fill['views']:,} views, {fill['hours']['wall']:.2f} h at the live teacher's speed; "
        f"paid {runs}"
    )


def paid_words(row: Mapping[str, Any]) -> str:
    """After how many runs the cache has paid; a cohort has the teacher once, so it saves as much as one run."""
    what = "runs" if row["students"] == 1 else f"cohorts of {row['students']}"
    return f"after {row['fill']['paid_after_runs']:.2f} {what}, of {row['fill']['epochs']} epochs each"


def _cost_words(row: Raw, ms: float) -> str:
    parts = ", ".join(f"{part} {share:.0f}" for part, share in row["share"].items() if share >= 0.5)
    peak = "" if row["peak_percent"] is None else f"; {row['peak_percent']:.0f} % of the peak"
    return f"{row['images_per_second']:.0f} images/s, {ms:.0f} CPU-ms a step: {parts} %{peak}"
