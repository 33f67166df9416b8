"""Compose configurations, and find every mistake in them before any work."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config._hydra import ConfigFiles, apply_overrides, hydra_initialized
from kdbench.config.build import experiment_files, load_yaml
from kdbench.config.command_line import expand_short_forms, parse_overrides, refuse_sweep
from kdbench.config.messages import explained, message, unknown
from kdbench.config.schema import SCHEMAS
from kdbench.config.targets import check_targets

Choices = tuple[str, ...]
"""Overrides that choose files: options of config groups, and Hydra's own."""


def compose_checked(root: str, overrides: Sequence[str]) -> DictConfig:
    """Compose and check the configuration of one run.

    Args:
        root: The root configuration: `train`, `train_teacher`, `evaluate` or `analyze`.
        overrides: The command line.

    Returns:
        The resolved configuration.

    Raises:
        ValueError: A group, option or key is unknown, or a value does not fit. The message names the key and what is
            possible.
    """
    return Composer(root)(overrides)


class Composer:
    """Composes many runs, and reuses what they have in common.

    An option that fills one section only, such as `student=resnet8`, is composed once and not with each combination of
    the others. Overrides of single keys are applied to a copy. Copies are made by pickling, in a fifth of the time of
    deepcopy.

    Args:
        root: The root configuration.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._bases: dict[Choices, tuple[bytes, dict[str, str]]] = {}
        self._sections: dict[tuple[str, str], bytes | None] = {}
        self._all_files = ConfigFiles()

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Compose and check one run; see `compose_checked`."""
        return checked(self.root, self.merge(overrides))

    def for_seeds(self, overrides: Sequence[str], seeds: Sequence[int]) -> list[DictConfig]:
        """Compose and check one run for several seeds.

        The run is composed once if none of its values is an interpolation of the seed.
        """
        runs = [[*overrides, f"seed={seed}"] for seed in seeds]
        merged = self.merge(runs[0])
        first = checked(self.root, merged)
        if _interpolates(OmegaConf.to_container(merged), "seed"):
            return [first, *(self(run) for run in runs[1:])]
        configurations, stored = [first], pickle.dumps(first)
        for seed in seeds[1:]:
            cfg = pickle.loads(stored)
            cfg.seed = seed
            configurations.append(cfg)
        return configurations

    def merge(self, overrides: Sequence[str]) -> DictConfig:
        """Return the merged configuration of one run, neither resolved nor checked.

        Raises:
            ValueError: A group, option or key is unknown.
        """
        overrides = expand_short_forms(overrides, self.root)
        for file in experiment_files():
            if f"experiment={file.stem}" in overrides:
                load_yaml(file)
        try:
            parsed = parse_overrides(overrides)
            refuse_sweep(parsed, self.root)
            choices = [override for override in parsed if self._chooses_files(override)]
            cfg = self._files(choices)
            apply_overrides([override for override in parsed if override not in choices], cfg)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(explained(error, self.root, overrides)) from error
        return cfg

    def _chooses_files(self, override: Override) -> bool:
        return override.is_hydra_override() or self._all_files.has_group(override.key_or_group)

    def _files(self, choices: Sequence[Override]) -> DictConfig:
        """Return a new merge of the chosen files."""
        lines = tuple(str(choice.input_line) for choice in choices)
        sections = self._independent_sections(choices)
        key = (*(line for line in lines if line.partition("=")[0] not in sections), *sorted(sections))
        if key not in self._bases:
            self._bases[key] = pickle.dumps(self._compose(lines)), sections
        base, composed_with = self._bases[key]
        cfg: DictConfig = pickle.loads(base)
        for group, option in sections.items():
            if composed_with[group] != option:
                cfg[group] = pickle.loads(self._section(group, option) or b"")
        return cfg

    def _independent_sections(self, choices: Sequence[Override]) -> dict[str, str]:
        """Return the chosen options, by group, that no other choice depends on; none where a choice may be global."""
        is_plain = all(
            choice.package is None and not choice.is_add() and not choice.is_hydra_override()
            for choice in choices
        )
        if not is_plain or any(choice.key_or_group in ("experiment", "hparams") for choice in choices):
            return {}
        options = {choice.key_or_group: str(choice.value()) for choice in choices}
        return {group: option for group, option in options.items() if self._section(group, option)}

    def _section(self, group: str, option: str) -> bytes | None:
        if (group, option) not in self._sections:
            section = self._all_files.section(group, option)
            self._sections[group, option] = None if section is None else pickle.dumps(section)
        return self._sections[group, option]

    def _compose(self, lines: Choices) -> DictConfig:
        if any(line.lstrip("+~").startswith(("hydra/", "hydra.", "hparams=")) for line in lines):
            with hydra_initialized():
                return compose(config_name=self.root, overrides=list(lines))
        return self._all_files.compose(self.root, lines)


def checked(root: str, cfg: DictConfig) -> DictConfig:
    """Resolve a merged configuration, and check its keys and values against the schema and the targets.

    Raises:
        ValueError: A key is unknown or has no value, or a value has another type. The message names the key and what
            is possible.
    """
    schema = OmegaConf.structured(SCHEMAS[root])
    if stray := [str(key) for key in cfg if key not in set(schema)]:
        raise ValueError(unknown(stray[0], stray[0], schema))
    # OmegaConf.missing_keys would resolve, and report interpolations of a missing key instead of the key
    for path in _missing(OmegaConf.to_container(cfg)):
        if path.endswith("._target_"):
            section = path.removesuffix("._target_")
            raise ValueError(f"this {section} is what others are made from; see kdbench --help")
        example = "timm/resnet18" if path in ("student.name", "teacher.name", "model.name") else "..."
        raise ValueError(f"{path} has no value yet; give {path}={example}")
    merged: DictConfig = schema
    try:
        resolved: Any = OmegaConf.to_container(cfg, resolve=True)
        for key, value in resolved.items():
            merged[key] = value  # converts and checks the types of the schema; faster than OmegaConf.merge
    except OmegaConfBaseException as error:
        raise ValueError(message(error)) from error
    nodes = OmegaConf.to_container(merged)
    assert isinstance(nodes, dict)
    # losses first, because users write them themselves
    check_targets(dict(sorted(nodes.items(), key=lambda item: "loss" not in str(item[0]))))
    return merged


def _missing(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _missing(child, f"{path}.{key}" if path else str(key))
    elif node == MISSING:
        yield path


def _interpolates(node: Any, key: str) -> bool:
    """Whether a value in unresolved plain data refers to a key of the root."""
    if isinstance(node, dict):
        return any(_interpolates(child, key) for child in node.values())
    if isinstance(node, list):
        return any(_interpolates(child, key) for child in node)
    return isinstance(node, str) and "${" in node and key in node
