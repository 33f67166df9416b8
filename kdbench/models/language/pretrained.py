"""Networks of transformers with their weights, and what to say where they, or a package, are not there."""

from __future__ import annotations

from typing import Any

from kdbench.utils.hashing import digest


def needs(package: str) -> ImportError:
    """What to say where a package of the extra `text` is missing."""
    return ImportError(f"text needs the package {package}: pip install -e '.[text]'")


def loaded(kind: Any, source: str, other: str) -> Any:
    """A network of that class of transformers with the weights of a folder or of the hub, in float32.

    ValueError where it cannot be had; `other` is what needs no such weights.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return kind.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(unreachable(source, error, other)) from error


def settings_of(config: Any) -> str:
    """A hash of what a network's files say of it beside its weights: heads, dropout, what comes after which layer."""
    said = config.to_diff_dict()
    for name in (
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "use_cache",
    ):
        said.pop(name, None)
    return digest(said)


def unreachable(source: str, error: Exception, other: str = "a student from scratch") -> str:
    """What to say where a pretrained network cannot be loaded; `other` needs none."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{source} cannot be loaded ({first.strip()}); it must be a folder with a network and its tokenizer as "
        f"transformers saves them (student.options.pretrained=FOLDER), or a name on the hub that can be reached "
        f"from here. {other} needs none"
    )
