"""Find the published value of a series, and check that both have the same recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdbench.reports.aggregate import Series
from kdbench.reports.compare import PublishedMatch, compare
from kdbench.reports.published import Published, Value, published_for, published_names
from kdbench.reports.recipe_diff import recipe_difference, variant_epochs


def published_sources(tables: Sequence[str]) -> list[Published]:
    """Return all published values, in the order in which `with_published` should search them.

    The sources of `tables` come first, then sources that give deviations, then the others.
    """
    read = {name: published_for(name) for name in dict.fromkeys([*tables, *published_names()])}
    sources = {name: source for name, source in read.items() if source is not None}

    def comes_last(name: str) -> bool:
        return name not in tables and all(value.std is None for value in sources[name].values)

    return [sources[name] for name in sorted(sources, key=comes_last)]  # sorting is stable


def with_published(series: Sequence[Series], sources: Sequence[Published]) -> list[Series]:
    """Give each series the value of the first source that has one."""
    return [replace(one, published=find_match(one, sources)) for one in series]


def find_match(series: Series, sources: Sequence[Published]) -> PublishedMatch | None:
    """Compare a series with the first source that has a value for it; None where no source has one."""
    for source in sources:
        if (value := find_value(series, source)) is not None:
            return match(series, value, source)
    return None


def find_value(series: Series, source: Published) -> Value | None:
    """Return the published value for the data set, pair, loss and protocol of a series; None if there is none.

    Authors often train on the first images of their files. The first images of our copy stand in for those, although
    their order differs: `match` does not compare the two.
    """
    protocol = series.protocol.replace("first-of-this-order", "first")
    key = series.dataset, series.pair, series.loss, protocol
    for value in source.values:
        if (value.dataset, value.pair, value.loss, value.protocol) == key:
            return value
    return None


def match(series: Series, value: Value, source: Published) -> PublishedMatch:
    """Compare a series with a published value, unless their recipes differ."""
    config = series.first.get("config")
    differences = []
    if series.protocol != value.protocol:
        differences.append(f"other images ({series.protocol})")
    every = (config or {}).get("evaluate_every", 1)
    if "best" in (value.selection or source.selection) and every != 1:
        differences.append(f"the best of every {every} epochs")
    trained = (series.first.get("teacher") or {}).get("epoch")
    if (usual := variant_epochs(series.teacher)) and trained not in (None, usual):
        differences.append(f"a teacher of {trained} epochs, not {usual}")
    if config is not None and (recipe := recipe_difference(config, source.table, series.pair, series.loss)):
        differences.append(recipe)
    return compare(series.scores, series.best_on_test, series.epochs, value, source, "; ".join(differences))
