"""Metrics of base, teacher, student and distilled student on test captions."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Measure every model."""
    from naruto_add.comparison.image_sets import DRAWING_CODE
    from naruto_add.comparison.subjects import Models
    from naruto_add.config import paths
    from naruto_add.evaluation.evaluate import evaluate
    from naruto_add.runtime.checkpoints import shared_cache_dir

    evaluate(
        params.evaluate,
        models=Models(
            base=params.base,
            sampling=params.sampling,
            teacher_dir=paths.TEACHER,
            student_dir=paths.STUDENT,
            distilled_dir=paths.DISTILLED,
        ),
        dataset_dir=paths.DATASET,
        drawn_dir=shared_cache_dir("evaluate", *DRAWING_CODE),
        cache_dir=shared_cache_dir("evaluate"),
        metrics_path=paths.EVALUATE_METRICS,
        subject_path=paths.SUBJECT_METRICS,
        sweep_path=paths.CURVES / "sweep.tsv",
    )


if __name__ == "__main__":
    run_stage(main)
