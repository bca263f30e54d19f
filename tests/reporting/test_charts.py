"""Charts place points and ticks correctly."""

import itertools
import re

import pytest

from naruto_add.reporting.charts import MAX_POINTS, Chart, Point, Series, log_ticks, thin, ticks


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 17.0), (0.00012, 0.00019), (900.0, 41000.0)])
def test_ticks_are_round_and_within_the_range(low: float, high: float) -> None:
    values = ticks(low, high)
    steps = {f"{b - a:.3g}" for a, b in itertools.pairwise(values)}
    assert 2 <= len(values) <= 7
    assert low <= values[0] and values[-1] <= high
    assert len(steps) == 1 and steps.pop().strip("0.").strip("e-+0")[0] in "125"


def test_logarithmic_ticks_are_1_2_and_5() -> None:
    assert log_ticks(8, 230) == [10, 20, 50, 100, 200]


def test_long_curves_are_thinned_and_keep_their_last_point() -> None:
    points = [Point(step, step) for step in range(5001)]
    assert len(thin(points)) <= MAX_POINTS + 1
    assert thin(points)[-1] == points[-1]
    assert thin(points[:3]) == points[:3]


def test_points_are_placed_in_proportion_and_text_is_escaped() -> None:
    chart = Chart(
        "A <loss>", "step", [Series("a", [Point(0, 0), Point(5, 1, "5"), Point(10, 2)])], log_x=False, y_name="<y>"
    )
    line = re.search(r'points="([^"]+)"', chart.svg)
    assert line
    xs, ys = zip(*([float(value) for value in pair.split(",")] for pair in line[1].split()), strict=True)
    assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2, abs=0.1)
    assert ys[0] > ys[1] > ys[2]  # SVG's y axis points down
    assert "A &lt;loss&gt;" in chart.svg and "&lt;y&gt;</text>" in chart.svg
