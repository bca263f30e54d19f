"""The discriminators: what they see, whom their losses reach, and what counts as a fake."""

import pytest
import torch
from torch import Tensor

from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.training.add.critics import averaged
from naruto_add.training.add.inputs import draw_batch
from naruto_add.training.add.pixels import decoded_squares
from tests.closed_forms import noise_pred_from_x0
from tests.training.add.build import Build, add_params, no_gradient, same, weights, x0_of


def test_fault_2_the_adversarial_loss_reaches_the_student_and_nothing_else(build: Build) -> None:
    run = build.run(add_params())
    batch = draw_batch(run.data, run.params, step=0)
    features = run.critics.features(x0_of(run, batch), batch.prompt_embeds, batch)
    run.critics.adversarial_loss(features, batch.pooled).backward()
    assert all(item.grad is not None and item.grad.any() for item in run.student.conv_out.parameters())
    assert sum(item.grad is not None and bool(item.grad.any()) for item in run.student.parameters()) > 100
    assert no_gradient(build.bundle.unet)
    assert no_gradient(run.critics.heads)


def test_fault_2_every_fake_gets_its_own_gradient(build: Build) -> None:
    run = build.run(add_params())
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    run.critics.adversarial_loss(run.critics.features(x0, batch.prompt_embeds, batch), batch.pooled).backward()
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()


def test_real_and_fake_are_judged_at_the_same_timesteps_with_the_same_noise(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build.run(add_params(real_source="dataset"))
    seen: list[tuple[Tensor, Tensor]] = []
    fakes: list[Tensor] = []
    features, predict_x0 = run.critics.unet_features, run.distiller.predict_x0

    def note_features(noisy: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> list[Tensor]:
        seen.append((noisy.detach(), timesteps))
        return features(noisy, timesteps, prompt_embeds)

    def note_fakes(*inputs: Tensor) -> Tensor:
        fakes.append(predict_x0(*inputs))
        return fakes[-1]

    monkeypatch.setattr(run.critics, "unet_features", note_features)
    monkeypatch.setattr(run.distiller, "predict_x0", note_fakes)
    run.train_step(0)
    real = draw_batch(run.data, run.params, step=0).real_latents
    (noisy_fake, fake_timesteps), (noisy_real, real_timesteps) = seen
    assert torch.equal(fake_timesteps, real_timesteps)
    bar = alphas_cumprod(build.bundle.scheduler)
    fake_noise = noise_pred_from_x0(noisy_fake, fakes[0].detach(), fake_timesteps, alphas_cumprod=bar)
    real_noise = noise_pred_from_x0(noisy_real, real, real_timesteps, alphas_cumprod=bar)
    torch.testing.assert_close(fake_noise, real_noise, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(noisy_fake, noisy_real)


def test_the_discriminators_losses_reach_its_heads_only(build: Build) -> None:
    run = build.run(add_params(r1_weight=1.0))
    batch = draw_batch(run.data, run.params, step=0)
    features = run.critics.features(x0_of(run, batch), batch.prompt_embeds, batch)
    verdict = run.critics.discriminator_losses(features, batch)
    (verdict.hinge + verdict.penalty).backward()
    assert verdict.penalty.item() > 0
    for name, item in run.critics.heads.named_parameters():
        assert item.grad is not None, name
        assert item.grad.any() or item.ndim == 1, name  # biases of almost linear heads: real and fake cancel
    assert no_gradient(run.student)
    assert no_gradient(build.bundle.unet)


@pytest.mark.parametrize("discriminator", ["latent", "pixel"])
def test_fault_5_only_small_heads_are_trained_and_the_backbone_stays_in_eval_mode(
    build: Build, discriminator: str
) -> None:
    run = build.run(add_params(discriminators=[discriminator], pixel_crop_px=32))
    run.train_step(0)
    trained = {id(item) for group in run.judge.optimizer.param_groups for item in group["params"]}
    assert trained == {id(item) for item in run.critics.heads.parameters()}
    assert trained.isdisjoint(id(item) for item in build.bundle.unet.parameters())
    assert not build.bundle.unet.training
    assert not any(isinstance(item, torch.nn.BatchNorm2d) for item in run.critics.heads.modules())


def test_misaligned_captions_are_shown_to_teacher_and_heads_alike_and_count_as_fakes(build: Build) -> None:
    """What a picture is called changes features and projection: nothing in them still names its own caption."""
    run = build.run(add_params(misaligned_weight=0.5, r1_weight=0.0))
    plain = build.run(add_params(r1_weight=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    real = run.critics.features(batch.real_latents, batch.real_prompt_embeds, batch)
    assert batch.is_misaligned.all()
    renamed = run.critics.features(batch.real_latents, batch.misaligned_prompt_embeds, batch)
    logits = run.critics.judge(renamed, batch.misaligned_pooled)["latent"]
    expected = torch.stack([(1 + item).relu().mean() for item in logits]).mean()
    torch.testing.assert_close(run.critics.misaligned_loss(real, batch), expected)
    hinges = [item.critics.discriminator_losses(real, batch).hinge for item in (run, plain)]
    torch.testing.assert_close(hinges[0], hinges[1] + 0.5 * expected)


@pytest.mark.parametrize("discriminators", [["pixel"], ["latent", "pixel"]])
def test_pixel_discriminators_reach_the_student_and_train_their_heads_alone(
    build: Build, discriminators: list[str]
) -> None:
    run = build.run(add_params(discriminators=discriminators, misaligned_weight=1.0, pixel_crop_px=32))
    batch = draw_batch(run.data, run.params, step=0)
    features = run.critics.features(x0_of(run, batch), batch.prompt_embeds, batch)
    assert list(features) == discriminators
    loss = run.critics.adversarial_loss(features, batch.pooled)
    logits = run.critics.judge(features, batch.pooled)
    means = [torch.stack([-item.mean() for item in items]).mean() for items in logits.values()]
    torch.testing.assert_close(loss, torch.stack(means).mean())
    loss.backward()
    assert all(item.grad is not None and item.grad.any() for item in run.student.conv_out.parameters())
    assert no_gradient(build.bundle.unet) and no_gradient(build.bundle.vae) and no_gradient(run.critics.heads)
    heads, backbone = weights(run.critics.heads), weights(run.critics.backbone.network)
    run.train_step(0)
    assert same(weights(run.critics.backbone.network), backbone)
    assert all(not torch.equal(item, heads[name]) for name, item in weights(run.critics.heads).items() if item.ndim > 2)


def test_every_scale_of_the_teachers_maps_has_heads_of_its_own(build: Build) -> None:
    """The averaged maps are judged too; at a scale of 1 nothing changes."""
    plain, run = build.run(add_params()), build.run(add_params(discriminator_scales=[1, 2], misaligned_weight=0.5))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    features = run.critics.features(x0, batch.prompt_embeds, batch)
    assert list(features) == list(run.critics.heads) == ["latent", "latent_2"]
    assert same(features["latent"], plain.critics.features(x0, batch.prompt_embeds, batch)["latent"])
    for item, smaller in zip(features["latent"], features["latent_2"], strict=True):
        torch.testing.assert_close(smaller.mean(dim=(2, 3)), item.mean(dim=(2, 3)))
    run.critics.adversarial_loss({"latent_2": features["latent_2"]}, batch.pooled).backward()
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()
    heads = weights(run.critics.heads)
    run.train_step(0)
    assert all(not torch.equal(item, heads[name]) for name, item in weights(run.critics.heads).items() if item.ndim > 2)


def test_every_scale_of_decoded_squares_is_seen_by_the_backbone(build: Build) -> None:
    values = {"discriminators": ["pixel"], "pixel_crop_px": 64, "discriminator_scales": [1, 2]}
    run = build.run(add_params(**values))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features = run.critics.features(x0, batch.prompt_embeds, batch)
    squares = decoded_squares(build.bundle.vae, x0, batch.crop_corner, side_px=64)
    expected = run.critics.backbone(torch.nn.functional.avg_pool2d(squares, 2))
    for item, other in zip(features["pixel_2"], expected, strict=True):
        torch.testing.assert_close(item, other)
    run.critics.adversarial_loss({"pixel_2": features["pixel_2"]}, batch.pooled).backward()
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()


def test_averages_are_those_of_squares_and_never_of_nothing() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert averaged(maps, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert averaged(maps, 8)[0, 0].tolist() == [[7.5]]
    assert averaged(maps, 1) is maps
