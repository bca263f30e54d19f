"""Cached latents and embeddings: computed once, and keyed by everything they depend on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import CachedLatents, cached_embeddings, cached_latents, unique_prompts
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts
from naruto_add.runtime.errors import StageError


def _never(_: object) -> Tensor:
    raise AssertionError("encoded although the file exists")


def _latents(bundle: ModelBundle, examples: list[Example], path: Path, *, flip: bool = False) -> CachedLatents:
    return cached_latents(
        examples, flip=flip, vae=bundle.vae, encode=lambda pixels: encode_pixels(bundle, pixels), cache_path=path
    )


@pytest.fixture
def examples(tiny_dataset_dir: Path) -> list[Example]:
    return load_split(tiny_dataset_dir, "validation", prompt_template="{caption}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "cache.safetensors"


def test_latents_are_the_scaled_posterior_means_in_the_order_of_the_split(
    tiny_bundle: ModelBundle, examples: list[Example], path: Path
) -> None:
    cached = _latents(tiny_bundle, examples, path, flip=True)
    pixels = load_pixels(examples)
    with torch.no_grad():
        mean = tiny_bundle.vae.encode(pixels).latent_dist.mean
        mirrored_mean = tiny_bundle.vae.encode(pixels.flip(-1)).latent_dist.mean
    factor = tiny_bundle.vae.config.scaling_factor
    torch.testing.assert_close(cached.latents, mean * factor)
    torch.testing.assert_close(cached.flipped, mirrored_mean * factor)
    assert cached.latents.dtype == torch.float32


def test_without_flip_no_mirrored_latents_are_computed(
    tiny_bundle: ModelBundle, examples: list[Example], path: Path
) -> None:
    assert len(_latents(tiny_bundle, examples, path).flipped) == 0


def test_a_second_run_reads_the_latents_of_the_first(
    tiny_bundle: ModelBundle, examples: list[Example], path: Path
) -> None:
    first = _latents(tiny_bundle, examples, path, flip=True)
    second = cached_latents(examples, flip=True, vae=tiny_bundle.vae, encode=_never, cache_path=path)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.flipped, second.flipped)


def test_latents_of_other_options_pictures_or_weights_are_an_error(
    tiny_bundle: ModelBundle, examples: list[Example], path: Path
) -> None:
    _latents(tiny_bundle, examples, path)
    with pytest.raises(StageError, match=r"cache\.safetensors: .* computed from other data, weights or options"):
        _latents(tiny_bundle, examples, path, flip=True)
    with pytest.raises(StageError, match="computed from other"):
        _latents(tiny_bundle, examples[::-1], path)
    with torch.no_grad():
        next(tiny_bundle.vae.parameters()).view(-1)[0].add_(1e-3)
    with pytest.raises(StageError, match="computed from other"):
        _latents(tiny_bundle, examples, path)


def test_unique_prompts_start_with_the_empty_prompt_and_keep_their_order() -> None:
    assert unique_prompts(["a man", "a girl", "a man"]) == ["", "a man", "a girl"]


def test_embeddings_are_those_of_the_prompts_in_order(tiny_bundle: ModelBundle, path: Path) -> None:
    embeds = cached_embeddings(
        ["", "a man", "a girl"],
        text_encoder=tiny_bundle.text_encoder,
        encode=lambda prompts: encode_prompts(tiny_bundle, prompts),
        cache_path=path,
    )
    torch.testing.assert_close(embeds[:1], encode_prompts(tiny_bundle, [""]))
    torch.testing.assert_close(embeds[2:], encode_prompts(tiny_bundle, ["a girl"]))
    assert embeds.dtype == torch.float32


def test_embeddings_are_reused_for_the_same_prompts_only(tiny_bundle: ModelBundle, path: Path) -> None:
    encoder, prompts = tiny_bundle.text_encoder, ["", "a man"]
    embeds = cached_embeddings(
        prompts, text_encoder=encoder, encode=lambda part: encode_prompts(tiny_bundle, part), cache_path=path
    )
    again = cached_embeddings(prompts, text_encoder=encoder, encode=_never, cache_path=path)
    assert torch.equal(again, embeds)
    with pytest.raises(StageError, match="computed from other"):
        cached_embeddings(["", "a girl"], text_encoder=encoder, encode=_never, cache_path=path)
