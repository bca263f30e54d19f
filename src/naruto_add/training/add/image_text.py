"""Image-text supervision: a frozen network that compares the student's pictures with their captions.

The network is CLIP, or `caption_match`, which is trained on the training split at the start of `add`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from naruto_add.config.constants import CAPTION_MATCH
from naruto_add.config.schema import Add
from naruto_add.data.alternatives import PromptRows, consecutive_rows, epoch_draws
from naruto_add.data.batches import batch_indices
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, tokenize
from naruto_add.losses.image_text import info_nce, retrieval_accuracy
from naruto_add.models.backbones import standardized
from naruto_add.models.caption_match import CaptionMatch, new_caption_match
from naruto_add.models.clip import ClipNetwork, image_vectors, load_clip_network, text_vectors
from naruto_add.models.discriminator import pooled_embeds
from naruto_add.runtime.cache import cached_tensors, hash_model
from naruto_add.runtime.compute import step_generator
from naruto_add.runtime.files import content_hash
from naruto_add.training.add.augment import NUM_SHIFT_DRAWS, random_shift
from naruto_add.training.processes import main_progress

CAPTION_MATCH_STEPS = 300
CAPTION_MATCH_LEARNING_RATE = 2e-3
BATCH_SIZE = 64
TEMPERATURE = 0.1
MAX_VALIDATION_PICTURES = 256
"""Validation pictures for the accuracy, at most: accuracies can only be compared at equal numbers."""
SHIFT_STREAM = 3
"""Separates the shifts of caption_match's training pictures from other draws of the same seed."""


class Matcher(Protocol):
    """Vectors of pictures, with gradients to their pixels in [-1, 1], and of prompts; similar if the two match."""

    def images(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]: ...

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]: ...


@dataclass(frozen=True)
class ClipMatcher:
    """A CLIP model."""

    clip: ClipNetwork

    def images(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]:
        """Vectors of pixels in [-1, 1], resized. They are not clamped as in `evaluate`: that would stop gradients."""
        side = (self.clip.input_px, self.clip.input_px)
        resized = F.interpolate(pixels, size=side, mode="bicubic", antialias=True)
        inputs = standardized(resized / 2 + 0.5, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        return image_vectors(self.clip, inputs).float()

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Vectors of prompts by CLIP's text encoder."""
        return text_vectors(self.clip, prompts).float()


@dataclass(frozen=True)
class CaptionMatcher:
    """`caption_match`, on embeddings of the base model's text encoder."""

    network: CaptionMatch
    bundle: ModelBundle

    def images(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]:
        """Vectors of pixels in [-1, 1]."""
        return self.network.image_vectors(pixels)

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Vectors of the prompts' pooled embeddings."""
        return self.network.text_vectors(_pooled(self.bundle, prompts))


@dataclass(frozen=True)
class ImageText:
    """A matcher, its vectors of all prompts, and how often it finds a validation picture's caption."""

    matcher: Matcher
    text_vectors: Float[Tensor, "prompts width"]
    accuracy: float
    chance: float

    def metrics(self) -> dict[str, float]:
        """How often a validation picture's caption is found among all of theirs, and how often by a random guess."""
        return {"image_text_accuracy": self.accuracy, "image_text_chance": self.chance}


def load_image_text(
    bundle: ModelBundle,
    prompts: Sequence[str],
    *,
    params: Add,
    prompt_template: str,
    dataset_dir: Path,
    cache_dir: Path,
) -> ImageText:
    """The network that `add.image_text_network` names, with vectors of these prompts; `caption_match` is cached.

    Raises StageError if a CLIP cannot be loaded.
    """
    source = params.image_text_network
    if source == CAPTION_MATCH:
        examples = load_split(dataset_dir, "train", prompt_template=prompt_template)
        network = _load_caption_match(bundle, examples, seed=params.seed, cache_dir=cache_dir)
        matcher: Matcher = CaptionMatcher(network, bundle)
    else:
        instead = f"use '{CAPTION_MATCH}', or set add.image_text_weight to 0"
        matcher = ClipMatcher(load_clip_network(source, bundle.device, key="add.image_text_network", instead=instead))
    validation = load_split(dataset_dir, "validation", prompt_template=prompt_template)[:MAX_VALIDATION_PICTURES]
    accuracy, chance = measure_accuracy(matcher, validation, device=bundle.device)
    return ImageText(matcher, _in_batches(matcher.texts, prompts), accuracy, chance)


def measure_accuracy(matcher: Matcher, examples: Sequence[Example], *, device: torch.device) -> tuple[float, float]:
    """The fraction of the pictures whose caption is found among all of theirs, and that of a random guess."""
    prompts = [example.prompt for example in examples]
    ids = _caption_ids(prompts).to(device)
    images = _in_batches(lambda part: matcher.images(load_pixels(part).to(device)), examples)
    accuracy = retrieval_accuracy(images, _in_batches(matcher.texts, prompts), ids)
    return accuracy.item(), (ids[:, None] == ids).float().mean().item()


def _load_caption_match(
    bundle: ModelBundle, examples: Sequence[Example], *, seed: int, cache_dir: Path
) -> CaptionMatch:
    """Trained on these examples, of whose captions one is drawn per epoch, or read from the cache; frozen."""
    prompts = [prompt for example in examples for prompt in example.prompts]
    rows = consecutive_rows(examples)
    pooled = _in_batches(lambda part: _pooled(bundle, part), prompts)
    network = new_caption_match(pooled.shape[1], seed=seed).to(bundle.device)

    def compute() -> dict[str, Tensor]:
        ids = _caption_ids(prompts)
        train_caption_match(network, load_pixels(examples), pooled, rows=rows, caption_ids=ids, seed=seed)
        return network.state_dict()

    options = [CAPTION_MATCH_STEPS, CAPTION_MATCH_LEARNING_RATE, BATCH_SIZE, TEMPERATURE, seed, rows.counts.tolist()]
    key = content_hash(hash_model(bundle.text_encoder), prompts, options, *[item.image_path for item in examples])
    network.load_state_dict(cached_tensors(cache_dir / "caption_match.safetensors", key=key, compute=compute))
    return network.requires_grad_(False).eval()


def train_caption_match(
    network: CaptionMatch,
    pixels: Float[Tensor, "pictures 3 h w"],
    pooled: Float[Tensor, "prompts width"],
    *,
    rows: PromptRows,
    caption_ids: Int[Tensor, " prompts"],
    seed: int,
    num_steps: int = CAPTION_MATCH_STEPS,
) -> None:
    """Train the network to match shifted pictures with pooled embeddings of their captions, with a cosine schedule.

    `rows` are those of each picture's captions in `pooled` and `caption_ids`; equal ids mean equal captions.
    """
    device, size = pooled.device, min(BATCH_SIZE, len(pixels))
    optimizer = torch.optim.AdamW(network.parameters(), lr=CAPTION_MATCH_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for step in main_progress(range(num_steps), desc="caption match"):
        indices = batch_indices(len(pixels), size, seed=seed, step=step)
        items = torch.tensor(indices)
        prompts = rows.drawn(items, epoch_draws(indices, len(pixels), seed=seed, step=step))
        draws = torch.rand(size, NUM_SHIFT_DRAWS, generator=step_generator(seed, step, SHIFT_STREAM))
        shifted = random_shift(pixels[items], draws, probability=1.0).to(device)
        vectors = network.image_vectors(shifted), network.text_vectors(pooled[prompts.to(device)])
        loss = info_nce(*vectors, caption_ids[prompts].to(device), temperature=TEMPERATURE)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


@torch.no_grad()
def _in_batches(compute: Callable[[Any], Tensor], items: Sequence[Any]) -> Tensor:
    return torch.cat([compute(items[first : first + BATCH_SIZE]) for first in range(0, len(items), BATCH_SIZE)])


def _pooled(bundle: ModelBundle, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
    embeds = encode_prompts(bundle, list(prompts))
    return pooled_embeds(embeds, tokenize(bundle, list(prompts)), eos_token_id=bundle.tokenizer.eos_token_id)


def _caption_ids(prompts: Sequence[str]) -> Int[Tensor, " prompts"]:
    """Equal ids for equal prompts: the index of the first of them."""
    first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
    return torch.tensor([first[prompt] for prompt in prompts])
