"""Exported files reloaded by diffusers as their users load them, and drawn with for comparison."""

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor

from naruto_add.config.schema import Base
from naruto_add.diffusion.bundle import ModelBundle, load_bundle
from naruto_add.generation.draw import step_noise_generators
from naruto_add.runtime.compute import default_device


def load_folder(folder: Path) -> Any:
    """The pipeline in diffusers' own format, in fp32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return _quiet(pipeline)


def load_single_file(path: Path, like: ModelBundle) -> Any:
    """The pipeline in `path` in fp32, by `from_single_file` with the configuration of `like`."""
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        _save_configuration(like, Path(folder))
        pipeline = StableDiffusionPipeline.from_single_file(
            str(path), config=folder, local_files_only=True, torch_dtype=torch.float32
        )
    return _quiet(pipeline)


def load_lora(path: Path, base: Base) -> Any:
    """The base model in fp32 with the adapters in `path`, by `load_lora_weights`."""
    bundle = load_bundle(base.model_copy(update={"frozen_precision": "fp32"}))
    pipeline = bundle.pipeline()
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    return _quiet(pipeline)


def draw_by_diffusers(
    pipeline: Any, prompts: Sequence[str], noise: Tensor, *, scheduler: Any, num_steps: int, seed: int
) -> Tensor:
    """Pictures in [0, 1] by this scheduler in so many steps, without guidance."""
    predicted = pipeline.scheduler.config.prediction_type  # by the pipeline's U-Net; the scheduler's is epsilon
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, prediction_type=predicted)
    pictures: Tensor = pipeline(
        list(prompts),
        num_inference_steps=num_steps,
        guidance_scale=1.0,
        latents=noise,
        generator=step_noise_generators(seed, range(len(prompts))),
        output_type="pt",
    ).images
    return pictures.float()


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
    return pipeline.to(default_device())


def _save_configuration(bundle: ModelBundle, folder: Path) -> None:
    """The pipeline's folder without weights."""
    pipeline = bundle.pipeline()
    pipeline.save_config(folder)
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.text_encoder.config.save_pretrained(folder / "text_encoder")
    for name in ("unet", "vae"):
        getattr(pipeline, name).save_config(folder / name)
