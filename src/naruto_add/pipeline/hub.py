"""Whether parameters need a hub. If not, hub libraries stay offline."""

import os
from pathlib import Path

from naruto_add.config.constants import CAPTION_MATCH
from naruto_add.config.schema import Add, Params


def stay_offline(params: Params) -> None:
    """Set HF_HUB_OFFLINE if no parameter requires a hub. Has no effect on hub libraries that are imported already."""
    if not needs_hub(params):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def needs_hub(params: Params) -> bool:
    """Whether a parameter names a model or a data set that is on a hub."""
    add = params.add
    models = {params.base.model}
    if params.evaluate.clip_score != "off":
        models.add(params.evaluate.clip_score)
    if add.method == "adversarial" and add.image_text_weight and add.image_text_network != CAPTION_MATCH:
        models.add(add.image_text_network)
    if params.export.tiny_decoder not in {"off", "distilled"}:
        models.add(params.export.tiny_decoder)
    return (
        not all(Path(model).exists() for model in models)
        or params.ingest.source == "hub"
        or params.evaluate.features in {"clip", "dinov2"}
        or "dinov2_small" in feature_networks(add).values()
    )


def feature_networks(add: Add) -> dict[str, str]:
    """The feature networks that `add` loads, by key. A pixel backbone that no discriminator uses is not loaded."""
    networks: dict[str, str] = {"add.score_backbone": add.score_backbone}
    if add.method == "adversarial" and "pixel" in add.discriminators:
        networks["add.pixel_backbone"] = add.pixel_backbone
    return networks
