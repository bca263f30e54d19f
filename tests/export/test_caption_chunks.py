"""Exports of a student that was trained on prompts in two chunks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.export.lora import kohya_metadata
from naruto_add.generate.model import load_model
from naruto_add.generate.onnx_pipeline import OnnxPipeline
from naruto_add.generate.settings import read_settings
from tests.export.build import export
from tests.export.test_lora import FACTS
from tests.extras import ONNX, need_packages

LONG = "a man " * 50  # 100 tokens
CAPTIONS = [f"{LONG} with a {thing}" for thing in ("sword", "cat")]


@pytest.fixture(scope="module")
def exported(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by a stage that compares what diffusers draws with what the student draws."""
    return export(tiny_pipeline_dir, tmp_path_factory.mktemp("chunks"), caption_chunks=2)


def test_generate_draws_words_of_the_second_chunk(exported: Path) -> None:
    settings = read_settings(exported)
    assert settings is not None and settings.caption_chunks == 2
    model = load_model(exported, num_steps=None, guidance_scale=None, raw_prompt=True)
    sword, cat = (np.asarray(model.draw(caption, seed=0)) for caption in CAPTIONS)
    assert not np.array_equal(sword, cat)
    one_chunk = replace(model, caption_chunks=1)
    sword, cat = (np.asarray(one_chunk.draw(caption, seed=0)) for caption in CAPTIONS)
    assert np.array_equal(sword, cat)


def test_a_guided_model_gets_a_negative_prompt_of_as_many_chunks(exported: Path) -> None:
    model = load_model(exported, num_steps=None, guidance_scale=None, raw_prompt=True)
    model.pipeline.unet.register_to_config(time_cond_proj_dim=None)  # as a teacher's, whose guidance is not distilled
    model.pipeline.unet.time_embedding.cond_proj = None
    guided = replace(model, guidance_scale=3.0)
    assert guided.draw(CAPTIONS[0], seed=0).size == (32, 32)


def test_an_export_of_an_earlier_version_has_one_chunk(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "naruto_add.json").write_text(json.dumps({"num_inference_steps": 4, "prompt_template": "{caption}"}))
    settings = read_settings(tmp_path)
    assert settings is not None and settings.caption_chunks == 1


def test_cards_and_metadata_say_that_tools_must_encode_long_prompts(exported: Path) -> None:
    assert "2 chunks of 75 tokens" in (exported / "README.md").read_text()
    state = {"lora_unet_a.lora_down.weight": torch.zeros(2, 4), "lora_unet_a.lora_up.weight": torch.zeros(4, 2)}
    assert kohya_metadata(state, replace(FACTS, caption_chunks=2))["ss_max_token_length"] == "150"
    assert "ss_max_token_length" not in kohya_metadata(state, FACTS)


def test_onnx_encodes_the_chunks_that_torch_encodes(
    tiny_pipeline_dir: Path, tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    need_packages(*ONNX)
    folder = export(tiny_pipeline_dir, tmp_path, caption_chunks=2, formats=["diffusers", "onnx"])
    expected = encode_prompts(replace(tiny_bundle, caption_chunks=2), [*CAPTIONS, ""])
    np.testing.assert_allclose(OnnxPipeline(folder / "onnx").encode([*CAPTIONS, ""]), expected.numpy(), atol=1e-4)
