import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.nst import nst_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 97, dtype=torch.float64).sin().view(2, 3, 4, 4)
TEACHER = (torch.arange(1, 41, dtype=torch.float64) / 2).cos().view(2, 5, 2, 2)
SHAPES = [
    ((2, 3, 4, 4), (2, 5, 4, 4)),  # by channels
    ((2, 9, 2, 2), (2, 3, 2, 2)),  # by positions
    ((2, 3, 6, 6), (2, 4, 2, 2)),
    ((2, 6, 3, 3), (2, 2, 6, 6)),
]


def maps(seed: int, *shape: int) -> Tensor:
    return normal(seed, shape[0], shape[1] * shape[2] * shape[3]).view(shape)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """The mean over pairs of channels of one image's maps [C, P]."""
    cells = [(x / x.norm() @ (y / y.norm())) ** 2 for x in a for y in b]
    return torch.stack(cells).mean()


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    """Of one stage whose maps have one size."""
    rows = zip(student.flatten(2), teacher.flatten(2), strict=True)
    return torch.stack([kernel(t, t) + kernel(s, s) - 2 * kernel(s, t) for s, t in rows]).mean()


def pooled(a: Tensor, b: Tensor) -> Tensor:
    return F.avg_pool2d(a, a.shape[2] // b.shape[2]) if a.shape[2] > b.shape[2] else a


def test_worked_value():
    """X50."""
    assert nst_loss([STUDENT], [TEACHER]).item() == pytest.approx(0.816672334959, abs=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), SHAPES)
def test_value_and_gradient_are_the_formulas(ours, theirs):
    """Other channels and sizes, by either Gram matrix; two stages."""
    teacher, second = maps(1, *theirs), maps(2, 2, 3, *ours[2:])
    assert_same(
        lambda s: nst_loss([s, s[:, :2]], [teacher, second]),
        lambda s: formula(pooled(s, teacher), pooled(teacher, s)) + formula(s[:, :2], second),
        maps(0, *ours),
    )


@given(st.integers(0, 2**31), st.floats(0.1, 10.0), st.sampled_from([(3, 4, 4), (6, 2, 2)]))
def test_only_where_channels_fire_counts(seed, scale, shape):
    """Not their order, sign or strength; a side of itself is the minimum, 0."""
    student, teacher = maps(seed, 2, *shape), maps(seed + 1, 2, 5, *shape[1:])
    strength = scale * torch.tensor([1.0, -2.0, 3.0, -0.5, 1.5, -1.0])[: shape[0], None, None]
    changed = (strength * student).flip(1)
    value = nst_loss([student], [teacher])
    torch.testing.assert_close(nst_loss([changed], [teacher]), value)
    assert nst_loss([changed], [student]).abs() < 1e-12 < value


@pytest.mark.parametrize("level", [0.0, 1e-20, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(3, 4, 4), (6, 2, 2)])
def test_finite_where_channels_are_dead_or_constant(level, shape):
    """A dead channel's products are 0 and count in the means, as in the published code."""
    student, teacher = maps(0, 3, *shape).float(), maps(1, 3, *shape).float()
    student[:, 0], teacher[:, 1], student[1], teacher[2] = level, level, level, level
    value, gradient = value_and_gradient(lambda s: nst_loss([s], [teacher]), student)
    exact = nst_loss([student.double()], [teacher.double()])
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=0)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 10.0


def test_a_dead_channel_counts_in_the_means():
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]]]])
    assert nst_loss([student], [teacher]).item() == pytest.approx(1 + 1 / 9 - 2 / 3, rel=1e-6)


def test_float32_at_large_activations():
    student, teacher = (1e4 * maps(seed, 2, 8, 6, 6).relu().float() for seed in (0, 1))
    value, gradient = value_and_gradient(lambda s: nst_loss([s], [teacher]), student)
    exact = nst_loss([student.double()], [teacher.double()])
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=0)
    assert gradient.isfinite().all()


def test_refuses_unequal_numbers_of_stages():
    with pytest.raises(ValueError, match="zip"):
        nst_loss([STUDENT, STUDENT], [TEACHER])
