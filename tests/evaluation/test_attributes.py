"""Attribute accuracy: only attributes that captions name count, and the classifier learns to find them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from naruto_add.data.dataset import Example
from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.evaluation.attributes import (
    COLUMNS,
    AttributeClassifier,
    attribute_accuracy,
    has_attributes,
    is_named,
    load_classifier,
    train_classifier,
    vocabulary_of,
)
from naruto_add.evaluation.cache import Cache
from naruto_add.evaluation.estimates import Estimates

BLUE_BAND = "blue forehead protector"


def _example(caption: str, **attributes: str) -> Example:
    values = {
        "hair_color": "black",
        "hair_style": "long",
        "headwear": "none",
        "item": "none",
        "background": "night",
    }
    return _with_attributes(caption, values | attributes)


def _with_attributes(caption: str, attributes: dict[str, str]) -> Example:
    return Example(image_path=Path("picture.png"), captions=(caption,), prompts=(caption,), attributes=attributes)


@pytest.mark.parametrize(
    ("caption", "attributes", "named"),
    [
        ("a man with long black hair", {}, {"hair_color", "hair_style"}),
        ("a man with black hair", {}, {"hair_color"}),
        ("a man wears a black cloak at night", {}, {"background"}),
        ("a boy with a red mohawk", {"hair_color": "red", "hair_style": "mohawk"}, {"hair_color", "hair_style"}),
        ("a girl with pink hair buns", {"hair_color": "pink", "hair_style": "buns"}, {"hair_color", "hair_style"}),
        ("a bald man", {"hair_color": "none", "hair_style": "bald"}, {"hair_style"}),
        ("a man with black hair, a scar and a sword", {"item": "sword"}, {"hair_color", "item"}),
        (f"a man wearing a {BLUE_BAND}, a mask and a robe", {"headwear": BLUE_BAND}, {"headwear"}),
        ("a man on a red background", {"background": "red background"}, {"background"}),
    ],
)
def test_captions_name_attributes(caption: str, attributes: dict[str, str], named: set[str]) -> None:
    example = _example(caption, **attributes)
    assert {column for column in COLUMNS if is_named(column, example)} == named


def test_a_data_set_has_attributes_if_every_picture_has_all_columns() -> None:
    assert has_attributes([_example("a man")])
    assert not has_attributes([_example("a man"), _with_attributes("a man", {})])


def test_the_classifier_finds_attributes_in_its_training_pictures_and_not_in_noise(tmp_path: Path) -> None:
    drawings = [draw_shinobi(index, seed=0, size_px=32) for index in range(24)]
    examples = [_with_attributes(drawing.caption, drawing.attributes) for drawing in drawings]
    images = np.stack([np.asarray(drawing.image) for drawing in drawings])

    weights = train_classifier(images, examples, num_steps=12, seed=0)
    classifier = load_classifier(weights, vocabulary_of(examples))
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    estimates = Estimates(seed=0, cache=Cache(tmp_path))
    found = attribute_accuracy(classifier, images, examples, estimates)

    assert found["attribute_accuracy"] > 0.7
    assert set(found) == {
        *(f"attribute_accuracy{end}" for end in ("", "_low", "_high", "_headwear_present")),
        "num_named_attributes",
        *(f"num_named_{column}" for column in COLUMNS),
        *(f"attribute_accuracy_{column}" for column in COLUMNS),
    }
    assert found["num_named_attributes"] == sum(found[f"num_named_{column}"] for column in COLUMNS)
    assert found["attribute_accuracy_low"] < found["attribute_accuracy"] < found["attribute_accuracy_high"]
    assert attribute_accuracy(classifier, noise, examples, estimates)["attribute_accuracy"] < 0.5
    again = train_classifier(images, examples, num_steps=12, seed=0)
    assert all((value == again[name]).all() for name, value in weights.items())


def test_headwear_of_another_colour_is_present_but_not_correct(tmp_path: Path) -> None:
    vocabulary = {"headwear": ["none", BLUE_BAND, "red forehead protector"]}
    finds_red = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    images[:2, :, :, 2] = 255  # the largest output is the third
    captions = [f"a man wearing a {BLUE_BAND}"] * 3
    examples = [_example(caption, headwear=BLUE_BAND) for caption in captions]

    found = attribute_accuracy(
        AttributeClassifier(finds_red, vocabulary), images, examples, Estimates(seed=0, cache=Cache(tmp_path))
    )

    assert found["num_named_headwear"] == 3
    assert found["attribute_accuracy_headwear"] == found["attribute_accuracy"] == 0
    assert found["attribute_accuracy_headwear_present"] == pytest.approx(2 / 3)  # the black picture's word is none
