"""Hashes of plain data and of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """Return a stable hash (16 hex digits) of JSON-able data; 1 and 1.0 hash equally."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(*paths: Path) -> str:
    """Return the SHA-256 of one file, `digest` of the hashes of several, or an empty string for none."""
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return hashes[0] if len(hashes) == 1 else digest(hashes) if hashes else ""


def canonical(value: Any) -> Any:
    """Return a copy of nested data with 1.0 as 1, because the spelling of a number does not change a run."""
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
