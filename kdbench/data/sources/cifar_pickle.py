"""The authors' CIFAR files (Krizhevsky 2009): Python 2 pickles, read without executing their code."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from kdbench.data.images.image_io import DataError


def _encode(text: str, encoding: str) -> bytes:
    """Restore bytes that Python 3 pickled in protocol 2; `_codecs.encode` itself would allow any codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it needs the codec {encoding}")
    return text.encode(encoding)


def _array_from(buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> Any:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


_reconstruct = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _array_from,
    ("numpy._core.numeric", "_frombuffer"): _array_from,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain containers, which need no names, and numpy arrays; refuses all other names."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it needs {module}.{name}, but only numpy arrays are allowed")
        return _ALLOWED[module, name]


def _load(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = _ArraysOnly(stream).load()
    # damaged pickles raise many types: EOFError, KeyError, UnicodeDecodeError, MemoryError, ...
    except Exception as error:
        raise DataError(f"{file}: refused or unreadable ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a dictionary, found {type(content).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): content[key] for key in content}


def read_batch(file: Path, labels_key: str) -> tuple[Tensor, Tensor]:
    """Read a file such as `train` or `data_batch_1`.

    Args:
        file: The file.
        labels_key: Key of the labels in it.

    Returns:
        Images uint8 [N, 3, 32, 32] and labels int64 [N].

    Raises:
        DataError: If the file is missing, damaged or of another form.
    """
    content = _load(file)
    data, labels = content.get("data"), content.get(labels_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise DataError(f"{file}: expected 'data' as a uint8 array [N, 3072]; the keys are {sorted(content)}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{file}: expected {labels_key!r} as a list of integers")
    if len(labels) != len(data):
        raise DataError(f"{file}: {len(data)} images but {len(labels)} labels")
    return torch.from_numpy(data.copy()).view(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)


def read_names(file: Path, key: str) -> tuple[str, ...]:
    """Read the class names, in label order, from the file `meta` or `batches.meta`.

    Raises:
        DataError: If the file is missing, damaged or of another form.
    """
    names = _load(file).get(key)
    if not isinstance(names, list):
        raise DataError(f"{file}: expected {key!r} as a list")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names)
