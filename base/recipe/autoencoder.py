"""Train the base model's AutoencoderKL: `python -m recipe.autoencoder` in base/."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from naruto_add.diffusion.bundle import forget_paths
from recipe.artifacts import AUTOENCODER, CHECKPOINTS, PICTURES, load_people, section
from recipe.resume import load_checkpoint, save_checkpoint

SAVE_EVERY_STEPS = 200
MIRRORED_SHARE = 0.5
RECOLORED_SHARE = 0.2
INKED_SHARE = 0.3
RESIDUAL_GAIN = 0.1
"""Of the last convolution of every residual block at the start: a short training begins near the identity."""
NUM_SCALING_PICTURES = 1024


def train_autoencoder(
    out_dir: Path,
    *,
    seed: int,
    block_out_channels: list[int],
    latent_channels: int,
    norm_num_groups: int,
    cycle_steps: int,
    batch_size: int,
    learning_rate: float,
    kl_weights: list[float],
    ema_decay: float,
) -> None:
    """Save an fp16 AutoencoderKL whose `scaling_factor` gives latents of unit variance on the training pictures."""
    torch.manual_seed(seed)
    images = _training_images()
    vae = _build(block_out_channels, latent_channels, norm_num_groups)
    ema = EMAModel(vae.parameters(), decay=ema_decay)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    schedule = cycle(optimizer, learning_rate, cycle_steps)
    state = {"vae": vae, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    checkpoint = CHECKPOINTS / "autoencoder.pt"
    first_step, num_steps = load_checkpoint(checkpoint, state), len(kl_weights) * cycle_steps
    progress = tqdm(
        range(first_step, num_steps), initial=first_step, total=num_steps, desc="autoencoder", mininterval=10
    )
    for step in progress:
        if step and step % cycle_steps == 0:
            state["schedule"] = schedule = cycle(optimizer, learning_rate, cycle_steps)
        generator = np.random.default_rng((seed, step))
        torch.manual_seed(step)
        pixels = _batch(images, generator, batch_size)
        loss = _loss(vae, pixels, kl_weights[step // cycle_steps])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(vae.parameters())
        progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            save_checkpoint(checkpoint, state, step + 1)
    ema.copy_to(vae.parameters())
    vae.register_to_config(scaling_factor=_scaling_factor(vae))
    vae.half().save_pretrained(out_dir)
    forget_paths(out_dir.parent)
    checkpoint.unlink()


def _training_images() -> list[np.ndarray]:
    people, _ = load_people(held_out=False)
    return [people, np.load(PICTURES / "doodles.npy", mmap_mode="r")]


def _build(block_out_channels: list[int], latent_channels: int, norm_num_groups: int) -> AutoencoderKL:
    levels = len(block_out_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        sample_size=64,
        mid_block_add_attention=False,
    )
    for name, parameter in vae.named_parameters():
        if "resnets" in name and "conv2" in name:
            parameter.data.mul_(RESIDUAL_GAIN)
    return vae


def cycle(
    optimizer: torch.optim.Optimizer, learning_rate: float, num_steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps, pct_start=0.05)


def _batch(images: list[np.ndarray], generator: np.random.Generator, batch_size: int) -> Tensor:
    """Three quarters people, one quarter doodles, varied beyond what they show; NCHW in [-1, 1].

    An autoencoder is asked to draw more than it was trained on, so a batch may be mirrored, have its colour channels
    exchanged, and get dark lines along its edges, as inked drawings have.
    """
    num_doodles = batch_size // 4
    counts = (batch_size - num_doodles, num_doodles)
    picked = [part[generator.integers(len(part), size=count)] for part, count in zip(images, counts, strict=True)]
    pixels = torch.from_numpy(np.concatenate(picked)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if generator.random() < MIRRORED_SHARE:
        pixels = pixels.flip(-1)
    if generator.random() < RECOLORED_SHARE:
        pixels = pixels[:, generator.permutation(3)]
    if generator.random() < INKED_SHARE:
        pixels = _inked(pixels)
    return pixels


def _inked(pixels: Tensor) -> Tensor:
    """The same pictures with dark lines where neighbouring pixels differ much."""
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    lightness = blurred.mean(dim=1, keepdim=True)
    across = F.pad((lightness[..., 2:] - lightness[..., :-2]).abs(), (1, 1))
    down = F.pad((lightness[..., 2:, :] - lightness[..., :-2, :]).abs(), (0, 0, 1, 1))
    ink = ((across + down - 0.15) * 4).clamp(0, 1)
    return pixels * (1 - ink) - 0.85 * ink


def _loss(vae: AutoencoderKL, pixels: Tensor, kl_weight: float) -> Tensor:
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    reconstruction = F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels)
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    return reconstruction + kl_weight * divergence


@torch.no_grad()
def _scaling_factor(vae: AutoencoderKL) -> float:
    people, _ = load_people(held_out=False)
    pixels = torch.from_numpy(people[:NUM_SCALING_PICTURES].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(64)])
    return round(1 / latents.std().item(), 5)


if __name__ == "__main__":
    train_autoencoder(AUTOENCODER, **section("autoencoder"))
