"""Adapters: their number, that only they are trainable, and that saved or merged they give the same outputs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, load_pipeline_folder
from naruto_add.export.lora import kohya_state
from naruto_add.models.lora import add_lora, lora_layers, merge_lora, save_lora
from naruto_add.runtime.errors import StageError

NUM_ATTENTIONS = 2 * 2 + 1 + 2 * 3
"""Transformer blocks of the tiny U-Net: two down blocks of two layers, the mid block, two up blocks of three."""
NUM_RESNETS = 3 * 2 + 2 + 3 * 3


@torch.no_grad()
def noise_of(unet: UNet2DConditionModel, bundle: ModelBundle) -> Tensor:
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    embeds = encode_prompts(bundle, ["a man with a sword", "a girl"])
    return unet(latents, torch.tensor([10, 900]), embeds).sample


def randomize(module: nn.Module) -> None:
    """Give all adapters random weights, as if they were trained."""
    generator = torch.Generator().manual_seed(7)
    for item in module.parameters():
        if item.requires_grad:
            item.data = 0.1 * torch.randn(item.shape, generator=generator)


def test_attention_has_four_adapters_and_only_they_are_trainable(tiny_bundle: ModelBundle) -> None:
    num_layers = add_lora(tiny_bundle.unet, None, targets="attention", rank=4, seed=0)
    assert num_layers == NUM_ATTENTIONS * 2 * 4
    trainable = [name for name, item in tiny_bundle.unet.named_parameters() if item.requires_grad]
    assert len(trainable) == 2 * num_layers
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
    assert {name.split(".lora_")[0] for name in trainable} == set(lora_layers(tiny_bundle.unet))


def test_convolution_targets_are_all_layers_but_the_outermost(tiny_bundle: ModelBundle) -> None:
    unet = tiny_bundle.unet
    adaptable = {name for name, item in unet.named_modules() if isinstance(item, nn.Linear | nn.Conv2d)}
    add_lora(unet, None, targets="attention_convolutions", rank=2, seed=0)
    left = adaptable - set(lora_layers(unet))
    assert left == {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}
    assert sum(name.endswith("conv1") for name in lora_layers(unet)) == NUM_RESNETS


def test_adapters_of_the_text_encoder_are_counted_too(tiny_bundle: ModelBundle) -> None:
    num_layers = add_lora(tiny_bundle.unet, tiny_bundle.text_encoder, targets="attention", rank=2, seed=0)
    assert num_layers == NUM_ATTENTIONS * 2 * 4 + 2 * 4


def test_new_adapters_do_not_change_the_outputs_and_trained_ones_do(tiny_bundle: ModelBundle) -> None:
    before = noise_of(tiny_bundle.unet, tiny_bundle)
    add_lora(tiny_bundle.unet, None, targets="attention_convolutions", rank=4, seed=0)
    assert torch.equal(noise_of(tiny_bundle.unet, tiny_bundle), before)
    randomize(tiny_bundle.unet)
    assert (noise_of(tiny_bundle.unet, tiny_bundle) - before).abs().max() > 1e-2


def test_new_adapters_depend_only_on_the_seed(tiny_pipeline_dir: Path) -> None:
    def first_weight(seed: int) -> Tensor:
        bundle = load_pipeline_folder(tiny_pipeline_dir, precision="fp32")
        state = torch.get_rng_state()
        add_lora(bundle.unet, None, targets="attention", rank=4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return next(item for item in bundle.unet.parameters() if item.requires_grad)

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


def test_a_unet_without_a_layer_to_adapt_is_an_error() -> None:
    with pytest.raises(StageError, match=r"teacher\.lora_targets: 'attention' adapts no layer of Sequential"):
        add_lora(nn.Sequential(nn.Linear(2, 2)), None, targets="attention", rank=2, seed=0)


def test_a_text_encoder_without_a_layer_to_adapt_is_an_error(tiny_bundle: ModelBundle) -> None:
    with pytest.raises(StageError, match=r"teacher\.lora_text_encoder"):
        add_lora(tiny_bundle.unet, nn.Linear(2, 2), targets="attention", rank=2, seed=0)


@pytest.mark.parametrize("targets", ["attention", "attention_convolutions"])
def test_merged_modules_are_plain_and_have_the_same_outputs(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, targets: str
) -> None:
    plain = load_pipeline_folder(tiny_pipeline_dir, precision="fp32")
    add_lora(tiny_bundle.unet, tiny_bundle.text_encoder, targets=targets, rank=4, seed=0)
    randomize(tiny_bundle.unet)
    randomize(tiny_bundle.text_encoder)
    adapted = noise_of(tiny_bundle.unet, tiny_bundle)
    merge_lora(tiny_bundle.unet)
    merge_lora(tiny_bundle.text_encoder)
    torch.testing.assert_close(noise_of(tiny_bundle.unet, tiny_bundle), adapted, rtol=1e-4, atol=1e-5)
    assert list(tiny_bundle.unet.state_dict()) == list(plain.unet.state_dict())
    assert list(tiny_bundle.text_encoder.state_dict()) == list(plain.text_encoder.state_dict())
    assert not hasattr(tiny_bundle.unet, "peft_config")
    assert not any(item.requires_grad for item in tiny_bundle.unet.parameters())


def test_saved_adapters_have_the_same_outputs_in_plain_diffusers(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    add_lora(tiny_bundle.unet, tiny_bundle.text_encoder, targets="attention_convolutions", rank=4, seed=0)
    randomize(tiny_bundle.unet)
    randomize(tiny_bundle.text_encoder)
    save_lora(tmp_path, unet=tiny_bundle.unet, text_encoder=tiny_bundle.text_encoder)

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    pipeline.load_lora_weights(tmp_path)
    prompt = pipeline.tokenizer("a man", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(pipeline.text_encoder(prompt)[0], tiny_bundle.text_encoder(prompt)[0])
    torch.testing.assert_close(
        noise_of(pipeline.unet, tiny_bundle), noise_of(tiny_bundle.unet, tiny_bundle), rtol=1e-4, atol=1e-5
    )


def test_the_saved_file_has_the_names_of_diffusers_format(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    add_lora(tiny_bundle.unet, tiny_bundle.text_encoder, targets="attention", rank=4, seed=0)
    save_lora(tmp_path, unet=tiny_bundle.unet, text_encoder=tiny_bundle.text_encoder)
    names = set(load_file(tmp_path / "pytorch_lora_weights.safetensors"))
    block = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    assert {f"{block}.to_q.lora_A.weight", f"{block}.to_out.0.lora_B.weight"} <= names
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight" in names


def test_merging_half_precision_weights_rounds_once(tiny_bundle: ModelBundle) -> None:
    unet = tiny_bundle.unet.half()
    add_lora(unet, None, targets="attention", rank=4, seed=0)
    randomize(unet)
    name, layer = next(iter(lora_layers(unet).items()))
    expected = layer.get_base_layer().weight.float() + layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merge_lora(unet)
    assert torch.equal(unet.get_submodule(name).weight, expected.half())


def _names(layout: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that `save_lora` writes under the names of another layout."""
    if layout == "kohya":
        return kohya_state(state)
    if layout == "peft":
        return {name.replace("unet.", "base_model.model.", 1): item for name, item in state.items()}
    if layout == "old":
        sides = {"lora_A": "lora.down", "lora_B": "lora.up"}
        return {re.sub("lora_[AB]", lambda match: sides[match[0]], name): item for name, item in state.items()}
    return state


@pytest.mark.parametrize(
    ("layout", "with_text"), [("diffusers", True), ("kohya", True), ("old", True), ("peft", False)]
)
def test_training_starts_from_a_users_lora_of_lower_rank_and_other_layers(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path, layout: str, with_text: bool
) -> None:
    text_encoder = tiny_bundle.text_encoder if with_text else None
    add_lora(tiny_bundle.unet, text_encoder, targets="attention_convolutions", rank=4, seed=0)
    randomize(tiny_bundle.unet)
    if text_encoder is not None:
        randomize(text_encoder)
    save_lora(tmp_path, unet=tiny_bundle.unet, text_encoder=text_encoder)
    path = tmp_path / "start.safetensors"
    save_file(_names(layout, load_file(tmp_path / "pytorch_lora_weights.safetensors")), path)

    started = load_pipeline_folder(tiny_pipeline_dir, precision="fp32")
    text_encoder = started.text_encoder if with_text else None
    num_layers = add_lora(started.unet, text_encoder, targets="attention", rank=6, seed=1, start_path=path)
    assert num_layers == sum(len(lora_layers(item)) for item in (tiny_bundle.unet, text_encoder or nn.Identity()))
    torch.testing.assert_close(
        noise_of(started.unet, started), noise_of(tiny_bundle.unet, tiny_bundle), rtol=1e-4, atol=1e-5
    )


def test_the_alpha_of_a_users_lora_is_in_its_start(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    name, layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_"
    width = tiny_bundle.unet.get_submodule(name).weight.shape[0]
    layer += name.replace(".", "_")
    weights = {"lora_down.weight": torch.ones(2, width), "lora_up.weight": torch.ones(width, 2)}
    state = {f"{layer}.{key}": value for key, value in weights.items()} | {f"{layer}.alpha": torch.tensor(1.0)}
    save_file(state, tmp_path / "start.safetensors")
    add_lora(tiny_bundle.unet, None, targets="attention", rank=4, seed=0, start_path=tmp_path / "start.safetensors")
    delta = tiny_bundle.unet.get_submodule(name).get_delta_weight("default")
    torch.testing.assert_close(delta, torch.full_like(delta, 1.0))  # 2 x 1 x 1, times alpha / rank


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_x.lora_down.weight"], r"adapts lora_unet_x, which base\.model does not have"),
        (["lora_te_text_model_x.lora_down.weight"], r"set teacher\.lora_text_encoder to true"),
        (["lora_unet_x.dora_scale"], r"has the weight lora_unet_x\.dora_scale, which is not one of a plain LoRA"),
        (["unet.conv_in.lora_A.weight"], r"only one of the two factors of conv_in"),
        (["lora_unet_conv_in.alpha"], r"lora_unet_conv_in\.alpha in .* has 324 values, but an alpha is one number"),
        (["unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"], r"^teacher\.lora_rank: 4 is below the rank 9"),
    ],
)
def test_a_lora_that_does_not_fit_is_an_error(
    tiny_bundle: ModelBundle, tmp_path: Path, names: list[str], message: str
) -> None:
    path = tmp_path / "start.safetensors"
    save_file({name: torch.zeros(9, 4, 3, 3) for name in names}, path)
    with pytest.raises(StageError, match=message):
        add_lora(tiny_bundle.unet, None, targets="attention", rank=4, seed=0, start_path=path)


@pytest.mark.parametrize(
    "stated",
    ["not JSON", "[]", '{"unet.lora_alpha": "many"}', '{"unet.lora_alpha": 4, "unet.alpha_pattern": {"(": 1}}'],
)
def test_damaged_metadata_of_a_users_lora_is_an_error(tiny_bundle: ModelBundle, tmp_path: Path, stated: str) -> None:
    path = tmp_path / "start.safetensors"
    tensors = {
        "unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.zeros(2, 2, 1, 1),
    }
    save_file(tensors, path, metadata={"lora_adapter_metadata": stated})
    with pytest.raises(StageError, match=r"^teacher\.lora_start: the metadata lora_adapter_metadata of .* is damaged"):
        add_lora(tiny_bundle.unet, None, targets="attention", rank=4, seed=0, start_path=path)


@pytest.mark.parametrize("layout", ["diffusers", "peft"])
@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({}, (2.0, 2.0)),  # lora_alpha / rank
        ({"alpha_pattern": {"attn1.to_k": 2}}, (2.0, 0.5)),
        ({"rank_pattern": {"attn1.to_q": 4}, "r": 2}, (2.0, 2.0)),
        ({"use_rslora": True}, (4.0, 4.0)),  # lora_alpha / the root of the rank
    ],
)
def test_the_settings_that_peft_stores_scale_a_users_lora(
    tiny_bundle: ModelBundle, tmp_path: Path, layout: str, changes: dict[str, Any], scales: tuple[float, float]
) -> None:
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    layers = [f"{block}.to_q", f"{block}.to_k"]
    settings = {"r": 4, "lora_alpha": 8, "alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False} | changes
    prefix = "unet." if layout == "diffusers" else "base_model.model."
    state = {}
    for layer in layers:
        for name, shape in (("lora_A", (4, 16)), ("lora_B", (16, 4))):
            state[f"{prefix}{layer}.{name}.weight"] = torch.full(shape, 0.5)
    path, metadata = tmp_path / "adapter_model.safetensors", {}
    if layout == "diffusers":
        metadata["lora_adapter_metadata"] = json.dumps({f"unet.{name}": value for name, value in settings.items()})
    else:
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file(state, path, metadata=metadata)
    add_lora(tiny_bundle.unet, None, targets="attention", rank=4, seed=0, start_path=path)
    for layer, scale in zip(layers, scales, strict=True):
        delta = tiny_bundle.unet.get_submodule(layer).get_delta_weight("default")
        torch.testing.assert_close(delta, torch.full_like(delta, scale))  # 4 x 0.5 x 0.5 is 1


def test_damaged_settings_of_peft_are_an_error(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    save_file({"base_model.model.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3)}, tmp_path / "a.safetensors")
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(StageError, match=r"^teacher\.lora_start: '\S*adapter_config\.json' is damaged"):
        add_lora(tiny_bundle.unet, None, targets="attention", rank=4, seed=0, start_path=tmp_path / "a.safetensors")


def test_a_lora_of_another_width_is_an_error(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    tensors = {
        "unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.zeros(2, 2, 1, 1),
    }
    save_file(tensors, path)
    message = r"^teacher\.lora_start: its factors of conv_in have the shapes .* which do not fit the layer"
    with pytest.raises(StageError, match=message):
        add_lora(tiny_bundle.unet, None, targets="attention", rank=4, seed=0, start_path=path)
