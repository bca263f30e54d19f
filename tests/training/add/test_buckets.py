"""ADD on a data set with wide pictures: samples of the teacher and real pictures at their aspect bucket's size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from naruto_add.config.schema import Add
from naruto_add.data.buckets import by_size
from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, load_pipeline_folder
from naruto_add.models.discriminator import pooled_embeds
from naruto_add.training.add.batch import draw_batch, pairs_at
from naruto_add.training.add.consistency import draw_consistency_batch
from naruto_add.training.add.dataset import AddData
from naruto_add.training.draw_pool import draw_pool, pool_buckets, pool_prompts
from tests.training.add import build as build_module
from tests.training.add.build import ALL_LOSSES, GUIDANCE_SCALE, TEMPLATE, TIMESTEPS, Build, same_training, train

SQUARE, WIDE = (4, 4, 4), (4, 4, 8)


def add_params(**values: Any) -> Add:
    return build_module.add_params(**{"batch_size": 4, "real_source": "dataset", **values})


@pytest.fixture(scope="session")
def bucketed_pool_path(
    tiny_pipeline_dir: Path, bucketed_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("bucketed_pool")
    prompts = pool_prompts(bucketed_dataset_dir, TEMPLATE)
    draw_pool(
        load_pipeline_folder(tiny_pipeline_dir, precision="fp32"),
        prompts=prompts,
        buckets=pool_buckets(bucketed_dataset_dir, TEMPLATE, prompts),
        size=16,
        num_steps=4,
        timesteps=TIMESTEPS,
        guidance_scale=GUIDANCE_SCALE,
        seed=0,
        path=folder / "pool.safetensors",
        cache_dir=folder,
    )
    return folder / "pool.safetensors"


@pytest.fixture
def bucketed(
    build: Build,
    student: UNet2DConditionModel,
    student_dir: Path,
    bucketed_pool_path: Path,
    bucketed_dataset_dir: Path,
    tmp_path: Path,
) -> Build:
    return Build(
        build.bundle,
        student=student,
        student_dir=student_dir,
        pool_path=bucketed_pool_path,
        dataset_dir=bucketed_dataset_dir,
        tmp=tmp_path / "bucketed",
    )


def wide_steps(data: AddData, params: Add, num_steps: int = 60) -> list[int]:
    (bucket,) = data.buckets
    return [step for step in range(num_steps) if pairs_at(data, seed=params.seed, step=step)[0] is bucket.pairs]


def wide_pictures(build: Build) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of the wide training pictures, and the pooled embeddings of their prompts."""
    examples = by_size(load_split(build.dataset_dir, "train", prompt_template=TEMPLATE))[64, 32]
    bundle: ModelBundle = build.bundle
    ids = bundle.tokenizer(
        [example.prompt for example in examples], padding="max_length", return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        embeds = bundle.text_encoder(ids).last_hidden_state
    pooled = pooled_embeds(embeds, ids, eos_token_id=bundle.tokenizer.eos_token_id)
    return encode_pixels(bundle, load_pixels(examples)), pooled


@pytest.mark.parametrize("draw_of", [draw_batch, draw_consistency_batch])
def test_sizes_share_the_steps_by_their_samples(bucketed: Build, draw_of: Any) -> None:
    """12 square samples are trained on and 6 wide ones."""
    params = add_params()
    data = bucketed.data(params)
    shapes = [tuple(draw_of(data, params, step=step).x0.shape[1:]) for step in range(60)]
    assert set(shapes) == {SQUARE, WIDE}
    assert shapes.count(WIDE) == pytest.approx(20, abs=2)


def test_real_latents_of_a_wide_batch_are_wide_pictures_with_their_prompts(bucketed: Build) -> None:
    params = add_params(batch_size=16)
    data = bucketed.data(params)
    pictures, pooled = wide_pictures(bucketed)
    batch = draw_batch(data, params, step=wide_steps(data, params)[0])
    assert batch.real_latents.shape == batch.x0.shape == (16, *WIDE)
    distances = (batch.real_latents[:, None] - pictures).abs().flatten(2).amax(dim=2)
    nearest = distances.argmin(dim=1)
    assert distances.min(dim=1).values.max() < 1e-4
    assert len(set(nearest.tolist())) > 2
    torch.testing.assert_close(batch.real_pooled, pooled[nearest], rtol=1e-4, atol=1e-5)


def test_without_pictures_the_real_latents_of_a_wide_batch_are_the_teachers(bucketed: Build) -> None:
    params = add_params(real_source="teacher")
    data = bucketed.data(params)
    batch = draw_batch(data, params, step=wide_steps(data, params)[0])
    assert torch.equal(batch.real_latents, batch.x0)


def test_pictures_of_the_score_are_square(bucketed: Build) -> None:
    assert bucketed.data(add_params()).real_pixels.shape[1:] == (3, 32, 32)


@pytest.mark.parametrize("draw_of", [draw_batch, draw_consistency_batch])
def test_every_sample_is_visited_as_often_as_the_others(bucketed: Build, draw_of: Any) -> None:
    params = add_params()
    data = bucketed.data(params)
    sizes = (data.train, data.buckets[0].pairs)
    samples = [x0 for pairs in sizes for x0 in pairs.x0]
    visits = [0] * len(samples)
    for step in range(90):  # 360 visits of 18 samples
        for x0 in draw_of(data, params, step=step).x0:
            visits[next(i for i, each in enumerate(samples) if each.shape == x0.shape and torch.equal(each, x0))] += 1
    assert all(abs(number - 20) <= 2 for number in visits)


@pytest.mark.parametrize("method", ["adversarial", "consistency"])
def test_a_wide_step_trains_the_student(bucketed: Build, method: str) -> None:
    params = add_params(method=method, batch_size=8, **ALL_LOSSES)
    data = bucketed.data(params)
    make: Any = bucketed.trainer if method == "adversarial" else bucketed.consistency_trainer
    trainer = make(params, data=data, scheduler="ddim")
    scalars = trainer.train_step(wide_steps(data, params)[0])
    assert scalars["student_grad_norm"] > 0
    assert scalars.get("discriminator_grad_norm", 1.0) > 0


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(bucketed: Build, tmp_path: Path) -> None:
    params = add_params(num_steps=6, validation_every_steps=3)
    data = bucketed.data(params)
    assert 0 < len(wide_steps(data, params, 6)) < 6
    whole, resumed = (bucketed.trainer(params, data=data) for _ in range(2))
    train(whole, tmp_path / "whole", kill_at=4, killed=tmp_path / "killed")
    assert train(resumed, tmp_path / "killed") == [3, 4, 5]
    assert same_training(whole, resumed)
    assert (tmp_path / "whole/curves.tsv").read_text() == (tmp_path / "killed/curves.tsv").read_text()
