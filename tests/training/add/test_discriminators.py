"""The discriminators: their inputs, and what the gradients of their losses reach."""

import pytest
import torch
from torch import Tensor

from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.training.add.batch import draw_batch
from naruto_add.training.add.discriminators import discriminator_optimizer
from tests.closed_forms import noise_pred_from_x0
from tests.training.add.build import Build, add_params, has_no_gradient, same, weights, x0_of


@pytest.mark.parametrize("names", [["latent"], ["pixel"], ["latent", "pixel"]])
def test_the_adversarial_loss_is_the_mean_over_discriminators_and_reaches_only_the_student(
    build: Build, names: list[str]
) -> None:
    trainer = build.trainer(add_params(discriminators=names))
    discriminators, batch = trainer.discriminators, draw_batch(trainer.data, trainer.params, step=0)
    features = discriminators.features(x0_of(trainer, batch), batch.prompt_embeds, batch)
    assert list(features) == names
    loss = discriminators.adversarial_loss(features, batch.pooled)
    logits = discriminators.logits(features, batch.pooled)
    means = [torch.stack([-item.mean() for item in items]).mean() for items in logits.values()]
    torch.testing.assert_close(loss, torch.stack(means).mean())
    loss.backward()
    assert all(item.grad is not None and item.grad.any() for item in trainer.student.conv_out.parameters())
    assert sum(item.grad is not None and bool(item.grad.any()) for item in trainer.student.parameters()) > 100
    assert has_no_gradient(build.bundle.unet) and has_no_gradient(build.bundle.vae)
    assert has_no_gradient(discriminators.heads)


def test_every_generated_item_has_its_own_gradient(build: Build) -> None:
    trainer = build.trainer(add_params())
    batch = draw_batch(trainer.data, trainer.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    features = trainer.discriminators.features(x0, batch.prompt_embeds, batch)
    trainer.discriminators.adversarial_loss(features, batch.pooled).backward()
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()


def test_real_and_generated_latents_are_noised_at_the_same_timesteps_with_the_same_noise(build: Build) -> None:
    trainer = build.trainer(add_params(real_source="dataset", renoised_weight=0.0, rollout_fraction=0.0))
    batch = draw_batch(trainer.data, trainer.params, step=0)
    fakes = x0_of(trainer, batch).detach()
    calls: list[tuple[Tensor, Tensor]] = []
    build.bundle.unet.register_forward_pre_hook(lambda _module, args: calls.append((args[0].detach(), args[1])))
    trainer.train_step(0)
    (noisy_fakes, fake_timesteps), (noisy_reals, real_timesteps) = calls
    assert torch.equal(fake_timesteps, real_timesteps)
    bar = alphas_cumprod(build.bundle.scheduler)
    fake_noise = noise_pred_from_x0(noisy_fakes, fakes, fake_timesteps, alphas_cumprod=bar)
    real_noise = noise_pred_from_x0(noisy_reals, batch.real_latents, real_timesteps, alphas_cumprod=bar)
    torch.testing.assert_close(fake_noise, real_noise, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(noisy_fakes, noisy_reals)


def test_the_discriminators_losses_reach_only_their_heads(build: Build) -> None:
    trainer = build.trainer(add_params(discriminators=["latent", "pixel"], r1_weight=1.0))
    batch = draw_batch(trainer.data, trainer.params, step=0)
    features = trainer.discriminators.features(x0_of(trainer, batch), batch.prompt_embeds, batch)
    losses = trainer.discriminators.losses(features, batch)
    (losses.disc_loss + losses.r1_penalty).backward()
    assert losses.r1_penalty.item() > 0
    for name, item in trainer.discriminators.heads.named_parameters():
        assert item.grad is not None, name
        assert item.grad.any() or item.ndim == 1, name  # in almost linear heads, the biases' gradients cancel
    assert has_no_gradient(trainer.student)
    assert has_no_gradient(build.bundle.unet)


@pytest.mark.parametrize("name", ["latent", "pixel"])
def test_a_step_trains_all_heads_and_no_feature_network(build: Build, name: str) -> None:
    trainer = build.trainer(add_params(discriminators=[name]))
    discriminators = trainer.discriminators
    network = build.bundle.unet if name == "latent" else discriminators.backbone.network
    before, heads = weights(network), weights(discriminators.heads)
    trainer.train_step(0)
    assert same(weights(network), before)
    assert not network.training
    trained = {id(item) for group in trainer.discriminator_learner.optimizer.param_groups for item in group["params"]}
    assert trained == {id(item) for item in discriminators.heads.parameters()}
    assert all(
        not torch.equal(item, heads[key]) for key, item in weights(discriminators.heads).items() if item.ndim > 2
    )
    assert not any(isinstance(item, torch.nn.BatchNorm2d) for item in discriminators.heads.modules())


def test_real_and_generated_crops_are_shifted_alike(build: Build) -> None:
    never, always = (build.trainer(add_params(discriminators=["pixel"], augment_strength=each)) for each in (0.0, 1.0))
    batch = draw_batch(never.data, never.params, step=0)
    plain, shifted, again = (
        each.discriminators.features(batch.x0, batch.prompt_embeds, batch)["pixel"] for each in (never, always, always)
    )
    assert not torch.allclose(plain[0], shifted[0])
    assert same(shifted, again)


def test_heads_have_the_students_optimizer_but_no_muon() -> None:
    optimizers = [add_params(name=name, ema_decay=0.5).optimizer for name in ("muon", "adamw", "adamw_8bit")]
    of_heads = [discriminator_optimizer(each) for each in optimizers]
    assert [each.name for each in of_heads] == ["adamw", "adamw", "adamw_8bit"]
    assert {each.ema_decay for each in of_heads} == {0.5}
