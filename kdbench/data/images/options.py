"""Options that all image data sets share, and their checks."""

from collections.abc import Sequence
from typing import Required

from kdbench.data.protocols.protocol import ProtocolOptions
from kdbench.utils.validation import check_at_least, check_non_negative


class ImageOptions(ProtocolOptions, total=False):
    """Keyword arguments of `ImageData` that every image data set accepts."""

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
    """Raise ValueError for sizes that are too small, or if mean and std do not describe three channels."""
    check_at_least("dataset", 1, batch_size=batch_size, eval_batch_size=eval_batch_size)
    check_non_negative("dataset", validation=validation, padding=padding)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"dataset: mean and std must have 3 numbers, std positive ones, got {mean} and {std}"
        )
