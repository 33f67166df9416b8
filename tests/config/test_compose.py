"""Mistakes on the command line: named, with what was meant and what is possible, before any work."""

import subprocess
import sys
import time

import pytest
from hydra import compose
from omegaconf import OmegaConf

from kdbench.config._hydra import hydra_initialized
from kdbench.config.command_line import command_line_jobs
from kdbench.config.compose import Composer, checked, compose_checked
from kdbench.config.targets import check_targets
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan

register()

MISTAKES = [
    ("sead=1", ["'sead'", "did you mean 'seed'", "student", "schedule"]),
    ("+sead=1", ["'sead'", "did you mean 'seed'"]),
    ("loss=nope", ["no loss=nope", "others (kdbench list losses)"]),
    ("loss=wtm", ["did you mean loss="]),
    ("teacher=resnet999", ["no teacher=resnet999", "resnet", "others (kdbench list models)"]),
    ("seed=abc", ["seed", "'abc'", "Integer"]),
    ("trainer.max_epohcs=3", ["'trainer.max_epohcs'", "did you mean 'max_epochs'", "accelerator"]),
    ("+trainer.max_epohcs=3", ["'trainer.max_epohcs'", "did you mean 'max_epochs'"]),
    ("loss.objectives.kd.temprature=2", ["'loss.objectives.kd.temprature'", "did you mean 'temperature'"]),
    ("+loss.objectives.kd.temprature=2", ["'loss.objectives.kd.temprature'", "did you mean 'temperature'"]),
    ("loss.objectives.kd.temperature=hot", ["loss.objectives.kd.temperature should be float, got 'hot'"]),
    ("loss.objectives.kd.temperature=-1", ["temperature must be positive", "-1"]),
    ("+loss.weights.kdd=1", ["loss.weights names kdd", "ce, kd"]),
    ("loss.weights=3", ["loss.weights should be", "got 3"]),
    ("loss.objectives.kd._target_=os.system", ["'os.system'", "allowed are kdbench."]),
    ("loss.objectives.kd._target_=kdbench.objectives.kd.KDD", ["there is no 'kdbench.objectives.kd.KDD'"]),
    ("loss=wttm loss.pair=a:b", ["loss.pair=a:b", "resnet56:resnet20"]),
    ("schedule.batch_size=0", ["schedule.batch_size must be at least 1, got 0"]),
    ("schedule.epochs=1000", ["made for 240 epochs", "schedule.milestones_for=1000"]),
    ("schedule.milestons=[1]", ["did you mean 'milestones'"]),
    ("precision=fp17", ["precision=fp17", "bf16-teacher"]),
    ("student=timm", ["student.name has no value"]),
    ("student=timm student.name=timm/resnet1888", ["did you mean timm/resnet18"]),
    ("dataset=hub", ["dataset.name has no value"]),
    ("dataset.validation=-1", ["dataset: validation must be finite and not negative, got -1"]),
    ("dataset=images", ["this dataset is what others are made from"]),
    ("dataset.subset.fracton=0.1", ["'dataset.subset.fracton'", "did you mean 'fraction'"]),
    ("dataset.subset.fraction=0", ["dataset.subset: fraction must be in (0, 1], got 0"]),
    ("dataset.subset.mode=last", ["dataset.subset.mode should be stratified or first, got 'last'"]),
    (
        "dataset.subset=0.05",
        ["dataset.subset should be a section with the keys fraction, mode, repeat, seed"],
    ),
    ("dataset.subset=null", ["dataset.subset should be a section", "got None"]),
    ("dataset.omit_classes=9", ["dataset.omit_classes should be Sequence[int | str], got 9"]),
    ("dataset.omit_classes=[worn]", ["no class worn; did you mean worm?", "0 to 99"]),
    ("dataset=cifar10 dataset.omit_classes=[9,truck]", ["[9,truck]: name each class only once"]),
    ("dataset.omit=never", ["dataset.omit should be dataset or loop, got 'never'"]),
    ("dataset.imbalance=0.01", ["dataset: imbalance must be finite and at least 1, got 0.01"]),
    ("dataset.label_noise=40", ["dataset: label_noise must be in [0, 1], got 40"]),
    ("dataset.omit_clases=[9]", ["did you mean 'omit_classes'"]),
    ("+dataset.options=1", ["'dataset.options'"]),
    ("teacher=none", ["the loss has kd", "needs a teacher"]),
    ("experiment=nope", ["no experiment=nope", "mini"]),
    ("trainer.devices=2", ["trainer.devices=2", "need trainer=ddp"]),
    (
        "dataset=svamp student=t5_tiny teacher=none loss=dss trainer=ddp trainer.accelerator=cpu trainer.devices=2",
        ["trainer=ddp: task=rationale supports a single device only; give trainer=auto"],
    ),
    ("trainer=ddp trainer.devices=0", ["trainer.devices=0 must be a number from 1 or auto"]),
    ("trainer=ddp trainer.num_nodes=x", ["trainer.num_nodes"]),
    ("trainer=ddp trainer.strategy=fsdp", ["trainer.strategy=fsdp; possible: ddp"]),
    (
        "trainer=ddp trainer.accelerator=cpu trainer.sync_batchnorm=true",
        ["trainer.sync_batchnorm=true needs GPUs"],
    ),
    ("teacher=live", ["teacher has no name"]),
    ("+student.checkpoint=x", ["'student.checkpoint'", "name"]),
    ("+dataset.seed=3", ["'dataset.seed'"]),
    ("loss.weights.kd=inf", ["loss.weights.kd must be finite"]),
    ("+trainer.limit_train_batches=1", ["trainer.limit_train_batches is not for"]),
    ("trainer.max_epochs=241", ["trainer.max_epochs=241 must lie in 1 to schedule.epochs=240"]),
    ("trainer.max_epochs=0", ["must lie in 1"]),
    ("trainer.accelerator=tpu", ["possible: auto, cpu, gpu"]),
    ("logger._target_=kdbench.training.run_folder.os.system", ["logger._target_"]),
    ("threads=0", ["threads must be at least 1"]),
]


@pytest.mark.parametrize(("overrides", "words"), MISTAKES, ids=[overrides for overrides, _ in MISTAKES])
def test_a_mistake_is_named(overrides, words):
    with pytest.raises(ValueError) as caught:
        make_plan(compose_checked("train", overrides.split()), {})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            "{weights: {ce: 1, kd: 1}, objectives: {kd: {_target_: kdbench.objectives.kd.KD, temprature: 2}}}",
            "temperature",
        ),
        ("{weights: {ce: much}}", "loss.weights should be"),
        ("{weigths: {ce: 1}}", "did you mean 'weights'"),
        ("{weights: {ce: 1}, ramps: {ce: slowly}}", "loss.ramps should be"),
    ],
)
def test_a_mistake_in_a_users_own_loss_file_is_named(tmp_path, recipe, words):
    node = OmegaConf.to_container(OmegaConf.create(recipe)) | {"_target_": "kdbench.losses.composite.Loss"}
    with pytest.raises(ValueError) as caught:
        check_targets({"loss": node})
    assert words in str(caught.value)


@pytest.mark.parametrize("overrides", ["sead=1", "loss=nope"])
def test_the_command_says_it_within_ten_seconds_and_without_a_traceback(overrides):
    started = time.monotonic()
    command = [sys.executable, "-m", "kdbench.cli.train", overrides]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("kdbench: ")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    # the promise is 10 s on a machine that does nothing else; here another test runs beside it
    assert time.monotonic() - started < 30


def test_a_sweep_is_checked_job_by_job():
    jobs = command_line_jobs(["-m", "loss=ce,kd", "seed=0,1"])
    assert jobs == [
        ["loss=ce", "seed=0"],
        ["loss=ce", "seed=1"],
        ["loss=kd", "seed=0"],
        ["loss=kd", "seed=1"],
    ]
    assert command_line_jobs(["--help"]) == []


def test_any_sum_can_be_said_on_the_command_line():
    sum_of_two = ["loss=sum", "+objective@loss.objectives.dkd=dkd", "+loss.weights.dkd=2"]
    loss = make_plan(compose_checked("train", sum_of_two), {}).loss
    assert loss.weights == {"ce": 1.0, "dkd": 2}
    assert list(loss.terms) == ["dkd"]


def test_runs_composed_one_after_the_other_are_as_hydra_composes_each():
    """What files say is put together once; what the command line says of single keys is not mixed up between runs."""
    runs = [
        ["loss=wttm", "seed=1", "schedule.epochs=5"],
        ["loss=wttm", "seed=2"],
        ["loss=wttm", "student=resnet8x4", "teacher=resnet32x4", "+loss.weights.more=1", "tags=[a,b]"],
        ["loss=wttm", "seed=1", "loss.weights.wttm=3", "~schedule.warmup"],
    ]
    composer = Composer("train")
    for overrides in [*runs, *runs]:
        with hydra_initialized():
            whole = compose("train", overrides)
        assert composer(overrides) == checked("train", whole), overrides
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        composer(["loss=wttm", "seed=1", "schedule.epohcs=5"])


@pytest.mark.parametrize(
    ("root", "overrides", "words"),
    [
        (
            "train",
            ["loss=kd,ttm"],
            "loss=kd,ttm: several values are a sweep, which needs -m: kdbench train -m",
        ),
        ("train", ["seed=0,1", "hydra/launcher=cohort"], "seed=0,1: several values are a sweep"),
        ("train", ["epochs=10"], "did you mean schedule.epochs?"),
        ("train", ["gpus=2"], "did you mean trainer.devices?"),
        ("train", ["loss.temperature=8"], "did you mean loss.objectives.kd.temperature?"),
        ("train", ["loss=kdd"], "did you mean loss=kd? Possible: "),
        ("train_teacher", ["loss=kd"], "a teacher's loss is teacher_loss="),
        ("train_teacher", ["student=resnet8"], "the network that is trained teacher="),
    ],
)
def test_what_people_bring_from_elsewhere_is_understood(root, overrides, words):
    with pytest.raises(ValueError) as caught:
        compose_checked(root, overrides)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_network_of_timms_by_its_name_alone():
    cfg = compose_checked("train", ["dataset=cifar100_mini", "student=timm/test_resnet"])
    assert (cfg.student.name, cfg.teacher.name) == ("timm/test_resnet", "resnet20")
