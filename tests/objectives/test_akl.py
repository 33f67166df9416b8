import pytest
import torch
from hypothesis import given

from kdbench.objectives.akl import AKL, akl_loss
from kdbench.objectives.fkl import fkl_loss
from kdbench.objectives.rkl import rkl_loss
from tests.objectives.cases import assert_shift_invariant, pairs, value_and_gradient
from tests.objectives.token_cases import STUDENT, TEACHER, assert_float32_is_close, vocabulary

ROWS = [0, 1, 2, 4]
"""Those in which the two sides differ."""


def official(student, teacher):
    """The published code, row by row, on lists."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = t.softmax(0), s.softmax(0)
        order = sorted(range(len(p)), key=lambda c: -p[c].item())
        mass, head, tail = 0.0, 0.0, 0.0
        for place, c in enumerate(order):
            mass += p[c].item()
            gap = (p[c] - q[c]).abs().item()
            if mass > 0.5 and place > 0:
                tail += gap
            else:
                head += gap
        share = head / (head + tail)
        total = total + share * (p * (p / q).log()).sum() + (1 - share) * (q * (q / p).log()).sum()
    return total / len(student)


def test_value_and_gradient_are_the_published_ones():
    """Without the row in which the published code divides 0 by 0."""
    ours = value_and_gradient(lambda s: akl_loss(s, TEACHER[ROWS]), STUDENT[ROWS])
    theirs = value_and_gradient(lambda s: official(s, TEACHER[ROWS]), STUDENT[ROWS])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_row_where_both_agree_adds_nothing():
    value, gradient = value_and_gradient(lambda s: akl_loss(s, TEACHER), STUDENT)
    assert value.item() == pytest.approx(akl_loss(STUDENT[ROWS], TEACHER[ROWS]).item() * 4 / 5, abs=1e-9)
    assert gradient[3].abs().max() < 1e-12
    assert akl_loss(TEACHER, TEACHER) == 0
    assert value_and_gradient(lambda s: akl_loss(s, TEACHER), TEACHER)[1].isfinite().all()


@given(pairs())
def test_lies_between_the_two_divergences_of_each_row(pair):
    for student, teacher in zip(*pair, strict=True):
        row = student[None], teacher[None]
        ends = fkl_loss(*row).item(), rkl_loss(*row).item()
        assert min(ends) - 1e-9 <= akl_loss(*row).item() <= max(ends) + 1e-9


@given(pairs())
def test_all_in_the_head_is_the_forward_divergence(pair):
    torch.testing.assert_close(akl_loss(*pair, head=1.0), fkl_loss(*pair))


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(akl_loss, pair)


def test_the_weights_carry_no_gradient_and_float32_is_close():
    student, teacher = vocabulary()
    assert_float32_is_close(lambda s: akl_loss(s, teacher), lambda s: akl_loss(s, teacher.float()), student)
    p, q = teacher.softmax(1), student.softmax(1)
    share = (akl_loss_rows(student, teacher) - rkl_rows(p, q)) / (rkl_rows(q, p) - rkl_rows(p, q))
    weighted = value_and_gradient(
        lambda s: (share * rkl_rows(s.softmax(1), p) + (1 - share) * rkl_rows(p, s.softmax(1))).mean(),
        student,
    )
    torch.testing.assert_close(value_and_gradient(lambda s: akl_loss(s, teacher), student), weighted)


def akl_loss_rows(student, teacher):
    return torch.stack([akl_loss(s[None], t[None]) for s, t in zip(student, teacher, strict=True)])


def rkl_rows(p, q):
    """KL(q || p) of each row."""
    return (q * (q / p).log()).sum(1)


@pytest.mark.parametrize("head", [-0.1, 1.1, float("nan")])
def test_refuses(head):
    with pytest.raises(ValueError, match="head"):
        AKL(head)
