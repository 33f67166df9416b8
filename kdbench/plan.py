"""What a run will be, built as far as it costs nothing: the place where mistakes are found before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kdbench.config import CONF_DIR, PRECISIONS, build
from kdbench.data.module import ImageData
from kdbench.loss import Loss
from kdbench.models import check_name
from kdbench.results import digest, recipe_of
from kdbench.schedule import Schedule


@dataclass(frozen=True)
class Plan:
    """The parts of a run that cost nothing to build: they are made to find mistakes before any work."""

    cfg: DictConfig
    names: dict[str, str]
    overrides: tuple[str, ...]
    """What was said on the command line."""

    data: ImageData
    loss: Loss
    schedule: Schedule

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data."""
        config = OmegaConf.to_container(self.cfg)
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}

    @property
    def trains_teacher(self) -> bool:
        """Whether the network goes into the teacher store."""
        return "student" not in self.cfg

    @property
    def network(self) -> dict[str, Any]:
        """The configuration of the network to be trained: its `name` and `options`."""
        node: dict[str, Any] = self.config["teacher" if self.trains_teacher else "student"]
        return node

    @property
    def teacher_command(self) -> str:
        """The command that trains the teacher of this run, on all classes it must know."""
        label_space = self.data.label_space
        has_own = (CONF_DIR / "dataset" / f"{label_space}.yaml").is_file()
        chosen = ("teacher=", "teacher.name=", "+teacher.options") + (
            () if has_own else ("dataset=", "dataset.")
        )
        said = [item for item in self.overrides if item.startswith(chosen)]
        if has_own:
            said.insert(0, f"dataset={label_space}")
        if not any(item.startswith("teacher=") for item in said):
            said.append(f"teacher={self.cfg.teacher.name}")
        return " ".join(["kdbench train-teacher", *said, "schedule=cifar240"])

    @property
    def title(self) -> str:
        """The run in one word for people: what the folder's name begins with."""
        parts = (
            self.names["dataset"],
            self.names["teacher"],
            self.names.get("student"),
            self.names.get("loss"),
        )
        return "-".join(part.replace("/", "_") for part in parts if part) + f"-s{self.cfg.seed}"


def plan(cfg: DictConfig, choices: dict[str, str], overrides: Sequence[str] = ()) -> Plan:
    """Build what is cheap; every ValueError here is the user's to mend."""
    if cfg.precision not in PRECISIONS:
        raise ValueError(f"precision={cfg.precision}; possible: {', '.join(PRECISIONS)}")
    for key in ("log_every", "evaluate_every", "threads"):
        if cfg[key] is not None and cfg[key] < 1:
            raise ValueError(f"{key} must be at least 1, got {cfg[key]}")
    if cfg.trainer.devices not in (1, "1"):
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}: a run has one device yet; give trainer.devices=1"
        )
    schedule: Schedule = build(cfg.schedule)
    data: ImageData = build(cfg.dataset, seed=cfg.seed, batch_size=schedule.batch_size)
    loss: Loss = build(cfg.loss if "loss" in cfg else cfg.teacher_loss)
    names = {group: choices.get(group, "") for group in ("dataset", "loss")}
    names |= {side: cfg[side].name for side in ("teacher", "student") if side in cfg}
    if "loss" in cfg and loss.needs_teacher and cfg.teacher.name == "none":
        raise ValueError(
            f"the loss has {', '.join(loss.terms)}: that needs a teacher, and teacher=none is nobody"
        )
    planned = Plan(cfg, names, tuple(overrides), data, loss, schedule)
    check_name(planned.network["name"])
    return planned


def recipe_hash(planned: Plan) -> str:
    """What of the configuration and of the objectives' versions changes weights, as a hash."""
    versions = {name: term.version for name, term in planned.loss.terms.items()}
    return digest(recipe_of(planned.config) | {"objective_versions": versions})
