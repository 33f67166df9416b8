import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss
from kdbench.objectives.kd import KD, kd_loss


class Constant(Objective):
    """A term of a fixed value with a learnable part made in bind."""

    paper = Paper("none", 2026)

    def __init__(self, value: float = 2.0) -> None:
        super().__init__()
        self.value = value

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        self.scale = nn.Parameter(torch.full((probes.student.logits.shape[1],), self.value))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        return self.scale.mean()


class Head(Objective):
    """A term that answers for the student at evaluation."""

    paper = Paper("none", 2026)
    owns_predict = True

    def predict(self, student: Outputs) -> torch.Tensor:
        return -student.logits

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        return student.logits.sum()


@pytest.fixture
def sides():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator) for _ in range(2))
    target = torch.arange(6) % 5
    return (
        Outputs(student.requires_grad_()),
        Outputs(teacher),
        Batch(student, target, torch.arange(6), epoch=5),
    )


def test_the_total_is_the_weighted_sum_of_its_parts(sides):
    student, teacher, batch = sides
    total, parts = Loss({"ce": 0.1, "kd": 0.9}, {"kd": KD(temperature=4.0)})(student, teacher, batch)
    ce, kd = F.cross_entropy(student.logits, batch.target), kd_loss(student.logits, teacher.logits)
    assert torch.allclose(total, 0.1 * ce + 0.9 * kd)
    assert torch.allclose(parts["ce"], ce)
    assert torch.allclose(parts["kd"], kd)
    assert not parts["kd"].requires_grad


def test_a_ramp_rises_linearly_from_epoch_one(sides):
    loss = Loss({"ce": 1.0, "kd": 2.0}, {"kd": KD()}, ramps={"kd": 20})
    assert [loss.weight("kd", epoch) for epoch in (1, 5, 20, 100)] == pytest.approx([0.1, 0.5, 2.0, 2.0])
    total, parts = loss(*sides)
    assert torch.allclose(total, parts["ce"] + 0.5 * parts["kd"])


def test_an_unweighted_part_is_watched_but_cannot_spoil_the_total(sides):
    loss = Loss({"ce": 1.0, "endless": 0.0}, {"endless": Constant(float("inf"))})
    loss.setup(
        nn.Identity(),
        nn.Identity(),
        Probes(*sides[:2]),
        DatasetInfo(5, torch.arange(10) % 5, torch.arange(10)),
        seed=0,
    )
    total, parts = loss(*sides)
    assert torch.isfinite(total)
    assert torch.isinf(parts["endless"])


def test_what_bind_makes_is_learned_and_stored(sides):
    loss = Loss({"ce": 1.0, "constant": 1.0}, {"constant": Constant()})
    loss.setup(
        nn.Identity(),
        nn.Identity(),
        Probes(*sides[:2]),
        DatasetInfo(5, torch.arange(10) % 5, torch.arange(10)),
        seed=0,
    )
    assert [name for name, _ in loss.named_parameters()] == ["objectives.constant.scale"]
    loss(*sides)[0].backward()
    assert loss.terms["constant"].scale.grad is not None


def test_the_maths_is_float32_whatever_comes_in(sides):
    student, teacher, batch = sides
    low = Outputs(student.logits.bfloat16()), Outputs(teacher.logits.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        total, parts = Loss({"ce": 0.1, "kd": 0.9}, {"kd": KD()})(*low, batch)
    assert total.dtype == parts["kd"].dtype == torch.float32


def test_one_objective_may_own_the_prediction(sides):
    student, _, _ = sides
    assert torch.equal(
        Loss({"ce": 1.0})(student, None, sides[2])[1]["ce"], F.cross_entropy(student.logits, sides[2].target)
    )
    assert torch.equal(Loss({"head": 1.0}, {"head": Head()}).predict(student), -student.logits)
    with pytest.raises(ValueError, match="a and b both do"):
        Loss({"a": 1.0, "b": 1.0}, {"a": Head(), "b": Head()})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"ce": 1.0, "kdd": 1.0}, {"kd": KD()}), "loss.weights names kdd; this loss has ce, kd"),
        (({"ce": 1.0}, {"kd": KD()}), "no weight for kd"),
        (({"ce": 0.0}, {}), "nothing would be learned"),
        (({"ce": 1.0}, {}, {"dkd": 20}), "loss.ramps names dkd"),
        (({"ce": 1.0}, {}, {"ce": 0}), "loss.ramps.ce must be at least 1 epoch"),
    ],
)
def test_impossible_sums_say_what_is_wrong(arguments, words):
    with pytest.raises(ValueError) as caught:
        Loss(*arguments)
    assert words in str(caught.value)


def test_objectives_without_a_teacher_are_refused(sides):
    with pytest.raises(ValueError, match="which need a teacher"):
        Loss({"kd": 1.0}, {"kd": KD()})(sides[0], None, sides[2])
