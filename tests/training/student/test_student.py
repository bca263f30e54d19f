"""The warm-up: who learns and who does not, what a batch holds, exact resume, and what the stage leaves behind."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts
from naruto_add.diffusion.noise import x0_from_noise_pred
from naruto_add.diffusion.sampling import (
    Sampler,
    fast_sampler,
    guided_noise_pred,
    initial_noise,
    make_student_scheduler,
    sample_latents,
)
from naruto_add.models.student import Architecture, shrink_unet
from naruto_add.params import Student
from naruto_add.training.pool import Pool, load_pool, split_pool
from naruto_add.training.student import run as student_run
from naruto_add.training.student.build import build_student
from naruto_add.training.student.inputs import Lesson, draw_batch
from naruto_add.training.student.run import knowledge_losses

TIMESTEPS = [999, 749, 499, 249]
PARAMS = Student(
    seed=0,
    architecture="bk_small",
    pool_source="teacher",
    pool_size=12,
    pool_steps=2,
    num_steps=4,
    batch_size=4,
    accumulation_steps=1,
    optimizer="adamw",
    learning_rate=2e-3,
    warmup_steps=1,
    learning_rate_decay="none",
    task_weight=1.0,
    output_weight=1.0,
    feature_weight=0.1,
    ema_decay=0.5,
    max_grad_norm=1.0,
    validation_every_steps=2,
)


class KilledError(Exception):
    """Stands for a process that dies in the middle of the warm-up."""


@pytest.fixture
def lesson(tiny_bundle: ModelBundle) -> Lesson:
    """A pool whose x0 nobody drew: structure is all that these tests need."""
    prompts = ["a man with a sword", "a girl at night"]
    noise, x0 = initial_noise(tiny_bundle, 8, seed=1), initial_noise(tiny_bundle, 8, seed=2)
    pool = Pool(noise, 0.5 * x0 + 0.5 * x0.mean(dim=0), torch.arange(8) % 2, prompts, num_held_out=2)
    embeds = encode_prompts(tiny_bundle, prompts)
    return Lesson(
        bundle=tiny_bundle,
        pool=pool,
        has_pairs=True,
        prompt_embeds=embeds,
        negative_embeds=encode_prompts(tiny_bundle, [""]),
        guidance_scale=3.0,
        sampler=Sampler(make_student_scheduler(tiny_bundle.scheduler, "ddim", len(TIMESTEPS)), len(TIMESTEPS), 1.0),
        timesteps=TIMESTEPS,
    )


@pytest.fixture
def build(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(name: str, params: Student = PARAMS) -> Path:
        folder = tmp_path / name
        build_student(
            tiny_pipeline_dir,
            tiny_dataset_dir,
            params=params,
            precision="fp32",
            guidance_scale=3.0,
            student_scheduler="ddim",
            prompt_template="{caption}",
            timesteps=TIMESTEPS,
            out_dir=folder / "student",
            pool_path=folder / "pool.safetensors",
            checkpoint_dir=folder / "checkpoints",
            curves_path=folder / "student.tsv",
            metrics_path=folder / "student.json",
        )
        return folder

    return run


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "student.json").read_text())


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts
    }


def test_every_other_item_is_a_stored_pair_at_a_trained_timestep(lesson: Lesson) -> None:
    batch = draw_batch(lesson, batch_size=64, seed=0, step=3)
    coupled = batch.is_coupled
    assert coupled.sum() == 32
    assert set(batch.timesteps[coupled].tolist()) == set(TIMESTEPS)
    assert len(set(batch.timesteps[~coupled].tolist())) > 20
    pure = batch.noisy_latents[coupled & (batch.timesteps == 999)]
    assert len(pure)
    assert all(any(torch.equal(item, noise) for noise in lesson.pool.noise) for item in pure)


def test_without_pairs_all_items_have_fresh_noise_at_any_timestep(lesson: Lesson) -> None:
    batch = draw_batch(replace(lesson, has_pairs=False), batch_size=64, seed=0, step=3)
    assert not batch.is_coupled.any() and len(set(batch.timesteps.tolist())) > 40
    assert (batch.output_weight > 0).all()
    distance = (batch.noise[:, None] - lesson.pool.noise).abs().flatten(2).amax(dim=2)
    assert distance.min() > 0.1


def test_target_leads_from_every_input_to_a_sample_of_the_pool(lesson: Lesson) -> None:
    batch = draw_batch(lesson, batch_size=64, seed=0, step=0)
    x0 = x0_from_noise_pred(batch.noisy_latents, batch.noise, batch.timesteps, alphas_cumprod=lesson.alphas_cumprod)
    nearest = (x0[:, None] - lesson.pool.x0).abs().flatten(2).amax(dim=2).amin(dim=1)
    assert nearest.max() < 1e-4


def test_stored_pair_keeps_its_own_noise_and_caption(lesson: Lesson) -> None:
    batch = draw_batch(lesson, batch_size=64, seed=0, step=0)
    inner = batch.is_coupled & (batch.timesteps < 999)
    distance = (batch.noise[inner][:, None] - lesson.pool.noise).abs().flatten(2).amax(dim=2)
    assert distance.amin(dim=1).max() < 1e-4
    captions = lesson.prompt_embeds[lesson.pool.caption_index[distance.argmin(dim=1)]]
    assert torch.equal(batch.prompt_embeds[inner], captions)


def test_batch_depends_on_seed_and_step_alone(lesson: Lesson) -> None:
    one, same = (draw_batch(lesson, batch_size=4, seed=0, step=7) for _ in range(2))
    torch.rand(1)
    other = draw_batch(lesson, batch_size=4, seed=0, step=8)
    assert torch.equal(one.noisy_latents, same.noisy_latents)
    assert not torch.equal(one.noisy_latents, other.noisy_latents)


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny"])
def test_only_the_student_learns(lesson: Lesson, architecture: Architecture) -> None:
    teacher = lesson.bundle.unet
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = shrink_unet(teacher, architecture)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    losses = knowledge_losses(student, draw_batch(lesson, batch_size=4, seed=0, step=0), lesson)
    losses.total(PARAMS).backward()
    optimizer.step()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.parameters())
    assert all(weight.grad is None for weight in lesson.bundle.unet.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert not torch.equal(student.conv_in.weight, teacher.conv_in.weight)


@pytest.mark.parametrize("part", ["task", "output", "feature"])
def test_each_loss_alone_teaches(lesson: Lesson, part: str) -> None:
    student = shrink_unet(lesson.bundle.unet, "bk_small")
    batch = draw_batch(lesson, batch_size=4, seed=0, step=0)
    getattr(knowledge_losses(student, batch, lesson), part).backward()
    assert student.conv_in.weight.grad.abs().sum() > 0


def test_copy_of_the_teacher_has_no_feature_loss_and_lacks_only_guidance(lesson: Lesson) -> None:
    batch = draw_batch(lesson, batch_size=8, seed=0, step=0)
    student = shrink_unet(lesson.bundle.unet, "none")
    losses = knowledge_losses(student, batch, lesson)
    unguided = replace(lesson, guidance_scale=1.0)
    assert losses.feature.item() < 1e-9
    assert losses.output.item() > 0
    assert knowledge_losses(student, batch, unguided).output.item() < 1e-9


def test_output_target_is_the_guided_prediction_and_only_where_noise_is_fresh(lesson: Lesson) -> None:
    batch = draw_batch(lesson, batch_size=8, seed=0, step=0)
    guided = guided_noise_pred(
        lesson.bundle.unet,
        batch.noisy_latents,
        batch.timesteps,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=lesson.negative_embeds,
        guidance_scale=3.0,
    )

    class Oracle(UNet2DConditionModel):
        def forward(self, *args: Any, **options: Any) -> tuple[torch.Tensor]:
            super().forward(*args, **options)  # the blocks' outputs are recorded
            return (torch.where(batch.is_coupled.view(-1, 1, 1, 1), 99.0, guided),)

    student = Oracle.from_config(lesson.bundle.unet.config)
    assert knowledge_losses(student, batch, lesson).output.item() == 0


def test_one_batch_is_overfitted(lesson: Lesson) -> None:
    student = shrink_unet(lesson.bundle.unet, "bk_small")
    batch = draw_batch(lesson, batch_size=4, seed=0, step=0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    history = []
    for _ in range(30):
        loss = knowledge_losses(student, batch, lesson).task
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.2 * history[0]


def test_stage_leaves_a_student_that_plain_diffusers_samples(
    build: Callable[..., Path], tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    folder = build("run")
    metrics = _metrics(folder)
    student = UNet2DConditionModel.from_pretrained(folder / "student", use_safetensors=True)
    assert student.dtype == torch.float32
    assert student.mid_block is None
    assert metrics["student_params"] == sum(weight.numel() for weight in student.parameters())
    assert metrics["params_ratio"] == pytest.approx(metrics["student_params"] / metrics["teacher_params"], rel=1e-5)
    assert metrics["pool_size"] == len(load_pool(folder / "pool.safetensors")) == 12
    assert metrics["best_sample_mse"] <= metrics["start_sample_mse"]
    assert metrics["skipped_steps"] == 0
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, unet=student)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.save_pretrained(tmp_path / "whole")
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    whole.set_progress_bar_config(disable=True)
    image = whole("a man", num_inference_steps=4, guidance_scale=1.0).images[0]
    assert image.size == (32, 32)


def test_config_names_no_folder_of_this_machine(build: Callable[..., Path]) -> None:
    config = json.loads((build("run", PARAMS.model_copy(update={"num_steps": 0})) / "student/config.json").read_text())
    assert not {"_name_or_path", "_use_default_values"} & set(config)


def test_without_steps_the_student_is_the_inherited_one(build: Callable[..., Path], tiny_bundle: ModelBundle) -> None:
    folder = build("run", PARAMS.model_copy(update={"num_steps": 0}))
    metrics = _metrics(folder)
    saved = UNet2DConditionModel.from_pretrained(folder / "student").state_dict()
    inherited = shrink_unet(tiny_bundle.unet, "bk_small").state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in inherited.items())
    assert metrics["best_step"] == 0
    assert metrics["best_sample_mse"] == metrics["start_sample_mse"]


def test_killed_warm_up_resumes_to_the_same_files(build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build("whole")
    steps: list[int] = []

    def dying(lesson: Lesson, *, batch_size: int, seed: int, step: int) -> Any:
        steps.append(step)
        if len(steps) == 4:
            raise KilledError
        return draw_batch(lesson, batch_size=batch_size, seed=seed, step=step)

    monkeypatch.setattr(student_run, "draw_batch", dying)
    with pytest.raises(KilledError):
        build("resumed")
    resumed = build("resumed")
    assert steps == [0, 1, 2, 3, 2, 3]
    assert _bytes(resumed) == _bytes(whole)


def test_held_out_samples_are_never_trained_on(build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Pool] = []

    def recording(lesson: Lesson, **options: Any) -> Any:
        seen.append(lesson.pool)
        return draw_batch(lesson, **options)

    monkeypatch.setattr(student_run, "draw_batch", recording)
    whole = load_pool(build("run", PARAMS.model_copy(update={"num_steps": 2})) / "pool.safetensors")
    assert all(torch.equal(pool.x0, whole.x0[:9]) for pool in seen)


def test_a_pool_of_pictures_is_all_of_them_with_their_captions_before_the_teachers_samples(
    build: Callable[..., Path], tiny_bundle: ModelBundle, tiny_dataset_dir: Path
) -> None:
    folder = build("run", PARAMS.model_copy(update={"num_steps": 2, "pool_source": "dataset"}))
    train, (learnt, scored_on) = (
        load_split(tiny_dataset_dir, "train"),
        split_pool(load_pool(folder / "pool.safetensors")),
    )
    assert [learnt.prompts[row] for row in learnt.caption_index] == [example.caption for example in train]
    assert torch.equal(learnt.x0, encode_pixels(tiny_bundle, load_pixels(train)))
    assert learnt.noise.std() == pytest.approx(1.0, abs=0.1)
    again = sample_latents(
        tiny_bundle.unet,
        noise=scored_on.noise,
        prompt_embeds=encode_prompts(tiny_bundle, [scored_on.prompts[row] for row in scored_on.caption_index]),
        negative_embeds=encode_prompts(tiny_bundle, [""]),
        sampler=fast_sampler(tiny_bundle, PARAMS.pool_steps, 3.0),
    )
    torch.testing.assert_close(scored_on.x0, again)
    assert _metrics(folder)["pool_size"] == len(learnt) + len(scored_on) == 16 + 3


def test_students_of_pictures_are_scored_on_the_samples_that_all_others_are(build: Callable[..., Path]) -> None:
    folders = (
        build(source, PARAMS.model_copy(update={"num_steps": 0, "pool_source": source}))
        for source in ("teacher", "dataset")
    )
    full, pictures = (split_pool(load_pool(folder / "pool.safetensors"))[1] for folder in folders)
    assert torch.equal(full.noise, pictures.noise)
    torch.testing.assert_close(full.x0, pictures.x0, rtol=0, atol=1e-3)
    captions = [[pool.prompts[row] for row in pool.caption_index] for pool in (full, pictures)]
    assert captions[0] == captions[1]
