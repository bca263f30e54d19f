"""The loop: exact resume, interruption and curves; and the average and the best of weights."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from naruto_add.config.schema import Optimizer
from naruto_add.runtime.compute import make_accelerator, step_generator
from naruto_add.runtime.errors import StageError
from naruto_add.training import curves
from naruto_add.training.curves import Curves
from naruto_add.training.learner import Learner
from naruto_add.training.loop import TrainingRun, run_steps
from naruto_add.training.weights import Best, Ema, TrainableState

NUM_STEPS = 12
OPTIMIZER = Optimizer(
    name="adamw", learning_rate=0.1, warmup_steps=3, schedule="cosine", ema_decay=0.9, ema_on_cpu=False
)
SKIPPED = 7
"""A step whose gradient is not finite."""


@pytest.fixture
def handlers() -> Iterator[dict[int, Any]]:
    """The handlers of both signals before the test, which are those after it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


class KilledError(Exception):
    """The process was killed during a step."""


def _train(folder: Path, *, die_at: int | None = None, interrupt_at: int | None = None) -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    ema, best = Ema(model, 0.9, on_cpu=False), Best()
    learner = Learner(
        model,
        make_accelerator("fp32"),
        section="toy",
        optimizer=OPTIMIZER,
        learning_rate=OPTIMIZER.learning_rate,
        num_steps=NUM_STEPS,
        accumulation_steps=1,
        ema=ema,
        advice="",
    )

    def step(number: int) -> dict[str, float | None]:
        if number == die_at:
            raise KilledError
        if number == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        x = torch.randn(4, 3, generator=step_generator(0, number))
        loss = (model(x) - x[:, :2]).square().mean()
        if number == SKIPPED:
            loss = loss * float("inf")
        learner.backward(loss)
        return {"loss": loss.item(), "grad_norm": learner.step()}

    def validate(num_done: int) -> dict[str, float]:
        score = float(sum(item.abs().sum() for item in ema.average().values()))
        best.offer(score, num_done, ema.average())
        return {"score": score}

    run_steps(
        step,
        TrainingRun(checkpoint_dir=folder, curves_path=folder / "toy.tsv"),
        name="toy",
        num_steps=NUM_STEPS,
        state={"model": learner, "best": best},
        num_weights=learner.num_weights,
        validate=validate,
        validation_every_steps=4,
    )
    curves = [(folder / name).read_text() for name in ("toy.tsv", "toy_validation.tsv")]
    return {"model": TrainableState(model).state_dict(), "ema": ema.average(), "best": best.weights, "curves": curves}


def _assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left["curves"] == right["curves"]
    for part in ("model", "ema", "best"):
        for name, value in left[part].items():
            assert torch.equal(value, right[part][name]), (part, name)


@pytest.mark.parametrize("die_at", [4, 6, 11])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, die_at: int) -> None:
    with pytest.raises(KilledError):
        _train(tmp_path / "killed", die_at=die_at)
    _assert_equal(_train(tmp_path / "killed"), _train(tmp_path / "whole"))


def test_an_interrupted_run_completes_its_step_saves_and_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "stopped", interrupt_at=5)
    assert torch.load(tmp_path / "stopped/toy.pt", weights_only=True)["num_done"] == 6
    _assert_equal(_train(tmp_path / "stopped"), _train(tmp_path / "whole"))


class _Interrupted:
    """A trained state during whose saving a signal comes."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state_dict(self) -> dict[str, Any]:
        os.kill(os.getpid(), self.number)
        return {}

    def load_state_dict(self, _: Any) -> None:
        """Nothing was saved."""


def _run(folder: Path, *, num_steps: int, state: dict[str, Any], at_start: int | None = None) -> None:
    def validate(num_done: int) -> dict[str, float]:
        if num_done == 0 and at_start is not None:
            os.kill(os.getpid(), at_start)
        return {"score": 0.0}

    run_steps(
        lambda _: {"loss": 0.0},
        TrainingRun(checkpoint_dir=folder, curves_path=folder / "toy.tsv"),
        name="toy",
        num_steps=num_steps,
        state=state,
        num_weights=1,
        validate=validate,
        validation_every_steps=num_steps,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_last_save_ends_the_run(tmp_path: Path, handlers: dict[int, Any], number: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, num_steps=1, state={"model": _Interrupted(number)})
    assert torch.load(tmp_path / "toy.pt", weights_only=True)["num_done"] == 1
    is_ending = number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == (signal.SIG_IGN if is_ending else handlers[signal.SIGTERM])
    assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]


def test_a_signal_during_the_first_validation_lets_a_step_complete_and_be_saved(
    tmp_path: Path, handlers: dict[int, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, num_steps=3, state={}, at_start=signal.SIGINT)
    assert torch.load(tmp_path / "toy.pt", weights_only=True)["num_done"] == 1
    assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]


def test_the_curve_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        _train(tmp_path, die_at=9)
    rows = _train(tmp_path)["curves"][0].splitlines()
    assert [int(row.split("\t")[0]) for row in rows[1:]] == list(range(1, 13))


@pytest.mark.parametrize(("seconds", "rows"), [(0.0, 3), (1e9, 1)])
def test_the_curves_are_live_between_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int
) -> None:
    monkeypatch.setattr(curves, "LIVE_SECONDS", seconds)
    with pytest.raises(KilledError):
        _train(tmp_path, die_at=3)
    written = (tmp_path / "toy.tsv").read_text().splitlines()[1:]
    assert [int(row.split("\t")[0]) for row in written] == list(range(1, rows + 1)), "the first validation is at 4"
    assert (tmp_path / "toy_validation.tsv").read_text().splitlines()[1].startswith("0\t")


def test_rows_of_long_trainings_are_means_over_windows(tmp_path: Path) -> None:
    curves = Curves(num_steps=600)
    for step in range(1, 5):
        curves.add_training(step, {"loss": float(step)})
    curves.write(tmp_path / "x.tsv")
    assert (tmp_path / "x.tsv").read_text() == "step\tloss\n2\t1.5\n4\t3.5\n"


def test_values_that_are_missing_or_not_finite_do_not_enter_the_means(tmp_path: Path) -> None:
    curves = Curves(num_steps=600)
    for step, norm in enumerate((None, 3.0, None, None), start=1):
        curves.add_training(step, {"loss": float("nan") if step == 3 else 1.0, "grad_norm": norm})
    curves.write(tmp_path / "x.tsv")
    assert (tmp_path / "x.tsv").read_text() == "step\tloss\tgrad_norm\n2\t1\t3\n4\t1\t\n"


def test_the_average_follows_its_closed_form_and_is_applied_only_within_the_block() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, decay=0.5, on_cpu=False)
    torch.nn.init.constant_(model.weight, 1.0)
    ema.update()
    decay = min(0.5, 2 / 11)
    assert ema.average()["weight"].item() == pytest.approx(1 - decay)
    with ema.applied():
        assert model.weight.item() == pytest.approx(1 - decay)
    assert model.weight.item() == 1.0


def test_the_best_weights_are_those_with_the_lowest_finite_score() -> None:
    best, model = Best(), torch.nn.Linear(1, 1)
    with pytest.raises(StageError, match="no validation"):
        best.copy_to(model)
    assert best.offer(2.0, 1, {"bias": torch.tensor([2.0])})
    assert not best.offer(float("nan"), 2, {"bias": torch.tensor([9.0])})
    assert not best.offer(3.0, 3, {"bias": torch.tensor([3.0])})
    best.copy_to(model)
    assert model.bias.item() == 2.0


def test_an_average_on_the_cpu_has_the_same_bits() -> None:
    averages = []
    for on_cpu in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 3)
        ema = Ema(model, decay=0.5, on_cpu=on_cpu)
        for _ in range(3):
            with torch.no_grad():
                model.weight.add_(torch.randn(3, 3))
            ema.update()
        with ema.applied():
            applied = model.weight.clone()
        averages.append(ema.average())
        assert torch.equal(applied, averages[-1]["weight"])
        assert not torch.equal(model.weight, applied)
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
