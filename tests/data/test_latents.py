"""Cached latents and embeddings: computed once, in shards, and keyed by everything they depend on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import SHARD, CachedLatents, cached_embeddings, cached_latents, unique_prompts
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts
from naruto_add.runtime.errors import StageError

PROMPTS = [f"a man with {number} swords" for number in range(2 * SHARD + 3)]
"""Prompts of three shards."""


def _never(_: object) -> Tensor:
    raise AssertionError("encoded although the file exists")


class _Interrupting:
    """Encodes prompts as the bundle does, counts those it got, and is interrupted once it has encoded `num_shards`."""

    def __init__(self, bundle: ModelBundle, num_shards: int) -> None:
        self._bundle, self._left, self.encoded = bundle, num_shards, list[str]()

    def __call__(self, prompts: list[str]) -> Tensor:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self.encoded += prompts
        return encode_prompts(self._bundle, prompts)


def _embeddings(bundle: ModelBundle, folder: Path, encode: Callable[[list[str]], Tensor]) -> Tensor:
    return cached_embeddings(PROMPTS, text_encoder=bundle.text_encoder, encode=encode, cache_dir=folder)


def _latents(bundle: ModelBundle, examples: list[Example], folder: Path, *, flip: bool = False) -> CachedLatents:
    return cached_latents(
        examples, flip=flip, vae=bundle.vae, encode=lambda pixels: encode_pixels(bundle, pixels), cache_dir=folder
    )


@pytest.fixture
def examples(tiny_dataset_dir: Path) -> list[Example]:
    return load_split(tiny_dataset_dir, "validation", prompt_template="{caption}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "of" / "one_size"


def test_latents_are_the_scaled_posterior_means_in_the_order_of_the_split(
    tiny_bundle: ModelBundle, examples: list[Example], folder: Path
) -> None:
    cached = _latents(tiny_bundle, examples, folder, flip=True)
    pixels = load_pixels(examples)
    with torch.no_grad():
        mean = tiny_bundle.vae.encode(pixels).latent_dist.mean
        mirrored_mean = tiny_bundle.vae.encode(pixels.flip(-1)).latent_dist.mean
    factor = tiny_bundle.vae.config.scaling_factor
    torch.testing.assert_close(cached.latents, mean * factor)
    torch.testing.assert_close(cached.flipped, mirrored_mean * factor)
    assert cached.latents.dtype == torch.float32


def test_without_flip_no_mirrored_latents_are_computed(
    tiny_bundle: ModelBundle, examples: list[Example], folder: Path
) -> None:
    assert len(_latents(tiny_bundle, examples, folder).flipped) == 0


def test_a_second_run_reads_the_latents_of_the_first(
    tiny_bundle: ModelBundle, examples: list[Example], folder: Path
) -> None:
    first = _latents(tiny_bundle, examples, folder, flip=True)
    second = cached_latents(examples, flip=True, vae=tiny_bundle.vae, encode=_never, cache_dir=folder)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.flipped, second.flipped)


def test_latents_of_other_options_pictures_or_weights_are_an_error(
    tiny_bundle: ModelBundle, examples: list[Example], folder: Path
) -> None:
    _latents(tiny_bundle, examples, folder)
    with pytest.raises(StageError, match=r"one_size/0\.safetensors: .* computed from other data, weights or options"):
        _latents(tiny_bundle, examples, folder, flip=True)
    with pytest.raises(StageError, match="computed from other"):
        _latents(tiny_bundle, examples[::-1], folder)
    with torch.no_grad():
        next(tiny_bundle.vae.parameters()).view(-1)[0].add_(1e-3)
    with pytest.raises(StageError, match="computed from other"):
        _latents(tiny_bundle, examples, folder)


def test_unique_prompts_start_with_the_empty_prompt_and_keep_their_order() -> None:
    assert unique_prompts(["a man", "a girl", "a man"]) == ["", "a man", "a girl"]


def test_embeddings_are_those_of_the_prompts_in_order(tiny_bundle: ModelBundle, folder: Path) -> None:
    embeds = cached_embeddings(
        ["", "a man", "a girl"],
        text_encoder=tiny_bundle.text_encoder,
        encode=lambda prompts: encode_prompts(tiny_bundle, prompts),
        cache_dir=folder,
    )
    torch.testing.assert_close(embeds[:1], encode_prompts(tiny_bundle, [""]))
    torch.testing.assert_close(embeds[2:], encode_prompts(tiny_bundle, ["a girl"]))
    assert embeds.dtype == torch.float32


def test_embeddings_are_reused_for_the_same_prompts_only(tiny_bundle: ModelBundle, folder: Path) -> None:
    encoder, prompts = tiny_bundle.text_encoder, ["", "a man"]
    embeds = cached_embeddings(
        prompts, text_encoder=encoder, encode=lambda part: encode_prompts(tiny_bundle, part), cache_dir=folder
    )
    again = cached_embeddings(prompts, text_encoder=encoder, encode=_never, cache_dir=folder)
    assert torch.equal(again, embeds)
    with pytest.raises(StageError, match="computed from other"):
        cached_embeddings(["", "a girl"], text_encoder=encoder, encode=_never, cache_dir=folder)


def test_values_are_those_of_encoding_the_same_batches_without_a_cache(tiny_bundle: ModelBundle, folder: Path) -> None:
    batches = [PROMPTS[:SHARD], PROMPTS[SHARD : 2 * SHARD], PROMPTS[2 * SHARD :]]
    expected = torch.cat([encode_prompts(tiny_bundle, batch) for batch in batches])
    assert torch.equal(_embeddings(tiny_bundle, folder, lambda part: encode_prompts(tiny_bundle, part)), expected)
    assert torch.equal(_embeddings(tiny_bundle, folder, _never), expected)


def test_an_interrupted_computation_continues_after_its_last_complete_shard(
    tiny_bundle: ModelBundle, folder: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _embeddings(tiny_bundle, folder, _Interrupting(tiny_bundle, 1))
    assert [path.name for path in folder.iterdir()] == ["0.safetensors"]

    rest = _Interrupting(tiny_bundle, 2)
    resumed = _embeddings(tiny_bundle, folder, rest)

    assert rest.encoded == PROMPTS[SHARD:]
    undisturbed = _embeddings(tiny_bundle, folder.parent / "other", _Interrupting(tiny_bundle, 3))
    assert torch.equal(resumed, undisturbed)


def test_latents_continue_after_their_last_complete_shard(
    tiny_bundle: ModelBundle, examples: list[Example], folder: Path
) -> None:
    many = (examples * SHARD)[: SHARD + 2]
    whole = _latents(tiny_bundle, many, folder, flip=True)
    (folder / f"{SHARD}.safetensors").unlink()
    num_encoded: list[int] = []

    def encode(pixels: Tensor) -> Tensor:
        num_encoded.append(len(pixels))
        return encode_pixels(tiny_bundle, pixels)

    resumed = cached_latents(many, flip=True, vae=tiny_bundle.vae, encode=encode, cache_dir=folder)
    assert num_encoded == [2, 2]  # the pictures of the second shard, and the same mirrored
    assert torch.equal(resumed.latents, whole.latents)
    assert torch.equal(resumed.flipped, whole.flipped)


def test_a_damaged_shard_is_an_error_that_names_it(tiny_bundle: ModelBundle, folder: Path) -> None:
    _embeddings(tiny_bundle, folder, lambda part: encode_prompts(tiny_bundle, part))
    shard = folder / f"{SHARD}.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 0x10
    shard.write_bytes(content)
    with pytest.raises(StageError, match=rf"one_size/{SHARD}\.safetensors: this cache file is damaged .*; delete it"):
        _embeddings(tiny_bundle, folder, _never)


def test_a_shard_in_the_place_of_another_is_an_error(tiny_bundle: ModelBundle, folder: Path) -> None:
    _embeddings(tiny_bundle, folder, lambda part: encode_prompts(tiny_bundle, part))
    (folder / "0.safetensors").replace(folder / f"{SHARD}.safetensors")
    with pytest.raises(StageError, match=rf"{SHARD}\.safetensors: this cache file was computed from other data"):
        _embeddings(tiny_bundle, folder, lambda part: encode_prompts(tiny_bundle, part))
