"""Options of a data set that make a run another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NEUTRAL = ("path", "eval_batch_size", "readers", "tokenizer", "quality_samples")
"""Options that never change the weights. A tokenizer enters the hash of the data by what it does, not by its place."""

_SWITCHES: Mapping[str, tuple[Any, str]] = {
    "imbalance": (1, "imbalance_seed"),
    "label_noise": (0, "label_noise_seed"),
    "omit_classes": ([], "omit"),
}
"""Options of a protocol: the value that switches each off, and the option that has no effect then."""


def identity_options(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a data set that belong to the identity of a run.

    Args:
        dataset: The resolved section `dataset` of a configuration.
    """
    options = {key: value for key, value in dataset.items() if key not in _NEUTRAL}
    for split in ("train", "test"):  # a file enters the hash of the data by its contents
        if isinstance(options.get(split), str):
            options.pop(split)
    if options.get("further"):
        options["further"] = sorted(options["further"])
    for option, (off, dependent) in _SWITCHES.items():
        if options.get(option, off) == off:
            options.pop(option, None)
            options.pop(dependent, None)
    if "omit_classes" in options:
        options["omit_classes"] = sorted(options["omit_classes"], key=str)
    subset = dict(options.pop("subset", {}))
    if subset.get("mode") == "first":
        subset.pop("seed", None)
    return {**options, "subset": subset} if subset.get("fraction", 1) < 1 else options
