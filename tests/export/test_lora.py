"""The LoRA in kohya's layout: every key belongs to an adapted layer by kohya's rules, and it adds the same weights."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, load_pipeline_folder, save_bundle
from naruto_add.export.lora import (
    LoraFacts,
    kohya_metadata,
    kohya_state,
    largest_difference,
    tag_counts,
    write_kohya_lora,
)
from naruto_add.export.modelspec import modelspec, trigger_words
from naruto_add.export.safetensors_file import read_metadata
from naruto_add.models.lora import add_lora, lora_layers, merge_lora, save_lora
from naruto_add.runtime.errors import StageError
from tests.export.build import export

FACTS = LoraFacts(
    caption_chunks=1,
    base_model="owner/base",
    prediction_type="epsilon",
    prompt_template="ninja art, {caption}",
    resolution_px=512,
    captions=["ninja art, a man", "ninja art, a girl", "ninja art, a man"],
)


@pytest.fixture
def adapted(tiny_bundle: ModelBundle, tmp_path: Path) -> ModelBundle:
    """The tiny pipeline with random adapters on all kinds of layers, which are also saved in `tmp_path`/lora."""
    add_lora(tiny_bundle.unet, tiny_bundle.text_encoder, targets="attention_convolutions", rank=4, seed=0)
    generator = torch.Generator().manual_seed(7)
    for module in (tiny_bundle.unet, tiny_bundle.text_encoder):
        for item in module.parameters():
            if item.requires_grad:
                item.data = 0.1 * torch.randn(item.shape, generator=generator)
    save_lora(tmp_path / "lora", unet=tiny_bundle.unet, text_encoder=tiny_bundle.text_encoder)
    return tiny_bundle


def _written(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    path = folder / "lora_kohya.safetensors"
    write_kohya_lora(folder / "lora/pytorch_lora_weights.safetensors", path, facts=FACTS, dtype=dtype)
    return path


def _kohya_layers(bundle: ModelBundle) -> dict[str, nn.Module]:
    """By sd-scripts' rule: prefix, then the module's path in the network of its time, with `_` for `.`.

    Its text encoder was transformers 4's, in which everything is below `text_model`.
    """
    layers = {f"lora_unet_{name.replace('.', '_')}": layer for name, layer in bundle.unet.named_modules()}
    for name, layer in bundle.text_encoder.named_modules():
        path = name if name.startswith("text_model.") else f"text_model.{name}"
        layers[f"lora_te_{path.replace('.', '_')}"] = layer
    return layers


def _apply(state: dict[str, Tensor], bundle: ModelBundle) -> set[str]:
    """Add the file to the weights as sd-scripts does when it merges; the names of the layers that changed."""
    layers = _kohya_layers(bundle)
    names = {key.split(".")[0] for key in state}
    for name in names:
        up, down = state[f"{name}.lora_up.weight"].float(), state[f"{name}.lora_down.weight"].float()
        scale = state[f"{name}.alpha"].item() / down.shape[0]
        weight = layers[name].weight
        if down.ndim == 2:
            delta = up @ down
        elif down.shape[2:] == (1, 1):
            delta = (up.squeeze(3).squeeze(2) @ down.squeeze(3).squeeze(2))[..., None, None]
        else:
            delta = nn.functional.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)
        assert delta.shape == weight.shape, name
        weight.data += scale * delta
    return names


@torch.no_grad()
def _outputs(bundle: ModelBundle) -> tuple[Tensor, Tensor]:
    embeds = encode_prompts(bundle, ["a man with a sword", "a girl"])
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    return embeds, bundle.unet(latents, torch.tensor([10, 900]), embeds).sample


def _predicted(pipeline: StableDiffusionPipeline) -> Tensor:
    bundle = ModelBundle(pipeline.tokenizer, pipeline.text_encoder, pipeline.vae, pipeline.unet, pipeline.scheduler)
    return _outputs(bundle)[1]


def test_every_key_is_a_layer_and_both_files_give_equal_predictions(
    adapted: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    kohya = load_pipeline_folder(tiny_pipeline_dir, precision="fp32")
    names = _apply(load_file(_written(tmp_path)), kohya)
    assert len(names) == len(lora_layers(adapted.unet)) + len(lora_layers(adapted.text_encoder))
    peft = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    peft.load_lora_weights(tmp_path / "lora")
    peft_bundle = ModelBundle(peft.tokenizer, peft.text_encoder, peft.vae, peft.unet, peft.scheduler)
    by_diffusers = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    by_diffusers.load_lora_weights(_written(tmp_path))
    torch.testing.assert_close(_predicted(by_diffusers), _predicted(peft), rtol=1e-4, atol=1e-5)
    for ours, theirs, trained in zip(_outputs(kohya), _outputs(peft_bundle), _outputs(adapted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours, trained, rtol=1e-4, atol=1e-5)


def test_the_base_with_the_file_is_the_merged_teacher(
    adapted: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    """Tensor by tensor: alpha / rank * up @ down, added to the base, gives the weights of U-Net and text encoder."""
    base = load_pipeline_folder(tiny_pipeline_dir, precision="fp32")
    untouched = load_pipeline_folder(tiny_pipeline_dir, precision="fp32")
    adds = _apply(load_file(_written(tmp_path)), base)
    changed = 0
    for name in ("unet", "text_encoder"):
        teacher, ours, before = (getattr(bundle, name) for bundle in (adapted, base, untouched))
        merge_lora(teacher)
        assert teacher.state_dict().keys() == ours.state_dict().keys()
        for key, weight in teacher.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], weight, rtol=1e-5, atol=1e-6)
            changed += not torch.equal(before.state_dict()[key], weight)
    assert changed == len(adds), "one weight for each layer of the file"


def test_every_layer_has_two_matrices_and_an_alpha_of_the_rank(adapted: ModelBundle, tmp_path: Path) -> None:
    source, path = tmp_path / "lora/pytorch_lora_weights.safetensors", _written(tmp_path, torch.float16)
    state = load_file(path)
    assert {key.partition(".")[2] for key in state} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert {key.split("_")[1] for key in state} == {"unet", "te"}
    assert {value.item() for key, value in state.items() if key.endswith(".alpha")} == {4.0}
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert 0 < largest_difference(source, path) < 1e-3


def test_the_metadata_is_what_the_tools_show(adapted: ModelBundle, tmp_path: Path) -> None:
    path = _written(tmp_path)
    metadata, written = read_metadata(path), path.read_bytes()
    assert _written(tmp_path).read_bytes() == written, "the order of the metadata does not change"
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "4")
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "4"}
    assert metadata["ss_sd_model_name"] == "owner/base"
    assert metadata["ss_resolution"] == "(512, 512)"
    assert metadata["modelspec.trigger_phrase"] == "ninja art"
    assert metadata["ss_training_comment"] == "trigger words: ninja art"
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert metadata["ss_num_train_images"] == "3"
    assert json.loads(metadata["ss_tag_frequency"]) == {"training": {"ninja art": 3, "a man": 2, "a girl": 1}}
    assert "ss_base_model_version" not in metadata, "the tiny pipeline is not Stable Diffusion 1.x"


def test_the_metadata_names_stable_diffusion_by_the_width_of_the_text_embeddings() -> None:
    """By these entries tools list a LoRA as one for Stable Diffusion 1.x or 2.x."""
    first = {"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v1/lora"}
    for width, is_first, is_second in ((768, True, "False"), (1024, False, "True"), (64, False, "False")):
        state = {"lora_unet_a_attn2_to_k.lora_down.weight": torch.zeros(4, width)}
        metadata = kohya_metadata(state, FACTS)
        assert (first.items() <= metadata.items()) is is_first, width
        assert metadata["ss_v2"] == is_second, width


def test_a_model_that_predicts_v_says_so_in_modelspecs_word() -> None:
    assert modelspec("{caption}", "v_prediction")["modelspec.prediction_type"] == "v"
    assert "modelspec.trigger_phrase" not in modelspec("{caption}", "epsilon")


@pytest.mark.parametrize(
    ("template", "words"),
    [("{caption}", ""), ("ninja art, {caption}", "ninja art"), ("a photo of {caption}, sks.", "a photo of, sks")],
)
def test_trigger_words_are_what_the_template_adds(template: str, words: str) -> None:
    assert trigger_words(template) == words


def test_only_the_most_frequent_tags_are_kept() -> None:
    counts = tag_counts([*(f"tag {index}" for index in range(300)), "tag 299"])
    assert len(counts) == 200
    assert next(iter(counts.items())) == ("tag 299", 2)


def test_a_weight_of_no_adapter_is_an_error() -> None:
    with pytest.raises(StageError, match=r"'unet\.conv_in\.weight' is not a weight of an adapter"):
        kohya_state({"unet.conv_in.weight": torch.zeros(1)})


def test_the_stage_writes_and_checks_it(adapted: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    written = load_file(_written(tmp_path)).keys()
    for network in (adapted.unet, adapted.text_encoder):
        merge_lora(network)
    save_bundle(adapted, tmp_path / "teacher")
    options = {"formats": ["diffusers", "lora"], "lora_dir": tmp_path / "lora"}
    folder = export(tiny_pipeline_dir, tmp_path, teacher_dir=tmp_path / "teacher", **options)
    assert load_file(folder / "lora/lora_kohya.safetensors").keys() == written
    figures = json.loads((tmp_path / "metrics/export.json").read_text())
    assert figures["lora.weights_max_diff"] == 0
    assert figures["lora.images_max_abs_diff"] < 1e-3
    for name in ("lora", "teacher", "diffusers", "student"):
        assert figures[f"{name}.latency_batch_1_ms"] > 0
        assert figures[f"{name}.latency_batch_8_ms"] > 0
    StableDiffusionPipeline.from_pretrained(folder)
    with pytest.raises(StageError, match=r"export\.formats: lora: diffusers draws other pictures with it than"):
        export(tiny_pipeline_dir, tmp_path, **options)
