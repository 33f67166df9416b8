"""What every data set of images takes, and the check of it."""

from collections.abc import Sequence
from typing import Required

from kdbench.data.protocols.protocol import ProtocolOptions


class ImageOptions(ProtocolOptions, total=False):
    """What every data set of images takes beside arguments of its own, and hands on to `ImageData`."""

    seed: Required[int]
    batch_size: Required[int]
    validation: int
    validation_seed: int
    padding: int
    eval_batch_size: int


def check_options(
    batch_size: int,
    eval_batch_size: int,
    validation: int,
    padding: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """ValueError for sizes that are too small, and for statistics that are not those of three channels."""
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("eval_batch_size", eval_batch_size, 1),
        ("validation", validation, 0),
        ("padding", padding, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std need 3 numbers, those of std above 0, got {mean} and {std}")
