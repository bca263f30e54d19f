"""Prompts in several chunks: each is encoded as a prompt of its own, and one chunk is what it was without chunks."""

from dataclasses import replace

import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, tokenize
from naruto_add.diffusion.token_chunks import CHUNK_LENGTH, TOKENS_PER_CHUNK, token_chunks
from naruto_add.training.teacher.trainer import Denoiser

LONG = "a man " * 50  # 100 tokens
PROMPTS = ["", "a man with white hair", "a girl " * 37 + "at", LONG, "a boy " * 200]


def test_chunks_have_their_own_begin_end_and_padding() -> None:
    empty = [100, 101, 0, 0, 0]
    assert token_chunks([1, 2, 3, 4, 5], empty, 2) == [100, 1, 2, 3, 101, 100, 4, 5, 101, 0]
    assert token_chunks([1, 2, 3], empty, 2) == [100, 1, 2, 3, 101, *empty]
    assert token_chunks([], empty, 2) == [*empty, *empty]
    assert token_chunks([1, 2, 3, 4], empty, 1) == [100, 1, 2, 3, 101]


def test_a_chunk_with_its_ends_is_as_long_as_the_tokenizer_allows(tiny_bundle: ModelBundle) -> None:
    assert tiny_bundle.tokenizer.model_max_length == CHUNK_LENGTH
    assert tokenize(replace(tiny_bundle, caption_chunks=2), PROMPTS).shape[1] == 2 * (TOKENS_PER_CHUNK + 2)


def test_one_chunk_has_the_bits_of_the_text_encoder_on_truncated_prompts(tiny_bundle: ModelBundle) -> None:
    ids = tiny_bundle.tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = tiny_bundle.text_encoder(ids).last_hidden_state
    assert torch.equal(encode_prompts(tiny_bundle, PROMPTS), expected)


def test_a_single_chunk_is_what_the_tokenizer_truncates_to(tiny_bundle: ModelBundle) -> None:
    tokenizer = tiny_bundle.tokenizer
    empty = tokenizer("", padding="max_length").input_ids
    ids = tokenizer(PROMPTS, add_special_tokens=False, truncation=False, verbose=False).input_ids
    assert [token_chunks(each, empty, 1) for each in ids] == tokenize(tiny_bundle, PROMPTS).tolist()


def test_words_beyond_the_first_chunk_count_only_with_a_second(tiny_bundle: ModelBundle) -> None:
    first, second = f"{LONG} with a sword", f"{LONG} with a cat"
    one, other = encode_prompts(tiny_bundle, [first, second])
    assert torch.equal(one, other)
    one, other = encode_prompts(replace(tiny_bundle, caption_chunks=2), [first, second])
    assert torch.equal(one[:77], other[:77]) and not torch.equal(one[77:], other[77:])


@pytest.mark.parametrize("num_chunks", [2, 3])
def test_each_chunk_is_what_the_encoder_makes_of_it_alone(tiny_bundle: ModelBundle, num_chunks: int) -> None:
    embeds = encode_prompts(replace(tiny_bundle, caption_chunks=num_chunks), [LONG, "a girl", ""])
    assert embeds.shape == (3, num_chunks * 77, 16)
    words = LONG.split()  # a token each
    parts = [" ".join(words[first : first + 75]) for first in range(0, num_chunks * 75, 75)]
    shorts = ["a girl", "", ""]
    alone = [encode_prompts(tiny_bundle, [part, short, ""]) for part, short in zip(parts, shorts, strict=False)]
    torch.testing.assert_close(embeds, torch.cat(alone, dim=1))


def test_a_trained_text_encoder_embeds_chunks_as_a_frozen_one_does(tiny_bundle: ModelBundle) -> None:
    bundle = replace(tiny_bundle, caption_chunks=2)
    denoiser = Denoiser(bundle.unet, bundle.text_encoder, num_chunks=2)
    with torch.no_grad():
        assert torch.equal(denoiser.embed(tokenize(bundle, PROMPTS)), encode_prompts(bundle, PROMPTS))
