"""A tiny decoder: pixels from latents by a few convolutions, in the layout of TAESD (diffusers' `AutoencoderTiny`).

Of four steps of a pruned SD 1.5 the full decoder is more than half of the operations; this one is a hundredth of it.
TAESD is loaded from the hub or a folder, or a decoder is distilled from the full one on latents of the run's own
pictures. Only the decoder is trained and used; the encoder in the file is untrained then.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from torch import Tensor

from naruto_add.data.batches import batch_indices
from naruto_add.diffusion.base_model import downsampling
from naruto_add.diffusion.half_decoder import decoder_dtype
from naruto_add.models.hub import load_frozen
from naruto_add.runtime.compute import step_generator
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.progress import progress

WIDTH = 64
NUM_BLOCKS = 3
"""Residual blocks at each resolution, as in TAESD; one at the last."""
LEARNING_RATE = 1e-3
BATCH_SIZE = 8
CROP = 16
"""Side of the crops of latents that are trained on."""


def load_tiny_decoder(source: str, vae: AutoencoderKL, device: torch.device) -> AutoencoderTiny:
    """The autoencoder of `export.tiny_decoder`, a folder or `owner/name@commit`, frozen.

    Raises StageError if it cannot be loaded or is not made for the latents of `vae`.
    """
    tiny: AutoencoderTiny = load_frozen(
        AutoencoderTiny, source, key="export.tiny_decoder", instead="use distilled, or off"
    )
    expected, found = _latent_format(vae), _latent_format(tiny)
    if found != expected:
        raise StageError(
            f"export.tiny_decoder: {source!r} decodes latents of {found[0]} channels by a factor of {found[1]}, but "
            f"those of the base model have {expected[0]} and {expected[1]}; use distilled, or off"
        )
    return tiny.to(device)


def new_tiny_decoder(vae: AutoencoderKL, *, seed: int) -> AutoencoderTiny:
    """An untrained tiny decoder for the latents of `vae`, on its device; the weights depend only on the seed."""
    channels, factor = _latent_format(vae)
    num_levels = factor.bit_length()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tiny = AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=(WIDTH,) * num_levels,
            decoder_block_out_channels=(WIDTH,) * num_levels,
            num_encoder_blocks=(1,) * num_levels,
            num_decoder_blocks=(*(NUM_BLOCKS,) * (num_levels - 1), 1),
        )
    return tiny.to(vae.device)


def distil_tiny_decoder(
    vae: AutoencoderKL, latents: Float[Tensor, "pictures c h w"], *, num_steps: int, seed: int
) -> AutoencoderTiny:
    """A frozen tiny decoder, trained to decode crops of these scaled latents as `vae` does.

    The loss is the mean absolute difference of pixels; the learning rate falls to 0 by a cosine.
    """
    tiny = new_tiny_decoder(vae, seed=seed).train()
    optimizer = torch.optim.AdamW(tiny.decoder.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for step in progress(range(num_steps), desc="tiny decoder"):
        items = batch_indices(len(latents), min(BATCH_SIZE, len(latents)), seed=seed, step=step)
        part = _random_crops(latents[items], seed=seed, step=step).to(vae.device)
        loss = F.l1_loss(decode_tiny(tiny, part), decode_full(vae, part))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return tiny.requires_grad_(False).eval()


def decode_tiny(tiny: AutoencoderTiny, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
    """Pixels, fp32, about in [-1, 1], of scaled latents. TAESD's layout takes scaled latents as they are."""
    pixels: Tensor = tiny.decode(latents.to(tiny.dtype)).sample
    return pixels.float()


@torch.no_grad()
def decode_full(vae: AutoencoderKL, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
    """Pixels in [-1, 1], fp32, of scaled latents."""
    pixels: Tensor = vae.decode((latents / vae.config.scaling_factor).to(decoder_dtype(vae))).sample
    return pixels.float().clamp(-1, 1)


def psnr_db(pixels: Float[Tensor, "*any"], reference: Float[Tensor, "*any"]) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]: 20 log10(2) - 10 log10(mean squared error)."""
    error = (pixels.clamp(-1, 1) - reference).square().mean()
    return float(10 * torch.log10(4 / error.clamp_min(1e-12)))


def _random_crops(latents: Tensor, *, seed: int, step: int) -> Tensor:
    """The same square of all items, at most CROP wide."""
    height, width = latents.shape[-2:]
    side = min(CROP, height, width)
    draws = torch.rand(2, generator=step_generator(seed, step))
    top, left = (int(draw * (extent - side + 1)) for draw, extent in zip(draws, (height, width), strict=True))
    return latents[:, :, top : top + side, left : left + side]


def _latent_format(autoencoder: AutoencoderKL | AutoencoderTiny) -> tuple[int, int]:
    """Channels of the latents, and the factor between the sides of picture and latents."""
    key = "decoder_block_out_channels" if isinstance(autoencoder, AutoencoderTiny) else "block_out_channels"
    factor = downsampling({"block_out_channels": autoencoder.config[key]})
    return int(autoencoder.config["latent_channels"]), factor
