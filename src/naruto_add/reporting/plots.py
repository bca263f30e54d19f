"""The report's line charts, read from the TSV files in metrics/curves. `dvc plots show` draws the same ones."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_add.reporting.charts import Chart, Point, Series, thin
from naruto_add.runtime.errors import StageError

Row = Mapping[str, str]


@dataclass(frozen=True)
class Plot:
    """Columns of one file in metrics/curves, drawn over its column `x`."""

    title: str
    file: str
    x: str
    columns: Sequence[str]


PLOTS = (
    Plot("Teacher, training loss", "teacher.tsv", "step", ("loss",)),
    Plot("Teacher, validation loss", "teacher_validation.tsv", "step", ("validation_loss",)),
    Plot("Student, losses of the warm-up", "student.tsv", "step", ("task", "output", "feature")),
    Plot("Student, gradient norm of the warm-up", "student.tsv", "step", ("grad_norm",)),
    Plot("Student, squared error of held-out pool samples", "student_validation.tsv", "step", ("sample_mse",)),
    Plot("ADD, losses", "add.tsv", "step", ("pair_loss", "renoised_loss", "adv_loss", "disc_loss")),
    Plot("ADD, mean logits of real and fake", "add.tsv", "step", ("real_logit", "fake_logit")),
    Plot("ADD, gradient norm of the student", "add.tsv", "step", ("student_grad_norm",)),
    Plot("ADD, distance of held-out pool samples to real pictures", "add_validation.tsv", "step", ("score",)),
    Plot(
        "ADD, colour drift, diversity and prompt match of held-out pool samples",
        "add_validation.tsv",
        "step",
        ("colour_drift", "diversity", "prompt_match"),
    ),
    Plot(
        "Frechet distance against latency (ms) by number of steps, teacher and distilled student",
        "sweep.tsv",
        "latency_ms",
        ("distance",),
    ),
)


def read_charts(folder: Path) -> Iterator[Chart]:
    """A chart for each of PLOTS whose file exists in `folder` and has values. Raises StageError for a damaged file."""
    for plot in PLOTS:
        path = folder / plot.file
        try:
            rows = _rows(path) if path.exists() else []
            series = _series(rows, plot.x, plot.columns)
        except (ValueError, csv.Error) as error:
            raise StageError(
                f"{path}: this file is damaged ({error}); delete it and run `dvc repro`, which makes it again"
            ) from error
        if series:
            yield Chart(plot.title, plot.x.replace("_", " "), series, plot.x != "step", _y_name(plot, rows))


def _rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _y_name(plot: Plot, rows: Sequence[Row]) -> str:
    """The name of the only column, with what the column `metric` says that it is; the legend names several columns."""
    if len(plot.columns) > 1:
        return ""
    metrics = {row["metric"] for row in rows if row.get("metric")}
    return plot.columns[0].replace("_", " ") + (f" ({', '.join(sorted(metrics))})" if metrics else "")


def _series(rows: Sequence[Row], x: str, columns: Sequence[str]) -> list[Series]:
    """One line per column. If the file has a column `subject`, one line per subject."""
    subjects = list(dict.fromkeys(row.get("subject", "") for row in rows))
    lines = [
        Series(subject or column, _points([row for row in rows if row.get("subject", "") == subject], x, column))
        for subject in subjects
        for column in columns
    ]
    return [line for line in lines if line.points]


def _points(rows: Sequence[Row], x: str, column: str) -> list[Point]:
    """Rows without a value (skipped steps) are left out. A column `steps` labels the points."""
    return thin(
        [
            Point(float(row[x]), float(row[column]), row.get("steps", ""))
            for row in rows
            if row.get(x) and row.get(column)
        ]
    )
