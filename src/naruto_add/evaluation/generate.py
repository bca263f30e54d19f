"""The pictures that every model draws from the same prompts, seeds and initial noise.

The only module of the evaluation that runs diffusion.
"""

from pathlib import Path

import numpy as np
import torch

from naruto_add.diffusion.bundle import encode_prompts
from naruto_add.diffusion.drawing import draw_pixels
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.evaluation.cache import Arrays, cached
from naruto_add.evaluation.features import Images
from naruto_add.evaluation.speed import seconds_of
from naruto_add.evaluation.subjects import Subject


def drawn(subject: Subject, prompts: list[str], *, seed: int, batch_size: int, cache_dir: Path) -> Images:
    """The images of `draw_set`, drawn at most once."""
    return cached(
        cache_dir,
        ["images", subject.key(), prompts, seed, batch_size],
        lambda: draw_set(subject, prompts, seed=seed, batch_size=batch_size),
    )["images"]


def draw_set(subject: Subject, prompts: list[str], *, seed: int, batch_size: int) -> Arrays:
    """`images`, one per prompt, and `seconds`, the time that it took; picture i starts from noise (seed, i)."""
    bundle, places = subject.bundle, range(len(prompts))
    noise = initial_noise(bundle, len(prompts), seed=seed)
    batches: list[Images] = []

    def draw() -> None:
        for first in range(0, len(prompts), batch_size):
            batch = slice(first, first + batch_size)
            embeds = encode_prompts(bundle, prompts[batch])
            pixels = draw_pixels(
                bundle, subject.sampler, prompt_embeds=embeds, noise=noise[batch], seed=seed, places=places[batch]
            )
            batches.append(as_images(pixels))

    seconds = seconds_of(draw)
    return {"images": np.concatenate(batches), "seconds": np.array(seconds)}


def as_images(pixels: torch.Tensor) -> Images:
    """uint8, channels last, of pixels in [-1, 1]."""
    rounded = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    images: Images = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images
