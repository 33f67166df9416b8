import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.objectives import crd
from kdbench.objectives.crd import CRD, crd_loss
from tests.objectives.cases import assert_same, normal

LABELS = torch.tensor([2, 0, 1, 0, 3, 2]).repeat(10)
"""Twenty samples of class 0, ten of 1, twenty of 2, ten of 3."""
INDEX = torch.tensor([0, 3, 8, 11, 16])
BATCH = Batch(INDEX, LABELS[INDEX], INDEX, epoch=3, step=7)


def answer(features: Tensor) -> Outputs:
    return Outputs(features.new_zeros(len(features), 4), {"pooled": features})


SIDES = answer(normal(0, 5, 6)), answer(normal(1, 5, 9))


def bound(labels: Tensor = LABELS, trained: Tensor | None = None, **parameters) -> CRD:
    objective = CRD(**{"dimension": 8, "negatives": 12, **parameters})
    dataset_info = DatasetInfo(4, labels, torch.arange(len(labels)) if trained is None else trained)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective.setup(nn.Identity(), nn.Identity(), Probes(*SIDES), dataset_info)
    return objective.double()


def formula(scores: Tensor, train_size: int) -> Tensor:
    """With the probability h that a sample comes from the data, not from the noise."""
    noise = (scores.shape[1] - 1) / train_size
    h = scores / (scores + noise + 1e-7)
    not_h = noise / (scores + noise + 1e-7)
    return -(h[:, 0].log() + not_h[:, 1:].log().sum(1)).mean()


def transcription(objective: CRD, student: Tensor) -> Tensor:
    """Both directions by copying out what is drawn, differentiated as usual; the mean is that of a first batch."""
    rows, total = objective.draw_rows(BATCH), torch.zeros((), dtype=torch.float64)
    anchors = objective.student_embedding(student), objective.teacher_embedding(SIDES[1].features["pooled"])
    settled = objective.normaliser.flip(0)
    for anchor, memory, normaliser in zip(anchors, objective.memory.clone().flip(0), settled, strict=True):
        cosine = (F.normalize(anchor, dim=1)[:, None] * memory[rows]).sum(2)
        scores = (cosine / objective.temperature).exp()
        first = scores.mean().detach() * objective.memory.shape[1]
        total = total + formula(scores / (normaliser or first), objective.memory.shape[1])
    return total


def test_worked_value():
    """X52."""
    scores = torch.tensor([[2.0, 0.5, 0.1], [1.5, 0.2, 0.4]], dtype=torch.float64)
    assert crd_loss(scores, 10).item() == pytest.approx(1.835230932863, abs=1e-9)


def test_the_contrast_is_the_formula():
    assert_same(lambda s: crd_loss(s.exp(), 50), lambda s: formula(s.exp(), 50), normal(0, 4, 9))


def test_float32_adds_up_thousands_of_small_terms():
    scores = torch.full((2, 16385), 1e-4, dtype=torch.float64)
    torch.testing.assert_close(crd_loss(scores.float(), 50000).double(), formula(scores, 50000))


@pytest.mark.parametrize("negatives", [1, 3, 12, 100])
@pytest.mark.parametrize("positives", ["exact", "relax"])
def test_value_and_gradients_are_the_formulas(negatives, positives, monkeypatch):
    """All inner products at once from 3 negatives on; else copied out, two rows at a time."""
    monkeypatch.setattr(crd, "_FLOATS_AT_ONCE", 2 * 2 * 8)
    objective = bound(negatives=negatives, positives=positives).eval()
    objective.normaliser += torch.tensor([70.0, 90.0])

    def ours(student: Tensor) -> Tensor:
        return objective(answer(student), SIDES[1], BATCH)

    assert_same(ours, lambda s: transcription(objective, s), SIDES[0].features["pooled"])
    grads = [
        torch.autograd.grad(value, list(objective.parameters()))
        for value in (
            ours(SIDES[0].features["pooled"]),
            transcription(objective, SIDES[0].features["pooled"]),
        )
    ]
    torch.testing.assert_close(*grads)


def test_training_moves_the_rows_seen_and_fixes_the_normaliser_once():
    objective = bound()
    before, own = objective.memory.clone(), objective.place[INDEX]
    value = objective(*SIDES, BATCH)
    torch.testing.assert_close(value, transcription(bound(), SIDES[0].features["pooled"]))
    value.backward()  # although the memories have moved on
    embedded = F.normalize(objective.student_embedding(SIDES[0].features["pooled"]), dim=1)
    expected = F.normalize(0.5 * before[0, own] + 0.5 * embedded, dim=1)
    torch.testing.assert_close(objective.memory[0, own], expected.detach())
    others = torch.ones(60, dtype=torch.bool).index_fill(0, own, False)
    assert torch.equal(objective.memory[:, others], before[:, others])
    normaliser = objective.normaliser.clone()
    assert (normaliser > 0).all()
    assert normaliser[0] != normaliser[1]
    objective(SIDES[0], answer(-SIDES[1].features["pooled"]), BATCH)
    assert torch.equal(objective.normaliser, normaliser)


def test_evaluation_remembers_nothing():
    objective = bound().eval()
    before = copy.deepcopy(objective.state_dict())
    objective(*SIDES, BATCH)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_a_restored_state_goes_on_as_if_nothing_had_happened():
    first, resumed = bound(), bound(LABELS.flip(0).flip(0))
    first(*SIDES, BATCH)
    torch.manual_seed(5)
    resumed.load_state_dict(first.state_dict())
    later = replace(BATCH, epoch=4)
    assert torch.equal(first(*SIDES, later), resumed(*SIDES, later))


def drawn_labels(objective: CRD, batch: Batch = BATCH) -> Tensor:
    """The labels [N, 1 + K] of what is drawn."""
    sample_of = objective.place.argsort()  # those beyond the end last
    return LABELS[sample_of[objective.draw_rows(batch)]]


def test_negatives_are_of_other_classes_each_sample_as_often():
    objective = bound(negatives=100_000)
    labels = drawn_labels(objective)
    assert torch.equal(labels[:, 0], BATCH.target)
    assert (labels[:, 1:] != BATCH.target[:, None]).all()
    for row, target in zip(objective.draw_rows(BATCH)[:, 1:], BATCH.target, strict=True):
        others = 60 - int((target == LABELS).sum())
        frequencies = torch.bincount(row, minlength=60) * others / 100_000
        assert (frequencies > 0).sum() == others
        assert ((frequencies - 1).abs() < 0.1).logical_or(frequencies == 0).all()


def test_over_steps_every_column_is_uniform_and_two_are_independent():
    objective, index = bound(negatives=3), (LABELS == 2).nonzero()[:, 0]
    batch = Batch(index, LABELS[index], index)
    draws = torch.cat([objective.draw_rows(replace(batch, step=step))[:, 1:] for step in range(300)])
    expected = len(draws) / (60 - 20)
    for column in draws.T:
        counts = torch.bincount(column, minlength=60).double()
        counts = counts[counts > 0]
        assert len(counts) == 40
        assert ((counts - expected) ** 2 / expected).sum() < 40 + 4 * math.sqrt(2 * 40)
    correlation = torch.corrcoef(draws.T.double()).fill_diagonal_(0)
    assert (correlation.abs() < 4 / math.sqrt(len(draws))).all()


def test_what_is_drawn_depends_on_epoch_step_and_sample_alone():
    objective, order = bound(), torch.tensor([4, 0, 3, 1, 2])
    drawn = objective.draw_rows(BATCH)
    shuffled = replace(BATCH, index=INDEX[order], target=BATCH.target[order])
    assert torch.equal(objective.draw_rows(shuffled), drawn[order])
    for other in (replace(BATCH, epoch=4), replace(BATCH, step=8)):
        assert (objective.draw_rows(other)[:, 1:] != drawn[:, 1:]).float().mean() > 0.5


def test_relaxed_positives_are_any_of_the_class():
    objective = bound(positives="relax")
    drawn = [replace(BATCH, step=step) for step in range(150)]
    assert all(torch.equal(drawn_labels(objective, batch)[:, 0], BATCH.target) for batch in drawn)
    seen = torch.stack([objective.draw_rows(batch)[:, 0] for batch in drawn])
    assert [len(column.unique()) for column in seen.T] == [(y == LABELS).sum() for y in BATCH.target]


def test_knows_only_what_is_trained_on():
    trained = torch.arange(60)[torch.arange(60) % 7 != 5]
    objective = bound(trained=trained)
    assert objective.memory.shape == (2, len(trained), 8)
    sample_of = objective.place.argsort()
    assert set(sample_of[objective.draw_rows(BATCH)].flatten().tolist()) <= set(trained.tolist())
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        objective(*SIDES, replace(BATCH, index=INDEX + 5))


@pytest.mark.parametrize("labels", [torch.ones(9, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)])
def test_refuses_fewer_than_two_classes(labels):
    with pytest.raises(ValueError, match="at least two"):
        bound(labels)


@pytest.mark.parametrize(
    ("name", "value"),
    [("dimension", 0), ("negatives", 0), ("temperature", 0.0), ("temperature", math.inf), ("momentum", 1.0)]
    + [("momentum", -0.1), ("positives", "some")],
)
def test_refuses(name, value):
    with pytest.raises(ValueError, match=f"CRD: {name} .*{value}"):
        CRD(**{name: value})
