"""The student trained by adversarial diffusion distillation."""

from naruto_add import paths
from naruto_add.params import load_params
from naruto_add.runtime import checkpoint_dir, exclusive, run_stage, shared_cache_dir
from naruto_add.training.add.distill import distill
from naruto_add.training.pool import POOL_CODE


def main() -> None:
    """Distil the student."""
    params = load_params(paths.PARAMS)
    checkpoints = checkpoint_dir(
        "add",
        params=[
            params.base.precision,
            params.sampling.guidance_scale,
            params.sampling.student_scheduler,
            params.student.pool_steps,
            params.teacher.prompt_template,
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
            pool_steps=params.student.pool_steps,
            params=params.add,
            precision=params.base.precision,
            guidance_scale=params.sampling.guidance_scale,
            student_scheduler=params.sampling.student_scheduler,
            prompt_template=params.teacher.prompt_template,
            out_dir=paths.DISTILLED,
            checkpoint_dir=checkpoints,
            pool_cache_dir=shared_cache_dir("pool", *POOL_CODE),
            curves_path=paths.CURVES / "add.tsv",
            metrics_path=paths.METRICS / "add.json",
        )


if __name__ == "__main__":
    run_stage(main)
