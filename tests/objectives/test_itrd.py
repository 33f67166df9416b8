import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.objectives.itrd import ITRD, correlation_loss, itrd_loss, mutual_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 13, dtype=torch.float64).sin().view(3, 4)
TEACHER = (torch.arange(1, 13, dtype=torch.float64) / 2).cos().view(3, 4)


def correlation_formula(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    rows, total = len(student), torch.zeros((), dtype=torch.float64)
    for s, t in zip(student.T, teacher.T, strict=True):
        c = (((s - s.mean()) / s.std()) * ((t - t.mean()) / t.std())).sum() / rows
        total = total + (c - 1).abs() ** (2 * alpha)
    return total.log() / math.log(2)


def mutual_formula(student: Tensor, teacher: Tensor) -> Tensor:
    squares = []
    for s, t in product(zip(student, teacher, strict=True), repeat=2):
        ours, theirs = (torch.cosine_similarity(a, b, dim=0) for a, b in zip(s, t, strict=True))
        # both traces are the number of rows: a row's cosine with itself is 1
        squares.append((ours / len(student)) ** 2 - (ours * theirs / len(student)) ** 2)
    return torch.stack(squares).sum()


def side(seed: int, width: int) -> Outputs:
    return Outputs(torch.zeros(5, 2), {"pooled": normal(seed, 5, width)})


def bound(student: Outputs, teacher: Outputs, **parameters: float) -> ITRD:
    objective, none = ITRD(**parameters), torch.zeros(0, dtype=torch.int64)
    objective.setup(nn.Identity(), nn.Identity(), Probes(student, teacher), DatasetInfo(2, none, none))
    return objective.double()


def batch(rows: int) -> Batch:
    return Batch(torch.zeros(rows), torch.arange(rows), torch.arange(rows))


def test_worked_values():
    """X53, X54."""
    assert correlation_loss(STUDENT, TEACHER, 1.01).item() == pytest.approx(2.352722662979, abs=1e-9)
    assert mutual_loss(STUDENT, TEACHER).item() == pytest.approx(0.152038604167, abs=1e-9)


@pytest.mark.parametrize("alpha", [1.01, 1.5])
def test_value_and_gradient_are_the_formulas(alpha):
    student, teacher, other = normal(0, 6, 4), normal(1, 6, 4), normal(2, 6, 7)
    assert_same(
        lambda s: correlation_loss(s, teacher, alpha),
        lambda s: correlation_formula(s, teacher, alpha),
        student,
    )
    assert_same(lambda s: mutual_loss(s, other), lambda s: mutual_formula(s, other), student)
    value = itrd_loss(normal(3, 6, 5), teacher, student, alpha, corr_weight=3.0, mi_weight=0.5)
    expected = 3 * correlation_formula(student, teacher, alpha)
    torch.testing.assert_close(value, expected + 0.5 * mutual_formula(normal(3, 6, 5), teacher))


def test_correlation_does_not_see_scale_and_shift_of_a_feature_nor_mutual_the_length_of_a_row():
    features, rows = torch.tensor([0.3, 2.0, 5.0, 1.0]), torch.tensor([[0.5], [3.0], [2.0]])
    moved = correlation_loss(STUDENT * features - 3 * features, TEACHER)
    torch.testing.assert_close(moved, correlation_loss(STUDENT, TEACHER))
    torch.testing.assert_close(mutual_loss(rows * STUDENT, TEACHER), mutual_loss(STUDENT, TEACHER))


@pytest.mark.parametrize("rows", [2, 3, 50])
def test_the_logarithm_stays_finite_on_the_teacher_itself(rows):
    """No correlation exceeds (N - 1) / N."""
    teacher = normal(0, rows, 4).float()
    value, gradient = value_and_gradient(lambda s: correlation_loss(s, teacher), teacher)
    assert value.item() == pytest.approx(math.log2(4 * rows**-3.0), abs=1e-3)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("student", [torch.zeros(3, 4), torch.ones(3, 4), normal(0, 1, 4).float()])
def test_what_does_not_vary_correlates_with_nothing(student):
    teacher = normal(1, len(student), 4).float()
    for loss, expected in ((correlation_loss, 2.0), (mutual_loss, None)):
        value, gradient = value_and_gradient(lambda s, loss=loss: loss(s, teacher), student)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert expected is None or value == expected


@pytest.mark.parametrize("width", [4, 7])
def test_the_mutual_term_sees_the_embedding_only_where_widths_differ(width):
    student, teacher = side(0, width), side(1, 4)
    objective = bound(student, teacher, mi_weight=0.5)
    ours, theirs = student.features["pooled"], teacher.features["pooled"]
    embedded = ours @ objective.embedding.weight.T + objective.embedding.bias
    value = objective(student, teacher, batch(5))
    expected = 2 * correlation_formula(embedded, theirs, 1.5)
    expected = expected + 0.5 * mutual_formula(ours if width == 4 else embedded, theirs)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0.5), ("alpha", math.nan), ("corr_weight", -1.0), ("mi_weight", math.inf)],
)
def test_refuses(name, value):
    with pytest.raises(ValueError, match=f"ITRD: {name} .*{value}"):
        ITRD(**{name: value})
