import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from kdbench.metrics.classification import ClassificationScores, confidence


def sample(rows=997, classes=7, scale=2.0):
    draw = torch.Generator().manual_seed(0)
    return scale * torch.randn(rows, classes, generator=draw), torch.randint(classes, (rows,), generator=draw)


def scores_of(logits, target, size=100):
    scores = ClassificationScores(logits.shape[1])
    for rows in torch.arange(len(target)).split(size):
        scores.add(logits[rows], target[rows])
    return scores.compute()


def test_scores_do_not_depend_on_chunks():
    logits, target = sample()
    scores = scores_of(logits, target)
    assert set(scores) == {"top1", "top5", "ece", "nll"}
    assert scores["nll"] == pytest.approx(log_loss(target, F.softmax(logits.double(), dim=1)), abs=1e-5)
    expected = multiclass_calibration_error(F.softmax(logits, dim=1), target, 7, n_bins=15)
    assert scores["ece"] == pytest.approx(100 * expected.item(), abs=1e-3)
    assert scores_of(logits, target, size=997) == pytest.approx(scores, abs=1e-4)


def test_compute_resets():
    logits, target = sample()
    metric = ClassificationScores(7)
    for rows in (slice(0, 500), slice(500, 997)):
        metric.add(logits[rows], target[rows], teacher=logits[rows])
        assert metric.compute() == pytest.approx(
            scores_of(logits[rows], target[rows]) | {"agreement": 100}, abs=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_predictions_are_in_the_last_of_15_bins(dtype):
    """torchmetrics would put a probability of 1 into a bin of its own, which increases the error."""
    logits = torch.tensor([[1e3, 0.0], [4.0, 0.0]], dtype=dtype)
    top1, right = confidence(logits, torch.tensor([0, 1]))
    assert top1[0] < 1
    assert top1[0] == np.nextafter(np.ones(1, np.dtype(str(dtype).removeprefix("torch."))), 0)[0]
    assert right.tolist() == [1, 0]
    mean = (1 + F.softmax(logits[1], dim=0)[0].item()) / 2
    assert scores_of(logits.float(), torch.tensor([0, 1]))["ece"] == pytest.approx(
        100 * (mean - 0.5), abs=1e-3
    )


def test_nan_logits_give_nan_nll():
    scores = scores_of(torch.full((4, 3), float("nan")), torch.zeros(4, dtype=torch.int64))
    assert np.isnan(scores["nll"])
