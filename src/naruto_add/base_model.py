"""What is known of the base model before its weights are loaded: whether it can be had, and which picture sizes fit."""

import json
from pathlib import Path
from typing import Any

from naruto_add.runtime import StageError

_FOLDERS = {"", ".", "..", "~", "base", "models"}
"""The first parts of folders' names; no hub repository has them."""


def check_base_model(model: str, *, revision: str, resolution_px: int) -> None:
    """Raises StageError where the model is neither a whole folder nor pinned on the hub, or the size does not fit it.

    The size of one on the hub is checked when it is loaded.
    """
    if not Path(model).is_dir():
        _check_repository(model, revision)
        return
    configs = {part: _config(Path(model), part) for part in ("vae", "unet")}
    latent_side(configs["vae"], configs["unet"], resolution_px=resolution_px)


def latent_side(vae: Any, unet: Any, *, resolution_px: int) -> int:
    """The side of the latents of pictures of this size, from the two networks' configurations.

    Raises StageError where the autoencoder and the U-Net cannot halve them evenly as often as they do.
    """
    factor, levels = _halvings(vae), _halvings(unet)
    if resolution_px % (factor * levels):
        raise StageError(
            f"base.resolution_px: {resolution_px} is not a multiple of {factor * levels}, the autoencoder's factor "
            f"{factor} times the U-Net's {levels}; use one"
        )
    return resolution_px // factor


def _check_repository(model: str, revision: str) -> None:
    if model.partition("/")[0] in _FOLDERS or model.count("/") != 1:
        raise StageError(f"base.model: {model!r} is not a folder; name one in diffusers format, or a hub repository")
    if not revision:
        raise StageError(
            f"base.revision: '' is not a commit, and base.model {model!r} is no folder here; pin the revision of the "
            "hub repository, or correct the folder's name"
        )


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(
            f"base.model: {str(folder)!r} has no {part}/config.json that can be read ({error}); name a whole pipeline "
            "in diffusers format"
        ) from error
    return config


def _halvings(config: Any) -> int:
    return 2 ** (len(config["block_out_channels"]) - 1)
