"""Loading errors that name the folder and the remedy, encoding and decoding, and the U-Net's fp32 head."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from naruto_add.config.schema import Base
from naruto_add.diffusion.bundle import (
    ModelBundle,
    decode_latents,
    encode_pixels,
    encode_prompts,
    load_bundle,
    load_pipeline_folder,
    load_unet,
    save_bundle,
    save_unet,
)
from naruto_add.diffusion.fp32_head import keep_head_in_fp32
from naruto_add.diffusion.frozen_unet import frozen_unet
from naruto_add.diffusion.sampling import noise_pred
from naruto_add.models.student import shrink_unet
from naruto_add.runtime.errors import StageError
from tests.sd15_checkpoint import write_checkpoint

Damage = Callable[[Path], object]


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _cut_weights(folder: Path) -> None:
    path = next(folder.rglob("diffusion_pytorch_model.safetensors"))
    path.write_bytes(path.read_bytes()[:100])


def _cut_text_encoder(folder: Path) -> None:
    path = folder / "text_encoder/model.safetensors"
    if path.exists():
        path.write_bytes(path.read_bytes()[:-100])
    else:  # a folder of the U-Net alone
        _cut_weights(folder)


def _drop_weights(folder: Path) -> None:
    next(folder.rglob("diffusion_pytorch_model.safetensors")).unlink()


@pytest.mark.parametrize("damage", [shutil.rmtree, _empty, _cut_weights, _cut_text_encoder, _drop_weights])
def test_a_damaged_output_of_a_stage_is_an_error_that_names_the_folder_and_the_remedy(
    damage: Damage, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline, unet = Path("models/teacher"), Path("models/student")
    shutil.copytree(tiny_pipeline_dir, pipeline)
    shutil.copytree(tiny_pipeline_dir / "unet", unet)
    damage(pipeline)
    damage(unet)
    with pytest.raises(StageError, match=r"^models/teacher cannot be loaded: (?s:.*); run `dvc repro`"):
        load_pipeline_folder(pipeline, precision="fp32")
    with pytest.raises(StageError, match=r"^models/student cannot be loaded: (?s:.*); run `dvc repro`"):
        load_unet(unet, precision="fp32", scheduler=PNDMScheduler())


def _base(folder: Path, **changes: Any) -> Base:
    values = {"revision": "", "variant": "", "frozen_precision": "fp32", "autocast": "fp32"}
    values |= {"resolution_px": 64, "prompt_template": "{caption}", "caption_chunks": 1}
    return Base.model_validate({"model": str(folder), **values, **changes})


@pytest.mark.parametrize("damage", [lambda path: (path / "model_index.json").unlink(), _cut_weights])
def test_a_damaged_base_model_is_an_error_that_names_the_parameter(
    damage: Damage, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline_dir, folder)
    damage(folder)
    with pytest.raises(StageError, match=r"^base\.model: '\S*model' cannot be loaded: (?s:.*); check base\.model"):
        load_bundle(_base(folder, resolution_px=32))


@pytest.mark.parametrize(("there", "wanted"), [("fp16", ""), ("", "fp16")])
def test_a_base_model_without_the_wanted_variant_is_an_error_that_names_those_there_are(
    tmp_path: Path, there: str, wanted: str
) -> None:
    folder = write_checkpoint(tmp_path / "model", variants=(there,))
    load_bundle(_base(folder, variant=there))
    with pytest.raises(StageError, match=rf"^base\.variant: '{wanted}' is not a variant .* use one of '{there}'"):
        load_bundle(_base(folder, variant=wanted))


@pytest.mark.parametrize("resolution_px", [64, 256, 512])
def test_a_base_with_an_old_configuration_draws_at_its_resolution_in_all_stages(
    sd15_dir: Path, tmp_path: Path, resolution_px: int
) -> None:
    bundle = load_bundle(_base(sd15_dir, resolution_px=resolution_px))
    shape = (4, resolution_px // 8, resolution_px // 8)
    assert bundle.latent_shape == shape
    save_bundle(bundle, tmp_path)
    assert load_pipeline_folder(tmp_path, precision="fp32").latent_shape == shape
    assert StableDiffusionPipeline.from_pretrained(tmp_path).unet.config.sample_size == resolution_px // 8


def test_latents_are_scaled_by_encoding_and_unscaled_by_decoding(tiny_bundle: ModelBundle) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encode_pixels(tiny_bundle, pixels)
    unscaled = tiny_bundle.vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latents, unscaled * tiny_bundle.vae.config.scaling_factor)
    torch.testing.assert_close(
        decode_latents(tiny_bundle, latents), tiny_bundle.vae.decode(unscaled).sample.clamp(-1, 1)
    )


def _predict(unet: UNet2DConditionModel, bundle: ModelBundle) -> Tensor:
    noisy_latents = torch.randn(1, *bundle.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return noise_pred(unet, noisy_latents, torch.tensor([999]), encode_prompts(bundle, ["a man"]))


def _head_dtypes(unet: UNet2DConditionModel, bundle: ModelBundle) -> list[torch.dtype]:
    """The dtypes of the outputs of the last two layers, under autocast to bf16."""
    dtypes: list[torch.dtype] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output: dtypes.append(output.dtype))
        for layer in (unet.conv_norm_out, unet.conv_out)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _predict(unet, bundle)
    for hook in hooks:
        hook.remove()
    return dtypes


def test_loaded_built_and_copied_unets_compute_their_head_in_fp32_under_autocast(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path
) -> None:
    loaded = load_unet(tiny_pipeline_dir / "unet", precision="fp32", scheduler=tiny_bundle.scheduler)
    for unet in (tiny_bundle.unet, loaded, shrink_unet(loaded, "bk_small"), copy.deepcopy(loaded)):
        assert _head_dtypes(unet, tiny_bundle) == [torch.float32, torch.float32]
    plain = UNet2DConditionModel.from_pretrained(tiny_pipeline_dir / "unet")
    assert torch.bfloat16 in _head_dtypes(plain, tiny_bundle)


def test_a_unet_in_half_precision_has_an_fp32_head(tiny_bundle: ModelBundle) -> None:
    unet = keep_head_in_fp32(torch.nn.Module.to(tiny_bundle.unet, torch.bfloat16))
    assert _predict(unet, tiny_bundle).dtype == torch.float32
    fp32_weights = {name for name, item in unet.state_dict().items() if item.dtype == torch.float32}
    assert fp32_weights == {"conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_head_of_a_frozen_unet_is_not_rounded(tiny_pipeline_dir: Path, dtype: torch.dtype) -> None:
    plain = UNet2DConditionModel.from_pretrained(tiny_pipeline_dir / "unet")
    frozen = frozen_unet(copy.deepcopy(plain), dtype, torch.device("cpu"))
    assert torch.equal(frozen.conv_out.weight, plain.conv_out.weight)
    assert torch.equal(frozen.conv_norm_out.bias, plain.conv_norm_out.bias)
    assert frozen.conv_in.weight.dtype == dtype
    assert not any(weight.requires_grad for weight in frozen.parameters())


def _with_large_weight(unet: UNet2DConditionModel) -> None:
    unet.mid_block.resnets[0].norm1.weight.data[0] = 1e5


def _with_large_activations(unet: UNet2DConditionModel) -> None:
    unet.mid_block.resnets[0].norm1.weight.data *= 5e4
    unet.mid_block.resnets[0].conv1.weight.data *= 1e3


@pytest.mark.parametrize("enlarge", [_with_large_weight, _with_large_activations])
def test_a_unet_that_overflows_fp16_is_frozen_in_bf16_and_a_message_says_so(
    enlarge: Callable[[UNet2DConditionModel], None], tiny_bundle: ModelBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frozen_unet(copy.deepcopy(tiny_bundle.unet), torch.float16, tiny_bundle.device).dtype == torch.float16
    assert capsys.readouterr().err == ""
    enlarge(tiny_bundle.unet)
    frozen = frozen_unet(tiny_bundle.unet, torch.float16, tiny_bundle.device)
    assert frozen.dtype == torch.bfloat16
    assert _predict(frozen, tiny_bundle).isfinite().all()
    assert capsys.readouterr().err.startswith("base.frozen_precision: fp16 overflows in the U-Net; bf16 is used")


def test_an_fp16_teacher_predicts_closer_than_a_bf16_teacher(tiny_bundle: ModelBundle) -> None:
    exact = _predict(tiny_bundle.unet, tiny_bundle)
    half, brain = (
        _predict(frozen_unet(copy.deepcopy(tiny_bundle.unet), dtype, tiny_bundle.device), tiny_bundle)
        for dtype in (torch.float16, torch.bfloat16)
    )
    assert 4 * (half - exact).norm() < (brain - exact).norm()


def test_a_unet_with_an_fp32_head_is_saved_as_a_plain_one(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    save_unet(tiny_bundle.unet, tmp_path)
    saved = UNet2DConditionModel.from_pretrained(tmp_path)
    original = UNet2DConditionModel.from_pretrained(tiny_pipeline_dir / "unet")
    assert type(saved.conv_out) is torch.nn.Conv2d
    assert list(saved.state_dict()) == list(original.state_dict())
    assert all(torch.equal(item, original.state_dict()[name]) for name, item in saved.state_dict().items())


def test_a_compiled_unet_predicts_the_same_without_graph_breaks() -> None:
    """The backend only traces: what can fail is the capture of the head, not the generation of code."""
    unet = keep_head_in_fp32(
        UNet2DConditionModel(
            sample_size=4,
            down_block_types=("DownBlock2D",),
            mid_block_type=None,
            up_block_types=("UpBlock2D",),
            block_out_channels=(8,),
            layers_per_block=1,
            cross_attention_dim=8,
            norm_num_groups=4,
        ).eval()
    )
    inputs = torch.randn(1, 4, 4, 4), torch.tensor([999]), torch.randn(1, 77, 8)
    with torch.no_grad():
        expected = unet(*inputs).sample
        unet.compile(backend="eager", fullgraph=True)
        assert torch.equal(unet(*inputs).sample, expected)


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("text_encoder", "embeddings.position_embedding.weight"),
        ("unet", "mid_block.resnets.0.conv1.weight"),
        ("vae", "decoder.conv_in.weight"),
    ],
)
def test_files_that_lack_weights_are_refused_by_name(
    part: str, weight: str, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_pipeline_dir, tmp_path / "base")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    (name,) = [name for name in weights if name.endswith(weight)]
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    expected = f"lack 1 weights, such as {re.escape(weight)}"
    with pytest.raises(StageError, match=f"{expected}; run `dvc repro` to make it again"):
        load_pipeline_folder(folder, precision="fp32")
    if part == "unet":
        with pytest.raises(StageError, match=expected):
            load_unet(folder / part, precision="fp32", scheduler=PNDMScheduler())
