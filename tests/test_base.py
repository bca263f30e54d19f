"""The embedded base model, as committed, and the drawings that it learned from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
BASE = ROOT / "base"
MAX_MB = 25
UNIVERSE = {
    *("forehead", "protector", "whisker", "ninja", "kunai", "shuriken", "armor", "meditating"),
    *("waterfall", "cherry", "naruto"),
}
OF_THE_PEN = {"mask", "cloak", "scroll", "fan", "village"}
"""What only shinobi have among those whom their pen draws; flat villagers have things of these names."""


def test_it_is_stable_diffusion_in_small() -> None:
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


def test_it_is_small_and_holds_no_code() -> None:
    files = [path for path in (BASE / "model").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= MAX_MB * 1e6


@pytest.mark.parametrize(
    ("family", "kept_from_it"),
    [("villagers.draw_villager", UNIVERSE), ("comics.draw_comic", UNIVERSE | OF_THE_PEN)],
)
def test_it_has_never_seen_a_shinobi(family: str, kept_from_it: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BASE))
    module, _, name = family.partition(".")
    draw = getattr(__import__(f"recipe.{module}", fromlist=[name]), name)
    drawings = [draw(index, seed=7, size_px=16) for index in range(300)]
    words = {word.strip(",") for drawing in drawings for word in drawing.caption.lower().split()}
    assert not words & kept_from_it
    again = draw(5, seed=7, size_px=16)
    assert (again.caption, again.image.tobytes()) == (drawings[5].caption, drawings[5].image.tobytes())


def test_a_wider_autoencoder_begins_as_the_narrow_one(monkeypatch: pytest.MonkeyPatch) -> None:
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


def _config(file: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((BASE / "model" / file).read_text())
    return config
