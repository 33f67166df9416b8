"""Writing files that a later run will trust."""

import os
from contextlib import suppress
from pathlib import Path

from kdbench.core.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """All of `content` under `path`, or what was there before; never half of it, whatever happens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        size = f"{len(content) / 1e6:.1f} MB"
        raise RunError(
            f"cannot write {path} ({size}): {error.strerror}; what was there is unharmed"
        ) from error
    finally:
        with suppress(OSError):  # where there can be no such file, either
            temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make the new name itself last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
