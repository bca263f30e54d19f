"""The exported folder is the student, called by plain diffusers with its defaults."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors import safe_open

from naruto_add import export
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.export import export_student
from naruto_add.params import Export, StudentScheduler
from naruto_add.runtime import StageError

TIMESTEPS = [999, 749, 499, 249]
PROMPTS = ["a man with white hair and a sword", "a girl at sunset"]
METRICS = {"teacher.fd_embedded": 12.25, "distilled.fd_embedded": 13.5, "distilled.num_parameters": 4200.0}


def _export(
    tiny_pipeline_dir: Path,
    tmp_path: Path,
    *,
    scheduler: StudentScheduler = "ddim",
    precision: Literal["fp32", "fp16"] = "fp32",
    source: str = "shinobi",
) -> Path:
    out_dir = tmp_path / "models" / "export"
    export_student(
        Export(seed=0, prompts=PROMPTS, precision=precision),
        teacher_dir=tiny_pipeline_dir,
        distilled_dir=tiny_pipeline_dir / "unet",
        student_scheduler=scheduler,
        method="adversarial",
        timesteps=TIMESTEPS,
        metrics=METRICS,
        base_model="base/model",
        source=source,
        hub_dataset="owner/name",
        prompt_template="{caption}",
        out_dir=out_dir,
        metrics_path=tmp_path / "metrics" / "export.json",
    )
    return out_dir


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_is_the_student_for_plain_diffusers(
    tiny_pipeline_dir: Path, tmp_path: Path, scheduler: StudentScheduler
) -> None:
    folder = _export(tiny_pipeline_dir, tmp_path, scheduler=scheduler)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert isinstance(pipeline, StableDiffusionPipeline)
    pipeline.scheduler.set_timesteps(4)
    assert pipeline.scheduler.timesteps.tolist() == TIMESTEPS
    figures = json.loads((tmp_path / "metrics" / "export.json").read_text())
    assert figures["noise_pred_max_abs_diff"] <= 1e-5
    assert figures["images_max_abs_diff"] <= 1e-4
    assert figures["size_mib"] > 0


def test_guidance_changes_nothing(tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(_export(tiny_pipeline_dir, tmp_path))
    noise = initial_noise(tiny_bundle, 1, seed=0)
    pictures = [
        pipeline(PROMPTS[0], num_inference_steps=4, latents=noise, output_type="pt", **options).images
        for options in ({}, {"guidance_scale": 1.0}, {"guidance_scale": 20.0}, {"negative_prompt": "a sword"})
    ]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)
    assert not pipeline.do_classifier_free_guidance


def test_weights_are_halved_on_request(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    folder = _export(tiny_pipeline_dir, tmp_path, precision="fp16")
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_same_input_same_bytes_wherever_it_is_written(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    first = _export(tiny_pipeline_dir, tmp_path / "here")
    second = _export(tiny_pipeline_dir, tmp_path / "there")
    assert _contents(first) == _contents(second)
    assert str(tmp_path).encode() not in b"".join(_contents(first).values())


def test_other_timesteps_are_refused_and_leave_nothing(
    tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TIMESTEPS", [999, 700, 400, 100])
    with pytest.raises(StageError, match=r"visits \[999, 749, 499, 249\], but the student was trained at \[999, 700"):
        _export(tiny_pipeline_dir, tmp_path)
    assert not (tmp_path / "models" / "export").exists()
    assert not (tmp_path / "metrics" / "export.json").exists()


def test_a_difference_is_refused(tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(unet: torch.nn.Module) -> torch.nn.Module:
        unguided = undamaged(unet)
        unguided.conv_out.bias.data = unguided.conv_out.bias.data + 0.01
        return unguided

    undamaged = export._unguided
    monkeypatch.setattr(export, "_unguided", damaged)
    with pytest.raises(StageError, match=r"predictions differ by 0\.01"):
        _export(tiny_pipeline_dir, tmp_path)


@pytest.mark.parametrize(
    ("source", "named"),
    [("folder", "a folder of captioned pictures"), ("shinobi", "drawn shinobi"), ("hub", "`owner/name`")],
)
def test_model_card_names_the_pictures_it_learned_from(
    tiny_pipeline_dir: Path, tmp_path: Path, source: str, named: str
) -> None:
    card = (_export(tiny_pipeline_dir, tmp_path, source=source) / "README.md").read_text(encoding="utf-8")
    assert f"finetuned on {named} and" in card
    assert ("owner/name" in card) is (source == "hub")


@pytest.mark.slow
def test_model_card_snippet_runs_as_written(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    folder = _export(tiny_pipeline_dir, tmp_path)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| fd_embedded | lower | 12.25 | 13.5 |" in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet is not None
    code = snippet[1].replace("path/to/this/folder", str(folder))
    offline = "import socket\ndef refuse(*_, **__): raise OSError('no network')\nsocket.socket.connect = refuse\n"
    subprocess.run([sys.executable, "-I", "-c", offline + code], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "picture.png").exists()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
