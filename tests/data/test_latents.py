"""Caches of latents and embeddings: drawn once, keyed by all they depend on, loud where they are damaged."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import CachedLatents, cached_embeddings, cached_latents, hash_model, unique_prompts
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts
from naruto_add.runtime import StageError


def never(_: object) -> Tensor:
    raise AssertionError("encoded again")


def latents_of(bundle: ModelBundle, examples: list[Example], path: Path, *, flip: bool = False) -> CachedLatents:
    return cached_latents(
        examples, flip=flip, vae=bundle.vae, encode=lambda pixels: encode_pixels(bundle, pixels), cache_path=path
    )


@pytest.fixture
def examples(tiny_dataset_dir: Path) -> list[Example]:
    return load_split(tiny_dataset_dir, "validation")


def test_latents_are_the_scaled_means_in_the_splits_order(
    tiny_bundle: ModelBundle, examples: list[Example], tmp_path: Path
) -> None:
    cached = latents_of(tiny_bundle, examples, tmp_path / "latents.safetensors", flip=True)
    pixels = load_pixels(examples)
    with torch.no_grad():
        mean = tiny_bundle.vae.encode(pixels).latent_dist.mean
        mirrored_mean = tiny_bundle.vae.encode(pixels.flip(-1)).latent_dist.mean
    factor = tiny_bundle.vae.config.scaling_factor
    torch.testing.assert_close(cached.latents, mean * factor)
    torch.testing.assert_close(cached.flipped, mirrored_mean * factor)
    assert cached.latents.dtype == torch.float32


def test_without_flip_there_are_no_mirrored_latents(
    tiny_bundle: ModelBundle, examples: list[Example], tmp_path: Path
) -> None:
    cached = latents_of(tiny_bundle, examples, tmp_path / "latents.safetensors")
    assert len(cached.flipped) == 0


def test_a_second_run_reads_what_the_first_computed(
    tiny_bundle: ModelBundle, examples: list[Example], tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "latents.safetensors"
    first = latents_of(tiny_bundle, examples, path, flip=True)
    second = cached_latents(examples, flip=True, vae=tiny_bundle.vae, encode=never, cache_path=path)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.flipped, second.flipped)


def test_a_cache_of_other_weights_pictures_or_options_is_an_error(
    tiny_bundle: ModelBundle, examples: list[Example], tmp_path: Path
) -> None:
    path = tmp_path / "latents.safetensors"
    latents_of(tiny_bundle, examples, path)
    with pytest.raises(StageError, match=r"latents\.safetensors: this cache was made from other"):
        latents_of(tiny_bundle, examples, path, flip=True)
    with pytest.raises(StageError, match="made from other"):
        latents_of(tiny_bundle, examples[::-1], path)
    with torch.no_grad():
        next(tiny_bundle.vae.parameters()).view(-1)[0].add_(1e-3)
    with pytest.raises(StageError, match="made from other"):
        latents_of(tiny_bundle, examples, path)


def test_a_truncated_cache_is_an_error(tiny_bundle: ModelBundle, examples: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "latents.safetensors"
    latents_of(tiny_bundle, examples, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(StageError, match="damaged"):
        latents_of(tiny_bundle, examples, path)


def test_a_failed_computation_leaves_no_cache(
    tiny_bundle: ModelBundle, examples: list[Example], tmp_path: Path
) -> None:
    path = tmp_path / "latents.safetensors"
    with pytest.raises(AssertionError):
        cached_latents(examples, flip=False, vae=tiny_bundle.vae, encode=never, cache_path=path)
    assert not path.exists()


def test_embeddings_are_those_of_the_prompts_in_order(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    prompts = unique_prompts(["a man", "a girl", "a man"])
    path = tmp_path / "prompts.safetensors"
    embeds = cached_embeddings(
        prompts,
        text_encoder=tiny_bundle.text_encoder,
        encode=lambda chunk: encode_prompts(tiny_bundle, chunk),
        cache_path=path,
    )
    assert prompts == ["", "a man", "a girl"]
    torch.testing.assert_close(embeds[:1], encode_prompts(tiny_bundle, [""]))
    torch.testing.assert_close(embeds[2:], encode_prompts(tiny_bundle, ["a girl"]))
    again = cached_embeddings(prompts, text_encoder=tiny_bundle.text_encoder, encode=never, cache_path=path)
    assert torch.equal(again, embeds)
    with pytest.raises(StageError, match="made from other"):
        cached_embeddings(prompts[:2], text_encoder=tiny_bundle.text_encoder, encode=never, cache_path=path)


def test_a_models_hash_sees_weights_and_dtype_but_not_where_it_came_from(tiny_bundle: ModelBundle) -> None:
    unet = tiny_bundle.unet
    before = hash_model(unet)
    unet.register_to_config(_name_or_path="elsewhere")
    assert hash_model(unet) == before
    assert hash_model(unet.half()) != before
