"""Where a teacher's training starts, what it is stored as, and runs whose student is the next teacher."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdbench.config.command_line import expand_short_forms
from kdbench.core.records import finished_run, read_record
from kdbench.models.checkpoints import load_weights, save_weights, weights_hash
from kdbench.models.registry import create_model
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.identity import series_key
from kdbench.runs.plan import make_plan
from kdbench.teachers.store import put, stored
from tests.helpers.composition import compose_checked

register()

TINY = ["dataset=fake", "dataset.train=64", "dataset.size=16", "schedule=quick", "schedule.batch_size=16"]
TINY += ["schedule.epochs=1", "trainer=cpu", "threads=1", "progress=false"]
STILL = ["schedule.lr=1e-30", "schedule.plan=constant"]


def plan(root: str, *overrides: str):
    choices = dict(item.split("=", 1) for item in (*TINY, *overrides))
    return make_plan(compose_checked(root, [*TINY, *overrides]), choices)


def train_teacher(*overrides: str) -> dict:
    return run(plan("train_teacher", "teacher=resnet8", *overrides))


def train(*overrides: str) -> dict:
    return run(plan("train", *overrides))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def start(tmp_path) -> Path:
    """Weights to start from, of another seed than a run's own."""
    torch.manual_seed(7)
    save_weights(create_model("resnet8", 4), tmp_path / "start.safetensors", {})
    return tmp_path / "start.safetensors"


def convolution(file: Path) -> torch.Tensor:
    return load_file(file)["conv1.weight"]


def test_training_starts_from_the_weights_that_are_named(tmp_path, start):
    train_teacher(f"teacher.init={start}", *STILL, f"output={tmp_path / 'runs'}")
    assert torch.equal(convolution(stored("fake4", "resnet8")), convolution(start))
    train_teacher("teacher.init=store", "teacher.variant=again", *STILL, f"output={tmp_path / 'runs'}")
    assert torch.equal(convolution(stored("fake4", "resnet8@again")), convolution(start))


def test_the_start_is_in_the_identity_by_its_weights_and_not_by_its_path(tmp_path, start):
    other, same = tmp_path / "other.safetensors", tmp_path / "same.pth"
    network = create_model("resnet8", 4)
    save_weights(network, other, {})
    load_weights(network, start)
    torch.save(network.state_dict(), same)
    records = []
    for number, file in enumerate((start, same, other)):
        variant = f"teacher.variant=v{number}"
        records.append(train_teacher(f"teacher.init={file}", variant, f"output={tmp_path / str(number)}"))
    hashes = [record["hashes"] for record in records]
    assert hashes[0] == hashes[1]
    assert hashes[0]["init"] == weights_hash(network)
    assert hashes[0]["recipe"] == hashes[2]["recipe"]
    assert hashes[0]["init"] != hashes[2]["init"]
    assert "init" not in train_teacher(f"output={tmp_path / 'none'}")["hashes"]


def test_a_variant_is_stored_beside_the_plain_one_and_selected_by_name(tmp_path, start, capsys):
    runs = f"output={tmp_path / 'runs'}"
    train_teacher(runs)
    record = train_teacher("teacher_loss=mcmi", "teacher_loss.weight=0.5", f"teacher.init={start}", runs)
    assert record["names"]["teacher"] == "resnet8@mcmi-0.5"
    assert stored("fake4", "resnet8").is_file()
    card = json.loads(stored("fake4", "resnet8@mcmi-0.5").with_suffix(".json").read_text())
    assert (card["model"], card["teacher"]) == ("resnet8", "resnet8@mcmi-0.5")
    students = {
        variant: train("teacher=resnet8", *variant, "student=resnet8", "loss=kd", runs)
        for variant in ((), ("teacher.variant=mcmi-0.5",))
    }
    plain, varied = students.values()
    assert plain["names"]["teacher"] == "resnet8"
    assert varied["names"]["teacher"] == varied["teacher"]["name"] == "resnet8@mcmi-0.5"
    assert plain["hashes"]["recipe"] == varied["hashes"]["recipe"]
    assert plain["hashes"]["teacher"] != varied["hashes"]["teacher"]
    assert (varied["teacher"]["cmi"], varied["teacher"]["nll"]) == (card["cmi"], card["nll"])
    assert varied["teacher"]["top1"] == pytest.approx(card["top1"])
    from kdbench.cli.list import teachers

    listed = {row["teacher"]: row for row in teachers()}
    assert listed["resnet8@mcmi-0.5"]["cmi"] == card["cmi"]
    assert listed["resnet20"]["cmi"] is None, "the shipped one was not measured"


def test_another_run_does_not_replace_a_variant_unasked(tmp_path):
    loss = ("teacher_loss=mcmi", f"output={tmp_path}")
    train_teacher(*loss)
    with pytest.raises(ValueError, match=r"another resnet8@mcmi-0\.25 for fake4"):
        train_teacher(*loss, "seed=1")
    train_teacher(*loss, "seed=1", "teacher.variant=mcmi-seed1")


def test_a_missing_variant_says_the_command_that_trains_it(tmp_path):
    command = (
        r"kdbench train-teacher dataset=fake dataset.classes=4 dataset.size=16 teacher=vgg8 teacher_loss=mcmi "
        r"teacher_loss.weight=0.4 teacher.init=store schedule=mcmi20"
    )
    with pytest.raises(ValueError, match=command):
        train("teacher=vgg8", "teacher.variant=mcmi-0.4", "loss=kd", f"output={tmp_path}")


def test_the_command_starts_from_the_shipped_one_where_that_is_what_there_is():
    made = make_plan(compose_checked("train", ["dataset=cifar100_mini", "teacher=resnet20", "loss=kd"]), {})
    assert "teacher.init=shipped" in made.training_command("resnet20@mcmi-0.4")
    assert "teacher.init=store" in made.training_command("vgg8@mcmi-0.4")


def test_a_teacher_for_imagenet_is_trained_by_its_schedule():
    made = make_plan(
        compose_checked("train", expand_short_forms(["dataset=imagenet", "teacher=ResNet50"], "train")), {}
    )
    assert made.schedule.epochs == 100
    assert made.training_command("ResNet50").endswith("teacher=ResNet50 schedule=imagenet100")


@pytest.mark.parametrize(
    ("root", "more", "words"),
    [
        ("train_teacher", ["teacher.init=nowhere.pth"], "nowhere.pth: there is no such file or folder"),
        (
            "train_teacher",
            ["teacher.init=store"],
            "teacher=resnet8 schedule=cifar240\nor .* teacher.init=FILE",
        ),
        ("train_teacher", ["teacher.checkpoint=x.pth"], "teacher.init is where it starts"),
        ("train_teacher", ["teacher=ensemble", "teacher.members=[resnet8]"], "trains one network"),
        ("train_teacher", ["teacher_loss.weights.mcmi=2", "teacher_loss=mcmi"], "loss.weight=0.25"),
        ("train", ["teacher.init=store", "loss=kd"], "where kdbench train-teacher starts"),
        ("train", ["loss=kd", "+loss.weight=2"], "loss.weight=2, but loss.weights.kd=0.9"),
        ("train", ["teacher=run", "loss=kd"], "teacher=run:FOLDER"),
        (
            "train",
            ["teacher=run:nowhere", "loss=kd"],
            "nowhere should be or hold one finished run; runs there: none",
        ),
    ],
)
def test_mistakes_are_said(tmp_path, root, more, words, monkeypatch):
    first = [] if any(word.startswith("teacher=") for word in more) else ["teacher=resnet8"]
    with pytest.raises(ValueError, match=words):
        run(plan(root, *first, *more, f"output={tmp_path / 'runs'}"))
    assert not (tmp_path / "runs").exists()


def test_a_start_of_other_classes_is_refused(tmp_path):
    save_weights(create_model("resnet8", 4), tmp_path / "x.safetensors", {"classes": ["a", "b", "c", "d"]})
    with pytest.raises(ValueError, match="other classes"):
        train_teacher(f"teacher.init={tmp_path / 'x.safetensors'}", f"output={tmp_path / 'runs'}")


def test_a_chain_of_students_each_taught_by_the_one_before(tmp_path):
    torch.manual_seed(0)
    save_weights(create_model("resnet8", 4), tmp_path / "first.safetensors", {})
    common = ("student=resnet8", "loss=kd", "schedule.lr=0.01")
    train(
        "teacher=resnet8",
        f"teacher.checkpoint={tmp_path / 'first.safetensors'}",
        *common,
        f"output={tmp_path / 'g1'}",
    )
    records = [
        train(f"teacher=run:{tmp_path / f'g{number}'}", *common, f"output={tmp_path / f'g{number + 1}'}")
        for number in (1, 2)
    ]
    for number, record in enumerate(records, 1):
        (taught_by,) = (tmp_path / f"g{number}").glob("*")
        suffix = series_key(read_record(taught_by / "record.json"))[:8]
        assert record["names"]["teacher"] == record["teacher"]["name"] == f"resnet8@run-{suffix}"
        network = create_model("resnet8", 4)
        load_weights(network, taught_by / "student.safetensors")
        assert record["teacher"]["hash"] == weights_hash(network)
        assert record["config"]["loss"]["pair"] is None
    whole = plan("train", f"teacher=run:{tmp_path / 'g1'}", *common)
    direct = plan("train", f"teacher=run:{next((tmp_path / 'g1').glob('*'))}", *common)
    assert whole.recipe_hash == direct.recipe_hash


def test_a_teachers_run_and_its_state_serve_too(tmp_path):
    train_teacher(f"output={tmp_path / 't'}")
    common = ("student=resnet8", "loss=kd")
    by_run = train(f"teacher=run:{tmp_path / 't'}", *common, f"output={tmp_path / 'a'}")
    state = next((tmp_path / "t").glob("*/state.pt"))
    by_state = train("teacher=resnet8", f"teacher.checkpoint={state}", *common, f"output={tmp_path / 'b'}")
    by_folder = train(
        "teacher=resnet8", f"teacher.checkpoint={tmp_path / 't'}", *common, f"output={tmp_path / 'c'}"
    )
    assert by_run["hashes"]["teacher"] == by_state["hashes"]["teacher"] == by_folder["hashes"]["teacher"]
    assert by_state["hashes"] == by_folder["hashes"]


def test_which_runs_can_be_teachers(tmp_path):
    save_weights(create_model("resnet8", 4), tmp_path / "first.safetensors", {})
    common = ("teacher=resnet8", f"teacher.checkpoint={tmp_path / 'first.safetensors'}", "student=resnet8")
    train(*common, "loss=simkd", f"output={tmp_path / 'simkd'}")
    with pytest.raises(ValueError, match="answers with a head of its loss"):
        train(f"teacher=run:{tmp_path / 'simkd'}", "student=resnet8", "loss=kd", f"output={tmp_path}")
    for seed in (0, 1):
        train(*common, "loss=kd", f"seed={seed}", f"output={tmp_path / 'two'}")
    with pytest.raises(ValueError, match=r"one finished run; runs there: .*-s0-.* .done., .*-s1-.* .done."):
        finished_run(tmp_path / "two")
    path = next((tmp_path / "two").glob("*-s0-*/record.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "interrupted"}))
    found, _ = finished_run(tmp_path / "two")
    assert "-s1-" in found.name
    with pytest.raises(ValueError, match="interrupted"):
        finished_run(path.parent)


def test_the_short_form_is_expand_short_forms():
    assert expand_short_forms(["teacher=run:runs/a b", "loss=kd"], "train") == [
        "teacher=run",
        "teacher.checkpoint=runs/a b",
        "loss=kd",
    ]


def test_several_runs_as_teachers_are_no_short_form():
    with pytest.raises(ValueError, match=r"teacher=run teacher\.checkpoint=FOLDER,FOLDER"):
        expand_short_forms(["teacher=run:a,run:b", "loss=kd"], "train")


def test_a_teacher_that_came_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    model = create_model("resnet8", 4)
    put(model, "fake", "resnet8", {"hashes": {"recipe": "a"}})
    put(model, "fake", "resnet8", {"hashes": {"recipe": "a"}})
    with pytest.raises(ValueError, match="the store has another resnet8 for fake"):
        put(model, "fake", "resnet8", {"hashes": {"recipe": "b"}})
    put(model, "fake", "resnet8", {"hashes": {"recipe": "b"}}, replace=True)
