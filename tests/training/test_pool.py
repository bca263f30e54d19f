"""The pool: training captions only, the same samples every time, nothing drawn twice."""

import json
from pathlib import Path

import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import fast_sampler, initial_noise, sample_latents, sample_states
from naruto_add.runtime import StageError
from naruto_add.training import pool as pool_module
from naruto_add.training.pool import Pool, draw_pool, load_pool, pool_prompts, split_pool

PROMPTS = ["a man with a sword", "a girl at night", "a boy"]


class KilledError(Exception):
    """Stands for a process that dies between two chunks."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CHUNK", 4)


def _draw(
    bundle: ModelBundle,
    folder: Path,
    *,
    checkpoints: str = "checkpoints",
    seed: int = 0,
    size: int = 10,
    held_out_only: bool = False,
) -> Pool:
    return draw_pool(
        bundle,
        prompts=PROMPTS,
        size=size,
        num_steps=4,
        timesteps=[999, 499],
        guidance_scale=3.0,
        seed=seed,
        path=folder / "pool.safetensors",
        cache_dir=folder / checkpoints,
        held_out_only=held_out_only,
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


def test_samples_are_the_teachers_for_their_noise_and_prompt(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    pool = _draw(tiny_bundle, tmp_path)
    again = sample_latents(
        tiny_bundle.unet,
        noise=pool.noise[4:8],
        prompt_embeds=encode_prompts(tiny_bundle, [PROMPTS[index] for index in pool.caption_index[4:8]]),
        negative_embeds=encode_prompts(tiny_bundle, [""]),
        sampler=fast_sampler(tiny_bundle, 4, 3.0),
    )
    torch.testing.assert_close(pool.x0[4:8], again)
    assert torch.bincount(pool.caption_index).tolist() in ([4, 3, 3], [3, 4, 3], [3, 3, 4])


def test_states_are_what_the_teacher_passed_through(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    """Half of four steps lie behind t = 499; what the solver remembers apart, the way on from there is the sample's."""
    pool = _draw(tiny_bundle, tmp_path)
    assert pool.states.shape == (10, 1, *tiny_bundle.latent_shape)
    embeds = encode_prompts(tiny_bundle, [PROMPTS[index] for index in pool.caption_index[:4]])
    calls: list[torch.Tensor] = []

    def seen(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append(inputs[0][:4])

    hook = tiny_bundle.unet.register_forward_pre_hook(seen)
    sample_latents(
        tiny_bundle.unet,
        noise=pool.noise[:4],
        prompt_embeds=embeds,
        negative_embeds=encode_prompts(tiny_bundle, [""]),
        sampler=fast_sampler(tiny_bundle, 4, 3.0),
    )
    hook.remove()
    torch.testing.assert_close(pool.states[:4, 0], calls[2])


def test_a_way_that_misses_the_students_timesteps_is_refused(tiny_bundle: ModelBundle) -> None:
    with pytest.raises(ValueError, match="do not visit"):
        sample_states(
            tiny_bundle.unet,
            noise=initial_noise(tiny_bundle, 1, seed=0),
            prompt_embeds=encode_prompts(tiny_bundle, ["a"]),
            negative_embeds=encode_prompts(tiny_bundle, [""]),
            sampler=fast_sampler(tiny_bundle, 3, 1.0),
            timesteps=[499],
        )


def test_what_is_written_is_what_is_read(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    drawn, loaded = _draw(tiny_bundle, tmp_path), load_pool(tmp_path / "pool.safetensors")
    assert loaded.prompts == drawn.prompts == PROMPTS
    assert loaded.num_held_out == drawn.num_held_out == 2
    for name in ("noise", "states", "x0", "caption_index"):
        assert torch.equal(getattr(loaded, name), getattr(drawn, name))
    assert loaded.x0.dtype == loaded.noise.dtype == torch.float32
    assert not torch.equal(loaded.noise, initial_noise(tiny_bundle, 10, seed=0))  # evaluation's noises stay unseen


def test_pool_is_the_same_file_every_time_and_another_with_another_seed(
    tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    files = []
    for checkpoints, seed in (("one", 0), ("two", 0), ("three", 1)):
        _draw(tiny_bundle, tmp_path, checkpoints=checkpoints, seed=seed)
        files.append((tmp_path / "pool.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_interrupted_pool_goes_on_and_draws_nothing_twice(
    tiny_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _draw(tiny_bundle, tmp_path, checkpoints="uninterrupted")
    batches: list[int] = []

    def dying(*args: object, noise: torch.Tensor, **options: object) -> torch.Tensor:
        batches.append(len(noise))
        if len(batches) == 2:
            raise KilledError
        return sample_states(*args, noise=noise, **options)

    monkeypatch.setattr(pool_module, "sample_states", dying)
    with pytest.raises(KilledError):
        _draw(tiny_bundle, tmp_path)
    resumed = _draw(tiny_bundle, tmp_path)
    assert batches == [4, 4, 4, 2]  # drawn; died; drawn; drawn
    assert torch.equal(resumed.x0, whole.x0)
    _draw(tiny_bundle, tmp_path)
    assert len(batches) == 4


def test_chunks_of_another_teacher_are_not_taken(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    before = _draw(tiny_bundle, tmp_path)
    with torch.no_grad():
        tiny_bundle.unet.conv_out.weight.add_(0.1)
    after = _draw(tiny_bundle, tmp_path)
    assert not torch.equal(before.x0, after.x0)
    assert torch.equal(before.noise, after.noise)


def test_latents_that_are_not_finite_stop_the_run(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_bundle.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(StageError, match=r"sampling\.guidance_scale 3\.0; lower it"):
        _draw(tiny_bundle, tmp_path)
    assert not (tmp_path / "pool.safetensors").exists()


def test_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pool.safetensors").write_bytes(b"nothing")
    with pytest.raises(StageError, match="delete it and run again"):
        load_pool(tmp_path / "pool.safetensors")


def test_prompts_are_training_captions_in_the_template(tiny_dataset_dir: Path) -> None:
    prompts = pool_prompts(tiny_dataset_dir, "naruto, {caption}")
    rows = _rows(tiny_dataset_dir)
    train = {f"naruto, {row['text']}" for row in rows if row["split"] == "train"}
    held_out = {f"naruto, {row['text']}" for row in rows if row["split"] != "train"}
    assert set(prompts) == train - held_out
    assert len(prompts) == len(set(prompts))


def test_captions_of_held_out_pictures_are_left_out(tmp_path: Path) -> None:
    captions = {"train": ["a", "b", "a", "c", "d"], "validation": ["c"], "test": ["b", "e"]}
    assert pool_prompts(_write_captions(tmp_path, captions), "{caption}") == ["a", "d"]
    single = {"train": ["a", "a"], "validation": ["a"], "test": ["a"]}
    assert pool_prompts(_write_captions(tmp_path, single), "{caption}") == ["a"]


def test_last_samples_are_held_out(tiny_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = _draw(tiny_bundle, tmp_path)
    training, held_out = split_pool(pool)
    assert (len(training), len(held_out)) == (8, 2)
    assert torch.equal(torch.cat([training.x0, held_out.x0]), pool.x0)
    assert torch.equal(torch.cat([training.caption_index, held_out.caption_index]), pool.caption_index)
    monkeypatch.setattr(pool_module, "NUM_HELD_OUT", 1)
    assert len(split_pool(_draw(tiny_bundle, tmp_path))[1]) == 1


def test_held_out_samples_are_the_same_without_the_others(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    held_out = split_pool(_draw(tiny_bundle, tmp_path))[1]
    alone = _draw(tiny_bundle, tmp_path, checkpoints="others", held_out_only=True)
    assert len(alone) == alone.num_held_out == 2
    assert torch.equal(alone.noise, held_out.noise) and torch.equal(alone.caption_index, held_out.caption_index)
    torch.testing.assert_close(alone.x0, held_out.x0, rtol=0, atol=1e-3)


def test_pool_too_small_to_hold_any_out_is_refused(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"student\.pool_size: 3"):
        _draw(tiny_bundle, tmp_path, size=3)
