import json
import subprocess
import sys

import pytest
import torch

from kdbench.core.errors import RunError
from kdbench.core.records import records
from kdbench.runs.hydra_setup import register
from kdbench.runs.identity import moved, places_of, recipe_of, series_key
from kdbench.runs.plan import make_plan
from kdbench.training.progress import Progress
from kdbench.training.run_folder import RunFolder
from kdbench.utils.atomic_io import write_atomically
from kdbench.utils.hashing import digest
from tests.helpers.composition import compose_checked


def test_writing_replaces_as_a_whole(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


FULL = """
import resource, sys, torch
from pathlib import Path
from kdbench.core import RunError
from kdbench.training.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1])); folder.open()
folder.save_state({"weights": torch.ones(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the kernel refuses what is larger, as a full disk does
try:
    folder.save_state({"weights": torch.ones(10_000)})
except RunError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half(tmp_path):
    printed = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "cannot write" in printed.stdout
    assert "an existing file was left unchanged" in printed.stdout
    assert not list(tmp_path.glob("*.tmp"))
    state = RunFolder(tmp_path).load_state()
    assert state is not None
    assert torch.equal(state["weights"], torch.ones(10))


def test_an_unwritable_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to the run folder"):
        RunFolder(tmp_path / "file" / "run").open()


def test_what_is_newer_than_the_state_is_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1})
    folder.save_state({})
    folder.append_metrics({"step": 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3')
    assert [row["step"] for row in folder.metrics()] == [1, 2]
    folder.load_state()
    assert [row["step"] for row in folder.metrics()] == [1]


def test_metrics_without_a_state_are_nobodys(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1})
    assert folder.load_state() is None
    assert folder.metrics() == []


def test_a_folder_has_one_process_at_a_time(tmp_path):
    held = RunFolder(tmp_path)
    held.open()
    imports = "from pathlib import Path; from kdbench.training.run_folder import RunFolder"
    code = f"{imports}; RunFolder(Path({str(tmp_path)!r})).open()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is at work" in ended.stderr


def test_records_skips_what_cannot_be_read(tmp_path):
    for name, content in (("a", '{"schema": 1, "state": "done"}'), ("b", '{"sche'), ("c", '{"schema": 0}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(content)
    assert [folder.name for folder, _ in records(tmp_path)] == ["a"]


CONFIG = {
    "dataset": {"_target_": "x", "path": "/a", "padding": 4},
    "teacher": {"name": "t", "checkpoint": "c"},
    "student": {"name": "s"},
    "loss": {"weights": {"ce": 1.0, "kd": 1.0}, "objectives": {"kd": {}}, "pair": "a:b"},
    "schedule": {"lr": 0.1},
    "seed": 0,
    "precision": "fp32",
    "trainer": {"max_epochs": 3, "accelerator": "auto"},
    "output": "runs",
    "tags": [],
}


@pytest.mark.parametrize(
    "change",
    [
        {"output": "elsewhere"},
        {"tags": ["x"]},
        {"dataset": {**CONFIG["dataset"], "path": "/b"}},
        {"teacher": {"name": "t", "checkpoint": "d"}},
        {"loss": {**CONFIG["loss"], "pair": None}},
    ],
)
def test_what_does_not_change_weights_does_not_change_the_identity(change):
    assert digest(recipe_of(CONFIG)) == digest(recipe_of(CONFIG | change))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"precision": "bf16"},
        {"schedule": {"lr": 0.2}},
        {"student": {"name": "z"}},
        {"loss": {**CONFIG["loss"], "weights": {"ce": 1.0, "kd": 2.0}}},
        {"trainer": {"max_epochs": 2}},
    ],
)
def test_what_changes_weights_changes_the_identity(change):
    assert digest(recipe_of(CONFIG)) != digest(recipe_of(CONFIG | change))


def test_a_teacher_that_no_objective_looks_at_does_not_count():
    alone = CONFIG | {"loss": {"weights": {"ce": 1.0}, "objectives": {}}}
    assert digest(recipe_of(alone)) == digest(
        recipe_of(alone | {"teacher": {"name": "other", "checkpoint": None}})
    )
    assert json.dumps(CONFIG)  # and nothing was changed in place
    assert CONFIG["dataset"]["path"] == "/a"


@pytest.mark.parametrize(
    ("loss", "recipe"),
    [
        ("ce", "6e1ad9e40dbee455"),
        ("kd", "e53b08f4d3070728"),
        ("ttm", "ecdd80d8665775c1"),
        ("wttm", "2320601fcceab98d"),
    ],
)
def test_a_run_keeps_its_identity_when_keys_are_added(loss, recipe):
    """Finished runs are found again and unfinished ones resumed, whatever options are added later.

    The values hold since the identity names classes without their modules.
    """
    register()
    plan = make_plan(compose_checked("train", ["dataset=fake", f"loss={loss}", "trainer=cpu"]), {})
    assert plan.recipe_hash == recipe


@pytest.mark.parametrize(
    ("overrides", "recipe"),
    [
        (["dataset=fake"], "d13d59547c12d9f7"),
        (["dataset=cifar100", "teacher=vgg8", "seed=3"], "19e355866b85a01e"),
    ],
)
def test_a_teachers_run_keeps_its_identity_when_keys_are_added(overrides, recipe):
    register()
    plan = make_plan(compose_checked("train_teacher", [*overrides, "trainer=cpu"]), {})
    assert plan.recipe_hash == recipe


def test_moving_a_module_does_not_change_the_identity():
    old, new = (
        CONFIG | {"loss": {**CONFIG["loss"], "_target_": target}, "schedule": {"lr": 0.1, "betas": [0.9]}}
        for target in ("kdbench.loss.Loss", "kdbench.losses.composite.Loss")
    )
    assert digest(recipe_of(old)) == digest(recipe_of(new))


@pytest.mark.parametrize(
    ("one", "other"),
    [("kdbench.loss.Loss", "kdbench.loss.Other"), ("mine.loss.Loss", "yours.loss.Loss")],
)
def test_another_class_is_another_identity(one, other):
    """Classes of other packages keep their full path: two packages may use one name."""
    configs = [CONFIG | {"loss": {**CONFIG["loss"], "_target_": target}} for target in (one, other)]
    assert digest(recipe_of(configs[0])) != digest(recipe_of(configs[1]))


def test_a_switch_that_is_set_makes_another_run():
    register()
    common = ["dataset=fake", "loss=wttm", "trainer=cpu"]
    more = ["loss.objectives.wttm.weighting=none", "loss.standardise=[wttm]", "loss.weights.ce=0.5"]
    plans = [
        make_plan(compose_checked("train", [*common, *one]), {}) for one in ([], *([key] for key in more))
    ]
    assert len({plan.recipe_hash for plan in plans}) == 4


def test_forgetting_a_run_forgets_what_was_made_of_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open()
    for name in (
        "state.pt",
        "student.safetensors",
        "export/model.safetensors",
        "wandb/offline-run-1/run.wandb",
    ):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).touch()
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == [".lock"]


def test_words_of_another_packages_objective_are_its_own():
    """What an objective here leaves out of the identity at its first value says nothing of another's."""
    other = {**CONFIG["loss"], "objectives": {"mine": {"_target_": "mine.Mine", "transform": "power"}}}
    without = {**CONFIG["loss"], "objectives": {"mine": {"_target_": "mine.Mine"}}}
    assert digest(recipe_of(CONFIG | {"loss": other})) != digest(recipe_of(CONFIG | {"loss": without}))


def test_a_configuration_can_say_where_files_are_now():
    there = {**CONFIG, "dataset": {**CONFIG["dataset"], "path": "/b"}}
    assert moved(CONFIG, there) == there
    assert places_of(CONFIG) != places_of(there)
    assert CONFIG["dataset"]["path"] == "/a"


def test_a_single_evaluation_at_the_end_is_no_best_on_test():
    row = {"epoch": 3, "test/nll": 1.0, "validation/nll": 2.0}
    assert "best_on_test" not in Progress(curve=[row], final={"test/nll": 1.0}).results("nll")
    assert "best_on_test" in Progress(curve=[row]).results("nll")


def test_the_best_of_few_epochs_is_not_in_a_row_with_the_best_of_all():
    record = {
        "config": CONFIG, "names": {"dataset": "d", "teacher": "t", "student": "s"}, "hashes": {}, "seed": 0,
    }  # fmt: skip
    rare = {**record, "config": {**CONFIG, "evaluate_every": 10}}
    every = {**record, "config": {**CONFIG, "evaluate_every": 1}}
    assert series_key(record) == series_key(every) != series_key(rare)
