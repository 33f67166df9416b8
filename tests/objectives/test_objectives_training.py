"""Every objective trains on real images, and lowers its own measure against the same seed without it.

Slow. The measure is taken in train mode of the objective's own parts, on held-out images; of an objective that knows
images by their index (crd), on training images without augmentation. Without it means: the same run, in which the
objective sees the student without gradient, so that its parts learn as well as they can, and the student learns of the
labels alone.
"""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from kdbench.core.objective import Probes
from kdbench.core.records import records
from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss
from kdbench.models.features import answer_batch, feature_names
from kdbench.models.registry import create_model
from kdbench.objectives import available
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import Plan, first_stage, make_plan
from kdbench.teachers.live import LiveTeacher, live_teacher
from kdbench.utils.paths import CONF_DIR
from tests.helpers.composition import compose_checked
from tests.objectives.cases import of_all

register()
pytestmark = pytest.mark.slow

OBJECTIVES = [entry.name for entry in available() if "images" in entry.tasks]
COMMON = ["threads=1", "progress=false", "trainer=cpu", "schedule.epochs=2", "evaluate_every=2"]
# the published weights are for batch 64 and a learning rate of 0.05
COMMON += ["dataset=cifar100_mini", "schedule=quick", "schedule.lr=0.05", "schedule.batch_size=64"]
SAME = ["teacher=resnet20", "teacher.checkpoint=shipped", "student=resnet8"]
OTHER = ["teacher=resnet20", "teacher.checkpoint=shipped", "student=vgg8"]
# 26 steps are too few to recover from a larger rate
OTHER += ["dataset.validation=1600", "schedule.batch_size=32", "schedule.lr=0.01"]
REFUSED = {"fsp": "same width", "ab": "no regressor leads", "vitkd": "token grids must agree"}
"""Objectives that cannot serve the second pair, and what they say of it."""


class Measure:
    """Runs of one pair, and what an objective is worth on images that were held out."""

    def __init__(self, pair: list[str], output: Path) -> None:
        self.pair, self.output = pair, output

    def make_plan(self, *more: str) -> Plan:
        overrides = [*COMMON, *self.pair, f"output={self.output}", *more]
        choices = dict(item.split("=", 1) for item in overrides)
        return make_plan(compose_checked("train", overrides), choices)

    def trained(self, plan: Plan) -> tuple[Plan, dict]:
        """The plan whose objective is measured, and the state that its run left."""
        run(plan)
        stage = bool(plan.loss.stage) and not plan.loss.terms
        measured = first_stage(plan) if stage else plan
        (folder,) = [
            path
            for path, record in records(Path(plan.cfg.output))
            if record["config"]["loss"] == measured.config["loss"]
            and (record["is_stage"], record["seed"]) == (stage, plan.cfg.seed)
        ]
        return measured, torch.load(folder / "state.pt", weights_only=True)

    def worth(self, name: str, plan: Plan, state: dict) -> float:
        """The objective with the student and the parts of this state, averaged over batches."""
        teacher = self.teacher(plan)
        data, loss = plan.data, plan.loss
        data.setup("fit")
        student = create_model(plan.network["name"], data.num_classes)
        fresh = Loss({name: 1.0}, {name: copy.deepcopy(loss.terms[name])}, standardise=loss.standardise)
        _bind(fresh, student, teacher, data)
        fresh.load_state_dict(state["loss"])
        student.load_state_dict(state["model"])
        student.train()  # statistics of the batch: after a few steps the running ones are those of the start
        values = []
        for batch in self.batches(fresh, data):
            with torch.no_grad():
                answers = (
                    answer_batch(student, batch, fresh.student_features),
                    teacher(batch, fresh.teacher_features),
                )
                values.append(float(copy.deepcopy(fresh)(*answers, batch)[1][name]))
        return sum(values) / len(values)

    def batches(self, loss: Loss, data) -> Iterator[Batch]:
        if any("index" in term.needs for term in loss.terms.values()):
            plain = data.probe(256).split(64)
            for number, images in enumerate(plain):
                index = data.dataset_info.trained[64 * number : 64 * number + len(images)]
                yield Batch(images, data.dataset_info.labels[index], index, epoch=2)
            return
        for start in range(0, 512, 64):
            batch = data.eval_batch("test", start, start + 64)
            views = {"strong": batch.inputs.flip(-1)} if loss.views else {}
            yield Batch(batch.inputs, batch.target, batch.index, epoch=2, views=views)

    @cache  # noqa: B019 - as long as the module's tests
    def _teacher(self, name: str, checkpoint: str) -> LiveTeacher:
        from kdbench.teachers.store import locate

        file = locate(name, "cifar100", checkpoint, str)
        return live_teacher(name, 100, str(file))

    def teacher(self, plan: Plan) -> LiveTeacher:
        return self._teacher(plan.cfg.teacher.name, plan.cfg.teacher.checkpoint)


def _bind(loss: Loss, student, teacher: LiveTeacher, data) -> None:
    loss.choose_features(feature_names(student), feature_names(teacher.model))
    nothing = torch.zeros(4, dtype=torch.int64)
    batch = Batch(data.probe(), nothing, nothing)
    with torch.no_grad():
        sides: list[Outputs] = [
            answer_batch(student.eval(), batch, loss.student_features),
            teacher(batch, loss.teacher_features),
        ]
    loss.setup(student, teacher.model, Probes(*sides), data.dataset_info, seed=0)


def blind(plan: Plan) -> Plan:
    """The plan with objectives whose gradient ends at the student's answers."""
    loss = plan.loss.stage.loss if plan.loss.stage and not plan.loss.terms else plan.loss
    for term in loss.terms.values():
        seeing = term.forward
        term.forward = lambda s, t, b, seeing=seeing: seeing(of_all(s, torch.Tensor.detach), t, b)
    loss.weights.setdefault("ce", 1.0)
    loss.weights["ce"] = loss.weights["ce"] or 1.0  # mse, simkd
    return plan


def untrained(plan: Plan) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_model(plan.network["name"], 100).state_dict()


def lowers_its_measure(name: str, measure: Measure) -> None:
    """Training is chaotic, and other CPUs round differently: one of two seeds is enough."""
    values = []
    for seed in (0, 1):
        with_it, without = compare(name, measure, seed)
        values.append((with_it, without))
        if with_it < without:
            return
    raise AssertionError(f"{name}: (with it, without) by seed: {values}")


def compare(name: str, measure: Measure, seed: int) -> tuple[float, float]:
    staged = "\nstage:" in (CONF_DIR / "loss" / f"{name}.yaml").read_text()
    recipe = [f"loss={name}", *(["loss.stage.epochs=2"] if staged else [])]
    if name == "ft":  # the published rate of its stage for vgg students is too large for resnet20's features
        recipe.append("loss.stage.lr=0.01")
    if "ramps:" in (CONF_DIR / "loss" / f"{name}.yaml").read_text():
        recipe.append(f"loss.ramps.{name}=1")  # two epochs of a rise over 20 are next to nothing
    common = [f"seed={seed}"]
    plan, state = measure.trained(measure.make_plan(*recipe, *common))
    if any(parameter.requires_grad for parameter in plan.loss.terms[name].parameters()):
        output = f"output={measure.output / name}"
        _, alone = measure.trained(blind(measure.make_plan(*recipe, *common, output)))
    else:  # the objective has nothing to learn: compare with cross-entropy alone, or without one with no training
        alone = {"model": untrained(plan), "loss": state["loss"]}
        if plan.loss.weights.get("ce") and name != "sinkd":  # whose small weights need more than two epochs
            alone["model"] = measure.trained(measure.make_plan("loss=ce", *common))[1]["model"]
    assert all(value.isfinite().all() for value in state["model"].values())
    with_it, without = (measure.worth(name, plan, one) for one in (state, alone))
    return with_it, without


@pytest.fixture(scope="module")
def same(tmp_path_factory) -> Measure:
    return Measure(SAME, tmp_path_factory.mktemp("same"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Measure:
    return Measure(OTHER, tmp_path_factory.mktemp("other"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_resnet20_to_resnet8(name, same):
    lowers_its_measure(name, same)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_resnet20_to_vgg8_on_400_images(name, other):
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            lowers_its_measure(name, other)
    else:
        lowers_its_measure(name, other)
