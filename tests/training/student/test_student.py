"""The warm-up: who learns and who does not, what a batch holds, exact resume, and what the stage leaves behind."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from naruto_add.training import pool as pool_module
from naruto_add.training.pool import Pool, load_pool, split_pool
from naruto_add.training.student import run as student_run
from naruto_add.training.student.build import build_student
from naruto_add.training.student.inputs import Lesson, draw_noised, draw_states
from naruto_add.training.student.run import knowledge_losses

TIMESTEPS = [999, 749, 499, 249]
PARAMS = Student(
    seed=0,
    architecture="bk_small",
    pool_source="teacher",
    pool_size=12,
    pool_steps=4,
    num_steps=4,
    knowledge_steps=2,
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
    states = torch.stack([initial_noise(tiny_bundle, 8, seed=seed) for seed in (3, 4, 5)], dim=1)
    pool = Pool(noise, states, 0.5 * x0 + 0.5 * x0.mean(dim=0), torch.arange(8) % 2, prompts, num_held_out=2)
    embeds = encode_prompts(tiny_bundle, prompts)
    return Lesson(
        bundle=tiny_bundle,
        pool=pool,
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
            prompt_template="{caption}",
            timesteps=TIMESTEPS,
            out_dir=folder / "student",
            pool_path=folder / "pool.safetensors",
            checkpoint_dir=folder / "checkpoints",
            pool_cache_dir=tmp_path / "drawn",
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


def test_knowledge_is_distilled_at_any_timestep_from_samples_noised_afresh(lesson: Lesson) -> None:
    batch = draw_noised(lesson, batch_size=64, seed=0, step=3)
    assert len(set(batch.timesteps.tolist())) > 40
    distance = (batch.noise[:, None] - lesson.pool.noise).abs().flatten(2).amax(dim=2)
    assert distance.min() > 0.1
    x0 = x0_from_noise_pred(batch.noisy_latents, batch.noise, batch.timesteps, alphas_cumprod=lesson.alphas_cumprod)
    assert (x0[:, None] - lesson.pool.x0).abs().flatten(2).amax(dim=2).amin(dim=1).max() < 1e-4


def test_the_students_own_step_with_the_target_leads_from_each_state_to_the_teachers_next(lesson: Lesson) -> None:
    """By its own scheduler, from the pool's noise to the pool's x0, under the sample's own caption."""
    batch, pool = draw_states(lesson, batch_size=64, seed=0, step=0), lesson.pool
    way = torch.cat([pool.noise[:, None], pool.states, pool.x0[:, None]], dim=1)
    scheduler = lesson.sampler.scheduler
    scheduler.set_timesteps(4)
    assert set(batch.timesteps.tolist()) == set(TIMESTEPS)
    for item, timestep in enumerate(batch.timesteps):
        place = TIMESTEPS.index(int(timestep))
        (sample,) = torch.where((way[:, place] == batch.noisy_latents[item]).flatten(1).all(dim=1))
        arrived = scheduler.step(batch.noise[item], timestep, batch.noisy_latents[item]).prev_sample
        torch.testing.assert_close(arrived, way[sample[0], place + 1], rtol=1e-3, atol=1e-3)
        assert torch.equal(batch.prompt_embeds[item], lesson.prompt_embeds[pool.caption_index[sample[0]]])


def test_an_error_along_the_way_counts_as_far_as_it_moves_the_next_state(lesson: Lesson) -> None:
    batch = draw_states(lesson, batch_size=32, seed=0, step=0)
    scheduler = lesson.sampler.scheduler
    scheduler.set_timesteps(4)
    moved = [
        (scheduler.step(noise + 0.1, t, x).prev_sample - scheduler.step(noise, t, x).prev_sample).square().mean()
        for noise, t, x in zip(batch.noise, batch.timesteps, batch.noisy_latents, strict=True)
    ]
    torch.testing.assert_close(0.01 * batch.weight, torch.stack(moved), rtol=1e-3, atol=0)


def test_the_way_is_taught_without_the_teacher_and_after_the_knowledge(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = shrink_unet(lesson.bundle.unet, "bk_small")
    run = student_run.StudentRun(student, lesson=lesson, held_out=lesson, params=PARAMS, precision="fp32")
    knowledge = [run.train_step(step) for step in (0, 1)]
    assert all(scalars["output"] > 0 and scalars["feature"] > 0 for scalars in knowledge)
    monkeypatch.setattr(lesson.bundle.unet, "forward", lambda *_, **__: pytest.fail("the teacher was called"))
    way = run.train_step(2)
    assert way["task"] > 0 and way["output"] == way["feature"] == 0


def test_a_student_taught_one_way_follows_it(lesson: Lesson) -> None:
    """One noise: after a while the student's own sampler ends where the teacher's several steps did."""
    pool = lesson.pool
    only = Pool(pool.noise[:1], pool.states[:1], pool.x0[:1], pool.caption_index[:1], pool.prompts, num_held_out=1)
    lesson = replace(lesson, pool=only)
    student = shrink_unet(lesson.bundle.unet, "bk_base").train()
    params = PARAMS.model_copy(update={"knowledge_steps": 0, "num_steps": 150, "batch_size": 8, "ema_decay": 0.9})
    run = student_run.StudentRun(student, lesson=lesson, held_out=lesson, params=params, precision="fp32")
    before = run.score()["sample_mse"]
    for step in range(150):
        run.train_step(step)
    assert run.score()["sample_mse"] < 0.1 * before


def test_batch_depends_on_seed_and_step_alone(lesson: Lesson) -> None:
    one, same = (draw_noised(lesson, batch_size=4, seed=0, step=7) for _ in range(2))
    torch.rand(1)
    other = draw_noised(lesson, batch_size=4, seed=0, step=8)
    assert torch.equal(one.noisy_latents, same.noisy_latents)
    assert not torch.equal(one.noisy_latents, other.noisy_latents)


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny"])
def test_only_the_student_learns(lesson: Lesson, architecture: Architecture) -> None:
    teacher = lesson.bundle.unet
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = shrink_unet(teacher, architecture)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    losses = knowledge_losses(student, draw_noised(lesson, batch_size=4, seed=0, step=0), lesson)
    losses.total(PARAMS).backward()
    optimizer.step()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.parameters())
    assert all(weight.grad is None for weight in lesson.bundle.unet.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert not torch.equal(student.conv_in.weight, teacher.conv_in.weight)


@pytest.mark.parametrize("part", ["task", "output", "feature"])
def test_each_loss_alone_teaches(lesson: Lesson, part: str) -> None:
    student = shrink_unet(lesson.bundle.unet, "bk_small")
    batch = draw_noised(lesson, batch_size=4, seed=0, step=0)
    getattr(knowledge_losses(student, batch, lesson), part).backward()
    assert student.conv_in.weight.grad.abs().sum() > 0


def test_copy_of_the_teacher_has_no_feature_loss_and_lacks_only_guidance(lesson: Lesson) -> None:
    batch = draw_noised(lesson, batch_size=8, seed=0, step=0)
    student = shrink_unet(lesson.bundle.unet, "none")
    losses = knowledge_losses(student, batch, lesson)
    unguided = replace(lesson, guidance_scale=1.0)
    assert losses.feature.item() < 1e-9
    assert losses.output.item() > 0
    assert knowledge_losses(student, batch, unguided).output.item() < 1e-9


def test_output_target_is_the_guided_prediction(lesson: Lesson) -> None:
    batch = draw_noised(lesson, batch_size=8, seed=0, step=0)
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
            return (guided,)

    student = Oracle.from_config(lesson.bundle.unet.config)
    assert knowledge_losses(student, batch, lesson).output.item() == 0


def test_one_batch_is_overfitted(lesson: Lesson) -> None:
    student = shrink_unet(lesson.bundle.unet, "bk_small")
    batch = draw_noised(lesson, batch_size=4, seed=0, step=0)
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
    """Killed in the second phase, it goes on from a checkpoint between the two."""
    whole = build("whole")
    steps: list[int] = []

    def noted(draw: Callable[..., Any], lesson: Lesson, *, step: int, **options: Any) -> Any:
        steps.append(step)
        if len(steps) == 4:
            raise KilledError
        return draw(lesson, step=step, **options)

    monkeypatch.setattr(student_run, "draw_noised", partial(noted, draw_noised))
    monkeypatch.setattr(student_run, "draw_states", partial(noted, draw_states))
    with pytest.raises(KilledError):
        build("resumed")
    resumed = build("resumed")
    assert steps == [0, 1, 2, 3, 2, 3]
    assert _bytes(resumed) == _bytes(whole)


def test_held_out_samples_are_never_trained_on(build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Pool] = []

    def recording(draw: Callable[..., Any], lesson: Lesson, **options: Any) -> Any:
        seen.append(lesson.pool)
        return draw(lesson, **options)

    monkeypatch.setattr(student_run, "draw_noised", partial(recording, draw_noised))
    monkeypatch.setattr(student_run, "draw_states", partial(recording, draw_states))
    whole = load_pool(build("run") / "pool.safetensors")
    assert len(seen) == PARAMS.num_steps
    assert all(torch.equal(pool.x0, whole.x0[:9]) for pool in seen)


def test_a_pool_of_pictures_is_all_of_them_with_their_captions_before_the_teachers_samples(
    build: Callable[..., Path], tiny_bundle: ModelBundle, tiny_dataset_dir: Path
) -> None:
    folder = build("run", PARAMS.model_copy(update={"num_steps": 2, "pool_source": "dataset", "knowledge_steps": 2}))
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


def test_another_warm_up_draws_no_sample_of_the_pool_again(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build("first")
    monkeypatch.setattr(pool_module, "sample_states", None)
    again = build("again", PARAMS.model_copy(update={"learning_rate": 2 * PARAMS.learning_rate}))
    assert (again / "pool.safetensors").read_bytes() == (first / "pool.safetensors").read_bytes()
    assert (again / "student.tsv").read_text() != (first / "student.tsv").read_text()
