"""Image-text supervision: a frozen network that rates how well the student's pictures fit their captions.

CLIP where one is named, else `caption_match`, which is trained here on the training split within seconds. Whatever it
is, how often it finds the captions of pictures that it was not trained on is among the stage's figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from naruto_add.compute import batch_indices, step_generator
from naruto_add.conventions import CAPTION_MATCH
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import hash_model
from naruto_add.data.pixels import load_pixels
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, tokenize
from naruto_add.files import content_hash, new_file
from naruto_add.losses.image_text import image_text_loss, info_nce, retrieval_accuracy
from naruto_add.models.caption_match import CaptionMatch, new_caption_match
from naruto_add.models.clip import CLIP_MEAN, CLIP_STD, ClipNetwork, image_vectors, load_clip_network, text_vectors
from naruto_add.models.discriminator import pooled_embeds
from naruto_add.params import Add
from naruto_add.training.add.augment import NUM_DRAWS, augmented
from naruto_add.training.add.pixels import decoded_squares
from naruto_add.training.sharing import shown

KEY = "add.image_text_network"
BATCH = 64
TEMPERATURE = 0.1
MAX_HELD_OUT = 256
"""Validation pictures whose captions are looked for, at most: accuracies are comparable at equal numbers only."""
STREAM = 3


class Matcher(Protocol):
    """Vectors of pictures, with a gradient to them, and of prompts; those that fit each other point the same way."""

    def images(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]: ...

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]: ...


@dataclass(frozen=True)
class ClipMatcher:
    """CLIP, which is shown pixels in [-1, 1] at its own size."""

    clip: ClipNetwork

    def images(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]:
        """Not clipped, unlike what is measured: a clip would stop the gradient."""
        side = (self.clip.input_px, self.clip.input_px)
        resized = F.interpolate(pixels, size=side, mode="bicubic", antialias=True)
        mean, std = (resized.new_tensor(item).view(1, 3, 1, 1) for item in (CLIP_MEAN, CLIP_STD))
        return image_vectors(self.clip, (resized / 2 + 0.5 - mean) / std).float()

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """By CLIP's own text encoder."""
        return text_vectors(self.clip, prompts).float()


@dataclass(frozen=True)
class EmbeddedMatcher:
    """`caption_match` behind the base model's text encoder."""

    network: CaptionMatch
    bundle: ModelBundle

    def images(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]:
        """Of pixels in [-1, 1]."""
        return self.network.image_vectors(pixels)

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Of the prompts' pooled embeddings."""
        return self.network.text_vectors(_pooled(self.bundle, prompts))


@dataclass(frozen=True)
class ImageText:
    """A matcher, its vectors of every prompt by row, and how far it can be trusted: `accuracy` against `chance`."""

    matcher: Matcher
    text_vectors: Float[Tensor, "prompts width"]
    accuracy: float
    chance: float

    def loss(
        self,
        vae: AutoencoderKL,
        x0_student: Float[Tensor, "batch c h w"],
        prompt_rows: Int[Tensor, " batch"],
        *,
        corner: Float[Tensor, "batch 2"],
        side_px: int,
    ) -> Float[Tensor, ""]:
        """How little the decoded student's squares fit their captions; the gradient reaches x0_student alone."""
        squares = decoded_squares(vae, x0_student, corner, side_px=side_px)
        return image_text_loss(self.matcher.images(squares), self.text_vectors[prompt_rows])

    def metrics(self) -> dict[str, float]:
        """How often it finds the caption of a held-out picture among all of theirs, and how often a guess would."""
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
    """The network that `add.image_text_network` names, with vectors of these prompts.

    `caption_match` is trained unless `cache_dir` has it. Raises StageError where a CLIP cannot be had.
    """
    if params.image_text_network == CAPTION_MATCH:
        examples = load_split(dataset_dir, "train")
        network = _cached_caption_match(bundle, examples, params, prompt_template=prompt_template, cache_dir=cache_dir)
        matcher: Matcher = EmbeddedMatcher(network, bundle)
    else:
        instead = f"choose '{CAPTION_MATCH}', or set add.image_text_weight to 0"
        source = params.image_text_network
        matcher = ClipMatcher(load_clip_network(source, bundle.device, key=KEY, instead=instead))
    held_out = load_split(dataset_dir, "validation")[:MAX_HELD_OUT]
    accuracy, chance = rate(matcher, held_out, prompt_template=prompt_template, device=bundle.device)
    return ImageText(matcher, in_batches(matcher.texts, prompts), accuracy, chance)


@torch.no_grad()
def rate(
    matcher: Matcher, examples: Sequence[Example], *, prompt_template: str, device: torch.device
) -> tuple[float, float]:
    """The fraction of these pictures whose caption is found among all of theirs, and that of blind guesses."""
    prompts = [fill_template(prompt_template, example.caption) for example in examples]
    ids = _caption_ids(prompts).to(device)
    images = in_batches(lambda part: matcher.images(load_pixels(part).to(device)), examples)
    accuracy = retrieval_accuracy(images, in_batches(matcher.texts, prompts), ids)
    return accuracy.item(), (ids[:, None] == ids).float().mean().item()


@torch.no_grad()
def in_batches(compute: Callable[[Any], Tensor], items: Sequence[Any]) -> Tensor:
    """What `compute` makes of all items, a batch at a time."""
    return torch.cat([compute(items[first : first + BATCH]) for first in range(0, len(items), BATCH)])


def _cached_caption_match(
    bundle: ModelBundle, examples: Sequence[Example], params: Add, *, prompt_template: str, cache_dir: Path
) -> CaptionMatch:
    """The file's name is the key of all that the weights depend on."""
    prompts = [fill_template(prompt_template, example.caption) for example in examples]
    values = [params.caption_match_steps, params.caption_match_learning_rate, params.seed, BATCH, TEMPERATURE]
    moves = [params.augment_flip, params.augment_max_shift, params.augment_cutout]
    pictures = [example.image_path for example in examples]
    key = content_hash(hash_model(bundle.text_encoder), prompts, values, moves, *pictures)
    path = cache_dir / f"caption_match-{key}.safetensors"
    pooled = in_batches(lambda part: _pooled(bundle, part), prompts)
    network = new_caption_match(pooled.shape[1], seed=params.seed).to(bundle.device)
    if path.exists():
        network.load_state_dict(load_file(path))
    else:
        train_caption_match(network, load_pixels(examples), pooled, caption_ids=_caption_ids(prompts), params=params)
        with new_file(path) as partial:
            save_file(network.state_dict(), partial)
    return network.requires_grad_(False).eval()


def train_caption_match(
    network: CaptionMatch,
    pixels: Float[Tensor, "pictures 3 h w"],
    pooled: Float[Tensor, "pictures width"],
    *,
    caption_ids: Int[Tensor, " pictures"],
    params: Add,
) -> None:
    """Teach it which caption is whose, on pictures moved as discriminators' are, at `add.caption_match_learning_rate`.

    The rate falls to zero, so that the last batches do not decide.
    """
    device, num_steps, size = pooled.device, params.caption_match_steps, min(BATCH, len(pixels))
    optimizer = torch.optim.AdamW(network.parameters(), lr=params.caption_match_learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for step in shown(range(num_steps), desc="caption match"):
        items = torch.tensor(batch_indices(len(pixels), size, seed=params.seed, step=step))
        draws = torch.rand(size, NUM_DRAWS, generator=step_generator(params.seed, step, STREAM))
        moved = augmented(pixels[items], draws, strength=1.0, params=params).to(device)
        vectors = network.image_vectors(moved), network.text_vectors(pooled[items.to(device)])
        loss = info_nce(*vectors, caption_ids[items].to(device), temperature=TEMPERATURE)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def _pooled(bundle: ModelBundle, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
    embeds = encode_prompts(bundle, list(prompts))
    return pooled_embeds(embeds, tokenize(bundle, list(prompts)), eos_token_id=bundle.tokenizer.eos_token_id)


def _caption_ids(prompts: Sequence[str]) -> Int[Tensor, " prompts"]:
    first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
    return torch.tensor([first[prompt] for prompt in prompts])
