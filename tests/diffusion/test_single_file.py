"""A base in one file: its configurations follow from its tensors, and it predicts what the folder predicts."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from naruto_add.data.captions import count_tokens
from naruto_add.diffusion.base_model import check_base_model
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts, load_bundle
from naruto_add.diffusion.sampling import noise_pred
from naruto_add.diffusion.single_file import single_file_configs
from naruto_add.export.original_layout import original_state
from naruto_add.runtime.clip_tokenizer import write_clip_tokenizer
from naruto_add.runtime.errors import StageError
from tests.sd15_checkpoint import base_params, write_checkpoint

_PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint with CLIP's vocabulary."""
    root = tmp_path_factory.mktemp("single")
    write_clip_tokenizer(root / "tokenizer", padding="<|endoftext|>")
    return write_checkpoint(root / "checkpoint", tokenizer_dir=root / "tokenizer")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> ModelBundle:
    return load_bundle(base_params(folder))


@pytest.fixture(scope="module")
def state(bundle: ModelBundle) -> dict[str, Tensor]:
    state = original_state(bundle.unet, bundle.vae, bundle.text_encoder)
    return {name: value.clone().contiguous() for name, value in state.items()}


@pytest.fixture(scope="module")
def path(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(state, path)
    return path


def test_its_tokenizer_is_clips(tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path, padding="<|endoftext|>")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_the_configurations_are_those_of_the_folder(folder: Path, path: Path) -> None:
    configs = single_file_configs(path)
    for name in ("unet", "vae"):
        theirs = json.loads((folder / name / "config.json").read_text())
        common = configs[name].keys() & theirs.keys()
        assert {key: configs[name][key] for key in common} == {key: theirs[key] for key in common}
        assert {"block_out_channels", "layers_per_block"} <= common


def test_a_file_predicts_and_encodes_as_the_folder(bundle: ModelBundle, path: Path) -> None:
    single = load_bundle(base_params(path))
    assert single.latent_shape == bundle.latent_shape == (4, 8, 8)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    predicted = [
        noise_pred(item.unet, noise, torch.tensor([999]), encode_prompts(item, ["a man with a sword"]))
        for item in (single, bundle)
    ]
    torch.testing.assert_close(*predicted)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encode_pixels(single, pixels), encode_pixels(bundle, pixels))


def test_tokens_are_counted_by_clips_tokenizer(path: Path) -> None:
    assert count_tokens(["a photo of a cat"], str(path), "", prompt_template="{caption}", num_chunks=1).max == 7


@pytest.mark.parametrize(("name", "predicted"), [("v_pred", "v_prediction"), ("", "epsilon")])
def test_what_it_predicts_is_stated_in_the_file(
    state: dict[str, Tensor], tmp_path: Path, name: str, predicted: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(state | ({name: torch.zeros(0)} if name else {}), path)
    assert single_file_configs(path)["scheduler"]["prediction_type"] == predicted
    save_file(state, path, metadata={"modelspec.prediction_type": "v"})
    assert single_file_configs(path)["scheduler"]["prediction_type"] == "v_prediction"


def test_files_of_other_models_are_refused_with_what_they_lack(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for lacking in (f"{_PREFIX}out.2.weight", "first_stage_model.decoder.conv_in.weight"):
        save_file({name: value for name, value in state.items() if name != lacking}, path)
        with pytest.raises(StageError, match=rf"not a file of Stable Diffusion .* it has no '{re.escape(lacking)}'"):
            single_file_configs(path)
    conv_in = state[f"{_PREFIX}input_blocks.0.0.weight"]
    save_file(state | {f"{_PREFIX}input_blocks.0.0.weight": torch.cat([conv_in, conv_in, conv_in[:, :1]], dim=1)}, path)
    with pytest.raises(StageError, match="9 input channels, as for inpainting"):
        single_file_configs(path)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA"),
        (["unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"], "a LoRA"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"], "an autoencoder (VAE) alone"),
        (["first_stage_model.encoder.conv_in.weight"], "an autoencoder (VAE) alone"),
        (["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "a U-Net alone"),
        (["text_model.embeddings.token_embedding.weight"], "a text encoder alone"),
        (["emb_params"], "an embedding of a word (textual inversion)"),
        (["model.diffusion_model.out.2.weight", "conditioner.embedders.0.x"], "a model of Stable Diffusion XL"),
    ],
)
def test_what_a_file_seems_to_be_is_said(tmp_path: Path, names: list[str], kind: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names}, path)
    with pytest.raises(StageError) as refused:
        check_base_model(str(path), revision="", variant="", resolution_px=64)
    message = f"base.model: {str(path)!r} seems to be {kind}, but base.model needs U-Net, autoencoder and text encoder"
    assert str(refused.value).startswith(message)
    assert ("teacher.lora_start" in str(refused.value)) == (kind == "a LoRA")


def test_a_file_of_unknown_kind_is_refused_with_what_it_lacks(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(StageError, match=r"it has no 'model\.diffusion_model\.input_blocks\.1\.0\.in_layers"):
        single_file_configs(path)
    save_file(state | {f"{_PREFIX}input_blocks.0.0.weight": torch.zeros(2)}, path)
    with pytest.raises(StageError, match="its tensors have other shapes"):
        single_file_configs(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.ckpt", b"x", "is not a safetensors file; other formats can execute code"),
        ("model.safetensors", b"x", "is damaged"),
        ("model.safetensors", (4).to_bytes(8, "little") + b"[{}]", "is damaged"),
        ("model.safetensors", (18).to_bytes(8, "little") + b'{"x": {"shape": 1}', "is damaged"),
        ("model.safetensors", None, "is not a file here; correct the path"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError, match=rf"^base\.model: '\S*{re.escape(name)}' {message}"):
        check_base_model(str(path), revision="", variant="", resolution_px=64)
