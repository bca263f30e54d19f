"""The batch of a training step: inputs, items for the discriminators, real latents."""

import pytest
import torch

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import encode_pixels
from naruto_add.training.add.batch import discriminator_weights, draw_batch, evenly_spread, renoised_weights, scattered
from tests.training.add.build import TEMPLATE, Build, add_params


def test_a_batch_depends_only_on_seed_and_step(build: Build) -> None:
    params = add_params(real_source="both")
    data = build.data(params)
    batch, again, later = (draw_batch(data, params, step=step) for step in (3, 3, 4))
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(batch).items())
    assert not torch.equal(batch.discriminator_noise, later.discriminator_noise)
    other_seed = draw_batch(data, params.model_copy(update={"seed": 1}), step=3)
    assert not torch.equal(batch.discriminator_noise, other_seed.discriminator_noise)


def test_the_rollout_fraction_of_the_inputs_are_rollouts(build: Build) -> None:
    params = add_params(rollout_fraction=0.5)
    assert draw_batch(build.data(params), params, step=0).is_rollout.tolist() == [False, True] * 3


def test_below_fraction_1_the_discriminators_are_shown_final_pictures_only(build: Build) -> None:
    params = add_params(batch_size=32, discriminator_fraction=0.5, rollout_fraction=0.25)
    batch = draw_batch(build.data(params), params, step=0)
    is_shown = batch.discriminator_weight > 0
    assert is_shown.sum() == 16 and batch.discriminator_weight.mean() == 1
    assert (batch.step_index[is_shown] == 3).all() and batch.is_rollout[is_shown].all()
    assert set(batch.step_index[~is_shown].tolist()) == {0, 1, 2, 3} and batch.is_rollout[~is_shown].sum() == 4


def test_real_latents_of_the_teacher_are_its_samples_of_the_same_prompts(build: Build) -> None:
    params = add_params(real_source="teacher")
    batch = draw_batch(build.data(params), params, step=0)
    assert torch.equal(batch.real_latents, batch.x0)
    assert torch.equal(batch.real_prompt_embeds, batch.prompt_embeds)
    assert torch.equal(batch.real_pooled, batch.pooled)


def test_real_latents_of_the_dataset_are_its_training_pictures_with_their_prompts(build: Build) -> None:
    params = add_params(real_source="dataset", batch_size=32)
    data = build.data(params)
    examples = load_split(build.dataset_dir, "train", prompt_template=TEMPLATE)
    pictures = encode_pixels(build.bundle, load_pixels(examples))
    batch = draw_batch(data, params, step=0)
    for latents, embeds in zip(batch.real_latents, batch.real_prompt_embeds, strict=True):
        (index,) = torch.where((pictures - latents).abs().flatten(1).amax(dim=1) < 1e-4)
        prompt = examples[int(index[0])].prompt
        expected = build.bundle.text_encoder(
            build.bundle.tokenizer([prompt], padding="max_length", return_tensors="pt").input_ids
        ).last_hidden_state[0]
        torch.testing.assert_close(embeds, expected, rtol=1e-4, atol=1e-5)


def test_both_mixes_teacher_samples_and_training_pictures(build: Build) -> None:
    params = add_params(real_source="both", batch_size=32)
    batch = draw_batch(build.data(params), params, step=0)
    is_teacher = (batch.real_latents == batch.x0).flatten(1).all(dim=1)
    assert 4 < is_teacher.sum() < 28
    assert torch.equal(batch.real_pooled[is_teacher], batch.pooled[is_teacher])


def test_a_prompts_row_is_that_of_its_embedding(build: Build) -> None:
    params = add_params()
    data = build.data(params)
    batch = draw_batch(data, params, step=0)
    assert torch.equal(data.prompt_embeds[batch.prompt_rows], batch.prompt_embeds)
    assert data.prompts[0] == ""


@pytest.mark.parametrize("num_parts", [2, 4, 8])
def test_every_part_of_a_batch_contains_its_share_of_rollouts_and_of_weighted_items(num_parts: int) -> None:
    params = add_params(batch_size=32, discriminator_fraction=1.0)
    weight, is_rollout = renoised_weights(params), evenly_spread(torch.ones(32, dtype=torch.bool), 0.5)
    assert weight.mean() == 1
    assert weight.view(num_parts, -1).count_nonzero(dim=1).tolist() == [8 // num_parts] * num_parts
    assert set(is_rollout.view(num_parts, -1).sum(dim=1).tolist()) == {16 // num_parts}
    assert 3 <= (weight.bool() & is_rollout).sum() <= 5
    assert not renoised_weights(params.model_copy(update={"renoised_weight": 0.0})).any()


@pytest.mark.parametrize(("batch_size", "num_parts"), [(16, 8), (32, 16), (16, 4)])
def test_four_parts_in_several_processes_have_equally_many_items_for_the_discriminator(
    batch_size: int, num_parts: int
) -> None:
    weight = discriminator_weights(add_params(batch_size=batch_size, discriminator_fraction=0.5))
    assert set(weight.view(num_parts, -1).count_nonzero(dim=1).tolist()) == {batch_size // 2 // num_parts}


@pytest.mark.parametrize("shown", [0.1, 0.5, 0.8])
def test_items_of_a_smaller_fraction_are_among_those_of_a_larger_one(shown: float) -> None:
    params = add_params(batch_size=32, discriminator_fraction=shown)
    both = (renoised_weights(params) > 0, discriminator_weights(params) > 0)
    few, many = sorted(both, key=torch.count_nonzero)
    assert [int(few.sum()), int(many.sum())] == sorted([8, round(32 * shown)])
    assert torch.equal(few & many, few)


def test_scattered_items_are_some_of_those_given() -> None:
    items = torch.arange(30) % 3 == 0
    assert torch.equal(scattered(items, 10), items)
    assert not scattered(items, 0).any()
    assert torch.equal(scattered(items, 4) & items, scattered(items, 4)) and scattered(items, 4).sum() == 4
