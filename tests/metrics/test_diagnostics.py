"""The instruments as scores of every evaluation."""

import pytest
import torch

from kdbench.analysis.collect import Answers
from kdbench.analysis.measure import of_one, of_pair
from kdbench.config.compose import compose_checked
from kdbench.metrics.classification import Scores
from kdbench.metrics.diagnostics import GAMMA, OF_ONE, OF_PAIR, Diagnostics
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.runs.run import run

register()


@pytest.fixture
def answers():
    torch.manual_seed(0)
    target = torch.arange(57) % 5
    student, teacher = (2 * torch.randn(57, 5, dtype=torch.float64) for _ in range(2))
    return student, teacher, target


def test_they_are_what_analyze_says_whatever_the_chunks(answers):
    student, teacher, target = answers
    metric = Scores(5, more=Diagnostics(5))
    for rows in (slice(0, 20), slice(20, 21), slice(21, 57)):
        metric.add(student[rows], target[rows], teacher[rows])
    found = metric.compute()
    sides = [Answers(logits, None) for logits in (teacher, student)]
    alone = of_one(sides[1], target, list("abcde"), GAMMA).numbers
    pair = of_pair(*sides, GAMMA).numbers
    expected = {name: alone[name] for name in OF_ONE}
    expected |= {"conditional_mutual_information": alone["cmi"], "predictive_kl": pair["predictive_kl"]}
    expected |= {name: pair["ttm"][name] for name in OF_PAIR if name != "predictive_kl"}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    metric.add(student[:20], target[:20])
    again = metric.compute()
    assert again["brier"] != found["brier"], "it starts again"
    assert "predictive_kl" not in again, "there was no teacher"


def test_a_run_has_them_where_it_was_asked_to(tmp_path):
    words = [
        "dataset=fake",
        "dataset.train=32",
        "schedule=quick",
        "schedule.epochs=1",
        "schedule.batch_size=16",
    ]
    words += ["student=resnet8", "teacher=none", "loss=ce", "trainer=cpu", "progress=false"]
    with_them, without = (
        run(
            make_plan(
                compose_checked("train", [*words, f"diagnostics={asked}", f"output={tmp_path / asked}"]), {}
            )
        )
        for asked in ("true", "false")
    )
    assert {"brier", "shannon_entropy"} <= set(with_them["results"]["last"])
    assert "test/shannon_entropy" in with_them["results"]["curve"][-1]
    assert "brier" not in without["results"]["last"]
    assert with_them["results"]["last"]["nll"] == without["results"]["last"]["nll"]
    assert with_them["hashes"] == without["hashes"]
