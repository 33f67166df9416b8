"""Measured accuracies against a published value."""

import pytest

from kdbench.reports.compare import compare
from kdbench.reports.published import Published, Value

VALUE = Value("cifar100", "a:b", "kd", "", 70.0, 0.3, 3)
SOURCE = Published("a log", "verified", "last epoch", 240)


def test_the_difference_is_measured_minus_published():
    match = compare([70.0, 71.0], [72.0, 73.0], 240, VALUE, SOURCE)
    assert (match.compared, match.delta, match.selection) == ("last", pytest.approx(0.5), "last epoch")
    assert match.z == pytest.approx(0.5 / (0.03 + 0.25) ** 0.5)
    assert match.reason == ""


@pytest.mark.parametrize(
    ("source", "best", "epochs", "difference", "reason"),
    [
        (
            Published("a", "secondary", "last epoch", 240),
            [1.0],
            240,
            "",
            "published by others than the authors",
        ),
        (SOURCE, [1.0], None, "", "epochs: unknown here, 240 in the source"),
        (SOURCE, [1.0], 240, "schedule.lr=0.1, not 0.05", "here schedule.lr=0.1, not 0.05"),
        (Published("a", "verified", "best epoch", 240), [], 240, "", "no best epoch on test here"),
    ],
)
def test_incomparable_values_have_a_reason(source, best, epochs, difference, reason):
    match = compare([70.0], best, epochs, VALUE, source, difference)
    assert (match.delta, match.z, match.reason) == (None, None, reason)
