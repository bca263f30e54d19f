"""The base model finetuned on the data set by LoRA, with the adapters merged."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Train the teacher."""
    from naruto_add.config import paths
    from naruto_add.runtime.checkpoints import checkpoint_dir, exclusive
    from naruto_add.training.loop import TrainingRun
    from naruto_add.training.teacher.train import train_teacher

    checkpoints = checkpoint_dir(
        "teacher",
        params=[params.base, params.sampling.guidance_scale, params.teacher],
        deps=[paths.BASE_MANIFEST, paths.DATASET],
    )
    with exclusive(checkpoints):
        train_teacher(
            paths.DATASET,
            params.teacher,
            base=params.base,
            guidance_scale=params.sampling.guidance_scale,
            out_dir=paths.TEACHER,
            lora_dir=paths.TEACHER_LORA,
            metrics_path=paths.METRICS / "teacher.json",
            validation_grid_path=paths.GRIDS / "teacher.png",
            run=TrainingRun(
                checkpoint_dir=checkpoints, curves_path=paths.CURVES / "teacher.tsv", tracking=params.tracking
            ),
        )


if __name__ == "__main__":
    run_stage(main)
