"""The committed base model, and the drawings that it is trained on."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
BASE = ROOT / "base"
MAX_MB = 25
SHINOBI_WORDS = {
    *("forehead", "protector", "whisker", "ninja", "kunai", "shuriken", "armor", "meditating"),
    *("waterfall", "cherry", "naruto"),
}
SHARED_WITH_VILLAGERS = {"mask", "cloak", "scroll", "fan", "village"}
"""Words for shinobi that also describe things of the flat villagers, which another pen draws."""


def test_the_model_has_the_structure_of_stable_diffusion() -> None:
    index = _config("model_index.json")
    assert {name: index[name][1] for name in ("text_encoder", "tokenizer", "vae", "unet", "scheduler")} == {
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "vae": "AutoencoderKL",
        "unet": "UNet2DConditionModel",
        "scheduler": "PNDMScheduler",
    }
    unet = _config("unet/config.json")
    levels = len(unet["block_out_channels"])
    assert unet["layers_per_block"] == 2
    assert unet["down_block_types"] == ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"]
    assert unet["cross_attention_dim"] == _config("text_encoder/config.json")["hidden_size"]
    assert _config("tokenizer/tokenizer_config.json")["model_max_length"] == 77
    assert _config("text_encoder/config.json")["max_position_embeddings"] == 77


def test_the_model_is_small_and_contains_no_code() -> None:
    files = [path for path in (BASE / "model").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= MAX_MB * 1e6


@pytest.mark.parametrize(
    ("family", "excluded_words"),
    [
        ("villagers.draw_villager", SHINOBI_WORDS),
        ("comics.draw_comic", SHINOBI_WORDS | SHARED_WITH_VILLAGERS),
    ],
)
def test_training_captions_contain_no_word_of_the_shinobi(
    family: str, excluded_words: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = _drawing_function(family, monkeypatch)
    drawings = [draw(index, seed=7, size_px=16) for index in range(300)]
    words = {word.strip(",") for drawing in drawings for word in drawing.caption.lower().split()}
    assert not words & excluded_words


@pytest.mark.parametrize("family", ["villagers.draw_villager", "comics.draw_comic"])
def test_training_pictures_depend_only_on_seed_and_index(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = _drawing_function(family, monkeypatch)
    first, again = draw(5, seed=7, size_px=16), draw(5, seed=7, size_px=16)
    assert (again.caption, again.image.tobytes()) == (first.caption, first.image.tobytes())
    assert draw(6, seed=7, size_px=16).image.tobytes() != first.image.tobytes()


def test_a_widened_autoencoder_starts_with_the_outputs_of_the_narrow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BASE))
    from diffusers import AutoencoderKL
    from recipe.decoder import widened

    torch.manual_seed(0)
    narrow = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    wide, pixels = widened(narrow, [24, 32]), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        latents, copies = narrow.encode(pixels).latent_dist, wide.encode(pixels).latent_dist
        torch.testing.assert_close(copies.parameters, latents.parameters, rtol=1e-4, atol=1e-5)
        drawn = [model.decode(latents.mean).sample for model in (narrow, wide)]
    torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"decoder\.widths: \[20, 32\]"):
        widened(narrow, [20, 32])


def _drawing_function(family: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.syspath_prepend(str(BASE))
    module, _, name = family.partition(".")
    return getattr(import_module(f"recipe.{module}"), name)


def _config(file: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((BASE / "model" / file).read_text())
    return config
