"""A published number is compared with runs of its recipe alone."""

from dataclasses import replace

import pytest

from kdbench.config.compose import compose_checked
from kdbench.reports.compare import compare
from kdbench.reports.published import published_for
from kdbench.reports.recipe_diff import departures
from kdbench.reports.rows import beside, summarise, value_beside
from kdbench.runs.hydra_setup import register
from kdbench.tables.grid import load_table, overrides_of

register()

TABLE, PAIR, LOSS = "cifar100-same", "resnet56:resnet20", "kd"


def config(*overrides: str) -> dict:
    from omegaconf import OmegaConf

    table = load_table(TABLE, [])
    cfg = compose_checked("train", [*overrides_of(table, PAIR, "", LOSS, 3), *overrides])
    return OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], ""),
        (["seed=7", "trainer=cpu", "threads=2", "dataset.path=/elsewhere", "evaluate_every=3"], ""),
        (["dataset.subset.fraction=0.5"], ""),  # a protocol of its own, and told apart by that
        (["schedule.batch_size=128"], "schedule.batch_size=128, not 64"),
        (["dataset.validation=5000"], "dataset.validation=5000, not 0"),
        (["loss.weights.ce=0.10", "loss.objectives.kd.temperature=4", "schedule.lr=0.050"], ""),
        (["precision=bf16"], "precision=bf16, not fp32"),
        (["loss.weights.kd=0.5"], "loss.weights.kd=0.5, not 0.9"),
        (["loss.standardise=[kd]"], "loss.standardise=['kd'], not set"),
    ],
)
def test_what_changes_the_recipe_is_named_and_what_does_not_is_not(overrides, said):
    assert departures(config(*overrides), TABLE, PAIR, LOSS) == said


def test_a_table_that_cannot_say_says_nothing():
    given = config("schedule.batch_size=128")
    assert departures(given, "no-such-table", PAIR, LOSS) == ""
    assert departures(given, TABLE, "nobody:nothing", LOSS) == ""


@pytest.mark.parametrize(("overrides", "compared"), [((), True), (("schedule.batch_size=128",), False)])
def test_a_row_of_another_recipe_has_no_difference(overrides, compared):
    names = {"dataset": "cifar100", "teacher": "resnet56", "student": "resnet20", "loss": LOSS}
    result = {"top1": 70.0, "epoch": 240}
    record = {"state": "done", "names": names, "seed": 0, "seconds": 1.0, "config": config(*overrides)}
    (row,) = summarise([{**record, "results": {"last": result, "best_on_test": result}}])
    published = published_for(TABLE)
    found = beside(row, value_beside(row, published), published)
    assert (found.delta is not None) is compared
    assert ("schedule.batch_size=128, not 64" in found.why) is not compared
    (quick,) = summarise(
        [{**record, "teacher": {"epoch": 2}, "results": {"last": result, "best_on_test": result}}]
    )
    assert beside(quick, value_beside(row, published), published).delta == found.delta, (
        "its own score says more"
    )
    variant = replace(quick, pair="resnet56@mcmi-0.15:resnet20")
    said = beside(variant, found.value, published)
    assert said.delta is None
    assert "a teacher of 2 epochs, not 20" in said.why
    plain = compare([70.0], [70.0], 240, found.value, published)
    assert plain.delta is not None
