"""The learner: plain AdamW, a warm-up, and steps that are skipped whole."""

import copy
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from naruto_add.compute import make_accelerator
from naruto_add.params import load_params
from naruto_add.runtime import StageError
from naruto_add.training import learner as learner_module
from naruto_add.training.learner import FiniteGuard, Learner, learning_rate_factor
from naruto_add.training.weights import Ema

PARAMS = load_params(Path(__file__).parents[2] / "profiles/mini.yaml").add.model_copy(
    update={"warmup_steps": 3, "learning_rate_decay": "none"}
)


def make(module: nn.Module, ema: Ema | None = None, *, learning_rate: float = 0.1) -> Learner:
    accelerator = make_accelerator("fp32")
    return Learner(module, accelerator, params=PARAMS, learning_rate=learning_rate, ema=ema, advice="lower x")


def update(learner: Learner, loss: Tensor) -> float | None:
    learner.backward(loss)
    return learner.step()


def test_the_learning_rate_rises_linearly_and_then_stays() -> None:
    module = nn.Linear(1, 1)
    learner = make(module)
    rates = []
    for _ in range(6):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        update(learner, module(torch.ones(1, 1)).sum())
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_the_learning_rate_falls_by_half_a_cosine_to_the_last_step() -> None:
    params = PARAMS.model_copy(update={"num_steps": 7, "learning_rate_decay": "cosine"})
    factors = [learning_rate_factor(step, params) for step in range(9)]
    half = 0.5**0.5 / 2
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5 + half, 0.5, 0.5 - half, 0.0, 0.0])


def test_weights_without_a_gradient_do_not_decay() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, 5.0)
    update(make(module), module(torch.tensor([[1.0, 0.0]])).sum())
    assert module.weight[0, 1].item() == 5.0
    assert module.weight[0, 0].item() < 5.0


def test_the_norm_is_that_before_clipping_and_the_step_that_after_it() -> None:
    module = nn.Linear(1, 1, bias=False)
    steps = []
    for size in (1.0, 1000.0):
        nn.init.constant_(module.weight, 0.0)
        assert update(make(module), size * module(torch.ones(1, 1)).sum()) == pytest.approx(size)
        steps.append(module.weight.item())
    assert steps[0] == pytest.approx(steps[1])


def test_a_skipped_step_changes_nothing_but_its_count() -> None:
    module = nn.Linear(1, 1)
    learner = make(module, Ema(module, 0.9))
    assert update(learner, module(torch.ones(1, 1)).sum()) is not None
    before = copy.deepcopy(learner.state_dict())
    assert update(learner, module(torch.ones(1, 1)).sum() * math.inf) is None
    after = learner.state_dict()
    assert [before.pop("guard")["num_skipped"], after.pop("guard")["num_skipped"]] == [0, 1]
    assert {"weights", "ema", "optimizer", "schedule"} == set(after)
    assert str(before) == str(after)


def test_nothing_is_learnt_from_a_gradient_left_by_a_skipped_step() -> None:
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    other.load_state_dict(one.state_dict())
    stumbling, steady = make(one), make(other)
    update(stumbling, one(torch.ones(1, 1)).sum() * math.nan)
    for learner, module in ((stumbling, one), (steady, other)):
        update(learner, module(torch.ones(1, 1)).sum())
    assert torch.equal(one.weight, other.weight)


def test_too_many_bad_gradients_stop_the_run() -> None:
    guard = FiniteGuard("lower x.learning_rate")
    assert not guard.allows(float("nan"))
    assert guard.allows(1.0)
    with pytest.raises(StageError, match=r"20 gradients in a row.*lower x\.learning_rate"):
        for _ in range(20):
            guard.allows(torch.tensor(float("inf")))
    assert guard.num_skipped == 21


def test_accumulated_parts_are_the_whole_batch() -> None:
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    weights = []
    for num_parts in (1, 3):
        module = nn.Linear(3, 1)
        nn.init.ones_(module.weight)
        params = PARAMS.model_copy(update={"accumulation_steps": num_parts})
        learner = Learner(module, make_accelerator("fp32"), params=params, learning_rate=0.1, advice="")
        for part in inputs.chunk(num_parts):
            learner.backward(module(part).square().mean())
        assert learner.step() is not None
        weights.append(module.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])


def test_8_bit_adamw_is_bitsandbytes_and_without_it_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    params = PARAMS.model_copy(update={"optimizer": "adamw_8bit"})
    module = nn.Linear(1, 1)

    def make_learner() -> Learner:
        return Learner(module, make_accelerator("fp32"), params=params, learning_rate=0.1, advice="")

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(StageError, match=r"add\.optimizer: adamw_8bit needs .*bitsandbytes.*or use adamw"):
        make_learner()
    package = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=type("AdamW8bit", (torch.optim.AdamW,), {})))
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    made = make_learner().optimizer.optimizer
    assert type(made).__name__ == "AdamW8bit"
    assert made.defaults["weight_decay"] == 0


def test_gradients_are_averaged_over_processes_whatever_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "BUCKET_SIZE", 5)
    gradients = [torch.ones(2, 3), torch.ones(1), torch.ones(7), torch.ones(())]
    sizes: list[int] = []

    def reduce(flat: Tensor, reduction: str) -> Tensor:
        sizes.append(len(flat))
        return flat * 3

    learner_module._average_over_processes(gradients, SimpleNamespace(num_processes=2, reduce=reduce))
    assert all((item == 3).all() for item in gradients)
    assert sizes == [6, 8, 1]
