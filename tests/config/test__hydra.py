"""What kdbench relies on of Hydra's internals. Checked for Hydra 1.3; pyproject.toml allows no other minor version."""

import re
from pathlib import Path

import hydra
import pytest
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from kdbench.config import _hydra
from kdbench.runs.hydra_setup import register

register()
ROOT = Path(__file__).parents[2]


def parse(*overrides: str):
    return OverridesParser.create().parse_overrides(list(overrides))


def test_the_version_is_one_that_was_checked():
    assert hydra.__version__.startswith("1.3.")
    assert re.search(r'"hydra-core>=1\.3[^"]*,<1\.4"', (ROOT / "pyproject.toml").read_text())


def test_no_other_file_imports_internals():
    using = [
        path
        for path in (ROOT / "kdbench").rglob("*.py")
        if re.search(r"hydra\._internal|GlobalHydra", path.read_text())
    ]
    assert using == [ROOT / "kdbench" / "config" / "_hydra.py"]


def test_initialisation_can_be_nested_and_repeated():
    for _ in range(2):
        with _hydra.hydra_initialized() as outer:
            assert outer.config_loader is not None
            with _hydra.hydra_initialized():
                assert compose("train", ["student=resnet8"]).student.name == "resnet8"


@pytest.mark.parametrize(
    ("root", "overrides"),
    [
        ("train", []),
        ("train", ["loss=wttm", "teacher=resnet32x4", "student=ShuffleV1", "dataset=imagenet"]),
        ("train", ["loss=ft", "schedule=quick", "trainer=ddp", "logger=wandb"]),
        ("train", ["experiment=mini", "loss=sum", "+objective@loss.objectives.kd=kd"]),
        ("train", ["dataset=svamp", "student=t5_tiny", "teacher=none", "loss=dss_mi"]),
        ("train_teacher", ["teacher=vgg13", "teacher_loss=mcmi", "schedule=mcmi20"]),
        ("evaluate", ["model=resnet8"]),
        ("analyze", ["model=resnet8"]),
    ],
)
def test_composing_without_hydras_node_gives_what_hydra_gives(root, overrides):
    with _hydra.hydra_initialized():
        expected = compose(root, overrides)
    fast = _hydra.ConfigFiles().compose(root, overrides)
    assert OmegaConf.to_yaml(fast) == OmegaConf.to_yaml(expected)
    assert list(fast) == list(expected)


@pytest.mark.parametrize("overrides", [["loss=kdd"], ["losss=kd"], ["~nothing"], ["seed.x=1"]])
def test_mistakes_are_the_same_errors(overrides):
    with _hydra.hydra_initialized(), pytest.raises(Exception) as expected:
        compose("train", overrides)
    with pytest.raises(type(expected.value)) as fast:
        _hydra.ConfigFiles().compose("train", overrides)
    assert str(fast.value) == str(expected.value)


@pytest.mark.parametrize("group", ["model", "student", "teacher", "objective"])
def test_generated_groups_are_groups(group):
    assert _hydra.ConfigFiles().has_group(group)
    assert not _hydra.ConfigFiles().has_group(f"{group}.name")


def test_sections_are_recognised():
    files = _hydra.ConfigFiles()
    assert files.section("student", "resnet8").name == "resnet8"
    assert files.section("loss", "kd").objectives.kd._target_ == "kdbench.objectives.kd.KD"
    assert files.section("schedule", "quick").epochs > 0
    with pytest.raises(Exception, match="override"):
        files.section("experiment", "mini")


def test_overrides_of_keys_follow_hydras_rules():
    cfg = OmegaConf.create({"a": {"b": 1, "c": 2}})
    OmegaConf.set_struct(cfg, True)
    _hydra.apply_overrides(parse("a.b=3", "+a.d=4", "~a.c"), cfg)
    assert cfg == {"a": {"b": 3, "d": 4}}
    with pytest.raises(Exception, match=r"a\.e"):
        _hydra.apply_overrides(parse("a.e=1"), cfg)


def test_arguments_are_parsed_as_by_hydra_main():
    options = _hydra.parse_arguments(["-m", "loss=kd,ttm", "seed=1"])
    assert (options.multirun, options.overrides) == (True, ["loss=kd,ttm", "seed=1"])
    assert _hydra.parse_arguments(["--cfg", "job"]).cfg == "job"
    assert _hydra.parse_arguments(["--help"]).help


def test_a_sweep_is_the_product_of_its_values():
    jobs = _hydra.split_sweep(parse("loss=kd,ttm", "seed=0,1", "lr=0.1"))
    assert jobs == [
        ["loss=kd", "seed=0", "lr=0.1"],
        ["loss=kd", "seed=1", "lr=0.1"],
        ["loss=ttm", "seed=0", "lr=0.1"],
        ["loss=ttm", "seed=1", "lr=0.1"],
    ]


def test_targets_are_located():
    assert _hydra.locate("kdbench.objectives.kd.KD").__name__ == "KD"
    with pytest.raises(ImportError):
        _hydra.locate("kdbench.objectives.kd.Missing")


def test_the_basic_launcher_has_what_the_cohort_launcher_overrides():
    launcher = _hydra.BasicLauncher()
    assert callable(launcher.launch)
    assert launcher.task_function is None
