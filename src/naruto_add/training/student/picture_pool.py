"""A pool without teacher samples, to find out what these are worth: training pictures, each with an unrelated noise."""

from pathlib import Path

import torch

from naruto_add.data.dataset import load_split
from naruto_add.data.latents import cached_latents
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.training.pool import NOISE_STREAM, Pool, write_pool


def make_picture_pool(
    bundle: ModelBundle,
    scored_on: Pool,
    *,
    dataset_dir: Path,
    prompt_template: str,
    seed: int,
    path: Path,
    checkpoint_dir: Path,
) -> Pool:
    """Write `path`: every training picture's latents and caption, then `scored_on`, which `split_pool` holds out.

    Students are scored on teacher samples whatever they learn from, so that their checkpoints are chosen alike.
    """
    examples = load_split(dataset_dir, "train")
    latents = cached_latents(
        examples,
        flip=False,
        vae=bundle.vae,
        encode=lambda pixels: encode_pixels(bundle, pixels),
        cache_path=checkpoint_dir / "pictures.safetensors",
    ).latents
    captions = [fill_template(prompt_template, example.caption) for example in examples]
    prompts = list(dict.fromkeys([*scored_on.prompts, *captions]))
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    noise = initial_noise(bundle, len(examples), seed=seed + 2 * NOISE_STREAM).cpu()
    pool = Pool(
        noise=torch.cat([noise, scored_on.noise]),
        states=noise.new_empty(len(noise) + len(scored_on), 0, *noise.shape[1:]),
        x0=torch.cat([latents, scored_on.x0]),
        caption_index=torch.cat([torch.tensor([row_of[caption] for caption in captions]), scored_on.caption_index]),
        prompts=prompts,
        num_held_out=len(scored_on),
    )
    write_pool(path, pool)
    return pool
