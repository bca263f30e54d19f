"""The exported tiny decoder is one that plain diffusers loads, and its figures compare it with the full decoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny

from naruto_add.diffusion import placement
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.export import tiny_decoder
from naruto_add.export.tiny_decoder import write_tiny_decoder
from naruto_add.models.tiny_decoder import decode_tiny, load_tiny_decoder


def test_longer_distillation_gives_pictures_closer_to_the_full_decoders(
    tiny_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    few, many = (
        write_tiny_decoder(
            tiny_bundle,
            tmp_path / str(num_steps),
            source="distilled",
            num_steps=num_steps,
            dataset_dir=tiny_dataset_dir,
            seed=0,
            dtype=torch.float32,
        )
        for num_steps in (1, 30)
    )
    assert float(many["psnr_db"]) > float(few["psnr_db"]) + 3
    assert float(many["mean_abs_diff_of_255"]) < float(few["mean_abs_diff_of_255"])
    assert float(many["speedup"]) > 0


def test_plain_diffusers_decodes_scaled_latents_with_it(
    tiny_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    figures = write_tiny_decoder(
        tiny_bundle,
        tmp_path / "tiny",
        source="distilled",
        num_steps=30,
        dataset_dir=tiny_dataset_dir,
        seed=0,
        dtype=torch.float16,
    )
    tiny = AutoencoderTiny.from_pretrained(tmp_path / "tiny")
    latents = 0.5 * torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    scaled = latents / tiny.config.scaling_factor  # as StableDiffusionPipeline does before it decodes
    pixels = tiny.decode(scaled).sample
    loaded = load_tiny_decoder(str(tmp_path / "tiny"), tiny_bundle.vae, tiny_bundle.device)
    assert torch.equal(pixels, decode_tiny(loaded, latents))
    assert sum(item.numel() for item in tiny.decoder.parameters()) == figures["num_parameters"]


def test_both_decoders_take_as_many_pictures_at_once_as_the_full_one_has_memory_for(
    tiny_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, list[int]] = {"full": [], "tiny": []}
    options = {"num_steps": 1, "dataset_dir": tiny_dataset_dir, "seed": 0, "dtype": torch.float32}
    write_tiny_decoder(tiny_bundle, tmp_path / "one", source="distilled", **options)
    for name in ("full", "tiny"):
        decode = getattr(tiny_decoder, f"decode_{name}")

        def noted(network: object, latents: torch.Tensor, *, name: str = name, decode: Any = decode) -> torch.Tensor:
            sizes[name].append(len(latents))
            return decode(network, latents)

        monkeypatch.setattr(tiny_decoder, f"decode_{name}", noted)
    monkeypatch.setattr(placement, "pictures_at_once", lambda *_, **__: 2)
    write_tiny_decoder(tiny_bundle, tmp_path / "two", source=str(tmp_path / "one"), **options)
    assert sizes["full"] == sizes["tiny"]
    assert max(sizes["full"]) == 2


def test_the_given_decoder_is_copied(tiny_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    options = {"num_steps": 1, "dataset_dir": tiny_dataset_dir, "seed": 0, "dtype": torch.float32}
    first = write_tiny_decoder(tiny_bundle, tmp_path / "one", source="distilled", **options)
    second = write_tiny_decoder(tiny_bundle, tmp_path / "two", source=str(tmp_path / "one"), **options)
    assert first["psnr_db"] == second["psnr_db"]
    files = [(tmp_path / name / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
