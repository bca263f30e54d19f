"""Which weights a distillation keeps."""

import pytest
import torch
from torch import Tensor, nn

from naruto_add.losses.kernel import KernelDistance
from naruto_add.runtime.errors import StageError
from naruto_add.training.add.selection import Selection

NOISE = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def distance(value: float, *, spread: float = 0.0) -> KernelDistance:
    return KernelDistance(value, of_samples=value + spread * NOISE, of_pictures=torch.zeros(8, dtype=torch.float64))


def weight(value: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor([[value]])}


def validated(*distances: KernelDistance) -> Selection:
    """A selection to which these distances were added; the weight of each is its number."""
    selection = Selection()
    for step, each in enumerate(distances):
        selection.add(step, each, {"score": each.value}, weight(step))
    return selection


def kept_weight(selection: Selection, *, last: float) -> float:
    module = nn.Linear(1, 1, bias=False)
    selection.copy_to(module, last=weight(last))
    return module.weight.item()


def test_the_last_weights_are_kept_although_earlier_ones_were_better_by_less_than_the_error() -> None:
    selection = validated(distance(0.5), distance(0.30), distance(0.32, spread=0.2))
    assert not selection.is_last_worse
    assert kept_weight(selection, last=2) == 2
    assert selection.metrics() == {
        "start_score": 0.5,
        "end_score": 0.32,
        "best_score": 0.3,
        "best_step": 1,
        "kept_step": 2,
    }


def test_the_best_weights_are_kept_if_the_last_ones_have_lost_more_than_error_and_tolerance() -> None:
    selection = validated(distance(0.5, spread=0.2), distance(0.30, spread=0.2), distance(0.35, spread=0.2))
    assert selection.is_last_worse  # samples of the same noise vary together, so the difference is certain
    assert kept_weight(selection, last=2) == 1
    assert selection.metrics()["kept_step"] == 1
    assert "after step 2" in selection.finding() and "0.3 after step 1" in selection.finding()


def test_the_last_weights_are_kept_on_a_plateau_however_small_the_error() -> None:
    selection = validated(distance(0.5), distance(0.30), distance(0.33))
    assert not selection.is_last_worse  # .03 of the .20 that were gained


def test_weights_worse_than_at_the_start_are_never_kept() -> None:
    assert kept_weight(validated(distance(0.5), distance(0.51)), last=1) == 0


def test_a_score_that_is_not_finite_is_never_kept() -> None:
    assert kept_weight(validated(distance(0.5), distance(float("nan"))), last=1) == 0
    assert kept_weight(validated(distance(float("nan")), distance(0.5)), last=1) == 1
    with pytest.raises(StageError, match="no validation score was finite"):
        kept_weight(validated(distance(float("nan"))), last=0)


def test_the_best_weights_are_a_state_of_their_own_that_changes_only_with_them() -> None:
    selection = validated(distance(0.5), distance(0.3))
    before = dict(selection.best.state_dict())
    selection.add(2, distance(0.4), {"score": 0.4}, weight(2))
    assert selection.best.state_dict() == before
    assert not any(isinstance(value, dict) and "weight" in value for value in selection.state_dict().values())


def test_a_resumed_selection_goes_on_as_if_uninterrupted() -> None:
    selection, resumed = validated(distance(0.5), distance(0.3)), Selection()
    resumed.load_state_dict(selection.state_dict())
    resumed.best.load_state_dict(selection.best.state_dict())
    assert selection.best_step == resumed.best_step == 1
    for each in (selection, resumed):
        each.add(2, distance(0.4), {"score": 0.4}, weight(2))
    assert resumed.metrics() == selection.metrics()
    assert kept_weight(resumed, last=2) == kept_weight(selection, last=2) == 1
