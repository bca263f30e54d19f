"""Train the base model's text encoder and U-Net together: `python -m recipe.denoiser` in base/.

Under `accelerate launch` the processes share each batch, with the same result but for rounding: two processes of one
thread each are faster on two cores than one process of two threads. Both networks are saved in fp16 with SD 1.5's
noise schedule and PNDM scheduler, next to the autoencoder and tokenizer that the earlier stages left in the folder,
which becomes a complete StableDiffusionPipeline.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.diffusion.bundle import forget_paths
from recipe.artifacts import CHECKPOINTS, MODEL, load_people, section
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


def train_denoiser(
    model_dir: Path,
    *,
    seed: int,
    block_out_channels: list[int],
    attention_heads: int,
    norm_num_groups: int,
    text_width: int,
    text_layers: int,
    text_heads: int,
    cycle_steps: list[int],
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    caption_dropout: float,
    snr_gamma: float,
    short_context_share: float,
    context_length: int,
    ema_decay: float,
) -> None:
    """Complete `model_dir` with text_encoder, unet, scheduler and model_index.json."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)])
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(model_dir / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(model_dir / "tokenizer")
    text_encoder = _build_text_encoder(tokenizer, text_width, text_layers, text_heads)
    unet = _build_unet(vae, block_out_channels, attention_heads, text_width, norm_num_groups)
    examples = _encode(vae, tokenizer)
    model = Denoiser(text_encoder, unet)
    ema = EMAModel(model.parameters(), decay=ema_decay, foreach=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _in_cycle(step, cycle_steps, warmup_steps))
    state = {"model": model, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    checkpoint = CHECKPOINTS / "denoiser.pt"
    first_step = load_checkpoint(checkpoint, state)
    parallel_model = accelerator.prepare_model(model)
    noise_scheduler = DDPMScheduler(**NOISE_SCHEDULE)
    progress = tqdm(
        range(first_step, sum(cycle_steps)),
        initial=first_step,
        total=sum(cycle_steps),
        desc="denoiser",
        mininterval=10,
        disable=not accelerator.is_main_process,
    )
    running = 0.0
    for step in progress:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        # The short and the full contexts alternate at random, so that padding beyond the short one means the same.
        short = torch.rand((), generator=generator).item() < short_context_share
        loss = _loss(
            parallel_model,
            examples,
            noise_scheduler,
            batch_size=batch_size,
            caption_dropout=caption_dropout,
            snr_gamma=snr_gamma,
            context_length=context_length if short else tokenizer.model_max_length,
            generator=generator,
            share=slice(accelerator.process_index, None, accelerator.num_processes),
        )
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
        _save(model_dir, vae, tokenizer, text_encoder, unet)
        checkpoint.unlink()


def _in_cycle(step: int, cycle_steps: list[int], warmup_steps: int) -> float:
    """The learning rate's factor: in every cycle a linear rise, then a cosine to nothing."""
    start = 0
    for length in cycle_steps:
        if step < start + length:
            break
        start += length
    else:
        return 0.0
    done = step - start
    rise = (done + 1) / (warmup_steps + 1)
    fall = (1 + math.cos(math.pi * (done - warmup_steps) / (length - warmup_steps))) / 2
    return rise if done < warmup_steps else fall


def _build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _build_unet(
    vae: AutoencoderKL, channels: list[int], heads: int, text_width: int, norm_num_groups: int
) -> UNet2DConditionModel:
    inner = len(channels) - 1
    unet = UNet2DConditionModel(
        sample_size=vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * inner + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * inner,
        block_out_channels=tuple(channels),
        layers_per_block=2,
        attention_head_dim=heads,  # diffusers' name for the number of heads, kept from SD 1.5
        cross_attention_dim=text_width,
        norm_num_groups=norm_num_groups,
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


def _loss(
    model: nn.Module,
    examples: Examples,
    noise_scheduler: DDPMScheduler,
    *,
    batch_size: int,
    caption_dropout: float,
    snr_gamma: float,
    context_length: int,
    generator: torch.Generator,
    share: slice,
) -> Tensor:
    """Of this process' share of the batch, which every process draws whole."""
    picked = torch.randint(len(examples.latents), (batch_size,), generator=generator)
    latents = examples.latents[picked]
    dropped = torch.rand(batch_size, generator=generator) < caption_dropout
    token_ids = torch.where(dropped[:, None], examples.empty_ids, examples.token_ids[picked])[:, :context_length]
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(noise_scheduler.config.num_train_timesteps, (batch_size,), generator=generator)
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    noise_pred = model(noisy_latents[share], timesteps[share], token_ids[share])
    snr = compute_snr(noise_scheduler, timesteps[share])
    # Beyond min-SNR: where noise prevails, errors weigh by what their gradients lose to it, for the sake of layout.
    weight = snr.clamp(max=snr_gamma) / snr * snr.rsqrt().clamp(min=1)
    return (weight * (noise_pred - noise[share]).square().mean(dim=(1, 2, 3))).mean()


def _save(
    model_dir: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
) -> None:
    """In fp16, the precision that SD 1.5 is shared in."""
    scheduler = PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # The other parts are outs of earlier stages, and stay as they are.
    text_encoder.half().save_pretrained(model_dir / "text_encoder")
    unet.half().save_pretrained(model_dir / "unet")
    scheduler.save_pretrained(model_dir / "scheduler")
    pipeline.save_config(model_dir)
    forget_paths(model_dir)


if __name__ == "__main__":
    train_denoiser(MODEL, **section("denoiser"))
