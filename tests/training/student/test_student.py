"""The student's warm-up: its batches and losses, which weights are trained, exact resume, and the stage's outputs."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from naruto_add.config.schema import Optimizer, Student
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.noise import x0_from_noise_pred
from naruto_add.diffusion.sampling import Sampler, guided_noise_pred, initial_noise, make_student_scheduler
from naruto_add.models.student import Architecture, shrink_unet
from naruto_add.training.loop import TrainingRun, run_steps
from naruto_add.training.pool import Pool, load_pool, split_pool
from naruto_add.training.settings import DistillationSettings
from naruto_add.training.student.batch import Batch, draw_knowledge_batch, draw_trajectory_batch
from naruto_add.training.student.dataset import WarmupData, load_warmup_data
from naruto_add.training.student.train import build_student
from naruto_add.training.student.trainer import StudentTrainer, knowledge_losses
from tests.hooks import KilledError, counted

TIMESTEPS = [999, 749, 499, 249]
SETTINGS = DistillationSettings(
    guidance_scale=3.0,
    pool_steps=4,
    student_timesteps=TIMESTEPS,
    prompt_template="{caption}",
    caption_chunks=1,
    frozen_precision="fp32",
    autocast="fp32",
)
OPTIMIZER = Optimizer(
    name="adamw", learning_rate=2e-3, warmup_steps=1, schedule="constant", ema_decay=0.5, ema_on_cpu=False
)
PARAMS = Student(
    seed=0,
    architecture="bk_small",
    pool_size=12,
    num_steps=4,
    knowledge_steps=2,
    batch_size=4,
    accumulation_steps=1,
    gradient_checkpointing=False,
    optimizer=OPTIMIZER,
    feature_weight=0.1,
    validation_every_steps=2,
)


@pytest.fixture
def data(tiny_bundle: ModelBundle) -> WarmupData:
    """A pool of random states, which no teacher drew; faster, and the tests that use it do not depend on the values."""
    prompts = ["a man with a sword", "a girl at night"]
    noise, x0 = initial_noise(tiny_bundle, 8, seed=1), initial_noise(tiny_bundle, 8, seed=2)
    states = torch.stack([initial_noise(tiny_bundle, 8, seed=seed) for seed in (3, 4, 5)], dim=1)
    pool = Pool(noise, states, 0.5 * x0 + 0.5 * x0.mean(dim=0), torch.arange(8) % 2, prompts, num_held_out=2)
    embeds = encode_prompts(tiny_bundle, prompts)
    return WarmupData(
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
            params,
            SETTINGS,
            teacher_dir=tiny_pipeline_dir,
            dataset_dir=tiny_dataset_dir,
            out_dir=folder / "student",
            pool_path=folder / "pool.safetensors",
            pool_cache_dir=tmp_path / "drawn",
            metrics_path=folder / "student.json",
            run=TrainingRun(checkpoint_dir=folder / "checkpoints", curves_path=folder / "student.tsv"),
        )
        return folder

    return run


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "student.json").read_text())


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts
    }


def test_knowledge_batches_have_any_timestep_and_new_noise(data: WarmupData) -> None:
    batch = draw_knowledge_batch(data, batch_size=64, seed=0, step=3)
    assert len(set(batch.timesteps.tolist())) > 40
    distance = (batch.noise[:, None] - data.pool.noise).abs().flatten(2).amax(dim=2)
    assert distance.min() > 0.1
    x0 = x0_from_noise_pred(batch.noisy_latents, batch.noise, batch.timesteps, alphas_cumprod=data.alphas_cumprod)
    assert (x0[:, None] - data.pool.x0).abs().flatten(2).amax(dim=2).amin(dim=1).max() < 1e-4


def test_a_ddim_step_with_the_target_leads_to_the_next_state_of_the_trajectory(data: WarmupData) -> None:
    """From the noise to x0 of the pool, with the sample's prompt."""
    batch, pool = draw_trajectory_batch(data, batch_size=64, seed=0, step=0), data.pool
    trajectories = torch.cat([pool.noise[:, None], pool.states, pool.x0[:, None]], dim=1)
    scheduler = data.sampler.scheduler
    scheduler.set_timesteps(4)
    assert set(batch.timesteps.tolist()) == set(TIMESTEPS)
    for item, timestep in enumerate(batch.timesteps):
        place = TIMESTEPS.index(int(timestep))
        (sample,) = torch.where((trajectories[:, place] == batch.noisy_latents[item]).flatten(1).all(dim=1))
        arrived = scheduler.step(batch.noise[item], timestep, batch.noisy_latents[item]).prev_sample
        torch.testing.assert_close(arrived, trajectories[sample[0], place + 1], rtol=1e-3, atol=1e-3)
        assert torch.equal(batch.prompt_embeds[item], data.prompt_embeds[pool.prompt_index[sample[0]]])


def test_the_weight_of_an_error_is_the_squared_distance_by_which_it_moves_the_next_state(data: WarmupData) -> None:
    batch = draw_trajectory_batch(data, batch_size=32, seed=0, step=0)
    scheduler = data.sampler.scheduler
    scheduler.set_timesteps(4)
    moved = [
        (scheduler.step(noise + 0.1, t, x).prev_sample - scheduler.step(noise, t, x).prev_sample).square().mean()
        for noise, t, x in zip(batch.noise, batch.timesteps, batch.noisy_latents, strict=True)
    ]
    torch.testing.assert_close(0.01 * batch.weight, torch.stack(moved), rtol=1e-3, atol=0)


def test_trajectory_distillation_follows_knowledge_distillation_and_does_not_call_the_teacher(data: WarmupData) -> None:
    student = shrink_unet(data.bundle.unet, "bk_small")
    trainer = StudentTrainer(student, data=data, held_out=data, params=PARAMS, frozen_precision="fp32", autocast="fp32")
    knowledge = [trainer.train_step(step) for step in (0, 1)]
    assert all(scalars["output"] > 0 and scalars["feature"] > 0 for scalars in knowledge)
    with counted(data.bundle.unet) as calls:
        trajectory = trainer.train_step(2)
    assert calls == []
    assert trajectory["task"] > 0 and trajectory["output"] == trajectory["feature"] == 0


@pytest.mark.slow
def test_a_student_trained_on_one_trajectory_reproduces_its_x0(data: WarmupData) -> None:
    pool = data.pool
    only = Pool(pool.noise[:1], pool.states[:1], pool.x0[:1], pool.prompt_index[:1], pool.prompts, num_held_out=1)
    data = replace(data, pool=only)
    student = shrink_unet(data.bundle.unet, "bk_base").train()
    optimizer = OPTIMIZER.model_copy(update={"learning_rate": 4e-3})
    params = PARAMS.model_copy(update={"knowledge_steps": 0, "num_steps": 40, "optimizer": optimizer})
    trainer = StudentTrainer(student, data=data, held_out=data, params=params, frozen_precision="fp32", autocast="fp32")
    before = trainer.score()["sample_mse"]
    for step in range(40):
        trainer.train_step(step)
    assert trainer.score()["sample_mse"] < 0.1 * before


def test_a_batch_depends_only_on_seed_and_step(data: WarmupData) -> None:
    one, same = (draw_knowledge_batch(data, batch_size=4, seed=0, step=7) for _ in range(2))
    torch.rand(1)
    other = draw_knowledge_batch(data, batch_size=4, seed=0, step=8)
    assert torch.equal(one.noisy_latents, same.noisy_latents)
    assert not torch.equal(one.noisy_latents, other.noisy_latents)


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny", "shallow"])
def test_only_the_students_weights_are_trained_and_all_of_them(data: WarmupData, architecture: Architecture) -> None:
    teacher = data.bundle.unet
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = shrink_unet(teacher, architecture)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    losses = knowledge_losses(student, draw_knowledge_batch(data, batch_size=4, seed=0, step=0), data)
    losses.total(PARAMS).backward()
    optimizer.step()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.parameters())
    assert all(weight.grad is None for weight in data.bundle.unet.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert not torch.equal(student.conv_in.weight, teacher.conv_in.weight)


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny", "shallow", "none"])
@pytest.mark.parametrize("knowledge_steps", [0, 1])
def test_checkpointing_changes_no_result(data: WarmupData, architecture: Architecture, knowledge_steps: int) -> None:
    """This holds also with the hooks that record the outputs of blocks."""
    weights = []
    for checkpointing in (False, True):
        student = shrink_unet(data.bundle.unet, architecture)
        params = PARAMS.model_copy(
            update={"gradient_checkpointing": checkpointing, "knowledge_steps": knowledge_steps, "feature_weight": 1.0}
        )
        trainer = StudentTrainer(
            student, data=data, held_out=data, params=params, frozen_precision="fp32", autocast="fp32"
        )
        assert student.is_gradient_checkpointing == checkpointing
        trainer.train_step(0)
        weights.append(torch.cat([item.detach().flatten() for item in student.parameters()]))
    assert torch.isfinite(weights[1]).all()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["task", "output", "feature"])
def test_each_loss_has_a_gradient(data: WarmupData, part: str) -> None:
    student = shrink_unet(data.bundle.unet, "bk_small")
    batch = draw_knowledge_batch(data, batch_size=4, seed=0, step=0)
    getattr(knowledge_losses(student, batch, data), part).backward()
    assert student.conv_in.weight.grad.abs().sum() > 0


def test_autocast_of_the_student_leaves_the_teacher_in_its_own_dtype(data: WarmupData) -> None:
    student, dtypes = shrink_unet(data.bundle.unet, "bk_small"), []
    hooks = [
        unet.conv_in.register_forward_hook(lambda _layer, _inputs, output: dtypes.append(output.dtype))
        for unet in (student, data.bundle.unet)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        knowledge_losses(student, draw_knowledge_batch(data, batch_size=4, seed=0, step=0), data)
    for hook in hooks:
        hook.remove()
    assert dtypes == [torch.bfloat16, torch.float32]


def test_a_copy_of_the_teacher_has_no_feature_loss_and_no_output_loss_without_guidance(data: WarmupData) -> None:
    batch = draw_knowledge_batch(data, batch_size=8, seed=0, step=0)
    student = shrink_unet(data.bundle.unet, "none")
    losses = knowledge_losses(student, batch, data)
    unguided = replace(data, guidance_scale=1.0)
    assert losses.feature.item() < 1e-9
    assert losses.output.item() > 0
    assert knowledge_losses(student, batch, unguided).output.item() < 1e-9


def test_the_target_of_the_output_loss_is_the_guided_prediction(data: WarmupData) -> None:
    batch = draw_knowledge_batch(data, batch_size=8, seed=0, step=0)
    guided = guided_noise_pred(
        data.bundle.unet,
        batch.noisy_latents,
        batch.timesteps,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=data.negative_embeds,
        guidance_scale=3.0,
    )

    class GuidedStudent(UNet2DConditionModel):
        def forward(self, *args: Any, **options: Any) -> tuple[torch.Tensor]:
            super().forward(*args, **options)  # hooks record the blocks' outputs
            return (guided,)

    student = GuidedStudent.from_config(data.bundle.unet.config)
    assert knowledge_losses(student, batch, data).output.item() == 0


def test_one_batch_is_overfitted(data: WarmupData) -> None:
    student = shrink_unet(data.bundle.unet, "bk_small")
    batch = draw_knowledge_batch(data, batch_size=4, seed=0, step=0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    history = []
    for _ in range(16):
        loss = knowledge_losses(student, batch, data).task
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.2 * history[0]


def test_the_stage_writes_a_student_that_plain_diffusers_samples(
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
    assert metrics["skipped_steps"] == 0
    scores = {int(row["step"]): float(row["sample_mse"]) for row in _rows(folder / "student_validation.tsv")}
    assert scores[0] == metrics["start_sample_mse"]
    assert scores[metrics["best_step"]] == metrics["best_sample_mse"] == min(scores.values())
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, unet=student)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.save_pretrained(tmp_path / "whole")
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    whole.set_progress_bar_config(disable=True)
    image = whole("a man", num_inference_steps=4, guidance_scale=1.0).images[0]
    assert image.size == (32, 32)


def test_the_configuration_contains_no_path_of_this_machine(build: Callable[..., Path]) -> None:
    config = json.loads((build("run", PARAMS.model_copy(update={"num_steps": 0})) / "student/config.json").read_text())
    assert not {"_name_or_path", "_use_default_values"} & set(config)


def test_without_steps_the_student_has_the_inherited_weights(
    build: Callable[..., Path], tiny_bundle: ModelBundle
) -> None:
    folder = build("run", PARAMS.model_copy(update={"num_steps": 0}))
    metrics = _metrics(folder)
    saved = UNet2DConditionModel.from_pretrained(folder / "student").state_dict()
    inherited = shrink_unet(tiny_bundle.unet, "bk_small").state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in inherited.items())
    assert metrics["best_step"] == 0
    assert metrics["best_sample_mse"] == metrics["start_sample_mse"]


def test_a_killed_warm_up_resumes_to_the_same_weights(data: WarmupData, tmp_path: Path) -> None:
    """It is killed in the second phase and resumes from a checkpoint between the two."""
    whole = _warm_up(data, data, tmp_path / "whole")
    with pytest.raises(KilledError):
        _warm_up(data, data, tmp_path / "resumed", kill_at=3)
    resumed = _warm_up(data, data, tmp_path / "resumed")
    assert (whole.steps, resumed.steps) == ([0, 1, 2, 3], [2, 3])
    assert all(torch.equal(whole.weights[name], item) for name, item in resumed.weights.items())
    for name in ("student.tsv", "student_validation.tsv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


def test_held_out_samples_are_never_trained_on(
    build: Callable[..., Path], tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    """The stage ends with the weights of a training that gets the other samples only, but for rounding."""
    saved = UNet2DConditionModel.from_pretrained(build("run") / "student").state_dict()
    pool = load_pool(tmp_path / "run/pool.safetensors")
    whole, data, held_out = (
        load_warmup_data(tiny_bundle, part, guidance_scale=3.0, timesteps=TIMESTEPS, cache_dir=tmp_path)
        for part in (pool, *split_pool(pool))
    )
    assert (len(data.pool), len(held_out.pool)) == (9, 3)
    differences = [
        max(
            (saved[name] - item).abs().max() for name, item in _warm_up(used, held_out, tmp_path / name).weights.items()
        )
        for name, used in (("some", data), ("all", whole))
    ]
    assert differences[0] < 1e-4 < 1e-3 < differences[1]


@dataclass(frozen=True)
class Warmed:
    """The steps that a warm-up did, and the best weights."""

    steps: list[int]
    weights: dict[str, torch.Tensor]


def _warm_up(data: WarmupData, held_out: WarmupData, folder: Path, *, kill_at: int | None = None) -> Warmed:
    """Train as the stage does, with the checkpoint and the curves in `folder`."""
    student = shrink_unet(data.bundle.unet, PARAMS.architecture)
    trainer = StudentTrainer(
        student, data=data, held_out=held_out, params=PARAMS, frozen_precision="fp32", autocast="fp32"
    )
    steps: list[int] = []

    def train_step(step: int) -> Any:
        if step == kill_at:
            raise KilledError
        steps.append(step)
        return trainer.train_step(step)

    run_steps(
        train_step,
        TrainingRun(checkpoint_dir=folder, curves_path=folder / "student.tsv"),
        name="student",
        num_steps=PARAMS.num_steps,
        state=trainer.state(),
        num_weights=trainer.learner.num_weights,
        validate=trainer.validate,
        validation_every_steps=PARAMS.validation_every_steps,
    )
    return Warmed(steps, trainer.best.weights)


def test_a_warm_up_with_other_options_uses_the_cached_pool_samples(build: Callable[..., Path]) -> None:
    first = build("first")
    optimizer = OPTIMIZER.model_copy(update={"learning_rate": 2 * OPTIMIZER.learning_rate})
    again = build("again", PARAMS.model_copy(update={"optimizer": optimizer}))
    assert (again / "pool.safetensors").samefile(first / "pool.safetensors")  # a hard link to the cache
    assert (again / "student.tsv").read_text() != (first / "student.tsv").read_text()


# Aspect buckets


@pytest.fixture
def bucketed(data: WarmupData) -> WarmupData:
    """Four wide samples in addition to the eight of `data`."""
    generator = torch.Generator().manual_seed(9)
    noise, x0 = torch.randn(2, 4, 4, 4, 8, generator=generator)
    states = torch.randn(4, 3, 4, 4, 8, generator=generator)
    wide = Pool(noise, states, x0, torch.tensor([1, 1, 0, 1]), data.pool.prompts, num_held_out=0)
    return replace(data, pool=replace(data.pool, buckets=(wide,)))


@pytest.mark.parametrize("draw", [draw_knowledge_batch, draw_trajectory_batch])
def test_a_batch_has_samples_of_one_size_and_sizes_share_the_steps_by_their_numbers(
    bucketed: WarmupData, draw: Callable[..., Batch]
) -> None:
    batches = [draw(bucketed, batch_size=4, seed=0, step=step) for step in range(60)]
    wide = [batch for batch in batches if batch.noisy_latents.shape == (4, 4, 4, 8)]
    square = [batch for batch in batches if batch.noisy_latents.shape == (4, 4, 4, 4)]
    assert len(wide) + len(square) == 60
    assert len(wide) == pytest.approx(20, abs=2)
    for batch in wide:  # it has all four wide samples, in some order
        first = (batch.prompt_embeds == bucketed.prompt_embeds[0]).flatten(1).all(dim=1)
        assert first.sum() == 1


@pytest.mark.slow
def test_a_killed_warm_up_with_several_sizes_resumes_to_the_same_weights(bucketed: WarmupData, tmp_path: Path) -> None:
    steps = range(PARAMS.num_steps)
    shapes = {draw_knowledge_batch(bucketed, batch_size=4, seed=0, step=step).noise.shape for step in steps}
    assert len(shapes) == 2
    whole = _warm_up(bucketed, bucketed, tmp_path / "whole")
    with pytest.raises(KilledError):
        _warm_up(bucketed, bucketed, tmp_path / "resumed", kill_at=3)
    resumed = _warm_up(bucketed, bucketed, tmp_path / "resumed")
    assert all(torch.equal(whole.weights[name], item) for name, item in resumed.weights.items())


def test_the_stage_draws_its_pool_at_the_sizes_of_the_pictures(
    tiny_pipeline_dir: Path, bucketed_dataset_dir: Path, tmp_path: Path
) -> None:
    build_student(
        PARAMS,
        SETTINGS,
        teacher_dir=tiny_pipeline_dir,
        dataset_dir=bucketed_dataset_dir,
        out_dir=tmp_path / "student",
        pool_path=tmp_path / "pool.safetensors",
        pool_cache_dir=tmp_path / "drawn",
        metrics_path=tmp_path / "student.json",
        run=TrainingRun(checkpoint_dir=tmp_path / "checkpoints", curves_path=tmp_path / "student.tsv"),
    )
    (wide,) = load_pool(tmp_path / "pool.safetensors").buckets
    num_wide = round(6 / 16 * PARAMS.pool_size)
    assert wide.x0.shape == (num_wide, 4, 4, 8)
    assert _metrics(tmp_path)["pool_size"] == PARAMS.pool_size + num_wide
