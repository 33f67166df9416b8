"""Differences between the recipe of a run and that of a table."""

import pytest
from omegaconf import OmegaConf

from kdbench.reports.recipe_diff import recipe_difference, variant_epochs
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import load_table, overrides_of
from tests.helpers.composition import compose_checked

register()

TABLE, PAIR, LOSS = "cifar100-same", "resnet56:resnet20", "kd"


def config(*overrides: str) -> dict:
    table = load_table(TABLE, [])
    cfg = compose_checked("train", [*overrides_of(table, PAIR, "", LOSS, 3), *overrides])
    return OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        ([], ""),
        (["seed=7", "trainer=cpu", "threads=2", "dataset.path=/elsewhere", "evaluate_every=3"], ""),
        (["dataset.subset.fraction=0.5"], ""),  # protocols are compared separately
        (["schedule.batch_size=128"], "schedule.batch_size=128, not 64"),
        (["dataset.validation=5000"], "dataset.validation=5000, not 0"),
        (["loss.weights.ce=0.10", "loss.objectives.kd.temperature=4", "schedule.lr=0.050"], ""),
        (["precision=bf16"], "precision=bf16, not fp32"),
        (["loss.weights.kd=0.5"], "loss.weights.kd=0.5, not 0.9"),
        (["loss.standardise=[kd]"], "loss.standardise=['kd'], not set"),
    ],
)
def test_only_changes_of_the_recipe_are_named(overrides, difference):
    assert recipe_difference(config(*overrides), TABLE, PAIR, LOSS) == difference


def test_tables_that_cannot_run_the_pair_are_not_compared():
    own_config = config("schedule.batch_size=128")
    assert recipe_difference(own_config, "no-such-table", PAIR, LOSS) == ""
    assert recipe_difference(own_config, TABLE, "nobody:nothing", LOSS) == ""


def test_epochs_of_a_variant_are_those_of_its_schedule():
    assert variant_epochs("resnet56@mcmi-0.15") == 20
    assert variant_epochs("resnet56") is None
