"""OmegaConf resolvers: values that depend on the chosen networks and data set."""

from __future__ import annotations

from functools import cache
from itertools import takewhile
from typing import Any

from omegaconf import DictConfig

from kdbench.config.build import load_yaml
from kdbench.core.plugins import conf_dirs
from kdbench.utils.paths import CONF_DIR


def by_network(default: float, exceptions: DictConfig, *, _root_: DictConfig) -> float:
    """Return the value for the network in training: an exception by its name, or the default."""
    trained = _root_["student"] if "student" in _root_ else _root_["teacher"]
    return float(exceptions.get(trained.name, default))


def by_dataset(default: float | int, exceptions: DictConfig, *, _root_: DictConfig) -> float | int:
    """Return the value for the data set: an exception by its label space, or the default."""
    value: float | int = exceptions.get(_root_["dataset"].get("label_space"), default)
    return value


@cache
def pairs_of(method: str) -> dict[str, Any]:
    """Return the published values of a method for pairs of teacher and student (`conf/pairs/METHOD.yaml`).

    Args:
        method: The name of the file.

    Returns:
        `source`, `status`, `values` by pair, and `fallback`: the pair whose values other pairs use, or one such pair
        under `same` and `different`, for networks of one family and of two.

    Raises:
        ValueError: There is no such file.
    """
    for folder in (CONF_DIR, *conf_dirs()):
        file = folder / "pairs" / f"{method}.yaml"
        if file.is_file():
            return load_yaml(file)
    raise ValueError(f"no published values for {method!r}: {CONF_DIR / 'pairs'} has no {method}.yaml")


def published_pair(method: str, *, _root_: DictConfig) -> str:
    """Return `teacher:student` if values are published for that pair, or the method's fallback."""
    pairs = pairs_of(method)
    teacher, student = str(_root_.teacher.name), str(_root_.student.name)
    if f"{teacher}:{student}" in pairs["values"]:
        return f"{teacher}:{student}"
    fallback = pairs["fallback"]
    if isinstance(fallback, dict):
        fallback = fallback["same" if _family(teacher) == _family(student) else "different"]
    return str(fallback)


def _family(network: str) -> str:
    """Return the leading letters of a network's name in lower case: resnet8x4 and ResNet50 are one family."""
    return "".join(takewhile(str.isalpha, network.removeprefix("timm/").lower()))


def published(method: str, key: str, *, _root_: DictConfig) -> float | int:
    """Return a published value of the pair that `loss.pair` names."""
    values = pairs_of(method)["values"]
    pair = _root_.loss.pair
    if pair not in values:
        raise ValueError(f"loss.pair={pair}: {method} has published values for {', '.join(values)}")
    value: float | int = values[pair][key]
    return value
