"""A compact U-Net built from the teacher's, warmed up on a pool of the teacher's samples."""

from naruto_add import paths
from naruto_add.params import load_params
from naruto_add.runtime import checkpoint_dir, exclusive, run_stage, shared_cache_dir
from naruto_add.training.pool import POOL_CODE
from naruto_add.training.student.build import build_student


def main() -> None:
    """Build and warm up the student."""
    params = load_params(paths.PARAMS)
    checkpoints = checkpoint_dir(
        "student",
        params=[
            params.base.precision,
            params.sampling.guidance_scale,
            params.teacher.prompt_template,
            params.student,
            params.add.timesteps,
        ],
        deps=[paths.TEACHER, paths.DATASET],
    )
    with exclusive(checkpoints):
        build_student(
            paths.TEACHER,
            paths.DATASET,
            params=params.student,
            precision=params.base.precision,
            guidance_scale=params.sampling.guidance_scale,
            prompt_template=params.teacher.prompt_template,
            timesteps=params.add.timesteps,
            out_dir=paths.STUDENT,
            pool_path=paths.POOL,
            checkpoint_dir=checkpoints,
            pool_cache_dir=shared_cache_dir("pool", *POOL_CODE),
            curves_path=paths.CURVES / "student.tsv",
            metrics_path=paths.METRICS / "student.json",
        )


if __name__ == "__main__":
    run_stage(main)
