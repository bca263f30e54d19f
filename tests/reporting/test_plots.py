"""The report's curves are those of dvc.yaml, read from TSV files."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from naruto_add.config import paths
from naruto_add.reporting.charts import Point
from naruto_add.reporting.plots import PLOTS, read_charts
from naruto_add.runtime.errors import StageError

ROOT = Path(__file__).parents[2]


def test_the_curves_are_those_of_dvc_plots() -> None:
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")
    named = [fields for item in pipeline["plots"] if isinstance(item, dict) for fields in item.values()]
    declared = [
        (fields["title"], fields["x"], file, columns) for fields in named for file, columns in fields["y"].items()
    ]
    outs = [item for stage in pipeline["stages"].values() for item in stage.get("plots", [])]
    files = [(file, fields) for item in outs for file, fields in item.items() if file.endswith(".tsv")]
    declared += [(fields["title"], fields["x"], file, [fields["y"]]) for file, fields in files]
    shown = [(plot.title, plot.x, (paths.CURVES / plot.file).as_posix(), list(plot.columns)) for plot in PLOTS]
    as_lists = [(title, x, file, [y] if isinstance(y, str) else y) for title, x, file, y in declared]
    assert sorted(shown) == sorted(as_lists)


def test_empty_cells_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "teacher.tsv").write_text("step\tloss\n1\t2.5\n2\t\n3\t0.5\n")
    (chart,) = read_charts(tmp_path)
    assert (chart.title, chart.x_name, chart.log_x) == ("Teacher, training loss", "step", False)
    assert chart.y_name == "loss"
    assert [series.points for series in chart.series] == [[Point(1, 2.5), Point(3, 0.5)]]


def test_each_subject_is_a_line_and_steps_are_labels(tmp_path: Path) -> None:
    rows = [
        "subject\tsteps\tlatency_ms\tmetric\tdistance",
        "teacher\t4\t40\tfd_lite1\t30",
        "teacher\t100\t1000\tfd_lite1\t12",
        "distilled\t4\t31\tfd_lite1\t13",
    ]
    (tmp_path / "sweep.tsv").write_text("\n".join(rows) + "\n")
    (chart,) = read_charts(tmp_path)
    assert chart.log_x
    assert chart.y_name == "distance (fd_lite1)"
    assert {series.name: series.points for series in chart.series} == {
        "teacher": [Point(40, 30, "4"), Point(1000, 12, "100")],
        "distilled": [Point(31, 13, "4")],
    }


@pytest.mark.parametrize("content", ["step\tloss\n1\t0.5\n2\t0.\x00", "step\tloss\n1\t0.5x\n"])
def test_a_damaged_curve_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "teacher.tsv").write_text(content)
    with pytest.raises(StageError, match=r"teacher\.tsv: this file is damaged .*; delete it and run `dvc repro`"):
        list(read_charts(tmp_path))
