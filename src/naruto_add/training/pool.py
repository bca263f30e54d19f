"""The pool: samples of the teacher, each with the noise and the trajectory that it came from, to distil from.

A thousand pictures of a data set are too few to distil on, and a student can imitate its teacher's samples better than
pictures that its teacher cannot draw (LADD, Sauer et al. 2024, section 3.2).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_file

NUM_HELD_OUT = 256
"""Held-out pool samples: the student is scored on them and never trained on them. At most a quarter of the pool."""
MIN_HELD_OUT = 2
"""A distance between two sets of pictures needs two of each."""
PROMPT_INDEX = "caption_index"
"""The name of `Pool.prompt_index` in the file, so that pools of earlier versions can be read."""


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


def write_pool(path: Path, pool: Pool) -> None:
    """Write the file that `load_pool` reads. Its bytes depend only on the pool."""
    tensors = _tensors(pool)
    for number, bucket in enumerate(pool.buckets):
        tensors |= {f"{number}.{name}": tensor for name, tensor in _tensors(bucket).items()}
    tensors["num_held_out"] = torch.tensor(pool.num_held_out)  # metadata with a second entry has no fixed order
    with new_file(path) as partial:
        save_file(tensors, partial, metadata={"prompts": json.dumps(pool.prompts)})


def load_pool(path: Path, /) -> Pool:
    """The pool that `write_pool` wrote. Raises StageError if the file is missing or damaged."""
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


def _part(pool: Pool, part: slice, *, num_held_out: int) -> Pool:
    tensors = (pool.noise[part], pool.states[part], pool.x0[part], pool.prompt_index[part])
    return Pool(*tensors, pool.prompts, num_held_out)


def _tensors(pool: Pool) -> dict[str, Tensor]:
    tensors = {"noise": pool.noise, "states": pool.states, "x0": pool.x0, PROMPT_INDEX: pool.prompt_index}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
