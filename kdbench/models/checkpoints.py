"""Weights on disk: kdbench's own safetensors, and the official `.pth` files of the CIFAR benchmark.

A file is taken only where it fits the network name for name and shape for shape; nothing in it is executed.
"""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdbench.models.features import classifier
from kdbench.models.names import available
from kdbench.models.network import PREFIX, registered_name
from kdbench.utils.atomic_io import write_atomically

_METADATA_KEY = "kdbench"

# Under these, `.pth` files of the field keep the state dict beside the epoch and the accuracy
_STATE_KEYS = ("model", "state_dict")

State = dict[str, Tensor]


def save_weights(weights: nn.Module | State, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write a network's weights, or a state dict, with JSON-able metadata; a kill at any moment leaves the old
    file or the new. RunError where the disk does not take it."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    header = {_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}
    write_atomically(Path(path), save({name: value.contiguous() for name, value in state.items()}, header))


def load_weights(model: nn.Module, path: str | Path, own_head: bool = True) -> dict[str, Any]:
    """Load a checkpoint into `model`, cast to its dtypes, and return the file's metadata (epoch, accuracy).

    path: a `.safetensors` file, or a torch file holding `{"model": state_dict}` or a bare state dict.
    own_head: refuse a student that answers with an objective's head (SimKD); kdbench.runs.checkpoint gives it that.
    Raises ValueError, saying what was expected and what was found, for a file that is missing, damaged, not
    a checkpoint, or of another network or class count; the model is then unchanged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    state, metadata = _read(path)
    if own_head and (predictor := metadata.get("predictor")):
        raise ValueError(
            f"{path} is a student that answers with the head of {predictor} ({path.stem}.predictor.safetensors "
            f"beside it), not with its own classifier, which was never trained; its accuracy is in record.json"
        )
    problem = _mismatch(model, _shapes(state))
    if problem:
        raise ValueError(f"{path} does not fit {_name(model)}: {problem}")
    model.load_state_dict(state)
    return metadata


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of the state dict, whatever the memory layout; and over the
    `settings` of a network that files describe."""
    digest = hashlib.sha256(str(getattr(model, "settings", "")).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[State, dict[str, Any]]:
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    try:
        content, metadata = read(path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: not a torch file of plain tensors. Files with other pickled objects, whose"
            " reading could run code, are never read; save the state dict alone"
        ) from error
    # a damaged file makes the parsers raise almost anything: EOFError, KeyError, RuntimeError, ...
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition(". ")[0]
        raise ValueError(f"{path} is damaged or not a checkpoint ({reason})") from error
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        kinds = ", ".join(f"{key}: {type(value).__name__}" for key, value in list(content.items())[:4])
        raise ValueError(f"{path} holds {{{kinds}}}; expected tensors by name, bare or under 'model'")
    return _without_module_prefix(content), metadata


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    return content, metadata


def _read_torch(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}")
    state = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    return state, {} if state is content else _scalars(content)


def _scalars(beside: Mapping[str, Any]) -> dict[str, Any]:
    """The epoch, the accuracy and the like; the optimizer's state is left behind."""
    values = {key: value.item() if _is_scalar_tensor(value) else value for key, value in beside.items()}
    return {key: value for key, value in values.items() if isinstance(value, int | float | str)}


def _is_scalar_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _without_module_prefix(state: Mapping[str, Tensor]) -> State:
    """The names of a network that was wrapped in DataParallel when it was saved."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def _name(model: nn.Module) -> str:
    if name := registered_name(model):
        return name
    return str(getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__))


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def _mismatch(model: nn.Module, found: dict[str, list[int]]) -> str:
    """Why a file of these names and shapes cannot be the model's state dict; empty where it can."""
    expected = _shapes(model.state_dict())
    if expected == found:
        return ""
    weight = f"{_classifier_name(model)}.weight"
    if weight in found and _body(model, expected) == _body(model, found):
        return f"it expects classifier {expected[weight]}, the file has {found[weight]}"
    other = _recognise(found)
    if other:
        return f"the file looks like {other}, not {_name(model)}"
    return _differences(expected, found)


def _classifier_name(model: nn.Module) -> str:
    head = classifier(model)
    return next((name for name, module in model.named_modules() if module is head), "")


def _body(model: nn.Module, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """The shapes without the classifier's first axis, the classes."""
    head = _classifier_name(model)
    return {name: shape[1:] if name.rpartition(".")[0] == head else shape for name, shape in shapes.items()}


def _recognise(found: dict[str, list[int]]) -> str:
    """The kdbench network that has these names and shapes but for the number of classes; empty for none."""
    for name in available():
        with torch.device("meta"):
            network = timm.create_model(PREFIX + name)
        if _body(network, _shapes(network.state_dict())) == _body(network, found):
            return name
    return ""


def _differences(expected: dict[str, list[int]], found: dict[str, list[int]]) -> str:
    """The first few of each kind, in words."""
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    differing = [
        f"{name} (expected {shape}, found {found[name]})"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    kinds = {"missing": missing, "not expected": surplus, "of another shape": differing}
    return "; ".join(
        f"{len(names)} tensors {kind}, such as {', '.join(names[:2])}"
        for kind, names in kinds.items()
        if names
    )
