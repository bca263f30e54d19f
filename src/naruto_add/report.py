"""One HTML page of a whole run that needs nothing beside it: `make report` writes it.

It is made of params.yaml, metrics/ and the lock file, and says nothing that differs between two machines with the same
files. Its curves are those of `dvc plots show` (a test compares them): dvc.yaml itself can be no dependency of a stage.
"""

import base64
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from naruto_add.catalog import Metric, describe, headline, interval, is_companion, is_flagged, notes, number
from naruto_add.files import atomic_write_bytes
from naruto_add.params import Add, Params
from naruto_add.report_charts import Chart, Point, Series, thinned
from naruto_add.runtime import StageError

TEMPLATE = Path(__file__).with_name("report.html")
SUBJECTS = ("teacher", "distilled", "student", "base")
"""The two that are compared come first: a phone shows no more."""
CONTROLS = (
    "teacher_few_steps",
    "teacher_few_steps_dpm",
    "real_decoded",
    "train_decoded",
    "real_train",
    "real_halves",
    "real",
)
TRAINED = ("teacher", "student", "add")
"""Stages whose health is told."""
PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "datasets", "clean-fid", "lpips")
GRIDS = {
    "subjects": "The same prompts and noise, drawn by every model",
    "held_out": "Held-out captions: the real picture, then every model's",
    "ablation": "What each part is worth: the same prompts and noise, drawn by every variant",
    "steps": "The distilled student by number of steps, and the teacher",
    "seeds": "The distilled student's variety: one prompt a row, other noise in every column",
    "interpolation": "From one prompt to another at one noise",
    "neighbours": "The training pictures that are most like the distilled student's: is anything copied?",
    "teacher": "The teacher while it was trained",
    "dataset": "The data set",
}


@dataclass(frozen=True)
class Plot:
    """A chart of columns of a file in metrics/curves."""

    title: str
    file: str
    x: str
    columns: Sequence[str]


PLOTS = (
    Plot("Teacher, training loss", "teacher.tsv", "step", ("loss",)),
    Plot("Teacher, validation loss", "teacher_validation.tsv", "step", ("validation_loss",)),
    Plot("Student, losses of the warm-up", "student.tsv", "step", ("task", "output", "feature")),
    Plot("Student, gradient norm of the warm-up", "student.tsv", "step", ("grad_norm",)),
    Plot("Student, squared error of held-out samples", "student_validation.tsv", "step", ("sample_mse",)),
    Plot("ADD, losses", "add.tsv", "step", ("pair_loss", "renoised_loss", "adv_loss", "disc_loss")),
    Plot("ADD, mean logits of real and fake", "add.tsv", "step", ("real_logit", "fake_logit")),
    Plot("ADD, gradient norm of the student", "add.tsv", "step", ("student_grad_norm",)),
    Plot("ADD, distance of held-out samples to the teacher's", "add_validation.tsv", "step", ("score",)),
    Plot("ADD, health of held-out samples", "add_validation.tsv", "step", ("colour_drift", "diversity")),
    Plot(
        "Frechet distance against latency (ms) by number of steps, teacher and distilled student",
        "sweep.tsv",
        "latency_ms",
        ("distance",),
    ),
)


@dataclass(frozen=True)
class Cell:
    """A figure as text, with its interval where it has one."""

    value: str
    span: str


@dataclass(frozen=True)
class Row:
    """A metric of several subjects; `metric` is its entry in the catalogue, `few` whether its N is flagged."""

    name: str
    metric: Metric | None
    few: bool
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """Figures side by side."""

    columns: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Grid:
    """A picture that the page carries within itself."""

    title: str
    columns: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Check:
    """A sign of health or of trouble in a training stage."""

    stage: str
    text: str
    is_well: bool


def write_report(
    params: Params,
    *,
    params_path: Path,
    lock_path: Path,
    metrics_dir: Path,
    report_path: Path,
) -> None:
    """Write the page. Raises StageError where the pipeline has not been evaluated."""
    metrics = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(metrics_dir.glob("*.json"))}
    if "evaluate" not in metrics:
        raise StageError(f"{metrics_dir / 'evaluate.json'}: no such file; run the pipeline first (`dvc repro`)")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        facts=_facts(params, metrics),
        figures=_table(metrics["evaluate"], SUBJECTS, headline_only=True),
        notes=notes(metrics["evaluate"], ()),
        controls=_table(metrics["evaluate"], _subjects(metrics["evaluate"]), headline_only=False),
        ablation=_ablation(metrics.get("ablation", {})),
        checks=[check for stage in TRAINED for check in _checks(stage, metrics.get(stage, {}), params)],
        stage_figures=[(name, _plain_rows(values)) for name, values in metrics.items() if name not in _SHOWN_ABOVE],
        charts=list(_charts(metrics_dir / "curves")),
        grids=_grids(metrics_dir / "grids"),
        params=params_path.read_text("utf-8"),
        packages=_packages(lock_path.read_text("utf-8")),
    )
    atomic_write_bytes(report_path, page.encode())


_SHOWN_ABOVE = ("evaluate", "subject", "ablation")


def _facts(params: Params, metrics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What ran, in a few lines."""
    counts = metrics.get("ingest", {})
    pictures = ", ".join(f"{counts[split]} {name}" for split, name in _SPLITS if split in counts)
    teacher, student, add, evaluate = params.teacher, params.student, params.add, params.evaluate
    return [
        ("Base model", f"{params.base.model}, {params.base.resolution_px} px, {params.base.precision}"),
        ("Pictures", f"{_source(params)}: {pictures}" if pictures else _source(params)),
        ("Teacher", f"LoRA of rank {teacher.lora_rank}, {teacher.num_steps} steps of {teacher.batch_size} pictures"),
        ("Student", f"{student.architecture}, warmed up for {student.num_steps} steps on {student.pool_size} samples"),
        ("Distilled by", f"{_method(add)}, {add.num_steps} steps of {add.batch_size}"),
        ("Draws in", f"{len(add.timesteps)} steps; the teacher in {params.sampling.teacher_steps}"),
        (
            "Judged by",
            f"{evaluate.features} features, {evaluate.perceptual} distance, CLIP score {evaluate.clip_score}",
        ),
        ("Timed on", _device(metrics["evaluate"])),
    ]


def _device(figures: Mapping[str, float | int]) -> str:
    """What times were taken on, as far as figures tell."""
    threads = f"{number(figures['process.num_threads'])} threads" if "process.num_threads" in figures else "threads"
    has_gpu = any(key.endswith(".peak_vram_mib") for key in figures)
    return f"a GPU, with {threads} of the CPU" if has_gpu else f"{threads} of the CPU"


def _method(add: Add) -> str:
    if add.method == "consistency":
        return "latent consistency (LCM)"
    return f"ADD, discriminators: {', '.join(add.discriminators)}"


_SPLITS = (("train", "to train on"), ("validation", "to validate"), ("test", "held out"))


def _source(params: Params) -> str:
    ingest = params.ingest
    return {"shinobi": "shinobi, drawn here", "hub": ingest.hub_dataset}.get(ingest.source, ingest.path)


def _subjects(metrics: Mapping[str, float | int]) -> list[str]:
    """Models, then controls, then whatever else has a figure."""
    found = dict.fromkeys(key.partition(".")[0] for key in metrics)
    known = (*SUBJECTS, *CONTROLS)
    return [*(name for name in known if name in found), *(name for name in found if name not in known)]


def _table(metrics: Mapping[str, float | int], subjects: Sequence[str], *, headline_only: bool) -> Table:
    keys = [key.partition(".") for key in metrics]
    names = {name for subject, _, name in keys if subject in subjects and not is_companion(name)}
    known = headline(names)
    if not headline_only:
        known += sorted(names - set(known))
    rows = [
        Row(
            name,
            describe(name),
            is_flagged(metrics, name, subjects),
            [_cell(metrics, f"{subject}.{name}") for subject in subjects],
        )
        for name in known
    ]
    return Table([subject.replace("_", " ") for subject in subjects], rows)


def _ablation(figures: Mapping[str, float | int]) -> Table:
    """A column for every variant, with the spread over its seeds below the mean; empty where nothing was compared."""
    variants = list(dict.fromkeys(key.partition(".")[0] for key in figures))
    names = {key.split(".")[1] for key in figures if key.endswith(".mean")}
    rows = [
        Row(name, describe(name), few=False, cells=[_mean(figures, variant, name) for variant in variants])
        for name in [*headline(names), *sorted(names - set(headline(names)))]
    ]
    return Table([variant.replace("_", " ") for variant in variants], rows)


def _mean(figures: Mapping[str, float | int], variant: str, name: str) -> Cell:
    mean, spread = (figures.get(f"{variant}.{name}.{key}") for key in ("mean", "std"))
    seeds = number(figures[f"{variant}.num_seeds"])
    if mean is None:
        return Cell("", "")
    return Cell(number(mean), "1 seed" if spread is None else f"± {number(spread, digits=2)}, {seeds} seeds")


def _cell(metrics: Mapping[str, float | int], key: str) -> Cell:
    bounds = interval(metrics, key)
    span = f"{number(bounds[0], digits=3)} to {number(bounds[1], digits=3)}" if bounds else ""
    return Cell(number(metrics[key]) if key in metrics else "", span)


def _checks(stage: str, values: Mapping[str, float | int], params: Params) -> Iterator[Check]:
    """Skipped steps, alarms, and where the best weights were found."""
    for key, value in values.items():
        if key == "skipped_steps":
            yield Check(stage, f"{number(value)} steps skipped, for their gradients were not finite", value == 0)
        if key.startswith("alarms_") and not key.endswith("_since_step"):
            since = f", first since step {number(values[f'{key}_since_step'])}" if value else ""
            yield Check(
                stage, f"{key.removeprefix('alarms_').replace('_', ' ')}: {number(value)} alarms{since}", value == 0
            )
    if "best_step" in values:
        best, last = values["best_step"], getattr(params, stage).num_steps
        hint = {0: "training did not help", last: "at the very end: more steps may help"}.get(int(best), "")
        yield Check(stage, f"best at step {number(best)} of {number(last)}" + (f", {hint}" if hint else ""), best > 0)


def _plain_rows(values: Mapping[str, float | int]) -> list[tuple[str, str]]:
    return [(key, number(value)) for key, value in values.items()]


def _charts(folder: Path) -> Iterator[Chart]:
    """Those of PLOTS whose files are there."""
    for plot in PLOTS:
        series = _series(folder / plot.file, plot.x, plot.columns) if (folder / plot.file).exists() else []
        if series:
            yield Chart(plot.title, plot.x.replace("_", " "), series, log_x=plot.x != "step")


def _series(path: Path, x: str, columns: Sequence[str]) -> list[Series]:
    """A line for each column; where the file has a column `subject`, one for each subject."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    subjects = list(dict.fromkeys(row.get("subject", "") for row in rows))
    lines = [
        Series(subject or column, _points([row for row in rows if row.get("subject", "") == subject], x, column))
        for subject in subjects
        for column in columns
    ]
    return [line for line in lines if line.points]


def _points(rows: Sequence[Mapping[str, str]], x: str, column: str) -> list[Point]:
    """Skipped steps leave cells empty; points of few are named by their number of steps."""
    return thinned(
        [
            Point(float(row[x]), float(row[column]), f"{row['steps']}" if "steps" in row else "")
            for row in rows
            if row.get(x) and row.get(column)
        ]
    )


def _grids(folder: Path) -> list[Grid]:
    """All pictures of the folder and those below, in the order of GRIDS."""
    order = {stem: position for position, stem in enumerate(GRIDS)}
    files = sorted(folder.rglob("*.png"))
    return [_grid(file) for file in sorted(files, key=lambda file: order.get(file.stem, len(order)))]


def _grid(path: Path) -> Grid:
    with Image.open(path) as image:
        columns = ", ".join(json.loads(image.info.get("columns", "[]")))
        width, height = image.size
    data = base64.b64encode(path.read_bytes()).decode()
    return Grid(GRIDS.get(path.stem, path.stem), columns, f"data:image/png;base64,{data}", width, height)


def _packages(lock: str) -> list[tuple[str, str]]:
    """Name and version of those that make a difference to figures."""
    found = dict(line.split(" ")[0].split("==") for line in lock.splitlines() if "==" in line and line[0].isalpha())
    return [(name, found[name]) for name in PACKAGES if name in found]
