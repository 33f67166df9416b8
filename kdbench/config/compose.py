"""Find every mistake in a configuration before any work, and say it so that it can be mended."""

from __future__ import annotations

import copy
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import _locate, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.build import allowed_targets, companions, experiment_files, load_yaml
from kdbench.config.hydra_context import in_hydra
from kdbench.config.messages import explained, message, refuse_sweep, unknown
from kdbench.config.schema import SCHEMAS, SUPPLIED


def compose_checked(root: str, overrides: Sequence[str]) -> DictConfig:
    """The resolved configuration of one run, or a ValueError that names the key and what is possible."""
    return Composer(root)(overrides)


class Composer:
    """Composes many runs: what files they are made of is put together once for each choice of files.

    What a command line says of single keys is applied to a copy of that, by the function with which Hydra does it.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        with in_hydra() as hydra:
            self._files = hydra.config_loader.repository

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The resolved configuration of one run, or a ValueError that names the key and what is possible."""
        overrides = spelled_out(overrides, self.root)
        for file in experiment_files():
            if f"experiment={file.stem}" in overrides:
                load_yaml(file)
        refuse_sweep(overrides, self.root)
        try:
            cfg = self._compose(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(explained(error, self.root, overrides)) from error
        return checked(self.root, cfg)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        given = OverridesParser.create().parse_overrides(list(overrides))
        files = [
            one for one in given if one.is_hydra_override() or self._files.group_exists(one.key_or_group)
        ]
        key = tuple(str(one.input_line) for one in files)
        if key not in self._composed:
            with in_hydra():
                self._composed[key] = compose(config_name=self.root, overrides=list(key))
        cfg = copy.deepcopy(self._composed[key])
        ConfigLoaderImpl._apply_overrides_to_config([one for one in given if one not in files], cfg)
        return cfg


def checked(root: str, cfg: DictConfig) -> DictConfig:
    """`cfg` resolved, with no key that its schema and its targets do not know, and every value of its type."""
    schema = OmegaConf.structured(SCHEMAS[root])
    if stray := [str(key) for key in cfg if key not in set(schema)]:
        raise ValueError(unknown(stray[0], stray[0], schema))
    # not OmegaConf.missing_keys: it resolves, and an interpolation of what is missing says less
    for path in _missing(OmegaConf.to_container(cfg)):
        if path.endswith("._target_"):
            section = path.removesuffix("._target_")
            raise ValueError(f"this {section} is what others are made from; see kdbench --help")
        example = "timm/resnet18" if path in ("student.name", "teacher.name", "model.name") else "..."
        raise ValueError(f"{path} has no value yet; give {path}={example}")
    try:
        resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        merged = OmegaConf.merge(schema, resolved)
    except OmegaConfBaseException as error:
        raise ValueError(message(error)) from error
    assert isinstance(merged, DictConfig)
    nodes = OmegaConf.to_container(merged)
    assert isinstance(nodes, dict)
    # the losses first: what people write themselves, and checked before Lightning is imported
    check_targets(dict(sorted(nodes.items(), key=lambda item: "loss" not in str(item[0]))))
    return merged


_RUN_AS_TEACHER = "teacher=run:"


def spelled_out(arguments: Sequence[str], root: str) -> list[str]:
    """The command line in Hydra's words: `teacher=run:FOLDER` and `student=timm/NAME` are an option of a group and a
    key of it, and a data set brings what conf/companions.yaml says, where nothing else is said."""
    words = _companions(arguments, _ACCOMPANIED.get(root, ()))
    for given in arguments:
        if given.startswith("teacher=") and "run:" in given and "," in given:
            raise ValueError(
                f"{given}: a sweep over runs that teach is teacher=run teacher.checkpoint=FOLDER,FOLDER"
            )
        group, _, value = given.partition("=")
        if root == "train_teacher" and group in ("loss", "student"):
            raise ValueError(
                f"{given}: a teacher's loss is teacher_loss=, and the network that is trained teacher="
            )
        if value.startswith("timm/") and group in ("teacher", "student", "model") and "," not in value:
            words += [f"{group}=timm", f"{group}.name={value}"]
        elif given.startswith(_RUN_AS_TEACHER):
            words += ["teacher=run", f"teacher.checkpoint={given.removeprefix(_RUN_AS_TEACHER)}"]
        else:
            words.append(given)
    return words


_ACCOMPANIED = {
    "train": ("student", "teacher", "loss", "schedule"),
    "train_teacher": ("teacher", "schedule"),
}
"""The groups of which a data set may choose options, by command."""


def _companions(arguments: Sequence[str], groups: Sequence[str]) -> list[str]:
    """What the data sets on the command line choose beside them; only what all of a sweep agree on."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    sets = [companions(name) for name in given.get("dataset", "").split(",")]
    if "student" not in groups:
        sets = [
            one | {"schedule": one["teacher_schedule"]} if "teacher_schedule" in one else one for one in sets
        ]
    common = [item for item in sets[0].items() if all(item in other.items() for other in sets)]
    return [f"{group}={option}" for group, option in common if group in groups and group not in given]


def command_line_jobs(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each job that a command line asks for; none for `--help` and its like."""
    options = get_args_parser().parse_args(list(arguments))
    if options.help or options.hydra_help or options.shell_completion or options.info:
        return []
    if not options.multirun:
        return [list(options.overrides)]
    parsed = OverridesParser.create().parse_overrides(options.overrides)
    batches = BasicSweeper.split_arguments(parsed, None)
    return [list(job) for job in batches[0]]


def check_targets(node: Any, path: str = "") -> None:
    """Check every `_target_` node below: allowed, known keys, values of the annotated types."""
    if isinstance(node, list):
        for number, child in enumerate(node):
            check_targets(child, f"{path}[{number}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_call(node, path)
    for key, child in node.items():
        check_targets(child, f"{path}.{key}" if path else str(key))


def parameters(callable_: Any) -> dict[str, Any]:
    """The arguments of a callable with their annotations; `**options: Unpack[Options]` are those of Options."""
    hints = typing.get_type_hints(callable_.__init__ if inspect.isclass(callable_) else callable_)
    found = {}
    for name, parameter in inspect.signature(callable_).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = hints.get(name, Any)
        elif typing.get_origin(hints.get(name)) is typing.Unpack:
            (options,) = typing.get_args(hints[name])
            found |= typing.get_type_hints(options)
    return found


def _missing(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _missing(child, f"{path}.{key}" if path else str(key))
    elif node == MISSING:
        yield path


def _check_call(node: dict[str, Any], path: str) -> None:
    target = node["_target_"]
    if not str(target).startswith(allowed_targets()):
        raise ValueError(f"{path}._target_ is {target!r}; allowed are {', '.join(allowed_targets())}")
    try:
        callable_ = _locate(target)
        hints = parameters(callable_)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"{path}._target_: there is no {target!r}") from error
    if not str(callable_.__module__).startswith(allowed_targets() + ("lightning.",)):
        raise ValueError(f"{path}._target_ is {target!r}, which leads outside {', '.join(allowed_targets())}")
    possible = set(hints) - set(SUPPLIED.get(path, ()))
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in possible:
            raise ValueError(unknown(f"{path}.{key}", key, possible))
        if not _is_a(value, hints[key]):
            raise ValueError(f"{path}.{key} should be {_name(hints[key])}, got {value!r}")


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a config value may stand for an annotation; what cannot be judged here is let through."""
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, choice) for choice in arguments)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is typing.Literal:
        return value in arguments
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_is_a(item, arguments[1]) for item in value.values())
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list) and all(_is_a(item, arguments[0]) for item in value)
    # an object is made from a section of its own, never from a value
    return not (isinstance(hint, type) and hint.__module__.startswith("kdbench."))


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, type) and hint.__module__.startswith("kdbench."):
        return f"a section with the keys {', '.join(parameters(hint))}"
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("collections.abc.", "").replace("typing.", "")
