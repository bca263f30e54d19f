"""Pictures and captions from any source, uniform, without duplicates, split by image."""

from naruto_add import paths
from naruto_add.data.ingest import run_ingest
from naruto_add.params import load_params
from naruto_add.runtime import run_stage


def main() -> None:
    """Make the data set."""
    params = load_params(paths.PARAMS)
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
    run_stage(main)
