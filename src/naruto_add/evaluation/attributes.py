"""Does a picture show what its caption names? A small classifier answers, for data sets that come with attributes.

It is trained on the training pictures, and never sees a drawn one; its accuracy on held-out real pictures stands beside
every figure, since no drawn set can be judged better than that. Only what a caption names counts.
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

from naruto_add.compute import batch_indices, default_device, step_generator
from naruto_add.data.dataset import Example
from naruto_add.evaluation.features import Images, as_tensor, resize
from naruto_add.evaluation.intervals import ratio_interval

COLUMNS = ("hair_color", "hair_style", "headwear", "item", "background")
HEADWEAR = "headwear"
"""Its words name a colour too, so that it is counted a second time by presence alone."""
NONE = "none"
CLASSIFIER_PX = 64
WIDTH = 32
BATCH = 32
SHIFT_PX = 2
HAIR_NOUNS = ("hair", "mohawk", "ponytail", "twin tails")
"""What a hair's colour stands before in a caption."""

State = Mapping[str, NDArray[Any]]
Vocabulary = dict[str, list[str]]


@dataclass(frozen=True)
class AttributeClassifier:
    """A network with one linear head per column; `vocabulary` names its outputs."""

    network: nn.Module
    vocabulary: Vocabulary


def has_attributes(examples: Sequence[Example]) -> bool:
    """Whether every picture comes with every column."""
    return all(column in example.attributes for example in examples for column in COLUMNS)


def vocabulary_of(examples: Sequence[Example]) -> Vocabulary:
    """The words of every column, sorted."""
    return {column: sorted({example.attributes[column] for example in examples}) for column in COLUMNS}


def train_classifier(
    images: Images, examples: Sequence[Example], *, num_steps: int, learning_rate: float, seed: int
) -> State:
    """The weights, as arrays, of a classifier trained on these pictures and their attributes."""
    vocabulary = vocabulary_of(examples)
    pixels, labels = _pixels(images), _labels(examples, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(vocabulary).to(default_device())
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps)
    for step in range(num_steps):
        indices = batch_indices(len(pixels), BATCH, seed=seed, step=step)
        batch = _shifted(pixels[indices], step_generator(seed, step)).to(default_device())
        optimizer.zero_grad()
        _loss(network(batch), labels[indices].to(default_device()), vocabulary).backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def load_classifier(state: State, vocabulary: Vocabulary) -> AttributeClassifier:
    """The classifier with weights that `train_classifier` found."""
    network = _network(vocabulary)
    network.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in state.items()})
    return AttributeClassifier(network.eval().requires_grad_(False).to(default_device()), vocabulary)


def attribute_accuracy(
    classifier: AttributeClassifier, images: Images, examples: Sequence[Example], *, seed: int
) -> dict[str, float | int]:
    """`attribute_accuracy`, with its interval, over all attributes that captions name; `attribute_accuracy_<column>`.

    `num_named_attributes` and `num_named_<column>` say of how many; of none there is no accuracy.
    `attribute_accuracy_headwear_present` asks only whether any headwear is seen where a caption names some.
    """
    seen = _seen(classifier, images)
    named = {column: np.array([is_named(column, example) for example in examples]) for column in seen}
    right = {
        column: named[column] & (words == np.array([example.attributes[column] for example in examples]))
        for column, words in seen.items()
    }
    worn = named[HEADWEAR] & (seen[HEADWEAR] != NONE)
    figures = _overall(np.sum([*right.values()], axis=0), np.sum([*named.values()], axis=0), seed)
    figures |= _share(f"{HEADWEAR}_present", worn, named[HEADWEAR])
    for column in seen:
        figures |= {f"num_named_{column}": int(named[column].sum()), **_share(column, right[column], named[column])}
    return figures


def is_named(column: str, example: Example) -> bool:
    """Whether the caption says this attribute."""
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


def _share(name: str, right: NDArray[np.bool_], named: NDArray[np.bool_]) -> dict[str, float]:
    return {f"attribute_accuracy_{name}": float(right.sum() / named.sum())} if named.any() else {}


def _overall(num_right: NDArray[Any], num_named: NDArray[Any], seed: int) -> dict[str, float | int]:
    """Given both counts of every picture; the attributes of one stand or fall together, so pictures are resampled."""
    total = int(num_named.sum())
    if not total:
        return {"num_named_attributes": 0}
    low, high = ratio_interval(num_right, num_named, seed=seed)
    accuracy = float(num_right.sum() / total)
    return {
        "num_named_attributes": total,
        "attribute_accuracy": accuracy,
        "attribute_accuracy_low": low,
        "attribute_accuracy_high": high,
    }


def _network(vocabulary: Vocabulary) -> nn.Module:
    """Four strided convolutions down to a 4x4 map, which keeps where things are, and one linear layer for all heads."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    num_outputs = sum(map(len, vocabulary.values()))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, num_outputs))


def _pixels(images: Images) -> Float[Tensor, "batch 3 px px"]:
    return resize(as_tensor(images), CLASSIFIER_PX) / 127.5 - 1


def _labels(examples: Sequence[Example], vocabulary: Vocabulary) -> Tensor:
    return torch.tensor(
        [[words.index(example.attributes[column]) for column, words in vocabulary.items()] for example in examples]
    )


def _shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each batch moved by up to `SHIFT_PX`, mirrored half of the time: no attribute here has a side."""
    dx, dy = torch.randint(-SHIFT_PX, SHIFT_PX + 1, (2,), generator=generator).tolist()
    moved = torch.roll(pixels, (dy, dx), dims=(2, 3))
    flipped = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), moved.flip(3), moved)


def _loss(logits: Tensor, labels: Tensor, vocabulary: Vocabulary) -> Tensor:
    heads = logits.split([len(words) for words in vocabulary.values()], dim=1)
    return torch.stack([F.cross_entropy(head, labels[:, index]) for index, head in enumerate(heads)]).sum()


@torch.no_grad()
def _seen(classifier: AttributeClassifier, images: Images) -> dict[str, NDArray[np.str_]]:
    """The word of every column for every picture."""
    parts = [classifier.network(part.to(default_device())).cpu() for part in _pixels(images).split(BATCH)]
    heads = torch.cat(parts).split([len(words) for words in classifier.vocabulary.values()], dim=1)
    named = zip(classifier.vocabulary.items(), heads, strict=True)
    return {column: np.array(words)[head.argmax(dim=1).numpy()] for (column, words), head in named}
