"""The teacher store: trained networks by label space and name, each with a card that describes its training."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from kdbench.core.errors import RunError
from kdbench.core.records import finished_run
from kdbench.models.checkpoints import save_weights
from kdbench.utils.atomic_io import write_atomically
from kdbench.utils.paths import home

SHIPPED = Path(__file__).parent / "shipped"

WEIGHTS = "student.safetensors"
"""The file in a run folder with the network of the last epoch."""


def stored(label_space: str, name: str) -> Path:
    """Return the file in the store for a teacher's weights, which may not exist."""
    return home() / "teachers" / label_space / f"{name.replace('/', '--')}.safetensors"


def shipped(label_space: str, name: str) -> Path:
    """Return the file in the package for a teacher's weights, which may not exist."""
    return SHIPPED / label_space / f"{name}.safetensors"


class MissingTeacherError(ValueError):
    """The store has no teacher of a name, and the command line names no other place."""

    def __init__(self, name: str, label_space: str, message: str) -> None:
        super().__init__(message)
        self.name, self.label_space = name, label_space


def locate(
    name: str,
    label_space: str,
    checkpoint: str | None,
    training_command: Callable[[], str],
    key: str = "teacher.checkpoint",
) -> Path:
    """Find the file with the weights of a teacher.

    Args:
        name: Full name, with the variant: `resnet56@mcmi-0.25`.
        label_space: Label space of the data.
        checkpoint: A file, a run folder, `store`, or `shipped` for the teachers of the package; None looks in the store
            and then in the package.
        training_command: Returns the command that trains the teacher, for messages.
        key: The key of the configuration that gave `checkpoint`.

    Raises:
        MissingTeacherError: There is no such teacher yet, and the command makes it.
        ValueError: There is no such file, run or teacher.
    """
    kept = {"store": stored(label_space, name), "shipped": shipped(label_space, name)}
    candidates = [*kept.values()] if checkpoint is None else [kept.get(checkpoint) or Path(checkpoint)]
    if candidates[0].is_dir():
        return finished_run(candidates[0])[0] / WEIGHTS
    for path in candidates:
        if path.is_file():
            return path
    if checkpoint is not None and checkpoint not in kept:
        raise ValueError(f"{key}={checkpoint}: there is no such file or folder")
    command = training_command()
    looked = " and ".join(str(path) for path in candidates)
    message = (
        f"no teacher {name} for {label_space}: looked for {looked}. Train it with\n"
        f"  {command}\n"
        f"or give a checkpoint of your own: {key}=FILE, or store it: kdbench evaluate checkpoint=FILE store={name} ..."
    )
    if checkpoint in (None, "store") and "..." not in command:
        raise MissingTeacherError(name, label_space, message)
    raise ValueError(message)


def check_free(label_space: str, name: str, hashes: dict[str, str] | None) -> None:
    """Check that the store has no teacher of this name from another run.

    Raises:
        ValueError: It has one.
    """
    card = stored(label_space, name).with_suffix(".json")
    if card.is_file() and json.loads(card.read_text()).get("hashes") != hashes:
        raise ValueError(
            f"the store has another {name} for {label_space} ({card}); overwrite=true replaces it, "
            f"or name another store in KDBENCH_HOME"
        )


def put(model: nn.Module, label_space: str, name: str, card: dict[str, Any], replace: bool = False) -> Path:
    """Store a trained teacher: its weights, and the card beside them.

    Args:
        model: The network.
        label_space: Label space of the data.
        name: Full name.
        card: The description of its training.
        replace: Replace a teacher of the same name from another run.

    Returns:
        The file of the weights.

    Raises:
        ValueError: There is another teacher of this name, which may have been stored during training.
        RunError: The store cannot be written.
    """
    path = stored(label_space, name)
    with _locked(path.parent):
        if not replace:
            check_free(label_space, name, card.get("hashes"))
        save_weights(model, path, card)
        write_atomically(path.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder of the store within the context."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RunError(f"cannot write to the teacher store {folder}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def card_of(weights: Path) -> dict[str, Any]:
    """Return the card beside the weights of a teacher; empty if there is none."""
    file = weights.with_suffix(".json")
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def cards() -> list[dict[str, Any]]:
    """Return the cards of all teachers, those in the store before those in the package."""
    files = [file for root in (home() / "teachers", SHIPPED) for file in sorted(root.glob("*/*.json"))]
    return [{**json.loads(file.read_text()), "file": str(file.with_suffix(".safetensors"))} for file in files]
