"""A tiny decoder learns to decode as the full one does, and one for other latents is refused."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.models.tiny_decoder import (
    decode_full,
    decode_tiny,
    distil_tiny_decoder,
    load_tiny_decoder,
    new_tiny_decoder,
    psnr_db,
)
from naruto_add.runtime.errors import StageError

CPU = torch.device("cpu")


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_distillation_comes_closer_to_the_full_decoder(tiny_bundle: ModelBundle, latents: torch.Tensor) -> None:
    reference = decode_full(tiny_bundle.vae, latents)
    before, after = (
        (decode_tiny(tiny, latents) - reference).abs().mean().item()
        for tiny in (
            new_tiny_decoder(tiny_bundle.vae, seed=0),
            distil_tiny_decoder(tiny_bundle.vae, latents, num_steps=30, seed=0),
        )
    )
    assert after < 0.5 * before
    assert not any(weight.requires_grad for weight in tiny_bundle.vae.parameters())


def test_the_weights_depend_only_on_the_seed(tiny_bundle: ModelBundle) -> None:
    torch.manual_seed(5)
    one, same, other = (new_tiny_decoder(tiny_bundle.vae, seed=seed).decoder.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_saved_one_is_loaded_and_decodes_the_same(
    tiny_bundle: ModelBundle, latents: torch.Tensor, tmp_path: Path
) -> None:
    tiny = new_tiny_decoder(tiny_bundle.vae, seed=0).eval()
    tiny.save_pretrained(tmp_path)
    loaded = load_tiny_decoder(str(tmp_path), tiny_bundle.vae, CPU)
    assert decode_tiny(loaded, latents).shape == (6, 3, 32, 32)
    assert torch.equal(decode_tiny(loaded, latents), decode_tiny(tiny, latents))


def test_one_for_other_latents_is_refused(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path)
    with pytest.raises(
        StageError, match=r"latents of 16 channels by a factor of 2, but .* have 4 and 8; use distilled"
    ):
        load_tiny_decoder(str(tmp_path), tiny_bundle.vae, CPU)


def test_psnr_of_a_known_error() -> None:
    pixels = torch.zeros(2, 3, 4, 4)
    assert psnr_db(pixels + 0.2, pixels) == pytest.approx(20.0)


def test_a_file_that_lacks_weights_is_refused(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    tiny = new_tiny_decoder(tiny_bundle.vae, seed=0)
    tiny.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    name = next(name for name in weights if name.startswith("decoder."))
    del weights[name]
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(StageError, match=f"lack 1 weights, such as {name}"):
        load_tiny_decoder(str(tmp_path), tiny_bundle.vae, CPU)
