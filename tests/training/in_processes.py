"""Starts a training of tiny models under `accelerate launch`, as a user would: `python in_processes.py ROOT STAGE`.

ROOT holds `pipeline`, `dataset`, and for `add` also `student` and `pool.safetensors`; results go to the folder named by
the third argument. The fourth is JSON of parameters that differ from the mini profile's.
"""

import json
import sys
from pathlib import Path
from typing import Any

from naruto_add.params import Params, load_params
from naruto_add.training.add.distill import distill
from naruto_add.training.student.build import build_student
from naruto_add.training.teacher.train import train_teacher

PROFILE: Params = load_params(Path(__file__).parents[2] / "profiles/mini.yaml")
SAMPLING = {"precision": "fp32", "guidance_scale": 3.0, "student_scheduler": "ddim"}
TINY: dict[str, dict[str, Any]] = {
    "teacher": {"lora_rank": 2, "caption_dropout": 0.5, "validation_prompts": ["a man", "a girl"]},
    "student": {"pool_size": 40, "pool_steps": 4},
    "add": {"discriminator_width": 8, "adv_start_steps": 1, "adv_ramp_steps": 1, "pixel_crop_px": 32},
}
EVERY = {"num_steps": 4, "batch_size": 8, "warmup_steps": 1, "validation_every_steps": 2}


def params_of(stage: str, changes: dict[str, Any]) -> Any:
    """The stage's section, tiny."""
    section = getattr(PROFILE, stage)
    return type(section).model_validate({**section.model_dump(), **EVERY, **TINY[stage], **changes})


def train(root: Path, stage: str, out: Path, changes: dict[str, Any]) -> None:
    """Run the stage's entry point."""
    params = params_of(stage, changes)
    places = {"curves_path": out / f"{stage}.tsv", "metrics_path": out / "metrics.json", "out_dir": out / "unet"}
    places |= {"checkpoint_dir": out / "checkpoints"}
    drawn = {"pool_cache_dir": out / "drawn"}
    match stage:
        case "teacher":
            base = PROFILE.base.model_copy(update={"model": str(root / "pipeline"), "resolution_px": 32})
            places |= {"lora_dir": out / "lora", "validation_grid_path": out / "grid.png"}
            train_teacher(root / "dataset", params, base=base, guidance_scale=3.0, **places)
        case "student":
            places |= {"pool_path": out / "pool.safetensors"}
            sampling = {name: SAMPLING[name] for name in ("precision", "guidance_scale")}
            shared = {"prompt_template": "{caption}", "timesteps": PROFILE.add.timesteps, **sampling, **drawn, **places}
            build_student(root / "pipeline", root / "dataset", params=params, **shared)
        case "add":
            inputs = {"student_dir": root / "student", "pool_path": root / "pool.safetensors", "pool_steps": 4}
            shared = {"prompt_template": "{caption}", **SAMPLING, **inputs, **drawn, **places}
            distill(root / "dataset", root / "pipeline", params=params, **shared)


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
