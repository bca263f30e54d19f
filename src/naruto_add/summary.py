"""The last run's figures and where to look, on the terminal: `python -m naruto_add.summary`."""

import json
import sys
from pathlib import Path

from naruto_add import paths
from naruto_add.catalog import notes
from naruto_add.model_card import SUBJECTS, metrics_table

PLACES = (
    (paths.GRIDS, "pictures: the same prompts and seeds, drawn by base, teacher and student"),
    (paths.CURVES, "loss curves; `dvc plots show` draws them"),
    (paths.EVALUATE_METRICS, "every figure of every model and control; docs/figures.md explains them"),
    (paths.SUBJECT_METRICS, "the headline figures of one; `dvc metrics show` and `dvc metrics diff` print them"),
    (paths.REPORT, "everything on one page, for a browser, offline"),
    (paths.REJECTS, "pictures that were not taken, each with its reason"),
    (paths.EXPORT, "the four-step student for diffusers; its README.md says how to use it"),
)


def summary(root: Path) -> str:
    """A table of every subject's figures and a list of the places that are there.

    Raises FileNotFoundError where the pipeline has not been run.
    """
    metrics = json.loads((root / paths.EVALUATE_METRICS).read_text(encoding="utf-8"))
    places = [f"  {path.as_posix():<30}{meaning}" for path, meaning in PLACES if (root / path).exists()]
    return "\n".join([_aligned(metrics_table(metrics)), *notes(metrics, SUBJECTS), "", "Look at", *places])


def main() -> None:
    """Print the summary of the working directory's pipeline."""
    try:
        sys.stdout.write(f"\n{summary(Path())}\n")
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename}: no such file; run the pipeline first (`dvc repro`)")


def _aligned(table: str) -> str:
    """A Markdown table as columns of even width; the rule below the head goes."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    del rows[1]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *rest = widths
    return "\n".join(
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], rest, strict=True))])
        for row in rows
    )


if __name__ == "__main__":
    main()
