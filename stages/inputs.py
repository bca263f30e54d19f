"""A check of what the later stages need, and manifests of the base model and of the pictures.

This stage always runs, so that DVC notices when either changes.
"""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Write the manifests."""
    from naruto_add.config import paths
    from naruto_add.pipeline.inputs import write_manifests
    from naruto_add.pipeline.pictures import write_picture_manifest
    from naruto_add.runtime.checkpoints import local_cache_path

    write_manifests(
        params.base,
        lora_start=params.teacher.lora_start,
        manifest_path=paths.BASE_MANIFEST,
        tokenizer_path=paths.TOKENIZER_MANIFEST,
        cache_path=local_cache_path("inputs/hashes.json"),
    )
    write_picture_manifest(
        params.ingest,
        manifest_path=paths.PICTURE_MANIFEST,
        cache_path=local_cache_path("inputs/pictures.json"),
    )


def check(params: "Params") -> None:
    """Check what all stages need, before the first of them runs."""
    from naruto_add.pipeline.requirements import check_requirements

    check_requirements(params)


if __name__ == "__main__":
    run_stage(main, check=check)
