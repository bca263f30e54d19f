"""What a batch holds: inputs, what is judged, real pictures, other pictures' captions."""

from dataclasses import replace

import torch

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import encode_pixels
from naruto_add.training.add.inputs import draw_batch
from tests.training.add.build import TEMPLATE, Build, add_params


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


def test_timesteps_follow_the_phase_that_the_step_lies_in(build: Build) -> None:
    phases = [[0.0, 0.0, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]]
    params = add_params(timestep_probabilities=phases, num_steps=3, batch_size=64)
    data = build.data(params)
    drawn = [set(draw_batch(data, params, step=step).step_index.tolist()) for step in range(3)]
    assert drawn == [{2, 3}, {2, 3}, {0}]
    uniform = draw_batch(data, add_params(batch_size=64), step=0)
    assert set(uniform.step_index.tolist()) == {0, 1, 2, 3}


def test_phases_and_roll_outs_share_out_what_is_no_judged_picture(build: Build) -> None:
    values = {"judged_fraction": 0.5, "rollout_fraction": 0.25, "timestep_probabilities": [[1.0, 0.0, 0.0, 0.0]]}
    params = add_params(batch_size=32, **values)
    batch = draw_batch(build.data(params), params, step=0)
    is_picture = batch.judged_weight > 0
    assert is_picture.sum() == 16
    assert set(batch.step_index[is_picture].tolist()) == {3} and batch.is_rollout[is_picture].all()
    assert set(batch.step_index[~is_picture].tolist()) == {0} and batch.is_rollout[~is_picture].sum() == 4
