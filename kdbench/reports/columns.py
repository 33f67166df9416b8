"""The tables of a report: results, teachers, paired comparisons and provenance."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.core.class_groups import CLASS_GROUPS
from kdbench.reports.aggregate import Series
from kdbench.reports.model import Cell, Column, Row, Table, Value, decimals, text_table
from kdbench.reports.paired_tests import Comparison
from kdbench.reports.provenance import UNCHANGED, origins
from kdbench.reports.read import Run
from kdbench.reports.statistics import mean_and_deviation
from kdbench.reports.teachers import Teacher

_DELTA = "measured minus published, in points, of the accuracy at the epoch that the source would have chosen"


def results_table(series: Sequence[Series]) -> Table:
    """Return the rows of a report. Columns that hold no information about these rows are not printed."""
    return Table(_columns(series), [_row(one) for one in series])


def _columns(series: Sequence[Series]) -> list[Column]:
    has_published = any(one.published for one in series)
    has_agreement = any(one.agreement is not None for one in series)
    prints_epochs = has_published or len({one.epochs for one in series}) > 1
    return [
        *_name_columns(series),
        *_score_columns(series, has_published),
        *_published_columns(has_published),
        Column("epochs", "epochs", "number", about="number of the last epoch", is_printed=prints_epochs),
        Column(
            "agreement",
            "agreement %",
            "number",
            decimals(1),
            "with the teacher, on test",
            is_printed=has_agreement,
        ),
        Column("seconds", "training s", "number", decimals(0), "without start-up and evaluation"),
        Column("notes", "notes", "text", is_printed=any(_notes(one) for one in series)),
        *(_name(key, key, is_printed=False) for key in ("seeds", "metric", "best_chosen")),
    ]


def _name_columns(series: Sequence[Series]) -> list[Column]:
    has_protocols = len({one.protocol for one in series}) > 1
    return [
        Column("pair", "pair"),
        *(_name(key, key, is_printed=False) for key in ("teacher", "student")),
        _name("variant", "variant", is_printed=_prints_variant(series)),
        Column("protocol", "protocol", blank=UNCHANGED, is_printed=has_protocols),
        _name("dataset", "dataset", is_printed=_prints_dataset(series)),
        _name("setting", "setting", is_printed=any(one.setting for one in series)),
        Column("loss", "loss"),
    ]


def _score_columns(series: Sequence[Series], has_published: bool) -> list[Column]:
    best_keys = dict.fromkeys(one.best_key for one in series if one.best)
    last = Column(
        "last",
        f"last {main_score(series)} %",
        "number",
        decimals(2),
        "on test at the last epoch: mean ± sample standard deviation over the seeds",
        has_std=True,
        is_main=True,
    )
    best = Column(
        "best",
        f"{' or '.join(best_keys)} %",
        "number",
        decimals(2),
        "the same at the best epoch, chosen on test (to compare with sources that do so) or on held-out images",
        has_std=True,
        prints_std=has_published,  # z depends on it
        is_printed=bool(best_keys),
    )
    groups = [_group(name, any(name in one.groups for one in series)) for name in CLASS_GROUPS]
    return [last, Column("n", "n", "number", about="number of seeds"), *groups, best]


def _name(key: str, heading: str, is_printed: bool) -> Column:
    return Column(key, heading, is_printed=is_printed)


def _group(name: str, is_printed: bool) -> Column:
    about = f"mean recall of the {name} classes at the last epoch"
    return Column(name, f"{name} %", "number", decimals(2), about, has_std=True, is_printed=is_printed)


def _published_columns(are_printed: bool) -> list[Column]:
    return [
        Column(
            "published",
            "published %",
            "number",
            decimals(2),
            "as its source gives it",
            has_std=True,
            is_printed=are_printed,
        ),
        Column(
            "published_trials",
            "n pub.",
            "number",
            about="number of trials of the published value",
            is_printed=are_printed,
        ),
        Column("delta", "delta", "number", decimals(2, "+"), _DELTA, is_printed=are_printed),
        Column(
            "z",
            "z",
            "number",
            decimals(1, "+"),
            "delta / sqrt(s_published^2 / n_published + s^2 / n)",
            is_printed=are_printed,
        ),
        Column(
            "compared_with",
            "compared with",
            about="which of our accuracies is compared with the published one, and how the source chose its epoch",
            is_printed=are_printed,
        ),
        *(
            _name(key, key, is_printed=False)
            for key in ("compared", "published_selection", "published_status", "published_source")
        ),
    ]


def _prints_variant(series: Sequence[Series]) -> bool:
    """Whether the variants say more than the protocols do."""
    settings = {(one.variant, one.dataset, one.protocol) for one in series}
    return any(one.variant for one in series) and len(settings) > len({one.protocol for one in series})


def _prints_dataset(series: Sequence[Series]) -> bool:
    """Whether the runs of one variant are scored on several data sets."""
    datasets: dict[str, set[str]] = {}
    for one in series:
        datasets.setdefault(one.variant, set()).add(one.dataset)
    return any(len(names) > 1 for names in datasets.values())


def main_score(series: Sequence[Series]) -> str:
    """Return the title of the main score of these series."""
    return " or ".join(dict.fromkeys(one.task.title for one in series))


def _row(series: Series) -> Row:
    best = {"best": _mean(series.best)} if series.best else {}
    cells = {
        "pair": Cell(series.pair.replace(":", " -> ")),
        "teacher": Cell(series.teacher),
        "student": Cell(series.student),
        "variant": Cell(series.variant),
        "protocol": Cell(series.protocol),
        "dataset": Cell(series.dataset),
        "setting": Cell(series.setting),
        "loss": Cell(series.loss),
        "last": _mean(series.scores),
        "n": Cell(len(series.scores)),
        **{name: _mean(recalls) for name, recalls in series.groups.items()},
        **best,
        **_published_cells(series),
        "seconds": Cell(series.seconds),
        "notes": Cell(_notes(series)),
        "seeds": Cell(" ".join(str(run.seed) for run in series.runs)),
        "metric": Cell(series.task.metric),
        "best_chosen": Cell(series.best_key),
    }
    numbers = {"epochs": series.epochs, "agreement": series.agreement}
    return Row(cells | {key: Cell(value) for key, value in numbers.items() if value is not None})


def _mean(values: Sequence[float]) -> Cell:
    mean, std = mean_and_deviation(values)
    return Cell(mean, std, len(values))


def _published_cells(series: Series) -> dict[str, Cell]:
    match = series.published
    if match is None:
        return {}
    value, source = match.value, match.source
    trials = {} if value.trials is None else {"published_trials": Cell(value.trials)}
    std = None if value.trials == 1 else value.std
    return trials | {
        "published": Cell(value.mean, std, value.trials, source.status),
        "delta": Cell(match.delta, note=match.reason),
        "z": Cell(match.z, note=match.reason),
        "compared_with": Cell(f"{match.compared} ({match.selection})"),
        "compared": Cell(match.compared),
        "published_selection": Cell(match.selection),
        "published_status": Cell(source.status),
        "published_source": Cell(source.source),
    }


def _notes(series: Series) -> str:
    reason = series.published.reason if series.published else ""
    return "; ".join([*([reason] if reason else []), *series.notes])


def teachers_table(teachers: Sequence[Teacher]) -> Table:
    """Return the teachers with their accuracies, next to the published networks of their names."""
    columns = [
        Column("teacher", "teacher"),
        Column("dataset", "dataset"),
        Column("test", "test %", "number", decimals(2)),
        Column("published", "published %", "number", decimals(2)),
        Column("gap", "gap", "number", decimals(2, "+"), "measured minus published, in points"),
        Column("weights", "weights", about="start of the hash of the weights"),
        Column("notes", "notes", "text"),
    ]
    rows = []
    for one in teachers:
        cells = {
            "teacher": Cell(f"{one.name} ({one.origin})" if one.origin else one.name),
            "dataset": Cell(one.dataset),
            "test": _mean(one.scores),
            "weights": Cell(one.weights),
            "notes": Cell("; ".join([*one.measures, *one.training])),
        }
        if one.gap is not None:
            about = f"after {one.published_epochs} epochs"
            cells |= {"published": Cell(one.published, note=about), "gap": Cell(one.gap)}
        rows.append(Row(cells))
    return Table(columns, rows, "Teachers")


def p_value(value: float) -> str:
    """Format a p value with three decimals, which is all that a few seeds can tell."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


COMPARISON_COLUMNS = (
    Column("compared", "compared"),
    Column("measure", "measure"),
    Column("n", "n", "number"),
    Column("difference", "mean difference", "number", decimals(2, "+")),
    Column("interval", "95 % interval", "number"),
    Column("t", "t", "number", p_value),
    Column("t_holm", "t, Holm", "number", p_value),
    Column("wilcoxon", "Wilcoxon", "number", p_value),
    Column("wilcoxon_holm", "Wilcoxon, Holm", "number", p_value),
    Column("low", "low", "number", is_printed=False),
    Column("high", "high", "number", is_printed=False),
)
"""The columns of paired comparisons; `t` to `wilcoxon_holm` are p values."""


def comparison_tables(comparisons: Sequence[Comparison], least: int = 1) -> list[Table]:
    """Return one table for each family of comparisons that are based on at least `least` seeds."""
    families: dict[str, list[Row]] = {}
    for one in comparisons:
        if one.result.n >= least:
            families.setdefault(one.family, []).append(_comparison_row(one))
    return [Table(COMPARISON_COLUMNS, rows, family) for family, rows in families.items()]


def _comparison_row(one: Comparison) -> Row:
    result = one.result
    interval = None if result.low is None else f"{result.low:+.2f} to {result.high:+.2f}"
    values: dict[str, Value] = {
        "compared": f"{one.second} - {one.first}",
        "measure": one.measure,
        "n": result.n,
        "difference": result.mean,
        "interval": interval,
        "t": result.t,
        "t_holm": one.t_holm,
        "wilcoxon": result.wilcoxon,
        "wilcoxon_holm": one.wilcoxon_holm,
        "low": result.low,
        "high": result.high,
    }
    return Row({key: Cell(value) for key, value in values.items()})


def comparison_caption(comparisons: Sequence[Comparison], least: int = 1) -> str:
    """Explain the numbers of paired comparisons on at least `least` seeds; empty where there are none."""
    seeds = [one.result.n for one in comparisons if one.result.n >= least]
    if not seeds:
        return ""
    return (
        "Differences within seeds, in points, with Student's 95 % interval (not corrected); p of the paired t test and "
        "of Wilcoxon's signed-rank test, two-sided, each also corrected by Holm's method over the comparisons of one "
        f"family and measure. With {min(seeds)} pairs Wilcoxon's p cannot fall below {2 / 2 ** min(seeds):.2g}."
    )


def provenance_table(runs: Sequence[Run]) -> Table:
    """Return where the runs were made: machine, versions and commit."""
    return text_table("Provenance", origins(runs))
