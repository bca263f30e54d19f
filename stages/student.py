"""A compact U-Net built from the teacher's, warmed up on a pool of the teacher's samples."""

from naruto_add import paths
from naruto_add.params import load_params
from naruto_add.runtime import checkpoint_dir, exclusive, run_stage
from naruto_add.training.student.build import build_student


def main() -> None:
    """Build and warm up the student."""
    params = load_params(paths.PARAMS)
    sections = [
        params.base.precision,
        params.sampling.guidance_scale,
        params.sampling.student_scheduler,
        params.teacher.prompt_template,
        params.student,
        params.add.timesteps,
    ]
    checkpoints = checkpoint_dir("student", params=sections, deps=[paths.TEACHER, paths.DATASET])
    with exclusive(checkpoints):
        build_student(
            paths.TEACHER,
            paths.DATASET,
            params=params.student,
            precision=params.base.precision,
            guidance_scale=params.sampling.guidance_scale,
            student_scheduler=params.sampling.student_scheduler,
            prompt_template=params.teacher.prompt_template,
            timesteps=params.add.timesteps,
            out_dir=paths.STUDENT,
            pool_path=paths.POOL,
            checkpoint_dir=checkpoints,
            curves_path=paths.CURVES / "student.tsv",
            metrics_path=paths.METRICS / "student.json",
        )


if __name__ == "__main__":
    run_stage(main)
