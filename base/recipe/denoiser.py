"""Train the base model's text encoder and U-Net together: `python -m recipe.denoiser` in base/.

Under `accelerate launch` the processes share each batch, with the same result but for rounding: two processes of one
thread each are faster on two cores than one process of two threads. Both networks are saved in fp16 with SD 1.5's
noise schedule and PNDM scheduler, next to the autoencoder and tokenizer that the earlier stages left in the folder,
which becomes a complete StableDiffusionPipeline.
"""

import bisect
import math
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.diffusion.bundle import forget_paths
from recipe.artifacts import CHECKPOINTS, MODEL, load_people, members, section
from recipe.resume import load_checkpoint, save_checkpoint

SAVE_EVERY_STEPS = 250
NOISE_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # SD 1.5's


@dataclass(frozen=True)
class Examples:
    """What is trained on: scaled latent means (N, C, h, w), sharper than samples, and token ids (N, 77)."""

    latents: Tensor
    token_ids: Tensor
    empty_ids: Tensor


class Denoiser(nn.Module):
    """Text encoder and U-Net as the one module that is trained."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        prompt_embeds = self.text_encoder(token_ids).last_hidden_state
        return self.unet(noisy_latents, timesteps, prompt_embeds).sample


@dataclass(frozen=True)
class Recipe:
    """The section `denoiser` of params.yaml, which says what each value means."""

    seed: int
    block_out_channels: list[int]
    attention_heads: int
    norm_num_groups: int
    text_width: int
    text_layers: int
    text_heads: int
    cycle_steps: list[int]
    cycle_families: list[list[str]]
    batch_size: int
    learning_rate: float
    warmup_steps: int
    caption_dropout: float
    snr_gamma: float
    short_context_share: float
    context_length: int
    ema_decay: float


def train_denoiser(model_dir: Path, recipe: Recipe) -> None:
    """Complete `model_dir` with text_encoder, unet, scheduler and model_index.json."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)])
    torch.manual_seed(recipe.seed)
    vae = AutoencoderKL.from_pretrained(model_dir / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(model_dir / "tokenizer")
    model = Denoiser(_build_text_encoder(tokenizer, recipe), _build_unet(vae, recipe))
    ema = EMAModel(model.parameters(), decay=recipe.ema_decay, foreach=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _in_cycle(step, recipe))
    state = {"model": model, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    checkpoint = CHECKPOINTS / "denoiser.pt"
    first_step = load_checkpoint(checkpoint, state)
    parallel_model = accelerator.prepare_model(model)
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    lessons = _Lessons(_encode(vae, tokenizer), DDPMScheduler(**NOISE_SCHEDULE), recipe)
    progress = _progress(first_step, sum(recipe.cycle_steps), is_shown=accelerator.is_main_process)
    running = 0.0
    for step in progress:
        loss = lessons.loss(parallel_model, step, share=share)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(model.parameters())
        running = loss.item() if step == first_step else 0.98 * running + 0.02 * loss.item()
        progress.set_postfix(loss=f"{running:.4f}", refresh=False)
        if (step + 1) % SAVE_EVERY_STEPS == 0 and accelerator.is_main_process:
            save_checkpoint(checkpoint, state, step + 1)
    if accelerator.is_main_process:
        ema.copy_to(model.parameters())
        _save(model_dir, vae, tokenizer, model)
        checkpoint.unlink(missing_ok=True)


def _progress(first_step: int, num_steps: int, *, is_shown: bool) -> "tqdm[int]":
    return tqdm(
        range(first_step, num_steps),
        initial=first_step,
        total=num_steps,
        desc="denoiser",
        mininterval=10,
        disable=not is_shown,
    )


class _Lessons:
    """The losses of all steps: each draws its batch, noise and timesteps by its number alone."""

    def __init__(self, examples: Examples, noise_scheduler: DDPMScheduler, recipe: Recipe) -> None:
        self.examples, self.noise_scheduler, self.recipe = examples, noise_scheduler, recipe
        self.members = {name: torch.tensor(members(name)) for names in recipe.cycle_families for name in names}

    def loss(self, model: nn.Module, step: int, *, share: slice) -> Tensor:
        """Of this process' share of the batch, which every process draws whole."""
        recipe, num = self.recipe, self.recipe.batch_size
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        # The short and the full contexts alternate at random, so that padding beyond the short one means the same.
        is_short = torch.rand((), generator=generator).item() < recipe.short_context_share
        context = slice(recipe.context_length if is_short else None)
        picked = self._pick(step, generator)
        latents = self.examples.latents[picked]
        dropped = torch.rand(num, generator=generator) < recipe.caption_dropout
        token_ids = torch.where(dropped[:, None], self.examples.empty_ids, self.examples.token_ids[picked])[:, context]
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(self.noise_scheduler.config.num_train_timesteps, (num,), generator=generator)
        noisy_latents = self.noise_scheduler.add_noise(latents, noise, timesteps)
        noise_pred = model(noisy_latents[share], timesteps[share], token_ids[share])
        errors = (noise_pred - noise[share]).square().mean(dim=(1, 2, 3))
        return (self._weight(timesteps[share]) * errors).mean()

    def _pick(self, step: int, generator: torch.Generator) -> Tensor:
        """Places in the training set: of each a family of the cycle first, then one of its people."""
        cycle = bisect.bisect_right(list(accumulate(self.recipe.cycle_steps)), step)
        families = self.recipe.cycle_families[cycle]
        drawn = torch.randint(len(families), (self.recipe.batch_size,), generator=generator)
        shares = torch.rand(self.recipe.batch_size, generator=generator)
        people = [self.members[families[family]] for family in drawn.tolist()]
        return torch.stack([each[int(share * len(each))] for each, share in zip(people, shares.tolist(), strict=True)])

    def _weight(self, timesteps: Tensor) -> Tensor:
        """Beyond min-SNR: where noise prevails, errors weigh by what their gradients lose to it, for layout's sake."""
        snr = compute_snr(self.noise_scheduler, timesteps)
        return snr.clamp(max=self.recipe.snr_gamma) / snr * snr.rsqrt().clamp(min=1)


def _in_cycle(step: int, recipe: Recipe) -> float:
    """The learning rate's factor: in every cycle a linear rise, then a cosine to nothing."""
    start = 0
    for length in recipe.cycle_steps:
        if step < start + length:
            break
        start += length
    else:
        return 0.0
    done, rising = step - start, recipe.warmup_steps
    if done < rising:
        return (done + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (done - rising) / (length - rising))) / 2


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
    inner = len(recipe.block_out_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * inner + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * inner,
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
    """Make the U-Net return its input, by way of the first convolution's skip connection.

    At t = 999 an error in epsilon is 14.6 times as large in x0: until the network copies noise to better than that, it
    learns nothing about the picture's layout. From this start it need not learn to copy. SiLU(x) - SiLU(-x) = x.
    """
    latent, width = unet.config.in_channels, unet.config.block_out_channels[0]
    signs = torch.eye(latent).repeat(2, 1)
    signs[latent:] *= -1
    kept = 2 * latent
    last, attention = unet.up_blocks[-1].resnets[-1], unet.up_blocks[-1].attentions[-1]
    for layer, rows in ((unet.conv_in, kept), (last.conv2, kept), (last.conv_shortcut, kept), (unet.conv_out, latent)):
        layer.weight[:rows] = 0
        layer.bias[:rows] = 0
    attention.proj_out.weight[:kept] = 0
    attention.proj_out.bias[:kept] = 0
    unet.conv_in.weight[:kept, :, 1, 1] = signs
    skip = last.conv_shortcut.in_channels - width
    last.conv_shortcut.weight[:kept, skip : skip + kept, 0, 0] = torch.eye(kept)
    unet.conv_out.weight[:, :kept, 1, 1] = signs.T


@torch.no_grad()
def _encode(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> Examples:
    images, captions = load_people(held_out=False)
    latents = []
    for start in tqdm(range(0, len(images), 128), desc="latents", mininterval=10):
        pixels = torch.from_numpy(images[start : start + 128].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents.append(vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor)
    return Examples(torch.cat(latents), _tokenize(tokenizer, captions), _tokenize(tokenizer, [""]))


def _tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def _save(model_dir: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, model: Denoiser) -> None:
    """In fp16, the precision that SD 1.5 is shared in."""
    scheduler = PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # The other parts are outs of earlier stages, and stay as they are.
    model.text_encoder.half().save_pretrained(model_dir / "text_encoder")
    model.unet.half().save_pretrained(model_dir / "unet")
    scheduler.save_pretrained(model_dir / "scheduler")
    pipeline.save_config(model_dir)
    forget_paths(model_dir)


if __name__ == "__main__":
    train_denoiser(MODEL, Recipe(**section("denoiser")))
