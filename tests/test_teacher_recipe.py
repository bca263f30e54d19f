"""The benchmark of the teacher against diffusers' LoRA recipe compares two trainings of the same weights and loss."""

import pytest
import torch

from benchmarks.teacher_recipe import Recipe, make_bundle, make_trainer, operations, profile, whole_run
from naruto_add.diffusion.noise import alphas_cumprod, snr


def test_both_loops_train_the_same_adapters_with_the_same_weights_of_timesteps() -> None:
    params = profile(64, 2)
    recipe, trainer = (make(make_bundle(64, 16), params) for make in (Recipe, make_trainer))
    assert sum(weight.numel() for weight in recipe.trainable) == trainer.learner.num_weights
    before = [weight.detach().clone() for weight in recipe.trainable]
    assert recipe.step() > 0
    assert not all(torch.equal(*pair) for pair in zip(before, recipe.trainable, strict=True))
    timesteps = torch.tensor([10, 500, 999])
    ours = snr(timesteps, alphas_cumprod=alphas_cumprod(trainer._bundle.scheduler))
    alpha_bar = recipe.scheduler.alphas_cumprod[timesteps]
    torch.testing.assert_close(ours, alpha_bar / (1 - alpha_bar))
    assert trainer.train_step(1)["loss"] > 0


def test_caches_are_counted_once_and_the_recipes_encoding_in_every_step() -> None:
    params = profile(64, 2)
    costs = {"recipe": 3.0, "teacher": 1.0, "autoencoder": 1.9, "text encoder": 0.1}
    assert whole_run(params, costs) < 3
    longer = params.model_copy(update={"teacher": params.teacher.model_copy(update={"num_steps": 10**7})})
    assert whole_run(longer, costs) == pytest.approx(3, rel=1e-3)


@pytest.mark.slow
def test_operations_of_the_recipe_are_those_of_the_teacher_and_of_both_encoders() -> None:
    flops = operations(profile(512, 8))
    assert flops["recipe"] == pytest.approx(flops["teacher"] + flops["autoencoder"] + flops["text encoder"])
    assert flops["text encoder"] == pytest.approx(0.013e12, rel=0.1)
    assert flops["teacher"] > flops["autoencoder"] > flops["text encoder"]
