"""Adversarial diffusion distillation on a random tiny pipeline.

The predecessor's faults that this part could repeat are numbered as in the algorithm notes: `fault_1` ... `fault_9`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from naruto_add.compute import DTYPES
from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion import bundle as bundle_module
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, load_pipeline_folder, load_unet
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import (
    Sampler,
    fast_sampler,
    guided_noise_pred,
    make_student_scheduler,
    sample_latents,
)
from naruto_add.params import Add, Params, StudentScheduler, load_params
from naruto_add.runtime import StageError
from naruto_add.training import learner
from naruto_add.training import weights as weights_module
from naruto_add.training.add import distillation_run, distiller
from naruto_add.training.add.alarms import ADVERSARIAL_ADVICE
from naruto_add.training.add.critics import averaged
from naruto_add.training.add.distill import distill
from naruto_add.training.add.distillation_run import training_precision
from naruto_add.training.add.image_text import ImageText, load_image_text
from naruto_add.training.add.inputs import AddData, Batch, draw_batch, load_data
from naruto_add.training.add.picture_score import PictureScore
from naruto_add.training.add.pixels import decoded_squares
from naruto_add.training.add.run import AddRun, adv_weight_at, distill_weight_at
from naruto_add.training.loop import run_steps
from naruto_add.training.pool import draw_pool, load_pool, pool_prompts
from tests.closed_forms import noise_pred_from_x0

TEMPLATE = "ninja style, {caption}"
PROFILE: Params = load_params(Path(__file__).parents[3] / "profiles/mini.yaml")
SMALL = {
    "discriminators": ["latent"],
    "judged_fraction": 1.0,
    "renoised_weight": 0.5,
    "num_steps": 4,
    "learning_rate_decay": "none",
    "batch_size": 6,
    "discriminator_width": 8,
    "adv_start_steps": 0,
    "adv_ramp_steps": 0,
    "warmup_steps": 0,
    "validation_every_steps": 2,
}

ALL_ON = {
    "judged_fraction": 0.5,
    "discriminators": ["latent", "pixel"],
    "pixel_crop_px": 32,
    "pair_target": "solve",
    "solve_steps": 2,
    "renoised_space": "pixel",
    "renoised_crop_px": 32,
    "misaligned_weight": 0.5,
    "perceptual_weight": 0.5,
    "perceptual_crop_px": 32,
    "augment": "adaptive",
    "augment_flip": True,
    "timestep_probabilities": [[0.0, 0.0, 0.5, 0.5], [0.4, 0.2, 0.2, 0.2]],
}


def add_params(**values: Any) -> Add:
    return Add.model_validate({**PROFILE.add.model_dump(), **SMALL, **values})


@pytest.fixture(scope="module")
def pool_path(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    draw_pool(
        load_pipeline_folder(tiny_pipeline_dir, precision="fp32"),
        prompts=pool_prompts(tiny_dataset_dir, TEMPLATE),
        size=16,
        num_steps=4,
        timesteps=[999, 749, 499, 249],
        guidance_scale=3.0,
        seed=0,
        path=folder / "pool.safetensors",
        cache_dir=folder,
    )
    return folder / "pool.safetensors"


@pytest.fixture(scope="module")
def student_dir(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that is close to the teacher, but not the teacher."""
    student = load_unet(tiny_pipeline_dir / "unet", precision="fp32")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for item in student.parameters():
            item.mul_(1 + 0.05 * torch.randn(item.shape, generator=generator))
    folder = tmp_path_factory.mktemp("student")
    student.save_pretrained(folder)
    return folder


class Build:
    """Makes runs that start alike."""

    def __init__(
        self, bundle: ModelBundle, *, student_dir: Path, pool_path: Path, dataset_dir: Path, tmp: Path
    ) -> None:
        self.bundle, self.student_dir, self.pool_path, self.dataset_dir = bundle, student_dir, pool_path, dataset_dir
        self.tmp = tmp

    def data(self, params: Add) -> AddData:
        return load_data(
            self.bundle,
            load_pool(self.pool_path),
            params=params,
            prompt_template=TEMPLATE,
            dataset_dir=self.dataset_dir,
            cache_dir=self.tmp / params.real_source,
        )

    def run(
        self,
        params: Add,
        *,
        scheduler: StudentScheduler = "ddim",
        data: AddData | None = None,
        image_text: ImageText | None = None,
    ) -> AddRun:
        student = load_unet(self.student_dir, precision="fp32").requires_grad_(True)
        return AddRun(
            self.bundle,
            student,
            data=data or self.data(params),
            params=params,
            guidance_scale=PROFILE.sampling.guidance_scale,
            student_scheduler=scheduler,
            precision="fp32",
            image_text=image_text,
        )


@pytest.fixture
def build(
    tiny_bundle: ModelBundle, student_dir: Path, pool_path: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> Build:
    return Build(
        tiny_bundle, student_dir=student_dir, pool_path=pool_path, dataset_dir=tiny_dataset_dir, tmp=tmp_path / "cache"
    )


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: item.detach().clone() for name, item in module.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Bit for bit, in nested state dicts."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def no_gradient(module: torch.nn.Module) -> bool:
    return all(item.grad is None for item in module.parameters())


def x0_of(run: AddRun, batch: Batch) -> Tensor:
    return run.distiller.x0_of(run.distiller.student_inputs(batch), batch)


# The student and the teacher


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


def test_fault_3_the_teacher_is_called_with_guidance(build: Build) -> None:
    run = build.run(add_params(renoised_fraction=0.5))
    sizes: list[int] = []
    build.bundle.unet.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    batch = draw_batch(run.data, run.params, step=0)
    part = batch.part(slice(3))
    x0_teacher = run.distiller.teacher_x0(part.x0, part)
    assert sizes == [2 * 3]  # conditional and unconditional in one batch
    bar = alphas_cumprod(build.bundle.scheduler)[part.renoised_timesteps].view(-1, 1, 1, 1)
    noisy = bar.sqrt() * part.x0 + (1 - bar).sqrt() * part.renoised_noise
    unguided, guided = (
        guided_noise_pred(
            build.bundle.unet,
            noisy,
            part.renoised_timesteps,
            prompt_embeds=part.prompt_embeds,
            negative_embeds=run.data.prompt_embeds[:1],
            guidance_scale=scale,
        )
        for scale in (1.0, run.distiller.guidance_scale)
    )
    torch.testing.assert_close(x0_teacher, (noisy - (1 - bar).sqrt() * guided) / bar.sqrt())
    assert not torch.allclose(unguided, guided)


def test_fault_3_the_target_is_the_teachers_sample_from_the_same_noise(build: Build) -> None:
    run = build.run(add_params(renoised_weight=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    pool = load_pool(build.pool_path)
    for noise, x0 in zip(batch.noise, batch.x0, strict=True):
        (index,) = torch.where((pool.noise == noise).flatten(1).all(dim=1))
        torch.testing.assert_close(pool.x0[index[0]], x0)
    batch = replace(batch, step_index=torch.full_like(batch.step_index, 3))  # where the next state is the sample
    target = run.distiller.pair_target(run.distiller.student_inputs(batch), batch)
    torch.testing.assert_close(target, batch.x0, rtol=1e-3, atol=1e-3)
    assert run.distiller.distillation_losses(batch.x0, batch, pair_target=batch.x0)[0].item() == 0
    pair_loss, _ = run.distiller.distillation_losses(batch.x0 + 0.5, batch, pair_target=batch.x0)
    assert pair_loss.item() == pytest.approx(0.125)


def test_the_pair_loss_is_a_distance_of_the_states_that_the_students_and_the_teachers_steps_lead_to(
    build: Build,
) -> None:
    """From the teacher's states and from the student's own alike, by the student's own scheduler."""
    run = build.run(add_params(rollout_fraction=0.5, renoised_weight=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.tensor([0, 0, 1, 2, 3, 3]))
    noisy = run.distiller.student_inputs(batch)
    x0 = run.distiller.x0_of(noisy, batch).detach()
    loss, _ = run.distiller.distillation_losses(x0, batch, pair_target=run.distiller.pair_target(noisy, batch))
    scheduler, bar = run.sampler.scheduler, alphas_cumprod(build.bundle.scheduler)
    scheduler.set_timesteps(4)
    way = torch.cat([batch.states, batch.x0[:, None]], dim=1)
    distances = []
    for item, place in enumerate(batch.step_index.tolist()):
        timestep = scheduler.timesteps[place]
        noise = noise_pred_from_x0(noisy[[item]], x0[[item]], timestep[None], alphas_cumprod=bar)
        arrived = scheduler.step(noise, timestep, noisy[[item]]).prev_sample
        distances.append(torch.nn.functional.smooth_l1_loss(arrived, way[[item], place]))
    assert loss.item() == pytest.approx(torch.stack(distances).mean().item(), rel=1e-3)


def test_the_renoised_loss_weighs_by_alpha_and_moves_only_the_student(build: Build) -> None:
    run = build.run(add_params(renoised_fraction=1.0))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    loss = run.distiller.distillation_losses(x0, batch, pair_target=batch.x0)[1]
    loss.backward()
    alpha = alphas_cumprod(build.bundle.scheduler)[batch.renoised_timesteps].sqrt()
    distance = torch.nn.functional.smooth_l1_loss(batch.x0, run.distiller.teacher_x0(batch.x0, batch), reduction="none")
    torch.testing.assert_close(loss.detach(), (alpha * distance.flatten(1).mean(dim=1)).mean())
    assert x0.grad is not None and x0.grad.any()
    assert no_gradient(build.bundle.unet)


def test_the_renoised_loss_can_be_one_of_pixels(build: Build) -> None:
    """The paper's: decoded squares of both, weighted alike, with a gradient through the student's side alone."""
    run = build.run(add_params(renoised_fraction=1.0, renoised_space="pixel", renoised_crop_px=32))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    loss = run.distiller.distillation_losses(x0, batch, pair_target=batch.x0)[1]
    loss.backward()
    alpha = alphas_cumprod(build.bundle.scheduler)[batch.renoised_timesteps].sqrt()
    with torch.no_grad():
        seen, target = (
            decoded_squares(build.bundle.vae, item, batch.crop_corner, side_px=32)
            for item in (batch.x0, run.distiller.teacher_x0(batch.x0, batch))
        )
    distance = torch.nn.functional.smooth_l1_loss(seen, target, reduction="none").flatten(1).mean(dim=1)
    torch.testing.assert_close(loss.detach(), (alpha * distance).mean())
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()
    assert no_gradient(build.bundle.unet) and no_gradient(build.bundle.vae)


def test_a_solved_target_is_the_teachers_way_on_from_what_the_student_saw(build: Build) -> None:
    """From pure noise it is the teacher's sample; elsewhere it follows the student's own way."""
    run = build.run(add_params(pair_target="solve", solve_steps=2, rollout_fraction=1.0))
    batch = draw_batch(run.data, run.params, step=0)
    noisy = run.distiller.student_inputs(batch)
    target = run.distiller.pair_target(noisy, batch)
    assert not target.requires_grad and no_gradient(build.bundle.unet)
    others = run.distiller.pair_target(noisy + 0.5, batch)
    assert ((others - target).abs().flatten(1).amax(dim=1) > 0.01).all()
    first = replace(batch, step_index=torch.zeros_like(batch.step_index))
    expected = sample_latents(
        build.bundle.unet,
        noise=batch.noise,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=run.data.prompt_embeds[:1],
        sampler=fast_sampler(build.bundle, 2, PROFILE.sampling.guidance_scale),
    )
    torch.testing.assert_close(run.distiller.pair_target(batch.noise, first), expected, rtol=1e-3, atol=1e-3)
    lcm = build.run(add_params(), scheduler="lcm")
    assert lcm.distiller.pair_target(noisy, batch) is batch.x0


def test_the_solved_target_is_what_the_pair_loss_and_the_student_learn_from(build: Build) -> None:
    values = {"pair_target": "solve", "solve_steps": 2, "adv_weight": 0.0, "renoised_weight": 0.0}
    run = build.run(add_params(**values))
    batch = draw_batch(run.data, run.params, step=0)
    noisy = run.distiller.student_inputs(batch)
    x0, target = run.distiller.x0_of(noisy, batch), run.distiller.pair_target(noisy, batch)
    expected = torch.nn.functional.smooth_l1_loss(x0, target).item()
    assert run.train_step(0)["pair_loss"] == pytest.approx(expected, rel=1e-4)


def test_pair_and_perceptual_loss_compare_with_the_target_that_is_named(build: Build) -> None:
    run = build.run(add_params(perceptual_weight=1.0, perceptual_crop_px=32))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0 + 0.5
    reached, missed = (run.distiller.losses(x0, batch, pair_target=target) for target in (x0, batch.x0))
    assert [reached[name].item() for name in ("pair_loss", "perceptual_loss")] == [0.0, 0.0]
    assert min(missed[name].item() for name in ("pair_loss", "perceptual_loss")) > 0


def test_the_losses_of_pictures_are_of_what_is_judged(build: Build) -> None:
    """Items that are not have x0 at early timesteps, which show nothing."""
    run = build.run(add_params(perceptual_weight=1.0, perceptual_crop_px=32, judged_fraction=0.5))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    run.distiller.losses(x0, batch, pair_target=batch.x0 - 0.5)["perceptual_loss"].backward()
    assert x0.grad is not None
    assert (x0.grad.flatten(1).abs().sum(dim=1) > 0).tolist() == (batch.judged_weight > 0).tolist()


# Noise and timesteps


def test_fault_4_x0_is_the_one_that_alpha_bar_implies(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that predicts the noise of a noised sample has its x0 at every trained timestep but pure noise."""
    run = build.run(add_params(timesteps=[749, 499, 249], rollout_fraction=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    is_first = (batch.step_index == 0).view(-1, 1, 1, 1)
    monkeypatch.setattr(distiller, "noise_pred", lambda *_: batch.noise.where(is_first, batch.fresh_noise[:, 0]))
    torch.testing.assert_close(x0_of(run, batch), batch.x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_fault_4_rollouts_are_what_the_students_own_sampler_does(build: Build, scheduler: StudentScheduler) -> None:
    """All the way through the last trained timestep, the student's x0 is the sampler's picture."""
    run = build.run(add_params(rollout_fraction=1.0), scheduler=scheduler)
    batch = draw_batch(run.data, run.params, step=0)
    generators = [torch.Generator().manual_seed(item) for item in range(len(batch.noise))]
    drawn = torch.stack([torch.randn(3, *build.bundle.latent_shape, generator=each) for each in generators])
    fresh = torch.cat([torch.zeros_like(drawn[:, :1]), drawn], dim=1)
    batch = replace(batch, step_index=torch.full_like(batch.step_index, 3), fresh_noise=fresh)
    expected = sample_latents(
        run.student,
        noise=batch.noise,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=run.data.prompt_embeds[:1],
        sampler=Sampler(make_student_scheduler(build.bundle.scheduler, scheduler, 4), 4, guidance_scale=1.0),
        generators=[torch.Generator().manual_seed(item) for item in range(len(batch.noise))],
    )
    torch.testing.assert_close(x0_of(run, batch).detach(), expected, rtol=1e-4, atol=1e-4)


def test_rollouts_carry_no_gradient(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=1.0))
    assert not run.distiller.student_inputs(draw_batch(run.data, run.params, step=0)).requires_grad


def test_fault_7_inputs_are_noised_with_the_schedulers_alphas(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=0.0), scheduler="lcm")
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.arange(6) % 4)
    noisy = run.distiller.student_inputs(batch)
    timesteps = torch.tensor(run.params.timesteps)[batch.step_index]
    expected = build.bundle.scheduler.add_noise(batch.x0, batch.fresh_noise[:, 0], timesteps)
    is_first = batch.step_index == 0
    torch.testing.assert_close(noisy[~is_first], expected[~is_first])
    assert torch.equal(noisy[is_first], batch.noise[is_first])  # what sampling starts from


def test_inputs_are_states_of_the_teachers_way(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.tensor([0, 1, 2, 3, 0, 1]))
    noisy = run.distiller.student_inputs(batch)
    assert torch.equal(noisy[[0, 4]], batch.noise[[0, 4]])
    assert all(torch.equal(noisy[item], batch.states[item, item - 1]) for item in (1, 2, 3))
    without = replace(batch, states=batch.states[:, :0])  # a pool that nobody drew: noised afresh
    assert torch.equal(run.distiller.pair_target(noisy, without), batch.x0)
    assert not torch.allclose(run.distiller.student_inputs(without)[1], noisy[1])


def test_items_at_the_first_timestep_start_from_the_stored_noise_in_a_rollout_too(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=1.0))
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.zeros_like(batch.step_index))
    assert torch.equal(run.distiller.student_inputs(batch), batch.noise)


def test_half_of_the_inputs_are_rollouts(build: Build) -> None:
    params = add_params(rollout_fraction=0.5)
    assert draw_batch(build.data(params), params, step=0).is_rollout.tolist() == [False, True] * 3


def test_a_fraction_that_is_judged_are_the_students_own_pictures(build: Build) -> None:
    params = add_params(judged_fraction=0.5, rollout_fraction=0.0)
    batch = draw_batch(build.data(params), params, step=0)
    is_judged = batch.judged_weight > 0
    assert is_judged.sum() == 3 and batch.judged_weight.mean() == 1
    assert torch.equal(is_judged, batch.is_rollout)
    assert (batch.step_index[is_judged] == 3).all()


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


def test_parts_with_unequal_shares_of_what_is_judged_add_up_to_the_batch(build: Build) -> None:
    whole, in_parts = (
        build.run(add_params(judged_fraction=0.5, accumulation_steps=number, r1_weight=1.0)) for number in (1, 2)
    )
    weights_of = draw_batch(whole.data, whole.params, step=0).judged_weight
    assert [int((part > 0).sum()) for part in weights_of.split(3)] == [2, 1]
    one, other = whole.train_step(0), in_parts.train_step(0)
    names = ("adv_loss", "disc_loss", "r1_penalty", "pair_loss", "student_grad_norm", "discriminator_grad_norm")
    assert [other[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-3)


def test_a_part_with_nothing_to_judge_is_refused(build: Build) -> None:
    with pytest.raises(StageError, match=r"add\.judged_fraction: 0\.2 leaves a part of 2 items with nothing to judge"):
        build.run(add_params(judged_fraction=0.2, accumulation_steps=3))


# The discriminator's side


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


def test_real_latents_of_the_teacher_are_its_samples_for_the_same_prompts(build: Build) -> None:
    params = add_params(real_source="teacher")
    batch = draw_batch(build.data(params), params, step=0)
    assert torch.equal(batch.real_latents, batch.x0)
    assert torch.equal(batch.real_prompt_embeds, batch.prompt_embeds)
    assert torch.equal(batch.real_pooled, batch.pooled)


def test_real_latents_of_the_dataset_are_its_training_pictures_with_their_captions(build: Build) -> None:
    params = add_params(real_source="dataset", batch_size=32)
    data = build.data(params)
    examples = load_split(build.dataset_dir, "train")
    pictures = encode_pixels(build.bundle, load_pixels(examples))
    batch = draw_batch(data, params, step=0)
    for latents, embeds in zip(batch.real_latents, batch.real_prompt_embeds, strict=True):
        (index,) = torch.where((pictures - latents).abs().flatten(1).amax(dim=1) < 1e-4)
        prompts = [TEMPLATE.format(caption=examples[int(item)].caption) for item in index]
        expected = build.bundle.text_encoder(
            build.bundle.tokenizer(prompts[:1], padding="max_length", return_tensors="pt").input_ids
        ).last_hidden_state[0]
        torch.testing.assert_close(embeds, expected, rtol=1e-4, atol=1e-5)


def test_both_mixes_the_two(build: Build) -> None:
    params = add_params(real_source="both", batch_size=32)
    batch = draw_batch(build.data(params), params, step=0)
    is_teacher = (batch.real_latents == batch.x0).flatten(1).all(dim=1)
    assert 4 < is_teacher.sum() < 28
    assert torch.equal(batch.real_pooled[is_teacher], batch.pooled[is_teacher])


def test_misaligned_captions_are_never_the_pictures_own(build: Build) -> None:
    params = add_params(batch_size=12)
    data = build.data(params)
    few = replace(data, train=replace(data.train, rows=data.train.rows % 2 + 1))
    batch = draw_batch(few, params, step=0)
    rows = few.train.rows[(batch.x0[:, None] == few.train.x0).flatten(2).all(dim=2).int().argmax(dim=1)]
    assert batch.is_misaligned.all()
    assert (batch.misaligned_prompt_embeds != data.prompt_embeds[rows]).flatten(1).any(dim=1).all()
    one = replace(data, train=replace(data.train, rows=torch.ones_like(data.train.rows)))
    assert not draw_batch(one, params, step=0).is_misaligned.any()


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
    torch.testing.assert_close(loss, torch.stack(means).mean(), rtol=1e-3, atol=1e-3)
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


# The step


def test_timesteps_follow_the_phase_that_the_step_lies_in(build: Build) -> None:
    phases = [[0.0, 0.0, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]]
    params = add_params(timestep_probabilities=phases, num_steps=3, batch_size=64)
    data = build.data(params)
    drawn = [set(draw_batch(data, params, step=step).step_index.tolist()) for step in range(3)]
    assert drawn == [{2, 3}, {2, 3}, {0}]
    uniform = draw_batch(data, add_params(batch_size=64), step=0)
    assert set(uniform.step_index.tolist()) == {0, 1, 2, 3}


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


def test_gradient_checkpointing_changes_no_figure_and_spares_the_hooked_teacher(build: Build) -> None:
    plain, checkpointed = (build.run(add_params(gradient_checkpointing=value)) for value in (False, True))
    assert checkpointed.student.is_gradient_checkpointing
    assert not build.bundle.unet.is_gradient_checkpointing
    for step in range(2):
        assert checkpointed.train_step(step) == pytest.approx(plain.train_step(step), rel=1e-5)


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


def test_fault_6_training_is_never_in_fp16_and_latents_are_the_autoencoders(build: Build) -> None:
    assert [training_precision(item) for item in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "bf16"]
    run = build.run(add_params())
    batch = draw_batch(run.data, run.params, step=0)
    assert batch.x0.shape[1:] == build.bundle.latent_shape
    assert {item.dtype for item in run.student.parameters()} == {torch.float32}
    assert x0_of(run, batch).dtype == torch.float32


def test_the_gate_examines_by_a_sampler_that_keeps_to_its_noise(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that re-noises ends elsewhere than the teacher did from the same noise, however good its student."""
    seen: list[Tensor] = []
    monkeypatch.setattr(distillation_run, "check_can_sample", lambda samples, *_, **__: seen.append(samples))
    run = build.run(add_params(), scheduler="lcm")
    run.refuse_hopeless()
    assert torch.equal(seen[0], build.run(add_params()).sample_held_out())
    assert not torch.equal(seen[0], run.sample_held_out())


def test_phases_and_roll_outs_share_out_what_is_no_judged_picture(build: Build) -> None:
    values = {"judged_fraction": 0.5, "rollout_fraction": 0.25, "timestep_probabilities": [[1.0, 0.0, 0.0, 0.0]]}
    params = add_params(batch_size=32, **values)
    batch = draw_batch(build.data(params), params, step=0)
    is_picture = batch.judged_weight > 0
    assert is_picture.sum() == 16
    assert set(batch.step_index[is_picture].tolist()) == {3} and batch.is_rollout[is_picture].all()
    assert set(batch.step_index[~is_picture].tolist()) == {0} and batch.is_rollout[~is_picture].sum() == 4


@pytest.mark.parametrize("values", [{}, ALL_ON])
def test_no_step_encodes_a_prompt_or_a_picture(
    build: Build, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build.run(add_params(**values))
    for module in (build.bundle.text_encoder, build.bundle.vae.encoder):
        monkeypatch.setattr(module, "forward", None)
    for step in range(4):
        run.train_step(step)


# Alarms, each by what it is there for


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


def test_a_student_that_tints_everything_rings(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    run = build.run(add_params())
    run.validate(0)
    assert run.alarms.counts["colour_drift"] == 0
    state = run.ema.state_dict()
    state["average"]["conv_out.bias"] += 2.0
    run.ema.load_state_dict(state)
    run.validate(2)
    assert run.metrics()["alarms_colour_drift"] == 1
    assert "alarm colour_drift: " in capsys.readouterr().err


def test_a_student_that_draws_one_picture_whatever_the_noise_rings(
    build: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build.run(add_params())
    run.validate(0)
    bar = alphas_cumprod(build.bundle.scheduler)

    def all_is_noise(noisy: Tensor, timesteps: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (noisy / (1 - bar[timesteps]).sqrt().view(-1, 1, 1, 1),)

    monkeypatch.setattr(run.student, "forward", all_is_noise)
    run.validate(2)
    assert run.metrics()["alarms_falling_diversity"] == 1
    assert "alarm falling_diversity: " in capsys.readouterr().err


# Validation, the choice of the result, resuming


def test_fault_9_the_score_is_on_samples_never_trained_on_at_the_students_own_step_count(build: Build) -> None:
    params = add_params()
    run = build.run(params)
    held_out = run.data.held_out
    assert len(held_out) == 4
    for step in range(20):
        for noise in draw_batch(run.data, params, step=step).noise:
            assert not (held_out.noise == noise).flatten(1).all(dim=1).any()
    calls: list[int] = []
    run.student.register_forward_pre_hook(lambda *_: calls.append(1))
    run.validate(0)
    assert len(calls) == 2 * len(params.timesteps)  # the held-out pairs, and a few prompts with several noises each


def test_validation_draws_as_evaluation_does(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision: with weights rounded, as a student loaded from its folder has them."""
    monkeypatch.setattr(weights_module, "frozen_dtype", DTYPES.__getitem__)
    monkeypatch.setattr(bundle_module, "frozen_dtype", DTYPES.__getitem__)
    run = build.run(add_params())
    run.precision = "bf16"
    run.train_step(0)  # the average is drawn, and it has moved
    with run.ema.applied():
        run.student.save_pretrained(tmp_path)
        drawn = run.sample_held_out()
    held_out = run.data.held_out
    expected = sample_latents(
        load_unet(tmp_path, precision="bf16"),
        noise=held_out.noise,
        prompt_embeds=run.data.prompt_embeds[held_out.rows],
        negative_embeds=run.data.prompt_embeds[:1],
        sampler=run.sampler,
    )
    assert torch.equal(drawn, expected)
    assert {item.dtype for item in run.student.parameters()} == {torch.float32}


def test_a_perfect_student_scores_zero(build: Build) -> None:
    run = build.run(add_params())
    held_out = replace(run.data.held_out, x0=run.sample_held_out())
    run.data = replace(run.data, held_out=held_out)
    run.picture_score = PictureScore(run.bundle, held_out.x0, params=run.params)
    scalars = run.validate(0)
    assert [scalars[name] for name in ("latent_distance", "sample_mse", "colour_drift")] == [0.0, 0.0, 0.0]
    assert scalars["score"] == pytest.approx(0, abs=1e-9)


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


def test_patience_ends_training_early_and_for_good(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureScore, "__call__", lambda *_: 0.5)
    params = add_params(num_steps=6, validation_every_steps=1, patience=2, adv_weight=0.0, renoised_weight=0.0)
    run, again = build.run(params), build.run(params)
    steps: list[int] = []

    def finish(run: AddRun) -> None:
        def train_step(step: int) -> dict[str, float]:
            steps.append(step)
            return run.train_step(step)

        run_steps(
            train_step,
            name="add",
            num_steps=params.num_steps,
            state=run.state(),
            validate=run.validate,
            validation_every_steps=1,
            checkpoint_dir=tmp_path,
            curves_path=tmp_path / "curves.tsv",
            is_finished=run.patience.is_over,
        )

    finish(run)
    finish(again)  # a finished run has nothing left to do
    assert steps == [0, 1]


def distill_into(build: Build, folder: Path, teacher_dir: Path, params: Add) -> Path:
    distill(
        build.dataset_dir,
        teacher_dir,
        student_dir=build.student_dir,
        pool_path=build.pool_path,
        pool_steps=4,
        params=params,
        precision=PROFILE.base.precision,
        guidance_scale=PROFILE.sampling.guidance_scale,
        student_scheduler="ddim",
        prompt_template=TEMPLATE,
        out_dir=folder / "distilled",
        checkpoint_dir=folder / "checkpoints",
        pool_cache_dir=folder / "drawn",
        curves_path=folder / "curves.tsv",
        metrics_path=folder / "add.json",
    )
    return folder / "distilled"


def files(folder: Path) -> dict[str, bytes]:
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


def test_distill_writes_a_unet_curves_and_figures_and_changes_nothing_else(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    before = files(tiny_pipeline_dir), files(build.student_dir)
    first, second = (distill_into(build, tmp_path / name, tiny_pipeline_dir, add_params(num_steps=2)) for name in "ab")
    assert (files(tiny_pipeline_dir), files(build.student_dir)) == before
    assert files(first) == files(second)
    assert UNet2DConditionModel.from_pretrained(first).config.block_out_channels == [16, 32, 32]
    header = (tmp_path / "a/curves.tsv").read_text().splitlines()[0].split("\t")
    wanted = {"distill_loss", "adv_loss", "disc_loss", "real_logit", "fake_logit", "student_grad_norm"}
    assert header[0] == "step" and wanted <= set(header)
    metrics = json.loads((tmp_path / "a/add.json").read_text())
    assert metrics["best_score"] <= metrics["start_score"]
    assert metrics["skipped_steps"] == 0
    assert {name for name in metrics if name.startswith("alarms_")} == {f"alarms_{name}" for name in ADVERSARIAL_ADVICE}


def test_the_best_validated_average_is_written_not_the_last_iterate(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.6])
    monkeypatch.setattr(PictureScore, "__call__", lambda *_: next(scores))
    out_dir = distill_into(build, tmp_path, tiny_pipeline_dir, add_params(num_steps=2))
    written = load_unet(out_dir, precision="fp32")
    assert same(weights(written), weights(load_unet(build.student_dir, precision="fp32")))
    assert json.loads((tmp_path / "add.json").read_text())["best_step"] == 0


def test_a_student_that_cannot_sample_is_refused_unless_the_gate_is_open(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StageError("the student cannot sample")

    monkeypatch.setattr(distillation_run, "check_can_sample", refuse)
    with pytest.raises(StageError, match="cannot sample"):
        distill_into(build, tmp_path / "closed", tiny_pipeline_dir, add_params(num_steps=1))
    assert distill_into(build, tmp_path / "open", tiny_pipeline_dir, add_params(num_steps=1, gate=False)).exists()


def test_distill_says_how_far_the_image_text_network_can_be_trusted(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    values = {"image_text_weight": 0.5, "image_text_crop_px": 32, "caption_match_steps": 2}
    distill_into(build, tmp_path, tiny_pipeline_dir, add_params(num_steps=2, **values))
    assert len(list((tmp_path / "checkpoints").glob("caption_match-*.safetensors"))) == 1
    assert "image_text_loss" in (tmp_path / "curves.tsv").read_text().splitlines()[0].split("\t")
    metrics = json.loads((tmp_path / "add.json").read_text())
    assert metrics["image_text_chance"] == pytest.approx(0.25)
    assert "image_text_accuracy" in metrics
