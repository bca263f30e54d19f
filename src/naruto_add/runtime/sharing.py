"""Work that several processes of one run share, and what only the first of them does."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from naruto_add.runtime.cache import read_tensors, write_tensors
from naruto_add.runtime.compute import default_device
from naruto_add.runtime.threads import compute_in_threads

T = TypeVar("T")


def compute_across_processes(items: Sequence[T], compute: Callable[[T], Any]) -> list[Any]:
    """`compute(item)` of each item, in order; one process computes it and all processes get it.

    A process computes its items as `compute_in_threads` does.
    """
    state = PartialState()
    own = range(state.process_index, len(items), state.num_processes)
    computed = compute_in_threads(lambda index: compute(items[index]), own)
    results = gather_object([*zip(own, computed, strict=True)])
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


def shared_tensors(path: Path, *, key: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors stored at `path`; if the file is missing, all processes call `compute` and the first one stores them.

    Raises StageError as `read_tensors` does.
    """
    if not first_decides(path.exists()):
        tensors = compute()
        if is_main():
            write_tensors(path, tensors, key=key)
    wait_for_all()
    return read_tensors(path, key=key)


def first_decides(value: T) -> T:
    """The first process's value, in all processes."""
    default_device()  # makes the state of the processes, if nothing has yet
    values = [value]
    broadcast_object_list(values)
    return values[0]


def num_processes() -> int:
    """The number of processes that work together."""
    return int(PartialState().num_processes)


def is_main() -> bool:
    """Whether this is the main process, which writes files and shows progress."""
    return bool(PartialState().is_main_process)


def main_first() -> AbstractContextManager[None]:
    """A block that the main process leaves before the others enter, so that they find the files that it wrote."""
    block: AbstractContextManager[None] = PartialState().main_process_first()
    return block


def wait_for_all() -> None:
    """Return when all processes have called this function."""
    PartialState().wait_for_everyone()
