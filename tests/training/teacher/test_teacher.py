"""The teacher's finetuning: which weights are trained, which are kept, exact resume, and the stage's outputs."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from naruto_add.config.schema import Base, Optimizer, Teacher
from naruto_add.data.dataset import load_split
from naruto_add.data.latents import CachedLatents
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, load_bundle, load_pipeline_folder, tokenize
from naruto_add.models.lora import lora_layers
from naruto_add.runtime.errors import StageError
from naruto_add.training.learner import MAX_SKIPPED_IN_A_ROW
from naruto_add.training.loop import TrainingRun
from naruto_add.training.teacher.batch import VALIDATION_TIMESTEPS, Batch, draw_batch, validation_batches
from naruto_add.training.teacher.dataset import TeacherData, load_data
from naruto_add.training.teacher.train import train_teacher
from naruto_add.training.teacher.trainer import TeacherTrainer
from tests.hooks import KilledError, killed_in_training

TEMPLATE = "shinobi: {caption}"
OPTIMIZER = Optimizer(
    name="adamw", learning_rate=1e-2, warmup_steps=1, schedule="constant", ema_decay=0.5, ema_on_cpu=False
)
PARAMS = Teacher(
    seed=0,
    lora_targets="attention",
    lora_text_encoder=False,
    lora_rank=4,
    lora_start="",
    num_steps=6,
    batch_size=4,
    accumulation_steps=1,
    gradient_checkpointing=False,
    optimizer=OPTIMIZER,
    caption_dropout=0.1,
    snr_gamma=5.0,
    flip=True,
    validation_every_steps=2,
    validation_prompts=["a man with a sword", "a girl"],
)

Start = Callable[..., TeacherTrainer]


def base_at(folder: Path) -> Base:
    return Base(
        model=str(folder),
        revision="",
        variant="",
        frozen_precision="fp32",
        autocast="fp32",
        resolution_px=32,
        prompt_template=TEMPLATE,
        caption_chunks=1,
    )


def load(bundle: ModelBundle, dataset_dir: Path, cache_dir: Path, params: Teacher = PARAMS) -> TeacherData:
    return load_data(
        bundle,
        dataset_dir=dataset_dir,
        prompt_template=TEMPLATE,
        drawn_prompts=params.validation_prompts,
        flip=params.flip,
        is_text_encoder_trained=params.lora_text_encoder,
        cache_dir=cache_dir,
    )


@pytest.fixture
def start(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> Start:
    def start(**changes: object) -> TeacherTrainer:
        params = PARAMS.model_copy(update=changes)
        bundle = load_bundle(base_at(tiny_pipeline_dir))
        data = load(bundle, tiny_dataset_dir, tmp_path / f"cache{len(list(tmp_path.iterdir()))}", params)
        return TeacherTrainer(bundle, data, params=params, autocast="fp32", guidance_scale=2.0)

    return start


def train(folder: Path, pipeline_dir: Path, dataset_dir: Path, params: Teacher = PARAMS) -> None:
    train_teacher(
        dataset_dir,
        params,
        base=base_at(pipeline_dir),
        guidance_scale=2.0,
        out_dir=folder / "teacher",
        lora_dir=folder / "lora",
        metrics_path=folder / "teacher.json",
        validation_grid_path=folder / "grid.png",
        run=TrainingRun(checkpoint_dir=folder / "checkpoints", curves_path=folder / "teacher.tsv"),
    )


@pytest.fixture
def data(tiny_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path) -> TeacherData:
    return load(tiny_bundle, tiny_dataset_dir, tmp_path / "cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline_dir: Path, tiny_dataset_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, tiny_pipeline_dir, tiny_dataset_dir)
    return folder


def test_a_batch_depends_only_on_its_step(data: TeacherData) -> None:
    first, again, other = (draw_batch(data, PARAMS, step=step) for step in (3, 3, 4))
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)


def test_captions_are_dropped_with_the_given_probability(data: TeacherData) -> None:
    empty = data.prompts[0]

    def dropped(probability: float) -> float:
        params = PARAMS.model_copy(update={"caption_dropout": probability, "batch_size": 500})
        return float((draw_batch(data, params, step=0).prompts == empty).flatten(1).all(dim=1).float().mean())

    assert dropped(0.0) == 0
    assert dropped(1.0) == 1
    assert dropped(0.3) == pytest.approx(0.3, abs=0.06)


def test_half_of_the_pictures_are_mirrored_with_flip(data: TeacherData) -> None:
    latents = CachedLatents(latents=torch.zeros(16, 4, 4, 4), flipped=torch.ones(16, 4, 4, 4))
    marked = replace(data, train=(replace(data.train[0], latents=latents),))

    def mirrored(flip: bool) -> float:
        params = PARAMS.model_copy(update={"flip": flip, "batch_size": 500})
        return float(draw_batch(marked, params, step=0).latents.mean())

    assert mirrored(False) == 0
    assert mirrored(True) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_every_adapter_gets_a_gradient_after_two_steps(start: Start, text_encoder: bool) -> None:
    targets = "attention" if text_encoder else "attention_convolutions"
    trainer = start(lora_targets=targets, lora_text_encoder=text_encoder, caption_dropout=0.0)
    trainer.train_step(0)
    trainer.train_step(1)
    trainer._loss(draw_batch(trainer._data, PARAMS, step=2)).backward()
    without = [
        name
        for name, item in trainer.denoiser.named_parameters()
        if item.requires_grad and not (item.grad is not None and item.grad.abs().max() > 0)
    ]
    assert without == []
    assert len(trainer.learner.trainable) == 2 * trainer.num_layers
    assert any(name.startswith("text_encoder") for name in lora_layers(trainer.denoiser)) == text_encoder


def test_training_changes_the_outputs_and_no_weight_of_the_base(start: Start, tiny_bundle: ModelBundle) -> None:
    trainer = start()
    before = trainer.validation_loss()
    for step in range(3):
        trainer.train_step(step)
    assert trainer.validation_loss() != before
    trained = {name.replace(".base_layer", ""): item for name, item in trainer.denoiser.unet.state_dict().items()}
    for name, item in tiny_bundle.unet.state_dict().items():
        assert torch.equal(trained[name], item), name


def test_one_batch_is_overfitted(start: Start) -> None:
    optimizer = OPTIMIZER.model_copy(update={"warmup_steps": 0})
    trainer = start(optimizer=optimizer, lora_rank=16, lora_targets="attention_convolutions")
    losses = [trainer.train_step(0)["loss"] for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_validation_in_threads_computes_no_gradients_and_the_same_loss(
    start: Start, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new thread begins with gradients on."""
    trainer = start(batch_size=1)
    loss = trainer._loss
    found: list[tuple[str, bool]] = []

    def recorded_loss(batch: Batch) -> torch.Tensor:
        found.append((threading.current_thread().name, torch.is_grad_enabled()))
        return loss(batch)

    monkeypatch.setattr(trainer, "_loss", recorded_loss)
    in_threads = trainer.validation_loss()
    names, gradients = zip(*found, strict=True)
    assert all(name.startswith("compute") for name in names)
    assert not any(gradients)
    torch.set_num_threads(1)
    assert trainer.validation_loss() == pytest.approx(in_threads, rel=1e-5)


def test_the_validation_loss_does_not_depend_on_the_global_generator(start: Start) -> None:
    trainer = start()
    state = torch.get_rng_state()
    first = trainer.validation_loss()
    torch.manual_seed(123)
    assert trainer.validation_loss() == first
    assert start().validation_loss() == first
    torch.set_rng_state(state)


def test_validation_uses_the_average_and_leaves_the_trained_weights(start: Start) -> None:
    trainer = start(optimizer=OPTIMIZER.model_copy(update={"ema_decay": 0.9}))
    for step in range(3):
        trainer.train_step(step)
    trained = [item.detach().clone() for item in trainer.learner.trainable]
    loss = trainer.validation_loss()
    assert trainer.validate(3)["validation_loss"] != loss
    assert all(torch.equal(item, before) for item, before in zip(trainer.learner.trainable, trained, strict=True))


def test_steps_with_gradients_that_are_not_finite_are_skipped_and_too_many_are_an_error(start: Start) -> None:
    trainer = start()
    trainer.train_step(0)
    trainer._data.train[0].latents.latents.fill_(float("nan"))
    trainer._data.train[0].latents.flipped.fill_(float("nan"))
    kept = [item.detach().clone() for item in trainer.learner.trainable]
    trainer.train_step(1)
    assert all(torch.equal(item, old) for item, old in zip(trainer.learner.trainable, kept, strict=True))
    assert trainer.metrics()["skipped_steps"] == 1
    trainer.learner.guard.load_state_dict({"in_a_row": MAX_SKIPPED_IN_A_ROW - 1, "num_skipped": 1})
    with pytest.raises(StageError, match=r"not finite; lower teacher\.optimizer\.learning_rate"):
        trainer.train_step(2)


def test_the_merged_pipeline_is_the_base_with_the_saved_adapters(trained: Path, tiny_pipeline_dir: Path) -> None:
    merged = load_pipeline_folder(trained / "teacher", precision="fp32").unet
    adapted = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    adapted.load_lora_weights(trained / "lora")
    plain = load_pipeline_folder(tiny_pipeline_dir, precision="fp32").unet
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 4, 4, 4, generator=generator), torch.tensor([5, 700]), torch.randn(2, 77, 16)
    with torch.no_grad():
        expected = adapted.unet(*inputs).sample
        torch.testing.assert_close(merged(*inputs).sample, expected, rtol=1e-4, atol=1e-5)
        assert (plain(*inputs).sample - expected).abs().max() > 1e-3
    assert list(merged.state_dict()) == list(plain.state_dict())


def test_networks_that_are_not_trained_are_saved_unchanged(trained: Path, tiny_pipeline_dir: Path) -> None:
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        saved, original = load_file(trained / "teacher" / part), load_file(tiny_pipeline_dir / part)
        assert saved.keys() == original.keys()
        assert all(torch.equal(saved[name], original[name]) for name in original)


def test_the_metrics_are_those_of_the_best_validation(trained: Path) -> None:
    metrics = json.loads((trained / "teacher.json").read_text())
    rows = [line.split("\t") for line in (trained / "teacher_validation.tsv").read_text().splitlines()[1:]]
    losses = {int(step): float(loss) for step, loss in rows}
    assert sorted(losses) == [0, 2, 4, 6]
    assert metrics["start_validation_loss"] == losses.pop(0)
    assert metrics["best_validation_loss"] == min(losses.values())
    assert losses[metrics["best_step"]] == metrics["best_validation_loss"]
    assert metrics["adapted_layers"] > 0
    assert metrics["trainable_parameters"] == sum(
        item.numel() for item in load_file(trained / "lora" / "pytorch_lora_weights.safetensors").values()
    )


def test_the_grid_has_a_row_per_validation_and_a_column_per_prompt(trained: Path) -> None:
    with Image.open(trained / "grid.png") as grid:
        assert grid.size == (128 + 134 * 2 + 6, 38 + 134 * 4)
        assert json.loads(grid.text["captions"]) == ["base", "step 2", "step 4", "step 6"]


def test_outputs_contain_no_path_of_this_machine(trained: Path, tiny_pipeline_dir: Path) -> None:
    for path in (trained / "teacher").rglob("*.json"):
        assert str(tiny_pipeline_dir) not in path.read_text(), path


def test_a_killed_run_ends_with_the_same_bytes(
    trained: Path, tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    kill_and_resume(tmp_path, tiny_pipeline_dir, tiny_dataset_dir, PARAMS)
    assert_same_outs(trained, tmp_path)


@pytest.mark.slow
def test_a_killed_run_that_trains_the_text_encoder_ends_with_the_same_bytes(
    tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    params = PARAMS.model_copy(update={"lora_text_encoder": True, "lora_targets": "attention_convolutions"})
    train(tmp_path / "whole", tiny_pipeline_dir, tiny_dataset_dir, params)
    kill_and_resume(tmp_path / "resumed", tiny_pipeline_dir, tiny_dataset_dir, params)
    assert_same_outs(tmp_path / "whole", tmp_path / "resumed")


def kill_and_resume(folder: Path, pipeline_dir: Path, dataset_dir: Path, params: Teacher) -> None:
    """Raise an error in step 5, after the checkpoint of step 4, and run again."""
    with killed_in_training(UNet2DConditionModel, call=6), pytest.raises(KilledError):
        train(folder, pipeline_dir, dataset_dir, params)
    assert not (folder / "teacher").exists()
    train(folder, pipeline_dir, dataset_dir, params)


def assert_same_outs(whole: Path, resumed: Path) -> None:
    for out in ("teacher", "lora", "teacher.tsv", "teacher_validation.tsv", "teacher.json", "grid.png"):
        assert contents(whole / out) == contents(resumed / out), out


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_prompts_are_captions_in_the_template(tiny_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"lora_text_encoder": True})
    data = load(tiny_bundle, tiny_dataset_dir, tmp_path, params)
    example = load_split(tiny_dataset_dir, "train", prompt_template=TEMPLATE)[0]
    expected = tokenize(tiny_bundle, [f"shinobi: {example.caption}"])[0]
    assert torch.equal(data.prompts[data.train[0].rows.rows[0, 0]], expected)


# Aspect buckets


@pytest.fixture
def bucketed(tiny_bundle: ModelBundle, bucketed_dataset_dir: Path, tmp_path: Path) -> TeacherData:
    return load(tiny_bundle, bucketed_dataset_dir, tmp_path / "cache")


def test_latents_have_the_sizes_of_the_buckets_and_each_size_is_cached_in_its_folder(
    bucketed: TeacherData, tmp_path: Path
) -> None:
    shapes = [(4, 4, 4), (4, 4, 8)]
    for split, sizes in ((bucketed.train, [10, 6]), (bucketed.validation, [2, 2])):
        assert [tuple(bucket.latents.latents.shape) for bucket in split] == [
            (size, *shape) for size, shape in zip(sizes, shapes, strict=True)
        ]
    names = {path.name for path in (tmp_path / "cache/latents_train").iterdir()}
    assert names == {"32x32", "64x32"}


def test_every_batch_has_one_size_and_every_picture_is_visited_as_often_as_the_others(bucketed: TeacherData) -> None:
    params = PARAMS.model_copy(update={"flip": False, "batch_size": 2})
    visits = {(size, index): 0 for size, bucket in enumerate(bucketed.train) for index in range(len(bucket))}
    shapes = set()
    for step in range(160):
        batch = draw_batch(bucketed, params, step=step)
        assert batch.noise.shape == batch.latents.shape
        shapes.add(tuple(batch.latents.shape))
        size = int(batch.latents.shape[-1] == 8)
        for item in batch.latents:
            (index,) = torch.where((bucketed.train[size].latents.latents == item).flatten(1).all(dim=1))[0].tolist()
            visits[size, index] += 1
    assert shapes == {(2, 4, 4, 4), (2, 4, 4, 8)}
    assert all(abs(number - 20) <= 2 for number in visits.values())  # 320 visits of 16 pictures


def test_a_batch_has_the_captions_of_its_pictures(
    bucketed: TeacherData, tiny_bundle: ModelBundle, bucketed_dataset_dir: Path
) -> None:
    """The first two wide pictures of the split are its second and its fifth."""
    examples = load_split(bucketed_dataset_dir, "train", prompt_template=TEMPLATE)
    rows = bucketed.train[1].rows.rows[:2, 0]
    expected = encode_prompts(tiny_bundle, [examples[1].prompt, examples[4].prompt])
    torch.testing.assert_close(bucketed.prompts[rows], expected, rtol=1e-4, atol=1e-5)


def test_validation_covers_the_pictures_of_all_sizes(bucketed: TeacherData) -> None:
    batches = validation_batches(bucketed, batch_size=3, seed=0)
    counts = {
        width: sum(len(batch.latents) for batch in batches if batch.latents.shape[-1] == width) for width in (4, 8)
    }
    assert counts == {4: 2 * len(VALIDATION_TIMESTEPS), 8: 2 * len(VALIDATION_TIMESTEPS)}


@pytest.mark.slow
def test_a_killed_run_with_pictures_of_several_sizes_ends_with_the_same_bytes(
    bucketed: TeacherData,
    tiny_pipeline_dir: Path,
    bucketed_dataset_dir: Path,
    tmp_path: Path,
) -> None:
    assert len({draw_batch(bucketed, PARAMS, step=step).latents.shape for step in range(PARAMS.num_steps)}) == 2
    train(tmp_path / "whole", tiny_pipeline_dir, bucketed_dataset_dir)
    kill_and_resume(tmp_path / "resumed", tiny_pipeline_dir, bucketed_dataset_dir, PARAMS)
    assert_same_outs(tmp_path / "whole", tmp_path / "resumed")
