"""An export of the tiny pipeline, with the files of earlier stages that `export_student` reads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from naruto_add.config.schema import Base, Export, ExportFormat, Sampling, StudentScheduler
from naruto_add.export.formats import ExportInputs, export_student

PROMPTS = ["a man with white hair and a sword", "a girl at sunset"]
CAPTIONS = ["a man with white hair, drawn", "a girl, drawn"]
METRICS = {"teacher.fd_embedded": 12.25, "distilled.fd_embedded": 13.5, "distilled.num_parameters": 4200.0}
BASE = Base(
    model="base/model",
    revision="",
    variant="",
    resolution_px=32,
    frozen_precision="fp32",
    autocast="fp32",
    prompt_template="{caption}, drawn",
    caption_chunks=1,
)


def sampling(scheduler: StudentScheduler = "ddim") -> Sampling:
    """Four steps of the student, six of the teacher."""
    return Sampling(teacher_steps=6, student_steps=4, pool_steps=4, guidance_scale=3.0, student_scheduler=scheduler)


def export(
    tiny_pipeline_dir: Path,
    root: Path,
    *,
    distilled_dir: Path | None = None,
    scheduler: StudentScheduler = "ddim",
    precision: Literal["fp32", "fp16"] = "fp32",
    source: str = "shinobi",
    formats: Sequence[ExportFormat] = ("diffusers",),
    lora_dir: Path = Path("no-lora"),
    teacher_dir: Path | None = None,
    demo_dir: Path = Path("demo"),
    caption_chunks: int = 1,
) -> Path:
    """Export to `root`/models/export, which is returned.

    The tiny pipeline is the base model, and also what of teacher and student is not given.
    """
    teacher_dir = teacher_dir or tiny_pipeline_dir
    base = BASE if "lora" not in formats else BASE.model_copy(update={"model": str(tiny_pipeline_dir)})
    export_student(
        Export(
            seed=0,
            prompts=PROMPTS,
            precision=precision,
            formats=list(formats),
            tiny_decoder="off",
            tiny_decoder_steps=20,
        ),
        base=base.model_copy(update={"caption_chunks": caption_chunks}),
        sampling=sampling(scheduler),
        inputs=ExportInputs(
            teacher_dir=teacher_dir,
            lora_dir=lora_dir,
            distilled_dir=distilled_dir or teacher_dir / "unet",
            dataset_dir=_dataset(root / "dataset", source),
            evaluate_metrics_path=_json(root / "evaluate.json", METRICS),
            add_metrics_path=_json(root / "add.json", {"method": "adversarial", "skipped_steps": 0}),
            sweep_path=_sweep(root / "curves/sweep.tsv"),
            demo_dir=demo_dir,
        ),
        out_dir=root / "models/export",
        metrics_path=root / "metrics/export.json",
    )
    return root / "models/export"


def _dataset(folder: Path, source: str) -> Path:
    """The two files of a data set that `export_student` reads."""
    _json(folder / "source.json", {"source": source, "hub_dataset": "owner/name"})
    rows = [
        {"file_name": f"images/{index}.png", "text": text, "split": split}
        for index, (text, split) in enumerate(
            [*((text, "train") for text in CAPTIONS), *((text, "test") for text in PROMPTS)]
        )
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _sweep(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [("teacher", 4, 400.0, 188.2), ("teacher", 25, 1700.0, 166.2), ("distilled", 4, 160.0, 161.1)]
    lines = ["subject\tsteps\tlatency_ms\tdistance", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _json(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path
