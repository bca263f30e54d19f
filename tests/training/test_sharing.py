"""What one process must hold of how several share the work; test_processes.py starts several."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from torch import Tensor

from naruto_add.params import Add, load_params
from naruto_add.runtime import StageError
from naruto_add.training.add.inputs import _scattered, _spread_over
from naruto_add.training.sharing import Items, means, own_parts, shared_out

PARAMS: Add = load_params(Path(__file__).parents[2] / "profiles/mini.yaml").add


@dataclass(frozen=True)
class Pair(Items):
    one: Tensor
    other: Tensor


def parts_of(monkeypatch: pytest.MonkeyPatch, process: int, num_processes: int, **changes: int) -> list[slice]:
    state = PartialState()
    with monkeypatch.context() as patch:
        patch.setitem(state._shared_state, "num_processes", num_processes)
        patch.setitem(state._shared_state, "process_index", process)
        return own_parts(PARAMS.model_copy(update=changes))


def test_every_item_belongs_to_one_part_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"batch_size": 24, "accumulation_steps": 2}
    parts = [part for process in range(3) for part in parts_of(monkeypatch, process, 3, **changes)]
    assert [item for part in parts for item in range(24)[part]] == list(range(24))
    assert {part.stop - part.start for part in parts} == {4}


def test_a_batch_that_cannot_be_cut_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"add\.batch_size: 32 is not a multiple of 6.*add\.accumulation_steps 2"):
        parts_of(monkeypatch, 0, 3, batch_size=32, accumulation_steps=2)


def test_a_part_holds_the_same_items_of_every_tensor() -> None:
    pair = Pair(torch.arange(6), torch.arange(12).view(6, 2))
    assert pair.part(slice(2, 4)).one.tolist() == [2, 3]
    assert pair.part(torch.tensor([5, 0])).other.tolist() == [[10, 11], [0, 1]]


def test_means_of_equal_parts_are_those_of_the_whole() -> None:
    values = torch.randn(8)
    rows = [{"loss": part.mean(), "square": part.square().mean()} for part in values.split(2)]
    assert means(rows) == pytest.approx({"loss": values.mean().item(), "square": values.square().mean().item()})


def test_what_is_shared_out_comes_back_in_order() -> None:
    assert shared_out(range(5), lambda item: item**2) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("num_parts", [2, 4])
def test_every_part_of_a_batch_has_its_share_of_what_costs_time(num_parts: int) -> None:
    weight, is_rollout = _scattered(0.25, 32), _spread_over(torch.ones(32, dtype=torch.bool), 0.5)
    assert weight.mean() == pytest.approx(1)
    for part in weight.view(num_parts, -1).count_nonzero(dim=1).tolist():
        assert abs(part - 8 / num_parts) <= 1
    assert 3 <= (weight.bool() & is_rollout).sum() <= 5
    assert _scattered(0.0, 8).tolist() == [0.0] * 8
