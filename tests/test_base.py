"""The committed base model, and the drawings that it is trained on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.training_utils import EMAModel
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from torch import nn

from naruto_add.pipeline.imports import SOURCES, import_closure
from tests.extras import need_packages
from tests.hooks import KilledError, killed_in_training

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
_TINY_DECODER: dict[str, Any] = {"num_steps": 5, "decay_steps": 2, "warmup_steps": 1, "batch_size": 2}


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


def test_the_model_and_its_curves_belong_to_the_recipe() -> None:
    """The committed weights and curves have the shapes and numbers of steps of the recipe."""
    autoencoder, denoiser = _section("autoencoder"), _section("denoiser")
    vae, unet, text = (_config(f"{name}/config.json") for name in ("vae", "unet", "text_encoder"))
    names = ("block_out_channels", "latent_channels", "norm_num_groups")
    assert {name: vae[name] for name in names} == {name: autoencoder[name] for name in names}
    assert vae["sample_size"] == autoencoder["size_px"]
    assert {name: unet[name] for name in names[::2]} == {name: denoiser[name] for name in names[::2]}
    assert unet["in_channels"] == unet["out_channels"] == autoencoder["latent_channels"]
    assert unet["attention_head_dim"] == denoiser["attention_heads"]
    sizes = {"hidden_size": "text_width", "num_hidden_layers": "text_layers", "num_attention_heads": "text_heads"}
    assert {name: text[name] for name in sizes} == {name: denoiser[key] for name, key in sizes.items()}
    assert text["vocab_size"] == 512 + _section("tokenizer")["num_merges"] + 2
    assert _last_step("autoencoder") == autoencoder["num_steps"]
    assert _last_step("denoiser") == sum(denoiser["cycles"])
    assert _last_step("decoder") == _section("decoder")["num_steps"]


@pytest.mark.parametrize("stage", ["tokenizer", "autoencoder", "denoiser", "decoder", "model", "check"])
def test_a_stage_of_the_recipe_depends_on_the_modules_that_it_imports(stage: str) -> None:
    stages = YAML(typ="safe").load(BASE / "dvc.yaml")["stages"]
    assert stages[stage]["cmd"] == f"python -m recipe.{stage}"
    closure = import_closure(ROOT, f"recipe.{stage}", sources={"recipe": "base", **SOURCES}).files
    own, library = (
        {file for file in closure if file.startswith(top)} for top in ("base/recipe/", "src/naruto_add/data/shinobi/")
    )
    deps = {Path("base", dep).as_posix().replace("base/../", "") for dep in stages[stage]["deps"]}
    assert {dep for dep in deps if dep.startswith("base/recipe/")} == own
    assert ("src/naruto_add/data/shinobi" in deps) == bool(library)
    assert ("src/naruto_add/training/muon.py" in deps) == (stage in ("autoencoder", "denoiser", "decoder"))


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
    from recipe.autoencoder import standardize
    from recipe.copies import copies

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
    with killed_in_training(Encoder, call=4), pytest.raises(KilledError):
        autoencoder.train_autoencoder(Path("parts"), plan)
    assert list((tmp_path / ".checkpoints").glob("*.pt"))
    autoencoder.train_autoencoder(Path("parts"), plan)
    for file in ("vae/diffusion_pytorch_model.safetensors", "curve.tsv"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not list((tmp_path / ".checkpoints").glob("*.pt"))


def test_a_killed_denoiser_goes_on_as_if_it_had_not_been(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed at steps 3 and 4: one checkpoint was written where a cycle begins, the other within it."""
    from recipe import denoiser

    plan = denoiser.Recipe(**_section("denoiser") | _TINY_DENOISER)
    monkeypatch.setattr(denoiser, "SAVE_EVERY_STEPS", 2)
    monkeypatch.setattr(denoiser, "NUM_CURVE_PICTURES", 4)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASE / "model/tokenizer", "model/tokenizer")
    _tiny_autoencoder().save_pretrained("autoencoder/vae")
    denoiser.train_denoiser(Path("whole"), plan)
    for call in (4, 5):
        parts = Path(f"parts_{call}")
        with killed_in_training(denoiser.Denoiser, call=call), pytest.raises(KilledError):
            denoiser.train_denoiser(parts, plan)
        assert list(Path(".checkpoints").glob("*.pt"))
        denoiser.train_denoiser(parts, plan)
        assert not list(Path(".checkpoints").glob("*.pt"))
        for file in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "curve.tsv"):
            assert (parts / file).read_bytes() == (Path("whole") / file).read_bytes()


def test_a_killed_decoder_goes_on_as_if_it_had_not_been(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe import decoder

    plan = decoder.Recipe(**_section("decoder") | _TINY_DECODER)
    monkeypatch.setattr(decoder, "SAVE_EVERY_STEPS", 2)
    _tiny_trained_parts(tmp_path, monkeypatch)
    decoder.train_decoder(Path("whole"), plan)
    with killed_in_training(Decoder, call=4), pytest.raises(KilledError):
        decoder.train_decoder(Path("parts"), plan)
    assert list(Path(".checkpoints").glob("*.pt"))
    decoder.train_decoder(Path("parts"), plan)
    for file in ("vae/diffusion_pytorch_model.safetensors", "curve.tsv"):
        assert (Path("parts") / file).read_bytes() == (Path("whole") / file).read_bytes()
    assert not list(Path(".checkpoints").glob("*.pt"))


def test_the_encoder_keeps_its_weights_while_the_decoder_is_trained(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The denoiser was trained on its latents."""
    from recipe import decoder

    before = _tiny_trained_parts(tmp_path, monkeypatch)
    decoder.train_decoder(Path("decoder"), decoder.Recipe(**_section("decoder") | _TINY_DECODER))
    after = load_file("decoder/vae/diffusion_pytorch_model.safetensors")
    changed = {name for name, weight in before.items() if not torch.equal(after[name], weight.half())}
    assert {name.partition(".")[0] for name in changed} == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize("clean_share", [0.0, 1.0])
def test_the_decoder_gets_predicted_latents_except_for_the_clean_share(
    clean_share: float, recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe import decoder
    from recipe.pictures import first_pictures

    _tiny_trained_parts(tmp_path, monkeypatch)
    plan = decoder.Recipe(**_section("decoder") | _TINY_DECODER | {"clean_share": clean_share})
    run = decoder._Run(plan, torch.device("cpu"))
    batch = first_pictures(plan.families, 2, seed=3, size_px=32)
    decoded: list[torch.Tensor] = []
    decode = run._decode
    monkeypatch.setattr(run, "_decode", lambda latents: decoded.append(latents) or decode(latents))
    run.train_step(batch, 0)
    is_equal = [torch.equal(*pair) for pair in zip(decoded[0], run._encode(batch[0]), strict=True)]
    assert is_equal == [clean_share == 1.0] * 2


def test_a_denoiser_that_knows_the_noise_predicts_the_latents(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe import decoder

    _tiny_trained_parts(tmp_path, monkeypatch)
    run = decoder._Run(decoder.Recipe(**_section("decoder") | _TINY_DECODER), torch.device("cpu"))
    latents = torch.randn(3, 4, 8, 8)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(run.unet, "forward", lambda *_: UNet2DConditionOutput(sample=noise))
    found = run._predict(latents, ["a boy"] * 3, torch.tensor([0, 100, 250]), torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, latents, atol=1e-4, rtol=0)


def test_a_checkpoint_of_the_decoder_belongs_to_what_it_starts_from(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe import decoder

    _tiny_trained_parts(tmp_path, monkeypatch)
    plan = decoder.Recipe(**_section("decoder") | _TINY_DECODER)
    first = decoder._Run(plan, torch.device("cpu")).inputs()
    assert vars(plan).items() <= first.items()
    weights = "denoiser/unet/diffusion_pytorch_model.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(weights).items()}, weights)
    other = decoder._Run(plan, torch.device("cpu")).inputs()
    assert {name for name, value in other.items() if value != first[name]} == {"unet"}


def test_the_decoder_learns_to_draw_the_original_from_a_prediction(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps on one batch bring pictures from predicted latents nearer to it, and the denoiser stays as it was."""
    from recipe import decoder
    from recipe.pictures import first_pictures

    _tiny_trained_parts(tmp_path, monkeypatch)
    plan = decoder.Recipe(**_section("decoder") | _TINY_DECODER | {"num_steps": 1000, "clean_share": 0.0})
    run = decoder._Run(plan, torch.device("cpu"))
    denoiser = {name: weight.clone() for name, weight in run.unet.state_dict().items()}
    batch = first_pictures(plan.families, 4, seed=3, size_px=32)

    def error() -> float:
        timesteps = torch.full((4,), plan.max_timestep)
        latents = run._predict(run._encode(batch[0]), batch[1], timesteps, torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float((run._decode(latents) - batch[0]).abs().mean())

    first = error()
    for step in range(60):
        run.train_step(batch, step)
    assert error() < 0.9 * first
    assert all(torch.equal(weight, denoiser[name]) for name, weight in run.unet.state_dict().items())


def test_the_recipe_runs_through_at_a_tiny_size(recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe import autoencoder, check, decoder, denoiser, model

    first, second, third = (
        autoencoder.Recipe(**_section("autoencoder") | _TINY),
        denoiser.Recipe(**_section("denoiser") | _TINY_DENOISER),
        decoder.Recipe(**_section("decoder") | _TINY_DECODER),
    )
    for module in (autoencoder, denoiser, decoder):
        monkeypatch.setattr(module, "SAVE_EVERY_STEPS", 2)
        monkeypatch.setattr(module, "NUM_CURVE_PICTURES", 4)
    monkeypatch.setattr(autoencoder, "NUM_SCALING_PICTURES", 4)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASE / "model/tokenizer", "model/tokenizer")
    autoencoder.train_autoencoder(Path("autoencoder"), first)
    denoiser.train_denoiser(Path("denoiser"), second)
    decoder.train_decoder(Path("decoder"), third)
    model.assemble_model()
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert Path("model", weights).read_bytes() == Path("decoder", weights).read_bytes()
    assert Path("model", weights).read_bytes() != Path("autoencoder", weights).read_bytes()
    check.check(seed=0, pictures_seed=1, num_pictures=4, num_copies=4, num_steps=2, guidance_scale=2.0)
    figures = json.loads(Path("metrics.json").read_text())
    assert set(figures) == {
        f"{name}_{kind}" for name in ("psnr", "fd_efficientnet_lite1") for kind in ("people", "shinobi")
    }
    assert Path("samples.png").exists()
    assert Path("reconstructions.png").exists()
    assert len(Path("curves/denoiser.tsv").read_text().splitlines()) == 3
    assert len(Path("curves/decoder.tsv").read_text().splitlines()) == 3
    assert not list(Path(".checkpoints").glob("*.pt"))


def test_a_checkpoint_is_loaded_onto_the_device_of_its_training(tmp_path: Path, resume: Any) -> None:
    """The averaged weights too, which diffusers leaves where the file has them. The device `meta` stands for a GPU."""
    resume.save_checkpoint(tmp_path / "toy.pt", _Toy(), 3)
    on_device = _Toy(device=torch.device("meta"))
    assert resume.load_checkpoint(tmp_path / "toy.pt", on_device) == 3
    assert {average.device.type for average in on_device.ema.shadow_params} == {"meta"}


def test_a_checkpoint_restores_weights_and_averages(tmp_path: Path, resume: Any) -> None:
    training, other = _Toy(), _Toy()
    with torch.no_grad():
        training.model.weight.add_(1)
    training.ema.step(training.model.parameters())
    resume.save_checkpoint(tmp_path / "toy.pt", training, 3)
    assert resume.load_checkpoint(tmp_path / "toy.pt", other) == 3
    torch.testing.assert_close(other.model.weight, training.model.weight, atol=0, rtol=0)
    torch.testing.assert_close(other.ema.shadow_params, training.ema.shadow_params, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, None),
        ({"num_steps": 30, "decay_steps": 8}, None),
        ({"batch_size": 8}, "batch_size"),
        ({"autoencoder": "another hash"}, "autoencoder"),
        ({"momentum": 0.9}, "momentum"),
        ({"num_steps": 11}, "the learning rates of these steps"),
        ({"warmup_steps": 3}, "the learning rates of these steps, warmup_steps"),
    ],
)
def test_a_checkpoint_belongs_to_its_recipe(
    changes: dict[str, Any], named: str | None, tmp_path: Path, resume: Any
) -> None:
    """Lengths may change as long as no step already done would have had another learning rate."""
    path, training = tmp_path / "toy.pt", _Toy()
    resume.save_checkpoint(path, training, 9)
    other = _Toy(recipe=training.recipe | changes)
    if named is None:
        assert resume.load_checkpoint(path, other) == 9
        return
    with pytest.raises(SystemExit) as stopped:
        resume.load_checkpoint(path, other)
    message = f"error: {path} was written after 9 steps of another recipe, which differs in {named}; restore these"
    assert str(stopped.value).startswith(message)


def test_a_checkpoint_of_the_denoiser_belongs_to_the_autoencoder(
    recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe import denoiser

    monkeypatch.setattr(denoiser, "NUM_CURVE_PICTURES", 4)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASE / "model/tokenizer", "model/tokenizer")
    plan = denoiser.Recipe(**_section("denoiser") | _TINY_DENOISER)
    _tiny_autoencoder().save_pretrained("autoencoder/vae")
    run = denoiser._Run(plan, torch.device("cpu"))
    first = run.inputs()
    assert vars(plan).items() <= first.items()
    run.vae.encoder.conv_in.bias.data.add_(1)
    assert {name for name, value in run.inputs().items() if value != first[name]} == {"autoencoder"}


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny", "shallow"])
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


@dataclass
class _Toy:
    """A training of one layer, for checkpoints."""

    recipe: dict[str, Any] = field(
        default_factory=lambda: {
            "batch_size": 4,
            "num_steps": 20,
            "warmup_steps": 2,
            "decay_steps": 5,
            "autoencoder": "a hash",
        }
    )
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        from recipe.resume import trapezoid

        self.model = nn.Linear(2, 1, device=self.device)
        self.ema = EMAModel(self.model.parameters(), decay=0.5)
        lengths = {name: self.recipe[name] for name in ("num_steps", "warmup_steps", "decay_steps")}
        self.factor = trapezoid(lengths.pop("num_steps"), **lengths)

    def state(self) -> dict[str, Any]:
        return {"model": self.model, "ema": self.ema}

    def inputs(self) -> dict[str, Any]:
        return self.recipe


@pytest.fixture
def resume(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `recipe.resume`, which needs none of the recipe's packages."""
    monkeypatch.syspath_prepend(str(BASE))
    return import_module("recipe.resume")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's modules can be imported; its packages are installed."""
    need_packages("python_avatars", "resvg_py")
    monkeypatch.syspath_prepend(str(BASE))
    torch.manual_seed(0)


def _tiny_autoencoder() -> Any:
    from recipe import autoencoder

    return autoencoder._build(autoencoder.Recipe(**_section("autoencoder") | _TINY))


def _tiny_trained_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Go to the folder and write what the decoder's training starts from. Returns the autoencoder's weights."""
    from recipe import decoder, denoiser

    monkeypatch.chdir(folder)
    monkeypatch.setattr(decoder, "NUM_CURVE_PICTURES", 4)
    monkeypatch.setattr(denoiser, "NUM_CURVE_PICTURES", 4)
    shutil.copytree(BASE / "model/tokenizer", "model/tokenizer")
    vae = _tiny_autoencoder()
    vae.save_pretrained("autoencoder/vae")
    run = denoiser._Run(denoiser.Recipe(**_section("denoiser") | _TINY_DENOISER), torch.device("cpu"))
    run.curve.append({"step": 0})  # it is saved with the networks
    denoiser._save(Path("denoiser"), run)
    return {name: weight.clone() for name, weight in vae.state_dict().items()}


def _noise_ratio(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """By channel: of the posterior's noise to the deviation of what it hides."""
    posterior = vae.encode(pixels).latent_dist
    return posterior.std.mean(dim=(0, 2, 3)) / posterior.mean.std(dim=(0, 2, 3))


def _section(name: str) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe").load(BASE / "params.yaml")[name]
    return values


def _last_step(training: str) -> int:
    """In the committed learning curve."""
    last = (BASE / f"curves/{training}.tsv").read_text().splitlines()[-1]
    return int(last.partition("\t")[0])


def _drawing_function(family: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.syspath_prepend(str(BASE))
    module, _, name = family.partition(".")
    return getattr(import_module(f"recipe.{module}"), name)


def _config(file: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((BASE / "model" / file).read_text())
    return config
