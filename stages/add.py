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
    from naruto_add.training.draw_pool import POOL_CODE
    from naruto_add.training.loop import TrainingRun
    from stages.distillation import distillation_settings

    settings = distillation_settings(params)
    checkpoints = checkpoint_dir(
        "add",
        params=[settings, params.sampling.student_scheduler, params.add],
        deps=[paths.DATASET, paths.TEACHER, paths.STUDENT, paths.POOL],
    )
    with exclusive(checkpoints):
        distill(
            params.add,
            settings,
            student_scheduler=params.sampling.student_scheduler,
            dataset_dir=paths.DATASET,
            teacher_dir=paths.TEACHER,
            student_dir=paths.STUDENT,
            pool_path=paths.POOL,
            pool_cache_dir=shared_cache_dir("pool", *POOL_CODE),
            out_dir=paths.DISTILLED,
            metrics_path=paths.ADD_METRICS,
            validation_grid_path=paths.GRIDS / "add.png",
            run=TrainingRun(checkpoint_dir=checkpoints, curves_path=paths.CURVES / "add.tsv", tracking=params.tracking),
        )


if __name__ == "__main__":
    run_stage(main)
