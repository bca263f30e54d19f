"""An export of the tiny pipeline, with the files of earlier stages that `export_student` reads."""

import json
from pathlib import Path
from typing import Any, Literal

from naruto_add.config.schema import Base, Export, Sampling, StudentScheduler
from naruto_add.export.diffusers_folder import export_student

PROMPTS = ["a man with white hair and a sword", "a girl at sunset"]
METRICS = {"teacher.fd_embedded": 12.25, "distilled.fd_embedded": 13.5, "distilled.num_parameters": 4200.0}
BASE = Base(
    model="base/model", revision="", variant="", resolution_px=32, precision="fp32", prompt_template="{caption}, drawn"
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
) -> Path:
    """Export to `root`/models/export, which is returned. Without `distilled_dir`, the student is the teacher."""
    export_student(
        Export(seed=0, prompts=PROMPTS, precision=precision),
        base=BASE,
        sampling=sampling(scheduler),
        teacher_dir=tiny_pipeline_dir,
        distilled_dir=distilled_dir or tiny_pipeline_dir / "unet",
        source_path=_json(root / "source.json", {"source": source, "hub_dataset": "owner/name"}),
        evaluate_metrics_path=_json(root / "evaluate.json", METRICS),
        add_metrics_path=_json(root / "add.json", {"method": "adversarial", "skipped_steps": 0}),
        out_dir=root / "models/export",
        metrics_path=root / "metrics/export.json",
    )
    return root / "models/export"


def _json(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path
