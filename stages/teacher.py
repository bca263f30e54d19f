"""The base model finetuned on the data set by LoRA, merged."""

from naruto_add import paths
from naruto_add.params import load_params
from naruto_add.runtime import checkpoint_dir, exclusive, local_folder, run_stage
from naruto_add.training.teacher.train import train_teacher


def main() -> None:
    """Train the teacher."""
    params = load_params(paths.PARAMS)
    checkpoints = checkpoint_dir(
        "teacher",
        params=[params.base, params.sampling.guidance_scale, params.teacher],
        deps=[paths.DATASET, *local_folder(params.base.model)],
    )
    with exclusive(checkpoints):
        train_teacher(
            paths.DATASET,
            params.teacher,
            base=params.base,
            guidance_scale=params.sampling.guidance_scale,
            out_dir=paths.TEACHER,
            lora_dir=paths.TEACHER_LORA,
            checkpoint_dir=checkpoints,
            curves_path=paths.CURVES / "teacher.tsv",
            metrics_path=paths.METRICS / "teacher.json",
            validation_grid_path=paths.GRIDS / "teacher.png",
        )


if __name__ == "__main__":
    run_stage(main)
