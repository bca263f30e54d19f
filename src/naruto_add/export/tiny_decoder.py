"""The tiny decoder of an export, in `tiny_decoder/`, and how its pictures differ from the full decoder's."""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.base_model import downsampling
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, forget_paths
from naruto_add.diffusion.half_decoder import halve_decoder
from naruto_add.diffusion.placement import VAE_BATCH, on_device, vae_on_device
from naruto_add.models.tiny_decoder import decode_full, decode_tiny, distil_tiny_decoder, load_tiny_decoder, psnr_db
from naruto_add.runtime.compute import gpu_layout

OFF = "off"
DISTILLED = "distilled"
MAX_TRAIN_PICTURES = 1024
MAX_TEST_PICTURES = 64
NUM_TIMED = 4
"""Pictures that are decoded at once to measure how much faster the tiny decoder is."""
NUM_TIMINGS = 5


@torch.no_grad()
def write_tiny_decoder(
    bundle: ModelBundle, folder: Path, *, source: str, num_steps: int, dataset_dir: Path, seed: int, dtype: torch.dtype
) -> dict[str, float | int | str]:
    """Write the decoder that `source` (`export.tiny_decoder`) names, and compare it on latents of test pictures.

    Figures are the signal-to-noise ratio and the mean difference (of 255) to the full decoder's pictures, the number of
    the decoder's parameters, and how many times faster it is on this machine. Both decode as many pictures at once as
    the full decoder has memory for, and on a GPU in fp16, as `evaluate` and `samples` do, if the weights are written in
    fp16 (`dtype`).
    """
    with on_device(bundle.device, bundle.vae):
        tiny = _make(bundle, source, num_steps=num_steps, dataset_dir=dataset_dir, seed=seed)
        latents = _latents(bundle, dataset_dir, "test", MAX_TEST_PICTURES)
    vae, compared = _as_drawn(bundle, tiny, dtype)
    num_pixels = latents[0, 0].numel() * downsampling(vae.config) ** 2
    with vae_on_device(vae, bundle.device, num_pixels=num_pixels) as at_once:
        full = torch.cat([decode_full(vae, part).cpu() for part in latents.split(at_once)])
        small = torch.cat([decode_tiny(compared, part).clamp(-1, 1).cpu() for part in latents.split(at_once)])
        part = latents[: min(at_once, NUM_TIMED)]
        times = [_seconds(lambda: decode_full(vae, part)), _seconds(lambda: decode_tiny(compared, part))]
    torch.nn.Module.to(tiny, dtype).save_pretrained(folder)
    forget_paths(folder)
    return {
        "psnr_db": psnr_db(small, full),
        "mean_abs_diff_of_255": float((small - full).abs().mean()) * 127.5,
        "num_parameters": sum(item.numel() for item in tiny.decoder.parameters()),
        "speedup": times[0] / times[1],
    }


def _make(bundle: ModelBundle, source: str, *, num_steps: int, dataset_dir: Path, seed: int) -> AutoencoderTiny:
    if source != DISTILLED:
        return load_tiny_decoder(source, bundle.vae, bundle.device)
    latents = _latents(bundle, dataset_dir, "train", MAX_TRAIN_PICTURES).cpu()
    with torch.enable_grad():
        return distil_tiny_decoder(bundle.vae, latents, num_steps=num_steps, seed=seed)


def _as_drawn(bundle: ModelBundle, tiny: AutoencoderTiny, dtype: torch.dtype) -> tuple[AutoencoderKL, AutoencoderTiny]:
    """Both decoders in the precision in which they draw; copies, if that is not their own."""
    if bundle.device.type == "cpu" or dtype != torch.float16:
        return bundle.vae, tiny
    vae, half_tiny = copy.deepcopy(bundle.vae), copy.deepcopy(tiny)
    halve_decoder(vae)
    return vae, gpu_layout(half_tiny.to(dtype))


def _latents(bundle: ModelBundle, dataset_dir: Path, split: Literal["train", "test"], at_most: int) -> Tensor:
    examples = load_split(dataset_dir, split, prompt_template="{caption}")[:at_most]
    parts = [examples[first : first + VAE_BATCH] for first in range(0, len(examples), VAE_BATCH)]
    return torch.cat([encode_pixels(bundle, load_pixels(part)) for part in parts])


def _seconds(call: Callable[[], Tensor]) -> float:
    """The median time of the call after an untimed one; the result is awaited by copying one value."""
    times = []
    for _ in range(NUM_TIMINGS + 1):
        started = time.perf_counter()
        call().flatten()[0].item()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
