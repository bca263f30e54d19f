"""The pool: samples of the teacher, each with the noise and the trajectory that it came from, to distil from.

A thousand pictures of a data set are too few to distil on, and a student can imitate its teacher's samples better than
pictures that its teacher cannot draw (LADD, Sauer et al. 2024, section 3.2).
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from naruto_add.config.constants import Resolution
from naruto_add.data.batches import batch_indices
from naruto_add.data.buckets import by_size
from naruto_add.data.dataset import load_split
from naruto_add.data.images import Size
from naruto_add.diffusion.base_model import latent_size
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import Sampler, dpm_solver_sampler, initial_noise, sample_trajectory
from naruto_add.runtime.cache import cache_path, hash_model, read_tensors, write_tensors
from naruto_add.runtime.compute import step_generator
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import atomic_write_bytes, content_hash, link_or_copy, new_file
from naruto_add.runtime.sharing import compute_across_processes, is_main, num_processes, wait_for_all
from naruto_add.training.processes import main_progress

CHUNK = 32
"""Samples that are drawn in one batch and cached in one file."""
POOL_CODE = (
    "naruto_add.training.pool",
    "naruto_add.diffusion",
    "naruto_add.data.batches",
    "naruto_add.runtime.compute",
)
"""The modules that determine the samples. Cached samples stay valid when other code changes."""
NUM_HELD_OUT = 256
"""Held-out pool samples: the student is scored on them and never trained on them. At most a quarter of the pool."""
MIN_HELD_OUT = 2
"""A distance between two sets of pictures needs two of each."""
PROMPT_INDEX = "caption_index"
"""The name of `Pool.prompt_index` in the file, so that pools of earlier versions can be read."""
NOISE_STREAM = 2**32
"""Added to the seed, which is below it, so that evaluation never starts from the noise of a pool sample."""


@dataclass(frozen=True)
class Pool:
    """Samples of the teacher, fp32, on the CPU. x0[i] was drawn with guidance from noise[i] for `prompt_index[i]`.

    `prompt_index` counts `prompts`. `states[i]` are the states x_t of the trajectory at the student's timesteps except
    the first, whose state is the noise. The last `num_held_out` samples are the held-out pool samples. `buckets` are
    further samples to train on, each of one picture size that is not square, of the same `prompts`.
    """

    noise: Float[Tensor, "samples c h w"]
    states: Float[Tensor, "samples inner c h w"]
    x0: Float[Tensor, "samples c h w"]
    prompt_index: Int[Tensor, " samples"]
    prompts: list[str]
    num_held_out: int
    buckets: tuple["Pool", ...] = ()

    def __len__(self) -> int:
        """The number of samples of the base model's size."""
        return len(self.x0)


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
    """Draw `size` samples as `draw_from` does, write them to `path`, and return them.

    Each of `buckets`, whose prompts must be among `prompts`, has its fraction of `size` samples in addition: the
    others are of the base model's size, at which the student is scored. Sample i depends only on the bundle, the
    prompts, the options and (seed, i). The whole file stays in `cache_dir` for other configurations, as a hard link
    where possible, and the chunks that it was made of are deleted. Raises StageError if a sample is not finite, or if
    `size` is too small for a held-out sample.
    """
    held_out = num_held_out(size)
    noise = initial_noise(bundle, size, seed=seed + NOISE_STREAM)
    sampler = dpm_solver_sampler(bundle, num_steps, guidance_scale)
    key = _samples_key(bundle, sampler, prompts, noise, timesteps, seed)
    bucket_keys = ([each.size, each.prompts, each.fraction] for each in buckets)
    kept = cache_path(cache_dir, "whole", key, held_out, *bucket_keys)
    is_kept = kept.exists() and _hash_path(kept).exists()
    wait_for_all()  # until all processes have looked, none may write
    if is_kept:
        pool = _read_kept(kept)
        if is_main():
            link_or_copy(kept, path)
        return pool
    options: dict[str, Any] = {
        "num_steps": num_steps,
        "timesteps": timesteps,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "cache_dir": cache_dir,
    }
    drawn, chunks = _draw_from(bundle, noise, prompts=prompts, **options)
    parts = []
    for bucket in buckets:
        shape = latent_shape(bundle, "{}x{}".format(*bucket.size), key="ingest.aspect_buckets")
        bucket_noise = noise_of_shape(shape, max(1, round(bucket.fraction * size)), seed=seed)
        part, part_chunks = _draw_from(bundle, bucket_noise, prompts=bucket.prompts, **options)
        parts.append(_with_prompts(part, prompts))
        chunks += part_chunks
    pool = replace(drawn, num_held_out=held_out, buckets=tuple(parts))
    if is_main():
        _write_pool(path, pool)
        link_or_copy(path, kept)
        atomic_write_bytes(_hash_path(kept), content_hash(kept).encode())
        for chunk in chunks:
            chunk.unlink(missing_ok=True)
    return pool


def draw_from(
    bundle: ModelBundle,
    noise: Float[Tensor, "samples c h w"],
    *,
    prompts: list[str],
    num_steps: int,
    timesteps: list[int],
    guidance_scale: float,
    seed: int,
    cache_dir: Path,
) -> Pool:
    """A sample of the bundle's U-Net from each noise, evenly spread over the prompts in a random order; none held out.

    `timesteps` are the student's, noisiest first; DPM-Solver++ with `num_steps` must visit all of them. The noise must
    be a function of its shape and the seed, because samples are cached in `cache_dir` by shape, seed, bundle, prompts
    and options. Raises StageError if a sample is not finite.
    """
    return _draw_from(
        bundle,
        noise,
        prompts=prompts,
        num_steps=num_steps,
        timesteps=timesteps,
        guidance_scale=guidance_scale,
        seed=seed,
        cache_dir=cache_dir,
    )[0]


def _draw_from(
    bundle: ModelBundle,
    noise: Float[Tensor, "samples c h w"],
    *,
    prompts: list[str],
    num_steps: int,
    timesteps: list[int],
    guidance_scale: float,
    seed: int,
    cache_dir: Path,
) -> tuple[Pool, list[Path]]:
    """What `draw_from` returns, and the files in `cache_dir` that contain it."""
    prompt_index = batch_indices(len(prompts), len(noise), seed=seed, step=0)
    sampler = dpm_solver_sampler(bundle, num_steps, guidance_scale)
    key = _samples_key(bundle, sampler, prompts, noise, timesteps, seed)
    negative_embeds = encode_prompts(bundle, [""])

    def draw(first: int) -> Tensor:
        chunk = slice(first, first + CHUNK)
        states = sample_trajectory(
            bundle.unet,
            noise=noise[chunk].to(bundle.device),
            prompt_embeds=encode_prompts(bundle, [prompts[index] for index in prompt_index[chunk]]),
            negative_embeds=negative_embeds,
            sampler=sampler,
            timesteps=timesteps[1:],
        )
        return _check_finite(states.cpu(), guidance_scale)

    paths = {first: cache_path(cache_dir, key, first) for first in range(0, len(noise), CHUNK)}
    states = torch.cat(_cached_chunks(paths, draw, key))
    pool = Pool(noise.cpu(), states[:, :-1], states[:, -1], torch.tensor(prompt_index), prompts, num_held_out=0)
    return pool, list(paths.values())


def _with_prompts(pool: Pool, prompts: list[str]) -> Pool:
    """The pool with indices into these prompts, which contain its own."""
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    rows = torch.tensor([row_of[prompt] for prompt in pool.prompts])
    return replace(pool, prompt_index=rows[pool.prompt_index], prompts=prompts)


def latent_shape(bundle: ModelBundle, resolution: Resolution, *, key: str) -> tuple[int, int, int]:
    """Channels, height and width of the latents of pictures of this size.

    Raises StageError, with `key` as the parameter, if the networks cannot process the size.
    """
    height, width = latent_size(bundle.vae.config, bundle.unet.config, resolution, key=key)
    return bundle.unet.config.in_channels, height, width


def noise_of_shape(shape: tuple[int, int, int], num: int, *, seed: int) -> Float[Tensor, "num c h w"]:
    """Initial noise; the shape is part of the seed, so that sizes do not share noise."""
    return torch.stack([torch.randn(shape, generator=step_generator(seed, index, *shape)) for index in range(num)])


def load_pool(path: Path, /) -> Pool:
    """The pool that `draw_pool` wrote. Raises StageError if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            prompts = json.loads(file.metadata()["prompts"])
        num_held_out = int(tensors.pop("num_held_out"))
        parts: dict[str, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            bucket, _, field = name.rpartition(".")
            parts.setdefault(bucket, {})["prompt_index" if field == PROMPT_INDEX else field] = tensor
        whole = Pool(**parts.pop(""), prompts=prompts, num_held_out=num_held_out)
        buckets = (Pool(**parts[name], prompts=prompts, num_held_out=0) for name in sorted(parts, key=int))
        return replace(whole, buckets=tuple(buckets))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:  # a file of other content
        raise StageError(f"{path}: cannot be read ({error}); delete it and run `dvc repro`") from error


def split_pool(pool: Pool, /) -> tuple[Pool, Pool]:
    """The samples to train on, those of aspect buckets included, and the held-out pool samples."""
    edge = len(pool) - pool.num_held_out
    train = replace(_part(pool, slice(0, edge), num_held_out=0), buckets=pool.buckets)
    return train, _part(pool, slice(edge, None), num_held_out=pool.num_held_out)


def num_held_out(size: int) -> int:
    """The number of held-out samples of a pool of this size. Raises StageError if there are not enough for a score."""
    number = min(NUM_HELD_OUT, size // 4)
    if number < MIN_HELD_OUT:
        least = 4 * MIN_HELD_OUT
        raise StageError(
            f"student.pool_size: {size} is too small for {MIN_HELD_OUT} held-out samples; use at least {least}"
        )
    return number


def _part(pool: Pool, part: slice, *, num_held_out: int) -> Pool:
    tensors = (pool.noise[part], pool.states[part], pool.x0[part], pool.prompt_index[part])
    return Pool(*tensors, pool.prompts, num_held_out)


def _samples_key(
    bundle: ModelBundle, sampler: Sampler, prompts: list[str], noise: Tensor, timesteps: list[int], seed: int
) -> str:
    """A hash of everything that samples depend on; the noise is a function of its shape and the seed."""
    return content_hash(_model_key(bundle, sampler), prompts, list(noise.shape), timesteps, seed)


def _read_kept(kept: Path) -> Pool:
    """The pool of the cache. Raises StageError if the file, which may be a hard link, has changed since."""
    expected = _hash_path(kept)
    if not expected.exists() or content_hash(kept) != expected.read_text(encoding="utf-8"):
        raise StageError(f"{kept}: this cache file is damaged; delete it and run again")
    return load_pool(kept)


def _hash_path(kept: Path) -> Path:
    return kept.with_suffix(".hash")


def _model_key(bundle: ModelBundle, sampler: Sampler) -> str:
    """A hash of the networks and of the sampler."""
    schedule = {name: value for name, value in sampler.scheduler.config.items() if not name.startswith("_")}
    predicted = bundle.scheduler.config.prediction_type  # the sampler's is always epsilon
    options = [schedule, predicted, sampler.num_inference_steps, sampler.guidance_scale, bundle.caption_chunks]
    return content_hash(hash_model(bundle.unet), hash_model(bundle.text_encoder), options)


def _cached_chunks(paths: Mapping[int, Path], draw: Callable[[int], Tensor], key: str) -> list[Tensor]:
    """The chunks at these paths, by their first samples. Chunks that are missing are drawn by all processes."""
    missing = [first for first, path in paths.items() if not path.exists()]
    wait_for_all()  # until all processes have looked, none may write
    for start in main_progress(range(0, len(missing), num_processes()), desc="pool"):
        together = missing[start : start + num_processes()]
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


def _write_pool(path: Path, pool: Pool) -> None:
    tensors = _tensors(pool)
    for number, bucket in enumerate(pool.buckets):
        tensors |= {f"{number}.{name}": tensor for name, tensor in _tensors(bucket).items()}
    tensors["num_held_out"] = torch.tensor(pool.num_held_out)  # metadata with a second entry has no fixed order
    with new_file(path) as partial:
        save_file(tensors, partial, metadata={"prompts": json.dumps(pool.prompts)})


def _tensors(pool: Pool) -> dict[str, Tensor]:
    tensors = {"noise": pool.noise, "states": pool.states, "x0": pool.x0, PROMPT_INDEX: pool.prompt_index}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
