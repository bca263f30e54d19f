"""Checks of the base model by its configuration files alone: no weights are loaded and torch is not imported.

The structural rules of U-Net and autoencoder are here and nowhere else: latent sizes, removable blocks, block names.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS, Resolution, sides_px
from naruto_add.config.rules import is_commit
from naruto_add.diffusion.base_parts import check_parts_fit
from naruto_add.diffusion.single_file import is_single_file, single_file_configs
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.hub_errors import refusal

Config = Mapping[str, Any]
"""The configuration of a part of the pipeline in diffusers format."""

_SCHEDULER_FILE = "scheduler/scheduler_config.json"
_TEXT_FILE = "text_encoder/config.json"
PREDICTION_TYPES = ("epsilon", "v_prediction")
_FOLDERS = {"", ".", "..", "~", "base", "models"}
"""First parts of folder names that are never the owner of a hub repository."""


def check_base_model(model: str, *, revision: str, variant: str, resolution_px: int) -> None:
    """Raises StageError if `model` is no folder or file that fits the resolution, and no pinned hub repository."""
    if not Path(model).exists():
        _check_repository(model, revision)
        return
    configs = _local_configs(model)
    if Path(model).is_dir():
        _check_variant(Path(model), variant)
    latent_side(configs["vae"], configs["unet"], resolution_px=resolution_px)
    if Path(model).is_dir():
        check_parts_fit(Path(model))


def _check_variant(folder: Path, variant: str) -> None:
    """Raises StageError if the U-Net's weights are there only under the name of another variant."""
    names = [path.stem for path in (folder / "unet").glob("diffusion_pytorch_model*.safetensors")]
    variants = {name.partition(".")[2] for name in names if "-of-" not in name}  # not of weights in several files
    if variants and variant not in variants:
        others = ", ".join(sorted(map(repr, variants)))
        raise StageError(
            f"base.variant: {variant!r} is not a variant of the weights in {str(folder / 'unet')!r}; use one "
            f"of {others} ('' is the one without a name)"
        )


def check_scheduler(scheduler: Config, model: str) -> None:
    """Raises StageError if the base model's noise schedule or what it predicts is not supported."""
    predicted, length = scheduler.get("prediction_type", "epsilon"), scheduler.get("num_train_timesteps", 1000)
    if predicted not in PREDICTION_TYPES or length != NUM_TRAIN_TIMESTEPS:
        raise StageError(
            f"base.model: {model!r} predicts {predicted} over {length} timesteps; use a model that predicts "
            f"{' or '.join(PREDICTION_TYPES)} over {NUM_TRAIN_TIMESTEPS} timesteps, such as Stable Diffusion 1.x or 2.x"
        )
    if scheduler.get("rescale_betas_zero_snr"):
        raise StageError(
            f"base.model: {model!r} has a noise schedule without signal at its last timestep (rescale_betas_zero_snr "
            "in scheduler/scheduler_config.json), from which epsilon says nothing about the picture; use another model"
        )


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


def size_multiple_px(model: str, revision: str) -> int:
    """What the sides of pictures must be multiples of. Raises StageError if the configurations cannot be read."""
    configs = base_configs(model, revision)
    if configs is None:
        where = f"base.model: the configurations of {model!r} at base.revision {revision!r}"
        raise StageError(f"{where} are neither on the hub nor in its cache; check the network")
    return downsampling(configs["vae"]) * downsampling(configs["unet"])


def downsampling(config: Config) -> int:
    """The factor between the sides of the network's input and of its deepest level."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def check_removable(unet: Config, architecture: str) -> None:
    """Raises StageError if the U-Net does not have the blocks that `student.architecture` removes."""
    if architecture == "none":
        return
    if min(layers_per_level(unet)) < 2:
        raise StageError(
            f"student.architecture: {architecture} removes layers of blocks, but layers_per_block of the teacher's "
            f"U-Net is {unet['layers_per_block']}; use none, or a base.model with at least 2"
        )
    channels = list(unet["block_out_channels"])
    if architecture in ("bk_tiny", "shallow") and (len(channels) < 3 or channels[-1] != channels[-2]):
        raise StageError(
            f"student.architecture: {architecture} removes the deepest level, which requires three levels or more and "
            f"equal widths of the two deepest; block_out_channels of the teacher's U-Net are {channels}; use bk_small"
        )


def layers_per_level(unet: Config) -> list[int]:
    """Resnets of each down block, outermost first; the up block of the same level has one more."""
    layers = unet.get("layers_per_block", 2)  # diffusers' default; old configurations omit the key
    return [layers] * len(unet["block_out_channels"]) if isinstance(layers, int) else list(layers)


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


def _check_repository(model: str, revision: str) -> None:
    if model.endswith((".safetensors", ".ckpt")):
        raise StageError(
            f"base.model: {model!r} is not a file here; correct the path. Temporary experiments see only files that "
            "Git tracks: give other files by absolute path"
        )
    if model.partition("/")[0] in _FOLDERS or model.count("/") != 1:
        raise StageError(
            f"base.model: {model!r} is not a folder here; name a folder in diffusers format or a hub repository "
            "(owner/name). Temporary experiments see only files that Git tracks: give other folders by absolute path"
        )
    if not is_commit(revision):
        raise StageError(
            f"base.revision: {revision!r} is not a commit, which has 40 hexadecimal digits, and base.model {model!r} "
            "is not a folder here; set base.revision to a commit from the hub repository's page, or correct the name "
            "of the folder"
        )


def base_configs(model: str, revision: str) -> Mapping[str, Config] | None:
    """The configurations of vae, unet, scheduler and text_encoder; None if neither the hub nor its cache has them.

    Those of the last two are empty if the model has none: loading the pipeline reports that.
    """
    if Path(model).exists():
        return _local_configs(model)
    folder = _downloaded(model, revision)
    return _local_configs(str(folder)) if folder else None


def _local_configs(model: str) -> Mapping[str, Config]:
    if is_single_file(model):
        return single_file_configs(Path(model))
    folder = Path(model)
    needed = {part: _read_config(folder, f"{part}/config.json", check=downsampling) for part in ("vae", "unet")}
    others = {"scheduler": _SCHEDULER_FILE, "text_encoder": _TEXT_FILE}
    found = {part: _read_config(folder, name) if (folder / name).is_file() else {} for part, name in others.items()}
    return needed | found


def _downloaded(model: str, revision: str) -> Path | None:
    """The folder of the hub's cache with the configurations. Raises StageError if the hub refuses them."""
    from huggingface_hub import hf_hub_download  # only needed for a hub repository

    try:
        files = [hf_hub_download(model, f"{part}/config.json", revision=revision) for part in ("vae", "unet")]
    except Exception as error:
        if reason := refusal(error, key="base.model", repository=model, revision=revision):
            raise StageError(reason) from error
        return None
    for name in (_SCHEDULER_FILE, _TEXT_FILE):
        with suppress(Exception):  # as above
            hf_hub_download(model, name, revision=revision)
    return Path(files[0]).parent.parent


def _read_config(folder: Path, name: str, *, check: Callable[[Config], object] = len) -> Config:
    """The configuration in this file. Raises StageError if there is none, or if `check` of it fails."""
    try:
        config = dict(json.loads((folder / name).read_text(encoding="utf-8")).items())
        check(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(
            f"base.model: {str(folder)!r} has no readable {name} ({error}); name a complete pipeline in "
            "diffusers format"
        ) from error
    return config
