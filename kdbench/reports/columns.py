"""The columns of a report: one list for all of its forms."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdbench.metrics.classification import GROUPS
from kdbench.reports.compare import Beside
from kdbench.reports.paired_tests import Comparison
from kdbench.reports.report import Line, Report
from kdbench.reports.rows import title
from kdbench.reports.statistics import mean_and_deviation, mean_and_std

Datum = float | int | str | None


@dataclass(frozen=True)
class Field:
    """A heading, what people read below it, and what a row is sorted by there (None: nothing to sort by).

    about: what the heading means.
    """

    heading: str
    text: Callable[[Line], str]
    sort: Callable[[Line], Datum]
    about: str = ""
    is_name: bool = False
    is_main: bool = False
    """What rows are judged by."""


def fields(lines: Sequence[Line]) -> list[Field]:
    """The columns that say something of these rows."""
    shown = [
        _name("pair", lambda line: line[0].row.pair.replace(":", " -> ")),
        *([_name("data", lambda line: line[0].row.dataset)] if _vary(lines, "dataset") else []),
        *([_name("setting", lambda line: line[0].setting)] if any(s.setting for s, _ in lines) else []),
        _name("loss", lambda line: line[0].row.loss),
        Field(
            f"last {title([series.row for series, _ in lines])} %",
            lambda line: mean_and_std(line[0].row.scores),
            lambda line: line[0].row.mean,
            "on test at the last epoch: mean ± sample standard deviation over the seeds",
            is_main=True,
        ),
        _number("n", lambda line: len(line[0].row.scores), "d", "seeds"),
        *[_group(name) for name in GROUPS if any(name in series.row.groups for series, _ in lines)],
        *[_best(key) for key in dict.fromkeys(series.row.best_key for series, _ in lines if series.row.best)],
    ]
    if any(beside for _, beside in lines):
        shown += PUBLISHED
    shown.append(_number("epochs", lambda line: line[0].row.epochs, "d", "the epoch that `last` is of"))
    if any(series.row.agreement is not None for series, _ in lines):
        shown.append(
            _number("agreement %", lambda line: line[0].row.agreement, ".1f", "with the teacher, on test")
        )
    shown.append(
        _number("training s", lambda line: line[0].row.seconds, ".0f", "without start and evaluation")
    )
    if any(series.notes or (beside and beside.why) for series, beside in lines):
        shown.append(_name("notes", _notes))
    return shown


PUBLISHED = [
    Field(
        "published %",
        lambda line: _published(line[1]) if line[1] else "",
        lambda line: line[1].value.mean if line[1] else None,
        "as its source has it",
    ),
    Field(
        "n pub.",
        lambda line: str(line[1].value.trials or "") if line[1] else "",
        lambda line: line[1].value.trials if line[1] else None,
        "trials of the published value",
    ),
    Field(
        "delta",
        lambda line: f"{line[1].delta:+.2f}" if line[1] and line[1].delta is not None else "-",
        lambda line: line[1].delta if line[1] else None,
        "measured less published, in points, of the accuracy that the source's choice of the epoch calls for",
    ),
    Field(
        "z",
        lambda line: f"{line[1].z:+.1f}" if line[1] and line[1].z is not None else "-",
        lambda line: line[1].z if line[1] else None,
        "delta / sqrt(s_published^2 / n_published + s^2 / n)",
    ),
    Field(
        "compared with",
        lambda line: f"{line[1].compared} ({line[1].selection})" if line[1] else "",
        lambda line: line[1].compared if line[1] else None,
        "which of our accuracies stands against the published one, and how the source chose its epoch",
        is_name=True,
    ),
]


def _published(found: Beside) -> str:
    value = found.value
    return f"{value.mean:.2f}" + (
        f" ± {value.std:.2f}" if value.std is not None and value.trials != 1 else ""
    )


def _vary(lines: Sequence[Line], name: str) -> bool:
    return len({getattr(series.row, name) for series, _ in lines}) > 1


def _name(heading: str, text: Callable[[Line], str]) -> Field:
    return Field(heading, text, text, is_name=True)


def _number(heading: str, value: Callable[[Line], Datum], form: str, about: str = "") -> Field:
    def text(line: Line) -> str:
        return "" if (found := value(line)) is None else format(found, form)

    return Field(heading, text, value, about)


def _best(key: str) -> Field:
    def found(line: Line) -> list[float]:
        return line[0].row.best if line[0].row.best_key == key else []

    return Field(
        f"{key} %",
        lambda line: mean_and_std(found(line)) if found(line) else "",
        lambda line: statistics.fmean(found(line)) if found(line) else None,
        "the same at the epoch best there: chosen on test, to compare with sources that did so, or on held-out images",
    )


def _group(name: str) -> Field:
    return Field(
        f"{name} %",
        lambda line: mean_and_std(values) if (values := line[0].row.groups.get(name)) else "",
        lambda line: statistics.fmean(values) if (values := line[0].row.groups.get(name)) else None,
        f"mean recall of the {name} classes at the last epoch",
    )


def _notes(line: Line) -> str:
    series, beside = line
    return "; ".join([*([beside.why] if beside and beside.why else []), *series.notes])


COMPARED = (
    "compared",
    "measure",
    "n",
    "mean difference",
    "95 % interval",
    "t",
    "t, Holm",
    "Wilcoxon",
    "Wilcoxon, Holm",
)
"""The headings of paired comparisons; the last four are p values."""


def compared(one: Comparison) -> tuple[str, ...]:
    """A comparison as text, by `COMPARED`."""
    result = one.result
    interval = "-" if result.low is None else f"{result.low:+.2f} to {result.high:+.2f}"
    ps = (result.t, one.t_holm, result.wilcoxon, one.wilcoxon_holm)
    about = (f"{one.second} - {one.first}", one.measure, str(result.n), f"{result.mean:+.2f}", interval)
    return (*about, *map(p_value, ps))


def p_value(value: float | None) -> str:
    """Three decimals are more than a few seeds can say."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def row_data(report: Report) -> list[dict[str, Datum]]:
    """The rows as plain data, a column for each number."""
    return [_row_data(line) for line in report.lines]


def _row_data(line: Line) -> dict[str, Datum]:
    series, found = line
    row = series.row
    teacher, _, student = row.pair.partition(":")
    names = {"dataset": row.dataset, "teacher": teacher, "student": student, "loss": row.loss}
    mean, std = mean_and_deviation(row.scores)
    best, best_std = mean_and_deviation(row.best) if row.best else (None, None)
    groups: dict[str, Datum] = {}
    for name in GROUPS:
        recalls = row.groups.get(name)
        groups[f"{name}_mean"], groups[f"{name}_std"] = (
            mean_and_deviation(recalls) if recalls else (None, None)
        )
    return {
        **names,
        "protocol": row.protocol,
        "setting": series.setting,
        "epochs": row.epochs,
        "n": len(row.scores),
        "seeds": " ".join(str(run.seed) for run in series.runs),
        "metric": row.task.metric,
        **{"last_mean": mean, "last_std": std},
        **{"best_chosen": row.best_key, "best_mean": best, "best_std": best_std},
        **groups,
        "agreement": row.agreement,
        "seconds": row.seconds,
        "published_mean": found.value.mean if found else None,
        "published_std": found.value.std if found else None,
        "published_trials": found.value.trials if found else None,
        "published_selection": found.selection if found else None,
        "published_status": found.source.status if found else None,
        "published_source": found.source.source if found else None,
        "compared": found.compared if found else None,
        "delta": found.delta if found else None,
        "z": found.z if found else None,
        "notes": _notes(line),
    }


def run_data(report: Report) -> list[dict[str, Datum]]:
    """The runs as plain data, one row each."""
    scores = ("top1", "top5", "accuracy", "token_accuracy", "agreement", "nll", "ece", *GROUPS)
    made: list[dict[str, Datum]] = []
    for place, series in enumerate(report.series):
        for run in series.runs:
            last, names = run.record["results"]["last"], run.record["names"]
            best = run.record["results"].get(series.row.best_key) or {}
            row: dict[str, Datum] = {
                "row": place,
                **{key: names[key] for key in ("dataset", "teacher", "student", "loss")},
            }
            row |= {"setting": series.setting, "seed": run.seed, "epochs": last["epoch"]}
            row |= {f"last_{name}": last.get(name) for name in scores}
            row |= {"best_chosen": series.row.best_key, "best_epoch": best.get("epoch")}
            row |= {"best_score": best.get(series.row.task.metric)}
            row |= {
                "teacher_score": (run.record.get("teacher") or {}).get(series.row.task.metric),
                "seconds": run.record["seconds"],
            }
            row |= {"recipe": run.record["hashes"].get("recipe"), "commit": run.record.get("commit")}
            made.append(row | {"found": run.where})
    return made
