"""The evaluation of measured turns."""

import pytest

from kdbench.benchmark import summary as summary
from kdbench.benchmark.stopwatch import PARTS, Turn, part_ms, shares

PAIR = "resnet56:resnet20"
WORK = {"teacher_gflop": 8.0, "student_gflop": 4.0}


def side(ms: float, **parts: float) -> dict:
    """Return a side whose steps take `ms`, with parts in per cent; the remainder is `rest`."""
    given = {part: ms * parts.get(part, 0) / 100 for part in PARTS}
    given["rest"] = ms - sum(given.values())
    return {"cpu_ms": [ms], "wall_ms": [ms], "parts": {"cpu": given, "wall": given}}


KNOWN = {"data": 2, "teacher": 42, "student": 24, "backward": 31}


def row(setting: str = "live-fp32", ms: float = 80.0, **changes) -> dict:
    return {
        "setting": setting,
        "about": "live teacher, fp32",
        "precision": "fp32",
        "emulated": False,
        "students": 1,
        "cached": False,
        "ours": side(ms, teacher=40),
        "reference": side(100.0, **KNOWN),
        "peak": {"cpu": 200.0, "wall": 200.0},
    } | changes


def test_ratio_is_reference_time_over_own_time():
    result = summary.judge(PAIR, [row()], WORK, batch=64)
    (row_result,) = result["rows"]
    assert row_result["ratio"] == {"cpu": 1.25, "wall": 1.25}
    assert row_result["target"] == 1.3
    assert row_result["images_per_second"] == pytest.approx(800)
    assert row_result["peak_percent"] == pytest.approx(100 * 12 / 0.08 / 200)
    assert result["reference"]["peak_percent"] == pytest.approx(100 * 12 / 0.1 / 200)
    assert "1.25 x by CPU time" in summary.row_words(row_result)


def test_cohort_ratio_is_per_student_and_counts_the_teacher_once():
    (row_result,) = summary.judge(PAIR, [row(ms=200.0, students=4)], WORK, batch=64)["rows"]
    assert row_result["ratio"]["cpu"] == 2.0
    assert row_result["peak_percent"] == pytest.approx(100 * (8 + 4 * 4) / 0.2 / 200)


@pytest.mark.parametrize("part", ["teacher", "student", "backward"])
@pytest.mark.parametrize("by", [-9, 9])
def test_no_ratio_if_the_reference_fails_its_check(part, by):
    off = {**KNOWN, part: KNOWN[part] + by}
    result = summary.judge(PAIR, [row(reference=side(100.0, **off))], WORK, batch=64)
    assert result["check"]["passed"] is False
    assert list(result["check"]["off"]) == [part]
    assert [row_result["ratio"] for row_result in result["rows"]] == [None]
    assert result["rows"][0]["ours"]["cpu_ms"] == [80.0], "the raw times are kept"
    assert f"differs by more than 8 points in {part}: no ratio" in summary.check_words(result)
    assert "no ratio" in summary.row_words(result["rows"][0])


def test_reference_within_the_tolerance_passes():
    near = {**KNOWN, "teacher": 42 - 7, "student": 24 + 7}
    result = summary.judge(PAIR, [row(reference=side(100.0, **near))], WORK, batch=64)
    assert result["check"]["passed"] is True


def test_unknown_pair_is_not_checked():
    result = summary.judge("resnet20:resnet8", [row()], WORK, batch=64)
    assert result["check"]["passed"] is None
    assert result["rows"][0]["ratio"]["cpu"] == 1.25
    assert "not checked" in summary.check_words(result)


def test_check_uses_all_turns_of_the_reference():
    off = {**KNOWN, "teacher": 60}
    rows = [row(reference=side(100.0, **shares)) for shares in (KNOWN, KNOWN, off)]
    assert summary.check_reference(PAIR, rows)["passed"] is True
    assert summary.check_reference(PAIR, [*rows[1:], rows[2]])["passed"] is False


def test_warm_cache_reports_its_cost_and_when_it_pays_off():
    fill = {"images": 640, "views_per_image": 162, "epochs": 240, "teacher": {"cpu": 50.0, "wall": 50.0}}
    warm = row(cached=True, ours=side(40.0, teacher=12.5), fill=fill)
    (row_result,) = summary.judge(PAIR, [warm], WORK, batch=64)["rows"]
    assert row_result["fill"]["views"] == 640 * 162
    assert row_result["fill"]["hours"]["wall"] == pytest.approx(10 * 162 * 0.05 / 3600)
    # 162 teacher epochs of 50 ms a batch, against 240 that save 45 each
    assert row_result["fill"]["paid_after_runs"] == pytest.approx(162 * 50 / (240 * 45))
    assert "after 0.75 runs" in summary.fill_words(row_result)
    slow = row(cached=True, ours=side(100.0, teacher=60), fill=fill)
    (never,) = summary.judge(PAIR, [slow], WORK, batch=64)["rows"]
    assert "recovered never" in summary.fill_words(never)


def test_targets_name_settings_and_pairs_have_expected_shares():
    from kdbench.benchmark.settings import SETTINGS

    assert summary.TARGETS.keys() == summary.EXPECTED.keys()
    assert all(set(targets) <= set(SETTINGS) for targets in summary.TARGETS.values())


def test_parts_are_medians_over_turns_and_shares_sum_to_100():
    nothing = dict.fromkeys(PARTS, 0.0)
    turns = [Turn(2, {**nothing, "teacher": s}, {**nothing, "data": s}) for s in (0.2, 0.4, 9.0)]
    assert part_ms(turns)["teacher"] == pytest.approx(200)
    assert part_ms(turns, "wall")["data"] == pytest.approx(200)
    assert turns[0].cpu_ms == pytest.approx(100)
    assert shares({"a": 1.0, "b": 3.0}) == {"a": 25.0, "b": 75.0}
