"""Train runs and load trained students from Python: `kdbench.train`, `kdbench.train_teacher`, `kdbench.load`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from kdbench.config.build import build
from kdbench.config.compose import compose_checked
from kdbench.core.errors import Interrupted
from kdbench.data.base import TaskData
from kdbench.runs.checkpoint import STUDENT, finished_record, load_student
from kdbench.runs.execute import run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.tasks import task_of


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where its weights, record and metrics are.
        record: What `record.json` holds: configuration, scores, hashes, versions, timing.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def results(self) -> dict[str, Any]:
        """The scores by choice of epoch (`last`, `best_on_test` or `best_validation`), in per cent, and the curve."""
        results: dict[str, Any] = self.record["results"]
        return results


def train(**options: Any) -> Run:
    """Train a student, as `kdbench train` does on the command line.

    A finished run with the same configuration is returned as it is; an unfinished one needs `resume=True`.

    Args:
        **options: The groups and keys of the command: `dataset`, `teacher`, `student`, `loss`, `schedule`, `seed`,
            `output`, ... Dotted keys are passed as `**{"schedule.epochs": 5}`; a mapping sets several keys of a group
            that keeps its default option: `schedule={"epochs": 5, "lr": 0.1}`.

    Returns:
        The run, with its folder and record.

    Raises:
        ValueError: For an unknown group, option or key, or a value that does not fit; as the command words it.
        RunError: If training fails, e.g. because the loss is not finite.
        KeyboardInterrupt: If the run was interrupted; its checkpoint is saved.

    Examples:
        >>> run = kdbench.train(dataset="cifar100_mini", teacher="resnet20", student="resnet8", loss="wttm",
        ...                     schedule="quick", **{"schedule.epochs": 5})
        >>> run.results["last"]["top1"]
    """
    return _run("train", options)


def train_teacher(**options: Any) -> Run:
    """Train a network on labels and keep it in the teacher store, as `kdbench train-teacher` does.

    Args:
        **options: As for `train`; `teacher` is the network and `teacher_loss` its loss. There is no student.

    Returns:
        The run. Afterwards `teacher=NAME` finds the network.

    Raises:
        ValueError: As for `train`.
        RunError: As for `train`.
    """
    return _run("train_teacher", options)


def load(folder: str | Path) -> nn.Module:
    """Load the trained network of a run, in eval mode on the CPU.

    Args:
        folder: The folder of a finished run, e.g. `run.folder`.

    Returns:
        The student at its last epoch, from images [N, 3, H, W], normalised as in training, to logits [N, C]. Where a
        head of the loss replaces the classifier (SimKD), the network with that head.

    Raises:
        ValueError: If the folder holds no finished run.
    """
    register()
    folder = Path(folder)
    record = finished_record(folder)
    config = record["config"]
    data: TaskData = build(OmegaConf.create(config["dataset"]), seed=record["seed"], batch_size=1)
    data.setup("test")
    node = config["student" if "student" in config else "teacher"]
    network = task_of(data).build_model(data, node["name"], node.get("options"))
    model, _ = load_student(network, folder / STUDENT, data)
    return model.eval()


def _run(root: str, options: Mapping[str, Any]) -> Run:
    register()
    overrides = command_line(options)
    choices = {key: str(value) for key, value in options.items() if key in ("dataset", "loss")}
    try:
        (run,) = run_cohort([make_plan(compose_checked(root, overrides), choices)])
    except Interrupted as error:
        raise KeyboardInterrupt(f"{error}; call it again with resume=True") from error
    if run.error is not None:
        raise run.error
    return Run(run.folder.path, run.record)


def command_line(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return options as overrides of the command line: nested mappings as dotted keys, values in Hydra's grammar."""
    overrides: list[str] = []
    for key, value in options.items():
        if isinstance(value, Mapping):
            overrides += command_line(value, f"{prefix}{key}.")
        else:
            overrides.append(f"{prefix}{key}={_word(value)}")
    return overrides


_QUOTED = set(" ,=[]{}()'\"\\:$%#")


def _word(value: Any) -> str:
    """Return a Python value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_word, value))}]"
    text = str(value)
    if isinstance(value, int | float) or (text and not _QUOTED & set(text.replace("run:", ""))):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
