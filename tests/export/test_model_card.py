"""The model card states facts about this model, and its code runs."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.export.card_facts import CardFacts
from naruto_add.export.model_card import lora_card, model_card
from naruto_add.models.lora import add_lora, save_lora
from tests.export.build import METRICS, export


def _facts(**changes: object) -> CardFacts:
    facts = {
        "base_model": "base/model",
        "source": "shinobi",
        "hub_dataset": "owner/name",
        "method": "adversarial",
        "timesteps": [999, 499],
        "prompts": ["a man", "a girl"],
        "trigger_words": "",
        "resolution_px": 64,
        "guidance_scale": 3.0,
        "caption_chunks": 1,
        "precision": "fp32",
        "metrics": METRICS,
        "has_plot": True,
        "formats": ["diffusers"],
        "has_tiny_decoder": False,
        "student_scheduler": "ddim",
        "unfit_reason": "",
    }
    return CardFacts(**(facts | changes))  # type: ignore[arg-type]


def _card(**changes: object) -> str:
    return model_card(_facts(**changes))


@pytest.mark.parametrize(
    ("source", "description"),
    [("folder", "a folder of captioned pictures"), ("shinobi", "drawn shinobi"), ("hub", "`owner/name`")],
)
def test_it_names_the_data_set(source: str, description: str) -> None:
    card = _card(source=source)
    assert f"finetuned on {description} and" in card
    assert ("owner/name" in card) is (source == "hub")


def test_it_names_method_steps_and_timesteps() -> None:
    assert "distilled by adversarial diffusion distillation" in _card()
    assert "distilled by latent consistency distillation" in _card(method="consistency")
    assert "timesteps 999, 499" in _card()
    assert "num_inference_steps=2" in _card()


def test_it_names_the_licence_of_the_base_model() -> None:
    assert "license: apache-2.0" in _card()
    assert "license: creativeml-openrail-m" in _card(base_model="stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert "The licence of the base model (`some/other`) applies." in _card(base_model="some/other")


def test_another_licence_leads_to_the_card_of_the_base_model(tmp_path: Path) -> None:
    values = ModelCard(_card(base_model="some/other")).data.to_dict()
    assert (values["license"], values["license_name"]) == ("other", "see-the-base-model")
    assert urlsplit(values["license_link"]).path == "/some/other"
    assert "license_link" not in ModelCard(_card(base_model=str(tmp_path))).data.to_dict(), "a folder has no address"


def test_it_has_a_table_of_metrics_if_there_are_any() -> None:
    assert re.search(r"fd_embedded +\| +lower \| +12\.25 \| +13\.5 \|", _card())
    assert "0.975" in _card(metrics={**METRICS, "real.attribute_accuracy": 0.975})
    assert "Metrics" not in _card(metrics={})


def test_the_front_matter_is_what_the_hub_reads() -> None:
    base, data = "stable-diffusion-v1-5/stable-diffusion-v1-5", "owner/name"
    card = ModelCard(_card(base_model=base, source="hub", hub_dataset=data, trigger_words="ninja art"))
    values = card.data.to_dict()
    assert (values["base_model"], values["base_model_relation"]) == (base, "finetune")
    assert (values["datasets"], values["instance_prompt"]) == ([data], "ninja art")
    assert (values["license"], "LICENSE" in values["license_link"]) == ("creativeml-openrail-m", True)
    assert {"text-to-image", "stable-diffusion", "adversarial-diffusion-distillation"} <= set(values["tags"])
    assert values["widget"][1] == {"text": "a girl", "output": {"url": "images/example-1.png"}}
    (result,) = values["model-index"][0]["results"]
    assert result["dataset"] == {"name": data, "type": data, "split": "test"}
    assert {item["type"]: item["value"] for item in result["metrics"]} == {
        "fd_embedded": 13.5,
        "num_parameters": 4200.0,
    }


def test_the_card_of_the_lora_is_of_an_adapter_with_the_teachers_metrics() -> None:
    metrics = {**METRICS, "teacher.pd_embedded": 0.0, "distilled.pd_embedded": 0.5}
    card = ModelCard(lora_card(_facts(base_model="owner/base", metrics=metrics), "lora_kohya.safetensors"))
    values = card.data.to_dict()
    assert (values["base_model"], values["base_model_relation"]) == ("owner/base", "adapter")
    assert "lora" in values["tags"]
    assert "adversarial-diffusion-distillation" not in values["tags"]
    (metric,) = values["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == 12.25, "its distance to itself is no result"
    assert 'weight_name="lora_kohya.safetensors"' in card.text


def test_a_base_model_in_a_folder_is_no_repository_of_the_hub() -> None:
    values = ModelCard(_card()).data.to_dict()
    assert "base_model" not in values
    assert "base_model_relation" not in values


def test_it_lists_the_other_files_with_the_settings_of_their_tools() -> None:
    assert "Other files" not in _card()
    card = _card(formats=["diffusers", "lora", "single_file", "onnx", "onnx_int8", "demo"])
    for path in ("lora/", "single_file/", "onnx/", "onnx_int8/", "demo.html"):
        assert f"\n- `{path}`: " in card
    assert "sampler `euler`, scheduler `simple`, 2 steps, cfg 1" in card
    assert "euler" not in _card(formats=["single_file"], student_scheduler="lcm")
    card = _card(formats=["single_file"], unfit_reason="its U-Net is small")
    assert "No tool for Stable Diffusion 1.5 loads them: its U-Net is small." in card
    assert "euler" not in card
    assert "\n- `tiny_decoder/`: " not in card
    assert "\n- `tiny_decoder/`: " in _card(has_tiny_decoder=True)


def test_the_card_of_a_lora_names_no_tool_that_cannot_load_its_base_model() -> None:
    assert "ComfyUI, AUTOMATIC1111 and Forge say that they read this layout" in lora_card(_facts(), "lora.safetensors")
    card = lora_card(_facts(unfit_reason="its U-Net is small"), "lora.safetensors")
    assert "No tool for Stable Diffusion 1.5 loads its base model: its U-Net is small." in card
    assert "ComfyUI" not in card


def test_it_shows_grid_plot_and_limits() -> None:
    for link in ("](images/grid.png)", "](images/latency_quality.png)", "## Intended use and limits", "64x64 pixels"):
        assert link in _card()
    assert "latency_quality" not in _card(has_plot=False)


@pytest.mark.parametrize(
    "name", ["`", "a`b``c", "x\n# y", "---\nlicense: mit", "\u202eevil", '"""', "[a](b) <img>", " "]
)
def test_names_of_foreign_origin_stay_text(name: str) -> None:
    """In YAML, in Markdown and in the Python code."""
    card = _card(base_model=f"o/{name}", source="hub", hub_dataset=name, prompts=[name], trigger_words=name)
    values = ModelCard(card).data.to_dict()
    assert (values["base_model"], values["license"]) == (f"o/{name}", "other")
    body = card.partition("\n---\n\n")[2]
    assert "\u202e" not in body
    assert not re.search(r"^# y|^license: mit", body, re.MULTILINE)
    snippet = re.search(r"```python\n(.*?)```", body, re.DOTALL)
    assert snippet is not None
    literals = [node.value for node in ast.walk(ast.parse(snippet[1])) if isinstance(node, ast.Constant)]
    assert name in literals
    fence, inner = re.search(r"^- (`+)(.*)\1$", body, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert fence not in re.findall(r"`+", inner)


def test_the_stage_writes_the_pictures_that_the_cards_name(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    add_lora(tiny_bundle.unet, tiny_bundle.text_encoder, targets="attention", rank=2, seed=0)
    save_lora(tmp_path / "lora", unet=tiny_bundle.unet, text_encoder=tiny_bundle.text_encoder)
    folder = export(tiny_pipeline_dir, tmp_path, formats=["diffusers", "lora"], lora_dir=tmp_path / "lora")
    for card in (folder / "README.md", folder / "lora/README.md"):
        text = card.read_text(encoding="utf-8")
        named = re.findall(r"images/[\w-]+\.png", text)
        assert {"images/example-0.png", "images/example-1.png", "images/grid.png", "images/latency_quality.png"} == set(
            named
        )
        for name in named:
            with Image.open(card.parent / name) as picture:
                picture.load()


@pytest.mark.slow
def test_its_code_runs_offline_as_written(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    folder = export(tiny_pipeline_dir, tmp_path)
    snippet = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippet is not None
    code = snippet[1].replace("path/to/this/folder", str(folder))
    offline = "import socket\ndef refuse(*_, **__): raise OSError('no network')\nsocket.socket.connect = refuse\n"
    subprocess.run([sys.executable, "-I", "-c", offline + code], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "picture.png").exists()
