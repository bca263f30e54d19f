"""The figures of base, teacher, student and distilled student on held-out captions."""

from naruto_add import paths
from naruto_add.evaluation.evaluate import evaluate
from naruto_add.evaluation.generate import DRAWING_CODE
from naruto_add.evaluation.subjects import Models
from naruto_add.params import load_params
from naruto_add.runtime import run_stage, shared_cache_dir


def main() -> None:
    """Measure every subject."""
    params = load_params(paths.PARAMS)
    evaluate(
        params.evaluate,
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
        drawn_dir=shared_cache_dir("evaluate", *DRAWING_CODE),
        cache_dir=shared_cache_dir("evaluate"),
        metrics_path=paths.EVALUATE_METRICS,
        subject_path=paths.SUBJECT_METRICS,
        sweep_path=paths.CURVES / "sweep.tsv",
    )


if __name__ == "__main__":
    run_stage(main)
