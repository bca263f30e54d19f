"""Single files, read as ComfyUI, stable-diffusion.cpp and diffusers read them: every weight finds its place."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.diffusion.bundle import ModelBundle, keep_head_in_fp32
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import make_student_scheduler
from naruto_add.export import single_file
from naruto_add.export.safetensors_file import read_metadata
from naruto_add.export.single_file import STUDENT, STUDENT_GAPS, TEACHER, unfit_reason, write_single_files
from naruto_add.models.student import Architecture, shrink_unet, student_config
from naruto_add.runtime.errors import StageError
from tests.export.build import export

ROOT = Path(__file__).parent.parent.parent
UNET = "model.diffusion_model."
ARCHITECTURES: list[Architecture] = ["none", "bk_base", "bk_small", "bk_tiny"]
SD15_UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 128, 128),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "norm_num_groups": 8,
}
"""Stable Diffusion 1.5's structure, with a tenth of its channels."""


@pytest.fixture(scope="module")
def teacher() -> ModelBundle:
    """A random pipeline with the structure of Stable Diffusion 1.5, and few channels."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "base/model/tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=768,
            intermediate_size=64,
            num_hidden_layers=1,
            projection_dim=768,
            num_attention_heads=12,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 24),
        layers_per_block=2,
        norm_num_groups=8,
        sample_size=64,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    unet = keep_head_in_fp32(UNet2DConditionModel(**SD15_UNET))
    return ModelBundle(tokenizer, text_encoder.eval(), vae.eval(), unet.eval(), scheduler)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def files(request: pytest.FixtureRequest, teacher: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> "_Files":
    folder = tmp_path_factory.mktemp(request.param)
    unet = shrink_unet(teacher.unet, request.param).requires_grad_(False).eval()
    student = ModelBundle(teacher.tokenizer, teacher.text_encoder, teacher.vae, unet, teacher.scheduler)
    write_single_files(
        teacher, student, folder, prompt_template="ninja art, {caption}", num_steps=4, student_scheduler="ddim"
    )
    return _Files(request.param, folder, student)


class _Files:
    def __init__(self, architecture: Architecture, folder: Path, student: ModelBundle) -> None:
        self.architecture, self.folder, self.student = architecture, folder, student


def test_comfyui_detects_levels_and_layers_and_finds_every_weight(files: _Files) -> None:
    state = _unet(files.folder / STUDENT)
    config = _comfyui_config(state)
    levels = 3 if files.architecture == "bk_tiny" else 4
    layers = 2 if files.architecture == "none" else 1
    assert config.num_res_blocks == [layers] * levels
    assert config.channel_mult == [1, 2, 4, 4][:levels]
    assert config.depths_in == [1] * 3 * layers + [0] * (levels - 3) * layers
    assert (config.context_dim, config.has_middle) == (768, files.architecture in ("none", "bk_base"))
    assert set(_comfyui_modules(config)) == {_module(name) for name in state}


def test_stable_diffusion_cpp_finds_every_weight_of_teacher_and_tiny_student(files: _Files) -> None:
    assert _cpp_modules(tiny=False) == {_module(name) for name in _unet(files.folder / TEACHER)}
    assert (files.folder / STUDENT_GAPS).exists() is (files.architecture == "bk_tiny")
    if files.architecture == "bk_tiny":
        state = _unet(files.folder / STUDENT_GAPS)
        assert not any(name.startswith("middle_block.1.") for name in state), "by this it recognizes the tiny U-Net"
        assert any(name.startswith("output_blocks.7.1.") for name in state), "and by this that it is not SDXS"
        assert _cpp_modules(tiny=True) == {_module(name) for name in state}
    elif files.architecture == "none":
        assert _cpp_modules(tiny=False) == {_module(name) for name in _unet(files.folder / STUDENT)}


def test_diffusers_loads_them_with_equal_predictions_and_pictures(
    files: _Files, teacher: ModelBundle, tmp_path: Path
) -> None:
    for name, bundle in ((TEACHER, teacher), (STUDENT, files.student)):
        bundle.pipeline().save_pretrained(tmp_path / name)
        loaded = StableDiffusionPipeline.from_single_file(
            str(files.folder / name), config=str(tmp_path / name), local_files_only=True, torch_dtype=torch.float32
        )
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        embeds = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            _close(loaded.unet(latents, 499, embeds).sample, bundle.unet(latents, 499, embeds).sample)
            _close(loaded.vae.decode(latents).sample, bundle.vae.decode(latents).sample)
            pixels = torch.rand(1, 3, 64, 64)
            _close(loaded.vae.encode(pixels).latent_dist.mean, bundle.vae.encode(pixels).latent_dist.mean)
            ids = torch.arange(77)[None]
            _close(loaded.text_encoder(ids)[0], bundle.text_encoder(ids)[0])


def test_the_files_are_in_fp16_and_name_sampler_and_trigger_words(files: _Files) -> None:
    assert {weight.dtype for weight in load_file(files.folder / STUDENT).values()} == {torch.float16}
    metadata = read_metadata(files.folder / STUDENT)
    assert metadata["modelspec.usage_hint"] == "euler, scheduler simple, 4 steps, cfg 1"
    assert metadata["modelspec.trigger_phrase"] == "ninja art"
    assert "modelspec.usage_hint" not in read_metadata(files.folder / TEACHER)
    assert "modelspec.architecture" not in metadata, "no tool loads a tenth of the channels"


@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 8])
def test_comfyuis_euler_with_simple_steps_as_the_student_is_sampled(teacher: ModelBundle, num_steps: int) -> None:
    """ComfyUI's scheduler `simple` takes every (1000 / steps)th sigma from the noisiest on; Euler is in x / alpha."""
    alphas = alphas_cumprod(teacher.scheduler)
    timesteps = [999 - int(step * 1000 / num_steps) for step in range(num_steps)]
    scheduler = make_student_scheduler(teacher.scheduler, "ddim", num_steps)
    scheduler.set_timesteps(num_steps)
    assert scheduler.timesteps.tolist() == timesteps
    sigmas = [((1 - alphas[t]) / alphas[t]).sqrt() for t in timesteps] + [torch.tensor(0.0)]
    ours = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = ours * (1 + sigmas[0] ** 2).sqrt()
    for index, timestep in enumerate(timesteps):
        noise_pred = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(timestep))
        torch.testing.assert_close(theirs / (1 + sigmas[index] ** 2).sqrt(), ours, rtol=1e-4, atol=1e-5)
        ours = scheduler.step(noise_pred, timestep, ours).prev_sample
        theirs = theirs + (sigmas[index + 1] - sigmas[index]) * noise_pred
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def test_weights_that_fp16_cannot_hold_are_refused(teacher: ModelBundle, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_config(teacher.unet.config)
    unet.conv_out.bias.data += 1e6
    student = ModelBundle(teacher.tokenizer, teacher.text_encoder, teacher.vae, unet, teacher.scheduler)
    with pytest.raises(StageError, match=r"fp16, which cannot hold model\.diffusion_model\.out\.2\.bias"):
        write_single_files(
            teacher, student, tmp_path, prompt_template="{caption}", num_steps=4, student_scheduler="ddim"
        )


def test_the_advice_for_weights_that_differ_is_not_another_precision(
    tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single files are in fp16 with any export.precision, and the other formats in fp32 already."""
    monkeypatch.setattr(single_file, "largest_difference", lambda *_: 0.25)
    with pytest.raises(StageError, match=r"single_file: its weights differ from the model's by 0\.25") as error:
        export(tiny_pipeline_dir, tmp_path, formats=["diffusers", "single_file"], precision="fp32")
    assert "leave single_file out" in str(error.value)
    assert "fp32" not in str(error.value)


def test_a_student_for_lcm_has_no_settings_for_tools(teacher: ModelBundle, tmp_path: Path) -> None:
    write_single_files(teacher, teacher, tmp_path, prompt_template="{caption}", num_steps=4, student_scheduler="lcm")
    assert "modelspec.usage_hint" not in read_metadata(tmp_path / STUDENT)


def test_only_stable_diffusions_widths_fit_the_tools(teacher: ModelBundle) -> None:
    assert "32 channels" in unfit_reason(teacher.unet.config)
    config = {**teacher.unet.config, "block_out_channels": (320, 640, 1280, 1280)}
    assert unfit_reason(config) == ""
    assert unfit_reason(student_config(config, "bk_tiny")) == ""


def test_the_stage_says_that_no_tool_loads_another_width(
    tiny_pipeline_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(tiny_pipeline_dir, tmp_path, formats=["diffusers", "single_file"])
    assert "no tool for Stable Diffusion 1.x loads this model" in capsys.readouterr().err
    assert {path.name for path in (folder / "single_file").iterdir()} == {TEACHER, STUDENT}
    assert not any("cond_proj" in name for name in load_file(folder / "single_file" / STUDENT))
    figures = json.loads((tmp_path / "metrics/export.json").read_text())
    for role in ("teacher", "student"):
        assert 0 < figures[f"single_file.{role}.images_max_abs_diff"] < 0.02, "diffusers draws the same from fp16"
        assert figures[f"single_file.{role}.latency_batch_8_ms"] > 0


def _close(theirs: Tensor, ours: Tensor) -> None:
    torch.testing.assert_close(theirs, ours, rtol=2e-2, atol=2e-2)


def _unet(path: Path) -> dict[str, Tensor]:
    return {name.removeprefix(UNET): weight for name, weight in load_file(path).items() if name.startswith(UNET)}


class _ComfyConfig:
    """What ComfyUI derives from names and shapes before it builds the U-Net."""

    def __init__(self) -> None:
        self.num_res_blocks: list[int] = []
        self.channel_mult: list[int] = []
        self.depths_in: list[int] = []
        self.depths_out: list[int] = []
        self.context_dim = 0
        self.has_middle = False


def _comfyui_config(state: dict[str, Tensor]) -> _ComfyConfig:
    """By its rules, from names and shapes.

    Input blocks are counted until a number is missing. Each downsampling ends a level. The transformers of the output
    blocks are counted from the last block on, beside the input blocks from the first on.
    """
    config, names = _ComfyConfig(), set(state)
    width = state["input_blocks.0.0.weight"].shape[0]
    count = 0
    while any(name.startswith(f"input_blocks.{count}.") for name in names):
        count += 1
    layers, mult = 0, 0
    for index in range(count):
        block, mirrored = f"input_blocks.{index}", f"output_blocks.{count - 1 - index}"
        if f"{block}.0.op.weight" in names:
            config.num_res_blocks.append(layers)
            config.channel_mult.append(mult)
            layers, mult = 0, 0
        elif f"{block}.0.in_layers.0.weight" in names:
            layers, mult = layers + 1, state[f"{block}.0.out_layers.3.weight"].shape[0] // width
            config.depths_in.append(_depth(names, block))
            key = f"{block}.1.transformer_blocks.0.attn2.to_k.weight"
            config.context_dim = config.context_dim or (state[key].shape[1] if key in names else 0)
        if f"{mirrored}.0.in_layers.0.weight" in names:
            config.depths_out.append(_depth(names, mirrored))
    config.num_res_blocks.append(layers)
    config.channel_mult.append(mult)
    config.has_middle = "middle_block.1.proj_in.weight" in names
    return config


def _depth(names: set[str], block: str) -> int:
    depth = 0
    while any(name.startswith(f"{block}.1.transformer_blocks.{depth}.") for name in names):
        depth += 1
    return depth


def _comfyui_modules(config: _ComfyConfig) -> list[str]:
    """The numbered modules of the U-Net that it builds from this configuration, of the original code's structure."""
    depths_in, depths_out = list(config.depths_in), list(config.depths_out)
    modules, index = ["time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"], 0
    last = len(config.num_res_blocks) - 1
    for level, layers in enumerate(config.num_res_blocks):
        for _ in range(layers):
            index += 1
            modules += [f"input_blocks.{index}.{place}" for place in range(1 + (depths_in.pop(0) > 0))]
        if level != last:
            index += 1
            modules.append(f"input_blocks.{index}.0")
    modules += [f"middle_block.{place}" for place in range(3 if config.has_middle else 0)]
    index = 0
    for level in range(last, -1, -1):
        for layer in range(config.num_res_blocks[level] + 1):
            places = 1 + (depths_out.pop() > 0) + (level > 0 and layer == config.num_res_blocks[level])
            modules += [f"output_blocks.{index}.{place}" for place in range(places)]
            index += 1
    return modules


def _cpp_modules(*, tiny: bool) -> set[str]:
    """The modules that stable-diffusion.cpp requires.

    In the tiny U-Net it leaves a number out after each level's layer, and its upsamplings have numbers of their own.
    """
    modules = {"time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"}
    if tiny:
        modules |= {f"input_blocks.{index}.{place}" for index in (1, 4, 7) for place in (0, 1)}
        modules |= {f"output_blocks.{index}.{place}" for index in (0, 1, 3, 4, 6, 7) for place in (0, 1)}
        return modules | {"input_blocks.3.0", "input_blocks.6.0", "output_blocks.2.1", "output_blocks.5.2"}
    modules |= {f"input_blocks.{index}.{place}" for index in (1, 2, 4, 5, 7, 8) for place in (0, 1)}
    modules |= {f"input_blocks.{index}.0" for index in (3, 6, 9, 10, 11)} | {f"middle_block.{n}" for n in range(3)}
    modules |= {f"output_blocks.{index}.{place}" for index in range(3, 12) for place in (0, 1)}
    return (
        modules
        | {f"output_blocks.{n}.0" for n in range(3)}
        | {"output_blocks.2.1", "output_blocks.5.2", "output_blocks.8.2"}
    )


def _module(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] in ("time_embed", "out", "middle_block") else 3])
