"""A line chart as a picture, for pages that show no inline SVG, such as model cards."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from naruto_add.imaging.grid import FAINT, INK, PAPER, load_font
from naruto_add.reporting.charts import Chart, Point, axis, log_ticks, ticks

SIZE_PX = (840, 500)
LEFT, RIGHT, TOP, BOTTOM = 110, 30, 50, 70
COLOURS = ("#d1495b", "#1f6f8b", "#3a7d44", "#8a5a9e")
DOT_PX = 5


def draw_chart(chart: Chart) -> Image.Image:
    """The chart with its title, legend, axes and labelled points."""
    image = Image.new("RGB", SIZE_PX, PAPER)
    pen, font = ImageDraw.Draw(image), load_font(16)
    points = [point for series in chart.series for point in series.points]
    x = axis([point.x for point in points], LEFT, SIZE_PX[0] - RIGHT, log=chart.log_x)
    y = axis([point.y for point in points], SIZE_PX[1] - BOTTOM, TOP, log=False)
    for value in ticks(y.low, y.high):
        pen.line([(LEFT, y.place(value)), (SIZE_PX[0] - RIGHT, y.place(value))], fill="#e4e4e8")
        pen.text((LEFT - 8, y.place(value)), f"{value:,.4g}", fill=FAINT, font=font, anchor="rm")
    for value in (log_ticks if x.log else ticks)(x.low, x.high):
        pen.text((x.place(value), SIZE_PX[1] - BOTTOM + 10), f"{value:,.4g}", fill=FAINT, font=font, anchor="ma")
    pen.text(((LEFT + SIZE_PX[0] - RIGHT) / 2, SIZE_PX[1] - 12), chart.x_name, fill=INK, font=font, anchor="ms")
    _draw_y_name(image, chart.y_name)
    pen.text((LEFT, 12), chart.title, fill=INK, font=font, anchor="la")
    for index, series in enumerate(chart.series):
        colour = COLOURS[index % len(COLOURS)]
        places = [(x.place(point.x), y.place(point.y)) for point in series.points]
        _draw_line(pen, series.points, places, colour)
        pen.text((SIZE_PX[0] - RIGHT, TOP + 20 * index), series.name, fill=colour, font=font, anchor="ra")
    return image


def _draw_y_name(image: Image.Image, name: str) -> None:
    """Write the name of the y axis along it, from bottom to top."""
    height = SIZE_PX[1] - TOP - BOTTOM
    strip = Image.new("RGB", (height, 28), PAPER)
    ImageDraw.Draw(strip).text((height / 2, 14), name, fill=INK, font=load_font(16), anchor="mm")
    image.paste(strip.transpose(Image.Transpose.ROTATE_90), (8, TOP))


def _draw_line(
    pen: ImageDraw.ImageDraw, points: Sequence[Point], places: Sequence[tuple[float, float]], colour: str
) -> None:
    if len(places) > 1:
        pen.line(places, fill=colour, width=3)
    for point, (left, top) in zip(points, places, strict=True):
        pen.ellipse([left - DOT_PX, top - DOT_PX, left + DOT_PX, top + DOT_PX], fill=colour)
        pen.text((left + 8, top - 8), point.label, fill=INK, font=load_font(16), anchor="ls")
