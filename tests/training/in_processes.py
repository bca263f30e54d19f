"""Training of tiny models, to be started by `accelerate launch`: `in_processes.py ROOT STAGE OUT CHANGES`.

ROOT contains `pipeline`, `dataset`, and for `add` also `student` and `pool.safetensors`. Results are written to OUT.
CHANGES is JSON of the stage's parameters that differ from TINY and the mini profile.
"""

import json
import sys
from pathlib import Path
from typing import Any

from naruto_add.training.add.train import distill
from naruto_add.training.loop import TrainingRun
from naruto_add.training.settings import DistillationSettings
from naruto_add.training.student.train import build_student
from naruto_add.training.teacher.train import train_teacher
from tests.mini_profile import mini_params

PROFILE = mini_params()
TINY: dict[str, dict[str, Any]] = {
    "teacher": {"lora_rank": 2, "caption_dropout": 0.5, "validation_prompts": ["a man", "a girl"]},
    "student": {"pool_size": 40, "knowledge_steps": 2},
    "add": {"adv_start_steps": 1, "adv_ramp_steps": 1, "crop_px": 32},
}
SHORT = {"num_steps": 4, "batch_size": 8, "validation_every_steps": 2}
SETTINGS = DistillationSettings(
    guidance_scale=3.0,
    pool_steps=4,
    student_timesteps=PROFILE.sampling.student_timesteps,
    prompt_template="{caption}",
    caption_chunks=1,
    frozen_precision="fp32",
    autocast="fp32",
)


def params_of(stage: str, changes: dict[str, Any]) -> Any:
    """The stage's section with tiny values and these changes."""
    section = getattr(PROFILE, stage)
    values = {**section.model_dump(), **SHORT, **TINY[stage], **changes}
    return type(section).model_validate({**values, "optimizer": {**values["optimizer"], "warmup_steps": 1}})


def train(root: Path, stage: str, out: Path, changes: dict[str, Any]) -> None:
    """Call the stage's entry function."""
    params = params_of(stage, changes)
    run = TrainingRun(checkpoint_dir=out / "checkpoints", curves_path=out / f"{stage}.tsv")
    outputs: dict[str, Any] = {"metrics_path": out / "metrics.json", "out_dir": out / "unet", "run": run}
    inputs = {"teacher_dir": root / "pipeline", "dataset_dir": root / "dataset"}
    match stage:
        case "teacher":
            base = PROFILE.base.model_copy(update={"model": str(root / "pipeline"), "resolution_px": 32})
            outputs |= {"lora_dir": out / "lora", "validation_grid_path": out / "grid.png"}
            train_teacher(root / "dataset", params, base=base, guidance_scale=3.0, **outputs)
        case "student":
            outputs |= {"pool_path": out / "pool.safetensors", "pool_cache_dir": out / "drawn"}
            build_student(params, SETTINGS, **inputs, **outputs)
        case "add":
            outputs |= {"pool_cache_dir": out / "drawn", "validation_grid_path": out / "grid.png"}
            inputs |= {"student_dir": root / "student", "pool_path": root / "pool.safetensors"}
            distill(params, SETTINGS, student_scheduler="ddim", **inputs, **outputs)


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
