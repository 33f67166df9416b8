"""The grid of a table: its cells, their overrides and their teachers."""

import pytest
import torch

from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import load_table
from kdbench.tables.grid import cells, with_teachers
from kdbench.tables.teachers import missing_teachers

register()


def test_variants_are_an_axis_of_the_grid(tmp_path):
    (tmp_path / "teacher.pth").write_bytes(b"")
    checkpoint = f"teacher.checkpoint={tmp_path / 'teacher.pth'}"
    grid = cells(
        load_table(
            "mcmi-fewshot",
            ["pairs=resnet56:resnet20", "variants=5%,10%", "losses=kd", "seeds=0,1", checkpoint],
        )
    )
    assert [(cell.seed, cell.variant) for cell in grid] == [(0, "5%"), (0, "10%"), (1, "5%"), (1, "10%")]
    assert "dataset.subset.fraction=0.05" in grid[0].overrides
    assert grid[0].title == "kd, resnet56 -> resnet20, 5%, seed 0"
    assert len({cell.key for cell in grid}) == 4


def test_teachers_are_looked_up_in_the_label_space_of_each_variant(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    for space in ("cifar10", "cifar100"):
        (tmp_path / "teachers" / space).mkdir(parents=True)
        (tmp_path / "teachers" / space / "resnet56.safetensors").write_bytes(space.encode())
    pair = "pairs=resnet56:resnet20"
    grid = cells(load_table("omitted-classes", [pair, "variants=cifar10-9,cifar100-9", "seeds=0"]))
    assert len({cell.key for cell in grid}) == 2
    (tmp_path / "teachers" / "cifar10" / "resnet56.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"no teacher resnet56 for cifar10.*\n.*train-teacher dataset=cifar10"
    ):
        cells(load_table("omitted-classes", [pair, "variants=cifar10-9", "seeds=0", "teachers=refuse"]))


def test_the_demo_has_fourteen_cells_of_one_pair():
    table = load_table("demo", [])
    assert len(cells(table)) == 14
    assert {cell.pair for cell in cells(table)} == {"resnet20:resnet8"}
    assert "not a ranking" in table.caption


def test_the_command_line_selects_cells():
    table = load_table(
        "demo", ["losses=ce,kd", "seeds=3", "pairs=resnet20:resnet14", "schedule.epochs=1", "jobs=1"]
    )
    assert [(c.pair, c.loss, c.seed) for c in cells(table)] == [
        ("resnet20:resnet14", loss, 3) for loss in ("ce", "kd")
    ]
    assert "schedule.epochs=1" in table.extra_overrides


def test_teacher_variants_and_ensembles_form_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    from kdbench.teachers.store import stored

    for seed, variant in enumerate(("a", "b")):
        torch.manual_seed(seed)
        path = stored("cifar100", f"resnet20@{variant}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(create_model("resnet20", 100), path, {})
    pairs = "pairs=resnet20@a:resnet8,resnet20@b:resnet8,resnet20@a+resnet20@b:resnet8"
    table = load_table("demo", [pairs, "losses=kd", "seeds=0"])
    table.overrides.remove("teacher.checkpoint=shipped")
    grid = cells(table)
    assert len({cell.key for cell in grid}) == 3
    assert "teacher.members=[resnet20@a,resnet20@b]" in grid[2].overrides
    table.pairs, table.teachers = ["resnet20@mcmi-0.5:resnet8", "vgg13:resnet8"], "refuse"
    with pytest.raises(ValueError, match=r"(?s)teacher_loss.weight=0\.5.*teacher=vgg13 schedule=cifar240"):
        cells(table)


def test_runs_of_another_teacher_are_other_cells(tmp_path):
    """The recipe is the same; the file with the teacher's weights is not."""
    torch.manual_seed(0)
    save_weights(create_model("resnet20", 100), tmp_path / "other.safetensors", {})
    shipped = cells(load_table("demo", []))
    other = cells(load_table("demo", [f"teacher.checkpoint={tmp_path / 'other.safetensors'}"]))
    assert not {cell.key for cell in shipped} & {cell.key for cell in other}


def test_overrides_of_students_do_not_shorten_the_training_of_teachers(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    arguments = ["pairs=wrn_40_2:wrn_16_2", "losses=kd", "seeds=0", "trainer=cpu", "trainer.max_epochs=1"]
    table = load_table("cifar100-same", arguments)
    _, missing = with_teachers(table, cells(table))
    (teacher,) = missing_teachers(table, missing)
    assert "trainer=cpu" in teacher.overrides
    assert teacher.plan.cfg.trainer.max_epochs == 240


def test_timm_teachers_are_fetched_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    arguments = [
        "losses=kd",
        f"dataset.path={tmp_path / 'images'}",
        "pairs=timm/resnet34.tv_in1k:timm/resnet18",
    ]
    with pytest.raises(
        ValueError, match=r"kdbench evaluate dataset=imagenet dataset\.path=.* checkpoint=hub store="
    ):
        cells(load_table("imagenet", arguments))
