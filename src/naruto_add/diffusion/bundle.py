"""The networks of a Stable Diffusion pipeline: loading, saving, and encoding and decoding of text and pictures."""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from naruto_add.config.schema import Base
from naruto_add.diffusion.base_model import check_base_model, check_scheduler, downsampling, latent_side
from naruto_add.diffusion.frozen_unet import bf16_instead, frozen_unet, largest_weight
from naruto_add.diffusion.half_decoder import decoder_dtype
from naruto_add.diffusion.load_errors import (
    loading,
    loading_from_hub,
    loading_stage_output,
    require_all_weights,
    require_none_missing,
)
from naruto_add.diffusion.placement import on_device, vae_on_device
from naruto_add.diffusion.single_file import is_single_file, write_configs
from naruto_add.diffusion.token_chunks import token_chunks
from naruto_add.diffusion.v_prediction import attach_v_schedule
from naruto_add.runtime.compute import Precision, default_device, frozen_dtype, gpu_layout

ENCODE_BATCH = 64
_TOKENIZER_LOCK = Lock()
"""A tokenizer stores the options of a call, so two threads must not call it at once."""

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()


@dataclass
class ModelBundle:
    """The networks of one pipeline, frozen and in eval mode as loaded, with its tokenizer and scheduler.

    `device` is where the networks compute; those that are not in use may be in CPU memory (`diffusion.placement`).
    `caption_chunks` is the number of chunks in which prompts are encoded.
    """

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: Any
    device: torch.device = field(default_factory=default_device)
    caption_chunks: int = 1

    @property
    def networks(self) -> tuple[CLIPTextModel, AutoencoderKL, UNet2DConditionModel]:
        """Text encoder, autoencoder and U-Net."""
        return self.text_encoder, self.vae, self.unet

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of one picture at the U-Net's `sample_size`."""
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    def to(self, device: torch.device) -> "ModelBundle":
        """Move every network to `device`, where they work from now on; returns this bundle."""
        for module in self.networks:
            module.to(device)
        self.device = device
        return self

    def pipeline(self) -> StableDiffusionPipeline:
        """A diffusers pipeline of the same networks, without a safety checker."""
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
    """The base model, frozen, from its folder or from the hub at its pinned revision; safetensors only.

    Raises StageError if it cannot be loaded, predicts neither epsilon nor v, or cannot draw pictures of
    `base.resolution_px`.
    """
    check_base_model(base.model, revision=base.revision, variant=base.variant, resolution_px=base.resolution_px)
    with (
        loading_from_hub(base),
        loading(f"base.model: {base.model!r}", "check base.model, base.revision and base.variant"),
    ):
        if is_single_file(base.model):
            bundle = _load_single_file(Path(base.model), precision=base.frozen_precision)
        else:
            bundle = _load(base.model, precision=base.frozen_precision, revision=base.revision, variant=base.variant)
    bundle.caption_chunks = base.caption_chunks
    check_scheduler(bundle.scheduler.config, base.model)
    side = latent_side(bundle.vae.config, bundle.unet.config, resolution_px=base.resolution_px)
    # diffusers' pipeline sets a `sample_size` below 64 to 64 in configurations of versions before 0.9
    bundle.unet.register_to_config(sample_size=side, _diffusers_version=diffusers.__version__)
    return bundle


def load_pipeline_folder(folder: Path, *, precision: Precision, caption_chunks: int = 1) -> ModelBundle:
    """A pipeline that an earlier stage saved, frozen. Raises StageError if it is missing or damaged."""
    with loading_stage_output(folder):
        bundle = _load(str(folder), precision=precision, revision="", variant="")
    bundle.caption_chunks = caption_chunks
    return bundle


def load_unet(folder: Path, *, precision: Precision, scheduler: Any) -> UNet2DConditionModel:
    """A U-Net that an earlier stage saved, frozen, on the default device; the scheduler says what it predicts.

    Raises StageError if it is missing or damaged.
    """
    with loading_stage_output(folder):
        unet = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        require_all_weights(unet)
    return attach_v_schedule(frozen_unet(unet, frozen_dtype(precision), default_device()), scheduler)


def save_bundle(bundle: ModelBundle, folder: Path) -> None:
    """Write the pipeline in diffusers format. The bytes depend only on the bundle, not on where it was loaded from."""
    bundle.tokenizer.backend_tokenizer.no_padding()  # a tokenizer saves the options of its last call
    bundle.tokenizer.backend_tokenizer.no_truncation()
    for module in bundle.networks:
        module.to(memory_format=torch.contiguous_format)  # the only one that files can have
    bundle.pipeline().save_pretrained(folder)
    forget_paths(folder)


def save_unet(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the U-Net in diffusers format. The bytes depend only on the U-Net, not on where it was loaded from."""
    unet.to(memory_format=torch.contiguous_format)  # the only one that files can have
    unet.save_pretrained(folder)
    forget_paths(folder)


def forget_paths(folder: Path) -> None:
    """Delete the local paths that diffusers and transformers record in the configurations under `folder`."""
    for path in (*folder.glob("*.json"), *folder.glob("*/*config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in {"_name_or_path", "name_or_path"}}
        if kept != config:
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenize(bundle: ModelBundle, prompts: list[str]) -> Int[Tensor, "batch tokens"]:
    """Token ids, padded or truncated to the tokenizer's length, on the CPU; of all chunks, one after the other."""
    with _TOKENIZER_LOCK:
        if bundle.caption_chunks == 1:
            return bundle.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        empty = bundle.tokenizer("", padding="max_length").input_ids
        ids = bundle.tokenizer(prompts, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return torch.tensor([token_chunks(each, empty, bundle.caption_chunks) for each in ids])


def prompt_options(pipeline: Any, prompts: list[str], num_chunks: int, *, is_guided: bool) -> dict[str, Any]:
    """The arguments by which a pipeline of diffusers gets these prompts: as text, or encoded if in several chunks."""
    if num_chunks == 1:
        return {"prompt": prompts}
    networks = pipeline.text_encoder, pipeline.vae, pipeline.unet
    bundle = ModelBundle(
        pipeline.tokenizer,
        *networks,
        pipeline.scheduler,
        device=pipeline.text_encoder.device,
        caption_chunks=num_chunks,
    )
    dtype = pipeline.unet.dtype
    options = {"prompt_embeds": encode_prompts(bundle, prompts).to(dtype)}
    if is_guided:
        options["negative_prompt_embeds"] = encode_prompts(bundle, [""] * len(prompts)).to(dtype)
    return options


@torch.no_grad()
def encode_prompts(bundle: ModelBundle, prompts: list[str]) -> Float[Tensor, "batch tokens width"]:
    """The text encoder's last hidden state, fp32, on the bundle's device."""
    with on_device(bundle.device, bundle.text_encoder):
        parts = [
            embed_tokens(bundle.text_encoder, ids.to(bundle.device), bundle.caption_chunks)
            for ids in tokenize(bundle, prompts).split(ENCODE_BATCH)
        ]
    return torch.cat(parts)


def embed_tokens(
    text_encoder: nn.Module, ids: Int[Tensor, "batch tokens"], num_chunks: int
) -> Float[Tensor, "batch tokens width"]:
    """The text encoder's last hidden state, fp32, of every chunk alone, joined along the sequence."""
    hidden = text_encoder(ids.view(len(ids) * num_chunks, -1)).last_hidden_state.float()
    return hidden.view(*ids.shape, -1)


@torch.no_grad()
def encode_pixels(bundle: ModelBundle, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
    """Scaled posterior means of the latents, fp32, on the bundle's device, of pixels in [-1, 1]."""
    with vae_on_device(bundle.vae, bundle.device, num_pixels=pixels[0, 0].numel()) as batch_size:
        parts = [
            bundle.vae.encode(part.to(bundle.device, bundle.vae.dtype)).latent_dist.mean.float()
            for part in pixels.split(batch_size)
        ]
    return torch.cat(parts) * bundle.vae.config.scaling_factor


@torch.no_grad()
def decode_latents(bundle: ModelBundle, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
    """Pixels in [-1, 1], fp32, on the latents' device, of scaled latents."""
    unscaled = latents / bundle.vae.config.scaling_factor
    num_pixels = latents[0, 0].numel() * downsampling(bundle.vae.config) ** 2
    with vae_on_device(bundle.vae, latents.device, num_pixels=num_pixels) as batch_size:
        dtype = decoder_dtype(bundle.vae)
        parts = [bundle.vae.decode(part.to(dtype)).sample.float() for part in unscaled.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def _load(model: str, *, precision: Precision, revision: str, variant: str) -> ModelBundle:
    options: dict[str, Any] = {
        "revision": revision or None,
        "variant": variant or None,
        "dtype": torch.float32,  # the autoencoder stays in fp32; the others are rounded later, without the U-Net's head
        "use_safetensors": True,
        "local_files_only": Path(model).is_dir(),
    }
    # Loaded here because the pipeline does not tell which weights of it the files lack.
    text_encoder, found = CLIPTextModel.from_pretrained(
        model, subfolder="text_encoder", output_loading_info=True, **options
    )
    require_none_missing(text_encoder, found["missing_keys"])
    pipeline = StableDiffusionPipeline.from_pretrained(
        model,
        text_encoder=text_encoder,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **options,
    )
    pipeline.set_progress_bar_config(disable=True)
    return frozen_bundle(pipeline, frozen_dtype(precision), default_device())


def _load_single_file(path: Path, *, precision: Precision) -> ModelBundle:
    """A file in the original layout, with the configurations that follow from its tensors; no network is used."""
    with tempfile.TemporaryDirectory() as folder:
        write_configs(path, Path(folder))
        pipeline = StableDiffusionPipeline.from_single_file(
            path.as_posix(), config=folder, local_files_only=True, torch_dtype=torch.float32
        )
    return frozen_bundle(pipeline, frozen_dtype(precision), default_device())


def frozen_bundle(pipeline: StableDiffusionPipeline, dtype: torch.dtype, device: torch.device) -> ModelBundle:
    """The pipeline's networks, frozen: the autoencoder as it is, U-Net and text encoder as `frozen_unet` rounds.

    Raises ValueError if a network has weights on `meta`, which its files lacked; a text encoder is checked where
    transformers loads it.
    """
    text_encoder = pipeline.text_encoder
    require_all_weights(text_encoder, pipeline.vae, pipeline.unet)
    if dtype == torch.float16 and largest_weight(text_encoder) > torch.finfo(dtype).max:
        text_dtype = bf16_instead("text encoder")
    else:
        text_dtype = dtype
    for module in (text_encoder, pipeline.vae):
        module.requires_grad_(False).eval()
    bundle = ModelBundle(
        tokenizer=pipeline.tokenizer,
        text_encoder=text_encoder.to(text_dtype),
        vae=pipeline.vae,
        unet=attach_v_schedule(frozen_unet(pipeline.unet, dtype, device), pipeline.scheduler),
        scheduler=pipeline.scheduler,
    ).to(device)
    gpu_layout(bundle.vae)
    if text_dtype == torch.float16 and not encode_prompts(bundle, [""]).isfinite().all():
        text_encoder.to(bf16_instead("text encoder"))
    return bundle
