"""Training at several picture sizes, on a random tiny pipeline whose sides are multiples of 32."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, load_unet
from naruto_add.diffusion.sampling import fast_sampler, sample_latents, sample_states
from naruto_add.params import Add
from naruto_add.runtime import StageError
from naruto_add.training import pool as pool_module
from naruto_add.training.add.consistency_run import ConsistencyRun, draw_consistency_batch
from naruto_add.training.add.distill import distill
from naruto_add.training.add.distillation_run import DistillationRun
from naruto_add.training.add.inputs import AddData, Pairs, draw_batch, load_data, pairs_at
from naruto_add.training.add.resolutions import draw_further, latent_shape
from naruto_add.training.add.run import AddRun
from naruto_add.training.loop import run_steps
from naruto_add.training.pool import load_pool
from tests.training.add.build import PROFILE, TEMPLATE, same

SIZES = [64, "96x32"]
SHAPES = [(4, 4, 4), (4, 8, 8), (4, 4, 12)]
SMALL = {
    "num_steps": 6,
    "batch_size": 4,
    "discriminator_width": 8,
    "adv_start_steps": 0,
    "adv_ramp_steps": 0,
    "warmup_steps": 0,
    "validation_every_steps": 3,
    "resolutions_px": SIZES,
    "resolution_pool_size": 6,
}
EVERYTHING = {
    "discriminators": ["latent", "pixel"],
    "pixel_crop_px": 64,
    "pair_target": "solve",
    "solve_steps": 2,
    "renoised_space": "pixel",
    "renoised_crop_px": 64,
    "misaligned_weight": 0.5,
    "perceptual_weight": 0.5,
    "perceptual_crop_px": 64,
    "augment": "adaptive",
    "augment_adapt_steps": 8,
    "augment_flip": True,
}


def add_params(**values: Any) -> Add:
    return Add.model_validate({**PROFILE.add.model_dump(), **SMALL, **values})


@pytest.fixture
def data(tiny_bundle: ModelBundle, pool_path: Path, tiny_dataset_dir: Path, tmp_path: Path) -> AddData:
    plain = load_data(
        tiny_bundle,
        load_pool(pool_path),
        params=add_params(),
        prompt_template=TEMPLATE,
        dataset_dir=tiny_dataset_dir,
        cache_dir=tmp_path / "cache",
    )
    return replace(plain, further=draw(tiny_bundle, plain, pool_path, tmp_path / "cache"))


def draw(
    bundle: ModelBundle, data: AddData, pool_path: Path, folder: Path, params: Add | None = None
) -> tuple[Pairs, ...]:
    return draw_further(
        bundle,
        data,
        captions=load_pool(pool_path).prompts,
        params=params or add_params(),
        num_steps=4,
        guidance_scale=3.0,
        pool_cache_dir=folder,
    )


Build = Callable[[type[DistillationRun], Add], Any]


@pytest.fixture
def build(tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, data: AddData) -> Build:
    def make(run_type: Any, params: Add) -> Any:
        student = load_unet(tiny_pipeline_dir / "unet", precision="fp32").requires_grad_(True)
        with torch.no_grad():
            student.conv_out.weight.mul_(1.05)
        return run_type(
            tiny_bundle,
            student,
            data=data if params.resolutions_px else replace(data, further=()),
            params=params,
            guidance_scale=3.0,
            student_scheduler="ddim",
            precision="fp32",
        )

    return make


def steps_of_each_size(data: AddData, params: Add) -> list[int]:
    """The first step that each size has."""
    drawn = [id(pairs_at(data, seed=params.seed, step=step)) for step in range(50)]
    return [drawn.index(id(pairs)) for pairs in (data.train, *data.further)]


# The samples


def test_samples_of_a_size_are_the_teachers_from_noise_of_that_shape(
    data: AddData, tiny_bundle: ModelBundle, pool_path: Path
) -> None:
    assert [tuple(pairs.x0.shape) for pairs in data.further] == [(6, *shape) for shape in SHAPES[1:]]
    for pairs in data.further:
        expected = sample_latents(
            tiny_bundle.unet,
            noise=pairs.noise,
            prompt_embeds=data.prompt_embeds[pairs.rows],
            negative_embeds=data.prompt_embeds[:1],
            sampler=fast_sampler(tiny_bundle, 4, 3.0),
        )
        torch.testing.assert_close(pairs.x0, expected, rtol=1e-3, atol=1e-4)
        assert {data.prompts[row] for row in pairs.rows} <= set(load_pool(pool_path).prompts)
    first = [pairs.noise[0].flatten()[:16] for pairs in (data.train, *data.further)]
    assert not any(torch.equal(one, other) for one in first for other in first if one is not other)


def test_samples_are_drawn_once_and_those_of_a_killed_run_are_kept(
    data: AddData, tiny_bundle: ModelBundle, pool_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "CHUNK", 4)
    batches: list[int] = []

    def dying(*args: Any, noise: Tensor, **options: Any) -> Tensor:
        batches.append(len(noise))
        if len(batches) == 3:
            raise ConnectionAbortedError
        return sample_states(*args, noise=noise, **options)

    monkeypatch.setattr(pool_module, "sample_states", dying)
    with pytest.raises(ConnectionAbortedError):
        draw(tiny_bundle, data, pool_path, tmp_path)
    resumed = draw(tiny_bundle, data, pool_path, tmp_path)
    assert batches == [4, 2, 4, 4, 2]  # the first size whole; died in the second; the second
    assert all(torch.allclose(one.x0, other.x0, atol=1e-5) for one, other in zip(resumed, data.further, strict=True))
    again = draw(tiny_bundle, data, pool_path, tmp_path)
    assert len(batches) == 5
    assert all(torch.equal(one.x0, other.x0) for one, other in zip(resumed, again, strict=True))


def test_a_size_that_the_networks_cannot_halve_is_refused(tiny_bundle: ModelBundle) -> None:
    assert latent_shape(tiny_bundle, 32) == tiny_bundle.latent_shape
    assert latent_shape(tiny_bundle, "96x32") == (4, 4, 12)  # height before width
    for size in (48, "64x40"):
        with pytest.raises(StageError, match=rf"^add\.resolutions_px: the sides of {size} are not multiples of 32"):
            latent_shape(tiny_bundle, size)


# The steps


@pytest.mark.parametrize("draw_of", [draw_batch, draw_consistency_batch])
def test_a_steps_size_depends_on_seed_and_step_alone_and_every_size_has_its_turn(data: AddData, draw_of: Any) -> None:
    def shapes(params: Add) -> list[tuple[int, ...]]:
        return [tuple(draw_of(data, params, step=step).x0.shape[1:]) for step in range(60)]

    params = add_params()
    drawn = shapes(params)
    assert drawn == shapes(add_params(batch_size=2, num_steps=99, learning_rate=0.5))
    assert drawn != shapes(add_params(seed=1))
    assert set(drawn) == set(SHAPES)
    assert all(drawn.count(shape) > 60 / 3 / 2 for shape in SHAPES)
    batch, again = (draw_of(data, params, step=7) for _ in range(2))
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(batch).items())


def test_all_of_a_batch_is_of_its_size(data: AddData) -> None:
    params = add_params()
    for step, shape in zip(steps_of_each_size(data, params), SHAPES, strict=True):
        batch = draw_batch(data, params, step=step)
        for name in ("noise", "x0", "real_latents", "judged_noise", "renoised_noise"):
            assert getattr(batch, name).shape == (4, *shape), name
        assert batch.fresh_noise.shape == (4, 4, *shape)
        assert torch.equal(batch.real_latents, batch.x0)


@pytest.mark.parametrize(("run_type", "values"), [(AddRun, EVERYTHING), (ConsistencyRun, {"method": "consistency"})])
def test_every_size_has_a_gradient_and_moves_the_student(build: Build, run_type: Any, values: dict[str, Any]) -> None:
    run = build(run_type, add_params(**values))
    for step in steps_of_each_size(run.data, run.params):
        before = {name: item.detach().clone() for name, item in run.student.named_parameters()}
        scalars = run.train_step(step)
        assert scalars["student_grad_norm"] > 0
        assert scalars.get("discriminator_grad_norm", 1.0) > 0
        still = [name for name, item in run.student.named_parameters() if torch.equal(item, before[name])]
        # At 32 px the middle is one place, which attends to itself alone: no gradient to queries and keys.
        assert {name.partition(".")[0] for name in still} <= {"mid_block"} and len(still) <= 2


def test_augmentation_adapts_at_the_size_that_unseen_pictures_have(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(AddRun, add_params(augment="adaptive"))
    monkeypatch.setattr(run.critics.strength, "is_due", lambda _step: True)
    adapted: list[float] = []
    monkeypatch.setattr(run.critics.strength, "adapt", lambda *, seen, unseen: adapted.append(seen))
    for count, step in zip((1, 1, 1), steps_of_each_size(run.data, run.params), strict=True):
        run.train_step(step)
        assert len(adapted) == count


def test_without_further_sizes_nothing_changes(build: Build, data: AddData) -> None:
    """A step at the base model's size is what it is where there is no other."""
    run, plain = (build(AddRun, add_params(resolutions_px=sizes)) for sizes in (SIZES, []))
    step = steps_of_each_size(data, run.params)[0]
    assert run.train_step(step) == plain.train_step(step)
    assert {len(draw_batch(plain.data, plain.params, step=step).x0[0, 0]) for step in range(20)} == {4}


def test_a_killed_run_resumes_bit_for_bit(build: Build, tmp_path: Path) -> None:
    params = add_params(augment="adaptive", augment_adapt_steps=8)
    whole, killed, resumed = (build(AddRun, params) for _ in range(3))

    def run_all(run: Any, folder: Path, *, stop_at: int | None = None) -> None:
        def train_step(step: int) -> Any:
            if step == stop_at:
                raise ConnectionAbortedError
            return run.train_step(step)

        run_steps(
            train_step,
            name="add",
            num_steps=params.num_steps,
            state=run.state(),
            validate=run.validate,
            validation_every_steps=params.validation_every_steps,
            checkpoint_dir=folder,
            curves_path=folder / "curves.tsv",
        )

    run_all(whole, tmp_path / "whole")
    with pytest.raises(ConnectionAbortedError):
        run_all(killed, tmp_path / "killed", stop_at=4)
    run_all(resumed, tmp_path / "killed")
    for name, item in whole.state().items():
        assert same(item.state_dict(), resumed.state()[name].state_dict()), name
    assert (tmp_path / "whole/curves.tsv").read_text() == (tmp_path / "killed/curves.tsv").read_text()
    assert len({tuple(draw_batch(whole.data, params, step=step).x0.shape) for step in range(6)}) > 1


def test_distill_draws_the_samples_and_scores_at_the_base_models_size(
    tiny_pipeline_dir: Path, tiny_dataset_dir: Path, pool_path: Path, tmp_path: Path
) -> None:
    distill(
        tiny_dataset_dir,
        tiny_pipeline_dir,
        student_dir=tiny_pipeline_dir / "unet",
        pool_path=pool_path,
        pool_steps=4,
        params=add_params(num_steps=3),
        precision="fp32",
        guidance_scale=3.0,
        student_scheduler="ddim",
        prompt_template=TEMPLATE,
        out_dir=tmp_path / "distilled",
        checkpoint_dir=tmp_path / "checkpoints",
        pool_cache_dir=tmp_path / "pool",
        curves_path=tmp_path / "curves.tsv",
        metrics_path=tmp_path / "add.json",
    )
    assert len(list((tmp_path / "pool").glob("*.safetensors"))) == len(SIZES)
    assert json.loads((tmp_path / "add.json").read_text())["skipped_steps"] == 0
