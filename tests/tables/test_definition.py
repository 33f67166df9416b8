"""Definitions of tables, with changes from the command line."""

import pytest

from kdbench.tables.definition import load_table, overrides_of, tables


def test_every_table_loads_under_its_name():
    assert "demo" in tables()
    for name in tables():
        table = load_table(name, [])
        assert (table.name, table.output) == (name, f"runs/tables/{name}")


def test_the_command_line_replaces_keys_of_the_table_and_adds_overrides():
    table = load_table("demo", ["losses=ce,kd", "seeds=3", "schedule.epochs=1"])
    assert (table.losses, table.seeds, table.extra_overrides) == (["ce", "kd"], [3], ["schedule.epochs=1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seeds=0,0"], "list at least one, and each once"),
        (["jobs=0"], "jobs must be at least 1"),
        (["loss=kd"], "losses="),
    ],
)
def test_mistakes_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_table("demo", arguments)


def test_the_command_line_overrides_a_variant():
    table = load_table("mcmi-fewshot", ["variants=5%", "dataset.subset.fraction=0.1"])
    words = overrides_of(table, table.pairs[0], "5%", "kd", 0)
    given = [word for word in words if word.startswith("dataset.subset.fraction=")]
    assert given == ["dataset.subset.fraction=0.05", "dataset.subset.fraction=0.1"]
