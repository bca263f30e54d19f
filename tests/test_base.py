"""The committed base model, and the drawings that it is trained on."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
BASE = ROOT / "base"
MAX_MB = 30
SHINOBI_WORDS = {
    *("forehead", "protector", "whisker", "ninja", "kunai", "shuriken", "armor", "meditating"),
    *("waterfall", "cherry", "naruto"),
}
SHARED_WITH_VILLAGERS = {"mask", "cloak", "scroll", "fan", "village"}
"""Words for shinobi that also describe things of the flat villagers, which another pen draws."""

_TINY: dict[str, Any] = {
    "size_px": 32,
    "block_out_channels": [8, 8, 16],
    "num_steps": 5,
    "decay_steps": 2,
    "warmup_steps": 1,
    "batch_size": 2,
    "sharpening_start_steps": 3,
}
_TINY_DENOISER: dict[str, Any] = {
    "block_out_channels": [8, 16, 32, 32],
    "cycles": [2, 3],
    "decay_steps": 1,
    "warmup_steps": 1,
    "batch_size": 2,
}


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
    assert len(unet["block_out_channels"]) == 4
    assert unet["layers_per_block"] == 2
    assert unet["in_channels"] == 4
    # SD 1.5 has attention on the first level too, which is the costliest here; SDXL has not either.
    assert unet["down_block_types"] == ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"]
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


def test_a_series_of_pictures_is_decided_by_their_numbers(recipe: None) -> None:
    from recipe.pictures import Pictures, batches, first_pictures

    families = ["comic", "doodle", "villager"]
    pixels, captions = first_pictures(families, 6, seed=3, size_px=16)
    assert captions[1] == captions[4] == "an abstract drawing"
    assert pixels.shape == (6, 3, 16, 16)
    assert not torch.equal(pixels[1], pixels[4])
    series = Pictures(families, seed=3, size_px=16)
    drawn = list(batches(series, range(1, 3), batch_size=2, device=torch.device("cpu")))
    torch.testing.assert_close(torch.cat([batch[0] for batch in drawn]), pixels[2:6])
    assert [caption for batch in drawn for caption in batch[1]] == captions[2:6]
    assert first_pictures(families, 1, seed=4, size_px=16)[1] != captions[:1]


def test_latents_are_standardized_and_decode_as_before(recipe: None) -> None:
    from recipe.autoencoder import copies, standardize

    vae, pixels = _tiny_autoencoder(), torch.randn(8, 3, 16, 16)
    vae.quant_conv.weight.data[0] *= 5
    vae.quant_conv.bias.data[1] = 3
    before = copies(vae, pixels)
    ratio = _noise_ratio(vae, pixels)
    standardize(vae, pixels)
    latents = vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(copies(vae, pixels), before, atol=1e-4, rtol=0)
    torch.testing.assert_close(_noise_ratio(vae, pixels), ratio)


def test_a_killed_autoencoder_goes_on_as_if_it_had_not_been(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe import autoencoder

    plan = autoencoder.Recipe(**_section("autoencoder") | _TINY)
    monkeypatch.setattr(autoencoder, "SAVE_EVERY_STEPS", 2)
    monkeypatch.setattr(autoencoder, "NUM_CURVE_PICTURES", 2)
    monkeypatch.setattr(autoencoder, "NUM_SCALING_PICTURES", 4)
    monkeypatch.chdir(tmp_path)
    autoencoder.train_autoencoder(Path("whole"), plan)
    step = autoencoder._Run.train_step

    def killed(self: Any, pixels: torch.Tensor, number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt
        step(self, pixels, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(autoencoder._Run, "train_step", killed)
        autoencoder.train_autoencoder(Path("parts"), plan)
    autoencoder.train_autoencoder(Path("parts"), plan)
    for file in ("vae/diffusion_pytorch_model.safetensors", "curve.tsv"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not list((tmp_path / ".checkpoints").glob("*.pt"))


def test_the_recipe_runs_through_at_a_tiny_size(recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe import autoencoder, check, denoiser, model

    first, second = (
        autoencoder.Recipe(**_section("autoencoder") | _TINY),
        denoiser.Recipe(**_section("denoiser") | _TINY_DENOISER),
    )
    for module in (autoencoder, denoiser):
        monkeypatch.setattr(module, "SAVE_EVERY_STEPS", 2)
        monkeypatch.setattr(module, "NUM_CURVE_PICTURES", 4)
    monkeypatch.setattr(autoencoder, "NUM_SCALING_PICTURES", 4)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASE / "model/tokenizer", "model/tokenizer")
    autoencoder.train_autoencoder(Path("autoencoder"), first)
    denoiser.train_denoiser(Path("denoiser"), second)
    model.put_together()
    check.check(seed=0, pictures_seed=1, num_pictures=4, num_copies=4, num_steps=2, guidance_scale=2.0)
    figures = json.loads(Path("metrics.json").read_text())
    assert set(figures) == {
        f"{name}_{kind}" for name in ("psnr", "fd_efficientnet_lite1") for kind in ("people", "shinobi")
    }
    assert Path("samples.png").exists()
    assert Path("reconstructions.png").exists()
    assert len(Path("curves/denoiser.tsv").read_text().splitlines()) == 3
    assert not list(Path(".checkpoints").glob("*.pt"))


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny"])
def test_the_recipes_denoiser_can_be_made_smaller(recipe: None, architecture: Any) -> None:
    from recipe import denoiser

    from naruto_add.models.student import matching_blocks, recorded_outputs, shrink_unet

    vae = _tiny_autoencoder()
    teacher = denoiser._build_unet(vae, denoiser.Recipe(**_section("denoiser")))
    student = shrink_unet(teacher, architecture)
    pairs = matching_blocks(student, teacher)
    latents, prompts = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 128)
    names = [list(each) for each in zip(*pairs, strict=True)]
    with recorded_outputs(student, names[0]) as small, recorded_outputs(teacher, names[1]) as large, torch.no_grad():
        assert student(latents, 500, prompts).sample.shape == teacher(latents, 500, prompts).sample.shape
    assert [small[a].shape for a, _ in pairs] == [large[b].shape for _, b in pairs]
    assert student.num_parameters() < 0.7 * teacher.num_parameters()


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's modules can be imported; its packages are installed by hand."""
    pytest.importorskip("python_avatars", reason="see base/README.md for the recipe's packages")
    monkeypatch.syspath_prepend(str(BASE))
    torch.manual_seed(0)


def _tiny_autoencoder() -> Any:
    from recipe import autoencoder

    return autoencoder._build(autoencoder.Recipe(**_section("autoencoder") | _TINY))


def _noise_ratio(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """By channel: of the posterior's noise to the deviation of what it hides."""
    posterior = vae.encode(pixels).latent_dist
    return posterior.std.mean(dim=(0, 2, 3)) / posterior.mean.std(dim=(0, 2, 3))


def _section(name: str) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe").load(BASE / "params.yaml")[name]
    return values


def _drawing_function(family: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.syspath_prepend(str(BASE))
    module, _, name = family.partition(".")
    return getattr(import_module(f"recipe.{module}"), name)


def _config(file: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((BASE / "model" / file).read_text())
    return config
