"""Checks of the base model by its configuration files alone: no weights are loaded and torch is not imported.

The structural rules of U-Net and autoencoder are here and nowhere else: latent sizes, removable blocks, block names.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from naruto_add.config.constants import Resolution, sides_px
from naruto_add.config.schema import Params
from naruto_add.runtime.errors import StageError

Config = Mapping[str, Any]
"""The configuration of a U-Net or an autoencoder in diffusers format."""

_FOLDERS = {"", ".", "..", "~", "base", "models"}
"""First parts of folder names that are never the owner of a hub repository."""


def check_base_use(params: Params) -> None:
    """Raises StageError if the base model is missing or unpinned, or if a stage could not use its U-Net or autoencoder.

    All problems of the parameters are in one message. Of a hub repository only two configuration files are downloaded;
    if that fails, only the name and the revision are checked.
    """
    base = params.base
    check_base_model(base.model, revision=base.revision, resolution_px=base.resolution_px)
    configs = base_configs(base.model, base.revision)
    if configs is None:
        return
    vae, unet = configs
    latent_side(vae, unet, resolution_px=base.resolution_px)
    problems = [
        *(_problem(latent_size, vae, unet, size, key="add.resolutions_px") for size in params.add.resolutions_px),
        _problem(check_removable, unet, params.student.architecture),
        *(_problem(check_block_names, unet, [name]) for name in params.add.discriminator_blocks),
    ]
    if any(problems):
        raise StageError("\n".join(filter(None, problems)))


def check_base_model(model: str, *, revision: str, resolution_px: int) -> None:
    """Raises StageError if `model` is neither a complete folder fit for the resolution nor a pinned hub repository."""
    if not Path(model).is_dir():
        _check_repository(model, revision)
        return
    vae, unet = (_config(Path(model), part) for part in ("vae", "unet"))
    latent_side(vae, unet, resolution_px=resolution_px)


def latent_side(vae: Config, unet: Config, *, resolution_px: int) -> int:
    """The side of the latents of square pictures. Raises StageError as `latent_size` does."""
    return latent_size(vae, unet, resolution_px, key="base.resolution_px")[0]


def latent_size(vae: Config, unet: Config, resolution: Resolution, *, key: str) -> tuple[int, int]:
    """Height and width of the latents of pictures of this size.

    Raises StageError, with `key` as the parameter, if autoencoder and U-Net cannot halve a side as often as they do.
    """
    factor, levels = downsampling(vae), downsampling(unet)
    width, height = sides_px(resolution)
    if width % (factor * levels) or height % (factor * levels):
        raise StageError(
            f"{key}: {resolution} must be a multiple of {factor * levels} on each side, because the autoencoder "
            f"downsamples by {factor} and the U-Net by {levels}"
        )
    return height // factor, width // factor


def downsampling(config: Config) -> int:
    """The factor between the sides of the network's input and of its deepest level."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def check_removable(unet: Config, architecture: str) -> None:
    """Raises StageError if the U-Net does not have the blocks that `student.architecture` removes."""
    if architecture == "none":
        return
    layers = unet.get("layers_per_block", 2)  # diffusers' default; old configurations omit the key
    if min([layers] if isinstance(layers, int) else layers) < 2:
        raise StageError(
            f"student.architecture: {architecture} removes a layer of each block, but layers_per_block of the "
            f"teacher's U-Net is {layers}; use none, or a base.model with at least 2"
        )
    channels = list(unet["block_out_channels"])
    if architecture == "bk_tiny" and (len(channels) < 3 or channels[-1] != channels[-2]):
        raise StageError(
            "student.architecture: bk_tiny removes the deepest level, which requires at least three levels and equal "
            f"widths of the two deepest; block_out_channels of the teacher's U-Net are {channels}; use bk_small"
        )


def block_names(unet: Config) -> list[str]:
    """The names of the U-Net's blocks in the order of computation, such as `down_blocks.0` and `mid_block`."""
    levels = range(len(unet["block_out_channels"]))
    mid = ["mid_block"] if unet.get("mid_block_type", "UNetMidBlock2DCrossAttn") else []
    return [*(f"down_blocks.{level}" for level in levels), *mid, *(f"up_blocks.{level}" for level in levels)]


def check_block_names(unet: Config, names: Sequence[str]) -> None:
    """Raises StageError if one of `add.discriminator_blocks` is not a block of the U-Net."""
    available = block_names(unet)
    for name in names:
        if name not in available:
            raise StageError(
                f"add.discriminator_blocks: {name!r} is not a block of the teacher's U-Net; use some of {available}"
            )


def _problem(check: Callable[..., object], *args: Any, **kwargs: Any) -> str | None:
    try:
        check(*args, **kwargs)
    except StageError as error:
        return str(error)
    return None


def _check_repository(model: str, revision: str) -> None:
    if model.partition("/")[0] in _FOLDERS or model.count("/") != 1:
        raise StageError(
            f"base.model: {model!r} is not a folder here; name a folder in diffusers format or a hub repository "
            "(owner/name). Temporary experiments see only files that Git tracks: give other folders by absolute path"
        )
    if not revision:
        raise StageError(
            f"base.revision: '' is not a commit, and base.model {model!r} is not a folder here; set base.revision to a "
            "commit of the hub repository, or correct the name of the folder"
        )


def base_configs(model: str, revision: str) -> tuple[Config, Config] | None:
    """Those of autoencoder and U-Net; None if neither the hub nor its local cache has them."""
    folder = Path(model) if Path(model).is_dir() else _downloaded(model, revision)
    return (_config(folder, "vae"), _config(folder, "unet")) if folder else None


def _downloaded(model: str, revision: str) -> Path | None:
    """The folder of the hub's cache that contains the two configurations."""
    from huggingface_hub import hf_hub_download  # only needed for a hub repository

    try:
        files = [hf_hub_download(model, f"{part}/config.json", revision=revision) for part in ("vae", "unet")]
    except Exception:  # noqa: BLE001 (hub clients raise many types; loading the weights reports the cause)
        return None
    return Path(files[0]).parent.parent


def _config(folder: Path, part: str) -> Config:
    path = folder / part / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        downsampling(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"base.model: {str(folder)!r} has no readable {part}/config.json ({error}); name a complete pipeline in "
            "diffusers format"
        ) from error
    return config
