"""A teacher with random weights in a file, for runs in which what it answers does not matter."""

from pathlib import Path

import torch

from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model


def random_teacher(folder: Path, name: str, **about: str) -> str:
    """The override that gives it to a run on four classes."""
    path = folder / f"{name}.safetensors"
    torch.manual_seed(0)
    save_weights(create_model(name, 4), path, {"model": name, "num_classes": 4, **about})
    return f"teacher.checkpoint={path}"
