"""The parts of a Stable Diffusion pipeline, frozen, and what is asked of them: text in, latents in and out."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from naruto_add.base_model import check_base_model, latent_side
from naruto_add.compute import Precision, default_device, frozen_dtype
from naruto_add.conventions import NUM_TRAIN_TIMESTEPS
from naruto_add.params import Base
from naruto_add.runtime import StageError

ENCODE_BATCH = 64
DECODE_BATCH = 16

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()


@dataclass
class ModelBundle:
    """The modules of one pipeline, in eval mode and without gradients; whoever trains one switches that on."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: Any

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.unet.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    def to(self, device: torch.device) -> "ModelBundle":
        """Move every module."""
        for module in (self.text_encoder, self.vae, self.unet):
            module.to(device)
        return self

    def pipeline(self) -> StableDiffusionPipeline:
        """The same modules as a diffusers pipeline without a safety checker."""
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def load_bundle(base: Base, /) -> ModelBundle:
    """The base model, from its folder or, at its pinned revision, from the hub; safetensors only.

    Raises StageError where it cannot be had, or where its picture size does not fit `base.resolution_px`.
    """
    check_base_model(base.model, revision=base.revision, resolution_px=base.resolution_px)
    with _explained(f"base.model: {base.model!r}", "check base.model, base.revision and base.variant"):
        bundle = _load(base.model, precision=base.precision, revision=base.revision, variant=base.variant)
    _refuse_other_predictions(bundle, base.model)
    side = latent_side(bundle.vae.config, bundle.unet.config, resolution_px=base.resolution_px)
    bundle.unet.register_to_config(sample_size=side)
    return bundle


def load_pipeline_folder(folder: Path, *, precision: Precision) -> ModelBundle:
    """A pipeline that an earlier stage saved. Raises StageError where it is missing or damaged."""
    with _stage_out(folder):
        return _load(str(folder), precision=precision, revision="", variant="")


def load_unet(folder: Path, *, precision: Precision) -> UNet2DConditionModel:
    """A frozen U-Net that an earlier stage saved, on the default device.

    Raises StageError where it is missing or damaged.
    """
    with _stage_out(folder):
        unet = UNet2DConditionModel.from_pretrained(folder, dtype=frozen_dtype(precision), use_safetensors=True)
    return widen_head(unet).to(default_device()).requires_grad_(False).eval()


def save_bundle(bundle: ModelBundle, folder: Path) -> None:
    """Write the pipeline in diffusers format; the bytes depend on the bundle alone, not on where it came from."""
    bundle.tokenizer.backend_tokenizer.no_padding()  # a tokenizer saves how it was last called
    bundle.tokenizer.backend_tokenizer.no_truncation()
    bundle.pipeline().save_pretrained(folder)
    forget_paths(folder)


def save_unet(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the U-Net in diffusers format; the bytes depend on it alone."""
    unet.save_pretrained(folder)
    forget_paths(folder)


def forget_paths(folder: Path) -> None:
    """Drop the local folders that diffusers and transformers note in configurations: they mean nothing elsewhere."""
    for path in (*folder.glob("*.json"), *folder.glob("*/*config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in {"_name_or_path", "name_or_path"}}
        if kept != config:
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenize(bundle: ModelBundle, prompts: list[str]) -> Int[Tensor, "batch tokens"]:
    """Token ids, padded and cut to the tokenizer's length."""
    tokens = bundle.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    return tokens.input_ids


@torch.no_grad()
def encode_prompts(bundle: ModelBundle, prompts: list[str]) -> Float[Tensor, "batch tokens width"]:
    """The text encoder's last hidden state, fp32, on the bundle's device."""
    parts = [
        bundle.text_encoder(ids.to(bundle.device)).last_hidden_state.float()
        for ids in tokenize(bundle, prompts).split(ENCODE_BATCH)
    ]
    return torch.cat(parts)


@torch.no_grad()
def encode_pixels(bundle: ModelBundle, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
    """Scaled posterior means, fp32, of pixels in [-1, 1]."""
    parts = [
        bundle.vae.encode(part.to(bundle.device, bundle.vae.dtype)).latent_dist.mean.float()
        for part in pixels.split(DECODE_BATCH)
    ]
    return torch.cat(parts) * bundle.vae.config.scaling_factor


@torch.no_grad()
def decode_latents(bundle: ModelBundle, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
    """Pixels in [-1, 1], fp32, of scaled latents."""
    unscaled = latents / bundle.vae.config.scaling_factor
    parts = [bundle.vae.decode(part.to(bundle.vae.dtype)).sample.float() for part in unscaled.split(DECODE_BATCH)]
    return torch.cat(parts).clamp(-1, 1)


@contextmanager
def _stage_out(folder: Path) -> Generator[None]:
    """What is loaded inside comes from this folder: of a missing one diffusers would ask the hub."""
    with _explained(str(folder), "run `dvc repro`, whose stage makes it anew"):
        if not folder.is_dir():
            raise FileNotFoundError("there is no such folder")
        yield


@contextmanager
def _explained(subject: str, remedy: str) -> Generator[None]:
    """What diffusers raises as it loads, as one message for the user."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise StageError(f"{subject} cannot be loaded: {error}; {remedy}") from error


def _load(model: str, *, precision: Precision, revision: str, variant: str) -> ModelBundle:
    pipeline = StableDiffusionPipeline.from_pretrained(
        model,
        revision=revision or None,
        variant=variant or None,
        dtype={"vae": torch.float32, "default": frozen_dtype(precision)},  # latents are kept in fp32
        use_safetensors=True,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        local_files_only=Path(model).is_dir(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return _frozen(pipeline).to(default_device())


def widen_head(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Keep the U-Net's last two layers in fp32; `sampling.noise_pred` calls them so."""
    unet.conv_norm_out.float()
    unet.conv_out.float()
    return unet


def _frozen(pipeline: StableDiffusionPipeline) -> ModelBundle:
    for module in (pipeline.text_encoder, pipeline.vae, pipeline.unet):
        module.requires_grad_(False).eval()
    widen_head(pipeline.unet)
    return ModelBundle(
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline.text_encoder,
        vae=pipeline.vae,
        unet=pipeline.unet,
        scheduler=pipeline.scheduler,
    )


def _refuse_other_predictions(bundle: ModelBundle, model: str) -> None:
    config = bundle.scheduler.config
    if config.prediction_type != "epsilon" or config.num_train_timesteps != NUM_TRAIN_TIMESTEPS:
        raise StageError(
            f"base.model: {model!r} predicts {config.prediction_type} over {config.num_train_timesteps} timesteps; "
            f"use a model that predicts epsilon over {NUM_TRAIN_TIMESTEPS}, as Stable Diffusion 1.x does"
        )
