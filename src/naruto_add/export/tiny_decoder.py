"""The tiny decoder of an export, in `tiny_decoder/`, and how its pictures differ from the full decoder's."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, forget_paths
from naruto_add.diffusion.placement import on_device
from naruto_add.models.tiny_decoder import decode_full, decode_tiny, distil_tiny_decoder, load_tiny_decoder, psnr_db

OFF = "off"
DISTILLED = "distilled"
MAX_TRAIN_PICTURES = 1024
MAX_TEST_PICTURES = 64
DECODE_BATCH = 4
NUM_TIMINGS = 5


@torch.no_grad()
def write_tiny_decoder(
    bundle: ModelBundle, folder: Path, *, source: str, num_steps: int, dataset_dir: Path, seed: int, dtype: torch.dtype
) -> dict[str, float | int | str]:
    """Write the decoder that `source` (`export.tiny_decoder`) names, and compare it on latents of test pictures.

    Figures are the signal-to-noise ratio and the mean difference (of 255) to the full decoder's pictures, the number of
    the decoder's parameters, and how many times faster it is on this machine.
    """
    with on_device(bundle.device, bundle.vae):
        tiny = _make(bundle, source, num_steps=num_steps, dataset_dir=dataset_dir, seed=seed)
        latents = _latents(bundle, dataset_dir, "test", MAX_TEST_PICTURES)
        full = torch.cat([decode_full(bundle.vae, part).cpu() for part in latents.split(DECODE_BATCH)])
        small = torch.cat([decode_tiny(tiny, part).clamp(-1, 1).cpu() for part in latents.split(DECODE_BATCH)])
        part = latents[:DECODE_BATCH]
        times = [_seconds(lambda: decode_full(bundle.vae, part)), _seconds(lambda: decode_tiny(tiny, part))]
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


def _latents(bundle: ModelBundle, dataset_dir: Path, split: Literal["train", "test"], at_most: int) -> Tensor:
    examples = load_split(dataset_dir, split, prompt_template="{caption}")[:at_most]
    parts = [examples[first : first + DECODE_BATCH] for first in range(0, len(examples), DECODE_BATCH)]
    return torch.cat([encode_pixels(bundle, load_pixels(part)) for part in parts])


def _seconds(call: Callable[[], Tensor]) -> float:
    """The median time of the call after an untimed one; the result is awaited by copying one value."""
    times = []
    for _ in range(NUM_TIMINGS + 1):
        started = time.perf_counter()
        call().flatten()[0].item()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
