"""The learner: plain AdamW, a warm-up, and steps that are skipped whole."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from naruto_add.compute import make_accelerator
from naruto_add.params import load_params
from naruto_add.runtime import StageError
from naruto_add.training.learner import FiniteGuard, Learner
from naruto_add.training.weights import Ema

PARAMS = load_params(Path(__file__).parents[2] / "profiles/mini.yaml").add.model_copy(update={"warmup_steps": 3})


def make(module: nn.Module, ema: Ema | None = None, *, learning_rate: float = 0.1) -> Learner:
    accelerator = make_accelerator("fp32")
    return Learner(module, accelerator, params=PARAMS, learning_rate=learning_rate, ema=ema, advice="lower x")


def test_the_learning_rate_rises_linearly_and_then_stays() -> None:
    module = nn.Linear(1, 1)
    learner = make(module)
    rates = []
    for _ in range(6):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        learner.update(module(torch.ones(1, 1)).sum())
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_weights_without_a_gradient_do_not_decay() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, 5.0)
    make(module).update(module(torch.tensor([[1.0, 0.0]])).sum())
    assert module.weight[0, 1].item() == 5.0
    assert module.weight[0, 0].item() < 5.0


def test_the_norm_is_that_before_clipping_and_the_step_that_after_it() -> None:
    module = nn.Linear(1, 1, bias=False)
    steps = []
    for size in (1.0, 1000.0):
        nn.init.constant_(module.weight, 0.0)
        assert make(module).update(size * module(torch.ones(1, 1)).sum()) == pytest.approx(size)
        steps.append(module.weight.item())
    assert steps[0] == pytest.approx(steps[1])


def test_a_skipped_step_changes_nothing_but_its_count() -> None:
    module = nn.Linear(1, 1)
    learner = make(module, Ema(module, 0.9))
    assert learner.update(module(torch.ones(1, 1)).sum()) is not None
    before = copy.deepcopy(learner.state_dict())
    assert learner.update(module(torch.ones(1, 1)).sum() * math.inf) is None
    after = learner.state_dict()
    assert [before.pop("guard")["num_skipped"], after.pop("guard")["num_skipped"]] == [0, 1]
    assert {"weights", "ema", "optimizer", "schedule"} == set(after)
    assert str(before) == str(after)


def test_nothing_is_learnt_from_a_gradient_left_by_a_skipped_step() -> None:
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    other.load_state_dict(one.state_dict())
    stumbling, steady = make(one), make(other)
    stumbling.update(one(torch.ones(1, 1)).sum() * math.nan)
    for learner, module in ((stumbling, one), (steady, other)):
        learner.update(module(torch.ones(1, 1)).sum())
    assert torch.equal(one.weight, other.weight)


def test_too_many_bad_gradients_stop_the_run() -> None:
    guard = FiniteGuard("lower x.learning_rate")
    assert not guard.allows(float("nan"))
    assert guard.allows(1.0)
    with pytest.raises(StageError, match=r"20 gradients in a row.*lower x\.learning_rate"):
        for _ in range(20):
            guard.allows(torch.tensor(float("inf")))
    assert guard.num_skipped == 21
