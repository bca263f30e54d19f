"""Train the base model's AutoencoderKL: `python -m recipe.autoencoder` in base/.

The loss is first the difference of pixels and a small KL term. After `sharpening_start_steps` it also has the losses of
`recipe.sharpness`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import EMAModel
from torch import Tensor

from naruto_add.runtime.compute import default_device
from recipe.artifacts import AUTOENCODER, CHECKPOINTS, section
from recipe.copies import copies, mean_psnr, validation_pixels
from recipe.pictures import Batch, Pictures, first_pictures, training_batches
from recipe.resume import Curve, fast_passes, load_checkpoint, save_checkpoint, trapezoid
from recipe.sharpness import Sharpness
from recipe.updates import averaged_weights, convolution_optimizer, update

SAVE_EVERY_STEPS = 100
CURVE_EVERY_STEPS = 500
NUM_CURVE_PICTURES = 64
NUM_SCALING_PICTURES = 2048
MIRRORED_SHARE = 0.5
RECOLORED_SHARE = 0.2
RESIDUAL_GAIN = 0.1
"""Factor of the initial weights of the last convolution in a residual block, which so begins near the identity."""
LOG_VARIANCE = -6.0
"""Initial bias of the posterior's log-variance. At 0, noise hides the latents for the first thousands of steps."""


@dataclass(frozen=True)
class Recipe:
    """The section `autoencoder` of params.yaml, which says what each value means."""

    seed: int
    pictures_seed: int
    size_px: int
    families: list[str]
    block_out_channels: list[int]
    latent_channels: int
    norm_num_groups: int
    num_steps: int
    warmup_steps: int
    decay_steps: int
    batch_size: int
    learning_rate: float
    kl_weight: float
    sharpening_start_steps: int
    perceptual_weight: float
    adversarial_weight: float
    discriminator_learning_rate: float
    ema_decay: float


def train_autoencoder(out_dir: Path, recipe: Recipe) -> None:
    """Save an fp16 AutoencoderKL, every channel of whose latents has mean 0 and deviation 1, and its learning curve."""
    torch.manual_seed(recipe.seed)
    run = _Run(recipe, default_device())
    checkpoint = CHECKPOINTS / "autoencoder.pt"
    first_step = load_checkpoint(checkpoint, run)
    for step, (pixels, _) in _steps(recipe, first_step, run.device):
        if step % CURVE_EVERY_STEPS == 0:
            run.measure(step)
        torch.manual_seed(step)  # of the posterior's noise
        run.train_step(_augmented(pixels, np.random.default_rng((recipe.seed, step))), step)
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            save_checkpoint(checkpoint, run, step + 1)
    run.measure(recipe.num_steps)
    run.ema.copy_to(run.vae.parameters())
    standardize(run.vae, run.scaling_pixels())
    run.vae.half().save_pretrained(out_dir / "vae")
    run.curve.save(out_dir / "curve.tsv")
    checkpoint.unlink(missing_ok=True)


def _steps(recipe: Recipe, first_step: int, device: torch.device) -> Iterator[tuple[int, Batch]]:
    return training_batches(
        Pictures(recipe.families, seed=recipe.pictures_seed, size_px=recipe.size_px),
        range(recipe.num_steps),
        first_step=first_step,
        batch_size=recipe.batch_size,
        device=device,
        name="autoencoder",
    )


class _Run:
    """The autoencoder, its discriminator, and a step of both."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.vae = _build(recipe).to(device, memory_format=torch.channels_last)
        self.sharpness = Sharpness(
            perceptual_weight=recipe.perceptual_weight,
            adversarial_weight=recipe.adversarial_weight,
            learning_rate=recipe.discriminator_learning_rate,
            device=device,
        )
        self.ema = EMAModel(self.vae.parameters(), decay=recipe.ema_decay, foreach=True)
        self.optimizer = convolution_optimizer(self.vae, recipe.learning_rate)
        self.factor = trapezoid(recipe.num_steps, warmup_steps=recipe.warmup_steps, decay_steps=recipe.decay_steps)
        self.curve = Curve(CHECKPOINTS / "autoencoder.tsv")
        pixels = validation_pixels(
            recipe.families, NUM_CURVE_PICTURES, seed=recipe.pictures_seed, size_px=recipe.size_px
        )
        self.curve_pixels = {name: each.to(device) for name, each in pixels.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        own = {"vae": self.vae, "ema": self.ema, "curve": self.curve, "optimizer": self.optimizer}
        return own | self.sharpness.state()

    def inputs(self) -> dict[str, Any]:
        """The recipe."""
        return vars(self.recipe)

    def train_step(self, pixels: Tensor, step: int) -> None:
        """One update of the autoencoder and, from `sharpening_start_steps` on, of the discriminator."""
        is_sharpening = step >= self.recipe.sharpening_start_steps
        with fast_passes(self.device):
            moments = self.vae.encode(pixels).latent_dist.parameters
        posterior = DiagonalGaussianDistribution(moments.float())
        with fast_passes(self.device):
            copied = self.vae.decode(posterior.sample()).sample
        copied = copied.float()
        loss = F.l1_loss(copied, pixels) + F.mse_loss(copied, pixels)
        loss = loss + self.recipe.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        if is_sharpening:
            loss = loss + self.sharpness.loss(pixels, copied)
        factor = self.factor(step)
        update(self.vae, loss, self.optimizer, learning_rate=self.recipe.learning_rate * factor)
        self.ema.step(self.vae.parameters())
        if is_sharpening:
            self.sharpness.train_discriminator(pixels, copied, factor=factor)

    @torch.no_grad()
    def measure(self, step: int) -> None:
        """Append the PSNR in dB of the averaged weights, by kind of picture, to the learning curve."""
        with averaged_weights(self.ema, self.vae):
            copied = {name: copies(self.vae, pixels) for name, pixels in self.curve_pixels.items()}
        figures = {f"psnr_{name}": mean_psnr(copied[name], pixels) for name, pixels in self.curve_pixels.items()}
        self.curve.append({"step": step, "pictures": step * self.recipe.batch_size, **figures})

    def scaling_pixels(self) -> Tensor:
        """The training pictures whose latents `standardize` gives mean 0 and deviation 1."""
        recipe = self.recipe
        pixels, _ = first_pictures(
            recipe.families, NUM_SCALING_PICTURES, seed=recipe.pictures_seed, size_px=recipe.size_px
        )
        return pixels.to(self.device)


def _build(recipe: Recipe) -> AutoencoderKL:
    levels = len(recipe.block_out_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(recipe.block_out_channels),
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=recipe.norm_num_groups,
        sample_size=recipe.size_px,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    for name, parameter in vae.named_parameters():
        if "resnets" in name and "conv2" in name:
            parameter.data.mul_(RESIDUAL_GAIN)
    vae.quant_conv.weight.data[recipe.latent_channels :] = 0
    vae.quant_conv.bias.data[recipe.latent_channels :] = LOG_VARIANCE
    return vae


def _augmented(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """Mirror the batch and permute its colour channels, each at random, for more variety than the drawings have."""
    if generator.random() < MIRRORED_SHARE:
        pixels = pixels.flip(-1)
    if generator.random() < RECOLORED_SHARE:
        pixels = pixels[:, generator.permutation(3)]
    return pixels.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def standardize(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 over these pictures, and decode as before.

    Stable Diffusion's single `scaling_factor` cannot scale channels differently. Instead, the convolutions before and
    after the latents are given a factor and a shift for each channel, and `scaling_factor` is 1.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(64)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    inward, outward = vae.quant_conv, vae.post_quant_conv
    outward.bias += outward.weight[:, :, 0, 0] @ mean
    outward.weight *= std[None, :, None, None]
    inward.weight[:channels] /= std[:, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - mean) / std
    inward.bias[channels:] -= 2 * std.log()  # the logarithms of the variances


if __name__ == "__main__":
    train_autoencoder(AUTOENCODER, Recipe(**section("autoencoder")))
