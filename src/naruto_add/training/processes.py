"""Training by several processes: each draws the whole batch and computes its part; the main process writes files.

So results do not depend on the number of processes, except for the rounding of sums. `learner` averages gradients.
Processes on several machines need a shared file system: one process writes checkpoints and caches, and all read them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor
from tqdm import tqdm

from naruto_add.runtime.compute import moved
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.progress import progress
from naruto_add.runtime.sharing import is_main

T = TypeVar("T")


@dataclass(frozen=True)
class Items:
    """A dataclass of tensors whose first axis has the same items."""

    def part(self, items: slice | Tensor, device: torch.device | None = None) -> Self:
        """A selection of the items, on `device` if one is given."""
        return type(self)(**{name: moved(value[items], device) for name, value in vars(self).items()})


def local_parts(section: str, *, batch_size: int, accumulation_steps: int) -> list[slice]:
    """The parts of each batch that this process computes, one after the other.

    Raises StageError as `parts_of_process` does.
    """
    state = PartialState()
    return parts_of_process(
        section,
        process=state.process_index,
        num_processes=state.num_processes,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
    )


def parts_of_process(
    section: str, *, process: int, num_processes: int, batch_size: int, accumulation_steps: int
) -> list[slice]:
    """The `accumulation_steps` parts of a batch that belong to one process, numbered from 0.

    All parts of all processes are equally long, so that the mean of their means is the mean of the batch. Raises
    StageError, which names the parameters of `section`, if the batch cannot be divided.
    """
    num_parts = num_processes * accumulation_steps
    if batch_size % num_parts:
        raise StageError(
            f"{section}.batch_size: {batch_size} is not a multiple of {num_parts}, which {num_processes} processes "
            f"with {section}.accumulation_steps {accumulation_steps} require; change one of them"
        )
    first, length = process * accumulation_steps, batch_size // num_parts
    return [slice(part * length, (part + 1) * length) for part in range(first, first + accumulation_steps)]


def means(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The mean of each scalar over these parts of a batch and those of the other processes."""
    values = torch.stack([torch.stack([item.detach().float() for item in row.values()]) for row in rows])
    return dict(zip(rows[0], reduce(values.mean(dim=0), reduction="mean").tolist(), strict=True))


def summed(value: float) -> float:
    """The sum over processes."""
    state = PartialState()
    total: Tensor = reduce(torch.tensor(value, dtype=torch.float32, device=state.device), reduction="sum")
    return total.item()


def main_progress(iterable: Iterable[T], **options: Any) -> "tqdm[T]":
    """Iterate with `progress` in the main process and silently in the others."""
    return progress(iterable, **options) if is_main() else tqdm(iterable, disable=True)
