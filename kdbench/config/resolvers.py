"""OmegaConf resolvers: values that depend on the networks and the data set chosen."""

from __future__ import annotations

from functools import cache
from itertools import takewhile
from typing import Any

from omegaconf import DictConfig

from kdbench.config.build import load_yaml
from kdbench.core.plugins import conf_dirs
from kdbench.utils.paths import CONF_DIR

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
