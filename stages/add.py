"""The student trained by adversarial diffusion distillation."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Distill the student."""
    from naruto_add.config import paths
    from naruto_add.runtime.checkpoints import checkpoint_dir, exclusive, shared_cache_dir
    from naruto_add.training.add.train import distill
    from naruto_add.training.pool import POOL_CODE

    checkpoints = checkpoint_dir(
        "add",
        params=[
            params.base.autocast,
            params.base.frozen_precision,
            params.base.prompt_template,
            params.sampling.guidance_scale,
            params.sampling.pool_steps,
            params.sampling.student_scheduler,
            params.sampling.student_timesteps,
            params.add,
        ],
        deps=[paths.DATASET, paths.TEACHER, paths.STUDENT, paths.POOL],
    )
    with exclusive(checkpoints):
        distill(
            paths.DATASET,
            paths.TEACHER,
            student_dir=paths.STUDENT,
            pool_path=paths.POOL,
            params=params.add,
            frozen_precision=params.base.frozen_precision,
            autocast=params.base.autocast,
            guidance_scale=params.sampling.guidance_scale,
            pool_steps=params.sampling.pool_steps,
            student_scheduler=params.sampling.student_scheduler,
            student_timesteps=params.sampling.student_timesteps,
            prompt_template=params.base.prompt_template,
            out_dir=paths.DISTILLED,
            checkpoint_dir=checkpoints,
            pool_cache_dir=shared_cache_dir("pool", *POOL_CODE),
            tracking=params.tracking,
            curves_path=paths.CURVES / "add.tsv",
            metrics_path=paths.METRICS / "add.json",
            validation_grid_path=paths.GRIDS / "add.png",
        )


if __name__ == "__main__":
    run_stage(main)
