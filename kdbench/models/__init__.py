"""The networks, by name, with named taps; checkpoints in kdbench's own and in the official format.

Importing the package imports each of its files, so a new network is one new file that calls `register`.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

from kdbench.models.catalog import check_name, create_model, pretrained  # noqa: E402
from kdbench.models.checkpoints import load_weights, save_weights, weights_hash  # noqa: E402
from kdbench.models.network import available  # noqa: E402
from kdbench.models.taps import answer, answer_batch, classifier, tap_names  # noqa: E402

__all__ = [
    "answer",
    "answer_batch",
    "available",
    "check_name",
    "classifier",
    "create_model",
    "load_weights",
    "pretrained",
    "save_weights",
    "tap_names",
    "weights_hash",
]
