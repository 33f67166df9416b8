"""LTKD: the exact decomposition of the KL, what is changed in it, and the groups by frequency."""

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.core.objective import DatasetInfo
from kdbench.functional.class_groups import groups_by_frequency
from kdbench.functional.divergences import kl
from kdbench.objectives.ltkd import LTKD, decouple_groups, ltkd_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, normal, pairs

GROUP = torch.tensor([2, 0, 1, 0, 2, 1, 2])


def formula(student: Tensor, teacher: Tensor, cross: float, within: float, t: float) -> Tensor:
    """On probabilities, one row and one group after the other."""
    q, p = (student / t).softmax(1), (teacher / t).softmax(1)
    members = [g == GROUP for g in range(3)]
    masses = torch.stack([p[:, m].sum(1) for m in members], dim=1)
    balanced = masses / masses.mean(0)
    balanced = balanced / balanced.sum(1, keepdim=True)
    total = torch.zeros((), dtype=student.dtype)
    for i in range(len(q)):
        for g, m in enumerate(members):
            total = total + cross * balanced[i, g] * (balanced[i, g] / q[i, m].sum()).log()
            a, b = p[i, m] / p[i, m].sum(), q[i, m] / q[i, m].sum()
            total = total + within * (a * (a / b).log()).sum() / 3
    return t**2 * total / len(q)


@given(pairs())
def test_the_divergence_is_that_across_and_those_within_groups(pair):
    """KL(p||q) = KL(P||Q) + sum_g P_g KL(p|g || q|g), row by row, to 1e-12."""
    student, teacher = pair
    group = torch.arange(student.shape[1]) % 2
    log_masses_q, log_q = decouple_groups(student, group, 2)
    log_masses_p, log_p = decouple_groups(teacher, group, 2)
    within = sum(log_masses_p[:, g].exp() * kl(log_p[:, group == g], log_q[:, group == g]) for g in range(2))
    whole = kl(teacher.log_softmax(1), student.log_softmax(1))
    torch.testing.assert_close(kl(log_masses_p, log_masses_q) + within, whole, rtol=1e-12, atol=1e-12)


def test_by_hand():
    """A uniform student; two rows whose teacher gives 3/4 and 1/4, then 1/4 and 3/4, to the groups."""
    teacher = torch.tensor([[3.0, 0.5, 0.5], [1.0, 1.5, 1.5]], dtype=torch.float64).log()
    group = torch.tensor([0, 1, 1])
    value = ltkd_loss(torch.zeros_like(teacher), teacher, group, 2, temperature=1.0)
    across = [0.75 * math.log(0.75 / q) + 0.25 * math.log(0.25 / (1 - q)) for q in (1 / 3, 2 / 3)]
    assert value.item() == pytest.approx(sum(across) / 2, abs=1e-12)


@pytest.mark.parametrize(("cross", "within", "t"), [(1.0, 1.0, 4.0), (2.0, 0.0, 1.0), (0.0, 3.0, 2.0)])
def test_value_and_gradient_are_the_formulas(cross, within, t):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(
        lambda s: ltkd_loss(s, teacher, GROUP, 3, cross, within, t),
        lambda s: formula(s, teacher, cross, within, t),
        student,
    )


def test_a_teacher_biased_towards_a_group_teaches_the_same():
    """Where the rows agree, the masses are balanced whatever was added to all logits of a group."""
    rows = normal(0, 1, 7).repeat(4, 1), normal(1, 1, 7).repeat(4, 1)
    bias = torch.tensor([-3.0, 5.0, 0.0], dtype=torch.float64)[GROUP]
    student = normal(2, 4, 7)
    torch.testing.assert_close(ltkd_loss(student, rows[0], GROUP), ltkd_loss(student, rows[0] + bias, GROUP))


@given(pairs(max_classes=7))
def test_a_constant_added_to_a_row_changes_nothing(pair):
    group = torch.arange(pair[0].shape[1]) % 2
    assert_shift_invariant(lambda s, z: ltkd_loss(s, z, group, 2), pair)


def test_a_group_far_below_the_others_is_still_told_apart():
    student, teacher = normal(0, 4, 7), normal(1, 4, 7)
    low = torch.where(GROUP == 1, -1e4, 0.0).double()
    exact = ltkd_loss(student, teacher, GROUP, cross=0.0)
    single = ltkd_loss((student + low).float(), (teacher + low).float(), GROUP, cross=0.0)
    torch.testing.assert_close(single.double(), exact, rtol=2e-3, atol=0)


def test_groups_by_frequency():
    counts = torch.tensor([5, 100, 20, 21, 101, 500, 5])
    assert groups_by_frequency(counts, 3).tolist() == [2, 0, 1, 1, 0, 0, 2]
    assert groups_by_frequency(counts, 3, [100, 20]).tolist() == [2, 1, 2, 1, 0, 0, 2]


@pytest.mark.parametrize(
    ("options", "groups"),
    [({}, [0, 1]), ({"groups": 2, "thresholds": [1]}, [0, 1]), ({"groups": 2, "thresholds": [0]}, [0, 0])],
)
def test_only_the_trained_images_count_and_empty_groups_go(options, groups):
    """Class 1 is the more frequent one, but not among the images that are trained on: two of class 0, one of 1."""
    objective = LTKD(**options)
    dataset_info = DatasetInfo(2, torch.tensor([0, 1, 1, 1, 0]), torch.tensor([0, 1, 4]))
    objective.setup(None, None, None, dataset_info)
    assert objective.group.tolist() == groups
    assert objective.groups == len(set(groups))


@pytest.mark.parametrize(
    "wrong",
    [{"groups": 0}, {"cross": -1.0}, {"within": math.inf}, {"temperature": 0.0}, {"thresholds": [20, 100]},
     {"thresholds": [20]}],
)  # fmt: skip
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LTKD(**wrong)
