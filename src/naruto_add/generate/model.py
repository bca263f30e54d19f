"""A model that plain diffusers loads from a folder, with the settings that it is sampled with."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from naruto_add.config import paths
from naruto_add.config.schema import Params
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import prompt_options
from naruto_add.generate.settings import SamplingSettings, read_settings
from naruto_add.runtime.compute import default_device
from naruto_add.runtime.errors import StageError

NO_TEMPLATE = "{caption}"

ReadParams = Callable[[], Params | None]
"""Returns the parameters of the project in the working directory, or None outside of a project."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """`name` is the folder. `guidance_scale` is None for an exported student, whose guidance is distilled into it."""

    name: str
    pipeline: Any
    num_inference_steps: int
    guidance_scale: float | None
    prompt_template: str
    caption_chunks: int = 1

    def draw(self, caption: str, *, seed: int) -> Image.Image:
        """One picture, from the noise of a CPU generator with this seed."""
        guidance = {} if self.guidance_scale is None else {"guidance_scale": self.guidance_scale}
        prompt = fill_template(self.prompt_template, caption)
        image: Image.Image = self.pipeline(
            **self._prompt(prompt),
            num_inference_steps=self.num_inference_steps,
            generator=torch.Generator("cpu").manual_seed(seed),
            **guidance,
        ).images[0]
        return image

    def _prompt(self, prompt: str) -> dict[str, Any]:
        if self.caption_chunks == 1:
            return {"prompt": prompt}
        is_guided = self.guidance_scale is not None
        return prompt_options(self.pipeline, [prompt], self.caption_chunks, is_guided=is_guided)


def load_model(
    folder: Path,
    *,
    num_steps: int | None,
    guidance_scale: float | None,
    raw_prompt: bool,
    read_params: ReadParams = lambda: None,
) -> Model:
    """The model on the GPU if there is one.

    A folder with naruto_add.json is an exported student. A missing option is taken from this file, or for other models
    from the project's parameters, which are read only then. Raises StageError, which names the option of `naruto-add
    generate`, if the folder cannot be loaded, if an option does not fit the model, or if a missing one has no value.
    """
    settings = read_settings(folder)
    if settings and guidance_scale is not None:
        raise StageError(
            f"--guidance: {guidance_scale:g} has no effect on {folder}, because guidance is distilled into an exported "
            "student; leave the option out"
        )
    pipeline, defaults = _load_pipeline(folder), _Defaults(folder, settings, read_params)
    steps = defaults.num_steps() if num_steps is None else num_steps
    _check_steps(pipeline, steps, folder)
    return Model(
        name=str(folder),
        pipeline=pipeline,
        num_inference_steps=steps,
        guidance_scale=None if settings else (defaults.guidance_scale() if guidance_scale is None else guidance_scale),
        prompt_template=NO_TEMPLATE if raw_prompt else defaults.prompt_template(),
        caption_chunks=defaults.caption_chunks(),
    )


@dataclass(frozen=True)
class _Defaults:
    """Values for options that were not given."""

    folder: Path
    settings: SamplingSettings | None
    read_params: ReadParams

    def num_steps(self) -> int:
        return self.settings.num_inference_steps if self.settings else self._params("--steps").sampling.teacher_steps

    def guidance_scale(self) -> float:
        return self._params("--guidance").sampling.guidance_scale

    def prompt_template(self) -> str:
        return self.settings.prompt_template if self.settings else self._params("--raw-prompt").base.prompt_template

    def caption_chunks(self) -> int:
        """1 for a folder that this project has not made."""
        if self.settings:
            return self.settings.caption_chunks
        params = self.read_params() if self.folder.resolve() == paths.TEACHER.resolve() else None
        return params.base.caption_chunks if params else 1

    def _params(self, option: str) -> Params:
        if params := self.read_params():
            return params
        raise StageError(
            f"{option}: has no default for {self.folder}, because neither that folder nor {Path.cwd()} records "
            f"it; give {option}, or run the command in the folder that contains params.yaml"
        )


def _load_pipeline(folder: Path) -> Any:
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    device = default_device()
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            folder, dtype=_dtype(folder, device), use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise StageError(
            f"--model: {folder} cannot be loaded: {error}; use another folder, or run `dvc repro` to restore this one"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _dtype(folder: Path, device: torch.device) -> torch.dtype:
    """fp32 on a CPU. On a GPU, the dtype that the U-Net is stored in."""
    weights = sorted(folder.glob("unet/*.safetensors"))
    if device.type == "cpu" or not weights:
        return torch.float32
    with safe_open(weights[0], "pt") as tensors:
        dtype: torch.dtype = tensors.get_tensor(next(iter(tensors.keys()))).dtype
    return dtype


def _check_steps(pipeline: Any, num_steps: int, folder: Path) -> None:
    """Raises StageError if the scheduler of a Stable Diffusion pipeline cannot take so many steps."""
    if not isinstance(pipeline, StableDiffusionPipeline):
        return
    scheduler = copy.deepcopy(pipeline.scheduler)
    name, num_train_timesteps = type(scheduler).__name__, scheduler.config.num_train_timesteps
    try:
        scheduler.set_timesteps(num_steps)
        is_possible = scheduler.timesteps.min() >= 0 and scheduler.timesteps.max() < num_train_timesteps
    except ValueError:
        is_possible = False
    if not is_possible:
        raise StageError(
            f"--steps: {num_steps} is not possible with the {name} of {folder}; use fewer, or leave the option out"
        )
