"""Grids of the same prompts and seeds, drawn by base, teacher and student."""

from naruto_add import paths
from naruto_add.evaluation.subjects import Models
from naruto_add.params import load_params
from naruto_add.runtime import run_stage
from naruto_add.samples import make_sample_grids


def main() -> None:
    """Draw the grids."""
    params = load_params(paths.PARAMS)
    make_sample_grids(
        params.samples,
        models=Models(
            base=params.base,
            sampling=params.sampling,
            num_student_steps=len(params.add.timesteps),
            teacher_dir=paths.TEACHER,
            student_dir=paths.STUDENT,
            distilled_dir=paths.DISTILLED,
        ),
        prompt_template=params.teacher.prompt_template,
        dataset_dir=paths.DATASET,
        out_dir=paths.GRIDS / "samples",
    )


if __name__ == "__main__":
    run_stage(main)
