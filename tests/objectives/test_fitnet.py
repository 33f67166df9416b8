import pytest
import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.objectives.fitnet import FitNet, fitnet_loss
from tests.objectives.cases import assert_same, normal

NETWORK = nn.Identity()
FACTS = DatasetInfo(2, torch.zeros(4, dtype=torch.int64), torch.arange(4))
BATCH = Batch(inputs=torch.zeros(4, 3), target=torch.zeros(4, dtype=torch.int64), index=torch.arange(4))


def side(*shape: int, seed: int = 0, record: str = "stage2") -> Outputs:
    maps = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    return Outputs(torch.zeros(4, 2), {record: maps})


def bound(student: Outputs, teacher: Outputs, hint: int = 2) -> FitNet:
    objective = FitNet(hint)
    objective.setup(NETWORK, NETWORK, Probes(student, teacher), FACTS)
    return objective


def test_two_elements_by_hand():
    assert fitnet_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 3.0]])).item() == (9 + 1) / 2


def test_value_and_gradient_are_the_formulas():
    student, teacher = normal(0, 2, 24).view(2, 3, 4, 2), normal(1, 2, 24).view(2, 3, 4, 2)

    def formula(s: Tensor) -> Tensor:
        return sum((a - b) ** 2 for a, b in zip(s.flatten(), teacher.flatten(), strict=True)) / 48

    assert_same(lambda s: fitnet_loss(s, teacher), formula, student)


@pytest.mark.parametrize(
    ("ours", "theirs", "kernel"),
    [
        ((3, 4, 4), (3, 4, 4), 1),
        ((3, 4, 4), (5, 4, 4), 1),
        ((3, 8, 8), (5, 4, 4), 3),
        ((3, 4, 4), (5, 8, 8), 4),
        ((6, 7, 7), (2, 4, 4), 4),
    ],
)
def test_serves_other_channels_and_sizes(ours, theirs, kernel):
    student, teacher = side(*ours), side(*theirs, seed=1)
    objective = bound(student, teacher)
    assert objective.regressor[0].kernel_size == (kernel, kernel)
    assert objective.regressor(student.features["stage2"]).shape == (4, *theirs)
    objective(student, teacher, BATCH).backward()
    for name, parameter in objective.named_parameters():
        # the BatchNorm that follows takes a constant out again: the convolution's bias has nothing to learn
        assert name == "regressor.0.bias" or parameter.grad.abs().sum() > 0, name


def test_is_the_squared_error_of_the_rectified_regression():
    student, teacher = side(3, 4, 4), side(5, 4, 4, seed=1)
    objective = bound(student, teacher)
    convolution, norm = objective.regressor[0], objective.regressor[1].eval()
    regressed = norm(convolution(student.features["stage2"])).clamp(min=0)
    expected = (regressed - teacher.features["stage2"]).square().mean()
    torch.testing.assert_close(objective(student, teacher, BATCH), expected)


def test_learns_a_linear_hint():
    """The regressor alone can bring the value down to what is left: the negative part that ReLU cannot reach."""
    student = side(3, 4, 4)
    teacher = Outputs(student.logits, {"stage2": 2 * student.features["stage2"].relu()})
    torch.manual_seed(0)
    objective = bound(student, teacher)
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.05)
    first = objective(student, teacher, BATCH).item()
    for _ in range(200):
        optimiser.zero_grad()
        objective(student, teacher, BATCH).backward()
        optimiser.step()
    assert objective(student, teacher, BATCH).item() < 0.02 * first


def test_takes_the_stage_that_is_named():
    student, teacher = side(3, 4, 4, record="stage3"), side(5, 2, 2, seed=1, record="stage3")
    assert bound(student, teacher, hint=3)(student, teacher, BATCH).isfinite()


def test_refuses_a_map_that_no_regressor_reaches():
    with pytest.raises(ValueError, match=r"\[3, 2, 2\].*\[5, 8, 8\]"):
        bound(side(3, 2, 2), side(5, 8, 8))


@pytest.mark.parametrize("hint", [0, -1])
def test_refuses_a_hint(hint):
    with pytest.raises(ValueError, match=f"FitNet: hint .* {hint}"):
        FitNet(hint)
