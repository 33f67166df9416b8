import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.at import at_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 97, dtype=torch.float64).sin().view(2, 3, 4, 4)
TEACHER = (torch.arange(1, 41, dtype=torch.float64) / 2).cos().view(2, 5, 2, 2)


def maps(seed: int, *shape: int) -> Tensor:
    return normal(seed, shape[0], shape[1] * shape[2] * shape[3]).view(shape)


def attention(row: Tensor) -> Tensor:
    """Of one image [C, H, W], position by position."""
    flat = row.reshape(len(row), -1)
    energy = torch.stack([(flat[:, p] ** 2).sum() / len(row) for p in range(flat.shape[1])])
    return energy / (energy @ energy).sqrt()


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    """Of one stage whose maps have one size."""
    rows = [(attention(s) - attention(t)) ** 2 for s, t in zip(student, teacher, strict=True)]
    return torch.stack(rows).sum() / torch.stack(rows).numel()


def test_worked_value():
    """X43."""
    assert at_loss([STUDENT], [TEACHER]).item() == pytest.approx(0.075396585502, abs=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((3, 4, 4, 4), (3, 2, 4, 4)), ((3, 4, 6, 6), (3, 5, 3, 3)), ((2, 3, 2, 2), (2, 3, 8, 8))],
)
def test_value_and_gradient_are_the_formulas(ours, theirs):
    """Two stages, of other channels and sizes."""
    teacher, second, ratio = maps(1, *theirs), maps(2, *ours), ours[2] / theirs[2]

    def two_stages(s: Tensor) -> Tensor:
        t = teacher if ratio >= 1 else F.avg_pool2d(teacher, int(1 / ratio))
        pooled = s if ratio <= 1 else F.avg_pool2d(s, int(ratio))
        return formula(pooled, t) + formula(s[:, :2], second)

    assert_same(
        lambda s: at_loss([s, s[:, :2]], [teacher, second]),
        two_stages,
        maps(0, *ours),
    )


@given(st.integers(0, 2**31), st.floats(1e-2, 1e2))
def test_only_where_a_map_is_strong_counts(seed, scale):
    """Neither the scale of a map nor the order and the signs of its channels."""
    student, teacher = maps(seed, 2, 3, 4, 4), maps(seed + 1, 2, 5, 4, 4)
    value = at_loss([student], [teacher])
    assert value > 0
    torch.testing.assert_close(at_loss([-scale * student], [teacher[:, [4, 2, 0, 1, 3]]]), value)
    assert at_loss([scale * teacher], [teacher]).abs() < 1e-20


@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_finite_where_a_map_is_constant(level, side):
    student, teacher = maps(0, 2, 3, 4, 4).float(), maps(1, 2, 3, 4, 4).float()
    (student if side == "student" else teacher)[0] = level
    value, gradient = value_and_gradient(lambda s: at_loss([s], [teacher]), student)
    exact = at_loss([student.double()], [teacher.double()])
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-7)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1.0


def test_refuses_unequal_numbers_of_stages():
    with pytest.raises(ValueError, match="zip"):
        at_loss([STUDENT, STUDENT], [TEACHER])
