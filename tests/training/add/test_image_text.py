"""Networks that compare pictures with captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from naruto_add.config.schema import Add
from naruto_add.data.alternatives import PromptRows
from naruto_add.data.dataset import Example, load_split
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.losses.image_text import retrieval_accuracy
from naruto_add.models.caption_match import new_caption_match
from naruto_add.runtime.errors import StageError
from naruto_add.training.add.image_text import ImageText, load_image_text, measure_accuracy, train_caption_match
from tests.training.add.build import add_params, has_no_gradient

PROMPTS = ["", "a boy with a sword", "a girl at night"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


class Load:
    """Loads the network that the parameters name, always with the same cache folder."""

    def __init__(self, bundle: ModelBundle, dataset_dir: Path, cache_dir: Path) -> None:
        self.bundle, self.dataset_dir, self.cache_dir = bundle, dataset_dir, cache_dir

    def __call__(self, network: str = "caption_match", **values: Any) -> ImageText:
        params: Add = add_params(image_text_network=network, **values)
        return load_image_text(
            self.bundle,
            PROMPTS,
            params=params,
            prompt_template="{caption}",
            dataset_dir=self.dataset_dir,
            cache_dir=self.cache_dir,
        )


@pytest.fixture
def load(tiny_bundle: ModelBundle, drawn_dataset_dir: Path, tmp_path: Path) -> Load:
    """With two training pictures: `caption_match` takes hundreds of steps, and each looks at all of them."""
    return Load(tiny_bundle, drawn_dataset_dir, tmp_path)


@pytest.fixture
def tiny_clip_dir(tiny_pipeline_dir: Path, tmp_path: Path) -> Path:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_pipeline_dir / "tokenizer")
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(**TOWER, **special, vocab_size=len(tokenizer), max_position_embeddings=77)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=CLIPVisionConfig(**TOWER, image_size=16, patch_size=8))
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


class Constant:
    """A matcher that cannot tell pictures or prompts apart."""

    def images(self, pixels: Tensor) -> Tensor:
        return torch.ones(len(pixels), 4)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), 4)


def test_caption_match_learns_which_caption_belongs_to_which_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, pooled = torch.rand(8, 3, 32, 32, generator=generator) * 2 - 1, torch.randn(8, 16, generator=generator)
    pixels = pixels.mean(dim=(2, 3), keepdim=True).mul(8).add(0.2 * pixels)  # each has a colour of its own
    network, ids = new_caption_match(16, seed=0), torch.arange(8)
    rows = PromptRows(ids[:, None], torch.ones(8, dtype=torch.long))
    train_caption_match(network, pixels, pooled, rows=rows, caption_ids=ids, seed=0, num_steps=200)
    assert retrieval_accuracy(network.image_vectors(pixels), network.text_vectors(pooled), ids) == 1


def test_caption_match_learns_all_captions_of_a_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, pooled = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1, torch.randn(8, 16, generator=generator)
    pixels = pixels.mean(dim=(2, 3), keepdim=True).mul(8).add(0.2 * pixels)
    network, ids = new_caption_match(16, seed=0), torch.arange(8)
    rows = PromptRows(ids.view(4, 2), torch.full((4,), 2))
    train_caption_match(network, pixels, pooled, rows=rows, caption_ids=ids, seed=0, num_steps=200)
    vectors, texts = network.image_vectors(pixels), network.text_vectors(pooled)
    for captions in (slice(0, None, 2), slice(1, None, 2)):  # the first of each picture, and the second
        assert retrieval_accuracy(vectors, texts[captions], torch.arange(4)) == 1


def test_the_accuracy_of_a_matcher_that_knows_nothing_is_that_of_a_random_guess(tiny_dataset_dir: Path) -> None:
    examples: list[Example] = load_split(tiny_dataset_dir, "validation", prompt_template="{caption}")
    accuracy, chance = measure_accuracy(Constant(), examples, device=torch.device("cpu"))
    assert accuracy == chance == pytest.approx(0.25)


def test_a_trained_caption_match_is_cached_under_the_key_of_its_training(load: Load) -> None:
    first = load()
    (path,) = load.cache_dir.glob("caption_match*")
    written_at = path.stat().st_mtime_ns
    assert torch.equal(load().text_vectors, first.text_vectors)
    assert path.stat().st_mtime_ns == written_at
    with pytest.raises(StageError, match=r"caption_match\.safetensors.*delete it"):
        load(seed=1)


@pytest.mark.parametrize("kind", ["caption_match", "clip"])
def test_the_network_is_frozen_and_passes_gradients_to_the_pixels(load: Load, tiny_clip_dir: Path, kind: str) -> None:
    image_text = load(str(tiny_clip_dir) if kind == "clip" else kind)
    matcher: Any = image_text.matcher
    network: nn.Module = matcher.clip.model if kind == "clip" else matcher.network
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    matcher.images(pixels).square().sum().backward()
    assert pixels.grad is not None and pixels.grad.flatten(1).any(dim=1).all()
    assert has_no_gradient(network) and not network.training
    assert image_text.text_vectors.shape[0] == len(PROMPTS) and not image_text.text_vectors.requires_grad


def test_clip_gets_the_pixels_that_transformers_would_give_it(load: Load, tiny_clip_dir: Path) -> None:
    image_text = load(str(tiny_clip_dir))
    model, tokenizer = CLIPModel.from_pretrained(tiny_clip_dir), CLIPTokenizer.from_pretrained(tiny_clip_dir)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    normalized = ((pixels + 1) / 2 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    tokens = tokenizer(PROMPTS[1:], padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        vectors = image_text.matcher.images(pixels)
        logits = model(pixel_values=normalized, **tokens).logits_per_image / model.logit_scale.exp()
    cosine = F.normalize(vectors, dim=1) @ F.normalize(image_text.text_vectors[1:], dim=1).T
    torch.testing.assert_close(cosine, logits, rtol=1e-3, atol=1e-3)


def test_a_clip_that_cannot_be_loaded_is_an_error_with_the_key(load: Load) -> None:
    with pytest.raises(StageError, match=r"add\.image_text_network: 'some/clip'"):
        load("some/clip")
