"""report.md: a run's metrics, health checks and exports in Markdown, as the comment of a tool such as CML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from naruto_add.config import paths
from naruto_add.config.schema import Params
from naruto_add.evaluation.catalog import notes, number
from naruto_add.reporting.report import GRIDS, TRAINED, health_checks, read_metrics, run_facts
from naruto_add.reporting.tables import SUBJECTS, markdown_table, metrics_table
from naruto_add.runtime.errors import shown
from naruto_add.runtime.files import atomic_write_bytes

EXPORT_COLUMNS = ("size_mib", "latency_batch_1_ms", "latency_batch_8_ms")


def write_markdown_report(params: Params, *, root: Path) -> None:
    """Write report.md in `root`. Raises StageError if metrics/evaluate.json does not exist."""
    atomic_write_bytes(root / paths.MARKDOWN_REPORT, _text(params, root).encode())


def _text(params: Params, root: Path) -> str:
    """The report as Markdown, with links relative to `root`."""
    metrics = read_metrics(root / paths.METRICS)
    facts = [f"- {name}: {_plain(value)}" for name, value in run_facts(params, metrics)]
    table = [metrics_table(metrics["evaluate"]), *notes(metrics["evaluate"], SUBJECTS)]
    checks = [
        f"- {':white_check_mark:' if check.passed else ':warning:'} {check.stage}: {check.text}"
        for stage in TRAINED
        for check in health_checks(stage, metrics.get(stage, {}), params)
    ]
    sections = {
        "": "\n".join(facts),
        "Metrics": "\n\n".join(table),
        "Health": "\n".join(checks),
        "Exports": _exports(metrics.get("export", {})),
        "Pictures": "\n\n".join(_pictures(root)),
    }
    parts = [f"## {title}\n\n{text}" if title else text for title, text in sections.items() if text]
    return "\n\n".join(["# Results", *parts]) + "\n"


def _exports(figures: Mapping[str, Any]) -> str:
    """A row for each format, and for each model that was timed for comparison."""
    if not figures:
        return ""
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in figures))
    rows = []
    for name in names:
        own = {key.rpartition(".")[2]: value for key, value in figures.items() if key.rpartition(".")[0] == name}
        differences = [f"{key} {number(value)}" for key, value in own.items() if "diff" in key]
        cells = [number(own[column]) if column in own else "" for column in EXPORT_COLUMNS]
        rows.append([name, *cells, ", ".join(differences)])
    return markdown_table(["format", *EXPORT_COLUMNS, "differences from the model"], rows)


def _pictures(root: Path) -> list[str]:
    files = sorted((root / paths.GRIDS).rglob("*.png"))
    order = list(GRIDS)
    known = [file for file in files if file.stem in order]
    return [
        f"![{GRIDS[file.stem]}]({file.relative_to(root).as_posix()})"
        for file in sorted(known, key=lambda file: order.index(file.stem))
    ]


def _plain(text: str) -> str:
    """Text of foreign origin on one line, without Markdown's meaning of its characters."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#!" else char for char in shown(text))
