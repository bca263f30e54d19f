"""Grids of pictures that base, teacher and student draw from the same prompts and seeds."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Draw the grids."""
    from naruto_add.comparison.samples import make_sample_grids
    from naruto_add.comparison.subjects import pipeline_models
    from naruto_add.config import paths

    make_sample_grids(
        params.samples,
        models=pipeline_models(params),
        dataset_dir=paths.DATASET,
        out_dir=paths.GRIDS / "samples",
    )


if __name__ == "__main__":
    run_stage(main)
