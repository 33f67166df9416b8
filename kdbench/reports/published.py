"""experiments/TABLE/published.yaml: what others published for the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.utils.paths import EXPERIMENTS_DIR

T = TypeVar("T")

SHOWN = ("verified", "derived", "secondary")
"""Numbers from memory are never shown as a reference."""


@dataclass
class Value:
    """A published accuracy in per cent, with the setting it holds for; std as the source has it, over the trials.

    weights: those of the loss, where they are others than the recipe's here; selection: how the epoch was chosen, where
    not all values of the source have it in common.
    """

    dataset: str = MISSING
    pair: str = MISSING
    loss: str = MISSING
    protocol: str = MISSING
    mean: float = MISSING
    std: float | None = None
    trials: int | None = None
    weights: str = ""
    selection: str = ""

    @property
    def text(self) -> str:
        """The value as a table shows it."""
        std = f" ± {self.std:.2f}" if self.std is not None and self.trials != 1 else ""
        about = [f"n = {self.trials}"] if self.trials else []
        about += [word for word in (self.weights, self.selection) if word]
        return f"{self.mean:.2f}{std}" + (f" ({'; '.join(about)})" if about else "")


@dataclass
class Grid:
    """Values as a source prints them, losses by pairs, of the plain data set: mean, and where there are any std,
    by loss a number (or null) for each of `pairs`; trials and selection by loss."""

    dataset: str = MISSING
    pairs: list[str] = field(default_factory=list)
    mean: dict[str, list[float | None]] = field(default_factory=dict)
    std: dict[str, list[float | None]] = field(default_factory=dict)
    trials: dict[str, int] = field(default_factory=dict)
    selections: dict[str, str] = field(default_factory=dict)

    def values(self) -> list[Value]:
        """One for each number; ValueError where a row is not as long as there are pairs, or its mean is not there."""
        for loss, row in [*self.mean.items(), *self.std.items()]:
            if len(row) != len(self.pairs) or loss not in self.mean:
                raise ValueError(
                    f"grid: {loss} has {len(row)} numbers for {len(self.pairs)} pairs, or no mean"
                )
        return [
            Value(
                self.dataset,
                pair,
                loss,
                "",
                mean,
                self.std.get(loss, [None] * len(row))[place],
                self.trials.get(loss),
                selection=self.selections.get(loss, ""),
            )
            for loss, row in self.mean.items()
            for place, (pair, mean) in enumerate(zip(self.pairs, row, strict=True))
            if mean is not None
        ]


@dataclass
class Published:
    """The values of one source.

    selection: how the epoch was chosen, of how many (0: the source does not say); status: `verified` numbers were read,
    `derived` ones computed.
    table: which one's grid has the recipe that the values are of (the folder's name, unless said).
    values and grid: two ways to write the same, of which a file may have both; read, `values` holds all.
    """

    source: str = MISSING
    status: str = MISSING
    selection: str = MISSING
    epochs: int = 0
    note: str = ""
    table: str = ""
    values: list[Value] = field(default_factory=list)
    grid: Grid | None = None

    @property
    def about(self) -> str:
        """Where the numbers come from, in a line."""
        epochs = f", {self.epochs} epochs" if self.epochs else ""
        return f"Published ({self.status}{epochs}): {self.source}. {self.note}".strip()


def read_as(kind: type[T], file: Path) -> T | None:
    """A file of published numbers, or None where there is none; ValueError where it is not as it should be."""
    if not file.is_file():
        return None
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.load(file))
        found = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{file}, {error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(found, kind)
    return found


def published_for(table: str) -> Published | None:
    """What is published for a table, or None; nothing of numbers from memory. ValueError where the file is not as it
    should be."""
    file = EXPERIMENTS_DIR / table / "published.yaml"
    if (found := read_as(Published, file)) is None or found.status not in SHOWN:
        return None
    found.table = found.table or table
    if found.grid is not None:
        try:
            found.values += found.grid.values()
        except ValueError as error:
            raise ValueError(f"{file}, {error}") from error
    return found


@dataclass
class Networks:
    """experiments/networks/DATASET.yaml: accuracies of networks trained on labels alone, in per cent."""

    dataset: str = MISSING
    source: str = MISSING
    status: str = MISSING
    epochs: int = MISSING
    top1: dict[str, float] = field(default_factory=dict)


def networks(dataset: str) -> Networks | None:
    """What is published of networks on a data set, or None; ValueError where the file is not as it should be."""
    return read_as(Networks, EXPERIMENTS_DIR / "networks" / f"{dataset}.yaml")


def published_markdown(published: Published) -> str:
    """The values of a source as a Markdown table with its source: losses by pairs and protocols, or, where there are
    several data sets, by those."""
    several = len({value.dataset for value in published.values}) > 1
    column = (lambda value: value.dataset) if several else _setting
    settings = dict.fromkeys(_setting(value) for value in published.values) if several else [""]
    parts = [
        f"{setting}\n\n{_cells([value for value in published.values if setting in ('', _setting(value))], column)}"
        for setting in settings
    ]
    return "\n\n".join([*(part.strip() for part in parts), published.about])


def _cells(values: Sequence[Value], column: Callable[[Value], str]) -> str:
    columns = list(dict.fromkeys(map(column, values)))
    losses = list(dict.fromkeys(value.loss for value in values))
    cells = {(value.loss, column(value)): value.text for value in values}
    lines = [f"| loss | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    lines += [f"| {loss} | {' | '.join(cells.get((loss, one), '') for one in columns)} |" for loss in losses]
    return "\n".join(lines)


def _setting(value: Value) -> str:
    protocol = f", {value.protocol}" if value.protocol else ""
    return value.pair.replace(":", " -> ") + protocol
