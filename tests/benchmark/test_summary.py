"""What is concluded from turns that were measured."""

import pytest

from kdbench.benchmark import summary as verdict
from kdbench.benchmark.stopwatch import PARTS, Turn, part_ms, shares

PAIR = "resnet56:resnet20"
WORK = {"teacher_gflop": 8.0, "student_gflop": 4.0}


def side(ms: float, **parts: float) -> dict:
    """A side whose steps take `ms`, with parts given in per cent; the rest is the rest."""
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


def test_the_ratio_is_time_over_time():
    judged = verdict.judge(PAIR, [row()], WORK, batch=64)
    (found,) = judged["rows"]
    assert found["ratio"] == {"cpu": 1.25, "wall": 1.25}
    assert found["target"] == 1.3
    assert found["images_per_second"] == pytest.approx(800)
    assert found["peak_percent"] == pytest.approx(100 * 12 / 0.08 / 200)
    assert judged["reference"]["peak_percent"] == pytest.approx(100 * 12 / 0.1 / 200)
    assert "1.25 x by CPU time" in verdict.row_words(found)


def test_a_cohort_is_judged_per_student_and_pays_the_teacher_once():
    (found,) = verdict.judge(PAIR, [row(ms=200.0, students=4)], WORK, batch=64)["rows"]
    assert found["ratio"]["cpu"] == 2.0
    assert found["peak_percent"] == pytest.approx(100 * (8 + 4 * 4) / 0.2 / 200)


@pytest.mark.parametrize("part", ["teacher", "student", "backward"])
@pytest.mark.parametrize("by", [-9, 9])
def test_no_ratio_where_the_reference_is_off(part, by):
    off = {**KNOWN, part: KNOWN[part] + by}
    judged = verdict.judge(PAIR, [row(reference=side(100.0, **off))], WORK, batch=64)
    assert judged["check"]["passed"] is False
    assert list(judged["check"]["off"]) == [part]
    assert [found["ratio"] for found in judged["rows"]] == [None]
    assert judged["rows"][0]["ours"]["cpu_ms"] == [80.0], "the raw times are there all the same"
    assert f"off by more than 8 points in {part}: no ratio" in verdict.check_words(judged)
    assert "no ratio" in verdict.row_words(judged["rows"][0])


def test_a_reference_within_the_tolerance_passes():
    near = {**KNOWN, "teacher": 42 - 7, "student": 24 + 7}
    judged = verdict.judge(PAIR, [row(reference=side(100.0, **near))], WORK, batch=64)
    assert judged["check"]["passed"] is True


def test_an_unknown_pair_is_not_checked_and_says_so():
    judged = verdict.judge("resnet20:resnet8", [row()], WORK, batch=64)
    assert judged["check"]["passed"] is None
    assert judged["rows"][0]["ratio"]["cpu"] == 1.25
    assert "not checked" in verdict.check_words(judged)


def test_the_check_is_on_all_turns_of_the_reference_of_a_pair():
    off = {**KNOWN, "teacher": 60}
    rows = [row(reference=side(100.0, **shares)) for shares in (KNOWN, KNOWN, off)]
    assert verdict.check_reference(PAIR, rows)["passed"] is True
    assert verdict.check_reference(PAIR, [*rows[1:], rows[2]])["passed"] is False


def test_a_warm_cache_says_what_it_has_cost_and_when_it_has_paid():
    fill = {"images": 640, "views_per_image": 162, "epochs": 240, "teacher": {"cpu": 50.0, "wall": 50.0}}
    warm = row(cached=True, ours=side(40.0, teacher=12.5), fill=fill)
    (found,) = verdict.judge(PAIR, [warm], WORK, batch=64)["rows"]
    assert found["fill"]["views"] == 640 * 162
    assert found["fill"]["hours"]["wall"] == pytest.approx(10 * 162 * 0.05 / 3600)
    # 162 teacher epochs of 50 ms a batch, against 240 that save 45 each
    assert found["fill"]["paid_after_runs"] == pytest.approx(162 * 50 / (240 * 45))
    assert "after 0.75 runs" in verdict.fill_words(found)
    slow = row(cached=True, ours=side(100.0, teacher=60), fill=fill)
    (never,) = verdict.judge(PAIR, [slow], WORK, batch=64)["rows"]
    assert "paid never" in verdict.fill_words(never)


def test_every_target_is_of_a_setting_and_every_pair_has_shares():
    from kdbench.benchmark.settings import SETTINGS

    assert verdict.TARGETS.keys() == verdict.EXPECTED.keys()
    assert all(set(targets) <= set(SETTINGS) for targets in verdict.TARGETS.values())


def test_parts_are_medians_of_steps_and_shares_are_of_their_sum():
    nothing = dict.fromkeys(PARTS, 0.0)
    turns = [Turn(2, {**nothing, "teacher": s}, {**nothing, "data": s}) for s in (0.2, 0.4, 9.0)]
    assert part_ms(turns)["teacher"] == pytest.approx(200)
    assert part_ms(turns, "wall")["data"] == pytest.approx(200)
    assert turns[0].cpu_ms == pytest.approx(100)
    assert shares({"a": 1.0, "b": 3.0}) == {"a": 25.0, "b": 75.0}
