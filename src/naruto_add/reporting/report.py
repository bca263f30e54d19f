"""report.html: one page with a run's parameters, metrics, pictures and curves, which needs no other file to be shown.

The page depends only on params.yaml, metrics/ and the lock file: the same files give the same bytes on every machine.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from naruto_add.config.schema import Add, Ingest, Params
from naruto_add.evaluation.catalog import notes, number
from naruto_add.reporting.plots import read_charts
from naruto_add.reporting.tables import ablation_table, subject_table
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import atomic_write_bytes, read_json

TEMPLATE = Path(__file__).with_name("report.html")
COLUMNS = ("teacher", "distilled", "teacher_full", "student", "base")
"""Columns of the headline table. Teacher and distilled student come first: a phone shows only two columns."""
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
"""Stages with health checks."""
IN_TABLES = ("evaluate", "subject", "ablation")
"""Metrics files whose values the other tables show."""
PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "datasets", "clean-fid", "lpips")
SPLITS = ("train", "validation", "test")
GRIDS = {
    "subjects": "All models: same prompts, same noise",
    "test_captions": "Test captions: the real picture, then each model's picture",
    "ablation": "Ablation: every variant, same prompts, same noise",
    "steps": "Distilled student at several numbers of steps, and the teacher",
    "seeds": "Distilled student: one prompt per row, one seed per column",
    "interpolation": "Distilled student: interpolation between two prompts at fixed noise",
    "neighbours": "Distilled student: pictures next to the most similar training pictures",
    "add": "Student during ADD: held-out pool samples, same noise in every row",
    "teacher": "Teacher during training",
    "dataset": "Data set",
}
"""Titles by file name, in the page's order."""


@dataclass(frozen=True)
class Grid:
    """A picture, embedded in the page as a data URI."""

    title: str
    columns: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Check:
    """One health check of a training stage."""

    stage: str
    text: str
    passed: bool


def write_report(
    params: Params,
    *,
    params_path: Path,
    lock_path: Path,
    metrics_dir: Path,
    report_path: Path,
) -> None:
    """Write the page. Raises StageError if metrics/evaluate.json does not exist or a file is damaged."""
    metrics = read_metrics(metrics_dir)
    evaluated = metrics["evaluate"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        facts=run_facts(params, metrics),
        headline=subject_table(evaluated, COLUMNS, headline_only=True),
        notes=notes(evaluated, ()),
        everything=subject_table(evaluated, _all_subjects(evaluated), headline_only=False),
        ablation=ablation_table(metrics.get("ablation", {})),
        checks=[check for stage in TRAINED for check in health_checks(stage, metrics.get(stage, {}), params)],
        stage_metrics=[(name, _as_text(values)) for name, values in metrics.items() if name not in IN_TABLES],
        charts=list(read_charts(metrics_dir / "curves")),
        grids=_grids(metrics_dir / "grids"),
        params=params_path.read_text("utf-8"),
        packages=_packages(lock_path.read_text("utf-8")),
    )
    atomic_write_bytes(report_path, page.encode())


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """The content of each JSON file by its stem. Raises StageError if metrics/evaluate.json does not exist or one
    is damaged.
    """
    metrics = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    if "evaluate" not in metrics:
        raise StageError(f"{folder / 'evaluate.json'}: no such file; run the pipeline first (`dvc repro`)")
    return metrics


def run_facts(params: Params, metrics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The run in a few lines: name and value."""
    base, sampling, evaluate = params.base, params.sampling, params.evaluate
    teacher, student, add = params.teacher, params.student, params.add
    counts = metrics.get("ingest", {})
    pictures = ", ".join(f"{counts[split]} {split}" for split in SPLITS if split in counts)
    return [
        (
            "Base model",
            f"{base.model}, {base.resolution_px} px, {base.frozen_precision} frozen, {base.autocast} trained",
        ),
        ("Data set", f"{_source(params.ingest)}: {pictures}" if pictures else _source(params.ingest)),
        ("Teacher", f"LoRA of rank {teacher.lora_rank}, {teacher.num_steps} steps of {teacher.batch_size} pictures"),
        (
            "Student",
            f"{student.architecture}, {student.num_steps} warm-up steps on a pool of {student.pool_size} samples",
        ),
        ("Distillation", f"{_method(add)}, {add.num_steps} steps of {add.batch_size} samples"),
        ("Sampling steps", f"student {sampling.student_steps}, teacher {sampling.teacher_steps}"),
        (
            "Metrics",
            f"{evaluate.features} features, {evaluate.perceptual} perceptual distance, CLIP: {evaluate.clip_score}",
        ),
        ("Timed on", _device(metrics["evaluate"])),
    ]


def _source(ingest: Ingest) -> str:
    return {"shinobi": "shinobi, drawn by this project", "hub": ingest.hub_dataset}.get(ingest.source, ingest.path)


def _method(add: Add) -> str:
    if add.method == "consistency":
        return "latent consistency (LCM)"
    return f"ADD, discriminators: {', '.join(add.discriminators)}"


def _device(evaluated: Mapping[str, float | int]) -> str:
    threads = "CPU"
    if "process.num_threads" in evaluated:
        threads = f"{number(evaluated['process.num_threads'])} CPU threads"
    has_gpu = any(key.endswith(".peak_vram_mib") for key in evaluated)
    return f"GPU, {threads}" if has_gpu else threads


def _all_subjects(evaluated: Mapping[str, float | int]) -> list[str]:
    """Models, then controls, then every other subject that has a metric."""
    present = dict.fromkeys(key.partition(".")[0] for key in evaluated)
    known = (*COLUMNS, *CONTROLS)
    return [*(name for name in known if name in present), *(name for name in present if name not in known)]


def health_checks(stage: str, values: Mapping[str, Any], params: Params) -> Iterator[Check]:
    """Skipped steps, alarms, and the step whose weights were kept."""
    for key, value in values.items():
        if key == "skipped_steps":
            yield Check(stage, f"{number(value)} steps skipped because of non-finite gradients", passed=value == 0)
        if key.startswith("alarms_") and not key.endswith("_since_step"):
            name = key.removeprefix("alarms_").replace("_", " ")
            since = f", first at step {number(values[f'{key}_since_step'])}" if value else ""
            yield Check(stage, f"{name}: {number(value)} alarms{since}", passed=value == 0)
    if "kept_step" in values:
        kept, last = values["kept_step"], getattr(params, stage).num_steps
        text = f"weights after step {number(kept)} of {number(last)} kept; best validation score at step "
        yield Check(stage, text + number(values["best_step"]), passed=kept == last)
    elif "best_step" in values:
        best, last = values["best_step"], getattr(params, stage).num_steps
        hint = {last: ": the last one, so more steps may help", 0: ": training did not improve the score"}
        text = f"best validation score at step {number(best)} of {number(last)}{hint.get(best, '')}"
        yield Check(stage, text, passed=best > 0)


def _as_text(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, value if isinstance(value, str) else number(value)) for key, value in values.items()]


def _grids(folder: Path) -> list[Grid]:
    """All PNG files in the folder and its subfolders: those of GRIDS first, in its order."""
    order = {stem: position for position, stem in enumerate(GRIDS)}
    files = sorted(folder.rglob("*.png"))
    return [_grid(file) for file in sorted(files, key=lambda file: order.get(file.stem, len(order)))]


def _grid(path: Path) -> Grid:
    try:
        with Image.open(path) as image:
            columns = ", ".join(json.loads(image.info.get("columns", "[]")))
            width, height = image.size
            image.load()
    except (OSError, ValueError, TypeError, SyntaxError) as error:  # Pillow reports broken PNG chunks as SyntaxError
        raise StageError(
            f"{path}: this picture is damaged ({error}); delete it and run `dvc repro`, which makes it again"
        ) from error
    data = base64.b64encode(path.read_bytes()).decode()
    return Grid(GRIDS.get(path.stem, path.stem), columns, f"data:image/png;base64,{data}", width, height)


def _packages(lock: str) -> Sequence[tuple[str, str]]:
    """Name and version of those of PACKAGES that the lock file pins."""
    pinned = dict(line.split(" ")[0].split("==") for line in lock.splitlines() if "==" in line and line[0].isalpha())
    return [(name, pinned[name]) for name in PACKAGES if name in pinned]
