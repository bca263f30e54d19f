"""Single files, read as ComfyUI, stable-diffusion.cpp, AUTOMATIC1111 and diffusers read them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.fp32_head import keep_head_in_fp32
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import make_student_scheduler
from naruto_add.export import single_file
from naruto_add.export.original_layout import original_state
from naruto_add.export.reload import load_single_file
from naruto_add.export.safetensors_file import read_metadata
from naruto_add.export.single_file import STUDENT, STUDENT_GAPS, TEACHER, unfit_reason, write_single_files
from naruto_add.models.student import Architecture, shrink_unet, student_config
from naruto_add.runtime.errors import StageError
from tests.export.build import export
from tests.export.original_readers import (
    Shapes,
    UnetLayout,
    clip_text_encoder,
    comfyui_layout,
    cpp_tiny_unet,
    original_autoencoder,
    original_unet,
)
from tests.sd15_checkpoint import SD15

ROOT = Path(__file__).parent.parent.parent
UNET = "model.diffusion_model."
ARCHITECTURES: list[Architecture] = ["none", "bk_base", "bk_small", "bk_tiny", "shallow"]
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
    _check_comfyui(_shapes(load_file(files.folder / STUDENT)), files.architecture, width=32)


def test_stable_diffusion_cpp_finds_every_weight_of_teacher_and_tiny_student(files: _Files) -> None:
    full, tiny = original_unet(UnetLayout(32, 768)), cpp_tiny_unet(32, 768)
    assert _part(_shapes(load_file(files.folder / TEACHER)), UNET) == full
    assert (files.folder / STUDENT_GAPS).exists() is (files.architecture == "bk_tiny")
    if files.architecture == "bk_tiny":
        state = _part(_shapes(load_file(files.folder / STUDENT_GAPS)), UNET)
        assert not any(name.startswith("middle_block.1.") for name in state), "by this it recognizes the tiny U-Net"
        assert any(name.startswith("output_blocks.7.1.") for name in state), "and by this that it is not SDXS"
        assert state == tiny
    elif files.architecture == "none":
        assert _part(_shapes(load_file(files.folder / STUDENT)), UNET) == full


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_at_the_widths_of_stable_diffusion_every_tensor_has_the_shape_that_the_tools_ask_for(
    architecture: Architecture,
) -> None:
    """Of networks without memory: their tensors have shapes only."""
    teacher_unet, vae, text_encoder = _full_size()
    unet = shrink_unet(teacher_unet, architecture)
    contiguous = _shapes(original_state(unet, vae, text_encoder))
    _check_comfyui(contiguous, architecture, width=320)
    if architecture == "bk_tiny":
        gaps = _shapes(original_state(unet, vae, text_encoder, numbering="gaps"))
        assert _part(gaps, UNET) == cpp_tiny_unet(320, 768)
    if architecture == "none":
        assert _part(contiguous, UNET) == original_unet(UnetLayout(320, 768)), "AUTOMATIC1111 and stable-diffusion.cpp"
        assert sum(math.prod(shape) for shape in _part(contiguous, UNET).values()) == 859_520_964, "as published"
    assert _part(contiguous, "first_stage_model.") == original_autoencoder()
    assert _part(contiguous, "cond_stage_model.transformer.") == clip_text_encoder()
    prefixes = UNET, "first_stage_model.", "cond_stage_model.transformer."
    assert all(name.startswith(prefixes) for name in contiguous), "nothing is left over"


def _full_size() -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**SD15_UNET, "block_out_channels": SD15.unet, "norm_num_groups": 32})
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=SD15.vae,
            layers_per_block=2,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    return unet, vae, text_encoder


def _check_comfyui(shapes: Shapes, architecture: Architecture, *, width: int) -> None:
    """It detects Stable Diffusion 1.x with these levels and layers, and each tensor is one that it then builds."""
    layout = comfyui_layout(_part(shapes, UNET))
    layers = {"none": [2] * 4, "bk_tiny": [1] * 3, "shallow": [2, 2, 1]}.get(architecture, [1] * 4)
    levels = len(layers)
    assert (layout.width, layout.context_dim) == (width, 768)
    assert list(layout.layers) == layers
    assert list(layout.multiples) == [1, 2, 4, 4][:levels]
    assert list(layout.depths_in) == [1] * sum(layers[:3]) + [0] * sum(layers[3:])
    assert layout.has_middle is (architecture in ("none", "bk_base"))
    assert original_unet(layout) == _part(shapes, UNET)


def test_they_are_loaded_with_equal_weights_and_predictions(files: _Files, teacher: ModelBundle) -> None:
    """Diffusers cannot read the numbers of `shallow`, so `load_single_file` passes it this U-Net."""
    for name, bundle in ((TEACHER, teacher), (STUDENT, files.student)):
        loaded = load_single_file(files.folder / name, like=bundle)
        for part in ("unet", "vae", "text_encoder"):
            ours, theirs = getattr(bundle, part).state_dict(), getattr(loaded, part).state_dict()
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(theirs[key], weight.half().to(weight.dtype)) for key, weight in ours.items()), part
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        embeds = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            _close(loaded.unet(latents, 499, embeds).sample, bundle.unet(latents, 499, embeds).sample)
            _close(loaded.vae.decode(latents).sample, bundle.vae.decode(latents).sample)
            pixels = torch.rand(1, 3, 64, 64)
            _close(loaded.vae.encode(pixels).latent_dist.mean, bundle.vae.encode(pixels).latent_dist.mean)
            ids = torch.arange(77)[None]
            _close(loaded.text_encoder(ids)[0], bundle.text_encoder(ids)[0])


def test_the_numbers_of_shallow_are_those_of_the_same_layers_of_the_teacher(files: _Files) -> None:
    """All weights as ComfyUI numbers them: a check of shapes alone would not find layers of equal shape swapped."""
    if files.architecture != "shallow":
        pytest.skip("the numbers of this architecture are checked by diffusers, which reads them")
    student, teacher = load_file(files.folder / STUDENT), load_file(files.folder / TEACHER)
    outputs = {0: 3, 1: 5} | {block: block + 4 for block in range(2, 8)}
    for name, weight in student.items():
        side, block, rest = name.removeprefix(UNET).split(".", maxsplit=2)
        is_output = name.startswith(UNET) and side == "output_blocks"
        origin = f"{UNET}output_blocks.{outputs[int(block)]}.{rest}" if is_output else name
        assert torch.equal(weight, teacher[origin]), name


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
    torch.testing.assert_close(theirs, ours, rtol=1e-2, atol=1e-2)


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(weight.shape) for name, weight in state.items()}


def _part(shapes: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
