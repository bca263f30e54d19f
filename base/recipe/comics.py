"""Villagers in the style of comics: outlined, cel-shaded, with large eyes, drawn with the pen of the shinobi.

Stable Diffusion 1.5 knows the style of anime before it is finetuned; likewise the base model knows the style of the
shinobi. These pictures have nothing that is specific to shinobi: no forehead protectors, whisker marks, masks, cloaks,
armor, kunai, shuriken, scrolls, fans, hand seals or ninja, and no places in which only shinobi are drawn.
"""

from dataclasses import asdict

import numpy as np
from PIL import Image

from naruto_add.data.shinobi.attributes import NONE, Attributes, sample_attributes
from naruto_add.data.shinobi.caption import hair_words, joined
from naruto_add.data.shinobi.draw import SUPERSAMPLING, figure_pen, page_pen
from naruto_add.data.shinobi.garments import draw_bust, dress_of
from naruto_add.data.shinobi.hair import draw_back_hair, draw_front_hair
from naruto_add.data.shinobi.head import draw_brows, draw_face
from naruto_add.data.shinobi.items import draw_item
from naruto_add.data.shinobi.palette import CLOTH, HAIR, PLAIN, SKIN, WHITE, darker, jittered
from naruto_add.data.shinobi.pen import Pen, path
from naruto_add.data.shinobi.scenery import paint_scenery
from recipe.drawing import Drawing, chance, choose, picture_generator, with_article

_FAMILY = 4
_GARMENTS = ("vest", "jacket", "robe", "scarf")
_ITEMS = ("sword", "staff")
_PLACES = {
    "forest": "in a forest",
    "sunset": "at sunset",
    "night": "at night",
    "mountain": "in front of a mountain",
    "desert": "in a desert",
    "snow": "in the snow",
}
_HEADBAND_SHARE = 0.4
_ITEM_SHARE = 0.3
_COLOR_ONLY_SHARE = 0.1
_NAMED_SHARE = 0.92
"""Probability that the caption names an attribute."""


def draw_comic(index: int, *, seed: int, size_px: int) -> Drawing:
    """The villager of (seed, index), and a caption that names some of its attributes."""
    generator = picture_generator(seed, index, family=_FAMILY)
    attributes = _sample(generator)
    headband = choose(generator, list(CLOTH)) if chance(generator, _HEADBAND_SHARE) else NONE
    image = _render(attributes, headband, generator, size_px)
    return Drawing(image, _caption(attributes, headband, generator), {**asdict(attributes), "headband": headband})


def _sample(generator: np.random.Generator) -> Attributes:
    """Attributes of a shinobi, sampled until none is specific to shinobi."""
    backgrounds = (*_PLACES, *(f"{color} background" for color in PLAIN))
    while True:
        drawn = asdict(sample_attributes(generator))
        drawn |= {"headwear": NONE, "mask": NONE, "garment": choose(generator, _GARMENTS)}
        drawn["garment_color"] = choose(generator, list(CLOTH))
        drawn["item"] = choose(generator, _ITEMS) if chance(generator, _ITEM_SHARE) else NONE
        if drawn["face_mark"] == "whisker marks":
            drawn["face_mark"] = NONE
        if drawn["subject"] != "ninja" and drawn["pose"] != "meditating" and drawn["background"] in backgrounds:
            return Attributes(**drawn)


def _render(attributes: Attributes, headband: str, generator: np.random.Generator, size_px: int) -> Image.Image:
    side_px = size_px * SUPERSAMPLING
    canvas = Image.new("RGB", (side_px, side_px), WHITE)
    page = page_pen(canvas, generator)
    paint_scenery(page, attributes.background, generator)
    pen = figure_pen(page, attributes, generator)
    turn = generator.uniform(0.85, 1.15) if attributes.pose in ("left", "right") else generator.uniform(-0.12, 0.12)
    head, bust = pen.moved(0, 12, degrees=generator.uniform(-4, 4)).moved(0, -12), pen.moved(0, -2)
    skin = jittered(SKIN[generator.choice(4, p=(0.4, 0.3, 0.18, 0.12))], generator)
    hair = jittered(HAIR["white" if attributes.hair_color == NONE else attributes.hair_color], generator)
    dress = dress_of(attributes, skin, generator)
    banded = headband != NONE
    draw_back_hair(head, attributes.hair_style, hair, generator)
    draw_bust(bust, attributes, dress, generator)
    draw_face(head, attributes, skin=skin, hair=hair, turn=turn, generator=generator)
    draw_front_hair(head, attributes.hair_style, hair, skin, banded=banded, generator=generator)
    draw_brows(head, attributes, hair, turn)
    if banded:
        _draw_headband(head, headband, generator)
    if attributes.item != NONE:
        draw_item(bust, attributes.item, dress, generator)
    return canvas.resize((size_px, size_px), Image.Resampling.BILINEAR)


def _draw_headband(head: Pen, color: str, generator: np.random.Generator) -> None:
    """A strip of cloth around the forehead with a knot at the side; shinobi have a steel plate and long ends."""
    cloth, height = jittered(CLOTH[color], generator), generator.uniform(3.4, 5.2)
    lower = np.array([(14.7, -4), (7, -5.8), (0, -6.5), (-7, -5.8), (-14.7, -4)])
    head.shape(np.vstack([path(lower[::-1] - (0, height)), path(lower)]), cloth, shade=1)
    side = choose(generator, (-1, 1))
    head.shape(np.array([(14, -7), (18.5, -10), (19, -5), (15, -3.5)]) * (side, 1), darker(cloth), shade=0)


def _caption(attributes: Attributes, headband: str, generator: np.random.Generator) -> str:
    def is_named() -> bool:
        return chance(generator, _NAMED_SHARE)

    words = [with_article(_subject(attributes, names_mood=is_named()))]
    having = (
        [hair_words(attributes, color_only=chance(generator, _COLOR_ONLY_SHARE))]
        if attributes.hair_style != "bald" and is_named()
        else []
    )
    having += ["a scar"] if attributes.face_mark == "scar" and is_named() else []
    having += ["closed eyes"] if attributes.expression == "closed eyes" and is_named() else []
    wearing = [f"{with_article(headband)} headband"] if headband != NONE and is_named() else []
    wearing += [with_article(f"{attributes.garment_color} {attributes.garment}")] if is_named() else []
    if having:
        words.append(f"with {joined(having)}")
    if wearing:
        words.append(f"{'wearing' if having or chance(generator, 0.4) else 'wears'} {joined(wearing)}")
    if attributes.item != NONE and is_named():
        words.append(f"holding {with_article(attributes.item)}")
    if attributes.pose in ("left", "right") and is_named():
        words.append(f"looking to the {attributes.pose}")
    if is_named():
        place = attributes.background
        words.append(_PLACES.get(place, f"on {with_article(place)}"))
    return " ".join(words)


def _subject(attributes: Attributes, *, names_mood: bool) -> str:
    words = [attributes.expression] if names_mood and attributes.expression in ("smiling", "angry", "shouting") else []
    return " ".join([*words, *(["bald"] if attributes.hair_style == "bald" else []), attributes.subject])
