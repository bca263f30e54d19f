"""Pictures and captions from any source, made uniform, without duplicates, split by image."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Write the data set."""
    from naruto_add.config import paths
    from naruto_add.data.buckets import bucket_sizes
    from naruto_add.data.ingest import run_ingest
    from naruto_add.diffusion.base_model import size_multiple_px

    buckets: tuple[tuple[int, int], ...] = ()
    if params.ingest.aspect_buckets:
        multiple_px = size_multiple_px(params.base.model, params.base.revision)
        buckets = bucket_sizes(params.base.resolution_px, multiple_px=multiple_px)
    run_ingest(
        params.ingest,
        base_model=params.base.model,
        base_revision=params.base.revision,
        prompt_template=params.base.prompt_template,
        caption_chunks=params.base.caption_chunks,
        resolution_px=params.base.resolution_px,
        buckets=buckets,
        dataset_dir=paths.DATASET,
        rejects_path=paths.REJECTS,
        metrics_path=paths.METRICS / "ingest.json",
        sheet_path=paths.GRIDS / "dataset.png",
    )


def check(params: "Params") -> None:
    """Check what all stages need, before the first of them runs."""
    from naruto_add.pipeline.requirements import check_requirements

    check_requirements(params)


if __name__ == "__main__":
    run_stage(main, check=check)
