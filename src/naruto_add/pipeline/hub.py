"""The networks that parameters name, and whether a hub is needed for them. If not, hub libraries stay offline."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from naruto_add.config.constants import CAPTION_MATCH, CLIP_L14, DINOV2_L14, DINOV2_SMALL
from naruto_add.config.schema import Params


@dataclass(frozen=True, kw_only=True)
class Network:
    """`source` is a folder or `owner/name@commit`, of a network of this `kind`.

    `instead` names a setting with which it is not needed. One that `reads_text` is used with its tokenizer.
    """

    key: str
    source: str
    kind: str
    instead: str
    reads_text: bool = False


def stay_offline(params: Params) -> None:
    """Set HF_HUB_OFFLINE if no parameter requires a hub. Has no effect on hub libraries that are imported already."""
    if not needs_hub(params):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def needs_hub(params: Params) -> bool:
    """Whether a parameter names a model or a data set that is on a hub."""
    models = [params.base.model, *(network.source for network in networks(params))]
    return params.ingest.source == "hub" or not all(Path(model).exists() for model in models)


def networks(params: Params) -> Iterator[Network]:
    """The networks beside the base model that the stages load from a folder or a hub, and use."""
    add, evaluate, decoder = params.add, params.evaluate, params.export.tiny_decoder
    is_adversarial = add.method == "adversarial"
    if is_adversarial and add.image_text_weight and add.image_text_network != CAPTION_MATCH:
        instead = f"use '{CAPTION_MATCH}', or set add.image_text_weight to 0"
        yield Network(
            key="add.image_text_network", source=add.image_text_network, kind="clip", instead=instead, reads_text=True
        )
    if add.score_backbone == "dinov2_small":
        yield Network(key="add.score_backbone", source=DINOV2_SMALL, kind="dinov2", instead="use EfficientNet")
    if add.pixel_backbone == "dinov2_small" and is_adversarial and "pixel" in add.discriminators:
        yield Network(key="add.pixel_backbone", source=DINOV2_SMALL, kind="dinov2", instead="use EfficientNet")
    if evaluate.clip_score != "off":
        instead = "set it to 'off'"
        yield Network(
            key="evaluate.clip_score", source=evaluate.clip_score, kind="clip", instead=instead, reads_text=True
        )
    if decoder not in ("off", "distilled"):
        yield Network(
            key="export.tiny_decoder", source=decoder, kind="AutoencoderTiny", instead="use distilled, or off"
        )
    if evaluate.features in ("clip", "dinov2"):
        source = {"clip": CLIP_L14, "dinov2": DINOV2_L14}[evaluate.features]
        yield Network(key="evaluate.features", source=source, kind=evaluate.features, instead="choose 'embedded'")
