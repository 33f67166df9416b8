"""Measurements of `kdbench analyze` as scores of every evaluation."""

import pytest
import torch

from kdbench.analysis.collect import SplitOutputs
from kdbench.analysis.measure import measure_pair, measure_side
from kdbench.metrics.classification import ClassificationScores
from kdbench.metrics.diagnostics import GAMMA, NETWORK_SCORES, TEACHER_SCORES, Diagnostics
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from tests.helpers.composition import compose_checked

register()


@pytest.fixture
def answers():
    torch.manual_seed(0)
    target = torch.arange(57) % 5
    student, teacher = (2 * torch.randn(57, 5, dtype=torch.float64) for _ in range(2))
    return student, teacher, target


def test_scores_equal_those_of_analyze_for_any_chunks(answers):
    student, teacher, target = answers
    metric = ClassificationScores(5, diagnostics=Diagnostics(5))
    for rows in (slice(0, 20), slice(20, 21), slice(21, 57)):
        metric.add(student[rows], target[rows], teacher[rows])
    scores = metric.compute()
    sides = [SplitOutputs(logits, None) for logits in (teacher, student)]
    alone = measure_side(sides[1], target, list("abcde"), GAMMA).numbers
    pair = measure_pair(*sides, GAMMA).numbers
    expected = {name: alone[name] for name in NETWORK_SCORES}
    expected |= {"conditional_mutual_information": alone["cmi"], "predictive_kl": pair["predictive_kl"]}
    expected |= {name: pair["ttm"][name] for name in TEACHER_SCORES if name != "predictive_kl"}
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    metric.add(student[:20], target[:20])
    again = metric.compute()
    assert again["brier"] != scores["brier"], "compute resets"
    assert "predictive_kl" not in again, "this chunk has no teacher"


def test_run_has_diagnostics_only_on_request(tmp_path):
    settings = [
        "dataset=fake",
        "dataset.train=32",
        "schedule=quick",
        "schedule.epochs=1",
        "schedule.batch_size=16",
    ]
    settings += ["student=resnet8", "teacher=none", "loss=ce", "trainer=cpu", "progress=false"]
    enabled, disabled = (
        run(
            make_plan(
                compose_checked("train", [*settings, f"diagnostics={value}", f"output={tmp_path / value}"]),
                {},
            )
        )
        for value in ("true", "false")
    )
    assert {"brier", "shannon_entropy"} <= set(enabled["results"]["last"])
    assert "test/shannon_entropy" in enabled["results"]["curve"][-1]
    assert "brier" not in disabled["results"]["last"]
    assert enabled["results"]["last"]["nll"] == disabled["results"]["last"]["nll"]
    assert enabled["hashes"] == disabled["hashes"]
