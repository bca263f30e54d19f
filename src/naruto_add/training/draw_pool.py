"""Drawing the pool: the teacher's samples of the training prompts, cached in parts, so that a killed run continues."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.config.constants import Resolution
from naruto_add.data.batches import batch_indices
from naruto_add.data.buckets import by_size
from naruto_add.data.dataset import load_split
from naruto_add.data.images import Size
from naruto_add.diffusion.base_model import latent_size
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import dpm_solver_sampler, initial_noise, sample_trajectory
from naruto_add.runtime.cache import cache_path, hash_model, read_tensors, write_tensors
from naruto_add.runtime.compute import step_generator
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import content_hash, file_sha256, link_or_copy
from naruto_add.runtime.sharing import compute_across_processes, first_decides, is_main, num_processes, wait_for_all
from naruto_add.runtime.threads import num_at_once
from naruto_add.training.pool import Pool, load_pool, num_held_out, write_pool
from naruto_add.training.processes import main_progress

CHUNK = 32
"""Samples that are drawn in one batch and cached in one file."""
POOL_CODE = (
    "naruto_add.training.draw_pool",
    "naruto_add.training.pool",
    "naruto_add.diffusion",
    "naruto_add.data.batches",
    "naruto_add.runtime.compute",
)
"""The modules that determine the samples. Cached samples stay valid when other code changes."""
NOISE_STREAM = 2**32
"""Added to the seed, which is below it, so that evaluation never starts from the noise of a pool sample."""


@dataclass(frozen=True, kw_only=True)
class PoolBucket:
    """An aspect bucket of the training split that is not square, its prompts, and its fraction of the pictures."""

    size: Size
    prompts: list[str]
    fraction: float


def pool_prompts(dataset_dir: Path, prompt_template: str) -> list[str]:
    """The distinct prompts of the training split that are not prompts of the validation or test split as well.

    If that excludes all prompts, as in a data set with a single caption, none is excluded.
    """
    train, *others = (
        load_split(dataset_dir, split, prompt_template=prompt_template) for split in ("train", "validation", "test")
    )
    excluded = {prompt for split in others for example in split for prompt in example.prompts}
    prompts = list(dict.fromkeys(prompt for example in train for prompt in example.prompts))
    return [prompt for prompt in prompts if prompt not in excluded] or prompts


def pool_buckets(dataset_dir: Path, prompt_template: str, prompts: Collection[str]) -> list[PoolBucket]:
    """The aspect buckets of the training split that are not square and have one of `prompts`; none without buckets."""
    train = load_split(dataset_dir, "train", prompt_template=prompt_template)
    wide_or_tall = [example for example in train if example.bucket_path]
    buckets = []
    for size, group in by_size(wide_or_tall).items():
        own = dict.fromkeys(prompt for example in group for prompt in example.prompts)
        if kept := [prompt for prompt in own if prompt in prompts]:
            buckets.append(PoolBucket(size=size, prompts=kept, fraction=len(group) / len(train)))
    return buckets


def draw_pool(
    bundle: ModelBundle,
    *,
    prompts: list[str],
    buckets: Sequence[PoolBucket],
    size: int,
    num_steps: int,
    timesteps: list[int],
    guidance_scale: float,
    seed: int,
    path: Path,
    cache_dir: Path,
) -> Pool:
    """Draw `size` samples as `TeacherSampler` does, write them to `path`, and return them.

    Each of `buckets`, whose prompts must be among `prompts`, has its fraction of `size` samples in addition: the
    others are of the base model's size, at which the student is scored. Sample i depends only on the bundle, the
    prompts, the options and (seed, i). The whole file stays in `cache_dir` for other configurations, as a hard link
    where possible and with its hash in its name, and the chunks that it was made of are deleted. Raises StageError if
    that file is damaged, if a sample is not finite, or if `size` is too small for a held-out sample.
    """
    held_out = num_held_out(size)
    teacher = TeacherSampler(
        bundle,
        num_steps=num_steps,
        timesteps=timesteps,
        guidance_scale=guidance_scale,
        seed=seed,
        cache_dir=cache_dir,
    )
    noise = initial_noise(bundle, size, seed=seed + NOISE_STREAM)
    bucket_keys = ([each.size, each.prompts, each.fraction] for each in buckets)
    key = content_hash("whole", teacher.key(noise, prompts), held_out, *bucket_keys)
    kept = next(iter(sorted(cache_dir.glob(f"{key}-*.safetensors"))), None)
    wait_for_all()  # until all processes have looked, none may write
    if kept is not None:
        pool = _read_kept(kept)
        if is_main():
            link_or_copy(kept, path)
        return pool
    of_buckets = [(_bucket_noise(bundle, each, size, seed=seed), each.prompts) for each in buckets]
    whole = teacher.draw(noise, prompts)
    parts = [_with_prompts(teacher.draw(*inputs), prompts) for inputs in of_buckets]
    pool = replace(whole, num_held_out=held_out, buckets=tuple(parts))
    if is_main():
        write_pool(path, pool)
        link_or_copy(path, cache_dir / f"{key}-{file_sha256(path)}.safetensors")
        for inputs in [(noise, prompts), *of_buckets]:
            teacher.forget(*inputs)
    return pool


class TeacherSampler:
    """Draws and caches samples of the bundle's U-Net, all with the same options. It hashes the networks once.

    `timesteps` are the student's, noisiest first; DPM-Solver++ with `num_steps` must visit all of them. Noise must be
    a function of its shape and the seed, because samples are cached in `cache_dir` by shape, seed, bundle, prompts and
    options.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        num_steps: int,
        timesteps: list[int],
        guidance_scale: float,
        seed: int,
        cache_dir: Path,
    ) -> None:
        self._bundle, self._timesteps, self._seed, self._cache_dir = bundle, timesteps, seed, cache_dir
        self._sampler = dpm_solver_sampler(bundle, num_steps, guidance_scale)

    def draw(self, noise: Float[Tensor, "samples c h w"], prompts: list[str]) -> Pool:
        """A sample from each noise, evenly spread over the prompts in a random order; none held out.

        If there are several processes, they must call this together. Raises StageError if a sample is not finite.
        """
        prompt_index = batch_indices(len(prompts), len(noise), seed=self._seed, step=0)
        negative_embeds = encode_prompts(self._bundle, [""])

        def draw_chunk(first: int) -> Tensor:
            chunk = slice(first, first + CHUNK)
            states = sample_trajectory(
                self._bundle.unet,
                noise=noise[chunk].to(self._bundle.device),
                prompt_embeds=encode_prompts(self._bundle, [prompts[index] for index in prompt_index[chunk]]),
                negative_embeds=negative_embeds,
                sampler=self._sampler,
                timesteps=self._timesteps[1:],
            )
            return _check_finite(states.cpu(), self._sampler.guidance_scale)

        chunks = _cached_chunks(self._chunk_paths(noise, prompts), draw_chunk, self.key(noise, prompts))
        states = torch.cat(chunks)
        return Pool(noise.cpu(), states[:, :-1], states[:, -1], torch.tensor(prompt_index), prompts, num_held_out=0)

    def forget(self, noise: Float[Tensor, "samples c h w"], prompts: list[str]) -> None:
        """Delete the cached samples of this noise and these prompts."""
        for path in self._chunk_paths(noise, prompts).values():
            path.unlink(missing_ok=True)

    def key(self, noise: Float[Tensor, "samples c h w"], prompts: list[str]) -> str:
        """A hash of everything that samples depend on; the noise is a function of its shape and the seed."""
        return content_hash(self._model_key, prompts, list(noise.shape), self._timesteps, self._seed)

    def _chunk_paths(self, noise: Float[Tensor, "samples c h w"], prompts: list[str]) -> dict[int, Path]:
        """The cache file of every chunk, by its first sample."""
        key = self.key(noise, prompts)
        return {first: cache_path(self._cache_dir, key, first) for first in range(0, len(noise), CHUNK)}

    @cached_property
    def _model_key(self) -> str:
        """A hash of the networks and of the sampler."""
        bundle, sampler = self._bundle, self._sampler
        schedule = {name: value for name, value in sampler.scheduler.config.items() if not name.startswith("_")}
        predicted = bundle.scheduler.config.prediction_type  # the sampler's is always epsilon
        options = [schedule, predicted, sampler.num_inference_steps, sampler.guidance_scale, bundle.caption_chunks]
        return content_hash(hash_model(bundle.unet), hash_model(bundle.text_encoder), options)


def latent_shape(bundle: ModelBundle, resolution: Resolution, *, key: str) -> tuple[int, int, int]:
    """Channels, height and width of the latents of pictures of this size.

    Raises StageError, with `key` as the parameter, if the networks cannot process the size.
    """
    height, width = latent_size(bundle.vae.config, bundle.unet.config, resolution, key=key)
    return bundle.unet.config.in_channels, height, width


def noise_of_shape(shape: tuple[int, int, int], num: int, *, seed: int) -> Float[Tensor, "num c h w"]:
    """Initial noise; the shape is part of the seed, so that sizes do not share noise."""
    return torch.stack([torch.randn(shape, generator=step_generator(seed, index, *shape)) for index in range(num)])


def _bucket_noise(bundle: ModelBundle, bucket: PoolBucket, size: int, *, seed: int) -> Tensor:
    """The initial noise of the bucket's samples, for a pool of `size` samples besides."""
    shape = latent_shape(bundle, "{}x{}".format(*bucket.size), key="ingest.aspect_buckets")
    return noise_of_shape(shape, max(1, round(bucket.fraction * size)), seed=seed)


def _with_prompts(pool: Pool, prompts: list[str]) -> Pool:
    """The pool with indices into these prompts, which contain its own."""
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    rows = torch.tensor([row_of[prompt] for prompt in pool.prompts])
    return replace(pool, prompt_index=rows[pool.prompt_index], prompts=prompts)


def _read_kept(kept: Path) -> Pool:
    """The pool of the cache. Raises StageError if the file, which may be a hard link, no longer has its hash."""
    if not kept.stem.endswith(f"-{file_sha256(kept)}"):
        raise StageError(f"{kept}: this cache file is damaged; delete it and run again")
    return load_pool(kept)


def _cached_chunks(paths: Mapping[int, Path], draw: Callable[[int], Tensor], key: str) -> list[Tensor]:
    """The chunks at these paths, by their first samples. Chunks that are missing are drawn by all processes."""
    missing = [first for first, path in paths.items() if not path.exists()]
    wait_for_all()  # until all processes have looked, none may write
    num_together = first_decides(num_processes() * num_at_once())  # all processes must gather equally often
    for start in main_progress(range(0, len(missing), num_together), desc="pool"):
        together = missing[start : start + num_together]
        for first, states in zip(together, compute_across_processes(together, draw), strict=True):
            if is_main():
                write_tensors(paths[first], {"states": states}, key=key)
    wait_for_all()
    return [read_tensors(path, key=key)["states"] for path in paths.values()]


def _check_finite(states: Tensor, guidance_scale: float) -> Tensor:
    if torch.isfinite(states).all():
        return states
    raise StageError(
        f"the teacher draws latents that are not finite at sampling.guidance_scale {guidance_scale}; lower it, "
        "or use base.frozen_precision bf16 or fp32"
    )
