"""Published numbers, as data.

experiments/TABLE/published.yaml belongs to a table, experiments/literature/NAME/published.yaml has no grid that kdbench
can run, and experiments/networks/DATASET.yaml holds networks trained on labels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdbench.utils.paths import EXPERIMENTS_DIR
from kdbench.utils.typed_yaml import read_typed

ACCEPTED_STATUSES = ("verified", "derived", "secondary")
"""Statuses of numbers that may be shown; numbers from memory may not."""


@dataclass
class Value:
    """A published accuracy, with the setting that it holds for.

    Attributes:
        dataset: Data set.
        pair: `teacher:student`.
        loss: Name of the loss.
        protocol: What the student saw of the training set; empty for all of it.
        mean: Mean accuracy in per cent.
        std: Standard deviation over the trials, as the source gives it.
        trials: Number of trials.
        weights: Loss weights of the source, where they differ from our recipe.
        selection: How the epoch was chosen, where this differs between the values of a source.
    """

    dataset: str
    pair: str
    loss: str
    protocol: str
    mean: float
    std: float | None = None
    trials: int | None = None
    weights: str = ""
    selection: str = ""

    @property
    def text(self) -> str:
        """The value with all that is known about it, as tables print it."""
        std = f" ± {self.std:.2f}" if self.std is not None and self.trials != 1 else ""
        about = [f"n = {self.trials}"] if self.trials else []
        about += [remark for remark in (self.weights, self.selection) if remark]
        return f"{self.mean:.2f}{std}" + (f" ({'; '.join(about)})" if about else "")


@dataclass
class Grid:
    """Values in the layout of a paper's table, losses by pairs, on the unchanged data set.

    Attributes:
        dataset: Data set.
        pairs: The columns.
        mean: By loss, a mean (or null) for each pair.
        std: By loss, a standard deviation (or null) for each pair.
        trials: Number of trials by loss.
        selections: How the epoch was chosen, by loss.
    """

    dataset: str
    pairs: list[str] = field(default_factory=list)
    mean: dict[str, list[float | None]] = field(default_factory=dict)
    std: dict[str, list[float | None]] = field(default_factory=dict)
    trials: dict[str, int] = field(default_factory=dict)
    selections: dict[str, str] = field(default_factory=dict)

    def values(self) -> list[Value]:
        """Return one value for each number.

        Raises:
            ValueError: A row has another length than `pairs`, or there is a deviation without a mean.
        """
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
    """The values of one source. A file may list them in `values` or `grid`; once read, `values` holds all.

    Attributes:
        source: Where the numbers were published.
        status: `verified` numbers were read in the source, `derived` ones computed from it, `secondary` ones are
            published by others than the authors.
        selection: How the source chose the epoch that it reports.
        epochs: Number of epochs trained; 0 where the source does not say.
        note: What else a reader should know.
        table: The table whose grid has the recipe of the values; the name of the folder by default.
        values: The values.
        grid: The values in the layout of a paper's table.
    """

    source: str
    status: str
    selection: str
    epochs: int = 0
    note: str = ""
    table: str = ""
    values: list[Value] = field(default_factory=list)
    grid: Grid | None = None

    @property
    def about(self) -> str:
        """The source of the numbers, in one line."""
        epochs = f", {self.epochs} epochs" if self.epochs else ""
        return f"Published ({self.status}{epochs}): {self.source}. {self.note}".strip()


def published_names() -> list[str]:
    """Return the names of all published numbers: tables, and folders of experiments/literature."""
    return sorted(_published_files())


def _published_files() -> dict[str, Path]:
    patterns = ("*/published.yaml", "literature/*/published.yaml")
    return {file.parent.name: file for pattern in patterns for file in EXPERIMENTS_DIR.glob(pattern)}


def published_for(table: str) -> Published | None:
    """Return the published values of a name, or None; numbers quoted from memory are left out.

    Args:
        table: Name of a table, or of a folder in experiments/literature.

    Raises:
        ValueError: published.yaml does not fit the schema.
    """
    file = _published_files().get(table)
    if file is None or (source := read_typed(Published, file)).status not in ACCEPTED_STATUSES:
        return None
    source.table = source.table or table
    if source.grid is not None:
        try:
            source.values += source.grid.values()
        except ValueError as error:
            raise ValueError(f"{file}, {error}") from error
    return source


@dataclass
class Networks:
    """Published accuracies of networks trained on labels alone: experiments/networks/DATASET.yaml.

    Attributes:
        dataset: Data set.
        source: Where the numbers were published.
        status: As in `Published`.
        epochs: Number of epochs trained.
        top1: Top-1 accuracy in per cent, by network.
    """

    dataset: str
    source: str
    status: str
    epochs: int
    top1: dict[str, float] = field(default_factory=dict)


def networks(dataset: str) -> Networks | None:
    """Return the published networks of a data set; None where there are none.

    Raises:
        ValueError: The file does not fit the schema.
    """
    file = EXPERIMENTS_DIR / "networks" / f"{dataset}.yaml"
    return read_typed(Networks, file) if file.is_file() else None


def published_markdown(published: Published) -> str:
    """Return the values of a source as Markdown, followed by the source.

    Losses are rows; pairs and protocols are columns, or data sets where there are several.
    """
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
