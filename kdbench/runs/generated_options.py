"""Options of config groups that are made from registries and signatures instead of YAML files."""

from __future__ import annotations

from functools import cache
from typing import Any

from kdbench.core.plugins import conf_dirs
from kdbench.models.configurations import configurations as network_nodes
from kdbench.models.configurations import teachers as teacher_nodes
from kdbench.objectives import configurations as objective_nodes
from kdbench.utils.paths import CONF_DIR


@cache
def generated_options() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the nodes of the generated options by group and name.

    A YAML file of the same group and name has precedence.
    """
    networks, teachers = network_nodes(), teacher_nodes()
    files = [file.stem for folder in (CONF_DIR, *conf_dirs()) for file in (folder / "model").glob("*.yaml")]
    return {
        "objective": objective_nodes(),
        "model": networks,
        "student": {name: {"defaults": [{"/model@_here_": name}]} for name in (*networks, *files)},
        "teacher": {name: {"defaults": [{"/model@_here_": name}, "live"]} for name in (*teachers, *files)},
    }


def option_names(group: str) -> list[str]:
    """Return the options of a config group, generated ones and YAML files, sorted."""
    files = {file.stem for folder in (CONF_DIR, *conf_dirs()) for file in (folder / group).glob("*.yaml")}
    return sorted(files | generated_options().get(group, {}).keys())
