"""Every file of conf/ composes, passes the check and builds; published values arrive where they should."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from kdbench.config.build import build
from kdbench.config.resolvers import pairs_of
from kdbench.losses.composite import Loss
from kdbench.models.configurations import teachers
from kdbench.models.language import causal_lm, t5
from kdbench.runs.generated_options import option_names
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.tables.definition import load_table, tables
from kdbench.tables.grid import cells
from kdbench.utils.paths import CONF_DIR
from tests.helpers.composition import compose_checked

register()

NEEDS = {
    "dataset=images": ["dataset._target_=kdbench.data.sources.cifar100_mini.cifar100_mini"],
    "dataset=folder": [f"dataset.path={Path(__file__).parent}"],
    "dataset=hub": ["dataset.name=someone/something"],
    "student=timm": ["student.name=timm/resnet18"],
    "teacher=timm": ["teacher.name=timm/resnet18"],
    "teacher=none": ["loss=ce"],
    "teacher=live": ["+teacher.name=resnet8"],
    "teacher=ensemble": ["teacher.members=[resnet8,resnet20]"],
    "schedule=sgd": ["schedule.epochs=1", "schedule.lr=0.1", "schedule.plan=constant"],
    "schedule=adamw": ["schedule.epochs=1"],
    "loss=sum": [],
    "dataset=rationale": ["dataset.name=svamp", "teacher=none", "student=t5_tiny", "loss=dss"],
    **{
        f"loss={name}": ["dataset=svamp"]
        for name in ("dss", "dss_infonce", "dss_mi", "dss_mi_normalised", "finetune")
    },
    **{f"loss={name}": ["dataset=svamp_lm"] for name in ("seqkd", "gkd", "skd")},
    **{f"student={name}": ["dataset=svamp"] for name in t5.NETWORKS},
    "dataset=language": ["dataset.name=svamp", "student=lm_tiny", "teacher=lm_small", "loss=fkl"],
    "dataset=instructions": ["dataset.name=mine"],
    **{
        f"{side}={name}": [
            "dataset=svamp_lm",
            *([f"{side}.options.pretrained=mine"] if name == "causal" else []),
        ]
        for side in ("student", "teacher")
        for name in (*causal_lm.NETWORKS, "causal")
    },
}
GROUPS = ("dataset", "teacher", "student", "loss", "schedule", "trainer", "logger")
TEACHER_LOSSES = sorted(file.stem for file in (CONF_DIR / "teacher_loss").glob("*.yaml"))
OPTIONS = [f"{group}={name}" for group in GROUPS for name in option_names(group)]


@pytest.fixture
def finished_run(tmp_path) -> Path:
    """As far as a configuration reads of one."""
    names = {"dataset": "cifar100", "teacher": "resnet20", "student": "resnet8", "loss": "kd"}
    config = {"student": {"name": "resnet8"}, "trainer": {"max_epochs": 1}}
    record = {"schema": 1, "state": "done", "names": names, "hashes": {}, "config": config}
    (tmp_path / "record.json").write_text(json.dumps(record))
    return tmp_path


def test_a_finished_run_composes_as_a_teacher(finished_run):
    teacher = compose_checked("train", [f"teacher=run:{finished_run}"]).teacher
    assert (teacher.name, teacher.checkpoint) == ("resnet8", str(finished_run))
    assert teacher.variant.startswith("run-")


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "teacher=run"])
def test_every_option_composes_and_builds(option):
    if option == "trainer=gpu" and not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch finds no CUDA device"):
            make_plan(compose_checked("train", [option]), {})
        return
    plan = make_plan(compose_checked("train", [option, *NEEDS.get(option, [])]), {})
    assert plan.schedule.epochs >= 1


@pytest.mark.parametrize("option", TEACHER_LOSSES)
def test_every_teacher_loss_composes_and_builds(option):
    plan = make_plan(compose_checked("train_teacher", [f"teacher_loss={option}", "teacher=vgg8"]), {})
    assert plan.trains_teacher
    assert not plan.needs_teacher


def test_the_fine_tuning_of_mcmi_teachers():
    """20 epochs of batch 64 at 0.05, a tenth of it for light networks, down a cosine; lambda as one number."""
    cfg = compose_checked(
        "train_teacher", ["teacher_loss=mcmi", "teacher_loss.weight=0.15", "schedule=mcmi20"]
    )
    assert cfg.teacher_loss.weights == {"ce": 1.0, "mcmi": 0.15}
    schedule = build(cfg.schedule)
    assert (schedule.epochs, schedule.batch_size, schedule.weight_decay) == (20, 64, 5e-4)
    rates = [schedule.lr_at(epoch, 0, 782) for epoch in (1, 11, 20)]
    assert rates == pytest.approx([0.05, 0.025, 0.025 * (1 + math.cos(0.95 * math.pi))])
    light = compose_checked("train_teacher", ["teacher=ShuffleV1", "schedule=mcmi20"])
    assert light.schedule.lr == 0.005


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_every_network_can_be_either_side(side):
    assert set(teachers()) <= set(option_names(side))


def test_the_other_roots_compose():
    assert make_plan(compose_checked("train_teacher", ["teacher=vgg8"]), {}).trains_teacher
    evaluate = compose_checked("evaluate", ["model=resnet8", "checkpoint=x.pth"])
    assert evaluate.model.name == "resnet8"


@pytest.mark.parametrize("name", tables())
def test_every_table_is_a_grid_of_checked_runs(name, tmp_path):
    """Its first pair and its last one, with its first seed: composing takes time."""
    (tmp_path / "teacher.pth").write_bytes(b"")  # its weights are not read before a run starts
    table = load_table(name, [])
    pairs, some = table.pairs, ",".join(dict.fromkeys((table.pairs[0], table.pairs[-1])))
    alone = pairs[0].startswith("none:")
    more = [] if alone else [f"teacher.checkpoint={tmp_path / 'teacher.pth'}"]
    grid = cells(load_table(name, [f"pairs={some}", f"seeds={table.seeds[0]}", *more]))
    assert len({cell.key for cell in grid}) == len(grid)
    assert {cell.pair for cell in grid} == {pairs[0], pairs[-1]}


@pytest.mark.parametrize(
    ("loss", "pair", "gamma", "weight"),
    [
        ("ttm", "vgg13:vgg8", 0.1, 45),
        ("wttm", "resnet56:resnet20", 0.3, 1.5),
        ("wttm", "resnet32x4:ShuffleV2", 0.4, 16),
    ],
)
def test_published_values_come_by_pair(loss, pair, gamma, weight):
    teacher, student = pair.split(":")
    cfg = compose_checked("train", [f"loss={loss}", f"teacher={teacher}", f"student={student}"])
    assert (cfg.loss.objectives[loss].gamma, cfg.loss.weights[loss], cfg.loss.pair) == (gamma, weight, pair)


@pytest.mark.parametrize(
    ("loss", "cifar", "imagenet"),
    [
        ("kd", (4, 0.1, 0.9), (1, 0.5, 0.5)),
        ("dist", (4, 1, 2), (1, 1, 2)),
        ("dkd", (4, 1, 1), (1, 1, 1)),
        ("nkd", (3, 1, 1), (1, 1, 1)),
        ("wsld", (4, 1, 2.25), (2, 1, 2.5)),
    ],
)
def test_published_values_come_by_data_set(loss, cifar, imagenet):
    students = {"cifar100": ["student=resnet20"], "imagenet": ["student=timm", "student.name=timm/resnet18"]}
    for dataset, expected in (("cifar100", cifar), ("imagenet", imagenet)):
        cfg = compose_checked("train", [f"dataset={dataset}", f"loss={loss}", *students[dataset]])
        of = cfg.loss.objectives[loss]
        assert (of.temperature, cfg.loss.weights.ce, cfg.loss.weights[loss]) == expected


def test_timms_networks_have_families_too():
    of = [
        "student=timm",
        "student.name=timm/mobilenetv1_100",
        "teacher=timm",
        "teacher.name=timm/resnet50.tv_in1k",
    ]
    assert compose_checked("train", ["loss=ttm", *of]).loss.pair == "vgg13:MobileNetV2"
    of[1] = "student.name=timm/resnet34"
    assert compose_checked("train", ["loss=ttm", *of]).loss.pair == "resnet56:resnet20"


def test_an_unpublished_pair_takes_those_of_a_named_one_and_says_so():
    cfg = compose_checked("train", ["loss=wttm", "teacher=resnet20", "student=resnet8"])
    assert cfg.loss.pair == "resnet56:resnet20"
    assert (cfg.loss.objectives.wttm.gamma, cfg.loss.weights.wttm) == (0.3, 1.5)


def test_the_command_line_wins_over_published_values():
    cfg = compose_checked("train", ["loss=wttm", "loss.objectives.wttm.gamma=0.5", "loss.pair=vgg13:vgg8"])
    assert (cfg.loss.objectives.wttm.gamma, cfg.loss.weights.wttm) == (0.5, 2.25)


def test_dkd_rises_over_twenty_epochs_with_the_pairs_beta():
    cfg = compose_checked("train", ["loss=dkd", "teacher=resnet32x4", "student=resnet8x4"])
    loss: Loss = build(cfg.loss)
    assert cfg.loss.objectives.dkd.beta == 8
    assert loss.weight("dkd", 1) == pytest.approx(1 / 20)


@pytest.mark.parametrize(("student", "lr"), [("resnet20", 0.05), ("MobileNetV2", 0.01), ("ShuffleV1", 0.01)])
def test_the_literatures_rate_depends_on_the_network(student, lr):
    assert compose_checked("train", [f"student={student}"]).schedule.lr == lr
    assert compose_checked("train", [f"student={student}", "schedule.lr=0.2"]).schedule.lr == 0.2


@pytest.mark.parametrize("file", sorted((CONF_DIR / "pairs").glob("*.yaml")), ids=lambda file: file.stem)
def test_pair_values_name_their_source_and_a_published_fallback(file):
    pairs = pairs_of(file.stem)
    assert pairs["source"]
    assert pairs["status"] == "verified"
    fallback = pairs["fallback"]
    assert set(fallback.values() if isinstance(fallback, dict) else [fallback]) <= set(pairs["values"])


def test_an_experiment_of_the_users_own_folder(tmp_path):
    (tmp_path / "experiments").mkdir()
    mine = {"defaults": [{"override /loss": "ttm"}, {"override /student": "vgg8"}], "seed": 7}
    (tmp_path / "experiments" / "mine.yaml").write_text(yaml.safe_dump(mine))
    command = [sys.executable, "-m", "kdbench.cli.train", "experiment=mine", "--cfg", "job", "--resolve"]
    printed = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=_env(), check=True
    ).stdout
    composed = yaml.safe_load(printed)
    assert (composed["seed"], composed["student"]["name"], composed["loss"]["pair"]) == (
        7,
        "vgg8",
        "vgg13:MobileNetV2",
    )


def test_the_shipped_experiment_composes():
    cfg = compose_checked("train", ["experiment=mini", "loss=wttm"])
    assert (cfg.teacher.name, cfg.student.name) == ("resnet20", "resnet8")


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
