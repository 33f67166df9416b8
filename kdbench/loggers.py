"""Where else metrics go, beside the run folder: nowhere, or Weights & Biases."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from kdbench.files import write_atomically


def no_logger(**_: Any) -> None:
    """Nothing beside the run folder."""


def wandb_logger(
    project: str,
    folder: Path,
    name: str,
    default_group: str,
    tags: Sequence[str],
    run_config: dict[str, Any],
    group: str | None = None,
    offline: bool | None = None,
) -> Any:
    """A WandbLogger for a run in `folder`; offline where there is no key or no network, decided in 3 seconds.

    An offline run is looked at with `wandb leet run FOLDER` and uploaded with `wandb sync FOLDER`.
    """
    try:
        import wandb
        from lightning.pytorch.loggers import WandbLogger
    except ImportError as error:
        raise ValueError("logger=wandb needs the package wandb: pip install wandb") from error
    reason = None if offline is False else why_offline()
    offline = bool(reason) if offline is None else offline
    if offline:
        print(
            f"W&B offline ({reason or 'as asked'}); look: wandb leet {folder / 'wandb'}; upload: wandb sync"
        )
    arguments: dict[str, Any] = {"project": project, "name": name, "id": _run_id(folder), "resume": "allow"}
    arguments |= {
        "group": group or default_group,
        "tags": list(tags),
        "config": run_config,
        "save_dir": str(folder),
    }
    # the students of a cohort each have a run, all open at once
    arguments["settings"] = wandb.Settings(silent=True, init_timeout=3, console="off", reinit="create_new")
    try:
        logger = WandbLogger(**arguments, offline=offline)
        _ = logger.experiment  # connects now, not in the middle of the first epoch
    except wandb.errors.Error as error:
        print(f"W&B offline ({error})")
        logger = WandbLogger(**arguments, offline=True)
    return logger


def close(logger: Any) -> None:
    """End a logger's run: the next one in this process must not continue it."""
    if logger is not None:
        logger.experiment.finish()


def _run_id(folder: Path) -> str:
    """One W&B run for a run folder, however often it is resumed; another one once it is overwritten."""
    file = folder / ".wandb-id"
    if not file.is_file():
        write_atomically(file, secrets.token_hex(4).encode())
    return file.read_text()


def why_offline(timeout: float = 3.0) -> str | None:
    """Why Weights & Biases cannot be reached from here (no key, no network), or None if it can."""
    if os.environ.get("WANDB_MODE") == "offline":
        return "WANDB_MODE=offline"
    url = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    host = url.hostname or "api.wandb.ai"
    if not (os.environ.get("WANDB_API_KEY") or _has_netrc_entry(host)):
        return "no API key"
    return _why_unreachable(host, url.port or 443, timeout)


def _why_unreachable(host: str, port: int, timeout: float) -> str | None:
    """Try to connect in a thread: a name look-up obeys no timeout."""
    outcome: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=timeout).close()
            outcome.append("")
        except OSError as error:
            outcome.append(f"{host} not reached: {error}")

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(timeout)
    return (outcome[0] or None) if outcome else f"{host} not reached within {timeout:g} s"


def _has_netrc_entry(host: str) -> bool:
    try:
        return netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
