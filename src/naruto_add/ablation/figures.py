"""The results of an ablation: mean and standard deviation over seeds for each variant, as flat JSON and as a table."""

import statistics
from collections.abc import Mapping, Sequence

from naruto_add.evaluation.catalog import describe, headline, number
from naruto_add.reporting.tables import Metrics, markdown_table

QUALITY = (
    *("fid", "fd_*", "kid", "kd_*", "recall", "coverage", "clip_score", "lpips", "pd_*"),
    *("attribute_accuracy", "attribute_accuracy_headwear_present", "attribute_accuracy_*"),
    "num_images",
)
"""Names in the catalog of the quality metrics that variants are compared by."""
DIVERSITY = ("lpips_diversity", "pd_*_diversity")
NUM_SEEDS = "num_seeds"
ARROWS = {"lower": " ↓", "higher": " ↑"}


def quality_of(subject: str, metrics: Metrics) -> dict[str, float]:
    """The subject's metrics of quality and diversity, by name without the subject."""
    rows = ((key.partition("."), value) for key, value in metrics.items())
    return {
        name: value
        for (owner, _, name), value in rows
        if owner == subject and _catalog_name(name) in QUALITY + DIVERSITY
    }


def summarize(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float | int]:
    """`<variant>.<metric>.mean` and `.std` over the variant's runs, and `<variant>.num_seeds`.

    `.std` is the sample standard deviation; it is missing for a single run. A variant without runs has no keys, and
    neither has a metric that one of the variant's runs lacks.
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


def table(figures: Metrics, variants: Sequence[str]) -> str:
    """What `summarize` returned as a Markdown table: one row for each variant that has runs."""
    names = metric_names(figures)
    rows = [
        [
            variant.replace("_", " "),
            str(figures[f"{variant}.{NUM_SEEDS}"]),
            *(mean_and_spread(figures, f"{variant}.{name}") for name in names),
        ]
        for variant in variants
        if f"{variant}.{NUM_SEEDS}" in figures
    ]
    return markdown_table(["variant", "seeds", *(name + _arrow(name) for name in names)], rows)


def metric_names(figures: Metrics) -> list[str]:
    """The metrics that at least one variant has, in the catalog's order, diversity last."""
    names = {key.split(".")[1] for key in figures if key.endswith(".mean")}
    diversity = {name for name in names if _catalog_name(name) in DIVERSITY}
    return headline(names - diversity) + sorted(diversity)


def mean_and_spread(figures: Metrics, key: str) -> str:
    """`mean ± std` with four and two significant digits; only the mean for a single run; empty without a mean."""
    mean, spread = figures.get(f"{key}.mean"), figures.get(f"{key}.std")
    if mean is None:
        return ""
    return number(mean) if spread is None else f"{number(mean)} ± {number(spread, digits=2)}"


def _catalog_name(name: str) -> str:
    metric = describe(name)
    return metric.name if metric else ""


def _arrow(name: str) -> str:
    metric = describe(name)
    return ARROWS.get(metric.better, "") if metric else ""
