"""The distilled student as a folder that plain diffusers loads."""

from naruto_add import paths
from naruto_add.export import export_student
from naruto_add.files import read_json
from naruto_add.params import load_params
from naruto_add.runtime import run_stage


def main() -> None:
    """Export the student."""
    params = load_params(paths.PARAMS)
    export_student(
        params.export,
        teacher_dir=paths.TEACHER,
        distilled_dir=paths.DISTILLED,
        student_scheduler=params.sampling.student_scheduler,
        method=params.add.method,
        timesteps=params.add.timesteps,
        metrics=read_json(paths.EVALUATE_METRICS),
        base_model=params.base.model,
        source=params.ingest.source,
        hub_dataset=params.ingest.hub_dataset,
        prompt_template=params.teacher.prompt_template,
        out_dir=paths.EXPORT,
        metrics_path=paths.METRICS / "export.json",
    )


if __name__ == "__main__":
    run_stage(main)
