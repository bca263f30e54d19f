"""The size of the files that are downloaded besides the base model and the pictures."""

from collections.abc import Iterator
from pathlib import Path

from naruto_add.config.constants import CAPTION_MATCH, CLIP_L14, DINOV2_L14, DINOV2_SMALL, INCEPTION_FILE, TRUNK_FILES
from naruto_add.config.schema import Params
from naruto_add.evaluation.clip import OFF

FILE_BYTES = {
    CLIP_L14: 1_711_000_000,
    DINOV2_L14: 1_218_000_000,
    DINOV2_SMALL: 88_000_000,
    INCEPTION_FILE: 96_000_000,
    TRUNK_FILES["alex"]: 244_000_000,
    TRUNK_FILES["vgg"]: 553_000_000,
    TRUNK_FILES["squeeze"]: 5_000_000,
}
"""The sizes of the published files. Any other network is assumed to be as large as CLIP ViT-L/14."""


def download_bytes(params: Params) -> int:
    """The bytes of the networks of metrics, scores, discriminators and losses in the caches of torch and the hub."""
    return sum(FILE_BYTES.get(name, FILE_BYTES[CLIP_L14]) for name in set(_names(params)) if not Path(name).is_dir())


def _names(params: Params) -> Iterator[str]:
    add, evaluate = params.add, params.evaluate
    if evaluate.features != "embedded":
        yield {"inception": INCEPTION_FILE, "clip": CLIP_L14, "dinov2": DINOV2_L14}[evaluate.features]
    if evaluate.perceptual != "embedded":
        yield TRUNK_FILES[evaluate.perceptual]
    if evaluate.clip_score != OFF:
        yield evaluate.clip_score
    if add.image_text_weight and add.image_text_network != CAPTION_MATCH:
        yield add.image_text_network
    if add.score_backbone == "dinov2_small" or ("pixel" in add.discriminators and add.pixel_backbone == "dinov2_small"):
        yield DINOV2_SMALL
