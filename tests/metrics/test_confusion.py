import torch

from kdbench.metrics.confusion import confusion, largest_confusions, per_class

NAMES = ("ant", "bee", "cat", "dog")
TARGET = torch.tensor([0, 0, 0, 0, 1, 1, 2])
PREDICTED = torch.tensor([0, 1, 1, 2, 1, 0, 2])


def counts():
    return confusion(torch.nn.functional.one_hot(PREDICTED, 4).double(), TARGET)


def test_first_axis_is_the_true_class():
    assert counts().tolist() == [[1, 2, 1, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_per_class_accuracy_is_none_without_rows():
    assert [(row["class"], row["count"], row["accuracy"]) for row in per_class(counts(), NAMES)] == [
        ("ant", 4, 25),
        ("bee", 2, 50),
        ("cat", 1, 100),
        ("dog", 0, None),
    ]


def test_largest_confusions_are_sorted_and_exclude_correct_predictions():
    pairs = largest_confusions(counts(), NAMES)
    assert [(row["true"], row["predicted"], row["count"], row["share"]) for row in pairs] == [
        ("ant", "bee", 2, 50),
        ("ant", "cat", 1, 25),
        ("bee", "ant", 1, 50),
    ]
    assert len(largest_confusions(counts(), NAMES, largest=1)) == 1
