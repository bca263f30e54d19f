"""Captioned bust portraits of plain villagers: flat soft colours, no ink outlines, dot eyes."""

from dataclasses import dataclass

import numpy as np

from recipe.drawing import (
    CLOTH_COLORS,
    HAIR_COLORS,
    SKIN_COLORS,
    Color,
    Drawing,
    Surface,
    chance,
    choose,
    choose_weighted,
    finished,
    jittered,
    mixed,
    new_surface,
    picture_generator,
)
from recipe.scenery import Background, draw_background, sample_background
from recipe.villager_body import (
    GARMENTS,
    ITEMS,
    draw_body,
    draw_item,
    draw_scarf,
    draw_umbrella_behind,
)
from recipe.villager_face import (
    EYEWEAR,
    STRAW,
    draw_beard,
    draw_eyewear,
    draw_features,
    draw_head,
    draw_headwear,
    draw_mask,
    draw_scar,
)
from recipe.villager_hair import HAIR_STYLES, draw_hair_behind, draw_hair_front, draw_hair_over_clothes
from recipe.villager_words import villager_caption

SUBJECTS: tuple[str, ...] = ("man", "woman", "boy", "girl", "old man", "old woman")
_FAMILY = 1
_NO_HAT_HAIR = ("spiky", "mohawk", "bun", "bald", "short")
_MALE_HAIR = dict.fromkeys(HAIR_STYLES, 1.0) | {"spiky": 2, "short": 2, "bun": 0.5, "bob": 0.4, "braids": 0.3}
_FEMALE_HAIR = dict.fromkeys(HAIR_STYLES, 1.0) | {"long": 2, "bald": 0.15, "mohawk": 0.5}
_OLD_COLORS = ("white", "grey")


@dataclass(frozen=True)
class Villager:
    """Everything about a villager that a caption can name; 'none' where absent."""

    subject: str
    hair_style: str
    hair_color: str
    garment: str
    garment_color: str
    headwear: str
    headwear_color: str
    scarf_color: str
    eyewear: str
    beard: str
    beard_color: str
    scar: str
    mask_color: str
    item: str
    framing: str


def draw_villager(index: int, *, seed: int, size_px: int) -> Drawing:
    """The villager of (seed, index), and a caption that names some of its attributes."""
    generator = picture_generator(seed, index, family=_FAMILY)
    villager = _sample_villager(generator)
    background = _contrasting_background(generator, villager)
    surface = new_surface(size_px, (255, 255, 255))
    draw_background(surface, background, generator)
    _draw_figure(_posed(surface, villager, generator), villager, generator)
    image = finished(surface, brightness=float(np.clip(generator.normal(1, 0.05), 0.86, 1.1)))
    return Drawing(image, villager_caption(villager, background, generator), _attributes(villager, background))


def _sample_villager(generator: np.random.Generator) -> Villager:
    subject = choose(generator, SUBJECTS)
    female, adult = "woman" in subject or subject == "girl", "man" in subject
    hair_style = choose_weighted(generator, _FEMALE_HAIR if female else _MALE_HAIR)
    natural_color = choose(generator, _OLD_COLORS if "old" in subject else list(HAIR_COLORS))
    headwear = choose_weighted(generator, {"none": 6, "straw hat": 1, "cap": 1, "headband": 2.5})
    if hair_style in _NO_HAT_HAIR and headwear in ("straw hat", "cap"):
        headwear = "none"
    eyewear = choose(generator, EYEWEAR) if chance(generator, 0.2) else "none"
    masked = headwear != "headband" and chance(generator, 0.08)
    bearded = adult and not female and not masked and chance(generator, 0.35)
    item = choose(generator, ITEMS) if chance(generator, 0.5) else "none"
    garments = GARMENTS if female else tuple(garment for garment in GARMENTS if garment != "dress")
    return Villager(
        subject=subject,
        hair_style=hair_style,
        hair_color="none" if hair_style == "bald" else natural_color,
        garment=choose(generator, garments),
        garment_color=choose(generator, list(CLOTH_COLORS)),
        headwear=headwear,
        headwear_color=_headwear_color(generator, headwear),
        scarf_color=choose(generator, list(CLOTH_COLORS)) if chance(generator, 0.14) else "none",
        eyewear=eyewear,
        beard="beard" if bearded else "none",
        beard_color=natural_color if bearded else "none",
        scar="scar" if not masked and not bearded and chance(generator, 0.08) else "none",
        mask_color=choose(generator, list(CLOTH_COLORS)) if masked else "none",
        item=item,
        framing="close-up" if item == "none" and chance(generator, 0.15) else "bust",
    )


def _headwear_color(generator: np.random.Generator, headwear: str) -> str:
    if headwear == "straw hat":
        return "yellow"
    return choose(generator, list(CLOTH_COLORS)) if headwear != "none" else "none"


def _contrasting_background(generator: np.random.Generator, villager: Villager) -> Background:
    """A background that, when plain, has neither the hair's nor the garment's colour."""
    while True:
        background = sample_background(generator, plain_share=0.4)
        if background.color == "none" or background.color not in (villager.hair_color, villager.garment_color):
            return background


def _posed(surface: Surface, villager: Villager, generator: np.random.Generator) -> Surface:
    """The figure's frame: moved, scaled, tilted a little, mirrored with probability 1/2; a held item stays visible."""
    close, umbrella = villager.framing == "close-up", villager.item == "umbrella"
    tall = villager.hair_style in ("mohawk", "bun", "spiky") or villager.headwear in ("straw hat", "cap")
    scale = generator.uniform(1.25, 1.5) if close else generator.uniform(0.95, 1.05 if umbrella else 1.18)
    mirror = -1 if chance(generator, 0.5) else 1
    x = 32 + generator.normal(0, 2.2 if close else 1.5) - (0 if villager.item == "none" else 3 * mirror)
    y = 24.5 + (scale - 1) * 12 + 2.5 * tall + 7 * umbrella + generator.normal(0, 1.2)
    head = surface.within((x, y), (scale * mirror, scale), generator.normal(0, 0.045))
    return head.within((-32, -25), (1, 1))


def _draw_figure(figure: Surface, villager: Villager, generator: np.random.Generator) -> None:
    skin = jittered(generator, choose(generator, SKIN_COLORS), 5)
    hair_name = villager.hair_color if villager.hair_color != "none" else "brown"
    hair = jittered(generator, HAIR_COLORS[hair_name])
    cloth = jittered(generator, CLOTH_COLORS[villager.garment_color])
    child, male = villager.subject in ("boy", "girl"), villager.subject in ("man", "old man")
    turn = float(np.clip(generator.normal(0, 0.5), -1, 1))
    width, height = generator.uniform(11.3, 12.8), generator.uniform(12.3, 13.6)
    head = figure.within(
        (32, 26 if child else 25), (width, height * (0.94 if child else 1.0)), generator.normal(0, 0.04)
    )
    half_width = (
        generator.uniform(15, 17) if child else generator.uniform(18, 20.5) if male else generator.uniform(16, 18)
    )

    if villager.item == "umbrella":
        draw_umbrella_behind(figure, generator)
    draw_hair_behind(head, villager.hair_style, hair, generator)
    draw_body(figure, villager.garment, cloth, skin, half_width=half_width)
    if villager.scarf_color != "none":
        draw_scarf(figure, jittered(generator, CLOTH_COLORS[villager.scarf_color]))
    draw_head(head, skin, square_jaw=male)
    _draw_face(head, villager, skin, turn=turn, generator=generator)
    draw_hair_front(head, villager.hair_style, hair, generator)
    draw_hair_over_clothes(head, villager.hair_style, hair)
    if villager.headwear != "none":
        color = STRAW if villager.headwear == "straw hat" else CLOTH_COLORS[villager.headwear_color]
        draw_headwear(head, villager.headwear, jittered(generator, color))
    if villager.item != "none":
        draw_item(figure, villager.item, _sleeve(villager.garment, cloth, skin), skin, generator)


def _draw_face(head: Surface, villager: Villager, skin: Color, *, turn: float, generator: np.random.Generator) -> None:
    draw_features(head, villager.subject, skin, turn=turn, generator=generator)
    if villager.scar != "none":
        draw_scar(head, skin, turn=turn)
    if villager.beard != "none":
        draw_beard(head, jittered(generator, HAIR_COLORS[villager.beard_color]), turn=turn)
    if villager.mask_color != "none":
        draw_mask(head, jittered(generator, CLOTH_COLORS[villager.mask_color]), turn=turn)
    if villager.eyewear != "none":
        draw_eyewear(head, villager.eyewear, turn=turn, generator=generator)


def _sleeve(garment: str, cloth: Color, skin: Color) -> Color:
    match garment:
        case "vest" | "cape":
            return mixed((240, 232, 212), (20, 16, 30), 0.1)
        case "dress":
            return skin
        case _:
            return cloth


def _attributes(villager: Villager, background: Background) -> dict[str, str]:
    scene = {"background": background.scene, "background_color": background.color, "time": background.time}
    return {**vars(villager), **scene}
