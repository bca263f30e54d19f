"""The figures of an ablation: each variant's mean over its seeds and their spread, flat and as a table."""

import statistics
from collections.abc import Mapping, Sequence

from naruto_add.catalog import describe, headline, number

QUALITY = (
    *("fid", "fd_*", "kid", "kd_*", "recall", "coverage", "attribute_accuracy", "clip_score", "lpips", "pd_*"),
    "num_images",
)
"""Entries of the catalogue that variants are compared by, beside diversity: what pictures look like, not their cost."""
DIVERSITY = ("lpips_diversity", "pd_*_diversity")
NUM_SEEDS = "num_seeds"
ARROWS = {"lower": " ↓", "higher": " ↑"}


def quality_of(subject: str, metrics: Mapping[str, float | int]) -> dict[str, float]:
    """This subject's figures of quality and diversity, by their bare names."""
    rows = ((key.partition("."), value) for key, value in metrics.items())
    return {name: value for (owner, _, name), value in rows if owner == subject and _entry(name) in QUALITY + DIVERSITY}


def summarise(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float | int]:
    """`<variant>.<metric>.mean` and `.std` over the variant's runs, and `<variant>.num_seeds`.

    The spread is the sample standard deviation; a single run has none, and then there is no such key. Variants without
    runs are left out, and so are metrics that not all of a variant's runs have.
    """
    figures: dict[str, float | int] = {}
    for variant, rows in runs.items():
        if not rows:
            continue
        figures[f"{variant}.{NUM_SEEDS}"] = len(rows)
        for name in sorted(set.intersection(*(set(row) for row in rows))):
            values = [row[name] for row in rows]
            figures[f"{variant}.{name}.mean"] = statistics.fmean(values)
            if len(values) > 1:
                figures[f"{variant}.{name}.std"] = statistics.stdev(values)
    return figures


def table(figures: Mapping[str, float | int], variants: Sequence[str]) -> str:
    """A Markdown table of what `summarise` gave: a row for every variant with figures, `mean ± spread` in each cell."""
    shown = [variant for variant in variants if f"{variant}.{NUM_SEEDS}" in figures]
    names = metric_names(figures)
    heads = ["variant", "seeds", *(name + _arrow(name) for name in names)]
    rows = [
        [
            variant.replace("_", " "),
            str(figures[f"{variant}.{NUM_SEEDS}"]),
            *(mean_and_spread(figures, f"{variant}.{name}") for name in names),
        ]
        for variant in shown
    ]
    return _markdown(heads, rows)


def metric_names(figures: Mapping[str, float | int]) -> list[str]:
    """The metrics that any variant has, in the catalogue's order, diversity last."""
    names = {key.split(".")[1] for key in figures if key.endswith(".mean")}
    diversity = {name for name in names if _entry(name) in DIVERSITY}
    return headline(names - diversity) + sorted(diversity)


def mean_and_spread(figures: Mapping[str, float | int], key: str) -> str:
    """The mean with four digits, and the spread with two where there is one; empty where there is no mean."""
    mean, spread = figures.get(f"{key}.mean"), figures.get(f"{key}.std")
    if mean is None:
        return ""
    return number(mean) if spread is None else f"{number(mean)} ± {number(spread, digits=2)}"


def _entry(name: str) -> str:
    metric = describe(name)
    return metric.name if metric else ""


def _arrow(name: str) -> str:
    metric = describe(name)
    return ARROWS.get(metric.better, "") if metric else ""


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells padded, so that the table reads on a terminal too."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [[head.ljust(width) for head, width in zip(heads, widths, strict=True)]]
    lines.append(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    for first, *rest in rows:
        lines.append(
            [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
