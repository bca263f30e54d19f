"""Attribute accuracy: how often a classifier finds in a picture the attributes that its caption names.

For data sets whose rows have attributes. The classifier is a small network trained on real pictures of the training
split. Its accuracy on real test pictures is reported too, because it is an upper bound for drawn pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from naruto_add.data.batches import batch_indices
from naruto_add.data.dataset import Example
from naruto_add.evaluation.cache import Cache
from naruto_add.evaluation.drawings import load_images
from naruto_add.evaluation.estimates import Estimates, Metrics
from naruto_add.evaluation.features import resize
from naruto_add.imaging.pixels import Images, as_tensor, to_pixels
from naruto_add.runtime.compute import default_device, step_generator

COLUMNS = ("hair_color", "hair_style", "headwear", "item", "background")
HEADWEAR = "headwear"
"""Its values include a colour, so its presence in any colour is a metric too."""
NONE = "none"
CLASSIFIER_PX = 64
WIDTH = 32
BATCH = 32
LEARNING_RATE = 6e-3
SHIFT_PX = 2
HAIR_NOUNS = ("hair", "mohawk", "ponytail", "twin tails")
"""Words that follow the colour of the hair in a caption."""

Weights = Mapping[str, NDArray[Any]]
Vocabulary = dict[str, list[str]]


@dataclass(frozen=True)
class AttributeClassifier:
    """A network whose outputs are the logits of every column's words, in the order of `vocabulary`."""

    network: nn.Module
    vocabulary: Vocabulary


def has_attributes(examples: Sequence[Example]) -> bool:
    """Whether every picture has every column."""
    return all(column in example.attributes for example in examples for column in COLUMNS)


def fit_classifier(train: Sequence[Example], *, num_steps: int, seed: int, cache: Cache) -> AttributeClassifier:
    """A classifier trained on the training split, or the cached one of the same pictures and attributes."""
    attributes, files = [example.attributes for example in train], [example.image_path for example in train]
    weights = cache.arrays(
        *("attributes", num_steps, seed, attributes, *files),
        compute=lambda: train_classifier(load_images(train), train, num_steps=num_steps, seed=seed),
    )
    return load_classifier(weights, vocabulary_of(train))


def vocabulary_of(examples: Sequence[Example]) -> Vocabulary:
    """The words of every column, sorted."""
    return {column: sorted({example.attributes[column] for example in examples}) for column in COLUMNS}


def train_classifier(images: Images, examples: Sequence[Example], *, num_steps: int, seed: int) -> Weights:
    """The weights of a classifier trained on these pictures and their attributes."""
    vocabulary = vocabulary_of(examples)
    pixels, labels = _pixels(images), _labels(examples, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network_of(vocabulary).to(default_device())
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    for step in range(num_steps):
        indices = batch_indices(len(pixels), BATCH, seed=seed, step=step)
        batch = _shifted(pixels[indices], step_generator(seed, step)).to(default_device())
        optimizer.zero_grad()
        _loss(network(batch), labels[indices].to(default_device()), vocabulary).backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def load_classifier(weights: Weights, vocabulary: Vocabulary) -> AttributeClassifier:
    """The classifier with weights of `train_classifier`."""
    network = _network_of(vocabulary)
    network.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()})
    return AttributeClassifier(network.eval().requires_grad_(False).to(default_device()), vocabulary)


def attribute_accuracy(
    classifier: AttributeClassifier, images: Images, examples: Sequence[Example], estimates: Estimates
) -> Metrics:
    """Fraction of the attributes named in captions that the classifier finds in the pictures.

    `attribute_accuracy` is over all columns, with its interval, which resamples pictures because attributes of one
    picture are not independent; `attribute_accuracy_<column>` is over one; `attribute_accuracy_headwear_present`
    accepts any headwear for a named one. `num_named_attributes` and `num_named_<column>` are the numbers of named
    attributes; if one is 0, its accuracy is left out.
    """
    found = _classify(classifier, images)
    named = {column: np.array([is_named(column, example) for example in examples]) for column in found}
    correct = {
        column: named[column] & (words == np.array([example.attributes[column] for example in examples]))
        for column, words in found.items()
    }
    has_headwear = named[HEADWEAR] & (found[HEADWEAR] != NONE)
    num_correct, num_named = (np.sum([*counts.values()], axis=0) for counts in (correct, named))
    metrics: Metrics = {"num_named_attributes": int(num_named.sum())}
    metrics |= estimates.ratio("attribute_accuracy", num_correct, num_named) if num_named.any() else {}
    metrics |= _accuracy(f"{HEADWEAR}_present", has_headwear, named[HEADWEAR])
    for column in found:
        metrics[f"num_named_{column}"] = int(named[column].sum())
        metrics |= _accuracy(column, correct[column], named[column])
    return metrics


def new_network(*, num_outputs: int) -> nn.Module:
    """Four strided convolutions and a linear layer on the 4x4 map; without pooling, positions are kept."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, num_outputs))


def is_named(column: str, example: Example) -> bool:
    """Whether the caption names this attribute of the picture."""
    value, caption = example.attributes[column], f" {example.caption.replace(',', ' ')} "
    color = example.attributes["hair_color"]
    match column:
        case _ if value == NONE:
            return False
        case "hair_color":
            phrases = [f"{value} {noun}" for noun in HAIR_NOUNS]
        case "hair_style":
            phrases = [f"{value} {color} hair", f"{color} {value}", f"{color} hair {value}"]
            phrases += [value] if value == "bald" else []
        case _:
            phrases = [value]
    return any(f" {phrase} " in caption for phrase in phrases)


def _accuracy(name: str, correct: NDArray[np.bool_], named: NDArray[np.bool_]) -> dict[str, float]:
    return {f"attribute_accuracy_{name}": float(correct.sum() / named.sum())} if named.any() else {}


def _network_of(vocabulary: Vocabulary) -> nn.Module:
    return new_network(num_outputs=sum(map(len, vocabulary.values())))


def _pixels(images: Images) -> Float[Tensor, "batch 3 px px"]:
    return to_pixels(resize(as_tensor(images), CLASSIFIER_PX))


def _labels(examples: Sequence[Example], vocabulary: Vocabulary) -> Tensor:
    return torch.tensor(
        [[words.index(example.attributes[column]) for column, words in vocabulary.items()] for example in examples]
    )


def _shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The batch shifted by up to `SHIFT_PX`, and each picture mirrored with probability 1/2."""
    dx, dy = torch.randint(-SHIFT_PX, SHIFT_PX + 1, (2,), generator=generator).tolist()
    moved = torch.roll(pixels, (dy, dx), dims=(2, 3))
    flipped = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), moved.flip(3), moved)


def _loss(logits: Tensor, labels: Tensor, vocabulary: Vocabulary) -> Tensor:
    heads = logits.split([len(words) for words in vocabulary.values()], dim=1)
    return torch.stack([F.cross_entropy(head, labels[:, index]) for index, head in enumerate(heads)]).sum()


@torch.no_grad()
def _classify(classifier: AttributeClassifier, images: Images) -> dict[str, NDArray[np.str_]]:
    """The most likely word of every column, one per picture."""
    parts = [classifier.network(part.to(default_device())).cpu() for part in _pixels(images).split(BATCH)]
    heads = torch.cat(parts).split([len(words) for words in classifier.vocabulary.values()], dim=1)
    named = zip(classifier.vocabulary.items(), heads, strict=True)
    return {column: np.array(words)[head.argmax(dim=1).numpy()] for (column, words), head in named}
