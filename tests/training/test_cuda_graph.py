"""Recorded steps: the same weights as eager steps, nothing that a CUDA graph would miss, and refused settings."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdbench.data.images.image_data import _RESIDENT, ImageData, _Epoch
from kdbench.models.registry import create_model
from kdbench.runs.cohort import cohorts
from kdbench.runs.execute import run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import Plan, make_plan
from kdbench.teachers.live import live_teacher
from kdbench.training.cuda_graph import WARM_UP, hindrance, of_epoch
from kdbench.training.run_folder import RunFolder
from kdbench.training.step import Steps
from kdbench.training.student import Student
from kdbench.utils.paths import CONF_DIR
from tests.helpers.composition import RECIPES, compose_checked, is_for_images, recipe_loss
from tests.helpers.random_teacher import random_teacher
from tests.helpers.recording_tape import HostReadError, Tape

register()

BATCH, STEPS = 6, WARM_UP + 4
TINY = ["dataset=fake", f"dataset.train={BATCH * (STEPS - 1) + 2}", "dataset.size=8", "progress=false"]
TINY += ["schedule=quick", f"schedule.batch_size={BATCH}", "schedule.epochs=2", "schedule.plan=constant"]
TINY += ["schedule.lr=0.0078125"]  # which float32 holds exactly, as a graph's learning rate must be
TINY += ["student=resnet8", "teacher=resnet14", "trainer=cpu", "threads=1", "log_every=4", "evaluate_every=2"]
DROPOUT = [
    "student=timm",
    "student.name=timm/test_resnet",
    "+student.options.drop_rate=0.5",
    "dataset.size=32",
]


RECORDED = [
    recipe
    for recipe in RECIPES
    if is_for_images(recipe) and recipe_loss(recipe).needs_student and hindrance(recipe_loss(recipe)) is None
]
"""Recipes for images whose steps can be recorded."""


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> list[str]:
    return [*TINY, random_teacher(tmp_path_factory.mktemp("teacher"), "resnet14")]


def plan(*overrides: str) -> Plan:
    return make_plan(
        compose_checked("train", list(overrides)), dict(item.split("=", 1) for item in overrides)
    )


def trained(monkeypatch, output: Path, runs: list[list[str]], record: bool) -> dict[str, dict]:
    """Train a cohort with recorded or eager steps and return the weights of each run."""
    plans = [plan(*overrides, f"output={output}") for overrides in runs]
    for one in plans:
        one.cfg.cuda_graph = record
    monkeypatch.setattr("kdbench.runs.execute.CudaGraph", Tape)
    (group,) = cohorts(plans)
    before = Tape.replays
    for member in run_cohort(group):
        assert member.error is None
    # all but the first steps and each epoch's smaller last batch: of the shared part, and of each student
    assert (
        (Tape.replays - before >= (STEPS - 1 - WARM_UP) * (1 + len(runs)))
        if record
        else Tape.replays == before
    )
    folders = [
        path.parent
        for path in output.glob("*/record.json")
        if not RunFolder(path.parent).record()["is_stage"]
    ]
    return {folder.name: load_file(folder / "student.safetensors") for folder in folders}


def stage(recipe: str) -> list[str]:
    return ["loss.stage.epochs=1"] if "\nstage:" in (CONF_DIR / "loss" / f"{recipe}.yaml").read_text() else []


def assert_same(ours: dict[str, dict], theirs: dict[str, dict], rounding: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        for key, value in weights.items():
            torch.testing.assert_close(value, theirs[name][key], rtol=0, atol=rounding)


QUICK = ("ce", "kd", "dkd", "ctkd", "reviewkd", "simkd", "srrl", "fsp")
"""Cover ramps, epoch numbers, features, learned parts, heads and first stages; other recipes are slow."""


@pytest.mark.parametrize(
    "recipe", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECORDED]
)
def test_recorded_steps_give_the_same_weights_as_eager_steps(tmp_path, monkeypatch, common, recipe):
    # under a dispatch mode, torch rounds the gradient of reviewkd's convolution of a 1x1 map differently, and the
    # difference grows from step to step
    rounding = 1e-3 if recipe == "reviewkd" else 0.0
    loss = recipe_loss(recipe)
    twice = of_epoch(loss, 1) != of_epoch(loss, 2) and not rounding
    one = [*common, f"loss={recipe}", *stage(recipe), f"schedule.epochs={2 if twice else 1}"]
    as_they_are = trained(monkeypatch, tmp_path / "eager", [one], record=False)
    replayed = trained(monkeypatch, tmp_path / "graph", [one], record=True)
    assert_same(replayed, as_they_are, rounding)


class KillError(Exception):
    """Stands for a kill."""


COHORT = [["loss=kd"], ["loss=dist", *DROPOUT], ["loss=dkd"]]


def test_recorded_cohort_gives_the_same_weights_as_single_runs(tmp_path, monkeypatch, common):
    """One student has dropout and is not the first of the cohort."""
    runs = [[*common, "dataset.size=32", *one] for one in COHORT]
    together = trained(monkeypatch, tmp_path / "together", runs, record=True)
    alone = {}
    for one in runs:
        alone |= trained(monkeypatch, tmp_path / "alone", [one], record=False)
    assert len(together) == 3
    assert_same(together, alone)


def test_recorded_run_resumes_to_the_bit(tmp_path, monkeypatch, common):
    one = [*common, "loss=kd"]
    whole = trained(monkeypatch, tmp_path / "whole", [one], record=True)
    begin, stopped = Steps.begin, [STEPS + WARM_UP + 2]

    def interrupted(self, epoch, step, students):
        stopped[0] -= 1
        if stopped[0] == 0:
            raise KillError
        return begin(self, epoch, step, students)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "begin", interrupted)
        with pytest.raises(KillError):
            trained(monkeypatch, tmp_path / "broken", [one], record=True)
    resumed = trained(monkeypatch, tmp_path / "broken", [[*one, "resume=true"]], record=True)
    assert_same(resumed, whole)


def test_other_students_stay_recorded_when_one_fails(tmp_path, monkeypatch, common):
    """Two students cannot use the recording of three."""
    alone = trained(monkeypatch, tmp_path / "alone", [[*common, "loss=kd"]], record=False)
    plans = [plan(*common, "loss=kd", f"output={tmp_path / 'both'}")]
    plans += [plan(*common, "loss=mse", "loss.weights.mse=1e30", f"output={tmp_path / 'both'}")]
    for one in plans:
        one.cfg.cuda_graph = True
    monkeypatch.setattr("kdbench.runs.execute.CudaGraph", Tape)
    fine, failed = run_cohort(plans)
    assert fine.error is None
    assert "not finite" in str(failed.error)
    ours = {fine.folder.path.name: load_file(fine.folder.path / "student.safetensors")}
    assert_same(ours, alone)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["loss=kd"], "the run is on a CPU"),
        (["loss=crd"], "crd draws random numbers by the step"),
        (["loss=mlkd"], "strong views"),
        (["loss=kd", "schedule.algorithm=adamw"], "is not recorded, sgd is"),
        (["dataset=cqa_lm", "teacher=lm_small", "student=lm_tiny", "loss=fkl"], "batches of task=lm"),
    ],
)
def test_unrecordable_run_is_refused_before_it_starts(words, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        plan("cuda_graph=true", "trainer=cpu", *words)
    assert "cuda_graph=false" in str(refused.value)


def test_steps_are_recorded_again_only_while_a_weight_ramps():
    loss = recipe_loss("dkd")
    ramp = loss.ramps["dkd"]
    assert of_epoch(loss, ramp - 1) != of_epoch(loss, ramp) == of_epoch(loss, ramp + 1)


def test_recording_that_reads_a_value_fails():
    def peek() -> torch.Tensor:
        numbers = torch.arange(4.0)
        return numbers[numbers > 1] * float(numbers.sum())

    with pytest.raises(HostReadError):
        Tape().record(peek)


# ---- on the meta device: transfers from or to the host fail


DEVICE = "meta"
"""Tensors on it have shapes only, so reading a value fails. Autograd supports it without streams."""


class HostTensorError(Exception):
    """A host tensor is an input of work on the device; a recording would read it only once."""


class Strict(TorchDispatchMode):
    """Refuses host tensors, except scalars, together with device tensors."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        devices = {
            leaf.device.type
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.dim()
        }
        outputs = function(*args, **kwargs or {})
        devices |= {
            leaf.device.type for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.dim()
        }
        if len(devices) > 1:
            raise HostTensorError(str(function))
        return outputs


class NoNewTensors(TorchFunctionMode):
    """Refuses copies of Python numbers to the device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        makes = function in (torch.tensor, torch.as_tensor, torch.from_numpy)
        if makes and not isinstance(args[0], torch.Tensor):
            raise HostTensorError(function.__name__)
        return function(*args, **kwargs or {})


class Rerun:
    """Runs work instead of recording it."""

    def warm_up(self, work):
        with NoNewTensors(), Strict():
            return work()


@pytest.mark.parametrize("recipe", RECORDED)
def test_recorded_step_runs_on_the_device_only(tmp_path, monkeypatch, common, recipe):
    one = plan(*common, f"loss={recipe}")
    data, loss = one.data, one.loss
    assert isinstance(data, ImageData)
    data.setup("fit")
    teacher = live_teacher("resnet14", 4, one.cfg.teacher.checkpoint)
    student = Student(create_model("resnet8", 4), loss, one.schedule, one.task)
    student.setup(teacher, data.probe_batch(), data.dataset_info, seed=0)
    data.draw(1, 0)
    drawn = data._epoch
    assert drawn is not None
    for module in (student, teacher):
        module.to(DEVICE)
    for name in _RESIDENT:
        setattr(data, name, torch.empty_like(getattr(data, name), device=DEVICE))
    data._epoch = _Epoch(1, torch.empty_like(drawn.rows, device=DEVICE), drawn.starts)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.1, momentum=0.9, foreach=True
    )  # fused is refused there
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    steps = Steps(data, teacher, 0, False, torch.Tensor.backward, Rerun)
    steps.ready(student, optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    for step in range(2):
        values = steps.take(student, optimizer, steps.begin(1, step, [student]))
    assert values["total"].device.type == DEVICE
