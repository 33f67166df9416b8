"""Whole trainings of teachers on made-up images: the centroids against brute force, what is logged, how it stops."""

import copy
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from kdbench.core.errors import RunError
from kdbench.data.protocols.class_balanced import ClassBalanced
from kdbench.functional.class_information import class_centroids, conditional_mutual_information
from kdbench.losses.composite import Loss
from kdbench.metrics.conditional_mutual_information import ClassSpread
from kdbench.models.checkpoints import load_weights
from kdbench.models.registry import create_model
from kdbench.objectives.mcmi import MCMI
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.tasks import get
from kdbench.teachers.store import cards, stored
from kdbench.training.divergence import DivergenceGuard
from kdbench.training.evaluation import evaluate
from kdbench.training.extra_forwards import ExtraForwards
from kdbench.training.progress import Progress
from kdbench.training.run_folder import RunFolder
from kdbench.training.schedule import Schedule
from kdbench.training.student import Student
from tests.helpers.composition import compose_checked

register()

TINY = [
    "dataset=fake",
    "dataset.train=96",
    "dataset.size=16",
    "schedule=mcmi20",
    "schedule.batch_size=16",
    "schedule.epochs=2",
]
TINY += ["teacher=resnet8", "trainer=cpu", "threads=1", "progress=false", "log_every=2", "overwrite=true"]
MCMI_LOSS = [*TINY, "teacher_loss=mcmi"]
MODES = ["offline", "epoch", "ema"]
MODE, PER_CLASS = "teacher_loss.objectives.mcmi.mode", "teacher_loss.objectives.mcmi.per_class"


def plan(*overrides: str):
    return make_plan(compose_checked("train_teacher", list(overrides)), {"dataset": "fake"})


def train(*overrides: str) -> dict:
    return run(plan(*overrides))


def folder_of(output: Path) -> RunFolder:
    (path,) = [path.parent for path in output.glob("*/state.pt")]
    return RunFolder(path)


def state(output: Path) -> dict:
    return torch.load(folder_of(output).path / "state.pt", weights_only=True)


def centroids(output: Path) -> torch.Tensor:
    return state(output)["loss"]["objectives.mcmi.centroids"]


def data_of(*overrides: str):
    data = plan(*overrides).data
    data.setup()
    return data


@torch.no_grad()
def by_brute_force(weights: dict, batches, training: bool = False) -> torch.Tensor:
    """All answers at once, grouped by hand."""
    network = create_model("resnet8", 4)
    network.load_state_dict(weights)
    network.train(training)
    batches = list(batches)
    answers = torch.cat([network(batch.inputs).double().softmax(1) for batch in batches])
    labels = torch.cat([batch.target for batch in batches])
    return torch.stack([answers[labels == label].mean(0) for label in range(4)])


def epoch_views(data, epoch: int):
    return (data.train_batch(epoch, step) for step in range(data.steps_per_epoch))


class Steps:
    """The network before every step, as the surveys find it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.weights: list[dict] = []
        before = ExtraForwards.before

        def update(extra_forwards, student, epoch, step):
            self.weights.append(copy.deepcopy(student.model.state_dict()))
            before(extra_forwards, student, epoch, step)

        patch.setattr(ExtraForwards, "before", update)


@pytest.fixture
def steps(monkeypatch) -> Steps:
    return Steps(monkeypatch)


def test_offline_centroids_are_those_of_the_first_network(tmp_path, steps):
    train(*MCMI_LOSS, f"output={tmp_path}")
    expected = by_brute_force(steps.weights[0], epoch_views(data_of(*MCMI_LOSS), 1))
    torch.testing.assert_close(centroids(tmp_path), expected, rtol=1e-6, atol=1e-9)
    assert len(steps.weights) == 12


def test_epoch_centroids_are_those_of_the_last_epochs_first_network(tmp_path, steps):
    train(*MCMI_LOSS, f"{MODE}=epoch", f"output={tmp_path}")
    expected = by_brute_force(steps.weights[6], epoch_views(data_of(*MCMI_LOSS), 2))
    torch.testing.assert_close(centroids(tmp_path), expected, rtol=1e-6, atol=1e-9)


def test_ema_centroids_follow_class_balanced_draws(tmp_path, steps):
    decay = "teacher_loss.objectives.mcmi.decay=0.9"
    train(*MCMI_LOSS, f"{MODE}=ema", f"{PER_CLASS}=3", decay, f"output={tmp_path}")
    data = data_of(*MCMI_LOSS)
    expected = by_brute_force(steps.weights[0], epoch_views(data, 1))
    for number, weights in enumerate(steps.weights[1:], 1):
        drawn = ClassBalanced(data).batch(3, 0, 1 + number // 6, number % 6)
        expected = 0.9 * expected + 0.1 * by_brute_force(weights, [drawn])
    torch.testing.assert_close(centroids(tmp_path), expected, rtol=1e-6, atol=1e-9)


def test_train_mode_is_the_released_codes_pass(tmp_path, steps):
    train(*MCMI_LOSS, "teacher_loss.objectives.mcmi.train_mode=true", f"output={tmp_path}")
    views = list(epoch_views(data_of(*MCMI_LOSS), 1))
    expected = by_brute_force(steps.weights[0], views, training=True)
    torch.testing.assert_close(centroids(tmp_path), expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(expected, by_brute_force(steps.weights[0], views), rtol=1e-3)
    moved = "bn1.running_mean"
    assert not torch.equal(steps.weights[1][moved], steps.weights[0][moved])


@pytest.mark.parametrize("mode", MODES)
def test_omitted_classes_and_empty_batches_have_no_part_in_the_centroids(tmp_path, mode):
    """Batches of one image, many of which have none."""
    omit = ["dataset.train=24", "schedule.batch_size=1", "dataset.omit_classes=[1,2]", "dataset.omit=loop"]
    train(*MCMI_LOSS, *omit, f"{MODE}={mode}", "schedule.epochs=1", f"output={tmp_path}")
    found = centroids(tmp_path)
    assert torch.equal(found[1:3], torch.full((2, 4), 0.25, dtype=torch.float64))
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("mode", MODES)
def test_looking_for_centroids_changes_nothing(tmp_path, mode):
    """With weight 0 the network is, to the bit, that of the cross-entropy alone."""
    train(*TINY, f"output={tmp_path / 'ce'}")
    train(*MCMI_LOSS, "teacher_loss.weight=0", f"{MODE}={mode}", f"output={tmp_path / 'mcmi'}")
    left, right = (state(tmp_path / name)["model"] for name in ("ce", "mcmi"))
    assert all(torch.equal(left[key], right[key]) for key in left)


class KillError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("mode", "position"), [*((mode, (2, 3)) for mode in MODES), ("epoch", (2, 1)), ("ema", (1, 2))], ids=str
)
def test_a_run_killed_and_resumed_is_the_same_to_the_bit(tmp_path, mode, position, monkeypatch):
    command = [word for word in MCMI_LOSS if not word.startswith("overwrite")]
    command += [f"{MODE}={mode}", f"{PER_CLASS}=2", "save_every=0", "log_every=1"]
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    train(*command, f"output={tmp_path / 'whole'}")
    append = RunFolder.append_metrics

    def die(folder, row):
        if (row["epoch"], row.get("step")) == position:
            raise KillError
        append(folder, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", die)
        with pytest.raises(KillError):
            train(*command, f"output={tmp_path / 'killed'}")
    reached = state(tmp_path / "killed")["progress"]
    assert (reached["epoch"], reached["step"]) == (position[0], position[1] - 1)
    train(*command, f"output={tmp_path / 'killed'}", "resume=true")
    whole, killed = state(tmp_path / "whole"), state(tmp_path / "killed")
    for part in ("model", "loss"):
        assert whole[part].keys() == killed[part].keys()
        for key, value in whole[part].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(killed[part][key])), key
    assert whole["progress"]["curve"] == killed["progress"]["curve"]


def test_what_is_logged_beside_the_accuracy(tmp_path):
    record = train(*MCMI_LOSS, f"output={tmp_path}", "evaluate_every=1")
    data, network = data_of(*MCMI_LOSS), create_model("resnet8", 4)
    load_weights(network, folder_of(tmp_path).path / "student.safetensors")
    network.eval()
    curve = record["results"]["curve"]
    assert [row["epoch"] for row in curve] == [1, 2]
    with torch.no_grad():
        batch = data.eval_batch("train", 0, 96)
        logits, target = network(batch.inputs), batch.target
        test = data.eval_batch("test", 0, 1000)
        test_nll = torch.nn.functional.cross_entropy(network(test.inputs), test.target).item()
    assert batch.index.tolist() == list(range(96))
    assert curve[-1]["training/nll"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, target).item(), rel=1e-5
    )
    own = conditional_mutual_information(logits.double(), target, class_centroids(logits, target, 4))
    fixed = conditional_mutual_information(logits.double(), target, centroids(tmp_path))
    assert curve[-1]["training/cmi"] == pytest.approx(own.item(), rel=1e-5)
    assert curve[-1]["training/cmi_fixed"] == pytest.approx(fixed.item(), rel=1e-5)
    assert curve[-1]["test/nll"] == record["results"]["last"]["nll"] == pytest.approx(test_nll, rel=1e-5)
    assert {"train/mcmi", "train/ce", "test/top1"} <= set(curve[-1])
    card = json.loads(stored("fake4", "resnet8@mcmi-0.25").with_suffix(".json").read_text())
    assert (card["cmi"], card["nll"]) == (curve[-1]["training/cmi"], curve[-1]["test/nll"])
    assert not any("/" in name for name in record["results"]["last"])
    assert [c["teacher"] for c in cards() if c["label_space"] == "fake4" and c["teacher"] == card["teacher"]]


def test_an_ordinary_teacher_is_measured_once_at_its_end(tmp_path):
    curve = train(*TINY, f"output={tmp_path}")["results"]["curve"]
    assert "training/cmi" not in curve[0]
    assert 0 <= curve[1]["training/cmi"] <= math.log(4)
    assert "training/cmi_fixed" not in curve[1]


def test_the_spread_of_a_split_is_the_same_in_any_pieces():
    whole, in_chunks = (data_of(*TINY, f"dataset.eval_batch_size={size}") for size in (96, 7))
    torch.manual_seed(0)
    network = create_model("resnet8", 4)
    left, right = (evaluate(network, data, "train", metric=ClassSpread(4)) for data in (whole, in_chunks))
    assert left == pytest.approx(right, rel=1e-5)


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    """A weight at which giving up the labels pays."""
    wild = [*MCMI_LOSS, "teacher_loss.weight=60", "schedule.epochs=20", "save_every=0", "log_every=1"]
    with pytest.raises(
        RunError, match=r"diverged at epoch \d+.*ln C = 1.386.*last good checkpoint is kept: .*state.pt"
    ):
        train(*wild, "schedule.lr=0.002", f"output={tmp_path}")
    (record,) = [json.loads(path.read_text()) for path in tmp_path.glob("*/record.json")]
    assert record["state"] == "failed"
    assert "diverged" in record["reason"]
    kept = folder_of(tmp_path).path / "state.pt"
    network = create_model("resnet8", 4)
    load_weights(network, kept)  # it serves as a checkpoint
    assert all(value.isfinite().all() for value in network.state_dict().values())
    rows = [row for row in folder_of(tmp_path).metrics() if "step" in row]
    assert not any(-row["train/mcmi"] > math.log(4) for row in rows)


@pytest.mark.parametrize(
    ("ce", "cmi", "stops"), [(1.98, 23.5, True), (4.06, 67.8, True), (5.2, 0.1, False), (0.5, 0.8, False)]
)
def test_what_counts_as_divergence(tmp_path, ce, cmi, stops):
    """The first two are where gradient descent on one sample of 100 classes ends at weights of 0.25 and 0.8."""
    loss = Loss({"ce": 1.0, "mcmi": 0.25}, {"mcmi": MCMI()})
    schedule = Schedule(1, 1, 0.1, plan="constant")
    student = Student(create_model("resnet8", 100), loss, schedule, get("images"))
    guard = DivergenceGuard(student, 100, lambda: "no checkpoint")
    rows = {"total": [ce - 0.25 * cmi], "ce": [ce], "mcmi": [-cmi]}
    if not stops:
        return guard.check_losses(rows, [2], 3, ends_line=True)
    with pytest.raises(RunError, match=r"diverged at epoch \d+, the 1 steps to 3: .*ln C = 4.605"):
        guard.check_losses(rows, [2], 3, ends_line=True)


def test_a_run_that_was_stopped_is_judged_where_it_would_have_been(tmp_path):
    """Two steps of a log line are far off, all five are not: wherever the line was cut, and over a resume."""
    loss = Loss({"ce": 1.0, "mcmi": 0.25}, {"mcmi": MCMI()})
    schedule = Schedule(1, 1, 0.1, plan="constant")
    students = [Student(create_model("resnet8", 4), loss, schedule, get("images")) for _ in range(2)]
    first, second = (DivergenceGuard(student, 4, lambda: "no checkpoint") for student in students)
    line = {"total": [0.0] * 5, "ce": [1.0] * 5, "mcmi": [-3.0, -3.0, 0.0, 0.0, 0.0]}
    before, after = ({key: values[part] for key, values in line.items()} for part in (slice(2), slice(2, 5)))
    first.check_losses(before, [0, 1], 2, ends_line=False)
    students[1].progress = Progress(**asdict(students[0].progress))
    second.check_losses(after, [2, 3, 4], 5, ends_line=True)
    assert students[1].progress.line == {}
    with pytest.raises(RunError, match="the 2 steps to 2"):
        second.check_losses(before, [0, 1], 2, ends_line=True)


def test_an_untrained_network_has_not_diverged(tmp_path):
    """Its cross-entropy is above ln C at first, too."""
    assert train(*MCMI_LOSS, "schedule.lr=0.3", f"output={tmp_path}")["state"] == "done"


def test_only_a_term_without_end_is_watched():
    assert not MCMI().bounded
