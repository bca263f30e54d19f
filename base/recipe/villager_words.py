"""Captions of a villager: each names some of what was drawn, in varied words."""

from typing import TYPE_CHECKING

import numpy as np

from recipe.drawing import chance, choose, with_article
from recipe.scenery import Background, setting_words

if TYPE_CHECKING:
    from recipe.villagers import Villager

_ITEM_WORDS: dict[str, tuple[str, ...]] = {
    "staff": ("a staff", "a wooden staff"),
    "basket": ("a basket", "a basket of fruit"),
    "book": ("a book", "an open book"),
    "rolled paper": ("a rolled paper", "a scroll", "a paper scroll"),
}
_GARMENT_WORDS = {"cape": ("cape", "cloak")}


def villager_caption(villager: "Villager", background: Background, generator: np.random.Generator) -> str:
    """A phrase of one to five parts, each of which names something that is visible."""
    features = _feature_words(villager, generator)
    garment = _garment_words(villager, generator) if chance(generator, 0.9) else ""
    item = _item_words(villager, generator) if villager.item != "none" and chance(generator, 0.97) else ""
    if garment and chance(generator, 0.2):
        return _stated(f"{_subject_words(villager, generator)} wears {garment}", features, item, background, generator)
    words = _opening_words(villager, generator) + _subject_words(villager, generator)
    having = features + ([item] if item and not garment else [])
    if having:
        words += f" with {_joined(having)}"
    if garment:
        verb = choose(generator, ("wearing", "in", "dressed in", "wearing"))
        words += f"{choose(generator, ('', ',')) if features else ''} {verb} {garment}"
        if item:
            words += choose(generator, (", holding ", " and holding ", " and carrying ", ", with ")) + item
    return _placed(words, background, generator)


def _stated(words: str, features: list[str], item: str, background: Background, generator: np.random.Generator) -> str:
    """A statement, continued by the item that is held or by features of the head."""
    if item:
        words += choose(generator, (" and holds ", " and carries ")) + item
    elif features and chance(generator, 0.8):
        words += f" and has {_joined(features)}"
    return _placed(words, background, generator)


def _placed(words: str, background: Background, generator: np.random.Generator) -> str:
    """The words, usually followed by the background."""
    if not chance(generator, 0.88):
        return words
    return words + choose(generator, (" ", ", ")) + setting_words(generator, background)


def _opening_words(villager: "Villager", generator: np.random.Generator) -> str:
    if villager.framing == "close-up" and chance(generator, 0.8):
        return "a close-up of "
    return choose(generator, ("", "", "", "a drawing of ", "a picture of ", "a portrait of "))


def _subject_words(villager: "Villager", generator: np.random.Generator) -> str:
    if chance(generator, 0.06):
        return choose(generator, ("a villager", "a person"))
    return with_article(villager.subject)


def _feature_words(villager: "Villager", generator: np.random.Generator) -> list[str]:
    """Hair and other things about the head, each named with a high probability."""
    named = [_hair_words(villager, generator)] if chance(generator, 0.95) else []
    if villager.beard != "none" and chance(generator, 0.95):
        named.append(choose(generator, (f"{with_article(villager.beard_color)} beard", "a beard")))
    if villager.eyewear != "none" and chance(generator, 0.95):
        named.append("glasses" if villager.eyewear == "glasses" else "an eye patch")
    if villager.scar != "none" and chance(generator, 0.95):
        named.append(choose(generator, ("a scar", "a scar on the cheek")))
    if villager.mask_color != "none" and chance(generator, 0.95):
        named.append(f"{with_article(villager.mask_color)} {choose(generator, ('mask', 'cloth mask', 'face mask'))}")
    if villager.headwear != "none" and chance(generator, 0.95):
        named.append(_headwear_words(villager, generator))
    if villager.scarf_color != "none" and chance(generator, 0.95):
        named.append(f"{with_article(villager.scarf_color)} scarf")
    return named


def _hair_words(villager: "Villager", generator: np.random.Generator) -> str:
    color, style = villager.hair_color, villager.hair_style
    forms: tuple[str, ...]
    match style:
        case "bald":
            return choose(generator, ("a bald head", "no hair"))
        case "mohawk" | "ponytail":
            forms = (
                f"{with_article(color)} {style}",
                f"{color} hair in a {style}" if style == "ponytail" else f"a {style}",
            )
        case "bun":
            forms = (f"{color} hair in a bun", f"{with_article(color)} bun")
        case "bob":
            forms = (f"{with_article(color)} bob", f"{color} hair in a bob")
        case "braids":
            forms = (f"{color} braids", f"{color} hair in braids", f"two {color} braids")
        case _:
            forms = (f"{style} {color} hair", f"{style}, {color} hair", f"{color} {style} hair")
    return f"{color} hair" if chance(generator, 0.1) else choose(generator, forms)


def _headwear_words(villager: "Villager", generator: np.random.Generator) -> str:
    if villager.headwear == "straw hat":
        return choose(generator, ("a straw hat", "a straw hat", "a hat"))
    return f"{with_article(villager.headwear_color)} {villager.headwear}"


def _garment_words(villager: "Villager", generator: np.random.Generator) -> str:
    garment = choose(generator, _GARMENT_WORDS.get(villager.garment, (villager.garment,)))
    return f"{with_article(villager.garment_color)} {garment}"


def _item_words(villager: "Villager", generator: np.random.Generator) -> str:
    return choose(generator, _ITEM_WORDS.get(villager.item, (with_article(villager.item),)))


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
