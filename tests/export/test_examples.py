"""The examples of docs/exports.md run as written."""

import re
from pathlib import Path

import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.models.lora import add_lora, save_lora
from tests.export.build import export
from tests.extras import ONNX, need_packages

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/exports.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


def test_there_is_one_of_at_most_ten_lines_for_each_format() -> None:
    assert list(EXAMPLES) == ["diffusers", "LoRA", "Single file", "ONNX"]
    assert all(len([line for line in code.splitlines() if line]) <= 10 for code in EXAMPLES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs(
    name: str, tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ["diffusers", "lora", "single_file"]
    if name == "ONNX":
        need_packages(*ONNX)
        formats = ["diffusers", "onnx"]
    add_lora(tiny_bundle.unet, tiny_bundle.text_encoder, targets="attention_convolutions", rank=4, seed=0)
    save_lora(tmp_path / "models/teacher_lora", unet=tiny_bundle.unet, text_encoder=tiny_bundle.text_encoder)
    export(tiny_pipeline_dir, tmp_path, formats=formats, lora_dir=tmp_path / "models/teacher_lora")
    for model in ("base/model", "models/teacher"):
        (tmp_path / model).parent.mkdir(exist_ok=True)
        (tmp_path / model).symlink_to(tiny_pipeline_dir)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        exec(compile(EXAMPLES[name], "docs/exports.md", "exec"), names)
    if name == "ONNX":
        assert names["picture"].shape == (32, 32, 3)
    else:
        assert list(tmp_path.glob("*.png"))
