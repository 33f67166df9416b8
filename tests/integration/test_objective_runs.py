"""Objectives with more than a value, in whole runs: learned parts, memories, first stages, heads, second views."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdbench.core.errors import RunError
from kdbench.core.objective import Probes
from kdbench.core.records import records
from kdbench.core.types import Batch
from kdbench.models.checkpoints import load_weights, save_weights
from kdbench.models.features import answer, feature_names
from kdbench.models.registry import create_model
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import first_stage, make_plan
from kdbench.teachers.live import LiveTeacher
from kdbench.training.run_folder import RunFolder
from tests.helpers.composition import compose_checked

register()

TINY = ["dataset=fake", "dataset.train=96", "schedule=quick", "schedule.batch_size=16", "schedule.epochs=2"]
TINY += ["student=resnet8", "teacher=resnet20", "trainer=cpu", "threads=1", "progress=false", "log_every=2"]
WITH_PARTS = ["vid", "crd", "ctkd", "reviewkd"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A teacher with random weights: what it answers does not matter here, that it answers does."""
    path = tmp_path_factory.mktemp("teacher") / "resnet20.safetensors"
    torch.manual_seed(0)
    save_weights(create_model("resnet20", 4), path, {"model": "resnet20", "num_classes": 4})
    return f"teacher.checkpoint={path}"


def plan(*overrides: str):
    choices = dict(item.split("=", 1) for item in overrides)
    return make_plan(compose_checked("train", [*TINY, *overrides]), choices)


def train(*overrides: str) -> dict:
    return run(plan(*overrides))


def main_folder(output: Path) -> Path:
    (path,) = [path for path, record in records(output) if not record["is_stage"]]
    return path


def state(output: Path) -> dict:
    return torch.load(main_folder(output) / "state.pt", weights_only=True)


def setup(plan_, student, other) -> None:
    """As a run does, up to the values of the probes."""
    loss, data = plan_.loss, plan_.data
    data.setup("fit")
    loss.choose_features(feature_names(student), feature_names(other))
    sides = ((student, loss.student_features), (other, loss.teacher_features))
    with torch.no_grad():
        answers = [answer(network.eval(), data.probe(), features) for network, features in sides]
    loss.setup(student, other, Probes(*answers), data.dataset_info, plan_.cfg.seed)


class KillError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("loss", WITH_PARTS)
def test_parts_and_memories_are_resumed_to_the_bit(tmp_path, teacher, loss, monkeypatch):
    command = (f"loss={loss}", teacher, "save_every=0")
    train(*command, f"output={tmp_path / 'whole'}")
    append = RunFolder.append_metrics

    def die(folder, row):
        if (row["epoch"], row.get("step")) == (2, 4):
            raise KillError
        append(folder, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", die)
        with pytest.raises(KillError):
            train(*command, f"output={tmp_path / 'killed'}")
    train(*command, f"output={tmp_path / 'killed'}", "resume=true")
    whole, killed = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert whole["loss"], "nothing is in the checkpoint"
    for part in ("model", "loss"):
        for key, value in whole[part].items():
            assert torch.equal(value, killed[part][key]), key
    assert whole["optimizer"]["state"].keys() == killed["optimizer"]["state"].keys()


@pytest.mark.parametrize("loss", [*WITH_PARTS, "simkd"])
def test_every_learned_part_is_in_the_optimiser_and_moves(tmp_path, teacher, loss):
    made, trained = plan(f"loss={loss}", teacher), plan(f"loss={loss}", teacher, f"output={tmp_path}")
    student, other = create_model("resnet8", 4), create_model("resnet20", 4)
    setup(made, student, other)
    run(trained)
    moved = state(tmp_path)["loss"]
    learned = {name: p for name, p in made.loss.named_parameters() if p.requires_grad}
    assert learned
    for name, parameter in learned.items():
        assert not torch.equal(moved[name], parameter), name


@pytest.mark.parametrize("loss", ["ab", "fsp"])
def test_the_main_phase_starts_from_the_student_that_the_first_stage_left(tmp_path, teacher, loss, capsys):
    # a random teacher's maps are large: a small learning rate
    command = (f"loss={loss}", teacher, "loss.stage.epochs=1", "schedule.lr=0.001", f"output={tmp_path}")
    record = train(*command)
    assert record["state"] == "done"
    stages = [(path, record) for path, record in records(tmp_path) if record["is_stage"]]
    ((folder, stage),) = stages
    assert stage["state"] == "done"
    assert stage["config"]["schedule"]["plan"] == "constant"
    assert [row["epoch"] for row in stage["results"]["curve"]] == [1]
    train(*command, "loss.weights.ce=0.5")
    assert f"already finished: {folder} (the first stage)" in capsys.readouterr().out
    assert len([1 for _, record in records(tmp_path) if record["is_stage"]]) == 1
    # without a step of its own, the main phase ends with what the stage left
    train(*command, "schedule.lr=1e-30", "loss.stage.lr=0.001", f"output={tmp_path / 'still'}")
    ((still, _),) = [(path, record) for path, record in records(tmp_path / "still") if record["is_stage"]]
    left = torch.load(still / "state.pt", weights_only=True)["model"]
    found = state(tmp_path / "still")["model"]
    weights = [key for key in left if key.endswith("weight")]
    assert all(torch.equal(found[key], left[key]) for key in weights)
    fresh = train("loss=ce", teacher, "schedule.lr=1e-30", f"output={tmp_path / 'ce'}")
    assert fresh["state"] == "done"
    assert not torch.equal(state(tmp_path / "ce")["model"]["conv1.weight"], left["conv1.weight"])


def test_a_first_stage_on_the_teacher_alone_serves_every_student(tmp_path, teacher):
    train("loss=ft", teacher, "loss.stage.epochs=1", f"output={tmp_path}", "trainer.max_epochs=1")
    ((folder, stage),) = [(path, record) for path, record in records(tmp_path) if record["is_stage"]]
    assert "student" not in stage["names"]
    assert stage["results"] == {}
    assert not (folder / "student.safetensors").exists()
    made = torch.load(folder / "state.pt", weights_only=True)["loss"]
    main = state(tmp_path)["loss"]
    shared = [key for key in main if "paraphraser" in key]
    assert shared
    assert all(torch.equal(main[key], made[key]) for key in shared), "frozen since the first stage"
    hashes = {
        first_stage(plan("loss=ft", teacher, "loss.stage.epochs=1", *more)).recipe_hash
        for more in ((), ("student=resnet14",), ("loss.weights.ft=1",))
    }
    assert len(hashes) == 1
    assert first_stage(plan("loss=ft", teacher, "loss.stage.epochs=2")).recipe_hash not in hashes


def test_a_first_stage_whose_state_was_deleted_is_run_again(tmp_path, teacher):
    command = ("loss=ab", teacher, "loss.stage.epochs=1", "schedule.lr=0.001", f"output={tmp_path}")
    train(*command)
    ((folder, _),) = [(path, record) for path, record in records(tmp_path) if record["is_stage"]]
    (folder / "state.pt").unlink()
    record = train(*command, "overwrite=true")
    assert (folder / "state.pt").is_file()
    assert record["stage"]["folder"] == folder.name
    assert record["stage"]["seconds"] > 0


def test_a_first_stage_that_failed_says_what_to_delete(tmp_path, teacher):
    with pytest.raises(RunError, match=r"the first stage: .* not finite .*; delete its folder"):
        train("loss=fsp", teacher, "schedule.lr=1e9", "loss.stage.epochs=1", f"output={tmp_path}")


def test_what_means_nothing_at_a_constant_rate_does_not_make_it_another_stage(teacher):
    decays = [plan("loss=ab", teacher, f"schedule.warmup={warmup}") for warmup in (0.1, 0.2)]
    assert len({first_stage(one).recipe_hash for one in decays}) == 1


def test_a_change_of_the_first_stage_is_another_run(teacher):
    one, other = (plan("loss=ab", teacher, f"loss.stage.epochs={epochs}") for epochs in (1, 2))
    assert one.recipe_hash != other.recipe_hash


def test_simkd_answers_with_its_own_head_and_says_what_that_costs(tmp_path, teacher):
    record = train("loss=simkd", teacher, f"output={tmp_path}", "dataset.validation=16")
    folder = main_folder(tmp_path)
    head, student = (
        load_file(folder / "student.predictor.safetensors"),
        load_file(folder / "student.safetensors"),
    )
    statistics = ("running_mean", "running_var", "num_batches_tracked", "size")
    added = sum(value.numel() for key, value in head.items() if not key.endswith(statistics))
    counts, own_head = record["parameters"], 64 * 4 + 4
    assert counts["at_test"] == counts["student"] - own_head + added
    model = create_model("resnet8", 4)
    model.load_state_dict(student)
    plan_ = plan("loss=simkd", teacher)
    loss, data = plan_.loss, plan_.data
    data.setup("test")
    images = data.eval_batch("test", 0, 32)
    term = loss.terms["simkd"]
    setup(plan_, model, create_model("resnet20", 4))
    term.load_state_dict(head)
    with torch.no_grad():
        logits = loss.eval().predict(answer(model.eval(), images.inputs, term.student_features))
    top1 = 100 * (logits.argmax(1) == images.target).float().mean().item()
    assert record["results"]["last"]["top1"] == pytest.approx(top1, abs=1e-3)
    best = load_file(folder / "best_validation.predictor.safetensors")
    assert best.keys() == head.keys()
    with pytest.raises(ValueError, match="answers with the head of SimKD"):
        load_weights(model, folder / "student.safetensors")


def test_mlkd_shows_both_sides_a_strong_view(tmp_path, teacher, monkeypatch):
    shown: list[Batch] = []
    forward = LiveTeacher.forward

    def update(self, batch, features=()):
        shown.append(batch)
        return forward(self, batch, features)

    monkeypatch.setattr(LiveTeacher, "forward", update)
    record = train("loss=mlkd", teacher, f"output={tmp_path}")
    assert record["state"] == "done"
    training = [batch for batch in shown if batch.views]
    assert len(training) == 2 * 6
    assert not torch.equal(training[0].views["strong"], training[0].inputs)


def test_what_cannot_be_served_is_said_before_training(tmp_path, teacher):
    with pytest.raises(ValueError, match="same width, such as resnet20 with resnet56"):
        train("loss=fsp", "student=resnet8x4", teacher, f"output={tmp_path}")


VIT = ["student=timm", "student.name=timm/vit_tiny_patch16_224"]
VIT += ["+student.options.img_size=32", "+student.options.patch_size=8", "+student.options.depth=3"]
VIT += ["+student.options.embed_dim=24", "+student.options.num_heads=3"]
VIT_TEACHER = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def timm_teachers(tmp_path_factory) -> dict[str, list[str]]:
    """A timm ResNet and a timm ViT with random weights."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    save_weights(create_model("timm/resnet10t", 4), folder / "resnet.safetensors", {})
    vit = create_model("timm/vit_tiny_patch16_224", 4, options=VIT_TEACHER)
    save_weights(vit, folder / "vit.safetensors", {})
    options = [f"+teacher.options.{key}={value}" for key, value in VIT_TEACHER.items()]
    return {
        "resnet": ["teacher.name=timm/resnet10t", f"teacher.checkpoint={folder}/resnet.safetensors"],
        "vit": [
            "teacher.name=timm/vit_tiny_patch16_224",
            *options,
            f"teacher.checkpoint={folder}/vit.safetensors",
        ],
    }


@pytest.mark.parametrize("loss", ["kd", "wttm", "fitnet", "rkd", "crd", "at", "simkd", "vitkd"])
def test_a_timm_vit_learns_of_a_timm_teacher(tmp_path, timm_teachers, loss):
    teacher = timm_teachers["vit" if loss == "vitkd" else "resnet"]
    hint = ["loss.objectives.fitnet.hint=3"] if loss == "fitnet" else []  # the ViT's maps are 4 x 4
    more = ["teacher=timm", *teacher, *VIT, f"loss={loss}", *hint, "schedule.lr=0.001", f"output={tmp_path}"]
    record = train(*more, "schedule.epochs=1")
    (row,) = [row for row in RunFolder(main_folder(tmp_path)).metrics() if "step" not in row]
    assert record["state"] == "done"
    term = "kd" if loss == "kd" else loss
    assert row[f"train/{term}"] > 0
