"""Widen the autoencoder and train it to draw sharply: `python -m recipe.decoder` in base/.

Trained on differences of pixels alone, a decoder paints the mean of all faces that a latent may stand for, which has no
eyes; so features are compared and a discriminator judges (Esser et al. 2021, VQGAN), as for the autoencoder of Stable
Diffusion. The encoder follows, but the latents are held near the narrow one's, whose scaling factor they keep: a
denoiser trained on those can go on.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from tqdm import tqdm

from naruto_add.diffusion.bundle import forget_paths
from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.backbones import load_efficientnet, resolution_maps
from recipe.artifacts import AUTOENCODER, CHECKPOINTS, MODEL, PICTURES, load_people, members, section
from recipe.autoencoder import cycle
from recipe.resume import load_checkpoint, save_checkpoint

SAVE_EVERY_STEPS = 200
MIRRORED_SHARE = 0.5
RECOLORED_SHARE = 0.2
SYMMETRY_NOISE = 0.03
"""Of a weight's own spread: copies of a channel must differ to learn different things."""
UNUSED_STD = 0.3
"""Of a latent channel that the narrow autoencoder left empty: it is not held, and may be filled."""


@dataclass(frozen=True)
class Recipe:
    """The section `decoder` of params.yaml, which says what each value means."""

    seed: int
    widths: list[int]
    num_steps: int
    batch_size: int
    families: list[str]
    learning_rate: float
    discriminator_learning_rate: float
    perceptual_weight: float
    kl_weight: float
    latent_weight: float
    latent_noise: float
    adversarial_weight: float
    adversarial_start_steps: int
    ema_decay: float


def train_decoder(out_dir: Path, recipe: Recipe) -> None:
    """Save an fp16 AutoencoderKL of these widths, each a multiple of the narrow one's, with latents near its own."""
    torch.manual_seed(recipe.seed)
    narrow = AutoencoderKL.from_pretrained(AUTOENCODER, torch_dtype=torch.float32).requires_grad_(False)
    pictures = _Pictures(recipe.families)
    run = _Run(narrow, recipe, held=_used_channels(narrow, pictures.batch(np.random.default_rng(recipe.seed), 64)))
    checkpoint = CHECKPOINTS / "decoder.pt"
    first_step = load_checkpoint(checkpoint, run.state())
    progress = tqdm(
        range(first_step, recipe.num_steps),
        initial=first_step,
        total=recipe.num_steps,
        desc="decoder",
        mininterval=10,
    )
    for step in progress:
        torch.manual_seed(step)
        pixels = pictures.batch(np.random.default_rng((recipe.seed, step)), recipe.batch_size)
        scalars = run.train_step(pixels, is_judged=step >= recipe.adversarial_start_steps)
        progress.set_postfix({name: f"{value:.3f}" for name, value in scalars.items()}, refresh=False)
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            save_checkpoint(checkpoint, run.state(), step + 1)
    run.ema.copy_to(run.vae.parameters())
    run.vae.half().save_pretrained(out_dir)
    forget_paths(out_dir.parent)
    checkpoint.unlink(missing_ok=True)


class _Run:
    """The wide autoencoder, the discriminator that judges it, and a step of both."""

    def __init__(self, narrow: AutoencoderKL, recipe: Recipe, *, held: Tensor) -> None:
        self.narrow, self.recipe, self.held = narrow, recipe, held
        self.vae = widened(narrow, recipe.widths)
        _break_symmetry(self.vae)
        self.critic, self.photographs = _Critic(), load_efficientnet("lite0", torch.device("cpu"))
        self.ema = EMAModel(self.vae.parameters(), decay=recipe.ema_decay)
        self.optimizer = _adamw(self.vae, recipe.learning_rate)
        self.critic_optimizer = _adamw(self.critic, recipe.discriminator_learning_rate)
        self.schedule = cycle(self.optimizer, recipe.learning_rate, recipe.num_steps)

    def state(self) -> dict[str, Any]:
        """What a killed training goes on from."""
        return {
            "vae": self.vae,
            "critic": self.critic,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
            "schedule": self.schedule,
        }

    def train_step(self, pixels: Tensor, *, is_judged: bool) -> dict[str, float]:
        """One update of the autoencoder and, once it is judged, of its judge."""
        posterior = self.vae.encode(pixels).latent_dist
        drawn = self.vae.decode(self._noisy(posterior.sample())).sample
        losses = self._losses(pixels, posterior, drawn)
        loss = (
            losses["pixels"]
            + self.recipe.perceptual_weight * losses["features"]
            + self.recipe.kl_weight * losses["kl"]
            + self.recipe.latent_weight * losses["latents"]
        )
        if is_judged:
            self.critic.requires_grad_(False)
            loss = loss - self.recipe.adversarial_weight * self.critic(drawn).mean()
            self.critic.requires_grad_(True)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.ema.step(self.vae.parameters())
        scalars = {name: value.item() for name, value in losses.items()}
        return scalars | ({"critic": self._train_critic(pixels, drawn.detach())} if is_judged else {})

    def _losses(self, pixels: Tensor, posterior: Any, drawn: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            real_maps = resolution_maps(self.photographs, pixels)
            near = self.narrow.encode(pixels).latent_dist.mean
        features = multi_depth_distance(resolution_maps(self.photographs, drawn), real_maps).mean()
        return {
            "pixels": F.l1_loss(drawn, pixels) + F.mse_loss(drawn, pixels),
            "features": features,
            "kl": posterior.kl().mean() / near[0].numel(),
            "latents": (self.held * (posterior.mean - near).square()).mean(),
        }

    def _noisy(self, latents: Tensor) -> Tensor:
        """Noise up to `latent_noise`, another amount for each picture: what a denoiser gets wrong shall draw well."""
        amount = self.recipe.latent_noise * torch.rand(len(latents), 1, 1, 1)
        return latents + amount * torch.randn_like(latents)

    def _train_critic(self, pixels: Tensor, drawn: Tensor) -> float:
        self.critic_optimizer.zero_grad()
        real, fake = self.critic(torch.cat([pixels, drawn])).chunk(2)
        loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        loss.backward()
        self.critic_optimizer.step()
        return float(loss.item())


def _adamw(module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=learning_rate, betas=(0.5, 0.99), fused=True)


@torch.no_grad()
def _used_channels(narrow: AutoencoderKL, pixels: Tensor) -> Tensor:
    """(1, C, 1, 1): 1 for the latent channels that say something about a picture, 0 for the others."""
    std = narrow.encode(pixels).latent_dist.mean.std(dim=(0, 2, 3))
    return (std > UNUSED_STD).float().view(1, -1, 1, 1)


def widened(narrow: AutoencoderKL, widths: list[int]) -> AutoencoderKL:
    """The same function with every channel repeated side by side, as often as its level is wider (Chen et al. 2016).

    Side by side, since then each group that a normalisation takes holds copies of what it held. Weights from repeated
    channels are divided by the number of copies. Not for attention, whose scores would grow.
    """
    wide = AutoencoderKL.from_config(narrow.config, block_out_channels=tuple(widths))
    weights = narrow.state_dict()
    for name, parameter in wide.state_dict().items():
        source = weights[name]
        for dim in range(min(source.dim(), 2)):
            copies, rest = divmod(parameter.shape[dim], source.shape[dim])
            if rest:
                raise ValueError(f"decoder.widths: {widths} must be multiples of {narrow.config.block_out_channels}")
            source = source.repeat_interleave(copies, dim) / (copies if dim == 1 else 1)
        weights[name] = source
    wide.load_state_dict(weights)
    return wide


@torch.no_grad()
def _break_symmetry(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.add_(SYMMETRY_NOISE * parameter.std() * torch.randn_like(parameter))


class _Critic(nn.Sequential):
    """Logits of overlapping squares of a picture (Isola et al. 2017, PatchGAN), spectrally normalised."""

    def __init__(self, width: int = 32) -> None:
        widths = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))


class _Pictures:
    """Batches of people, evenly of the families named, and one doodle in eight; NCHW in [-1, 1].

    Some are mirrored and some get their colour channels exchanged: a decoder is asked to draw more than it has seen.
    """

    def __init__(self, families: list[str]) -> None:
        self.people, _ = load_people(held_out=False)
        self.places = [np.asarray(members(family)) for family in families]
        self.doodles = np.load(PICTURES / "doodles.npy", mmap_mode="r")

    def batch(self, generator: np.random.Generator, batch_size: int) -> Tensor:
        num_doodles = batch_size // 8
        kinds = generator.integers(len(self.places), size=batch_size - num_doodles)
        people = self.people[np.sort([generator.choice(self.places[kind]) for kind in kinds])]
        doodles = self.doodles[generator.integers(len(self.doodles), size=num_doodles)]
        pixels = torch.from_numpy(np.concatenate([people, doodles])).permute(0, 3, 1, 2).float() / 127.5 - 1
        if generator.random() < MIRRORED_SHARE:
            pixels = pixels.flip(-1)
        if generator.random() < RECOLORED_SHARE:
            pixels = pixels[:, generator.permutation(3)]
        return pixels


if __name__ == "__main__":
    train_decoder(MODEL / "vae", Recipe(**section("decoder")))
