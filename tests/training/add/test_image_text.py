"""Networks that rate how well pictures fit captions, and what the student learns from them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.losses.image_text import retrieval_accuracy
from naruto_add.models.caption_match import new_caption_match
from naruto_add.params import Add, load_params
from naruto_add.runtime import StageError
from naruto_add.training.add import image_text as image_text_module
from naruto_add.training.add.image_text import ImageText, load_image_text, train_caption_match

PROFILE = load_params(Path(__file__).parents[3] / "profiles/mini.yaml")
PROMPTS = ["", "a boy with a sword", "a girl at night"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def add_params(**values: Any) -> Add:
    return Add.model_validate({**PROFILE.add.model_dump(), "caption_match_steps": 2, **values})


class Load:
    """Loads the network of these parameters from one cache."""

    def __init__(self, bundle: ModelBundle, dataset_dir: Path, cache_dir: Path) -> None:
        self.bundle, self.dataset_dir, self.cache_dir = bundle, dataset_dir, cache_dir

    def __call__(self, **values: Any) -> ImageText:
        return load_image_text(
            self.bundle,
            PROMPTS,
            params=add_params(**values),
            prompt_template="{caption}",
            dataset_dir=self.dataset_dir,
            cache_dir=self.cache_dir,
        )


@pytest.fixture
def load(tiny_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path) -> Load:
    return Load(tiny_bundle, tiny_dataset_dir, tmp_path)


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


def loss_of(load: Load, image_text: ImageText, latents: torch.Tensor) -> torch.Tensor:
    rows, corner = torch.tensor([1, 2]), torch.zeros(2, 2)
    return image_text.loss(load.bundle.vae, latents, rows, corner=corner, side_px=32)


def some_latents() -> torch.Tensor:
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_the_matcher_learns_pairs_by_heart() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, pooled = torch.rand(8, 3, 32, 32, generator=generator) * 2 - 1, torch.randn(8, 16, generator=generator)
    pixels = pixels.mean(dim=(2, 3), keepdim=True).mul(8).add(0.2 * pixels)  # each has a colour of its own
    network, ids = new_caption_match(16, seed=0), torch.arange(8)
    params = add_params(caption_match_steps=150, caption_match_learning_rate=3e-3)
    train_caption_match(network, pixels, pooled, caption_ids=ids, params=params)
    assert retrieval_accuracy(network.image_vectors(pixels), network.text_vectors(pooled), ids) == 1


def test_a_matcher_that_cannot_read_finds_what_a_guess_finds(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_text_module.EmbeddedMatcher, "texts", lambda _, prompts: torch.ones(len(prompts), 4))
    monkeypatch.setattr(image_text_module.EmbeddedMatcher, "images", lambda _, pixels: torch.ones(len(pixels), 4))
    figures = load().metrics()
    assert figures["image_text_accuracy"] == figures["image_text_chance"] == pytest.approx(0.25)


def test_a_trained_matcher_is_kept_under_the_key_of_what_it_learnt_from(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = load(), load(caption_match_steps=3)
    assert len(list(load.cache_dir.glob("caption_match-*.safetensors"))) == 2
    assert not torch.equal(first.text_vectors, other.text_vectors)
    monkeypatch.setattr(image_text_module, "train_caption_match", None)
    assert torch.equal(load().text_vectors, first.text_vectors)


@pytest.mark.parametrize("network", ["caption_match", "clip"])
def test_the_loss_reaches_the_latents_alone_and_falls_as_the_picture_is_optimised(
    load: Load, tiny_clip_dir: Path, network: str
) -> None:
    image_text = load(image_text_network=str(tiny_clip_dir) if network == "clip" else network)
    latents = some_latents()
    first = loss_of(load, image_text, latents)
    first.backward()
    assert latents.grad is not None and latents.grad.flatten(1).any(dim=1).all()
    modules = [load.bundle.vae, load.bundle.text_encoder, load.bundle.unet]
    matcher: Any = image_text.matcher
    modules.append(matcher.clip.model if network == "clip" else matcher.network)
    assert all(item.grad is None and not item.requires_grad for module in modules for item in module.parameters())
    assert not modules[-1].training
    optimizer = torch.optim.Adam([latents], lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(load, image_text, latents)
        loss.backward()
        optimizer.step()
    assert loss < first


def test_captions_are_encoded_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    image_text = load()
    monkeypatch.setattr(load.bundle, "text_encoder", None)
    loss_of(load, image_text, some_latents())
    assert len(image_text.text_vectors) == len(PROMPTS)
    assert not image_text.text_vectors.requires_grad


def test_clip_is_shown_what_transformers_shows_it(load: Load, tiny_clip_dir: Path) -> None:
    image_text = load(image_text_network=str(tiny_clip_dir))
    model = CLIPModel.from_pretrained(tiny_clip_dir)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    shown = ((pixels + 1) / 2 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        seen = image_text.matcher.images(pixels)
        tokens = matcher_tokens(tiny_clip_dir)
        logits = model(pixel_values=shown, **tokens).logits_per_image / model.logit_scale.exp()
    cosine = F.normalize(seen, dim=1) @ F.normalize(image_text.text_vectors[1:], dim=1).T
    torch.testing.assert_close(cosine, logits, rtol=1e-3, atol=1e-3)


def matcher_tokens(clip_dir: Path) -> Any:
    tokenizer = CLIPTokenizer.from_pretrained(clip_dir)
    return tokenizer(PROMPTS[1:], padding="max_length", max_length=77, return_tensors="pt")


def test_a_clip_that_cannot_be_had_names_the_remedy(load: Load) -> None:
    with pytest.raises(StageError, match=r"add\.image_text_network: 'some/clip' is no folder"):
        load(image_text_network="some/clip")
