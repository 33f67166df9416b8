"""Extensions by other packages: entry points for objectives, networks, data sets and tasks, and `conf` folders."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

OBJECTIVES, MODELS, DATASETS, TASKS = GROUPS = (
    "kdbench.objectives",
    "kdbench.models",
    "kdbench.datasets",
    "kdbench.tasks",
)
"""Groups of entry points: `name = "package.module:Class"`; for networks `"package.module"`, which registers them on
import; for data sets `"package.module:function"`, which the YAML file of the data set names."""


def packages() -> set[str]:
    """Return the top-level packages with entry points; imports none of them."""
    return {_package(point) for point in _all()}


def conf_dirs() -> list[Path]:
    """Return the `conf` folders of other packages, for Hydra's search path; imports none of them.

    The folder is in the package, or next to it in a source checkout.
    """
    folders = (_conf_dir(package) for package in dict.fromkeys(map(_package, _all())))
    return [folder for folder in folders if folder]


@cache
def load_networks() -> None:
    """Import the modules of other packages that register networks, once.

    Raises:
        ValueError: One cannot be imported.
    """
    for point in entry_points(group=MODELS):
        try:
            point.load()
        except Exception as error:  # a module may raise anything
            raise ValueError(
                f"Networks {point.name!r} ({point.value}) cannot be imported: {error}"
            ) from error


def source_files(group: str) -> dict[str, Path]:
    """Return the source file of each entry point of a group, by its name; imports none of them."""
    files = {}
    for point in entry_points(group=group):
        with suppress(ImportError, ValueError):  # a package that is broken is reported where it is used
            spec = find_spec(point.module)
            if spec is not None and spec.origin is not None and Path(spec.origin).suffix == ".py":
                files[point.name] = Path(spec.origin)
    return files


def _all() -> Iterable[EntryPoint]:
    found = entry_points()  # reads the metadata of every package: once
    return [point for group in GROUPS for point in found.select(group=group)]


def _package(point: EntryPoint) -> str:
    return point.module.partition(".")[0]


def _conf_dir(package: str) -> Path | None:
    spec = find_spec(package)
    if spec is None:
        return None
    inside = spec.submodule_search_locations or ([str(Path(spec.origin).parent)] if spec.origin else [])
    candidates = [place for root in inside for place in (Path(root) / "conf", Path(root).parent / "conf")]
    return next((folder for folder in candidates if folder.is_dir()), None)
