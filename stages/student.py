"""A compact U-Net inherited from the teacher's, warmed up by distillation on samples of the teacher."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Build and warm up the student."""
    from naruto_add.config import paths
    from naruto_add.runtime.checkpoints import checkpoint_dir, exclusive, shared_cache_dir
    from naruto_add.training.pool import POOL_CODE
    from naruto_add.training.student.train import build_student

    checkpoints = checkpoint_dir(
        "student",
        params=[
            params.base.autocast,
            params.base.frozen_precision,
            params.base.prompt_template,
            params.sampling.guidance_scale,
            params.sampling.pool_steps,
            params.sampling.student_timesteps,
            params.student,
        ],
        deps=[paths.TEACHER, paths.DATASET],
    )
    with exclusive(checkpoints):
        build_student(
            paths.TEACHER,
            paths.DATASET,
            params=params.student,
            frozen_precision=params.base.frozen_precision,
            autocast=params.base.autocast,
            guidance_scale=params.sampling.guidance_scale,
            prompt_template=params.base.prompt_template,
            pool_steps=params.sampling.pool_steps,
            timesteps=params.sampling.student_timesteps,
            out_dir=paths.STUDENT,
            pool_path=paths.POOL,
            checkpoint_dir=checkpoints,
            pool_cache_dir=shared_cache_dir("pool", *POOL_CODE),
            tracking=params.tracking,
            curves_path=paths.CURVES / "student.tsv",
            metrics_path=paths.METRICS / "student.json",
        )


if __name__ == "__main__":
    run_stage(main)
