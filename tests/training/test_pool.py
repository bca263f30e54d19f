"""The pool: prompts of the training split only, reproducible samples, and a cache that survives interruption."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import dpm_solver_sampler, initial_noise, sample_latents, sample_trajectory
from naruto_add.runtime.errors import StageError
from naruto_add.training.draw_pool import CHUNK, PoolBucket, draw_pool, pool_buckets, pool_prompts
from naruto_add.training.pool import NUM_HELD_OUT, Pool, load_pool, num_held_out, split_pool
from tests.hooks import KilledError, counted

PROMPTS = ["a man with a sword", "a girl at night", "a boy"]


def _draw(
    bundle: ModelBundle,
    folder: Path,
    *,
    cache: str = "cache",
    seed: int = 0,
    size: int = 10,
    buckets: Sequence[PoolBucket] = (),
) -> Pool:
    return draw_pool(
        bundle,
        prompts=PROMPTS,
        buckets=buckets,
        size=size,
        num_steps=4,
        timesteps=[999, 499],
        guidance_scale=3.0,
        seed=seed,
        path=folder / "pool.safetensors",
        cache_dir=folder / cache,
    )


def _rows(dataset_dir: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (dataset_dir / "metadata.jsonl").read_text().splitlines()]


def _write_captions(folder: Path, captions: dict[str, list[str]]) -> Path:
    rows = [
        {"file_name": f"images/{split}{index}.png", "text": caption, "split": split}
        for split, texts in captions.items()
        for index, caption in enumerate(texts)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_x0_is_the_teachers_sample_for_its_noise_and_prompt(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    pool = _draw(tiny_bundle, tmp_path)
    again = sample_latents(
        tiny_bundle.unet,
        noise=pool.noise,
        prompt_embeds=encode_prompts(tiny_bundle, [PROMPTS[index] for index in pool.prompt_index]),
        negative_embeds=encode_prompts(tiny_bundle, [""]),
        sampler=dpm_solver_sampler(tiny_bundle, 4, 3.0),
    )
    torch.testing.assert_close(pool.x0, again)
    assert torch.bincount(pool.prompt_index).tolist() in ([4, 3, 3], [3, 4, 3], [3, 3, 4])


def test_states_are_the_unets_inputs_at_the_students_timesteps(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    """Of the four steps at t = 999, 749, 499 and 249, the third has the state at 499."""
    pool = _draw(tiny_bundle, tmp_path)
    assert pool.states.shape == (10, 1, *tiny_bundle.latent_shape)
    embeds = encode_prompts(tiny_bundle, [PROMPTS[index] for index in pool.prompt_index[:4]])
    calls: list[torch.Tensor] = []

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append(inputs[0][:4])

    hook = tiny_bundle.unet.register_forward_pre_hook(record)
    sample_latents(
        tiny_bundle.unet,
        noise=pool.noise[:4],
        prompt_embeds=embeds,
        negative_embeds=encode_prompts(tiny_bundle, [""]),
        sampler=dpm_solver_sampler(tiny_bundle, 4, 3.0),
    )
    hook.remove()
    torch.testing.assert_close(pool.states[:4, 0], calls[2])


def test_a_trajectory_that_skips_a_timestep_of_the_student_is_an_error(tiny_bundle: ModelBundle) -> None:
    with pytest.raises(ValueError, match="do not visit"):
        sample_trajectory(
            tiny_bundle.unet,
            noise=initial_noise(tiny_bundle, 1, seed=0),
            prompt_embeds=encode_prompts(tiny_bundle, ["a"]),
            negative_embeds=encode_prompts(tiny_bundle, [""]),
            sampler=dpm_solver_sampler(tiny_bundle, 3, 1.0),
            timesteps=[499],
        )


def test_the_file_contains_the_pool(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    drawn, loaded = _draw(tiny_bundle, tmp_path), load_pool(tmp_path / "pool.safetensors")
    assert loaded.prompts == drawn.prompts == PROMPTS
    assert loaded.num_held_out == drawn.num_held_out == 2
    for name in ("noise", "states", "x0", "prompt_index"):
        assert torch.equal(getattr(loaded, name), getattr(drawn, name))
    assert loaded.x0.dtype == loaded.noise.dtype == torch.float32
    assert not torch.equal(loaded.noise, initial_noise(tiny_bundle, 10, seed=0))  # the evaluation's noise


def test_the_file_is_the_same_every_time_and_another_one_with_another_seed(
    tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    files = []
    for cache, seed in (("one", 0), ("two", 0), ("three", 1)):
        _draw(tiny_bundle, tmp_path, cache=cache, seed=seed)
        files.append((tmp_path / "pool.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_an_interrupted_pool_is_completed_without_drawing_a_chunk_twice(
    tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    """A chunk takes four steps; each calls the U-Net with the samples twice, for guidance."""
    size, steps_of_chunk = 2 * CHUNK + 4, [2 * CHUNK] * 4
    with counted(tiny_bundle.unet) as calls:
        whole = _draw(tiny_bundle, tmp_path, cache="uninterrupted", size=size)
    assert calls == [*steps_of_chunk, *steps_of_chunk, 8, 8, 8, 8]
    with counted(tiny_bundle.unet, die_at=6), pytest.raises(KilledError):
        _draw(tiny_bundle, tmp_path, size=size)
    with counted(tiny_bundle.unet) as calls:
        resumed = _draw(tiny_bundle, tmp_path, size=size)
    assert calls == [*steps_of_chunk, 8, 8, 8, 8]
    assert torch.equal(resumed.x0, whole.x0)
    with counted(tiny_bundle.unet) as calls:
        _draw(tiny_bundle, tmp_path, size=size)
    assert calls == []


def test_the_chunks_are_deleted_and_the_kept_pool_needs_no_disk_of_its_own(
    tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    drawn = _draw(tiny_bundle, tmp_path)
    (kept,) = (tmp_path / "cache").glob("*.safetensors")
    assert kept.samefile(tmp_path / "pool.safetensors")
    content = kept.read_bytes()
    (tmp_path / "pool.safetensors").unlink()
    with counted(tiny_bundle.unet) as calls:
        again = _draw(tiny_bundle, tmp_path)
    assert calls == []
    assert (tmp_path / "pool.safetensors").read_bytes() == content
    assert torch.equal(again.x0, drawn.x0)
    assert again.num_held_out == drawn.num_held_out


def test_every_damaged_file_of_a_kept_pool_is_refused_by_its_own_name(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    _draw(tiny_bundle, tmp_path)
    kept = list((tmp_path / "cache").iterdir())
    assert kept
    for path in kept:
        content = path.read_bytes()
        path.unlink()  # it is a hard link
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
        with pytest.raises(StageError, match=f"^{re.escape(str(path))}: this cache file is damaged; delete it"):
            _draw(tiny_bundle, tmp_path)
        path.unlink()
        _draw(tiny_bundle, tmp_path)
        assert path.read_bytes() == content


def test_chunks_of_another_teacher_are_not_used(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    before = _draw(tiny_bundle, tmp_path)
    with torch.no_grad():
        tiny_bundle.unet.conv_out.weight.add_(0.1)
    after = _draw(tiny_bundle, tmp_path)
    assert not torch.equal(before.x0, after.x0)
    assert torch.equal(before.noise, after.noise)


def test_latents_that_are_not_finite_are_an_error_that_names_the_remedy(
    tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    with torch.no_grad():
        tiny_bundle.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(StageError, match=r"sampling\.guidance_scale 3\.0; lower it"):
        _draw(tiny_bundle, tmp_path)
    assert not (tmp_path / "pool.safetensors").exists()


def test_a_damaged_file_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "pool.safetensors").write_bytes(b"nothing")
    with pytest.raises(StageError, match="delete it and run `dvc repro`"):
        load_pool(tmp_path / "pool.safetensors")


def test_a_file_of_other_content_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    """Sound files in this format: without a pool's metadata, without a tensor of it, and with one that it lacks."""
    path = tmp_path / "pool.safetensors"
    tensors = {name: torch.zeros(2, 1) for name in ("noise", "states", "x0", "caption_index")}
    whole = {**tensors, "num_held_out": torch.tensor(2)}
    for content, metadata in (
        (whole, None),
        (whole, {"prompts": "no JSON"}),
        (tensors, {"prompts": "[]"}),
        ({**whole, "weight": torch.zeros(1)}, {"prompts": "[]"}),
    ):
        save_file(content, path, metadata=metadata)
        with pytest.raises(StageError, match=r"pool\.safetensors: cannot be read .* delete it and run `dvc repro`"):
            load_pool(path)


def test_prompts_are_those_of_the_training_split_in_the_template(tiny_dataset_dir: Path) -> None:
    prompts = pool_prompts(tiny_dataset_dir, "naruto, {caption}")
    rows = _rows(tiny_dataset_dir)
    train = {f"naruto, {row['text']}" for row in rows if row["split"] == "train"}
    others = {f"naruto, {row['text']}" for row in rows if row["split"] != "train"}
    assert set(prompts) == train - others
    assert len(prompts) == len(set(prompts))


def test_captions_of_other_splits_are_excluded_unless_that_excludes_all(tmp_path: Path) -> None:
    captions = {"train": ["a", "b", "a", "c", "d"], "validation": ["c"], "test": ["b", "e"]}
    assert pool_prompts(_write_captions(tmp_path, captions), "{caption}") == ["a", "d"]
    single = {"train": ["a", "a"], "validation": ["a"], "test": ["a"]}
    assert pool_prompts(_write_captions(tmp_path, single), "{caption}") == ["a"]


def test_the_last_samples_are_held_out_at_most_a_quarter(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    pool = _draw(tiny_bundle, tmp_path)
    training, held_out = split_pool(pool)
    assert (len(training), len(held_out)) == (8, 2)
    assert torch.equal(torch.cat([training.x0, held_out.x0]), pool.x0)
    assert torch.equal(torch.cat([training.prompt_index, held_out.prompt_index]), pool.prompt_index)
    assert [num_held_out(size) for size in (8, 40, 4 * NUM_HELD_OUT, 8 * NUM_HELD_OUT)] == [2, 10, *[NUM_HELD_OUT] * 2]


def test_a_pool_too_small_for_two_held_out_samples_is_an_error(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"student\.pool_size: 7"):
        _draw(tiny_bundle, tmp_path, size=7)


# Aspect buckets

WIDE = PoolBucket(size=(64, 32), prompts=["a boy", "a girl at night"], fraction=0.5)
TALL = PoolBucket(size=(32, 96), prompts=["a boy"], fraction=0.01)


def test_buckets_are_the_sizes_of_pictures_that_are_not_square_with_their_captions(
    bucketed_dataset_dir: Path,
) -> None:
    prompts = pool_prompts(bucketed_dataset_dir, "{caption}")
    (bucket,) = pool_buckets(bucketed_dataset_dir, "{caption}", prompts)
    rows = [row for row in _rows(bucketed_dataset_dir) if row["split"] == "train"]
    wide = [row["text"] for row in rows if row["bucket_file"]]
    assert (bucket.size, bucket.fraction) == ((64, 32), 6 / 16)
    assert bucket.prompts == [caption for caption in dict.fromkeys(wide) if caption in prompts]
    assert pool_buckets(bucketed_dataset_dir, "{caption}", wide[:1])[0].prompts == wide[:1]
    assert pool_buckets(bucketed_dataset_dir, "{caption}", []) == []


def test_without_buckets_a_data_set_has_none(tiny_dataset_dir: Path) -> None:
    assert pool_buckets(tiny_dataset_dir, "{caption}", pool_prompts(tiny_dataset_dir, "{caption}")) == []


def test_samples_of_a_bucket_are_the_teachers_at_its_size_for_its_captions(
    tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    plain = _draw(tiny_bundle, tmp_path, cache="plain")
    pool = _draw(tiny_bundle, tmp_path, buckets=[WIDE, TALL])
    assert torch.equal(pool.x0, plain.x0) and torch.equal(pool.prompt_index, plain.prompt_index)
    wide, tall = pool.buckets
    assert (wide.x0.shape, tall.x0.shape) == ((5, 4, 4, 8), (1, 4, 12, 4))
    assert {pool.prompts[index] for index in wide.prompt_index} == set(WIDE.prompts)
    again = sample_latents(
        tiny_bundle.unet,
        noise=wide.noise,
        prompt_embeds=encode_prompts(tiny_bundle, [PROMPTS[index] for index in wide.prompt_index]),
        negative_embeds=encode_prompts(tiny_bundle, [""]),
        sampler=dpm_solver_sampler(tiny_bundle, 4, 3.0),
    )
    torch.testing.assert_close(wide.x0, again)


def test_the_file_and_the_cache_contain_the_samples_of_buckets_and_no_chunk_is_left(
    tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    drawn = _draw(tiny_bundle, tmp_path, buckets=[WIDE, TALL])
    content = (tmp_path / "pool.safetensors").read_bytes()
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1
    for pool in (load_pool(tmp_path / "pool.safetensors"), _draw(tiny_bundle, tmp_path, buckets=[WIDE, TALL])):
        assert len(pool.buckets) == 2
        for one, other in zip(pool.buckets, drawn.buckets, strict=True):
            for name in ("noise", "states", "x0", "prompt_index"):
                assert torch.equal(getattr(one, name), getattr(other, name))
            assert one.prompts == PROMPTS
    assert (tmp_path / "pool.safetensors").read_bytes() == content
    assert len(_draw(tiny_bundle, tmp_path, buckets=[WIDE]).buckets) == 1


def test_samples_of_buckets_are_trained_on_and_not_held_out(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    pool = _draw(tiny_bundle, tmp_path, buckets=[WIDE])
    training, held_out = split_pool(pool)
    assert training.buckets == pool.buckets
    assert held_out.buckets == ()


def test_a_size_that_the_networks_cannot_draw_is_an_error(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"ingest\.aspect_buckets: 72x32 must be a multiple of 32"):
        _draw(tiny_bundle, tmp_path, buckets=[PoolBucket(size=(72, 32), prompts=["a boy"], fraction=0.5)])
