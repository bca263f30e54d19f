"""A compact U-Net with some of the teacher's blocks, warmed up by distillation on samples of the teacher."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Build and warm up the student."""
    from naruto_add.config import paths
    from naruto_add.runtime.checkpoints import checkpoint_dir, exclusive, shared_cache_dir
    from naruto_add.training.draw_pool import POOL_CODE
    from naruto_add.training.loop import TrainingRun
    from naruto_add.training.student.train import build_student
    from stages.distillation import distillation_settings

    settings = distillation_settings(params)
    checkpoints = checkpoint_dir("student", params=[settings, params.student], deps=[paths.TEACHER, paths.DATASET])
    with exclusive(checkpoints):
        build_student(
            params.student,
            settings,
            teacher_dir=paths.TEACHER,
            dataset_dir=paths.DATASET,
            out_dir=paths.STUDENT,
            pool_path=paths.POOL,
            pool_cache_dir=shared_cache_dir("pool", *POOL_CODE),
            metrics_path=paths.METRICS / "student.json",
            run=TrainingRun(
                checkpoint_dir=checkpoints, curves_path=paths.CURVES / "student.tsv", tracking=params.tracking
            ),
        )


if __name__ == "__main__":
    run_stage(main)
