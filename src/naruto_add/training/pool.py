"""The synthetic pool: the teacher's own samples, each with the noise it came from, to distil from.

A thousand real pictures are too few to distil on, and a student can imitate what its teacher draws better than what it
cannot draw (LADD, Sauer et al. 2024, section 3.2).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from naruto_add.compute import batch_indices
from naruto_add.data.dataset import load_split
from naruto_add.data.latents import hash_model
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import fast_sampler, initial_noise, sample_states
from naruto_add.files import content_hash, new_file
from naruto_add.runtime import StageError
from naruto_add.training.sharing import is_main, num_processes, shared_out, shown, wait_for_all

CHUNK = 32
"""Samples that are drawn in one batch and kept when the run is interrupted."""
POOL_CODE = ("naruto_add.training.pool", "naruto_add.diffusion", "naruto_add.compute")
"""What samples depend on of the code; whatever else a stage's configuration has draws none anew."""
NUM_HELD_OUT = 32
"""Samples that the student is scored on and never trained on; of a small pool, a quarter."""
NOISE_STREAM = 2**32
"""Added to the seed, which is below it, so that no evaluation starts from a noise of the pool."""


@dataclass(frozen=True)
class Pool:
    """Teacher samples on the CPU, fp32: x0[i] was drawn from noise[i] for prompts[caption_index[i]], with guidance.

    `states[i]` are x_t on the way, at each of the student's timesteps but the first, where x_t is the noise; none in a
    pool that was not drawn. The last `num_held_out` are what the student is scored on, never trained on.
    """

    noise: Float[Tensor, "samples c h w"]
    states: Float[Tensor, "samples inner c h w"]
    x0: Float[Tensor, "samples c h w"]
    caption_index: Int[Tensor, " samples"]
    prompts: list[str]
    num_held_out: int

    def __len__(self) -> int:
        return len(self.x0)


def pool_prompts(dataset_dir: Path, prompt_template: str) -> list[str]:
    """Every caption of the training split once, in the template, but none that a held-out picture has as well.

    Where held-out pictures have them all, as in a data set with a single caption, they are kept.
    """
    held_out = {item.caption for split in ("validation", "test") for item in load_split(dataset_dir, split)}
    captions = list(dict.fromkeys(item.caption for item in load_split(dataset_dir, "train")))
    kept = [caption for caption in captions if caption not in held_out] or captions
    return [fill_template(prompt_template, caption) for caption in kept]


def draw_pool(
    bundle: ModelBundle,
    *,
    prompts: list[str],
    size: int,
    num_steps: int,
    timesteps: list[int],
    guidance_scale: float,
    seed: int,
    path: Path,
    cache_dir: Path,
    held_out_only: bool = False,
) -> Pool:
    """Write `path`: `size` samples of the bundle's U-Net, spread evenly over the prompts, or the held-out ones of them.

    Each depends on (seed, its index) and the models. Raises StageError where a sample is not finite, or there are too
    few to hold any out.
    """
    num_held_out = _num_held_out(size)
    noise = initial_noise(bundle, size, seed=seed + NOISE_STREAM)
    pool = draw_from(
        bundle,
        noise,
        first=size - num_held_out if held_out_only else 0,
        prompts=prompts,
        num_steps=num_steps,
        timesteps=timesteps,
        guidance_scale=guidance_scale,
        seed=seed,
        cache_dir=cache_dir,
    )
    pool = replace(pool, num_held_out=num_held_out)
    write_pool(path, pool)
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
    first: int = 0,
) -> Pool:
    """A sample of the bundle's U-Net from every noise, spread evenly over the prompts; none before `first` is drawn.

    `timesteps` are the student's, noisiest first; the teacher's `num_steps` must visit them all.

    The noise must be a function of its shape and the seed: chunks already in `cache_dir` that were drawn from the
    same models, prompts, shape and options are not drawn again. Raises StageError where a sample is not finite.
    """
    caption_index = batch_indices(len(prompts), len(noise), seed=seed, step=0)
    models = [hash_model(bundle.unet), hash_model(bundle.text_encoder)]
    sampler = fast_sampler(bundle, num_steps, guidance_scale)
    schedule = {name: value for name, value in sampler.scheduler.config.items() if not name.startswith("_")}
    key = content_hash(models, schedule, prompts, list(noise.shape), num_steps, timesteps, guidance_scale, seed)
    negative_embeds = encode_prompts(bundle, [""])

    def draw(start: int) -> Tensor:
        part = slice(start, start + CHUNK)
        return sample_states(
            bundle.unet,
            noise=noise[part].to(bundle.device),
            prompt_embeds=encode_prompts(bundle, [prompts[index] for index in caption_index[part]]),
            negative_embeds=negative_embeds,
            sampler=sampler,
            timesteps=timesteps[1:],
        ).cpu()

    starts = range(first, len(noise), CHUNK)
    chunks = _chunks(starts, lambda start: _finite(draw(start), guidance_scale), cache_dir, key)
    states = torch.cat(chunks)
    places = torch.tensor(caption_index[first:])
    return Pool(noise[first:].cpu(), states[:, :-1], states[:, -1], places, prompts, num_held_out=0)


def write_pool(path: Path, pool: Pool) -> None:
    """Write the file that `load_pool` reads; the main process does, of several."""
    if is_main():
        tensors = {name: getattr(pool, name) for name in ("noise", "states", "x0", "caption_index")}
        tensors["num_held_out"] = torch.tensor(pool.num_held_out)  # a second entry of metadata has no fixed order
        _write(path, tensors, {"prompts": pool.prompts})


def load_pool(path: Path, /) -> Pool:
    """Read what `write_pool` wrote. Raises StageError for a file that is missing or damaged."""
    tensors, metadata = _read(path)
    return Pool(
        tensors["noise"],
        tensors["states"],
        tensors["x0"],
        tensors["caption_index"],
        json.loads(metadata["prompts"]),
        int(tensors["num_held_out"]),
    )


def split_pool(pool: Pool, /) -> tuple[Pool, Pool]:
    """What may be trained on, and the last samples, which the student is only scored on."""
    edge = len(pool) - pool.num_held_out
    return _part(pool, slice(0, edge), num_held_out=0), _part(pool, slice(edge, None), num_held_out=pool.num_held_out)


def _num_held_out(size: int) -> int:
    number = min(NUM_HELD_OUT, size // 4)
    if not number:
        raise StageError(f"student.pool_size: {size} leaves none to score the student on; use at least 4")
    return number


def _part(pool: Pool, part: slice, *, num_held_out: int) -> Pool:
    tensors = (pool.noise[part], pool.states[part], pool.x0[part], pool.caption_index[part])
    return Pool(*tensors, pool.prompts, num_held_out)


def _chunks(starts: Sequence[int], draw: Callable[[int], Tensor], cache_dir: Path, key: str) -> list[Tensor]:
    """Every chunk, drawn by one of the processes unless an earlier run has left it in `cache_dir`."""
    paths = {start: cache_dir / f"{key}-{start:07d}.safetensors" for start in starts}
    missing = [start for start in starts if not paths[start].exists()]
    wait_for_all()  # nobody writes before all have looked
    num_at_once = num_processes()
    for first in shown(range(0, len(missing), num_at_once), desc="pool"):
        together = missing[first : first + num_at_once]
        for start, states in zip(together, shared_out(together, draw), strict=True):
            if is_main():
                _write(paths[start], {"states": states}, {})
    wait_for_all()
    return [_read(paths[start])[0]["states"] for start in starts]


def _finite(states: Tensor, guidance_scale: float) -> Tensor:
    if torch.isfinite(states).all():
        return states
    raise StageError(
        f"the teacher draws latents that are not finite at sampling.guidance_scale {guidance_scale}; lower it, "
        "or use base.precision fp32"
    )


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, list[str]]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with new_file(path) as partial:
        save_file(contiguous, partial, metadata={key: json.dumps(value) for key, value in metadata.items()})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return {name: item.float() if item.is_floating_point() else item for name, item in tensors.items()}, dict(
                file.metadata() or {}
            )
    except (SafetensorError, OSError) as error:
        raise StageError(f"{path}: cannot be read ({error}); delete it and run again") from error
