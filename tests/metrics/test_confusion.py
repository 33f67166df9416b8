import torch

from kdbench.metrics.confusion import confusion, largest_confusions, per_class

NAMES = ("ant", "bee", "cat", "dog")
TARGET = torch.tensor([0, 0, 0, 0, 1, 1, 2])
PREDICTED = torch.tensor([0, 1, 1, 2, 1, 0, 2])


def counted():
    return confusion(torch.nn.functional.one_hot(PREDICTED, 4).double(), TARGET)


def test_rows_are_the_true_classes():
    assert counted().tolist() == [[1, 2, 1, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_accuracy_of_each_class_and_of_one_without_rows():
    assert [(row["class"], row["count"], row["accuracy"]) for row in per_class(counted(), NAMES)] == [
        ("ant", 4, 25),
        ("bee", 2, 50),
        ("cat", 1, 100),
        ("dog", 0, None),
    ]


def test_the_largest_confusions_come_first_and_right_answers_are_none():
    found = largest_confusions(counted(), NAMES)
    assert [(row["true"], row["predicted"], row["count"], row["share"]) for row in found] == [
        ("ant", "bee", 2, 50),
        ("ant", "cat", 1, 25),
        ("bee", "ant", 1, 50),
    ]
    assert len(largest_confusions(counted(), NAMES, largest=1)) == 1
