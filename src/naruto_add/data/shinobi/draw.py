"""`draw_shinobi`: a captioned bust of an anime-style shinobi, a function of (seed, index)."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from naruto_add.data.shinobi.attributes import NONE, Attributes, sample_attributes
from naruto_add.data.shinobi.caption import write_caption
from naruto_add.data.shinobi.garments import draw_bust, dress_of
from naruto_add.data.shinobi.hair import draw_back_hair, draw_front_hair
from naruto_add.data.shinobi.head import draw_band, draw_band_tails, draw_brows, draw_face
from naruto_add.data.shinobi.items import draw_hand_seal, draw_item
from naruto_add.data.shinobi.palette import HAIR, SKIN, WHITE, jittered
from naruto_add.data.shinobi.pen import Pen
from naruto_add.data.shinobi.scenery import paint_scenery

SUPERSAMPLING = 3
"""Pictures are drawn this much larger per side and then scaled down."""
_UNITS = 64.0
"""The side of the page in the pen's units."""


@dataclass(frozen=True)
class ShinobiDrawing:
    """A square RGB picture, a caption that is true of it, and all its attributes."""

    image: Image.Image
    caption: str
    attributes: dict[str, str]


def draw_shinobi(index: int, *, seed: int, size_px: int) -> ShinobiDrawing:
    """Drawing number `index` of the endless series with this seed. `size_px` changes only its resolution."""
    attribute_draws, caption_draws, picture_draws = np.random.default_rng((seed, index)).spawn(3)
    attributes = sample_attributes(attribute_draws)
    caption = write_caption(attributes, caption_draws)
    return ShinobiDrawing(render(attributes, picture_draws, size_px), caption, asdict(attributes))


def render(attributes: Attributes, generator: Generator, size_px: int) -> Image.Image:
    """A picture with these attributes. The generator decides the rest: layout, shades, strands, light and details."""
    layout_draws, scenery_draws, hair_draws, figure_draws = generator.spawn(4)
    side_px = size_px * SUPERSAMPLING
    canvas = Image.new("RGB", (side_px, side_px), WHITE)
    pen = page_pen(canvas, layout_draws)
    paint_scenery(pen, attributes.background, scenery_draws)
    _draw_figure(figure_pen(pen, attributes, layout_draws), attributes, hair_draws, figure_draws)
    return canvas.resize((size_px, size_px), Image.Resampling.BILINEAR)


def page_pen(canvas: Image.Image, generator: Generator) -> Pen:
    """A pen for the empty page of 64 x 64 units, with a random line weight and direction of light."""
    unit_px = canvas.width / _UNITS
    side = -1.0 if generator.random() < 0.5 else 1.0
    return Pen(
        canvas=canvas,
        draw=ImageDraw.Draw(canvas),
        frame=np.array([[unit_px, 0.0, 0.0], [0.0, unit_px, 0.0]]),
        unit_px=unit_px,
        line=generator.uniform(0.75, 1.0),
        light=(side * generator.uniform(0.7, 1.0), -generator.uniform(0.35, 0.9)),
    )


def figure_pen(pen: Pen, attributes: Attributes, generator: Generator) -> Pen:
    """A pen whose origin is the middle of the head, mirrored for a figure that looks to the left."""
    scale = generator.uniform(1.06, 1.14)
    x, y = 32 + generator.uniform(-1.5, 1.5), 30.5 + generator.uniform(-1, 1)
    coin = generator.random() < 0.5
    flip = attributes.pose == "left" or (attributes.pose != "right" and coin)
    return pen.moved(x, y, scale=scale, flip=flip)


def _draw_figure(pen: Pen, attributes: Attributes, hair_draws: Generator, figure_draws: Generator) -> None:
    """Draws from back to front: back hair, bust, face, front hair, forehead protector, hands."""
    turned = attributes.pose in ("left", "right")
    turn = figure_draws.uniform(0.85, 1.15) if turned else figure_draws.uniform(-0.12, 0.12)
    tilt = figure_draws.uniform(-4, 4)
    head = pen.moved(0, 12, degrees=tilt).moved(0, -12)
    skin = jittered(SKIN[figure_draws.choice(4, p=(0.4, 0.3, 0.18, 0.12))], figure_draws)
    hair = jittered(HAIR["white" if attributes.hair_color == NONE else attributes.hair_color], hair_draws)
    dress = dress_of(attributes, skin, figure_draws)
    banded = attributes.headwear != NONE
    if banded:
        draw_band_tails(head, attributes.headwear, figure_draws)
    draw_back_hair(head, attributes.hair_style, hair, hair_draws)
    bust = pen.moved(0, -2)
    draw_bust(bust, attributes, dress, figure_draws)
    draw_face(head, attributes, skin=skin, hair=hair, turn=turn, generator=figure_draws)
    draw_front_hair(head, attributes.hair_style, hair, skin, banded=banded, generator=hair_draws)
    draw_brows(head, attributes, hair, turn)
    if banded:
        draw_band(head, attributes.headwear, turn=turn, generator=figure_draws)
    if attributes.pose == "meditating":
        draw_hand_seal(bust, dress)
    elif attributes.item != NONE:
        draw_item(bust, attributes.item, dress, figure_draws)
