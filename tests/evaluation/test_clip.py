"""CLIP scores equal those of transformers on a tiny CLIP model; other models are errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from naruto_add.evaluation.clip import clip_scores, load_clip, score
from naruto_add.models.clip import ClipNetwork
from naruto_add.runtime.errors import StageError

CPU = torch.device("cpu")
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CAPTIONS = ["a man with white hair", "a girl at night", "a boy with a sword " * 40]


@pytest.fixture(scope="module")
def tiny_clip_dir(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(tiny_pipeline_dir / "tokenizer")
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(**TOWER, **special, vocab_size=len(tokenizer), max_position_embeddings=77)
    config = CLIPConfig(text_config=text, vision_config=CLIPVisionConfig(**TOWER, image_size=32, patch_size=8))
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_clip(tiny_clip_dir: Path) -> ClipNetwork:
    return load_clip(str(tiny_clip_dir), CPU)


def _images(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, 32, 32, 3), dtype=np.uint8)


def test_a_score_is_a_hundred_times_the_cosine_and_not_negative() -> None:
    up, right = torch.tensor([[0.0, 3.0]]), torch.tensor([[5.0, 0.0]])

    assert score(up, 2 * up).item() == pytest.approx(100)
    assert score(up, right).item() == pytest.approx(0)
    assert score(up, up + right * 3 / 5).item() == pytest.approx(100 / 2**0.5)
    assert score(up, -up).item() == 0


def test_scores_equal_those_of_transformers(tiny_clip_dir: Path, tiny_clip: ClipNetwork) -> None:
    images = _images(3)
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
    pixels = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    tokens = tiny_clip.tokenizer(CAPTIONS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    model = CLIPModel.from_pretrained(tiny_clip_dir)
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()

    expected = 100 * logits.diagonal().clamp(min=0).numpy()

    assert (expected > 0).any()
    np.testing.assert_allclose(clip_scores(images, CAPTIONS, tiny_clip), expected, atol=1e-3)


def test_every_picture_of_every_batch_is_compared_with_its_own_caption(tiny_clip: ClipNetwork) -> None:
    images, captions = _images(19), [f"{CAPTIONS[index % 3]} {index}" for index in range(19)]

    alone = [clip_scores(images[i : i + 1], captions[i : i + 1], tiny_clip)[0] for i in range(19)]

    np.testing.assert_allclose(clip_scores(images, captions, tiny_clip), alone, atol=1e-3)
    assert np.ptp(alone) > 0.1


def test_another_kind_of_model_is_an_error(tiny_pipeline_dir: Path) -> None:
    with pytest.raises(StageError, match=r"evaluate\.clip_score: .* is a clip_text_model model, not a CLIP"):
        load_clip(str(tiny_pipeline_dir / "text_encoder"), CPU)


def test_a_repository_without_a_commit_is_an_error() -> None:
    with pytest.raises(StageError, match=r"evaluate\.clip_score: 'openai/clip' is not a folder.*owner/name@commit"):
        load_clip("openai/clip", CPU)


def test_an_empty_folder_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=rf"evaluate\.clip_score: {tmp_path} does not contain.*set it to 'off'"):
        load_clip(str(tmp_path), CPU)


def test_files_that_lack_weights_are_refused_instead_of_filled_with_random_values(
    tiny_clip_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_clip_dir, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"lack 1 weights, such as visual_projection\.weight; use complete files"):
        load_clip(str(folder), CPU)
