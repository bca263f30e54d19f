"""Captions of an avatar: each names some of what was drawn, in varied words."""

from typing import TYPE_CHECKING

import numpy as np

from recipe.drawing import chance, choose, with_article
from recipe.scenery import Background, setting_words

if TYPE_CHECKING:
    from recipe.avatars import Look

_OPENINGS = ("", "", "", "a cartoon of ", "a drawing of ", "an avatar of ", "a portrait of ")


def avatar_caption(look: "Look", background: Background, generator: np.random.Generator) -> str:
    """A phrase such as 'a person with curly brown hair and round glasses, wearing a grey hoodie'."""
    mood = f"{look.expression} " if chance(generator, 0.35) else ""
    words = choose(generator, _OPENINGS) + with_article(f"{mood}{choose(generator, ('person', 'person', 'character'))}")
    features = _feature_words(look, generator)
    if features:
        words += f" with {_joined(features)}"
    if not features or chance(generator, 0.65):
        words += choose(generator, (", wearing ", " wearing ", " in ", " dressed in ")) + _garment_words(look)
    if chance(generator, 0.65):
        words += choose(generator, (" ", ", ")) + setting_words(generator, background)
    return words


def _feature_words(look: "Look", generator: np.random.Generator) -> list[str]:
    named = []
    if look.hair_style != "none" and chance(generator, 0.85):
        named.append(_hair_words(look, generator))
    if look.headwear != "none" and chance(generator, 0.9):
        named.append(f"{with_article(look.headwear_color)} {look.headwear}")
    if look.facial_hair != "none" and chance(generator, 0.8):
        named.append(_facial_hair_words(look, generator))
    if look.eyewear != "none" and chance(generator, 0.85):
        named.append("an eye patch" if look.eyewear == "eye patch" else look.eyewear)
    return named


def _hair_words(look: "Look", generator: np.random.Generator) -> str:
    forms: tuple[str, ...]
    match look.hair_style:
        case "bald":
            return choose(generator, ("a bald head", "no hair"))
        case "bob" | "bun" | "mohawk" | "quiff":
            forms = (
                f"{with_article(look.hair_color)} {look.hair_style}",
                f"{look.hair_color} hair in a {look.hair_style}",
            )
        case "dreadlocks":
            forms = (f"{look.hair_color} dreadlocks",)
        case style:
            forms = (
                f"{style} {look.hair_color} hair",
                f"{style}, {look.hair_color} hair",
                f"{look.hair_color} {style} hair",
            )
    return f"{look.hair_color} hair" if chance(generator, 0.2) else choose(generator, forms)


def _facial_hair_words(look: "Look", generator: np.random.Generator) -> str:
    if look.facial_hair == "short beard":
        return choose(generator, (f"a short {look.facial_hair_color} beard", "a short beard"))
    return choose(generator, (f"{with_article(look.facial_hair_color)} {look.facial_hair}", f"a {look.facial_hair}"))


def _garment_words(look: "Look") -> str:
    if look.garment_color == "none":
        return with_article(look.garment)
    if look.garment == "overalls":
        return f"{look.garment_color} overalls"
    return f"{with_article(look.garment_color)} {look.garment}"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
