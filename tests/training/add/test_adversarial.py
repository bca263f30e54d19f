"""The training step of adversarial diffusion distillation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from naruto_add.runtime.errors import StageError
from naruto_add.training.add.adversarial import adv_weight_at
from naruto_add.training.add.batch import draw_batch
from naruto_add.training.add.image_text import load_image_text
from naruto_add.training.learner import MAX_SKIPPED_IN_A_ROW
from tests.training.add.build import (
    ALL_LOSSES,
    TEMPLATE,
    Build,
    add_params,
    same,
    same_training,
    train,
    weights,
)


@pytest.mark.parametrize("discriminator", ["latent", "pixel"])
def test_the_student_is_another_module_than_the_teacher_which_stays_bit_identical(
    build: Build, discriminator: str
) -> None:
    trainer = build.trainer(add_params(discriminators=[discriminator]))
    frozen = (build.bundle.unet, build.bundle.text_encoder, build.bundle.vae)
    shared = {item.data_ptr() for item in trainer.student.parameters()} & {
        item.data_ptr() for module in frozen for item in module.parameters()
    }
    before, student = [weights(module) for module in frozen], weights(trainer.student)
    for step in range(3):
        trainer.train_step(step)
    assert not shared
    assert same([weights(module) for module in frozen], before)
    assert all(not torch.equal(item, student[name]) for name, item in trainer.student.named_parameters())


def test_only_items_that_the_discriminator_is_shown_have_an_adversarial_gradient(build: Build) -> None:
    trainer = build.trainer(add_params(discriminator_fraction=0.5, distill_weight=0.0, adv_weight=1.0))
    trainer.train_step(0)  # measures the gradients
    predictions: list[Tensor] = []

    def record(_module: nn.Module, _args: Any, output: tuple[Tensor]) -> None:
        if output[0].requires_grad:  # not those of rollouts
            output[0].retain_grad()
            predictions.append(output[0])

    trainer.student.register_forward_hook(record)
    trainer.train_step(1)
    (prediction,) = predictions
    is_shown = draw_batch(trainer.data, trainer.params, step=1).discriminator_weight > 0
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.flatten(1).any(dim=1), is_shown)


def test_losses_on_crops_are_of_the_items_that_the_discriminator_is_shown(build: Build) -> None:
    values = {"discriminator_fraction": 0.5, "distill_weight": 0.0, "adv_weight": 0.0, "perceptual_weight": 1.0}
    trainer = build.trainer(add_params(**values))
    batch = draw_batch(trainer.data, trainer.params, step=0)
    shown = batch.part(torch.where(batch.discriminator_weight > 0)[0])
    with torch.no_grad():
        inputs = trainer.objective.student_inputs(shown)
        x0, target = trainer.objective.predict_x0(inputs, shown), trainer.objective.pair_target(inputs, shown)
        expected = trainer.crop_losses(x0, target, shown)["perceptual_loss"].item()
    assert trainer.train_step(0)["perceptual_loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("discriminator", ["latent", "pixel"])
def test_parts_with_unequal_numbers_of_shown_items_add_up_to_the_batch(build: Build, discriminator: str) -> None:
    values = {"discriminators": [discriminator], "discriminator_fraction": 0.5, "r1_weight": 1.0}
    whole, in_parts = (build.trainer(add_params(**values, accumulation_steps=number)) for number in (1, 2))
    discriminator_weight = draw_batch(whole.data, whole.params, step=0).discriminator_weight
    assert [int((part > 0).sum()) for part in discriminator_weight.split(3)] == [2, 1]
    one, other = ([trainer.train_step(0), trainer.train_step(0)][1] for trainer in (whole, in_parts))
    names = (
        *("adv_loss", "disc_loss", "r1_penalty", "pair_loss"),
        *("adv_scale", "student_grad_norm", "discriminator_grad_norm"),
    )
    assert one["adv_scale"] > 0
    assert [other[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-4)


def test_parts_without_items_for_the_discriminators_add_up_to_the_batch(build: Build) -> None:
    values = {**ALL_LOSSES, "discriminator_fraction": 0.2, "r1_weight": 1.0}
    whole, in_parts = (build.trainer(add_params(**values, accumulation_steps=number)) for number in (1, 3))
    discriminator_weight = draw_batch(whole.data, whole.params, step=0).discriminator_weight
    assert sorted(int((part > 0).sum()) for part in discriminator_weight.split(2)) == [0, 0, 1]
    one, other = ([trainer.train_step(0), trainer.train_step(0)][1] for trainer in (whole, in_parts))
    names = (
        *("adv_loss", "disc_loss", "r1_penalty", "perceptual_loss"),
        *("adv_scale", "student_grad_norm", "discriminator_grad_norm"),
    )
    assert one["adv_scale"] > 0
    assert [other[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-4)


def test_the_student_learns_from_the_perceptual_loss(build: Build) -> None:
    alone = {"adv_weight": 0.0, "distill_weight": 0.0, "perceptual_weight": 1.0}
    trainer = build.trainer(add_params(**alone, rollout_fraction=0.0, renoised_weight=0.0, learning_rate=1e-4))
    losses = [trainer.train_step(0)["perceptual_loss"] for _ in range(6)]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_student_learns_from_the_image_text_loss_and_the_metrics_state_the_networks_accuracy(build: Build) -> None:
    alone = {"adv_weight": 0.0, "distill_weight": 0.0, "image_text_weight": 1.0}
    params = add_params(**alone, rollout_fraction=0.0, renoised_weight=0.0, learning_rate=1e-4)
    data = build.data(params)
    image_text = load_image_text(
        build.bundle,
        data.prompts,
        params=params,
        prompt_template=TEMPLATE,
        dataset_dir=build.dataset_dir,
        cache_dir=build.tmp,
    )
    trainer = build.trainer(params, data=data, image_text=image_text)
    losses = [trainer.train_step(0)["image_text_loss"] for _ in range(6)]
    assert losses[-1] < losses[0]
    assert {"image_text_accuracy", "image_text_chance"} <= trainer.metrics().keys()


def test_optional_losses_are_not_in_the_curves_by_default(build: Build) -> None:
    scalars = build.trainer(add_params()).train_step(0)
    assert {"perceptual_loss", "image_text_loss"}.isdisjoint(scalars)


def test_the_student_overfits_one_batch(build: Build) -> None:
    params = add_params(adv_weight=0.0, rollout_fraction=0.0, renoised_weight=0.0, learning_rate=4e-3)
    trainer = build.trainer(params)
    losses = [trainer.train_step(0)["pair_loss"] for _ in range(14)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_discriminator_separates_one_batch(build: Build) -> None:
    trainer = build.trainer(
        add_params(
            learning_rate=1e-9,
            discriminator_learning_rate=2e-2,
            adv_weight=0.0,
            rollout_fraction=0.0,
            renoised_weight=0.0,
            real_source="dataset",
            discriminator_timesteps=[10],
        )
    )
    rows = [trainer.train_step(0) for _ in range(15)]
    assert rows[-1]["disc_loss"] < 0.5 * rows[0]["disc_loss"]
    assert rows[-1]["real_logit"] > rows[-1]["fake_logit"] + 1


def test_against_a_fixed_discriminator_the_student_lowers_the_adversarial_loss(build: Build) -> None:
    params = add_params(
        distill_weight=0.0,
        renoised_weight=0.0,
        rollout_fraction=0.0,
        adv_weight=1.0,
        learning_rate=2e-3,
        discriminator_learning_rate=1e-9,
    )
    trainer = build.trainer(params)
    losses = [trainer.train_step(0)["adv_loss"] for _ in range(9)]
    assert losses[-1] < losses[0]


def test_the_adversarial_gradient_is_adv_weight_times_as_large_as_the_distillations(build: Build) -> None:
    frozen = {"distill_weight": 0.0, "learning_rate": 1e-12, "discriminator_learning_rate": 1e-12}
    trainer = build.trainer(add_params(**frozen, adv_weight=3.0))
    batch = draw_batch(trainer.data, trainer.params, step=0)
    inputs = trainer.objective.student_inputs(batch)
    x0 = trainer.objective.predict_x0(inputs, batch).detach().requires_grad_()
    pair_loss = trainer.objective.pair_loss(x0, trainer.objective.pair_target(inputs, batch), batch)
    distill_loss = pair_loss + trainer.params.renoised_weight * trainer.objective.renoised_loss(x0, batch)
    (by_teacher,) = torch.autograd.grad(distill_loss, x0)
    features = trainer.discriminators.features(x0, batch.prompt_embeds, batch)
    (by_discriminators,) = torch.autograd.grad(trainer.discriminators.adversarial_loss(features, batch.pooled), x0)
    trainer.train_step(0)  # measures both
    scale = trainer.train_step(0)["adv_scale"]
    assert scale is not None
    assert scale * by_discriminators.norm().item() == pytest.approx(3.0 * by_teacher.norm().item(), rel=0.02)


def test_the_adversarial_weight_is_0_until_its_start_and_then_rises_linearly() -> None:
    params = add_params(num_steps=20, adv_weight=0.4, adv_start_steps=10, adv_ramp_steps=4)
    weights_at = [adv_weight_at(step, params) for step in (0, 9, 10, 11, 13, 100)]
    assert weights_at == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])
    assert adv_weight_at(10, params.model_copy(update={"adv_ramp_steps": 0})) == 0.4


def test_before_the_adversarial_loss_starts_only_the_discriminator_learns_from_it(build: Build) -> None:
    params = add_params(adv_start_steps=5)
    trainer, other = build.trainer(params), build.trainer(params.model_copy(update={"adv_weight": 3.0}))
    heads = weights(trainer.discriminators.heads)
    for step in range(2):  # the second would be the first with a scale above 0
        assert trainer.train_step(step).keys() == other.train_step(step).keys()
    assert same(weights(trainer.student), weights(other.student))
    assert not same(weights(trainer.discriminators.heads), heads)


def test_the_step_does_not_use_the_global_random_generator(build: Build) -> None:
    trainer, other = build.trainer(add_params()), build.trainer(add_params())
    torch.manual_seed(1)
    first = trainer.train_step(0)
    torch.manual_seed(2)
    assert other.train_step(0) == first
    assert torch.initial_seed() == 2


def test_updates_with_gradients_that_are_not_finite_are_skipped_and_counted(build: Build) -> None:
    params = add_params(renoised_weight=0.0)
    data = build.data(params)
    nan = {name: torch.full_like(getattr(data.train, name), torch.nan) for name in ("states", "x0")}
    trainer = build.trainer(params, data=replace(data, train=replace(data.train, **nan)))
    student, heads, average = weights(trainer.student), weights(trainer.discriminators.heads), trainer.ema.average()
    scalars = trainer.train_step(0)
    assert same(weights(trainer.student), student)
    assert same(weights(trainer.discriminators.heads), heads)
    assert same(trainer.ema.average(), average)
    assert scalars["skipped_steps"] == 2
    assert scalars["student_grad_norm"] is scalars["discriminator_grad_norm"] is None
    trainer.learner.guard.load_state_dict({"in_a_row": MAX_SKIPPED_IN_A_ROW - 1, "num_skipped": 1})
    with pytest.raises(StageError, match=r"lower add\.optimizer\.learning_rate or add\.adv_weight"):
        trainer.train_step(1)


@pytest.mark.parametrize("values", [{}, ALL_LOSSES])
def test_no_step_encodes_a_prompt_or_a_picture(build: Build, values: dict[str, Any]) -> None:
    trainer = build.trainer(add_params(**values))
    calls: list[nn.Module] = []
    for module in (build.bundle.text_encoder, build.bundle.vae.encoder):
        module.register_forward_pre_hook(lambda called, _args: calls.append(called))
    for step in range(4):
        trainer.train_step(step)
    assert not calls


@pytest.mark.parametrize("name", ["saturated_discriminator", "logit_gap"])
def test_a_discriminator_that_wins_causes_an_alarm(build: Build, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = add_params(
        num_steps=6,  # so the window is 2 steps
        adv_weight=0.0,
        learning_rate=1e-9,
        discriminator_learning_rate=3e-2,
        r1_weight=0.0,
        rollout_fraction=0.0,
        renoised_weight=0.0,  # like rollouts, it only costs time here
        real_source="dataset",
        discriminator_timesteps=[10],
    )
    trainer = build.trainer(params)
    for step in range(100):
        trainer.train_step(step)
        if trainer.alarms.counts[name]:
            break
    assert trainer.metrics()[f"alarms_{name}"] == 1
    assert f"alarm {name}: " in capsys.readouterr().err


def test_a_killed_run_resumes_bit_for_bit(build: Build, tmp_path: Path) -> None:
    params = add_params(warmup_steps=3, adv_start_steps=1, adv_ramp_steps=2, real_source="both", **ALL_LOSSES)
    whole, resumed = (build.trainer(params) for _ in range(2))
    train(whole, tmp_path / "whole", kill_at=3, killed=tmp_path / "killed")
    assert train(resumed, tmp_path / "killed") == [2, 3]
    assert same_training(whole, resumed)
    for name in ("curves.tsv", "curves_validation.tsv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()
    assert whole.metrics() == resumed.metrics()
