"""Whole runs under protocols: batches without rows, resuming, cohorts, what the loss is shown, and the record."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdbench.cli.evaluate import main as evaluate
from kdbench.cli.train import _print_result
from kdbench.metrics.classification import ClassificationScores
from kdbench.objectives import crd, ltkd
from kdbench.runs.cohort import cohorts
from kdbench.runs.execute import run, run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.identity import recipe_of
from kdbench.runs.plan import make_plan
from kdbench.training.run_folder import RunFolder
from kdbench.training.step import Steps
from kdbench.utils.hashing import digest
from tests.helpers.composition import RECIPES, compose_checked, is_for_images
from tests.helpers.random_teacher import random_teacher

register()

TINY = ["dataset=fake", "dataset.train=48", "dataset.size=8", "schedule=quick", "schedule.batch_size=3"]
TINY += [
    "schedule.epochs=2",
    "schedule.lr=0.01",
    "student=resnet8",
    "teacher=resnet14",
    "trainer=cpu",
    "threads=1",
]
TINY += ["progress=false", "log_every=2"]
LOOP = ["dataset.omit_classes=[0,class2]", "dataset.omit=loop"]
REPEAT = ["dataset.subset.fraction=0.25", "dataset.subset.repeat=true", "dataset.label_noise=0.3"]
CRD = ["loss=crd", "loss.objectives.crd.negatives=64"]
PROTOCOLS = {"loop": LOOP, "repeat": REPEAT, "both": [*LOOP, *REPEAT, "dataset.imbalance=3"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> list[str]:
    """The common command line; the teacher's weights are random, which does not matter here."""
    return [*TINY, random_teacher(tmp_path_factory.mktemp("teacher"), "resnet14", protocol="imbalance 9")]


def plan(*overrides: str):
    return make_plan(
        compose_checked("train", list(overrides)), dict(item.split("=", 1) for item in overrides)
    )


def folders(output: Path) -> dict[str, RunFolder]:
    return {path.parent.name: RunFolder(path.parent) for path in sorted(output.glob("*/record.json"))}


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.path / "student.safetensors")


def assert_same_runs(left: Path, right: Path) -> None:
    """The same weights, records and metrics, but for times."""
    assert folders(left).keys() == folders(right).keys()
    for name, one in folders(left).items():
        other = folders(right)[name]
        ours, theirs = weights(one), weights(other)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        assert one.record()["results"] == other.record()["results"]
        rows = [[{**row, "images_per_second": 0} for row in folder.metrics()] for folder in (one, other)]
        assert rows[0] == rows[1]


@pytest.fixture
def steps(monkeypatch) -> list:
    """Every batch that a student takes an optimiser step on, while the test runs."""
    taken = []
    step = Steps._learn

    def seen(module, student, optimizer, batch, teacher):
        taken.append(batch)
        return step(module, student, optimizer, batch, teacher)

    monkeypatch.setattr(Steps, "_learn", seen)
    return taken


class KillError(Exception):
    """Stands for a kill."""


def killed_after(monkeypatch, saves: int, overrides: list[str]) -> dict:
    """Run until the state has been saved so often; the last state that is on the disk then."""
    save, done = RunFolder.save_state, []

    def die(folder, state):
        save(folder, state)
        done.append(state["progress"])
        if len(done) == saves:
            raise KillError

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", die)
        with pytest.raises(KillError):
            run(plan(*overrides))
    return done[-1]


def test_batches_without_rows_are_skipped_and_the_position_moves_on(tmp_path, tiny, steps):
    one_class = ["dataset.omit_classes=[0,1,2]", "dataset.omit=loop", "loss=kd", "log_every=1"]
    made = plan(*tiny, *one_class, f"output={tmp_path}")
    record = run(made)
    (folder,) = folders(tmp_path).values()
    taken = [(batch.epoch, batch.step) for batch in steps]
    assert 10 < len(taken) < 24 < 32, "12 rows of one class an epoch, in 16 batches"
    assert sum(len(batch.index) for batch in steps) == 24
    assert record["images_per_second"] * record["seconds"] == pytest.approx(24)
    state = folder.load_state()
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (3, 0)
    rows = [row for row in folder.metrics() if "step" in row]
    assert [(row["epoch"], row["step"] - 1) for row in rows] == taken
    assert [row["lr"] for row in rows] == [made.schedule.lr_at(*place, 16) for place in taken]
    for epoch in (1, 2):
        values = [row["train/total"] for row in rows if row["epoch"] == epoch]
        assert record["results"]["curve"][epoch - 1]["train/total"] == pytest.approx(
            sum(values) / len(values)
        )


@pytest.mark.parametrize("protocol", ["loop", "repeat"])
def test_a_run_killed_within_an_epoch_and_resumed_is_the_same(tmp_path, tiny, monkeypatch, protocol):
    overrides = [*tiny, *PROTOCOLS[protocol], *CRD, "save_every=0", "log_every=1"]
    run(plan(*overrides, f"output={tmp_path / 'whole'}"))
    killed = [*overrides, f"output={tmp_path / 'killed'}"]
    progress = killed_after(monkeypatch, 23, killed)
    assert (progress["epoch"], progress["step"]) == (2, 7)
    run(plan(*killed, "resume=true"))
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_cohort_under_a_protocol_leaves_what_its_members_leave_alone(tmp_path, tiny):
    members = [["loss=ce"], [*CRD, "student=resnet14"], ["loss=mlkd"]]
    runs = [[*tiny, *PROTOCOLS["both"], *member] for member in members]
    for overrides in runs:
        run(plan(*overrides, f"output={tmp_path / 'alone'}"))
    (group,) = cohorts([plan(*overrides, f"output={tmp_path / 'cohort'}") for overrides in runs])
    assert all(member.error is None for member in run_cohort(group))
    assert_same_runs(tmp_path / "cohort", tmp_path / "alone")


@pytest.mark.slow
def test_members_at_different_positions_meet_between_batches_without_rows(tmp_path, tiny, monkeypatch):
    common = [*tiny, "dataset.train=24", "dataset.omit_classes=[0,1,2]", "dataset.omit=loop"]
    common += ["save_every=0", "log_every=1"]
    runs = [[*common, f"loss={loss}"] for loss in ("kd", "wttm")]
    for overrides in runs:
        run(plan(*overrides, f"output={tmp_path / 'alone'}"))
    together = [[*overrides, f"output={tmp_path / 'cohort'}"] for overrides in runs]
    killed_after(monkeypatch, 4, together[0])
    killed_after(monkeypatch, 13, together[1])
    (group,) = cohorts([plan(*overrides, "resume=true") for overrides in together])
    assert all(member.error is None for member in run_cohort(group))
    assert_same_runs(tmp_path / "cohort", tmp_path / "alone")


def test_protocols_do_not_share_a_cohort(tiny):
    plans = [plan(*tiny, *more) for more in ([], LOOP, REPEAT, [*REPEAT, "dataset.subset.seed=1"], LOOP)]
    assert [len(group) for group in cohorts(plans)] == [1, 1, 1, 1, 1], (
        "the last is the second again: one folder"
    )


@pytest.mark.parametrize("omit", ["dataset", "loop"])
@pytest.mark.parametrize("loss", ["crd", "ltkd"])
def test_no_omitted_label_enters_the_loss(tmp_path, tiny, steps, monkeypatch, omit, loss):
    """Of any batch of the run; nor do CRD's negatives and LTKD's frequencies know of an omitted image."""
    bound, drawn = [], []
    for objective in (crd.CRD, ltkd.LTKD):
        setup = objective.setup
        monkeypatch.setattr(
            objective,
            "setup",
            lambda self, *rest, setup=setup: (setup(self, *rest), bound.append((self, rest[-1])))[0],
        )
    draw = crd.CRD.draw_rows
    monkeypatch.setattr(
        crd.CRD, "draw_rows", lambda self, batch: drawn.append(draw(self, batch)) or drawn[-1]
    )
    protocol = [
        "dataset.omit_classes=[0,2]",
        f"dataset.omit={omit}",
        "dataset.label_noise=0.5",
        "dataset.imbalance=2",
    ]
    run(plan(*tiny, *protocol, f"loss={loss}", f"output={tmp_path}"))
    clean = torch.arange(48) % 4
    assert steps
    for batch in steps:
        assert not torch.isin(batch.target, torch.tensor([0, 2])).any()
        assert not torch.isin(clean[batch.index], torch.tensor([0, 2])).any()
    for objective, dataset_info in bound:
        counts = torch.bincount(dataset_info.labels[dataset_info.trained], minlength=4)
        assert counts[0] == counts[2] == 0 < min(counts[1], counts[3])
        if loss == "crd":
            assert objective.memory.shape[1] == len(dataset_info.trained)
            assert all(int(rows.max()) < len(dataset_info.trained) for rows in drawn)
        else:
            assert max(objective.group[[1, 3]]) <= min(objective.group[[0, 2]]), "the rarest"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny) -> RunFolder:
    output = tmp_path_factory.mktemp("finished")
    run(plan(*tiny, *LOOP, "dataset.imbalance=2", "loss=kd", f"output={output}"))
    (folder,) = folders(output).values()
    return folder


def test_the_record_says_the_protocol_and_the_recall_of_its_groups(finished, capsys):
    record = finished.record()
    assert record["protocol"] == "imbalance 2 (seed 0); without classes 0, 2 (loop)"
    assert record["groups"] == {"omitted": [0, 2], "kept": [1, 3], "head": [1], "medium": [3]}
    recall, last = record["results"]["recall"], record["results"]["last"]
    assert last["omitted"] == pytest.approx((recall[0] + recall[2]) / 2)
    assert last["kept"] == pytest.approx((recall[1] + recall[3]) / 2)
    assert (last["head"], last["medium"]) == (recall[1], recall[3])
    assert {"test/omitted", "test/kept"} < set(record["results"]["curve"][0])
    assert {"omitted", "kept"} < set(record["teacher"])
    assert record["teacher"]["protocol"] == "imbalance 9"
    _print_result(record, "")
    said = capsys.readouterr().out
    assert (
        f"(imbalance 2 (seed 0); without classes 0, 2 (loop)), omitted classes {last['omitted']:.2f} %"
        in said
    )


def test_evaluation_by_command_knows_the_groups(finished, capsys):
    last = finished.record()["results"]["last"]
    arguments = ["model=resnet8", f"checkpoint={finished.path}/student.safetensors", *TINY[:3], *LOOP]
    assert evaluate([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["top1"], result["omitted"], result["kept"]) == (
        last["top1"],
        last["omitted"],
        last["kept"],
    )
    assert evaluate(arguments) == 0
    assert f"omitted classes {last['omitted']:.2f} %" in capsys.readouterr().out


def test_recall_is_of_each_class_by_brute_force():
    """A class without images has none, and is left out of its group's mean."""
    logits, target = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 4
    scores = ClassificationScores(5, {"head": [0, 4], "tail": [1, 2], "medium": [4]})
    scores.add(logits[:50], target[:50])
    scores.add(logits[50:], target[50:])
    found = scores.compute()
    right = logits.argmax(dim=1) == target
    expected = [100 * float(right[target == label].double().mean()) for label in range(4)]
    assert scores.recall == [*(pytest.approx(value, abs=1e-4) for value in expected), None]
    assert found["head"] == pytest.approx(expected[0], abs=1e-4)
    assert found["tail"] == pytest.approx((expected[1] + expected[2]) / 2, abs=1e-4)
    assert "medium" not in found
    assert found["top1"] == pytest.approx(100 * float(right.double().mean()), abs=1e-3)


HALF = {
    "_target_": "kdbench.data.protocols.protocol.Subset",
    "fraction": 0.5,
    "mode": "stratified",
    "repeat": False,
    "seed": 0,
}
FIRST = HALF | {"mode": "first"}
DIFFERENT = [
    {},
    *(
        {"subset": HALF | more}
        for more in ({}, {"seed": 1}, {"repeat": True}, {"fraction": 0.4}, {"mode": "first"})
    ),
    *({"omit_classes": [1]} | more for more in ({}, {"omit": "loop"}, {"omit_classes": [1, 2]})),
    *({"imbalance": 2} | more for more in ({}, {"imbalance_seed": 1}, {"imbalance": 3})),
    *({"label_noise": 0.1} | more for more in ({}, {"label_noise_seed": 1}, {"label_noise": 0.2})),
]
THE_SAME = [
    [
        {},
        {"subset": FIRST | {"fraction": 1.0, "repeat": True, "seed": 1}},
        {"omit": "loop"},
        {"imbalance_seed": 1},
    ],
    [{"subset": FIRST}, {"subset": FIRST | {"seed": 1}, "label_noise_seed": 3}],
    [{"omit_classes": [3, 1]}, {"omit_classes": [1, 3]}],
]


def recipes(tiny: list[str], changes: list[dict]) -> set[str]:
    config = plan(*tiny).config
    return {digest(recipe_of(config | {"dataset": config["dataset"] | change})) for change in changes}


def test_another_protocol_is_another_run(tiny):
    assert len(recipes(tiny, DIFFERENT)) == len(DIFFERENT)


@pytest.mark.parametrize("changes", THE_SAME)
def test_what_draws_nothing_does_not_make_another_run(tiny, changes):
    assert len(recipes(tiny, changes)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("loss", [recipe for recipe in RECIPES if is_for_images(recipe)])
def test_every_loss_trains_under_every_protocol_at_once(tmp_path, tiny, loss):
    """Batches have 0 to 3 rows here."""
    stage = ["loss.stage.epochs=1"] if loss in ("ab", "fsp", "ft") else []
    two_momenta = ["schedule.nesterov=false"] if loss == "kd_dot" else []
    few = ["schedule.epochs=1", "schedule.lr=0.001", f"output={tmp_path}", *two_momenta]
    record = run(plan(*tiny, *PROTOCOLS["both"], f"loss={loss}", *stage, *few))
    assert record["state"] == "done"
    assert {"omitted", "kept"} < set(record["results"]["last"])
