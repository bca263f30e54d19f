"""The model card states facts about this model, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from naruto_add.export.model_card import CardFacts, model_card
from tests.export.build import METRICS, export


def _card(**changes: object) -> str:
    facts = {
        "base_model": "base/model",
        "source": "shinobi",
        "hub_dataset": "owner/name",
        "method": "adversarial",
        "timesteps": [999, 499],
        "prompt": "a man",
        "precision": "fp32",
        "metrics": METRICS,
    }
    return model_card(CardFacts(**(facts | changes)))  # type: ignore[arg-type]


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


def test_it_has_a_table_of_metrics_if_there_are_any() -> None:
    assert re.search(r"fd_embedded +\| +lower \| +12\.25 \| +13\.5 \|", _card())
    assert "0.975" in _card(metrics={**METRICS, "real.attribute_accuracy": 0.975})
    assert "Metrics" not in _card(metrics={})


@pytest.mark.slow
def test_its_code_runs_offline_as_written(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    folder = export(tiny_pipeline_dir, tmp_path)
    snippet = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippet is not None
    code = snippet[1].replace("path/to/this/folder", str(folder))
    offline = "import socket\ndef refuse(*_, **__): raise OSError('no network')\nsocket.socket.connect = refuse\n"
    subprocess.run([sys.executable, "-I", "-c", offline + code], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "picture.png").exists()
