"""Loggers in addition to the run folder: Weights & Biases, TensorBoard."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import ParseResult, urlparse
from urllib.request import getproxies, proxy_bypass

from kdbench.utils.atomic_io import write_atomically


class RunLogger(Protocol):
    """A logger of one run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at an optimiser step, counted over all epochs."""

    def conclude(self, conclusion: Conclusion) -> None:
        """Log the results of a finished run."""

    def close(self) -> None:
        """End the log, so that the next run of this process does not continue it."""


@dataclass(frozen=True)
class Conclusion:
    """The results of a finished run.

    Attributes:
        summary: Numbers by name.
        recall: Recall on test of each class, in per cent, by the name of the class.
        classes: Names of the classes.
        confusion: Number of test samples of class i that were predicted as class j, [C, C]; or None.
    """

    summary: Mapping[str, Any]
    recall: Mapping[str, float]
    classes: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] | None = None


def no_logger(**_: Any) -> None:
    """Return None: nothing is logged except in the run folder."""


class TensorBoard:
    """logger=tensorboard: Lightning's TensorBoardLogger in the run folder; open with `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, run_config: dict[str, Any], **_: Any) -> None:
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            self._logger = TensorBoardLogger(str(folder), name="", version="tensorboard")
            self._logger.log_hyperparams(flattened(run_config))
        except ModuleNotFoundError as error:
            raise ValueError(f"logger=tensorboard: pip install -e '.[tensorboard]' ({error})") from error

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log scalars."""
        self._logger.log_metrics(dict(metrics), step)

    def conclude(self, conclusion: Conclusion) -> None:
        """Log the summary as a text, as TensorBoard has no page for results."""
        lines = "\n".join(f"    {key}: {value}" for key, value in conclusion.summary.items())
        self._logger.experiment.add_text("summary", lines)

    def close(self) -> None:
        """Flush and close the log."""
        self._logger.finalize("success")


class WeightsAndBiases:
    """logger=wandb: one W&B run per run folder, also over resumes.

    It is offline if there is no key or no network, which is decided once per process, within 5 seconds. An offline run
    can be shown with `wandb leet run FOLDER`; `kdbench wandb sync TABLE` uploads those of a table.
    """

    def __init__(
        self,
        project: str,
        folder: Path,
        name: str,
        default_group: str,
        seed: int,
        tags: Sequence[str],
        run_config: dict[str, Any],
        group: str | None = None,
        offline: bool | None = None,
    ) -> None:
        import wandb

        self._wandb = wandb
        reason = None if offline is False else why_offline()
        offline = bool(reason) if offline is None else offline
        arguments: dict[str, Any] = {
            "project": project,
            "name": name,
            "id": _run_id(folder),
            "resume": "allow",
        }
        arguments |= {"group": (group or default_group)[:_LONGEST_GROUP], "job_type": f"seed {seed}"}
        arguments |= {"tags": [tag[:_LONGEST_TAG] for tag in tags], "config": flattened(run_config)}
        # the students of a cohort each have a run, all open at once
        arguments["settings"] = wandb.Settings(
            silent=True, init_timeout=3, finish_timeout=_TO_FINISH, console="off", reinit="create_new"
        )
        try:
            self._run = wandb.init(dir=str(folder), mode="offline" if offline else "online", **arguments)
        except wandb.errors.Error as error:
            offline, reason = True, str(error)
            _unreached[_address()] = reason
            self._run = wandb.init(dir=str(folder), mode="offline", **arguments)
        self._offline = offline
        self._run.define_metric("*", step_metric="step")
        if offline:
            where = folder / "wandb"
            print(f"W&B offline ({reason or 'as asked'})")
            print(f"look: wandb leet run {where}; upload: wandb sync {where}/offline-run-*")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics over the step of the run; W&B's own step counts calls and cannot decrease after a resume."""
        self._run.log({**metrics, "step": step})

    def conclude(self, conclusion: Conclusion) -> None:
        """Log the summary, the recall of each class and the confusion matrix.

        The matrix is left out above 100 classes, as W&B accepts 10,000 cells.
        """
        self._run.summary.update(dict(conclusion.summary))
        tables: dict[str, Any] = {}
        if conclusion.recall:
            rows = [list(item) for item in conclusion.recall.items()]
            tables["recall"] = self._wandb.Table(["class", "recall %"], data=rows)
        if conclusion.confusion is not None and len(conclusion.confusion) <= _MOST_CLASSES:
            target, predicted = _one_by_one(conclusion.confusion)
            tables["confusion"] = self._wandb.plot.confusion_matrix(
                y_true=target, preds=predicted, class_names=list(conclusion.classes), title="test"
            )
        if tables:
            self._run.log(tables)

    def close(self) -> None:
        """Finish the W&B run; mark it if everything was sent, so that `kdbench wandb sync` skips it."""
        place, began = Path(self._run.dir).parent, time.monotonic()
        self._run.finish()
        if not self._offline and time.monotonic() - began < _TO_FINISH:
            (place / SENT).touch()


SENT = ".sent"
"""A file in the folder of an online W&B run that was sent completely."""

_TO_FINISH = 5
"""Seconds for W&B to send the rest at the end of a run."""

_LONGEST_GROUP, _LONGEST_TAG, _MOST_CLASSES = 128, 64, 100
"""Limits of W&B: characters of a group and a tag; and the largest number of classes of a confusion matrix."""


def flattened(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten a nested configuration into dotted keys: `loss.weights.ce`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def _one_by_one(confusion: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return the labels and the predictions of all images that a confusion matrix counts."""
    pairs = [
        (label, guess)
        for label, row in enumerate(confusion)
        for guess, count in enumerate(row)
        for _ in range(count)
    ]
    return [label for label, _ in pairs], [guess for _, guess in pairs]


def close(loggers: Iterable[RunLogger | None]) -> None:
    """Close the loggers of several runs in parallel, because each may wait for a lost network."""
    there = [logger for logger in loggers if logger is not None]
    with ThreadPoolExecutor(max(1, len(there))) as pool:
        for one in [pool.submit(logger.close) for logger in there]:
            one.result()


def _run_id(folder: Path) -> str:
    """Return the id of the W&B run of a run folder; it stays the same over resumes, until the run is overwritten."""
    file = folder / ".wandb-id"
    if not file.is_file():
        write_atomically(file, secrets.token_hex(4).encode())
    return file.read_text()


def why_offline(timeout: float = 2.0) -> str | None:
    """Return the reason why Weights & Biases cannot be reached (no key, no network), or None if it can.

    After a failure it is not tried again in this process, as each student of a cohort would wait for the timeout.

    Args:
        timeout: Seconds.
    """
    if os.environ.get("WANDB_MODE") == "offline":
        return "WANDB_MODE=offline"
    url = _service()
    if not (os.environ.get("WANDB_API_KEY") or _has_netrc_entry(url.hostname or "")):
        return "no API key"
    address = _address()
    if address not in _unreached and (reason := _why_unreachable(*address, timeout)):
        _unreached[address] = reason
    return _unreached.get(address)


_unreached: dict[tuple[str, int], str] = {}
"""Hosts and ports that could not be reached, with the reason."""


def _service() -> ParseResult:
    return urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")


def _address() -> tuple[str, int]:
    """Return host and port of the service, or of the proxy to it."""
    url = _service()
    host = url.hostname or "api.wandb.ai"
    scheme = url.scheme or "https"
    if (proxy := getproxies().get(scheme)) and not proxy_bypass(host):
        through = urlparse(proxy if "//" in proxy else f"//{proxy}")
        return through.hostname or host, through.port or (443 if through.scheme == "https" else 80)
    return host, url.port or (80 if scheme == "http" else 443)


def _why_unreachable(host: str, port: int, timeout: float) -> str | None:
    """Try to connect in a thread, because name resolution has no timeout."""
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
