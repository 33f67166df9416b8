"""experiments/TABLE/published.yaml: what others published for the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config import EXPERIMENTS_DIR


@dataclass
class Value:
    """A published accuracy in per cent, with the setting it holds for; std as the source has it, over the trials.

    weights: those of the loss, where they are others than the recipe's here.
    """

    dataset: str = MISSING
    pair: str = MISSING
    loss: str = MISSING
    protocol: str = MISSING
    mean: float = MISSING
    std: float | None = None
    trials: int | None = None
    weights: str = ""

    @property
    def text(self) -> str:
        """The value as a table shows it."""
        std = f" ± {self.std:.2f}" if self.std is not None and self.trials != 1 else ""
        about = [*([f"n = {self.trials}"] if self.trials else []), *([self.weights] if self.weights else [])]
        return f"{self.mean:.2f}{std}" + (f" ({'; '.join(about)})" if about else "")


@dataclass
class Published:
    """The values of one source.

    selection: how the epoch was chosen, of how many; status: `verified` numbers were read, `derived` ones computed.
    """

    source: str = MISSING
    status: str = MISSING
    selection: str = MISSING
    epochs: int = MISSING
    note: str = ""
    values: list[Value] = field(default_factory=list)

    @property
    def about(self) -> str:
        """Where the numbers come from, in a line."""
        return f"Published ({self.status}, {self.epochs} epochs): {self.source}. {self.note}".strip()


def published_for(table: str) -> Published | None:
    """What is published for a table, or None; ValueError where the file is not as it should be."""
    file = EXPERIMENTS_DIR / table / "published.yaml"
    if not file.is_file():
        return None
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(Published), OmegaConf.load(file))
        found = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{file}, {error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(found, Published)
    return found
