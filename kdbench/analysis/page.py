"""The numbers of an analysis as table rows and as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.analysis.plot_style import Picture
from kdbench.utils.formatting import markdown_table

Row = dict[str, str]

ONE_SIDE = (
    ("top1", "top-1 %", ".2f"),
    ("top5", "top-5 %", ".2f"),
    ("nll", "NLL, nats", ".4f"),
    ("ece", "ECE %, bins of equal width", ".2f"),
    ("ece_equal_mass", "ECE %, bins of equal mass", ".2f"),
    ("confidence", "mean top-1 probability %", ".2f"),
    ("brier", "Brier score (0 to 2)", ".4f"),
    ("shannon_entropy", "Shannon entropy, nats", ".4f"),
    ("renyi_entropy", "Renyi entropy of order gamma, nats", ".4f"),
    ("cmi", "CMI, nats", ".4f"),
)
TERMS = (
    ("transformed_kl", "D(p_T, q), nats"),
    ("distillation", "= T D(p_T, q_T)"),
    ("student_entropy", "- (T - 1) H_gamma(q)"),
    ("teacher_entropy", "+ (T - 1) H(p_T)"),
)
WORST = 5


def side_rows(numbers: Mapping[str, Any]) -> list[Row]:
    """Return the numbers of each network: one row per number, one column per network."""
    return [
        {"": label, **{_title(side): format(side[key], form) for side in _sides(numbers)}}
        for key, label, form in ONE_SIDE
    ]


def pair_rows(numbers: Mapping[str, Any]) -> list[Row]:
    """Return the numbers of the pair, one row each; none without a reference."""
    pair = numbers["pair"]
    if pair is None:
        return []
    ttm, cka, correlation = pair["ttm"], pair["cka"], pair["correlation_difference"]
    values = {
        "top-1 agreement %": f"{pair['agreement']:.2f}",
        "D(p, q), nats": f"{pair['predictive_kl']:.4f}",
        **{label: f"{ttm[key]:.4f}" for key, label in TERMS},
        "residual of the identity": f"{ttm['residual']:.1e}",
        "linear CKA of pooled features, unbiased": _or_none(cka["unbiased"]),
        "linear CKA of pooled features, biased": _or_none(cka["biased"]),
        "difference of logit correlations, mean": f"{correlation['mean']:.4f}",
        "difference of logit correlations, largest": f"{correlation['max']:.4f}",
    }
    return [{"": label, "value": value} for label, value in values.items()]


def page(numbers: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """Return the page: numbers, plots and provenance, as Markdown."""
    sides, data, gamma = _sides(numbers), numbers["dataset"], numbers["gamma"]
    parts = [
        f"# {' and '.join(_title(side) for side in sides)} on {data['name']}",
        f"{data['images']:,} images ({data['split']}) of {data['classes']} classes. gamma = {gamma['value']:g} "
        f"({gamma['from']}), T = 1 / gamma. docs/analyze.md defines each number.",
    ]
    origins = [f"{_title(side)}: `{side['file']}`, weights {side['hash'][:12]}" for side in sides]
    parts.append("\n".join(f"* {line}" for line in (*origins, *numbers["notes"])))
    parts.append(markdown_table(side_rows(numbers)))
    if numbers["pair"]:
        reference, subject = sides
        parts += [
            f"## Comparison\n\np is the output of the {_title(reference)}, q that of the {_title(subject)}; p_T and "
            f"q_T are the outputs at temperature T.",
            markdown_table(pair_rows(numbers)),
        ]
    parts += _classes(sides)
    parts += [f"## {one.title}\n\n![{one.title}]({one.file})\n\n{one.caption}" for one in pictures]
    return "\n\n".join([*parts, _footer(numbers)]) + "\n"


def _sides(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [side for side in (numbers["reference"], numbers["subject"]) if side is not None]


def _title(side: Mapping[str, Any]) -> str:
    return f"{side['role']} {side['model']}"


def _or_none(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _classes(sides: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the classes with the lowest accuracy of each network, and its most frequent confusions."""
    worst = [
        {"": f"{place}.", **{_title(side): _nth(_worst(side), place) for side in sides}}
        for place in range(1, WORST + 1)
    ]
    confused = [
        {"": f"{place}.", **{_title(side): _nth(_confused(side), place) for side in sides}}
        for place in range(1, 1 + max(len(side["confusions"]) for side in sides))
    ]
    parts = [f"## Classes\n\nThe {WORST} with the lowest accuracy:", markdown_table(worst)]
    return [
        *parts,
        "The largest confusions (true -> predicted, in per cent of the true class):",
        markdown_table(confused),
    ]


def _worst(side: Mapping[str, Any]) -> list[str]:
    known = [row for row in side["classes"] if row["accuracy"] is not None]
    ranked = sorted(known, key=lambda row: row["accuracy"])[:WORST]
    return [f"{row['class']} {row['accuracy']:.1f} %" for row in ranked]


def _confused(side: Mapping[str, Any]) -> list[str]:
    return [f"{row['true']} -> {row['predicted']} {row['share']:.1f} %" for row in side["confusions"]]


def _nth(items: Sequence[str], place: int) -> str:
    return items[place - 1] if place <= len(items) else ""


def _footer(numbers: Mapping[str, Any]) -> str:
    origin = numbers["provenance"]
    machine, torch = origin["machine"]["processor"], origin["versions"]["torch"]
    return (
        f"Created by `{numbers['command']}` on {machine}, torch {torch}, commit {origin['commit']}, "
        f"{origin['started']}. All numbers: analysis.json; class-by-class matrices: matrices.npz."
    )
