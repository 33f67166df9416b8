"""Atomic, durable file writes."""

import os
from contextlib import suppress
from pathlib import Path

from kdbench.core.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a crash leaves either the old content or the new.

    Missing parent folders are created; data and folder entry are synced to disk.

    Args:
        path: File to create or replace.
        content: Its complete new content.

    Raises:
        RunError: If the file cannot be written, e.g. on a full disk; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        megabytes = f"{len(content) / 1e6:.1f} MB"
        raise RunError(
            f"cannot write {path} ({megabytes}): {error.strerror}; an existing file was left unchanged"
        ) from error
    finally:
        with suppress(OSError):  # unlink itself fails where the folder could not be created
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Sync the folder entry, without which a power failure can lose the rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
