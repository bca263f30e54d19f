"""The pictures that every model draws from the same prompts, seeds and initial noise.

The only module of the evaluation that runs diffusion or an autoencoder.
"""

from pathlib import Path

import numpy as np
import torch

from naruto_add.diffusion.bundle import decode_latents, encode_pixels, encode_prompts
from naruto_add.diffusion.drawing import draw_pixels
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.evaluation.cache import cached, digest
from naruto_add.evaluation.features import Images, as_tensor
from naruto_add.evaluation.subjects import Subject

DRAWING_CODE = (
    "naruto_add.compute",
    "naruto_add.diffusion",
    "naruto_add.evaluation.generate",
    "naruto_add.evaluation.subjects",
)
"""What pictures depend on beside models, prompts, seeds and steps: an edit anywhere else redraws nothing."""


def drawn(subject: Subject, prompts: list[str], *, seed: int, batch_size: int, cache_dir: Path) -> Images:
    """The images of `draw_set`, drawn at most once."""
    return cached(
        cache_dir,
        ["images", subject.key(), prompts, seed, batch_size],
        lambda: {"images": draw_set(subject, prompts, seed=seed, batch_size=batch_size)},
    )["images"]


def draw_set(subject: Subject, prompts: list[str], *, seed: int, batch_size: int) -> Images:
    """One picture per prompt; picture i starts from noise (seed, i)."""
    bundle, places = subject.bundle, range(len(prompts))
    noise = initial_noise(bundle, len(prompts), seed=seed)
    batches: list[Images] = []
    for first in range(0, len(prompts), batch_size):
        batch = slice(first, first + batch_size)
        embeds = encode_prompts(bundle, prompts[batch])
        pixels = draw_pixels(
            bundle, subject.sampler, prompt_embeds=embeds, noise=noise[batch], seed=seed, places=places[batch]
        )
        batches.append(as_images(pixels))
    return np.concatenate(batches)


def decoded(subject: Subject, images: Images, *, cache_dir: Path) -> Images:
    """The same pictures, encoded and decoded by the subject's autoencoder, at most once."""
    bundle = subject.bundle

    def there_and_back() -> Images:
        return as_images(decode_latents(bundle, encode_pixels(bundle, as_tensor(images) / 127.5 - 1)))

    key = ["decoded", subject.weights, bundle.device.type, digest(images)]
    return cached(cache_dir, key, lambda: {"images": there_and_back()})["images"]


def as_images(pixels: torch.Tensor) -> Images:
    """uint8, channels last, of pixels in [-1, 1]."""
    rounded = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    images: Images = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images
