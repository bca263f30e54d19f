"""Widen the autoencoder and train its decoder to draw sharply: `python -m recipe.decoder` in base/.

The encoder's function stays, and with it the latents: only how they are drawn changes. Trained on differences of pixels
alone, a decoder paints the mean of all faces that a latent may stand for, which has no eyes; so features are compared
and a discriminator judges (Esser et al. 2021, VQGAN), as for the autoencoder of Stable Diffusion.
"""

from itertools import pairwise
from pathlib import Path

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
SYMMETRY_NOISE = 0.02
"""Of a weight's own spread: copies of a channel must differ to learn different things."""


def train_decoder(
    out_dir: Path,
    *,
    seed: int,
    widths: list[int],
    num_steps: int,
    batch_size: int,
    families: list[str],
    learning_rate: float,
    discriminator_learning_rate: float,
    perceptual_weight: float,
    adversarial_weight: float,
    adversarial_start_steps: int,
    ema_decay: float,
) -> None:
    """Save an fp16 AutoencoderKL of these widths, each a multiple of the narrow one's, with the latents of that one."""
    torch.manual_seed(seed)
    narrow = AutoencoderKL.from_pretrained(AUTOENCODER, torch_dtype=torch.float32).requires_grad_(False)
    vae = widened(narrow, widths)
    _break_symmetry(vae.decoder)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    critic, photographs = _Critic(), load_efficientnet("lite0", torch.device("cpu"))
    ema = EMAModel(decoder.parameters(), decay=ema_decay)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=learning_rate, betas=(0.5, 0.99), fused=True)
    critic_optimizer = torch.optim.AdamW(
        critic.parameters(), lr=discriminator_learning_rate, betas=(0.5, 0.99), fused=True
    )
    schedule = cycle(optimizer, learning_rate, num_steps)
    state = {
        "decoder": decoder,
        "critic": critic,
        "ema": ema,
        "optimizer": optimizer,
        "critic_optimizer": critic_optimizer,
        "schedule": schedule,
    }
    checkpoint = CHECKPOINTS / "decoder.pt"
    first_step, pictures = load_checkpoint(checkpoint, state), _Pictures(families)
    progress = tqdm(range(first_step, num_steps), initial=first_step, total=num_steps, desc="decoder", mininterval=10)
    for step in progress:
        torch.manual_seed(step)
        pixels = pictures.batch(np.random.default_rng((seed, step)), batch_size)
        with torch.no_grad():
            latents = narrow.encode(pixels).latent_dist.sample()
            real_maps = resolution_maps(photographs, pixels)
        drawn = vae.decode(latents).sample
        perceptual = multi_depth_distance(resolution_maps(photographs, drawn), real_maps).mean()
        loss = F.l1_loss(drawn, pixels) + perceptual_weight * perceptual
        if step >= adversarial_start_steps:
            critic.requires_grad_(False)
            loss = loss - adversarial_weight * critic(drawn).mean()
            critic.requires_grad_(True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(decoder.parameters())

        critic_optimizer.zero_grad()
        real, fake = critic(torch.cat([pixels, drawn.detach()])).chunk(2)
        critic_loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        critic_loss.backward()
        critic_optimizer.step()
        progress.set_postfix(
            pixels=f"{F.l1_loss(drawn, pixels).item():.3f}",
            features=f"{perceptual.item():.3f}",
            critic=f"{critic_loss.item():.2f}",
            refresh=False,
        )
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            save_checkpoint(checkpoint, state, step + 1)
    ema.copy_to(decoder.parameters())
    vae.half().save_pretrained(out_dir)
    forget_paths(out_dir.parent)
    checkpoint.unlink(missing_ok=True)


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
    train_decoder(MODEL / "vae", **section("decoder"))
