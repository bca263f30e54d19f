"""The step of adversarial diffusion distillation on a random tiny pipeline.

The predecessor's faults that this part could repeat are numbered as in the algorithm notes: `fault_1` ... `fault_9`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from naruto_add.runtime import StageError
from naruto_add.training import learner
from naruto_add.training.add.image_text import load_image_text
from naruto_add.training.add.inputs import draw_batch
from naruto_add.training.add.run import AddRun, adv_weight_at, distill_weight_at
from naruto_add.training.loop import run_steps
from tests.training.add.build import ALL_ON, TEMPLATE, Build, add_params, same, weights


@pytest.mark.parametrize("discriminator", ["latent", "pixel"])
def test_fault_1_the_student_is_another_object_and_the_teacher_stays_bit_identical(
    build: Build, discriminator: str
) -> None:
    run = build.run(add_params(discriminators=[discriminator], pixel_crop_px=32))
    bundle = build.bundle
    teachers = (bundle.unet, bundle.text_encoder, bundle.vae)
    shared = {item.data_ptr() for item in run.student.parameters()} & {
        item.data_ptr() for module in teachers for item in module.parameters()
    }
    before, student = [weights(module) for module in teachers], weights(run.student)
    for step in range(3):
        run.train_step(step)
    assert not shared
    assert same([weights(module) for module in teachers], before)
    assert all(not torch.equal(item, student[name]) for name, item in run.student.named_parameters())


def test_the_solved_target_is_what_the_pair_loss_and_the_student_learn_from(build: Build) -> None:
    values = {"pair_target": "solve", "solve_steps": 2, "adv_weight": 0.0, "renoised_weight": 0.0}
    run = build.run(add_params(**values))
    batch = draw_batch(run.data, run.params, step=0)
    noisy = run.distiller.student_inputs(batch)
    x0, target = run.distiller.x0_of(noisy, batch), run.distiller.pair_target(noisy, batch)
    expected = torch.nn.functional.smooth_l1_loss(x0, target).item()
    assert run.train_step(0)["pair_loss"] == pytest.approx(expected, rel=1e-4)


def test_only_what_is_judged_gets_an_adversarial_gradient(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build.run(add_params(judged_fraction=0.5, distill_weight=0.0, adv_weight=1.0))
    fakes: list[Tensor] = []

    def noted(*inputs: Tensor) -> Tensor:
        fakes.append(predict_x0(*inputs))
        fakes[-1].retain_grad()
        return fakes[-1]

    predict_x0 = run.distiller.predict_x0
    monkeypatch.setattr(run.distiller, "predict_x0", noted)
    run.train_step(0)
    is_judged = draw_batch(run.data, run.params, step=0).judged_weight > 0
    assert fakes[0].grad is not None
    assert torch.equal(fakes[0].grad.flatten(1).any(dim=1), is_judged)


@pytest.mark.parametrize("discriminator", ["latent", "pixel"])
def test_parts_with_unequal_shares_of_what_is_judged_add_up_to_the_batch(build: Build, discriminator: str) -> None:
    values = {"discriminators": [discriminator], "pixel_crop_px": 32, "judged_fraction": 0.5, "r1_weight": 1.0}
    whole, in_parts = (build.run(add_params(**values, accumulation_steps=number)) for number in (1, 2))
    weights_of = draw_batch(whole.data, whole.params, step=0).judged_weight
    assert [int((part > 0).sum()) for part in weights_of.split(3)] == [2, 1]
    one, other = whole.train_step(0), in_parts.train_step(0)
    names = ("adv_loss", "disc_loss", "r1_penalty", "pair_loss", "student_grad_norm", "discriminator_grad_norm")
    assert [other[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-5)


def test_a_part_with_nothing_to_judge_is_refused(build: Build) -> None:
    with pytest.raises(StageError, match=r"add\.judged_fraction: 0\.2 leaves a part of 2 items with nothing to judge"):
        build.run(add_params(judged_fraction=0.2, accumulation_steps=3))


def test_the_perceptual_loss_joins_the_students_loss(build: Build) -> None:
    values = {"adv_weight": 0.0, "distill_weight": 0.0, "perceptual_weight": 1.0, "perceptual_crop_px": 32}
    params = add_params(**values, rollout_fraction=0.0, renoised_weight=0.0, learning_rate=1e-4)
    run = build.run(params)
    losses = [run.train_step(0)["perceptual_loss"] for _ in range(6)]
    assert losses[-1] < losses[0]
    assert "perceptual_loss" not in build.run(add_params()).train_step(0)


def test_the_image_text_loss_joins_the_students_loss(build: Build) -> None:
    """Its own weights descend on it, and it is not computed where it does not count."""
    values = {"adv_weight": 0.0, "distill_weight": 0.0, "image_text_weight": 1.0, "image_text_crop_px": 32}
    params = add_params(**values, rollout_fraction=0.0, renoised_weight=0.0, learning_rate=1e-4, caption_match_steps=2)
    data = build.data(params)
    image_text = load_image_text(
        build.bundle,
        data.prompts,
        params=params,
        prompt_template=TEMPLATE,
        dataset_dir=build.dataset_dir,
        cache_dir=build.tmp,
    )
    run = build.run(params, data=data, image_text=image_text)
    losses = [run.train_step(0)["image_text_loss"] for _ in range(6)]
    assert losses[-1] < losses[0]
    assert {"image_text_accuracy", "image_text_chance"} <= run.metrics().keys()
    assert "image_text_loss" not in build.run(add_params()).train_step(0)
    batch = draw_batch(data, params, step=0)
    assert torch.equal(data.prompt_embeds[batch.prompt_rows], batch.prompt_embeds)


def test_one_batch_is_overfitted(build: Build) -> None:
    params = add_params(adv_weight=0.0, rollout_fraction=0.0, renoised_weight=0.0, learning_rate=4e-3)
    run = build.run(params)
    losses = [run.train_step(0)["pair_loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_one_batch_is_told_apart(build: Build) -> None:
    params = add_params(
        learning_rate=1e-9,
        discriminator_learning_rate=2e-2,
        adv_weight=0.0,
        rollout_fraction=0.0,
        renoised_weight=0.0,
        real_source="dataset",
        discriminator_timesteps=[10],
    )
    run = build.run(params)
    rows = [run.train_step(0) for _ in range(15)]
    assert rows[-1]["disc_loss"] < 0.5 * rows[0]["disc_loss"]
    assert rows[-1]["real_logit"] > rows[-1]["fake_logit"] + 1


def test_the_adversarial_loss_alone_lowers_itself(build: Build) -> None:
    """Against a discriminator that stands still, a student that follows the gradient fools it better."""
    params = add_params(distill_weight=0.0, discriminator_learning_rate=1e-9, learning_rate=2e-3, adv_weight=1.0)
    run = build.run(params.model_copy(update={"renoised_weight": 0.0, "rollout_fraction": 0.0}))
    losses = [run.train_step(0)["adv_loss"] for _ in range(8)]
    assert losses[-1] < losses[0]


def test_the_distillation_weight_goes_straight_to_its_final_share() -> None:
    params = add_params(distill_weight=2.0, distill_final_share=0.25, num_steps=5)
    assert [distill_weight_at(step, params) for step in range(5)] == pytest.approx([2.0, 1.625, 1.25, 0.875, 0.5])
    assert {distill_weight_at(step, add_params(distill_weight=0.7)) for step in (0, 7)} == {0.7}
    assert distill_weight_at(0, add_params(num_steps=1)) == 1.0


def test_the_adversarial_weight_waits_then_rises_to_its_full_value() -> None:
    params = add_params(adv_weight=0.4, adv_start_steps=10, adv_ramp_steps=4)
    weights = [adv_weight_at(step, params) for step in (0, 9, 10, 11, 13, 100)]
    assert weights == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])
    assert adv_weight_at(10, add_params(adv_weight=0.4, adv_start_steps=10, adv_ramp_steps=0)) == 0.4


def test_before_the_adversarial_loss_starts_the_student_feels_none_and_the_heads_learn(build: Build) -> None:
    params = add_params(adv_start_steps=5)
    run, other = build.run(params), build.run(params.model_copy(update={"adv_weight": 3.0}))
    heads = weights(run.critics.heads)
    assert run.train_step(0).keys() == other.train_step(0).keys()
    assert same(weights(run.student), weights(other.student))
    assert not same(weights(run.critics.heads), heads)


def test_the_step_draws_nothing_from_the_global_generator(build: Build) -> None:
    run, other = build.run(add_params()), build.run(add_params())
    torch.manual_seed(1)
    first = run.train_step(0)
    torch.manual_seed(2)
    assert other.train_step(0) == first
    assert torch.initial_seed() == 2


def test_gradients_that_are_not_finite_are_skipped_and_counted(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "MAX_SKIPPED_IN_A_ROW", 2)
    params = add_params(renoised_weight=0.0)
    data = build.data(params)
    nothing = {name: torch.full_like(getattr(data.train, name), torch.nan) for name in ("states", "x0")}
    broken = replace(data, train=replace(data.train, **nothing))
    run = build.run(params, data=broken)
    student, heads, average = weights(run.student), weights(run.critics.heads), run.ema.average()
    scalars = run.train_step(0)
    assert same(weights(run.student), student)
    assert same(weights(run.critics.heads), heads)
    assert same(run.ema.average(), average)
    assert scalars["skipped_steps"] == 2
    assert scalars["student_grad_norm"] is scalars["discriminator_grad_norm"] is None
    with pytest.raises(StageError, match=r"add\.learning_rate"):
        run.train_step(1)


@pytest.mark.parametrize("values", [{}, ALL_ON])
def test_no_step_encodes_a_prompt_or_a_picture(
    build: Build, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build.run(add_params(**values))
    for module in (build.bundle.text_encoder, build.bundle.vae.encoder):
        monkeypatch.setattr(module, "forward", None)
    for step in range(4):
        run.train_step(step)


@pytest.mark.parametrize("name", ["saturated_discriminator", "logit_gap"])
def test_a_discriminator_that_wins_against_a_student_that_stands_still_rings(
    build: Build, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    params = add_params(adv_weight=0.0, learning_rate=1e-9, discriminator_learning_rate=3e-2, r1_weight=0.0)
    params = params.model_copy(
        update={"real_source": "dataset", "alarm_window_steps": 2, "discriminator_timesteps": [10]}
    )
    run = build.run(params)
    for step in range(100):
        run.train_step(step)
        if run.alarms.counts[name]:
            break
    assert run.metrics()[f"alarms_{name}"] == 1
    assert f"alarm {name}: " in capsys.readouterr().err


def run_all(run: AddRun, folder: Path, *, stop_at: int | None = None) -> None:
    def train_step(step: int) -> dict[str, float]:
        if step == stop_at:
            raise ConnectionAbortedError
        return run.train_step(step)

    run_steps(
        train_step,
        name="add",
        num_steps=run.params.num_steps,
        state=run.state(),
        validate=run.validate,
        validation_every_steps=run.params.validation_every_steps,
        checkpoint_dir=folder,
        curves_path=folder / "curves.tsv",
    )


def test_fault_8_a_killed_run_resumes_bit_for_bit(build: Build, tmp_path: Path) -> None:
    """Student, its average, heads, both optimizers and schedules, counters, strength, best weights and curves."""
    params = add_params(warmup_steps=4, adv_start_steps=1, adv_ramp_steps=4, real_source="both", **ALL_ON)
    whole, killed, resumed = (build.run(params) for _ in range(3))
    run_all(whole, tmp_path / "whole")
    with pytest.raises(ConnectionAbortedError):
        run_all(killed, tmp_path / "killed", stop_at=3)
    run_all(resumed, tmp_path / "killed")
    for name, item in whole.state().items():
        assert same(item.state_dict(), resumed.state()[name].state_dict()), name
    for name in ("curves.tsv", "curves_validation.tsv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()
    assert whole.metrics() == resumed.metrics()
