"""An exported student drawn by onnxruntime instead of torch; only the noise is torch's, so that pictures are equal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from PIL import Image

from naruto_add.generate.model import NO_TEMPLATE, Model
from naruto_add.generate.onnx_pipeline import OnnxPipeline
from naruto_add.generate.settings import read_settings
from naruto_add.runtime.errors import StageError

Backend = Literal["onnx", "onnx_int8"]
"""Sub-folder of models/export."""


def load_onnx_model(
    folder: Path,
    *,
    num_steps: int | None,
    guidance_scale: float | None,
    raw_prompt: bool,
    backend: Backend = "onnx",
) -> Model:
    """The model in the folder's sub-folder `backend`, with the steps and the prompt template of its sampler.json.

    Raises StageError if it is missing, if onnxruntime is not installed, or for an option that it does not have.
    """
    if read_settings(folder) is None:
        raise StageError(
            f"--backend: {folder} is not an exported student, and only exported students are drawn by onnxruntime; "
            "leave the option out"
        )
    if guidance_scale is not None:
        raise StageError(f"--guidance: {guidance_scale:g} has no effect with --backend {backend}; leave the option out")
    pipeline = OnnxPipeline(folder / backend)
    steps = len(pipeline.sampler["steps"])
    if num_steps not in (None, steps):
        raise StageError(f"--steps: {num_steps}: {folder / backend} draws in {steps} steps; leave the option out")
    return Model(
        name=str(folder / backend),
        pipeline=_AsDiffusers(pipeline),
        num_inference_steps=steps,
        guidance_scale=None,
        prompt_template=NO_TEMPLATE if raw_prompt else pipeline.sampler["prompt_template"],
    )


class _AsDiffusers:
    """Called as a pipeline of diffusers is; its steps are those of sampler.json."""

    def __init__(self, pipeline: OnnxPipeline) -> None:
        self._pipeline = pipeline

    def __call__(self, *, prompt: str, generator: torch.Generator, **_: Any) -> Any:
        noise = torch.randn((1, *self._pipeline.latent_shape), generator=generator)
        pictures = self._pipeline.draw([prompt], noise.numpy())
        return SimpleNamespace(images=[Image.fromarray(picture) for picture in pictures])
