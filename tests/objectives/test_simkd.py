import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.models.features import answer
from kdbench.models.registry import create_model
from kdbench.objectives.simkd import SimKD, simkd_loss
from tests.objectives.cases import assert_same, bound, normal, sides

BATCH = Batch(torch.zeros(4), torch.arange(4), torch.arange(4))
WEIGHT, BIAS = normal(5, 3, 8), normal(6, 1, 3)[0]


def maps(seed: int, channels: int, size: int) -> Tensor:
    return normal(seed, 4, channels * size * size).view(4, channels, size, size)


def ours(features: Tensor) -> Outputs:
    return Outputs(torch.zeros(len(features), 3), {"stage3": features})


def theirs(features: Tensor, bias: Tensor | None = BIAS) -> Outputs:
    return Outputs(torch.zeros(len(features), 3), {"unpooled": features}, (WEIGHT, bias))


def made(student: Outputs, teacher: Outputs, factor: int = 2) -> SimKD:
    objective, none = SimKD(factor), torch.zeros(0, dtype=torch.int64)
    objective.student_features, objective.teacher_features = ("stage3",), ("unpooled",)
    objective.setup(nn.Identity(), nn.Identity(), Probes(student, teacher), DatasetInfo(3, none, none))
    return objective.double()


def projected(objective: SimKD, features: Tensor) -> Tensor:
    """Convolution, BatchNorm with the batch's own statistics, ReLU: three times."""
    for convolution, padding in zip((0, 3, 6), (0, 1, 0), strict=True):
        raw = F.conv2d(features, objective.projector[convolution].weight, padding=padding)
        features = F.batch_norm(raw, None, None, training=True).relu()
    return features


def test_the_mean_square_by_hand():
    assert simkd_loss(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.0, 5.0]]]])) == 5.0


@pytest.mark.parametrize(("student_size", "teacher_size"), [(4, 4), (4, 2), (2, 4)])
def test_value_and_gradient_are_the_formulas(student_size, teacher_size):
    student, teacher = maps(0, 5, student_size), maps(1, 8, teacher_size)
    objective = made(ours(student), theirs(teacher))

    def formula(features: Tensor) -> Tensor:
        smaller = min(student_size, teacher_size)
        features = F.avg_pool2d(features, student_size // smaller)
        target = F.avg_pool2d(teacher, teacher_size // smaller)
        return ((projected(objective, features) - target) ** 2).mean()

    assert_same(lambda s: objective(ours(s), theirs(teacher), BATCH), formula, student)


@pytest.mark.parametrize("bias", [BIAS, None])
@pytest.mark.parametrize(("student_size", "teacher_size"), [(4, 2), (2, 4)])
def test_predicts_with_the_teachers_classifier(student_size, teacher_size, bias):
    student, teacher = maps(0, 5, student_size), maps(1, 8, teacher_size)
    objective = made(ours(student), theirs(teacher, bias))
    features = F.avg_pool2d(student, student_size // min(student_size, teacher_size))
    expected = F.linear(projected(objective, features).mean((2, 3)), WEIGHT, bias)
    torch.testing.assert_close(objective.predict(ours(student)), expected)


def test_a_student_at_zero_loss_answers_as_the_teacher():
    """That is what the method is for: the map that is matched is the one that the teacher's classifier averages."""
    record = "unpooled"
    for name in ("resnet20", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2"):
        teacher = create_model(name, num_classes=5).eval()
        with torch.no_grad():
            answered = answer(teacher, torch.randn(4, 3, 32, 32), [record])
        objective = SimKD().eval()
        objective.student_features = objective.teacher_features = (record,)
        none = torch.zeros(0, dtype=torch.int64)
        objective.setup(nn.Identity(), teacher, Probes(answered, answered), DatasetInfo(5, none, none))
        objective.projector = nn.Sequential(nn.Identity())
        assert objective(answered, answered, BATCH) == 0
        torch.testing.assert_close(objective.predict(answered), answered.logits)


def test_what_the_test_needs_is_counted_and_the_head_is_frozen():
    case = sides()
    objective = bound(SimKD(), case)
    assert objective.owns_predict
    inner, channels = 32, 64
    norms = 2 * (inner + inner + channels)
    projector = channels * inner + 9 * inner * inner + inner * channels + norms
    head = channels * 10 + 10
    assert sum(p.numel() for p in objective.parameters()) == projector + head
    assert sum(p.numel() for p in objective.parameters() if p.requires_grad) == projector
    assert torch.equal(objective.head.weight, case.teacher.classifier[0].float().double())


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\[7, 2, 2\].* 8 inputs"):
        made(ours(maps(0, 5, 4)), theirs(maps(1, 7, 2)))
    with pytest.raises(ValueError, match="one linear layer"):
        made(ours(maps(0, 5, 4)), Outputs(torch.zeros(4, 3), {"unpooled": maps(1, 8, 2)}))
    with pytest.raises(
        ValueError, match=r"factor must be at most 8, the channels of the teacher's last map, got 9"
    ):
        made(ours(maps(0, 5, 4)), theirs(maps(1, 8, 2)), factor=9)
    with pytest.raises(ValueError, match=r"SimKD: factor .*0"):
        SimKD(0)
