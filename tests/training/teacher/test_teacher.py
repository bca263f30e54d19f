"""The teacher's finetuning: what learns, what is chosen, exact resume, and what the stage leaves."""

import json
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from naruto_add.data.dataset import load_split
from naruto_add.diffusion.bundle import ModelBundle, load_bundle, load_pipeline_folder
from naruto_add.models.lora import lora_layers
from naruto_add.params import Base, Teacher
from naruto_add.runtime import StageError
from naruto_add.training import learner
from naruto_add.training.teacher import run as teacher_run
from naruto_add.training.teacher.inputs import draw_batch, load_data
from naruto_add.training.teacher.run import TeacherRun
from naruto_add.training.teacher.train import train_teacher

PARAMS = Teacher(
    seed=0,
    prompt_template="shinobi: {caption}",
    lora_targets="attention",
    lora_text_encoder=False,
    lora_rank=4,
    lora_alpha=8.0,
    num_steps=6,
    batch_size=4,
    accumulation_steps=1,
    gradient_checkpointing=False,
    optimizer="adamw",
    learning_rate=1e-2,
    warmup_steps=1,
    learning_rate_decay="none",
    caption_dropout=0.1,
    snr_gamma=5.0,
    ema_decay=0.5,
    max_grad_norm=1.0,
    flip=True,
    validation_every_steps=2,
    validation_prompts=["a man with a sword", "a girl"],
)

Start = Callable[..., TeacherRun]


def base_at(folder: Path) -> Base:
    return Base(model=str(folder), revision="", variant="", precision="fp32", resolution_px=32)


@pytest.fixture(autouse=True, scope="module")
def few_picture_steps() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_run, "PICTURE_STEPS", 2)
        yield


@pytest.fixture
def start(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> Start:
    def start(**changes: object) -> TeacherRun:
        params = PARAMS.model_copy(update=changes)
        bundle = load_bundle(base_at(tiny_pipeline_dir))
        cache_dir = tmp_path / f"cache{len(list(tmp_path.iterdir()))}"
        data = load_data(bundle, params, dataset_dir=tiny_dataset_dir, cache_dir=cache_dir)
        return TeacherRun(bundle, data, params=params, precision="fp32", guidance_scale=2.0)

    return start


def train(folder: Path, pipeline_dir: Path, dataset_dir: Path, params: Teacher = PARAMS) -> None:
    train_teacher(
        dataset_dir,
        params,
        base=base_at(pipeline_dir),
        guidance_scale=2.0,
        out_dir=folder / "teacher",
        lora_dir=folder / "lora",
        checkpoint_dir=folder / "checkpoints",
        curves_path=folder / "teacher.tsv",
        metrics_path=folder / "teacher.json",
        validation_grid_path=folder / "grid.png",
    )


@pytest.fixture(scope="module")
def trained(
    few_picture_steps: None, tmp_path_factory: pytest.TempPathFactory, tiny_pipeline_dir: Path, tiny_dataset_dir: Path
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, tiny_pipeline_dir, tiny_dataset_dir)
    return folder


def test_batch_depends_on_its_step_alone(start: Start) -> None:
    data = start()._data
    first, again, other = (draw_batch(data, PARAMS, step=step) for step in (3, 3, 4))
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)


def test_captions_are_dropped_with_their_probability(start: Start) -> None:
    data = start()._data
    empty = data.prompts[0]

    def dropped(probability: float) -> float:
        params = PARAMS.model_copy(update={"caption_dropout": probability, "batch_size": 500})
        return float((draw_batch(data, params, step=0).prompts == empty).flatten(1).all(dim=1).float().mean())

    assert dropped(0.0) == 0
    assert dropped(1.0) == 1
    assert dropped(0.3) == pytest.approx(0.3, abs=0.06)


def test_half_the_pictures_are_mirrored_if_asked(start: Start) -> None:
    data = start()._data
    marked = replace(data, train=replace(data.train, latents=torch.zeros(16, 4, 4, 4), flipped=torch.ones(16, 4, 4, 4)))

    def mirrored(flip: bool) -> float:
        params = PARAMS.model_copy(update={"flip": flip, "batch_size": 500})
        return float(draw_batch(marked, params, step=0).latents.mean())

    assert mirrored(False) == 0
    assert mirrored(True) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_every_adapter_gets_a_gradient_after_two_steps(start: Start, text_encoder: bool) -> None:
    targets = "attention" if text_encoder else "attention_convolutions"
    run = start(lora_targets=targets, lora_text_encoder=text_encoder, caption_dropout=0.0)
    run.train_step(0)
    run.train_step(1)
    run._loss(draw_batch(run._data, PARAMS, step=2)).backward()
    without = [
        name
        for name, item in run.denoiser.named_parameters()
        if item.requires_grad and not (item.grad is not None and item.grad.abs().max() > 0)
    ]
    assert without == []
    assert len(run.learner.trainable) == 2 * run.num_layers
    assert any(name.startswith("text_encoder") for name in lora_layers(run.denoiser)) == text_encoder


def test_base_weights_stay_bit_identical_while_outputs_change(start: Start, tiny_bundle: ModelBundle) -> None:
    run = start()
    before = run.validation_loss()
    for step in range(3):
        run.train_step(step)
    assert run.validation_loss() != before
    trained = {name.replace(".base_layer", ""): item for name, item in run.denoiser.unet.state_dict().items()}
    for name, item in tiny_bundle.unet.state_dict().items():
        assert torch.equal(trained[name], item), name


def test_one_batch_is_overfitted(start: Start) -> None:
    run = start(warmup_steps=0, lora_rank=16, lora_targets="attention_convolutions")
    losses = [run.train_step(0)["loss"] for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


def test_validation_loss_is_deterministic_and_draws_no_randomness(start: Start) -> None:
    run = start()
    state = torch.get_rng_state()
    first = run.validation_loss()
    torch.manual_seed(123)
    assert run.validation_loss() == first
    assert start().validation_loss() == first
    torch.set_rng_state(state)


def test_validation_scores_the_average_and_leaves_the_live_weights(start: Start) -> None:
    run = start(ema_decay=0.9)
    for step in range(3):
        run.train_step(step)
    live = [item.detach().clone() for item in run.learner.trainable]
    live_loss = run.validation_loss()
    assert run.validate(3)["validation_loss"] != live_loss
    assert all(torch.equal(item, kept) for item, kept in zip(run.learner.trainable, live, strict=True))


def test_gradients_that_are_not_finite_are_skipped_counted_and_finally_an_error(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "MAX_SKIPPED_IN_A_ROW", 3)
    run = start()
    run.train_step(0)
    run._data.train.latents.fill_(float("nan"))
    run._data.train.flipped.fill_(float("nan"))
    kept = [item.detach().clone() for item in run.learner.trainable]
    run.train_step(1)
    assert all(torch.equal(item, old) for item, old in zip(run.learner.trainable, kept, strict=True))
    assert run.metrics()["skipped_steps"] == 1
    with pytest.raises(StageError, match=r"not finite; lower teacher\.learning_rate"):
        for step in range(2, 4):
            run.train_step(step)


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


def test_untrained_parts_are_saved_unchanged(trained: Path, tiny_pipeline_dir: Path) -> None:
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        saved, original = load_file(trained / "teacher" / part), load_file(tiny_pipeline_dir / part)
        assert saved.keys() == original.keys()
        assert all(torch.equal(saved[name], original[name]) for name in original)


def test_the_best_checkpoint_is_the_one_reported(trained: Path) -> None:
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


def test_outs_do_not_tell_where_they_were_made(trained: Path, tiny_pipeline_dir: Path) -> None:
    for path in (trained / "teacher").rglob("*.json"):
        assert str(tiny_pipeline_dir) not in path.read_text(), path


def test_a_killed_run_ends_with_the_same_bytes(
    trained: Path, tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_and_resume(monkeypatch, tmp_path, tiny_pipeline_dir, tiny_dataset_dir, PARAMS)
    assert_same_outs(trained, tmp_path)


@pytest.mark.slow
def test_a_killed_run_that_trains_the_text_encoder_ends_with_the_same_bytes(
    tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = PARAMS.model_copy(update={"lora_text_encoder": True, "lora_targets": "attention_convolutions"})
    train(tmp_path / "whole", tiny_pipeline_dir, tiny_dataset_dir, params)
    kill_and_resume(monkeypatch, tmp_path / "resumed", tiny_pipeline_dir, tiny_dataset_dir, params)
    assert_same_outs(tmp_path / "whole", tmp_path / "resumed")


def kill_and_resume(
    monkeypatch: pytest.MonkeyPatch, folder: Path, pipeline_dir: Path, dataset_dir: Path, params: Teacher
) -> None:
    """Break off in step 5, after the checkpoint of step 4, and run again."""
    step_of = TeacherRun.train_step

    def killed(self: TeacherRun, step: int) -> dict[str, float]:
        if step == 5:
            raise RuntimeError("killed")
        return step_of(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TeacherRun, "train_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(folder, pipeline_dir, dataset_dir, params)
    assert not (folder / "teacher").exists()
    train(folder, pipeline_dir, dataset_dir, params)


def assert_same_outs(whole: Path, resumed: Path) -> None:
    for out in ("teacher", "lora", "teacher.tsv", "teacher_validation.tsv", "teacher.json", "grid.png"):
        assert contents(whole / out) == contents(resumed / out), out


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_every_prompt_bears_the_template(start: Start, tiny_dataset_dir: Path, tiny_bundle: ModelBundle) -> None:
    run = start(lora_text_encoder=True)
    caption = load_split(tiny_dataset_dir, "train")[0].caption
    ids = run._data.prompts[run._data.train_rows[0]]
    text = tiny_bundle.tokenizer.decode(ids, skip_special_tokens=True)
    assert (
        text.split()
        == tiny_bundle.tokenizer.decode(
            tiny_bundle.tokenizer(f"shinobi: {caption}").input_ids, skip_special_tokens=True
        ).split()
    )
