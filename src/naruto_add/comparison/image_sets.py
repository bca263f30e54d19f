"""Sets of pictures that every model draws from the same prompts, seeds and initial noise."""

import numpy as np
from torch import Tensor

from naruto_add.comparison.draw import draw_pixels
from naruto_add.comparison.subjects import Subject
from naruto_add.diffusion.bundle import ModelBundle, decode_latents, encode_pixels, encode_prompts
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.imaging.pixels import Images, as_tensor, to_pixels, to_uint8
from naruto_add.runtime.sharing import compute_across_processes, first_decides, num_processes
from naruto_add.runtime.threads import num_at_once

DRAWING_CODE = (
    "naruto_add.runtime.compute",
    "naruto_add.runtime.threads",
    "naruto_add.imaging.pixels",
    "naruto_add.diffusion",
    "naruto_add.comparison.draw",
    "naruto_add.comparison.image_sets",
    "naruto_add.comparison.subjects",
)
"""Modules and packages that pictures depend on. A change of other code leaves the cached pictures valid."""


def draw_set(subject: Subject, prompts: list[str], *, seed: int, batch_size: int) -> Images:
    """One image per prompt; image i starts from the initial noise of (seed, i), whatever the subject.

    If there are several processes, they must call this together: each draws some of the batches. Batches have at most
    `batch_size` images, and fewer if otherwise some processes or threads would have nothing to draw.
    """
    noise = initial_noise(subject.bundle, len(prompts), seed=seed)
    num_together = first_decides(num_processes() * num_at_once())  # all processes must divide the set alike
    batch_size = min(batch_size, -(-len(prompts) // num_together))

    def draw(first: int) -> Images:
        batch = slice(first, first + batch_size)
        return _draw_batch(subject, prompts[batch], noise[batch], seed=seed, indices=range(len(prompts))[batch])

    with subject.on_device():
        return np.concatenate(compute_across_processes(range(0, len(prompts), batch_size), draw))


def draw_alone(subject: Subject, prompts: list[str], *, seed: int) -> Images:
    """What `draw_set` draws, as one batch and by this process alone."""
    noise = initial_noise(subject.bundle, len(prompts), seed=seed)
    return _draw_batch(subject, prompts, noise, seed=seed, indices=range(len(prompts)))


def _draw_batch(subject: Subject, prompts: list[str], noise: Tensor, *, seed: int, indices: range) -> Images:
    embeds = encode_prompts(subject.bundle, prompts)
    pixels = draw_pixels(subject.bundle, subject.sampler, prompt_embeds=embeds, noise=noise, seed=seed, indices=indices)
    return to_uint8(pixels)


def encode_and_decode(bundle: ModelBundle, images: Images) -> Images:
    """The images as the autoencoder reconstructs them."""
    return to_uint8(decode_latents(bundle, encode_pixels(bundle, to_pixels(as_tensor(images)))))
