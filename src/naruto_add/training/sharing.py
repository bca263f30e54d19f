"""How several processes train one model: each draws the whole batch and takes its own part, and the main one writes.

So no result depends on the number of processes, but for the rounding of sums. Gradients are averaged by the learner.
Processes on several machines need one file system: checkpoints and caches are written once and read by all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor
from tqdm import tqdm

from naruto_add.params import Add, Student, Teacher
from naruto_add.runtime import StageError, progress

T = TypeVar("T")


@dataclass(frozen=True)
class Items:
    """Tensors whose first axis counts the same items."""

    def part(self, items: slice | Tensor, device: torch.device | None = None) -> Self:
        """Some of the items, on `device` if one is named."""
        return type(self)(**{name: value[items].to(device) for name, value in vars(self).items()})


def own_parts(params: Teacher | Student | Add) -> list[slice]:
    """What this process computes of every batch, in turn: equal parts, so that means of means are means.

    Raises StageError where the batch cannot be cut into as many.
    """
    state, size, section = PartialState(), params.batch_size, type(params).__name__.lower()
    num_parts = state.num_processes * params.accumulation_steps
    if size % num_parts:
        raise StageError(
            f"{section}.batch_size: {size} is not a multiple of {num_parts}, which {state.num_processes} processes "
            f"with {section}.accumulation_steps {params.accumulation_steps} need; change one of them"
        )
    first, length = state.process_index * params.accumulation_steps, size // num_parts
    return [slice(part * length, (part + 1) * length) for part in range(first, first + params.accumulation_steps)]


def means(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Every figure's mean over these parts of a batch and those of the other processes."""
    values = torch.stack([torch.stack([item.detach().float() for item in row.values()]) for row in rows])
    return dict(zip(rows[0], reduce(values.mean(dim=0), reduction="mean").tolist(), strict=True))


def summed(value: float) -> float:
    """The sum over processes."""
    state = PartialState()
    total: Tensor = reduce(torch.tensor(value, dtype=torch.float32, device=state.device), reduction="sum")
    return total.item()


def shared_out(items: Sequence[T], compute: Callable[[T], Any]) -> list[Any]:
    """What `compute` makes of every item, in order, each computed by one process and known to all."""
    state = PartialState()
    results = gather_object(
        [(index, compute(items[index])) for index in range(state.process_index, len(items), state.num_processes)]
    )
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


def num_processes() -> int:
    """How many train together."""
    return int(PartialState().num_processes)


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return bool(PartialState().is_main_process)


def main_first() -> AbstractContextManager[None]:
    """Within the block the main process is ahead of the others, which find what it has written."""
    block: AbstractContextManager[None] = PartialState().main_process_first()
    return block


def wait_for_all() -> None:
    """Go on when all processes have come this far."""
    PartialState().wait_for_everyone()


def shown(iterable: Iterable[T], **options: Any) -> "tqdm[T]":
    """The main process's progress; the others' is silent."""
    return progress(iterable, **options) if is_main() else tqdm(iterable, disable=True)
