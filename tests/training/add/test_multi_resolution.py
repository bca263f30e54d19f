"""Training at several picture sizes, on a random tiny pipeline whose sides are multiples of 32."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from naruto_add.config.schema import Add
from naruto_add.data.batches import batch_indices
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import dpm_solver_sampler, sample_latents
from naruto_add.runtime.errors import StageError
from naruto_add.training.add.batch import draw_batch, pairs_at
from naruto_add.training.add.consistency import draw_consistency_batch
from naruto_add.training.add.dataset import AddData, Pairs
from naruto_add.training.add.multi_resolution import sample_other_sizes
from naruto_add.training.draw_pool import latent_shape
from naruto_add.training.pool import load_pool
from tests.training.add import build as build_module
from tests.training.add.build import ALL_LOSSES, GUIDANCE_SCALE, SETTINGS, Build, same_training, train

SIZES = [64, "96x32"]
SHAPES = [(4, 4, 4), (4, 8, 8), (4, 4, 12)]


def add_params(**values: Any) -> Add:
    return build_module.add_params(
        **{"batch_size": 4, "resolutions_px": SIZES, "resolution_pool_size": 6, "crop_px": 64, **values}
    )


def draw(build: Build, data: AddData, cache_dir: Path) -> tuple[Pairs, ...]:
    return sample_other_sizes(
        build.bundle,
        data,
        prompts=load_pool(build.pool_path).prompts,
        params=add_params(),
        settings=SETTINGS,
        pool_cache_dir=cache_dir,
    )


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of all tests, which have one teacher and are drawn by the first."""
    return tmp_path_factory.mktemp("samples")


@pytest.fixture
def data(build: Build, cache_dir: Path) -> AddData:
    plain = build.data(add_params())
    return replace(plain, other_sizes=draw(build, plain, cache_dir))


def first_steps(data: AddData, params: Add) -> list[int]:
    """The first step of each size."""
    drawn = [id(pairs_at(data, seed=params.seed, step=step)[0]) for step in range(50)]
    return [drawn.index(id(pairs)) for pairs in (data.train, *data.other_sizes)]


# The order of the steps


def test_every_size_has_an_equal_share_of_the_steps_and_all_its_samples_are_visited_equally_often(
    data: AddData,
) -> None:
    params = add_params(batch_size=2)
    sizes = (data.train, *data.other_sizes)
    visits = [Counter[int]() for _ in sizes]
    for step in range(len(sizes) * 30):
        pairs, number = pairs_at(data, seed=params.seed, step=step)
        size = next(index for index, each in enumerate(sizes) if each is pairs)
        visits[size].update(batch_indices(len(pairs), params.batch_size, seed=params.seed, step=number))
    steps = [sum(each.values()) / params.batch_size for each in visits]
    assert max(steps) - min(steps) <= 3
    for pairs, each in zip(sizes, visits, strict=True):
        assert len(each) == len(pairs) and max(each.values()) - min(each.values()) <= 1


# The samples


def test_at_another_size_the_teachers_samples_are_real_whatever_the_source(data: AddData) -> None:
    params = add_params(real_source="dataset", resolutions_px=SIZES)
    base_step, *other_steps = first_steps(data, params)
    for step in other_steps:
        batch = draw_batch(data, params, step=step)
        assert torch.equal(batch.real_latents, batch.x0) and torch.equal(batch.real_pooled, batch.pooled)
    base = draw_batch(data, params, step=base_step)
    assert not torch.equal(base.real_latents, base.x0)


def test_samples_of_a_size_are_the_teachers_from_noise_of_its_shape(data: AddData, build: Build) -> None:
    assert [tuple(pairs.x0.shape) for pairs in data.other_sizes] == [(6, *shape) for shape in SHAPES[1:]]
    for pairs in data.other_sizes:
        expected = sample_latents(
            build.bundle.unet,
            noise=pairs.noise,
            prompt_embeds=data.prompt_embeds[pairs.rows],
            negative_embeds=data.prompt_embeds[:1],
            sampler=dpm_solver_sampler(build.bundle, 4, GUIDANCE_SCALE),
        )
        torch.testing.assert_close(pairs.x0, expected, rtol=1e-3, atol=1e-4)
        assert {data.prompts[row] for row in pairs.rows} <= set(load_pool(build.pool_path).prompts)
    noises = [pairs.noise[0].flatten()[:16] for pairs in (data.train, *data.other_sizes)]
    assert not any(torch.equal(one, other) for one in noises for other in noises if one is not other)


def test_samples_are_drawn_once(data: AddData, build: Build, cache_dir: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in cache_dir.glob("*.safetensors")}
    assert len(files) == len(SIZES)
    again = draw(build, data, cache_dir)
    assert {path: path.stat().st_mtime_ns for path in cache_dir.glob("*.safetensors")} == files
    assert all(torch.equal(one.x0, other.x0) for one, other in zip(again, data.other_sizes, strict=True))


def test_a_size_that_the_networks_cannot_process_is_an_error(tiny_bundle: ModelBundle) -> None:
    assert latent_shape(tiny_bundle, 32, key="k") == tiny_bundle.latent_shape
    assert latent_shape(tiny_bundle, "96x32", key="k") == (4, 4, 12)  # height before width
    for size in (48, "64x40"):
        with pytest.raises(StageError, match=rf"^add\.resolutions_px: {size} must be a multiple of 32"):
            latent_shape(tiny_bundle, size, key="add.resolutions_px")


# The steps


@pytest.mark.parametrize("draw_of", [draw_batch, draw_consistency_batch])
def test_a_steps_size_depends_only_on_seed_and_step_and_all_sizes_are_equally_frequent(
    data: AddData, draw_of: Any
) -> None:
    def shapes(params: Add) -> list[tuple[int, ...]]:
        return [tuple(draw_of(data, params, step=step).x0.shape[1:]) for step in range(60)]

    drawn = shapes(add_params())
    assert drawn == shapes(add_params(batch_size=8, num_steps=99, learning_rate=0.5))
    assert drawn != shapes(add_params(seed=1))
    assert set(drawn) == set(SHAPES)
    assert all(drawn.count(shape) > 60 / 3 / 2 for shape in SHAPES)


def test_all_latents_of_a_batch_have_its_size(data: AddData) -> None:
    params = add_params(real_source="teacher")
    for step, shape in zip(first_steps(data, params), SHAPES, strict=True):
        batch = draw_batch(data, params, step=step)
        for name in ("noise", "x0", "real_latents", "discriminator_noise", "renoised_noise"):
            assert getattr(batch, name).shape == (4, *shape), name
        assert batch.fresh_noise.shape == (4, 4, *shape)
        assert torch.equal(batch.real_latents, batch.x0)


@pytest.mark.parametrize("method", ["adversarial", "consistency"])
def test_steps_of_all_sizes_train_the_student(build: Build, data: AddData, method: str) -> None:
    params = add_params(method=method, batch_size=8, **ALL_LOSSES)
    make: Any = build.trainer if method == "adversarial" else build.consistency_trainer
    trainer = make(params, data=data, scheduler="ddim")
    for step in first_steps(data, params):
        before = {name: item.detach().clone() for name, item in trainer.student.named_parameters()}
        scalars = trainer.train_step(step)
        assert scalars["student_grad_norm"] > 0
        assert scalars.get("discriminator_grad_norm", 1.0) > 0
        unchanged = [name for name, item in trainer.student.named_parameters() if torch.equal(item, before[name])]
        # At 32 px the middle block has one position, which attends only to itself: queries and keys have no gradient.
        assert {name.partition(".")[0] for name in unchanged} <= {"mid_block"} and len(unchanged) <= 2


def test_a_step_at_the_base_models_size_is_the_same_with_and_without_other_sizes(build: Build, data: AddData) -> None:
    trainer, plain = (build.trainer(add_params(), data=each) for each in (data, replace(data, other_sizes=())))
    step = first_steps(data, trainer.params)[0]
    assert trainer.train_step(step) == plain.train_step(step)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(build: Build, data: AddData, tmp_path: Path) -> None:
    params = add_params(num_steps=6, validation_every_steps=3)
    assert len({tuple(draw_batch(data, params, step=step).x0.shape) for step in range(6)}) > 1
    whole, resumed = (build.trainer(params, data=data) for _ in range(2))
    train(whole, tmp_path / "whole", kill_at=4, killed=tmp_path / "killed")
    assert train(resumed, tmp_path / "killed") == [3, 4, 5]
    assert same_training(whole, resumed)
    assert (tmp_path / "whole/curves.tsv").read_text() == (tmp_path / "killed/curves.tsv").read_text()
