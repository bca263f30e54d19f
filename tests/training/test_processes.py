"""How batches are divided among processes, and how their results are combined."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from naruto_add.runtime.errors import StageError
from naruto_add.runtime.sharing import compute_across_processes
from naruto_add.training.processes import Items, local_parts, means, parts_of_process


@dataclass(frozen=True)
class Pair(Items):
    one: Tensor
    other: Tensor


def test_every_item_is_in_one_part_of_one_process_and_all_parts_are_equally_long() -> None:
    parts = [
        part
        for process in range(3)
        for part in parts_of_process("add", process=process, num_processes=3, batch_size=24, accumulation_steps=2)
    ]
    assert [item for part in parts for item in range(24)[part]] == list(range(24))
    assert {part.stop - part.start for part in parts} == {4}


def test_a_single_process_computes_all_parts() -> None:
    assert local_parts("add", batch_size=6, accumulation_steps=2) == [slice(0, 3), slice(3, 6)]


def test_a_batch_that_cannot_be_divided_is_an_error() -> None:
    with pytest.raises(StageError, match=r"add\.batch_size: 32 is not a multiple of 6.*add\.accumulation_steps 2"):
        parts_of_process("add", process=0, num_processes=3, batch_size=32, accumulation_steps=2)


def test_a_part_has_the_same_items_of_every_tensor() -> None:
    pair = Pair(torch.arange(6), torch.arange(12).view(6, 2))
    assert pair.part(slice(2, 4)).one.tolist() == [2, 3]
    assert pair.part(torch.tensor([5, 0])).other.tolist() == [[10, 11], [0, 1]]


def test_means_of_equal_parts_are_those_of_the_whole_batch() -> None:
    values = torch.randn(8, generator=torch.Generator().manual_seed(0))
    rows = [{"loss": part.mean(), "square": part.square().mean()} for part in values.split(2)]
    assert means(rows) == pytest.approx({"loss": values.mean().item(), "square": values.square().mean().item()})


def test_results_are_in_the_order_of_the_items() -> None:
    assert compute_across_processes(range(5), lambda item: item**2) == [0, 1, 4, 9, 16]
