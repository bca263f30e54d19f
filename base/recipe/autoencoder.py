"""Train the base model's AutoencoderKL: `python -m recipe.autoencoder` in base/.

The loss is first the difference of pixels and a small KL term. After `sharpening_start_steps` it also has a distance of
features and a discriminator (Esser et al. 2021, VQGAN), as for the autoencoder of Stable Diffusion: copies by a loss of
pixels alone are blurred.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from tqdm import tqdm

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.backbones import load_efficientnet, resolution_maps
from naruto_add.runtime.compute import default_device
from naruto_add.training.muon import Muon
from recipe.artifacts import AUTOENCODER, CHECKPOINTS, section
from recipe.pictures import VALIDATION_SEED, Pictures, as_pixels, batches, first_pictures
from recipe.resume import Curve, fast_passes, load_checkpoint, save_checkpoint, trapezoid

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
ADAMW: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 1e-4}
KERNEL_WEIGHT_DECAY = 0.01


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
    for step, pixels in _steps(recipe, first_step, run.device):
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


def _steps(recipe: Recipe, first_step: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """The remaining steps, each with its pictures."""
    pictures = Pictures(recipe.families, seed=recipe.pictures_seed, size_px=recipe.size_px)
    steps = range(first_step, recipe.num_steps)
    drawn = batches(pictures, steps, batch_size=recipe.batch_size, device=device)
    shown = tqdm(steps, initial=first_step, total=recipe.num_steps, desc="autoencoder", mininterval=30)
    for step, (pixels, _) in zip(shown, drawn, strict=True):
        yield step, pixels


class _Run:
    """The autoencoder, its discriminator, and a step of both."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.vae = _build(recipe).to(device, memory_format=torch.channels_last)
        self.discriminator = _Discriminator().to(device, memory_format=torch.channels_last)
        self.feature_network = load_efficientnet("lite0", device)
        self.ema = EMAModel(self.vae.parameters(), decay=recipe.ema_decay, foreach=True)
        self.vae_optimizer = _muon(self.vae, recipe.learning_rate)
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=recipe.discriminator_learning_rate, fused=True, **ADAMW
        )
        self.factor = trapezoid(recipe.num_steps, warmup_steps=recipe.warmup_steps, decay_steps=recipe.decay_steps)
        self.curve = Curve(CHECKPOINTS / "autoencoder.tsv")
        self.curve_pixels = {name: pixels.to(device) for name, pixels in _validation_pixels(recipe).items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "vae": self.vae,
            "discriminator": self.discriminator,
            "ema": self.ema,
            "curve": self.curve,
            "vae_optimizer": self.vae_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

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
            loss = loss + self._sharpness_loss(pixels, copied)
        _update(self.vae, loss, self.vae_optimizer, learning_rate=self.recipe.learning_rate * self.factor(step))
        self.ema.step(self.vae.parameters())
        if is_sharpening:
            discriminator_loss = self._discriminator_loss(pixels, copied.detach())
            rate = self.recipe.discriminator_learning_rate * self.factor(step)
            _update(self.discriminator, discriminator_loss, self.discriminator_optimizer, learning_rate=rate)

    def _sharpness_loss(self, pixels: Tensor, copied: Tensor) -> Tensor:
        """Weighted sum of the perceptual distance and the hinge loss of a generator."""
        with fast_passes(self.device):
            with torch.no_grad():
                real_maps = resolution_maps(self.feature_network, pixels)
            copied_maps = resolution_maps(self.feature_network, copied)
            logits = self.discriminator(copied)
        features = multi_depth_distance([each.float() for each in copied_maps], [each.float() for each in real_maps])
        return self.recipe.perceptual_weight * features.mean() - self.recipe.adversarial_weight * logits.float().mean()

    def _discriminator_loss(self, pixels: Tensor, copied: Tensor) -> Tensor:
        with fast_passes(self.device):
            logits = self.discriminator(torch.cat([pixels, copied]))
        real, fake = logits.float().chunk(2)
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    @torch.no_grad()
    def measure(self, step: int) -> None:
        """Append the PSNR in dB of the averaged weights, by kind of picture, to the learning curve."""
        self.ema.store(self.vae.parameters())
        self.ema.copy_to(self.vae.parameters())
        figures = {f"psnr_{name}": mean_psnr(copies(self.vae, each), each) for name, each in self.curve_pixels.items()}
        self.ema.restore(self.vae.parameters())
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


def _muon(vae: AutoencoderKL, learning_rate: float) -> Muon:
    muon = Muon(dict(vae.named_parameters()), lr=learning_rate, **ADAMW)
    for group in muon.param_groups:
        if group["is_muon"]:
            group["weight_decay"] = KERNEL_WEIGHT_DECAY
    return muon


def _update(module: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, *, learning_rate: float) -> None:
    """One step of the optimizer, which has all weights of the module, with clipped gradients."""
    module.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


class _Discriminator(nn.Sequential):
    """Logits of overlapping squares of a picture (Isola et al. 2017, PatchGAN), spectrally normalised."""

    def __init__(self, width: int = 32) -> None:
        widths = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))


def _augmented(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """Mirror the batch and permute its colour channels, each at random, for more variety than the drawings have."""
    if generator.random() < MIRRORED_SHARE:
        pixels = pixels.flip(-1)
    if generator.random() < RECOLORED_SHARE:
        pixels = pixels[:, generator.permutation(3)]
    return pixels.contiguous(memory_format=torch.channels_last)


def _validation_pixels(recipe: Recipe) -> dict[str, Tensor]:
    """Pictures for the learning curve: `people` of the training families without doodles, and `shinobi`."""
    families = [family for family in dict.fromkeys(recipe.families) if family != "doodle"]
    people, _ = first_pictures(
        families, NUM_CURVE_PICTURES, seed=recipe.pictures_seed + VALIDATION_SEED, size_px=recipe.size_px
    )
    return {"people": people, "shinobi": shinobi_pixels(NUM_CURVE_PICTURES, size_px=recipe.size_px)}


def shinobi_pixels(count: int, *, size_px: int) -> Tensor:
    """Pixels (N, 3, size_px, size_px) in [-1, 1] of shinobi, to measure on; the pipeline draws others."""
    images = [np.asarray(draw_shinobi(index, seed=VALIDATION_SEED, size_px=size_px).image) for index in range(count)]
    return as_pixels(np.stack(images))


@torch.no_grad()
def copies(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures that are encoded to the posterior's mean and decoded, clamped to [-1, 1]."""
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in pixels.split(16)]
    return torch.cat(parts)


def mean_psnr(copied: Tensor, pixels: Tensor) -> float:
    """PSNR in dB, mean over pictures (N, 3, height, width) in [-1, 1]."""
    error = ((copied - pixels) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


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
