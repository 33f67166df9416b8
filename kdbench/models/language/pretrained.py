"""Loading of pretrained transformers, and the error messages for missing packages and weights."""

from __future__ import annotations

from typing import Any

from kdbench.utils.hashing import digest


def missing_package(package: str) -> ImportError:
    """Return the error for a missing package of the extra `text`."""
    return ImportError(f"text needs the package {package}: pip install -e '.[text]'")


def load_pretrained(model_class: Any, source: str, alternative: str) -> Any:
    """Load a transformers network in float32.

    Args:
        model_class: Class of transformers with `from_pretrained`.
        source: Folder as `save_pretrained` writes it, or a name on the Hugging Face hub.
        alternative: Option that needs no pretrained weights, for the message.

    Returns:
        The network, in eval mode.

    Raises:
        ValueError: If `source` does not exist, cannot be reached, or holds another kind of network.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return model_class.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(load_failure(source, error, alternative)) from error


def hash_config(config: Any) -> str:
    """Hash the parts of a transformers config that change what the network computes (heads, dropout, ...)."""
    settings = config.to_diff_dict()
    for name in (
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "use_cache",
    ):
        settings.pop(name, None)
    return digest(settings)


def load_failure(source: str, error: Exception, alternative: str = "a student from scratch") -> str:
    """Return the message for a pretrained network that cannot be loaded; `alternative` works without one."""
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{source} cannot be loaded ({reason.strip()}); pass a folder with a network and its tokenizer as "
        f"transformers saves them (student.options.pretrained=FOLDER), or a name on a hub that this machine "
        f"can reach. {alternative} needs no pretrained weights"
    )
