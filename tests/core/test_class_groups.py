"""Groups of classes in scores."""

from kdbench.core.class_groups import describe_groups


def test_groups_are_described_in_their_order():
    text = describe_groups({"kept": 60.0, "top1": 50.0, "omitted": 1.5})
    assert text == ", omitted classes 1.50 %, kept classes 60.00 %"
    assert describe_groups({"top1": 50.0}) == ""
