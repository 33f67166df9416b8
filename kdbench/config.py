"""Where conf/ lives, what the roots hold, and how a configuration becomes objects."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench import launchers
from kdbench.outside import conf_dirs, packages

PACKAGE = Path(__file__).parent
_CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file() and (PACKAGE.parent / "conf").is_dir()
CONF_DIR = PACKAGE.parent / "conf" if _CHECKOUT else PACKAGE / "_conf"
EXPERIMENTS_DIR = PACKAGE.parent / "experiments" if _CHECKOUT else PACKAGE / "_experiments"

PRECISIONS = ("fp32", "bf16-teacher", "bf16")


@dataclass
class RunConfig:
    """The keys of conf/run.yaml with their types; what each one means is said there."""

    dataset: Any = MISSING
    schedule: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    seed: int = MISSING
    precision: str = MISSING
    threads: int | None = MISSING
    cuda_graph: bool = MISSING
    log_every: int = MISSING
    evaluate_every: int = MISSING
    diagnostics: bool = MISSING
    save_every: float = MISSING
    output: str = MISSING
    tags: list[str] = field(default_factory=list)
    table_name: str | None = MISSING
    progress: bool = MISSING
    resume: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class TrainConfig(RunConfig):
    """conf/train.yaml: one student, distilled once."""

    teacher: Any = MISSING
    student: Any = MISSING
    loss: Any = MISSING


@dataclass
class TrainTeacherConfig(RunConfig):
    """conf/train_teacher.yaml: one network, trained on the labels."""

    teacher: Any = MISSING
    teacher_loss: Any = MISSING


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml: the accuracy of a checkpoint."""

    dataset: Any = MISSING
    model: Any = MISSING
    checkpoint: str = MISSING
    split: str = MISSING
    precision: str = MISSING
    threads: int | None = MISSING
    json: bool = MISSING
    store: str | None = MISSING


@dataclass
class AnalyzeConfig:
    """conf/analyze.yaml: the instruments, for a run or a checkpoint."""

    dataset: Any = MISSING
    model: Any = MISSING
    teacher: Any = MISSING
    checkpoint: str | None = MISSING
    split: str = MISSING
    against: str | None = MISSING
    gamma: float | None = MISSING
    images: list[int] | None = MISSING
    pictures: bool = MISSING
    output: str | None = MISSING
    threads: int | None = MISSING
    json: bool = MISSING


SCHEMAS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "train_teacher": TrainTeacherConfig,
    "evaluate": EvaluateConfig,
    "analyze": AnalyzeConfig,
}


SUPPLIED = {
    "dataset": ("seed", "batch_size"),
    "model": ("num_classes", "checkpoint"),
    "student": ("num_classes", "checkpoint"),
    "teacher": ("num_classes", "bf16", "network"),
    "logger": ("folder", "name", "default_group", "seed", "tags", "run_config"),
}
"""Arguments that code gives to a section's target: no key of a configuration may have their names."""


class _OutsideConf(SearchPathPlugin):
    """The conf folders of other packages."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_dirs():
            search_path.append(provider="kdbench.objectives", path=f"file://{folder}")


def register() -> None:
    """Make schemas, resolvers, experiments and outside conf folders known to Hydra (once per process)."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for file in experiment_files():
        # one that is broken is said when it is chosen (kdbench.strict), not to everybody
        with suppress(ValueError):
            store.store(group="experiment", name=file.stem, node=load_yaml(file), package="_global_")
    Plugins.instance().register(_OutsideConf)
    launchers.register()
    OmegaConf.register_new_resolver("by_network", _by_network, replace=True)
    OmegaConf.register_new_resolver("by_dataset", _by_dataset, replace=True)
    OmegaConf.register_new_resolver("published_pair", _published_pair, replace=True)
    OmegaConf.register_new_resolver("published", _published, replace=True)
    OmegaConf.register_new_resolver("of_run", _of_run, replace=True)


def experiment_files() -> list[Path]:
    """The overlays for `experiment=NAME`: those shipped, then those in ./experiments, which win."""
    folders = dict.fromkeys((EXPERIMENTS_DIR, Path.cwd() / "experiments"))
    return [file for folder in folders for file in sorted(folder.glob("*.yaml"))]


def companions(dataset: str) -> dict[str, str]:
    """What goes with a data set where nothing else is said, by group (conf/companions.yaml)."""
    return dict(load_yaml(CONF_DIR / "companions.yaml").get(dataset, {}))


def option_of(group: str, name: str) -> dict[str, Any]:
    """What the file of an option says, with the files of its group that it begins from."""
    own = load_yaml(CONF_DIR / group / f"{name}.yaml")
    names = [name for name in own.pop("defaults", []) if isinstance(name, str) and name != "_self_"]
    parts = [*(option_of(group, name) for name in names), own]
    return {key: value for part in parts for key, value in part.items()}


def load_yaml(file: Path) -> dict[str, Any]:
    """The keys and values of a YAML file; ValueError naming the file where it holds something else."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))  # whose YAML has 1e-3 as a number
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} should hold keys and values, it holds {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def build(node: DictConfig, **supplied: Any) -> Any:
    """The object that a checked `_target_` node describes, with what only code can supply."""
    # partial first: what instantiate is given itself, it takes for configuration and would build from as well
    try:
        deferred = instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    return deferred(**supplied)


@cache
def allowed_targets() -> tuple[str, ...]:
    """The prefixes that `_target_` may have: ours, Lightning's trainer, and packages that bring something."""
    return ("kdbench.", "lightning.Trainer", *(f"{package}." for package in sorted(packages())))


# ---- resolvers: what a value is for the networks that were chosen


def _by_network(default: float, exceptions: DictConfig, *, _root_: DictConfig) -> float:
    """The value for the network in training: an exception by name, else the default."""
    trained = _root_["student"] if "student" in _root_ else _root_["teacher"]
    return float(exceptions.get(trained.name, default))


def _by_dataset(default: float | int, exceptions: DictConfig, *, _root_: DictConfig) -> float | int:
    """The value for the data set: an exception by its label space, else the default."""
    value: float | int = exceptions.get(_root_["dataset"].get("label_space"), default)
    return value


@cache
def pairs_of(method: str) -> dict[str, Any]:
    """The published per-pair values of a method: `source`, `status`, `fallback`, `values`.

    `fallback` is a pair of `values`, or `same` and `different` with one each, for networks of one family and of two.
    """
    for folder in (CONF_DIR, *conf_dirs()):
        file = folder / "pairs" / f"{method}.yaml"
        if file.is_file():
            return load_yaml(file)
    raise ValueError(f"no published values for {method!r}: {CONF_DIR / 'pairs'} has no {method}.yaml")


def _published_pair(method: str, *, _root_: DictConfig) -> str:
    """`teacher:student` where somebody published values for it, else the method's named fallback."""
    pairs = pairs_of(method)
    teacher, student = str(_root_.teacher.name), str(_root_.student.name)
    if f"{teacher}:{student}" in pairs["values"]:
        return f"{teacher}:{student}"
    fallback = pairs["fallback"]
    if isinstance(fallback, dict):
        fallback = fallback["same" if _family(teacher) == _family(student) else "different"]
    return str(fallback)


def _family(network: str) -> str:
    """The leading letters of a network's name in small ones: resnet8x4 and ResNet50 are one family."""
    return "".join(takewhile(str.isalpha, network.removeprefix("timm/").lower()))


def _published(method: str, key: str, *, _root_: DictConfig) -> float | int:
    """One published value for the pair named by `loss.pair`."""
    values = pairs_of(method)["values"]
    pair = _root_.loss.pair
    if pair not in values:
        raise ValueError(f"loss.pair={pair}: {method} has published values for {', '.join(values)}")
    value: float | int = values[pair][key]
    return value


def _of_run(folder: str | None, what: str) -> Any:
    """Of the network that a finished run trained its `name` or `options`, or the `variant` that it is as a teacher."""
    from kdbench.siblings import RUN, sibling_key
    from kdbench.teacher.store import finished_run

    if folder is None:
        raise ValueError("teacher=run needs the folder of a finished run: teacher=run:FOLDER")
    _, record = finished_run(Path(folder))
    if what == "variant":
        return f"{RUN}{sibling_key(record)[:8]}"
    network = record["config"].get("student") or record["config"]["teacher"]
    return network.get(what)
