"""What is known of the base model before its weights are loaded: whether it can be had, and what can be made of it."""

import json
import sys
from pathlib import Path
from typing import Any

from naruto_add.conventions import Resolution, sides_px
from naruto_add.params import Params, ParamsError, load_params
from naruto_add.runtime import StageError

_FOLDERS = {"", ".", "..", "~", "base", "models"}
"""The first parts of folders' names; no hub repository has them."""


def refuse_unfit_base(params_path: Path) -> None:
    """End the process with a message where `check_base_use` raises it; of bad parameters the stage itself tells."""
    try:
        check_base_use(load_params(params_path))
    except ParamsError:
        return
    except StageError as error:
        sys.exit(f"error: {error}")


def check_base_use(params: Params) -> None:
    """Raises StageError where `check_base_model` does, or where a later stage would find that the base does not fit.

    Of a base on the hub only its two configurations are fetched; where they cannot be had, nothing is said of them.
    """
    base = params.base
    check_base_model(base.model, revision=base.revision, resolution_px=base.resolution_px)
    configs = _configs(base.model, base.revision)
    if configs is None:
        return
    vae, unet = configs
    latent_side(vae, unet, resolution_px=base.resolution_px)
    problems = [
        *_resolution_problems(vae, unet, params.add.resolutions_px),
        *_removal_problems(unet, params.student.architecture),
        *_block_problems(unet, params.add.discriminator_blocks),
    ]
    if problems:
        raise StageError("\n".join(problems))


def check_base_model(model: str, *, revision: str, resolution_px: int) -> None:
    """Raises StageError where the model is neither a whole folder nor pinned on the hub, or the size does not fit it.

    The size of one on the hub is checked by `check_base_use`, and when it is loaded.
    """
    if not Path(model).is_dir():
        _check_repository(model, revision)
        return
    vae, unet = (_config(Path(model), part) for part in ("vae", "unet"))
    latent_side(vae, unet, resolution_px=resolution_px)


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


# --- what stages ask ---


def _resolution_problems(vae: Any, unet: Any, resolutions: list[Resolution]) -> list[str]:
    factor, levels = _halvings(vae), _halvings(unet)
    return [
        f"add.resolutions_px: the sides of {resolution} are not multiples of {factor * levels}, the autoencoder's "
        f"factor {factor} times the U-Net's {levels}; use such"
        for resolution in resolutions
        if any(side % (factor * levels) for side in sides_px(resolution))
    ]


def _removal_problems(unet: Any, architecture: str) -> list[str]:
    """What `models.student` refuses to remove."""
    key, channels = f"student.architecture: {architecture}", list(unet["block_out_channels"])
    layers = unet.get("layers_per_block", 2)  # diffusers' own value, which old configurations leave out
    if architecture != "none" and min([layers] if isinstance(layers, int) else layers) < 2:
        problem = f"removes layers, but the base's U-Net has layers_per_block {layers}"
        return [f"{key} {problem}; use a base.model with at least 2, or none"]
    if architecture == "bk_tiny" and (len(channels) < 3 or channels[-1] != channels[-2]):
        problem = "drops the deepest level, which needs three levels or more and the two deepest equally wide"
        return [f"{key} {problem}; the base's block_out_channels are {channels}; use bk_small"]
    return []


def _block_problems(unet: Any, names: list[str]) -> list[str]:
    indices = range(len(unet["block_out_channels"]))
    mid = ["mid_block"] if unet.get("mid_block_type", "left out: there is one") else []
    available = [*(f"down_blocks.{index}" for index in indices), *mid, *(f"up_blocks.{index}" for index in indices)]
    return [
        f"add.discriminator_blocks: {name!r} is not a block of the base's U-Net; use some of {available}"
        for name in names
        if name not in available
    ]


# --- configurations ---


def _configs(model: str, revision: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Those of autoencoder and U-Net; None where the hub and its cache do not give them."""
    folder = Path(model) if Path(model).is_dir() else _fetched(model, revision)
    return (_config(folder, "vae"), _config(folder, "unet")) if folder else None


def _fetched(model: str, revision: str) -> Path | None:
    """The folder of the hub's cache that holds the two configurations."""
    from huggingface_hub import hf_hub_download  # for a base on the hub only

    try:
        files = [hf_hub_download(model, f"{part}/config.json", revision=revision) for part in ("vae", "unet")]
    except Exception:  # noqa: BLE001 (hub clients raise nearly anything; whoever loads the weights will say it)
        return None
    return Path(files[0]).parent.parent


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _halvings(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"base.model: {str(folder)!r} has no {part}/config.json that can be read ({error}); name a whole pipeline "
            "in diffusers format"
        ) from error
    return config


def _halvings(config: Any) -> int:
    return 2 ** (len(config["block_out_channels"]) - 1)
