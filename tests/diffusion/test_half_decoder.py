"""A decoder with a scaled residual stream draws the same pictures, and does not overflow in fp16."""

import pytest
import torch

from naruto_add.diffusion import half_decoder
from naruto_add.diffusion.bundle import ModelBundle, decode_latents
from naruto_add.diffusion.half_decoder import STREAM_SCALE, decoder_dtype, halve_decoder

LATENTS = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_pictures_are_those_of_fp32_up_to_the_rounding_of_fp16(tiny_bundle: ModelBundle) -> None:
    before = decode_latents(tiny_bundle, LATENTS)
    halve_decoder(tiny_bundle.vae)
    assert decoder_dtype(tiny_bundle.vae) == torch.float16
    assert tiny_bundle.vae.encoder.conv_in.weight.dtype == torch.float32
    torch.testing.assert_close(decode_latents(tiny_bundle, LATENTS), before, rtol=0, atol=0.02)


def test_the_scale_alone_changes_nothing(tiny_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32, without the rounding; a factor of 2^-4 is exact, so that only the norms' epsilon remains."""
    before = decode_latents(tiny_bundle, LATENTS)
    monkeypatch.setattr(torch.nn.Module, "half", lambda module: module)
    halve_decoder(tiny_bundle.vae)
    torch.testing.assert_close(decode_latents(tiny_bundle, LATENTS), before, rtol=0, atol=5e-3)


def test_the_stream_is_smaller_by_the_factor(tiny_bundle: ModelBundle) -> None:
    """A stream of 10^5, where fp16 has no finite value, stays finite."""
    seen: list[torch.Tensor] = []
    hook = tiny_bundle.vae.decoder.up_blocks[-1].register_forward_hook(lambda _m, _i, output: seen.append(output))
    decode_latents(tiny_bundle, LATENTS)
    halve_decoder(tiny_bundle.vae)
    decode_latents(tiny_bundle, LATENTS)
    hook.remove()
    ratio = (seen[1].float().std() / seen[0].std()).item()
    assert ratio == pytest.approx(STREAM_SCALE, rel=0.02)
    assert torch.finfo(torch.float16).max > half_decoder.STREAM_SCALE * 1e5
