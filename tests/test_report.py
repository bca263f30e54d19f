"""The page carries all it needs, says what the files say, and shows in a real browser on a phone and on a desk."""

import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from naruto_add import paths
from naruto_add.grid import GridColumn, GridRow, make_grid
from naruto_add.params import load_params
from naruto_add.report import PLOTS, write_report
from naruto_add.report_charts import Chart, Point, Series, log_ticks, thinned, ticks
from naruto_add.runtime import StageError

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVALUATE = {
    "teacher.fd_lite1": 12.3456789,
    "teacher.num_images": 96,
    "distilled.fd_lite1": 1357.5,
    "distilled.fd_lite1_low": 1111.25,
    "distilled.fd_lite1_high": 1666.5,
    "distilled.fd_lite1_n_small": 1,
    "distilled.latency_ms": 31.5,
    "distilled.num_images": 96,
    "real_halves.fd_lite1": 2.125,
    "real_halves.density": 0.875,
    "real_decoded.fd_lite1": 7.125,
    "real.attribute_accuracy": 0.9625,
    "process.peak_rss_mib": 1234.0,
    "process.num_threads": 2,
}
PARAMS = load_params(ROOT / paths.PARAMS)
ADD = {
    "alarms_colour": 2,
    "alarms_colour_since_step": 7,
    "alarms_gap": 0,
    "best_step": PARAMS.add.num_steps,
    "skipped_steps": 0,
}
STUDENT = {"best_step": 0}
PICTURES = ("dataset", "teacher", "samples/subjects", "samples/held_out")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as the pipeline leaves it, with our own parameters and lock file."""
    for path in (paths.PARAMS, paths.PACKAGES):
        shutil.copy2(ROOT / path, tmp_path / path)
    metrics = tmp_path / paths.METRICS
    (metrics / "curves").mkdir(parents=True)
    for name, values in {"evaluate": EVALUATE, "add": ADD, "student": STUDENT}.items():
        (metrics / f"{name}.json").write_text(json.dumps(values))
    (metrics / "curves/teacher.tsv").write_text("step\tloss\n1\t2.5\n2\t\n3\t0.5\n")
    sweep = [
        "subject\tsteps\tlatency_ms\tmetric\tdistance\tlow\thigh\tnum_images",
        "teacher\t4\t40\tfd_lite1\t30\t25\t35\t16",
        "teacher\t100\t1000\tfd_lite1\t12\t10\t14\t16",
        "distilled\t4\t31\tfd_lite1\t13\t10\t16\t16",
    ]
    (metrics / "curves/sweep.tsv").write_text("\n".join(sweep) + "\n")
    for name in PICTURES:
        rows = [GridRow("élève & <b>", [Image.new("RGB", (64, 64), "red")] * 4)]
        path = metrics / "grids" / f"{name}.png"
        make_grid(rows, columns=[GridColumn("teacher", "4 steps")] * 4, cell_px=192, path=path, metadata={})
    return tmp_path


@pytest.fixture
def page(project: Path) -> Path:
    _write(project)
    return project / paths.REPORT


def _write(project: Path) -> None:
    write_report(
        load_params(project / paths.PARAMS),
        params_path=project / paths.PARAMS,
        lock_path=project / paths.PACKAGES,
        metrics_dir=project / paths.METRICS,
        report_path=project / paths.REPORT,
    )


class _Addresses(HTMLParser):
    """Everything that a browser would load, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_says_what_times_were_taken_on(page: Path, project: Path) -> None:
    assert "2 threads of the CPU" in _Addresses(page.read_text()).text
    path = project / "metrics/evaluate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "teacher.peak_vram_mib": 900.0}))
    _write(project)
    assert "a GPU, with 2 threads of the CPU" in _Addresses(page.read_text()).text


def test_it_says_by_which_method_the_student_was_distilled(page: Path, project: Path) -> None:
    assert "ADD, discriminators: pixel" in _Addresses(page.read_text()).text
    path = project / paths.PARAMS
    path.write_text(path.read_text().replace("method: adversarial ", "method: consistency "))
    _write(project)
    text = _Addresses(page.read_text()).text
    assert "latent consistency (LCM)" in text and "discriminators: pixel" not in text.partition("Parameters")[0]


def test_the_page_loads_nothing_from_elsewhere(page: Path) -> None:
    html = page.read_text()
    assert {address.split(",")[0].split("#")[0] for address in _Addresses(html).found} == {
        "",
        "data:",
        "data:image/png;base64",
    }
    assert "@import" not in html and "url(" not in html


def test_an_ablation_has_a_table_of_its_own(project: Path) -> None:
    figures = {"full.num_seeds": 3, "full.fd_lite1.mean": 250.25, "full.fd_lite1.std": 4.5, "no_pool.num_seeds": 1}
    _write(project)
    assert "Ablation" not in (project / paths.REPORT).read_text()
    (project / paths.ABLATION_METRICS).write_text(json.dumps(figures | {"no_pool.pd_lite1.mean": 0.5}))
    _write(project)
    text = _Addresses((project / paths.REPORT).read_text()).text
    assert re.search(r"metric\s*full\s*no pool", text)
    assert "250.2± 4.5, 3 seeds" in text
    assert "0.51 seed" in text
    assert "full.num_seeds" not in text


def test_the_page_says_what_the_files_say(page: Path) -> None:
    text = " ".join(_Addresses(page.read_text()).text.split())
    assert "12.35" in text and "1,111 to 1,666" in text and "0.875" in text
    assert "few pictures" in text
    assert "7.125" in text and "reaches 0.9625 on real held-out pictures" in text
    assert "colour: 2 alarms, first since step 7" in text and "gap: 0 alarms" in text
    assert f"add: best at step {PARAMS.add.num_steps} of {PARAMS.add.num_steps}, at the very end" in text
    assert f"student: best at step 0 of {PARAMS.student.num_steps}, training did not help" in text
    assert (ROOT / "params.yaml").read_text().splitlines()[-1] in page.read_text()
    assert re.search(r"torch ?\d+\.\d+", text)


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


def test_troubles_are_marked_as_such(page: Path) -> None:
    marked = re.findall(r'<li class="(\w+)">(.*?)</li>', page.read_text())
    assert {text.split(",")[0]: kind for kind, text in marked} == {
        "add: colour: 2 alarms": "bad",
        "add: gap: 0 alarms": "well",
        f"add: best at step {PARAMS.add.num_steps} of {PARAMS.add.num_steps}": "well",
        "add: 0 steps skipped": "well",
        f"student: best at step 0 of {PARAMS.student.num_steps}": "bad",
    }


def test_the_same_files_give_the_same_page(project: Path) -> None:
    _write(project)
    first = (project / paths.REPORT).read_bytes()
    _write(project)
    assert (project / paths.REPORT).read_bytes() == first


def test_before_the_first_run(project: Path) -> None:
    (project / paths.EVALUATE_METRICS).unlink()
    with pytest.raises(StageError, match=r"evaluate\.json: no such file; run the pipeline first"):
        _write(project)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 17.0), (0.00012, 0.00019), (900.0, 41000.0)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    steps = {f"{b - a:.3g}" for a, b in itertools.pairwise(found)}
    assert 2 <= len(found) <= 7
    assert low <= found[0] and found[-1] <= high
    assert len(steps) == 1 and steps.pop().strip("0.").strip("e-+0")[0] in "125"


def test_logarithmic_ticks_are_ones_twos_and_fives() -> None:
    assert log_ticks(8, 230) == [10, 20, 50, 100, 200]


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    points = [Point(step, step) for step in range(5001)]
    assert len(thinned(points)) <= 401
    assert thinned(points)[-1] == points[-1]
    assert thinned(points[:3]) == points[:3]


def test_points_stand_where_they_should() -> None:
    chart = Chart("A <loss>", "step", [Series("a", [Point(0, 0), Point(5, 1, "5"), Point(10, 2)])], log_x=False)
    line = re.search(r'points="([^"]+)"', chart.svg)
    assert line
    xs, ys = zip(*([float(value) for value in place.split(",")] for place in line[1].split()), strict=True)
    assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2, abs=0.1)
    assert ys[0] > ys[1] > ys[2]  # downwards in SVG
    assert "A &lt;loss&gt;" in chart.svg


HARNESS = """<!DOCTYPE html><title>harness</title><body><script>
addEventListener("message", event => { document.body.dataset.seen = JSON.stringify(event.data); });
</script><iframe src="report.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>"""
PROBE = """<script>document.querySelectorAll("details").forEach(details => { details.open = true; });
addEventListener("load", () => parent.postMessage({
  width: document.documentElement.clientWidth,
  scroll: document.documentElement.scrollWidth,
  pictures: [...document.images].map(image => image.naturalWidth),
  charts: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height),
  lines: document.querySelectorAll("polyline").length,
  text: document.querySelector("table").innerText,
}, "*"));</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_it_all(page: Path, tmp_path: Path, width: int) -> None:
    """In a frame as wide as a phone or a desk: a window of the browser may not be that narrow."""
    (tmp_path / "report.html").write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    (tmp_path / "harness.html").write_text(HARNESS.replace("WIDTH", str(width)))

    seen, messages = _browsed(tmp_path / "harness.html", tmp_path / "profile")

    assert messages == []
    assert seen["scroll"] == seen["width"] > width - 20  # all but a scrollbar; nothing sticks out sideways
    assert len(seen["pictures"]) == len(PICTURES) and min(seen["pictures"]) > 192
    assert len(seen["charts"]) == 2 and min(seen["charts"]) > 100
    assert seen["lines"] == 3  # the teacher's loss, and a sweep of two
    assert "12.35" in seen["text"] and "31.5" in seen["text"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_browsers_complaints_are_heard(tmp_path: Path) -> None:
    """Of a page that looks for something beside it."""
    page = f'<table></table><img src="absent.png">{PROBE}<script>console.error("oh"); absent()</script>'
    (tmp_path / "report.html").write_text(page)
    (tmp_path / "harness.html").write_text(HARNESS)

    seen, messages = _browsed(tmp_path / "harness.html", tmp_path / "profile")

    assert seen["pictures"] == [0]
    assert len(messages) >= 2


def _browsed(harness: Path, profile: Path) -> tuple[dict[str, Any], list[str]]:
    """What the probe in the page saw, and what the browser's console says."""
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    talk = ["--enable-logging=stderr", "--virtual-time-budget=10000", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *quiet, *talk, harness.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))
    return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
