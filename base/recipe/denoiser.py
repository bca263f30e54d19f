"""Train the base model's text encoder and U-Net together: `python -m recipe.denoiser` in base/.

Both are saved in fp16 with SD 1.5's noise schedule and PNDM scheduler. Every picture is drawn and encoded for one step,
and none is used twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.diffusion.bundle import forget_paths
from naruto_add.runtime.cache import hash_state
from naruto_add.runtime.compute import default_device, step_generator
from naruto_add.runtime.files import content_hash
from naruto_add.training.muon import Muon
from recipe.artifacts import AUTOENCODER, CHECKPOINTS, DENOISER, MODEL, section
from recipe.pictures import VALIDATION_SEED, Batch, Pictures, first_pictures, training_batches
from recipe.resume import Curve, cyclic, fast_passes, load_checkpoint, save_checkpoint
from recipe.updates import averaged_weights, update

SAVE_EVERY_STEPS = 100
CURVE_EVERY_STEPS = 1000
NUM_CURVE_PICTURES = 256
NOISE_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # SD 1.5's


@dataclass(frozen=True)
class Recipe:
    """The section `denoiser` of params.yaml, which says what each value means."""

    seed: int
    pictures_seed: int
    families: list[str]
    block_out_channels: list[int]
    attention_heads: int
    norm_num_groups: int
    text_width: int
    text_layers: int
    text_heads: int
    cycles: list[int]
    warmup_steps: int
    decay_steps: int
    batch_size: int
    learning_rate: float
    caption_dropout: float
    snr_gamma: float
    short_context_share: float
    context_length: int
    ema_decay: float

    @property
    def restarts(self) -> list[int]:
        """First step of every cycle but the first."""
        return list(accumulate(self.cycles))[:-1]


@dataclass(frozen=True)
class DenoisingBatch:
    """What one step trains on: clean latents (N, C, h, w), noise of their shape, timesteps (N) and token ids (N, T)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    token_ids: Tensor


class Denoiser(nn.Module):
    """Text encoder and U-Net as the one module that is trained."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """The noise in noisy latents (N, C, h, w) that are described by token ids (N, T)."""
        prompt_embeds = self.text_encoder(token_ids).last_hidden_state
        noise_pred: Tensor = self.unet(noisy_latents, timesteps, prompt_embeds).sample
        return noise_pred


def train_denoiser(out_dir: Path, recipe: Recipe) -> None:
    """Save text_encoder, unet, scheduler, model_index.json and the learning curve."""
    torch.manual_seed(recipe.seed)
    run = _Run(recipe, default_device())
    checkpoint = CHECKPOINTS / "denoiser.pt"
    first_step = load_checkpoint(checkpoint, run)
    for step, batch in _steps(recipe, first_step, run):
        if step in recipe.restarts:
            run.restart()
        if step % CURVE_EVERY_STEPS == 0:
            run.measure(step)
        run.train_step(run.denoising_batch(batch, step), step)
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            save_checkpoint(checkpoint, run, step + 1)
    run.measure(sum(recipe.cycles))
    run.ema.copy_to(run.model.parameters())
    _save(out_dir, run)
    checkpoint.unlink(missing_ok=True)


def _steps(recipe: Recipe, first_step: int, run: "_Run") -> Iterator[tuple[int, Batch]]:
    return training_batches(
        Pictures(recipe.families, seed=recipe.pictures_seed, size_px=run.vae.config.sample_size),
        range(sum(recipe.cycles)),
        first_step=first_step,
        batch_size=recipe.batch_size,
        device=run.device,
        name="denoiser",
    )


class _Run:
    """The two networks, and a training step of both."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
        self.vae = AutoencoderKL.from_pretrained(AUTOENCODER / "vae", torch_dtype=torch.float32)
        self.vae = self.vae.requires_grad_(False).to(device, memory_format=torch.channels_last)
        self.model = Denoiser(_build_text_encoder(self.tokenizer, recipe), _build_unet(self.vae, recipe)).to(device)
        self.ema = EMAModel(self.model.parameters(), decay=recipe.ema_decay, foreach=True)
        self.optimizer = self._new_optimizer()
        self.noise_scheduler = DDPMScheduler(**NOISE_SCHEDULE)
        self.factor = cyclic(recipe.cycles, warmup_steps=recipe.warmup_steps, decay_steps=recipe.decay_steps)
        self.curve = Curve(CHECKPOINTS / "denoiser.tsv")
        self.validation = self._validation_batch()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"model": self.model, "ema": self.ema, "curve": self.curve, "optimizer": self.optimizer}

    def inputs(self) -> dict[str, Any]:
        """The recipe, and hashes of the autoencoder's weights and of the tokenizer."""
        return {
            **vars(self.recipe),
            "autoencoder": hash_state(self.vae.state_dict()),
            "tokenizer": content_hash(MODEL / "tokenizer"),
        }

    def restart(self) -> None:
        """Begin a cycle: the averaged weights become the weights, and the optimizer is new."""
        self.ema.copy_to(self.model.parameters())
        self.optimizer = self._new_optimizer()

    def denoising_batch(self, batch: Batch, step: int) -> DenoisingBatch:
        """The latents and tokens of a step's pictures. Some captions are dropped, and the context is short or full."""
        recipe, generator = self.recipe, step_generator(self.recipe.seed, step)
        dropped = torch.rand(len(batch[1]), generator=generator) < recipe.caption_dropout
        captions = ["" if drop else caption for drop, caption in zip(dropped.tolist(), batch[1], strict=True)]
        # Some steps have the full context, so that the networks also learn its padding, which sampling has.
        is_short = torch.rand((), generator=generator).item() < recipe.short_context_share
        return self._add_noise((batch[0], captions), recipe.context_length if is_short else None, generator)

    def train_step(self, batch: DenoisingBatch, step: int) -> None:
        """One update of the two networks and of their averages."""
        loss = self._errors(batch).mul(self._weight(batch.timesteps)).mean()
        update(self.model, loss, self.optimizer, learning_rate=self.recipe.learning_rate * self.factor(step))
        self.ema.step(self.model.parameters())

    @torch.no_grad()
    def measure(self, step: int) -> None:
        """Append the mean squared errors of the averaged weights on the validation batch to the learning curve.

        The 256 timesteps are `linspace(0, 999, 256)`, rounded down. Each column is the mean over a quarter of them:
        `error_0` over 0 to 246, `error_256` over 250 to 497, `error_512` over 501 to 748, `error_768` over 752 to 999.
        """
        parts = zip(*(part.split(32) for part in vars(self.validation).values()), strict=True)
        with averaged_weights(self.ema, self.model):
            errors = torch.cat([self._errors(DenoisingBatch(*part)) for part in parts])
        quarters = {f"error_{256 * i}": float(part.mean()) for i, part in enumerate(errors.chunk(4))}
        self.curve.append({"step": step, "pictures": step * self.recipe.batch_size, **quarters})

    def _new_optimizer(self) -> Muon:
        weights = dict(self.model.named_parameters())
        return Muon(weights, lr=self.recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)

    def _validation_batch(self) -> DenoisingBatch:
        """Pictures that are not trained on, with timesteps at equal distances from 0 to 999."""
        recipe, size_px = self.recipe, self.vae.config.sample_size
        pixels, captions = first_pictures(
            recipe.families, NUM_CURVE_PICTURES, seed=recipe.pictures_seed + VALIDATION_SEED, size_px=size_px
        )
        parts = [
            self._add_noise((part, []), None, step_generator(recipe.seed, i)) for i, part in enumerate(pixels.split(32))
        ]
        latents, noise = (torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "noise"))
        timesteps = torch.linspace(0, 999, NUM_CURVE_PICTURES, device=self.device).long()
        return DenoisingBatch(latents, noise, timesteps, self._tokenize(captions))

    @torch.no_grad()
    def _add_noise(self, batch: Batch, context_length: int | None, generator: torch.Generator) -> DenoisingBatch:
        pixels, captions = batch
        # The posterior's mean, because the noise of a sample would be learned as part of the picture.
        with fast_passes(self.device):
            latents = self.vae.encode(pixels.to(self.device)).latent_dist.mean.float()
        latents = latents * self.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        timesteps = torch.randint(self.noise_scheduler.config.num_train_timesteps, (len(pixels),), generator=generator)
        token_ids = self._tokenize(captions)[:, :context_length] if captions else torch.empty(0)
        return DenoisingBatch(latents, noise, timesteps.to(self.device), token_ids)

    def _tokenize(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return tokens.input_ids.to(self.device)

    def _errors(self, batch: DenoisingBatch) -> Tensor:
        """Mean squared error of each item's predicted noise."""
        noisy_latents = self.noise_scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        with fast_passes(self.device):
            noise_pred = self.model(noisy_latents, batch.timesteps, batch.token_ids)
        return (noise_pred.float() - batch.noise).square().mean(dim=(1, 2, 3))

    def _weight(self, timesteps: Tensor) -> Tensor:
        """Min-SNR weights (Hang et al. 2023), multiplied by SNR^-1/2 where SNR < 1.

        The second factor is not in the paper. It gives more weight to the noisiest timesteps, which decide the layout.
        """
        snr = compute_snr(self.noise_scheduler, timesteps)
        return snr.clamp(max=self.recipe.snr_gamma) / snr * snr.rsqrt().clamp(min=1)


def _build_text_encoder(tokenizer: CLIPTokenizer, recipe: Recipe) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            projection_dim=recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=recipe.text_heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _build_unet(vae: AutoencoderKL, recipe: Recipe) -> UNet2DConditionModel:
    """Attention on the inner levels only: as in SD 1.5 not on the last, and as in SDXL not on the first."""
    inner = len(recipe.block_out_channels) - 2
    unet = UNet2DConditionModel(
        sample_size=vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * inner, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * inner, "UpBlock2D"),
        block_out_channels=tuple(recipe.block_out_channels),
        layers_per_block=2,
        attention_head_dim=recipe.attention_heads,  # diffusers' name for the number of heads, kept from SD 1.5
        cross_attention_dim=recipe.text_width,
        norm_num_groups=recipe.norm_num_groups,
    )
    _begin_with_identity(unet)
    return unet


@torch.no_grad()
def _begin_with_identity(unet: UNet2DConditionModel) -> None:
    """Make the U-Net return its input, which reaches its end through the first convolution's skip connection.

    At t = 999 an error in epsilon is 14.6 times as large in x0: until the network copies noise to better than that, it
    learns nothing about the picture's layout. With these initial weights it copies exactly: SiLU(x) - SiLU(-x) = x.
    """
    latent, width = unet.config.in_channels, unet.config.block_out_channels[0]
    signs = torch.eye(latent).repeat(2, 1)
    signs[latent:] *= -1
    kept, last = 2 * latent, unet.up_blocks[-1].resnets[-1]
    for layer, rows in ((unet.conv_in, kept), (last.conv2, kept), (last.conv_shortcut, kept), (unet.conv_out, latent)):
        layer.weight[:rows] = 0
        layer.bias[:rows] = 0
    unet.conv_in.weight[:kept, :, 1, 1] = signs
    skip = last.conv_shortcut.in_channels - width
    last.conv_shortcut.weight[:kept, skip : skip + kept, 0, 0] = torch.eye(kept)
    unet.conv_out.weight[:, :kept, 1, 1] = signs.T


def _save(out_dir: Path, run: _Run) -> None:
    """Write both networks in fp16, as SD 1.5 is published, with the scheduler, model_index.json and the curve."""
    scheduler = PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=run.vae,
        text_encoder=run.model.text_encoder,
        tokenizer=run.tokenizer,
        unet=run.model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # The pipeline is not saved as a whole: autoencoder and tokenizer are outputs of earlier stages.
    run.model.text_encoder.half().save_pretrained(out_dir / "text_encoder")
    run.model.unet.half().save_pretrained(out_dir / "unet")
    scheduler.save_pretrained(out_dir / "scheduler")
    pipeline.save_config(out_dir)
    forget_paths(out_dir)
    run.curve.save(out_dir / "curve.tsv")


if __name__ == "__main__":
    train_denoiser(DENOISER, Recipe(**section("denoiser")))
