"""Whether the disk is large enough for all stages, without loading torch if it is large."""

import shutil
from importlib import import_module
from pathlib import Path

from naruto_add.config import paths
from naruto_add.config.schema import Params
from naruto_add.estimate.pictures import num_pictures_of
from naruto_add.pipeline.weights import base_weight_bytes

_BYTES_OF_A_WEIGHT = 2
"""In fp16; in fp32 it has more, so that the bound is larger."""
_MOST_BYTES_FOR_A_WEIGHT = 100
"""Checkpoints 40; results and exports 30, in two copies."""
_MOST_BYTES_FOR_A_PIXEL = 30
"""Data set and its copy, each doubled by aspect buckets; drawn pictures, about two for each picture; latents."""
_MOST_LATENTS_FOR_A_PIXEL = 1 / 4
"""Of the embedded base: four channels at a quarter of the sides. Stable Diffusion has 1 / 16."""
_LATENT_BYTES = 4
_POOL_COPIES = 6
"""The pool, DVC's copy and the one kept for experiments, each doubled by aspect buckets."""


def check_free_disk(params: Params) -> None:
    """Raises StageError if a stage would need more disk than is free.

    It is estimated only if less is free than a rough bound.
    """
    if shutil.disk_usage(Path.cwd()).free < _bound(params):
        # By its name, because this module must not load torch, as the estimate does, unless the disk is small.
        import_module("naruto_add.estimate.disk").check_disk(params)


def _bound(params: Params) -> float:
    num_weights = base_weight_bytes(params.base.model, params.base.revision) / _BYTES_OF_A_WEIGHT
    num_pictures = num_pictures_of(paths.DATASET, params.ingest)
    num_samples = params.student.pool_size + len(params.add.resolutions_px) * params.add.resolution_pool_size
    latents = params.base.resolution_px**2 * _MOST_LATENTS_FOR_A_PIXEL
    sample = latents * _LATENT_BYTES * (params.sampling.student_steps + 1)
    return (
        num_weights * _MOST_BYTES_FOR_A_WEIGHT
        + num_pictures * params.base.resolution_px**2 * _MOST_BYTES_FOR_A_PIXEL
        + num_samples * sample * _POOL_COPIES
    )
