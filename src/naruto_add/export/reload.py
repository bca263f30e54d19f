"""Exported files as diffusers loads them for their users, and their pictures, for comparison.

Loaded pipelines are kept in CPU memory. Only the one that draws is on the GPU.
"""

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from torch import Tensor

from naruto_add.comparison.draw import step_noise_generators
from naruto_add.config.schema import Base
from naruto_add.diffusion.base_model import downsampling
from naruto_add.diffusion.bundle import ModelBundle, load_bundle, prompt_options
from naruto_add.diffusion.placement import move_to_cpu, on_device, vae_on_device
from naruto_add.export.original_layout import UNET_PREFIX, unet_name


def load_folder(folder: Path) -> Any:
    """The pipeline in diffusers' own format, in fp32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return _quiet(pipeline)


def load_single_file(path: Path, like: ModelBundle) -> Any:
    """The pipeline in `path` in fp32, by `from_single_file` with the configuration of `like`.

    `from_single_file` reads no U-Net whose levels differ in their number of layers; such a U-Net is built here, and its
    weights are found by `unet_name`.
    """
    has_equal_levels = isinstance(like.unet.config.layers_per_block, int)
    parts = {} if has_equal_levels else {"unet": _read_unet(path, like.unet)}
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        _save_configuration(like, Path(folder))
        pipeline = StableDiffusionPipeline.from_single_file(
            str(path), config=folder, local_files_only=True, torch_dtype=torch.float32, **parts
        )
    return _quiet(pipeline)


def load_lora(path: Path, base: Base) -> Any:
    """The base model in fp32 with the adapters in `path`, by `load_lora_weights`."""
    bundle = load_bundle(base.model_copy(update={"frozen_precision": "fp32"}))
    move_to_cpu(*bundle.networks)
    pipeline = bundle.pipeline()
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    return _quiet(pipeline)


@contextmanager
def pipeline_on_device(pipeline: Any, device: torch.device, *, num_pictures: int) -> Generator[None]:
    """Within the block the networks of the pipeline are on `device`; afterwards each is where it was before.

    If the memory that is free is too small to decode this many pictures at once, they are decoded one by one.
    """
    vae = pipeline.vae
    side = pipeline.unet.config.sample_size * downsampling(vae.config)
    with (
        on_device(device, pipeline.text_encoder, pipeline.unet),
        vae_on_device(vae, device, num_pixels=side**2) as at_once,
    ):
        is_slicing, vae.use_slicing = vae.use_slicing, at_once < num_pictures
        try:
            yield
        finally:
            vae.use_slicing = is_slicing


def draw_by_diffusers(
    pipeline: Any,
    prompts: Sequence[str],
    noise: Tensor,
    *,
    scheduler: Any,
    num_steps: int,
    num_chunks: int,
    seed: int,
) -> Tensor:
    """Pictures in [0, 1] by this scheduler in so many steps, without guidance, drawn on the device of the noise."""
    predicted = pipeline.scheduler.config.prediction_type  # by the pipeline's U-Net; the scheduler's is epsilon
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, prediction_type=predicted)
    with pipeline_on_device(pipeline, noise.device, num_pictures=len(prompts)):
        pictures: Tensor = pipeline(
            **prompt_options(pipeline, list(prompts), num_chunks, is_guided=False),
            num_inference_steps=num_steps,
            guidance_scale=1.0,
            latents=noise,
            generator=step_noise_generators(seed, range(len(prompts))),
            output_type="pt",
        ).images
    return pictures.float()


def _read_unet(path: Path, like: UNet2DConditionModel) -> UNet2DConditionModel:
    unet: UNet2DConditionModel = UNet2DConditionModel.from_config(like.config)
    weights = load_file(path)
    unet.load_state_dict(
        {name: weights[UNET_PREFIX + unet_name(name, unet.config, "contiguous")] for name in unet.state_dict()}
    )
    return unet.eval()


@contextmanager
def _without_warnings() -> Generator[None]:
    """Without those of diffusers, which names an empty list of modules that should be kept in fp32."""
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _save_configuration(bundle: ModelBundle, folder: Path) -> None:
    """Write the configurations and the tokenizer of a pipeline's folder, which lacks the weights."""
    pipeline = bundle.pipeline()
    pipeline.save_config(folder)
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.text_encoder.config.save_pretrained(folder / "text_encoder")
    for name in ("unet", "vae"):
        getattr(pipeline, name).save_config(folder / name)
