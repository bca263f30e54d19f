"""Grids of pictures that base, teacher and student draw from the same prompts and seeds."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Draw the grids."""
    from naruto_add.comparison.samples import make_sample_grids
    from naruto_add.comparison.subjects import Models
    from naruto_add.config import paths

    make_sample_grids(
        params.samples,
        models=Models(
            base=params.base,
            sampling=params.sampling,
            teacher_dir=paths.TEACHER,
            student_dir=paths.STUDENT,
            distilled_dir=paths.DISTILLED,
        ),
        dataset_dir=paths.DATASET,
        out_dir=paths.GRIDS / "samples",
    )


if __name__ == "__main__":
    run_stage(main)
