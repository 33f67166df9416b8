import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.rkd import RKD, rkd_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 13, dtype=torch.float64).sin().view(3, 4)
TEACHER = (torch.arange(1, 13, dtype=torch.float64) / 2).cos().view(3, 4)


def smooth(gap: Tensor) -> Tensor:
    return torch.where(gap.abs() < 1, gap**2 / 2, gap.abs() - 0.5)


def distances(rows: Tensor) -> Tensor:
    n = range(len(rows))
    cells = [[(rows[i] - rows[j]).norm() if i != j else rows.new_zeros(()) for j in n] for i in n]
    matrix = torch.stack([torch.stack(cell) for cell in cells])
    return matrix / (matrix.sum() / (len(rows) * (len(rows) - 1)))


def cosine(rows: Tensor, i: int, j: int, k: int) -> Tensor:
    """Of the angle at row i, from normalised differences."""
    if i in (j, k):
        return rows.new_zeros(())
    a, b = rows[j] - rows[i], rows[k] - rows[i]
    return (a / a.norm()) @ (b / b.norm())


def formula(student: Tensor, teacher: Tensor, distance: float, angle: float) -> Tensor:
    n = len(student)
    triplets = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    angles = [smooth(cosine(student, *at) - cosine(teacher, *at)) for at in triplets]
    pairs = smooth(distances(student) - distances(teacher))
    return distance * pairs.sum() / n**2 + angle * torch.stack(angles).sum() / n**3


@pytest.mark.parametrize(
    ("weights", "value"),
    [((25, 50), 0.147895823966), ((1, 0), 0.001436487360), ((0, 1), 0.002239672799)],
)
def test_worked_values(weights, value):
    """X46 and its parts."""
    assert rkd_loss(STUDENT, TEACHER, *weights).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_value_and_gradient_are_the_formulas(weights):
    """Of vectors of other widths, one row far away: both branches of the smooth L1."""
    student, teacher = normal(0, 5, 4), normal(1, 5, 7)
    student[0] += 40.0
    assert (distances(student) - distances(teacher)).abs().max() > 1
    assert_same(lambda s: rkd_loss(s, teacher, *weights), lambda s: formula(s, teacher, *weights), student)


@given(st.integers(0, 2**31), st.floats(0.1, 10.0))
def test_only_the_shape_of_the_batch_counts(seed, scale):
    """Moved, turned and scaled it is the same; of itself it is the minimum."""
    student, teacher = normal(seed, 4, 6), normal(seed + 1, 4, 9)
    rotation = torch.linalg.qr(normal(seed + 2, 6, 6)).Q
    moved = scale * student @ rotation + normal(seed + 3, 1, 6)
    torch.testing.assert_close(rkd_loss(moved, teacher), rkd_loss(student, teacher))
    assert rkd_loss(moved, student) < 1e-15 < rkd_loss(student, teacher)


def test_equal_rows_do_not_count():
    """Three copies of a batch are worth the batch, and have a third of the gradient."""
    student, teacher = normal(0, 4, 6), normal(1, 4, 9)
    once = value_and_gradient(lambda s: rkd_loss(s, teacher), student)
    thrice = value_and_gradient(lambda s: rkd_loss(s, teacher.repeat(3, 1)), student.repeat(3, 1))
    torch.testing.assert_close(thrice, (once[0], once[1].repeat(3, 1) / 3))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_finite_where_all_rows_are_equal(rows, side):
    student, teacher = normal(0, rows, 6).float(), normal(1, rows, 6).float()
    student = student if side == "teacher" else student[:1].expand(rows, 6)
    teacher = teacher if side == "student" else teacher[:1].expand(rows, 6)
    value, gradient = value_and_gradient(lambda s: rkd_loss(s, teacher), student)
    assert value == 0 if rows == 1 or side == "both" else value > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("gap", "offset"),
    [(1e-2, 0.0), (1e-2, 1e4), (1e-3, 1e4), (1e-4, 0.0), (1e-4, 1e2), (1e-5, 0.0), (1e-5, 1e2)],
)
def test_float32_is_precise_where_two_rows_nearly_meet(offset, gap):
    student, teacher = (offset + normal(0, 16, 64)).float(), (offset + normal(1, 16, 64)).float()
    student[1] = student[0] + gap * normal(2, 1, 64)[0].float()
    single = value_and_gradient(lambda s: rkd_loss(s, teacher), student)
    exact = value_and_gradient(lambda s: rkd_loss(s, teacher.double()), student.double())
    torch.testing.assert_close(single[0].double(), exact[0], rtol=1e-6, atol=0)
    assert (single[1].double() - exact[1]).norm() < 1e-5 * exact[1].norm()


def test_no_product_of_all_triplets_and_dimensions_is_kept():
    """The backward pass keeps a few tensors of N^2 (N + D) numbers, none of N^3 D."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        rkd_loss(normal(0, 16, 64).requires_grad_(), normal(1, 16, 64))
    assert max(kept) <= 16 * 16 * 64


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"distance_weight": -1.0}, "distance_weight"), ({"angle_weight": math.nan}, "angle_weight")],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=f"RKD: {named}"):
        RKD(**wrong)
