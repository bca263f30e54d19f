"""Tables of metrics: Markdown for the terminal and the model card, and rows of cells for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from naruto_add.evaluation.catalog import (
    FEW_MARK,
    Metric,
    describe,
    headline,
    interval,
    is_companion,
    is_flagged,
    number,
)

SUBJECTS = ("base", "teacher_full", "teacher", "student", "distilled")
"""Columns of the Markdown table, in this order."""

Metrics = Mapping[str, float | int]
"""Values by `<subject>.<metric>`, as in metrics/evaluate.json."""


@dataclass(frozen=True)
class Cell:
    """A value as text, and the text below it: its interval or its spread."""

    value: str
    note: str


@dataclass(frozen=True)
class Row:
    """One metric. `metric` is its entry in the catalog; `few`: computed on fewer than 2,048 pictures."""

    name: str
    metric: Metric | None
    few: bool
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """Column headings, and a row for each metric."""

    columns: Sequence[str]
    rows: Sequence[Row]


def metrics_table(metrics: Metrics) -> str:
    """A Markdown table of the headline metrics, with one column for each subject that has any."""
    subjects = [subject for subject in SUBJECTS if any(key.startswith(f"{subject}.") for key in metrics)]
    names = headline({key.partition(".")[2] for key in metrics if key.partition(".")[0] in subjects})
    rows = [
        [
            f"{name} {FEW_MARK}" if is_flagged(metrics, name, subjects) else name,
            _better(name),
            *(_text(metrics, f"{subject}.{name}") for subject in subjects),
        ]
        for name in names
    ]
    return markdown_table(["metric", "better", *subjects], rows)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose cells are padded, so that it is readable as plain text."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_padded(heads, widths), rule, *(_padded(row, widths) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def subject_table(metrics: Metrics, subjects: Sequence[str], *, headline_only: bool) -> Table:
    """A column for each of the subjects, and a row for each metric that any of them has: headline metrics first."""
    keys = [key.partition(".") for key in metrics]
    names = {name for subject, _, name in keys if subject in subjects and not is_companion(name)}
    order = headline(names)
    if not headline_only:
        order += sorted(names - set(order))
    rows = [
        Row(
            name,
            describe(name),
            is_flagged(metrics, name, subjects),
            [_cell(metrics, f"{subject}.{name}") for subject in subjects],
        )
        for name in order
    ]
    return Table([subject.replace("_", " ") for subject in subjects], rows)


def ablation_table(metrics: Metrics) -> Table:
    """A column for each variant in metrics/ablation.json. A cell has the mean over seeds and the standard deviation."""
    variants = list(dict.fromkeys(key.partition(".")[0] for key in metrics))
    names = {key.split(".")[1] for key in metrics if key.endswith(".mean")}
    order = [*headline(names), *sorted(names - set(headline(names)))]
    rows = [
        Row(name, describe(name), few=False, cells=[_mean_cell(metrics, variant, name) for variant in variants])
        for name in order
    ]
    return Table([variant.replace("_", " ") for variant in variants], rows)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The first cell is aligned to the left, the others to the right."""
    first, *rest = row
    return [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]


def _better(name: str) -> str:
    metric = describe(name)
    return metric.better if metric else ""


def _text(metrics: Metrics, key: str) -> str:
    """The value, with its 95% interval in parentheses."""
    if key not in metrics:
        return ""
    bounds = interval(metrics, key)
    return number(metrics[key]) + (f" ({number(bounds[0])} to {number(bounds[1])})" if bounds else "")


def _cell(metrics: Metrics, key: str) -> Cell:
    bounds = interval(metrics, key)
    note = f"{number(bounds[0], digits=3)} to {number(bounds[1], digits=3)}" if bounds else ""
    return Cell(number(metrics[key]) if key in metrics else "", note)


def _mean_cell(metrics: Metrics, variant: str, name: str) -> Cell:
    mean, spread = (metrics.get(f"{variant}.{name}.{key}") for key in ("mean", "std"))
    if mean is None:
        return Cell("", "")
    num_seeds = number(metrics[f"{variant}.num_seeds"])
    return Cell(number(mean), "1 seed" if spread is None else f"± {number(spread, digits=2)}, {num_seeds} seeds")
