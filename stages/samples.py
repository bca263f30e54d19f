"""Grids of the same prompts and seeds, drawn by base, teacher and student."""

from naruto_add import paths
from naruto_add.params import load_params
from naruto_add.runtime import run_stage
from naruto_add.samples import make_sample_grids


def main() -> None:
    """Draw the grids."""
    params = load_params(paths.PARAMS)
    make_sample_grids(
        params.samples,
        base=params.base,
        sampling=params.sampling,
        prompt_template=params.teacher.prompt_template,
        num_student_steps=len(params.add.timesteps),
        dataset_dir=paths.DATASET,
        teacher_dir=paths.TEACHER,
        student_dir=paths.STUDENT,
        distilled_dir=paths.DISTILLED,
        out_dir=paths.GRIDS / "samples",
    )


if __name__ == "__main__":
    run_stage(main)
