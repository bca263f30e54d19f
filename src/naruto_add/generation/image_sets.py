"""Sets of pictures that every model draws from the same prompts, seeds and initial noise."""

import numpy as np
import torch

from naruto_add.diffusion.bundle import ModelBundle, decode_latents, encode_pixels, encode_prompts
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.generation.draw import draw_pixels
from naruto_add.generation.subjects import Subject
from naruto_add.imaging.pixels import Images, to_uint8

DRAWING_CODE = (
    "naruto_add.runtime.compute",
    "naruto_add.imaging.pixels",
    "naruto_add.diffusion",
    "naruto_add.generation.draw",
    "naruto_add.generation.image_sets",
    "naruto_add.generation.subjects",
)
"""Modules and packages that pictures depend on. A change of other code leaves the cached pictures valid."""


def draw_set(subject: Subject, prompts: list[str], *, seed: int, batch_size: int) -> Images:
    """One image per prompt; image i starts from the initial noise of (seed, i), whatever the subject."""
    bundle, indices = subject.bundle, range(len(prompts))
    noise = initial_noise(bundle, len(prompts), seed=seed)
    batches: list[Images] = []
    for first in range(0, len(prompts), batch_size):
        batch = slice(first, first + batch_size)
        embeds = encode_prompts(bundle, prompts[batch])
        pixels = draw_pixels(
            bundle, subject.sampler, prompt_embeds=embeds, noise=noise[batch], seed=seed, indices=indices[batch]
        )
        batches.append(to_uint8(pixels))
    return np.concatenate(batches)


def encode_and_decode(bundle: ModelBundle, images: Images) -> Images:
    """The images as the autoencoder reconstructs them."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return to_uint8(decode_latents(bundle, encode_pixels(bundle, pixels)))
