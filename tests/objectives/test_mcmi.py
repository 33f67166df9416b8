import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.core.objective import DatasetInfo, ExtraForward, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.class_information import (
    class_centroids,
    conditional_mutual_information,
    normalise_rows,
)
from kdbench.losses.composite import Loss
from kdbench.objectives.mcmi import MCMI, mcmi_loss
from tests.objectives.cases import TARGET, TEACHER, assert_same, normal, value_and_gradient

CENTROIDS = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]], dtype=torch.float64)


def by_definition(logits: Tensor, target: Tensor, centroids: Tensor) -> Tensor:
    """Probabilities and their logarithms, row by row."""
    rows = []
    for row, label in zip(logits, target, strict=True):
        p = row.softmax(0)
        rows.append(sum(p[k] * (p[k].log() - centroids[label, k].log()) for k in range(len(p))))
    return torch.stack(rows).mean()


def bound(objective: MCMI, classes: int) -> MCMI:
    nothing = Outputs(torch.zeros(1, classes))
    objective.setup(
        torch.nn.Identity(),
        torch.nn.Identity(),
        Probes(nothing, nothing),
        DatasetInfo(classes, TARGET, TARGET),
    )
    return objective


def labelled(seed: int, rows: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return normal(seed, rows, classes), torch.randint(classes, (rows,), generator=generator)


def test_worked_values():
    """X37, X38, X39: the cross-entropy, the CMI, and the loss at lambda = 0.25."""
    objective = bound(MCMI(), 3)
    objective.centroids = CENTROIDS
    total, parts = Loss({"ce": 1.0, "mcmi": 0.25}, {"mcmi": objective})(
        Outputs(TEACHER), None, Batch(torch.zeros(2, 1), TARGET, torch.arange(2))
    )
    assert parts["ce"].item() == pytest.approx(0.159387355709, abs=1e-9)
    assert conditional_mutual_information(TEACHER, TARGET, CENTROIDS).item() == pytest.approx(
        0.064654734212, abs=1e-9
    )
    assert parts["mcmi"].item() == pytest.approx(-0.064654734212, abs=1e-9)
    assert total.item() == pytest.approx(0.143223672156, abs=1e-9)


def test_by_hand():
    """Two rows of one class with answers (3/4, 1/4) and (1/4, 3/4): the mean is (1/2, 1/2)."""
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]], dtype=torch.float64)
    target = torch.zeros(2, dtype=torch.int64)
    centroids = class_centroids(logits, target, 2)
    assert centroids.tolist() == [[pytest.approx(0.5)] * 2] * 2, "and a class without rows is uniform"
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert conditional_mutual_information(logits, target, centroids).item() == pytest.approx(
        by_hand, rel=1e-12
    )


def test_value_and_gradient_are_the_definitions():
    logits, target = labelled(0, 6, 5)
    centroids = class_centroids(normal(1, 40, 5), torch.arange(40) % 5, 5)
    assert_same(
        lambda z: mcmi_loss(z, target, centroids), lambda z: -by_definition(z, target, centroids), logits
    )


def test_the_centroids_carry_no_gradient():
    logits, target = labelled(0, 6, 5)
    leaf = logits.clone().requires_grad_()
    own = class_centroids(leaf, target, 5)
    assert own.requires_grad
    mcmi_loss(leaf, target, own).backward()
    _, fixed = value_and_gradient(lambda z: mcmi_loss(z, target, own.detach()), logits)
    assert torch.equal(leaf.grad, fixed)


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(2, 8))
def test_centroids_are_the_class_means(seed, rows, classes):
    logits, target = labelled(seed, rows, classes)
    centroids = class_centroids(logits, target, classes)
    torch.testing.assert_close(centroids.sum(1), torch.ones(classes, dtype=torch.float64))
    for label in range(classes):
        mine = logits[target == label].softmax(1)
        expected = mine.mean(0) if len(mine) else torch.full((classes,), 1 / classes, dtype=torch.float64)
        torch.testing.assert_close(centroids[label], expected)


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(2, 8))
def test_it_lies_between_nothing_and_the_entropy_of_the_answers_and_other_centroids_give_more(
    seed, rows, classes
):
    """0 <= I(X; Yhat | Y) <= H(Yhat | Y) <= ln C; against others it is larger by the divergence of the class means."""
    logits, target = labelled(seed, rows, classes)
    own = class_centroids(logits, target, classes)
    value = conditional_mutual_information(logits, target, own)
    assert -1e-12 <= value <= math.log(classes) + 1e-12
    other = class_centroids(*labelled(seed + 1, 20, classes), classes)
    drift = sum((own[label] * (own[label] / other[label]).log()).sum() for label in target) / rows
    torch.testing.assert_close(conditional_mutual_information(logits, target, other), value + drift)


def test_an_answer_that_no_centroid_foresees_is_finite():
    """The centroid's probability is 0 in floating point."""
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    centroids = torch.tensor([[0.0, 1.0, 0.0]] * 3)
    value = mcmi_loss(logits, torch.tensor([0]), centroids)
    value.backward()
    assert value.item() == pytest.approx(math.log(1e-30), rel=1e-6)
    assert logits.grad.isfinite().all()


def test_when_it_asks_whom():
    offline, epoch, ema = (bound(MCMI(mode, per_class=3), 4) for mode in ("offline", "epoch", "ema"))
    answers = [labelled(0, 12, 4)]
    for objective in (offline, epoch, ema):
        assert objective.extra_forward(1) == ExtraForward()
        objective.receive_extra_forward(1, answers)
    assert (offline.extra_forward(1), epoch.extra_forward(1), ema.extra_forward(1)) == (
        None,
        None,
        ExtraForward(per_class=3),
    )
    assert (offline.extra_forward(2), epoch.extra_forward(2), ema.extra_forward(2)) == (
        None,
        ExtraForward(),
        ExtraForward(per_class=3),
    )
    assert bound(MCMI(train_mode=True), 4).extra_forward(1) == ExtraForward(train_mode=True)


def test_a_survey_in_batches_is_the_survey_at_once():
    logits, target = labelled(3, 50, 6)
    objective = bound(MCMI(), 6)
    objective.receive_extra_forward(1, zip(logits.split(8), target.split(8), strict=True))
    torch.testing.assert_close(objective.centroids, class_centroids(logits, target, 6))


def test_the_moving_average_moves_the_classes_that_were_drawn():
    objective = bound(MCMI("ema", decay=0.9), 3)
    first, target = labelled(0, 30, 3)
    objective.receive_extra_forward(1, [(first, target)])
    before = class_centroids(first, target, 3)
    drawn, labels = normal(1, 4, 3), torch.tensor([0, 0, 2, 2])
    objective.receive_extra_forward(1, [(drawn, labels)])
    expected = before.clone()
    for label in (0, 2):
        expected[label] = 0.9 * before[label] + 0.1 * drawn[labels == label].softmax(1).mean(0)
    torch.testing.assert_close(objective.centroids, expected / expected.sum(1, keepdim=True))


def test_what_it_knows_is_in_the_state_dict():
    objective, other = bound(MCMI("epoch"), 4), bound(MCMI("epoch"), 4)
    objective.receive_extra_forward(3, [labelled(0, 12, 4)])
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other.centroids, objective.centroids)
    assert other.extra_forward(3) is None
    assert other.extra_forward(4) is not None


def test_normalised_rows():
    assert normalise_rows(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"mode": "online"}, "offline, epoch or ema"),
        ({"per_class": 0}, "per_class"),
        ({"decay": 1.0}, "decay"),
        ({"decay": math.nan}, "decay"),
    ],
)
def test_refuses(parameters, words):
    with pytest.raises(ValueError, match=words):
        MCMI(**parameters)
