"""The distilled student and the teacher as files for diffusers and other tools."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params
    from naruto_add.export.formats import ExportInputs


def main(params: "Params") -> None:
    """Write and check every format."""
    from naruto_add.config import paths
    from naruto_add.export.formats import export_student

    export_student(
        params.export,
        base=params.base,
        sampling=params.sampling,
        inputs=export_inputs(),
        out_dir=paths.EXPORT,
        metrics_path=paths.METRICS / "export.json",
    )


def export_inputs() -> "ExportInputs":
    """What earlier stages wrote."""
    from naruto_add.config import paths
    from naruto_add.export.formats import ExportInputs

    return ExportInputs(
        teacher_dir=paths.TEACHER,
        lora_dir=paths.TEACHER_LORA,
        distilled_dir=paths.DISTILLED,
        dataset_dir=paths.DATASET,
        evaluate_metrics_path=paths.EVALUATE_METRICS,
        add_metrics_path=paths.ADD_METRICS,
        sweep_path=paths.CURVES / "sweep.tsv",
        demo_dir=paths.DEMO,
    )


if __name__ == "__main__":
    run_stage(main)
