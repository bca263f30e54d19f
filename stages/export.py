"""The distilled student as a folder that plain diffusers loads."""

from naruto_add.config import paths
from naruto_add.config.schema import Params
from naruto_add.pipeline.stage import run_stage


def main(params: Params) -> None:
    """Export the student."""
    from naruto_add.export.diffusers_folder import export_student

    export_student(
        params.export,
        base=params.base,
        sampling=params.sampling,
        teacher_dir=paths.TEACHER,
        distilled_dir=paths.DISTILLED,
        source_path=paths.DATASET / "source.json",
        evaluate_metrics_path=paths.EVALUATE_METRICS,
        add_metrics_path=paths.METRICS / "add.json",
        out_dir=paths.EXPORT,
        metrics_path=paths.METRICS / "export.json",
    )


if __name__ == "__main__":
    run_stage(main)
