import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from kdbench.metrics.classification import Scores, confidence


def drawn(rows=997, classes=7, scale=2.0):
    draw = torch.Generator().manual_seed(0)
    return scale * torch.randn(rows, classes, generator=draw), torch.randint(classes, (rows,), generator=draw)


def scored(logits, target, size=100):
    scores = Scores(logits.shape[1])
    for rows in torch.arange(len(target)).split(size):
        scores.add(logits[rows], target[rows])
    return scores.compute()


def test_gathered_over_chunks():
    logits, target = drawn()
    found = scored(logits, target)
    assert set(found) == {"top1", "top5", "ece", "nll"}
    assert found["nll"] == pytest.approx(log_loss(target, F.softmax(logits.double(), dim=1)), abs=1e-5)
    expected = multiclass_calibration_error(F.softmax(logits, dim=1), target, 7, n_bins=15)
    assert found["ece"] == pytest.approx(100 * expected.item(), abs=1e-3)
    assert scored(logits, target, size=997) == pytest.approx(found, abs=1e-4)


def test_a_second_use_starts_again():
    logits, target = drawn()
    scores = Scores(7)
    for rows in (slice(0, 500), slice(500, 997)):
        scores.add(logits[rows], target[rows], teacher=logits[rows])
        found = scores.compute()
        assert found == pytest.approx(scored(logits[rows], target[rows]) | {"agreement": 100}, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_answers_are_in_the_last_of_15_bins(dtype):
    """torchmetrics has a bin of its own for a probability of 1, which made the error too large."""
    logits = torch.tensor([[1e3, 0.0], [4.0, 0.0]], dtype=dtype)
    sure, right = confidence(logits, torch.tensor([0, 1]))
    assert sure[0] < 1
    assert sure[0] == np.nextafter(np.ones(1, np.dtype(str(dtype).removeprefix("torch."))), 0)[0]
    assert right.tolist() == [1, 0]
    mean = (1 + F.softmax(logits[1], dim=0)[0].item()) / 2
    assert scored(logits.float(), torch.tensor([0, 1]))["ece"] == pytest.approx(100 * (mean - 0.5), abs=1e-3)


def test_what_is_no_number_is_said_and_breaks_nothing():
    found = scored(torch.full((4, 3), float("nan")), torch.zeros(4, dtype=torch.int64))
    assert np.isnan(found["nll"])
