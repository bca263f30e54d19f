"""Pictures and captions from any source, made uniform, without duplicates, split by image."""

from naruto_add.config import paths
from naruto_add.config.schema import Params
from naruto_add.pipeline.requirements import check_requirements
from naruto_add.pipeline.stage import run_stage


def main(params: Params) -> None:
    """Write the data set."""
    from naruto_add.data.ingest import run_ingest

    run_ingest(
        params.ingest,
        base_model=params.base.model,
        base_revision=params.base.revision,
        resolution_px=params.base.resolution_px,
        dataset_dir=paths.DATASET,
        rejects_path=paths.REJECTS,
        metrics_path=paths.METRICS / "ingest.json",
        sheet_path=paths.GRIDS / "dataset.png",
    )


if __name__ == "__main__":
    run_stage(main, check=check_requirements)
