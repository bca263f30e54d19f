"""The learner: AdamW without weight decay, its schedule, gradient clipping, and skipped steps."""

import copy
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from naruto_add.config.schema import Optimizer
from naruto_add.runtime.compute import make_accelerator
from naruto_add.runtime.errors import StageError
from naruto_add.training import learner as learner_module
from naruto_add.training.learner import BUCKET_SIZE, FiniteGuard, Learner, learning_rate_factor
from naruto_add.training.weights import Ema

OPTIMIZER = Optimizer(
    name="adamw", learning_rate=0.1, warmup_steps=3, schedule="constant", ema_decay=0.9, ema_on_cpu=False
)


def make(
    module: nn.Module, *, optimizer: Optimizer = OPTIMIZER, ema: Ema | None = None, accumulation_steps: int = 1
) -> Learner:
    return Learner(
        module,
        make_accelerator("fp32"),
        section="add",
        optimizer=optimizer,
        learning_rate=optimizer.learning_rate,
        num_steps=100,
        accumulation_steps=accumulation_steps,
        ema=ema,
        advice="lower x",
    )


def update(learner: Learner, loss: Tensor) -> float | None:
    learner.backward(loss)
    return learner.step()


def test_the_learning_rate_rises_linearly_for_its_warmup_steps_and_is_then_constant() -> None:
    module = nn.Linear(1, 1)
    learner = make(module)
    rates = []
    for _ in range(6):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        update(learner, module(torch.ones(1, 1)).sum())
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_the_cosine_schedule_reaches_zero_at_the_last_step() -> None:
    cosine = OPTIMIZER.model_copy(update={"schedule": "cosine"})
    factors = [learning_rate_factor(step, optimizer=cosine, num_steps=7) for step in range(9)]
    half = 0.5**0.5 / 2
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5 + half, 0.5, 0.5 - half, 0.0, 0.0])


def test_weights_without_a_gradient_do_not_decay() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, 5.0)
    update(make(module), module(torch.tensor([[1.0, 0.0]])).sum())
    assert module.weight[0, 1].item() == 5.0
    assert module.weight[0, 0].item() < 5.0


def test_the_norm_is_returned_before_clipping_and_the_update_is_that_after_it() -> None:
    """Adam's first update does not depend on the gradient's size, so the optimizer's state is compared instead."""
    moments = []
    for size in (1.0, 1000.0):
        module = nn.Linear(1, 1, bias=False)
        learner = make(module)
        assert update(learner, size * module(torch.ones(1, 1)).sum()) == pytest.approx(size)
        moments.append(learner.optimizer.state[module.weight]["exp_avg"].item())
    assert moments == pytest.approx([0.1, 0.1])


def test_a_skipped_step_changes_only_the_count_of_skipped_steps() -> None:
    module = nn.Linear(1, 1)
    learner = make(module, ema=Ema(module, 0.9, on_cpu=False))
    assert update(learner, module(torch.ones(1, 1)).sum()) is not None
    before = copy.deepcopy(learner.state_dict())
    assert update(learner, module(torch.ones(1, 1)).sum() * math.inf) is None
    after = learner.state_dict()
    assert [before.pop("guard")["num_skipped"], after.pop("guard")["num_skipped"]] == [0, 1]
    assert {"weights", "ema", "optimizer", "schedule"} == set(after)
    assert str(before) == str(after)


def test_the_gradient_of_a_skipped_step_does_not_enter_the_next_one() -> None:
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    other.load_state_dict(one.state_dict())
    skipping, steady = make(one), make(other)
    update(skipping, one(torch.ones(1, 1)).sum() * math.nan)
    for learner, module in ((skipping, one), (steady, other)):
        update(learner, module(torch.ones(1, 1)).sum())
    assert torch.equal(one.weight, other.weight)


def test_too_many_skipped_steps_in_a_row_raise_an_error_with_the_advice() -> None:
    guard = FiniteGuard("lower x.learning_rate")
    assert not guard.allows(float("nan"))
    assert guard.allows(1.0)
    with pytest.raises(StageError, match=r"20 gradients in a row.*lower x\.learning_rate"):
        for _ in range(20):
            guard.allows(torch.tensor(float("inf")))
    assert guard.num_skipped == 21


def test_accumulated_parts_have_the_gradient_of_the_whole_batch() -> None:
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    initial = nn.Linear(3, 1)
    moments = []
    for num_parts in (1, 3):
        module = copy.deepcopy(initial)
        learner = make(module, accumulation_steps=num_parts)
        for part in inputs.chunk(num_parts):
            learner.backward(module(part).square().mean())
        assert learner.step() is not None
        moments.append(learner.optimizer.state[module.weight]["exp_avg"])
    torch.testing.assert_close(moments[0], moments[1])


def test_8_bit_adamw_is_that_of_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=type("AdamW8bit", (torch.optim.AdamW,), {})))
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    made = make(nn.Linear(1, 1), optimizer=OPTIMIZER.model_copy(update={"name": "adamw_8bit"})).optimizer.optimizer
    assert type(made).__name__ == "AdamW8bit"
    assert made.defaults["weight_decay"] == 0


def test_8_bit_adamw_without_bitsandbytes_is_an_error_that_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(StageError, match=r"add\.optimizer\.name: adamw_8bit requires .*bitsandbytes.*or use adamw"):
        make(nn.Linear(1, 1), optimizer=OPTIMIZER.model_copy(update={"name": "adamw_8bit"}))


def test_gradients_of_any_shape_are_averaged_over_processes_in_few_messages() -> None:
    """A message is complete when it has BUCKET_SIZE values."""
    shapes: list[tuple[int, ...]] = [(BUCKET_SIZE // 4, 3), (BUCKET_SIZE // 4,), (2, 3), ()]
    gradients = [torch.ones(shape, dtype=torch.int8) for shape in shapes]
    sizes: list[int] = []

    def reduce(flat: Tensor, reduction: str) -> Tensor:
        sizes.append(len(flat))
        return flat * 3

    learner_module._average_over_processes(gradients, SimpleNamespace(num_processes=2, reduce=reduce))
    assert all((item == 3).all() for item in gradients)
    assert sizes == [BUCKET_SIZE, 7]
