"""The loop: exact resume, averaged weights, curves without gaps."""

import os
import signal
from pathlib import Path

import pytest
import torch

from naruto_add.compute import batch_indices, make_accelerator, step_generator
from naruto_add.params import load_params
from naruto_add.runtime import StageError
from naruto_add.training.curves import Curves
from naruto_add.training.learner import Learner
from naruto_add.training.loop import run_steps
from naruto_add.training.weights import Best, Ema, TrainableState

PROFILE = load_params(Path(__file__).parents[2] / "profiles/mini.yaml")
SKIPPED = 7
"""A step whose gradient is not finite."""


class Killed(Exception):
    """Stands for a process that dies in the middle of a step."""


def _train(folder: Path, *, num_steps: int = 12, die_at: int | None = None, interrupt_at: int | None = None) -> dict:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    ema, best = Ema(model, 0.9), Best()
    params = PROFILE.teacher.model_copy(update={"warmup_steps": 3})
    learner = Learner(model, make_accelerator("fp32"), params=params, learning_rate=0.1, ema=ema, advice="")

    def step(number: int) -> dict[str, float | None]:
        if number == die_at:
            raise Killed
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
        name="toy",
        num_steps=num_steps,
        state={"model": learner, "best": best},
        validate=validate,
        validation_every_steps=4,
        checkpoint_dir=folder,
        curves_path=folder / "toy.tsv",
    )
    curves = [(folder / name).read_text() for name in ("toy.tsv", "toy_validation.tsv")]
    return {"model": TrainableState(model).state_dict(), "ema": ema.average(), "best": best.weights, "curves": curves}


def _assert_equal(left: dict, right: dict) -> None:
    assert left["curves"] == right["curves"]
    for part in ("model", "ema", "best"):
        for name, value in left[part].items():
            assert torch.equal(value, right[part][name]), (part, name)


@pytest.mark.parametrize("die_at", [4, 6, 11])
def test_resumed_run_equals_uninterrupted(tmp_path: Path, die_at: int) -> None:
    with pytest.raises(Killed):
        _train(tmp_path / "killed", die_at=die_at)
    _assert_equal(_train(tmp_path / "killed"), _train(tmp_path / "whole"))


def test_interrupt_saves_after_the_step_and_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "stopped", interrupt_at=5)
    assert torch.load(tmp_path / "stopped/toy.pt", weights_only=True)["num_done"] == 6
    _assert_equal(_train(tmp_path / "stopped"), _train(tmp_path / "whole"))


def test_curve_has_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        _train(tmp_path, die_at=9)
    rows = _train(tmp_path)["curves"][0].splitlines()
    assert [int(row.split("\t")[0]) for row in rows[1:]] == list(range(1, 13))


def test_curves_are_window_means(tmp_path: Path) -> None:
    curves = Curves(num_steps=600)
    for step in range(1, 5):
        curves.add_training(step, {"loss": float(step)})
    curves.write(tmp_path / "x.tsv")
    assert (tmp_path / "x.tsv").read_text() == "step\tloss\n2\t1.5\n4\t3.5\n"


def test_a_step_without_a_figure_leaves_a_gap_not_a_zero(tmp_path: Path) -> None:
    curves = Curves(num_steps=600)
    for step, norm in enumerate((None, 3.0, None, None), start=1):
        curves.add_training(step, {"loss": float("nan") if step == 3 else 1.0, "grad_norm": norm})
    curves.write(tmp_path / "x.tsv")
    assert (tmp_path / "x.tsv").read_text() == "step\tloss\tgrad_norm\n2\t1\t3\n4\t1\t\n"


def test_ema_follows_its_closed_form() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, decay=0.5)
    torch.nn.init.constant_(model.weight, 1.0)
    ema.update()
    decay = min(0.5, 2 / 11)
    assert ema.average()["weight"].item() == pytest.approx(1 - decay)
    with ema.applied():
        assert model.weight.item() == pytest.approx(1 - decay)
    assert model.weight.item() == 1.0


def test_best_keeps_the_lowest_finite_score() -> None:
    best, model = Best(), torch.nn.Linear(1, 1)
    with pytest.raises(StageError, match="no validation"):
        best.copy_to(model)
    assert best.offer(2.0, 1, {"bias": torch.tensor([2.0])})
    assert not best.offer(float("nan"), 2, {"bias": torch.tensor([9.0])})
    assert not best.offer(3.0, 3, {"bias": torch.tensor([3.0])})
    best.copy_to(model)
    assert model.bias.item() == 2.0


def test_every_epoch_is_a_permutation() -> None:
    drawn = [index for step in range(10) for index in batch_indices(10, 4, seed=1, step=step)]
    assert all(sorted(drawn[start : start + 10]) == list(range(10)) for start in range(0, 40, 10))
    assert drawn[:10] != drawn[10:20]


def test_step_generator_depends_on_its_arguments_alone() -> None:
    draws = [torch.rand(1, generator=step_generator(*key)).item() for key in ((0, 1), (0, 1), (1, 0), (0, 1, 2))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
