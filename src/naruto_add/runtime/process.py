"""Settings of a stage's process: it ends when DVC is killed, and hub libraries stay offline unless a hub is needed."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from naruto_add.config.constants import CAPTION_MATCH
from naruto_add.config.schema import Params

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process receives when its parent dies."""


def terminate_with_parent() -> None:
    """On Linux, this process receives SIGTERM when its parent dies; elsewhere nothing happens.

    Otherwise a training run whose DVC was killed would continue while the next one starts.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("error: the parent process died while this stage started")


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
        or "dinov2_small" in (add.pixel_backbone, add.score_backbone)
    )
