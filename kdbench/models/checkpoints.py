"""Weights on disk: safetensors files, and the official `.pth` files of the CIFAR benchmark.

A file must match the network in all names and shapes; reading it never executes code.
"""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdbench.models.features import classifier
from kdbench.models.names import PREFIX, available
from kdbench.models.network import registered_name
from kdbench.utils.atomic_io import write_atomically

_METADATA_KEY = "kdbench"

# Keys of the state dict in common `.pth` files, which also hold the epoch and the accuracy
_STATE_KEYS = ("model", "state_dict")

State = dict[str, Tensor]


def save_weights(weights: nn.Module | State, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write weights to a safetensors file, atomically.

    Args:
        weights: Network or state dict.
        path: File to create or replace.
        metadata: JSON-able data that `load_weights` returns, such as epoch and accuracy.

    Raises:
        RunError: If the file cannot be written.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    header = {_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}
    write_atomically(Path(path), save({name: value.contiguous() for name, value in state.items()}, header))


def load_weights(model: nn.Module, path: str | Path, own_head: bool = True) -> dict[str, Any]:
    """Load a checkpoint into a network, cast to the network's dtypes.

    Args:
        model: Network to change; unchanged after an error.
        path: A `.safetensors` file, or a torch file with a bare state dict or `{"model": state_dict}`.
        own_head: Whether to refuse a student that answers with an objective's head (SimKD), which
            `kdbench.runs.checkpoint` restores.

    Returns:
        The file's metadata, such as epoch and accuracy.

    Raises:
        ValueError: If the file is missing, damaged, no checkpoint, or of another network or number of classes.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    state, metadata = _read(path)
    if own_head and (predictor := metadata.get("predictor")):
        raise ValueError(
            f"{path} is a student that answers with the head of {predictor} ({path.stem}.predictor.safetensors "
            f"in the same folder); its own classifier was never trained. Its accuracy is in record.json"
        )
    problem = _mismatch(model, _shapes(state))
    if problem:
        raise ValueError(f"{path} does not fit {_name(model)}: {problem}")
    model.load_state_dict(state)
    return metadata


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 (hex) of a network's state dict: names, dtypes, shapes and values.

    The memory layout does not matter. The `settings` of a pretrained language model are hashed, too.
    """
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
            f"{path} is refused: not a torch file of plain tensors. Other pickled objects could run code when"
            " they are read; save the state dict alone"
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
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    return content, metadata


def _read_torch(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}")
    state = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    return state, {} if state is content else _scalars(content)


def _scalars(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the epoch, the accuracy and the like, without the optimizer's state."""
    values = {key: value.item() if _is_scalar_tensor(value) else value for key, value in content.items()}
    return {key: value for key, value in values.items() if isinstance(value, int | float | str)}


def _is_scalar_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _without_module_prefix(state: Mapping[str, Tensor]) -> State:
    """Remove the prefix of a network that was saved inside DataParallel."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def _name(model: nn.Module) -> str:
    if name := registered_name(model):
        return name
    return str(getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__))


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def _mismatch(model: nn.Module, actual: dict[str, list[int]]) -> str:
    """Explain why these names and shapes are not the model's state dict; empty if they are."""
    expected = _shapes(model.state_dict())
    if expected == actual:
        return ""
    weight = f"{_classifier_name(model)}.weight"
    if weight in actual and _body(model, expected) == _body(model, actual):
        return f"it expects classifier {expected[weight]}, the file has {actual[weight]}"
    other = _recognise(actual)
    if other:
        return f"the file looks like {other}, not {_name(model)}"
    return _differences(expected, actual)


def _classifier_name(model: nn.Module) -> str:
    head = classifier(model)
    return next((name for name, module in model.named_modules() if module is head), "")


def _body(model: nn.Module, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the shapes without the classifier's first axis, the classes."""
    head = _classifier_name(model)
    return {name: shape[1:] if name.rpartition(".")[0] == head else shape for name, shape in shapes.items()}


def _recognise(actual: dict[str, list[int]]) -> str:
    """Return the registered network with these names and shapes, for any number of classes; empty if none."""
    import timm

    for name in available():
        with torch.device("meta"):
            network = timm.create_model(PREFIX + name)
        if _body(network, _shapes(network.state_dict())) == _body(network, actual):
            return name
    return ""


def _differences(expected: dict[str, list[int]], actual: dict[str, list[int]]) -> str:
    """Describe the first differences of each kind."""
    missing = [name for name in expected if name not in actual]
    surplus = [name for name in actual if name not in expected]
    differing = [
        f"{name} (expected {shape}, found {actual[name]})"
        for name, shape in expected.items()
        if name in actual and actual[name] != shape
    ]
    kinds = {"missing": missing, "not expected": surplus, "of another shape": differing}
    return "; ".join(
        f"{len(names)} tensors {kind}, such as {', '.join(names[:2])}"
        for kind, names in kinds.items()
        if names
    )
