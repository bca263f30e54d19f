"""Pictures of a model card: one for each example prompt, all of them in a grid, and the plot of latency and quality."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from naruto_add.imaging.grid import CELL_PX, GridColumn, GridRow, make_grid
from naruto_add.reporting.chart_picture import draw_chart
from naruto_add.reporting.plots import read_charts

FOLDER = "images"
GRID, PLOT = f"{FOLDER}/grid.png", f"{FOLDER}/latency_quality.png"
PLOT_AXIS = "latency ms"
"""The x axis of the only chart of metrics/curves that is not over steps."""


def write_pictures(folder: Path, prompts: Sequence[str], columns: dict[str, Sequence[Image.Image]]) -> None:
    """Write the pictures of the first column as examples, and the grid of all columns, with a row for each prompt."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(next(iter(columns.values()))):
        picture.save(folder / example(index))
    rows = [GridRow(prompt, pictures) for prompt, *pictures in zip(prompts, *columns.values(), strict=True)]
    heads = [GridColumn(name, "") for name in columns]
    make_grid(rows, columns=heads, cell_px=CELL_PX, path=folder / GRID, metadata={})


def write_plot(folder: Path, sweep_path: Path) -> bool:
    """Draw metrics/curves/sweep.tsv. Returns whether it has values."""
    charts = [chart for chart in read_charts(sweep_path.parent) if chart.x_name == PLOT_AXIS]
    for chart in charts:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        draw_chart(chart).save(folder / PLOT)
    return bool(charts)


def example(index: int) -> str:
    """The file of the picture of one example prompt, relative to the card."""
    return f"{FOLDER}/example-{index}.png"
