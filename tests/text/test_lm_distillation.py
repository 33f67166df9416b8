"""End to end on real text: what a teacher adds to the labels, for the same steps from the same student."""

import pytest

from kdbench.cohort import cohorts
from kdbench.config import register
from kdbench.plan import Plan, plan
from kdbench.run import run, run_cohort
from kdbench.strict import compose_checked

register()

LOSSES = ("fkl", "rkl", "js", "abkd_lm")


def planned(root: str, words: list[str]) -> Plan:
    return plan(compose_checked(root, words), dict(word.split("=", 1) for word in words))


def scores(common: list[str], losses: tuple[str, ...], output: str, more: list[str]) -> dict[str, dict]:
    """The test scores of a student of each loss, all in one cohort."""
    plans = [
        planned("train", [*common, f"loss={loss}", f"output={output}", *more]) for loss in ("ce", *losses)
    ]
    members = [member for group in cohorts(plans) for member in run_cohort(group)]
    return {member.planned.names["loss"]: member.record["results"]["last"] for member in members}


def test_from_scratch_a_teachers_words_teach_faster_than_labels(tmp_path, common):
    """Two epochs of 45 steps, with a teacher of eight epochs."""
    output = str(tmp_path)
    run(planned("train_teacher", [*common, "teacher=lm_tiny", "schedule.epochs=8", f"output={output}"]))
    more = ["teacher=lm_tiny", "schedule.epochs=2", "seed=1", "evaluate_every=2"]
    found = scores(common, ("fkl",), output, more)
    assert found["fkl"]["agreement"] > found["ce"]["agreement"]
    assert found["fkl"]["nll"] < found["ce"]["nll"]


@pytest.mark.slow
def test_students_that_know_the_labels_gain_by_a_teacher(tmp_path, common):
    """A larger teacher; students of three epochs on the labels go on for eight, with the labels or with the teacher."""
    output = str(tmp_path)
    run(planned("train_teacher", [*common, "teacher=lm_small", "schedule.epochs=12", f"output={output}"]))
    more = ["schedule.epochs=8", "evaluate_every=8", "+loss/stage@loss.stage=labels"]
    found = scores(common, LOSSES, output, more)
    print(found)
    for loss in LOSSES:
        assert found[loss]["agreement"] > found["ce"]["agreement"], loss
        assert found[loss]["nll"] < found["ce"]["nll"], loss
