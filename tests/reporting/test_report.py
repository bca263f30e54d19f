"""The report contains everything it needs, states the values of the files, and fits a phone and a desktop."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from naruto_add.config import paths
from naruto_add.config.load import load_params
from naruto_add.imaging.grid import GridColumn, GridRow, make_grid
from naruto_add.reporting.report import write_report
from naruto_add.runtime.errors import StageError

ROOT = Path(__file__).parents[2]
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
    "method": "adversarial",
    "alarms_colour": 2,
    "alarms_colour_since_step": 7,
    "alarms_gap": 0,
    "best_step": PARAMS.add.num_steps,
    "skipped_steps": 0,
}
STUDENT = {"best_step": 0}
PICTURES = ("dataset", "teacher", "samples/subjects", "samples/test_captions")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the metrics, curves and grids of a run, and this project's parameters and lock file."""
    for path in (paths.PARAMS, paths.REQUIREMENTS):
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
        lock_path=project / paths.REQUIREMENTS,
        metrics_dir=project / paths.METRICS,
        report_path=project / paths.REPORT,
    )


class _Page(HTMLParser):
    """The addresses that a browser would load, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_names_the_device_that_was_timed(page: Path, project: Path) -> None:
    assert "2 CPU threads" in _Page(page.read_text()).text
    path = project / "metrics/evaluate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "teacher.peak_vram_mib": 900.0}))
    _write(project)
    assert "GPU, 2 CPU threads" in _Page(page.read_text()).text


def test_it_names_the_method_of_distillation(page: Path, project: Path) -> None:
    assert "ADD, discriminators: pixel" in _Page(page.read_text()).text
    path = project / paths.PARAMS
    path.write_text(path.read_text().replace("method: adversarial ", "method: consistency "))
    _write(project)
    text = _Page(page.read_text()).text
    assert "latent consistency (LCM)" in text and "discriminators: pixel" not in text.partition("Parameters")[0]


def test_it_loads_no_other_file(page: Path) -> None:
    html = page.read_text()
    assert {address.split(",")[0].split("#")[0] for address in _Page(html).addresses} == {
        "",
        "data:",
        "data:image/png;base64",
    }
    assert "@import" not in html and "url(" not in html


def test_the_ablation_has_a_table_if_there_are_results(project: Path) -> None:
    _write(project)
    assert "Ablation" not in (project / paths.REPORT).read_text()
    (project / paths.ABLATION_METRICS).write_text(json.dumps({"full.num_seeds": 1, "full.fd_lite1.mean": 250.25}))
    _write(project)
    text = _Page((project / paths.REPORT).read_text()).text
    assert re.search(r"metric\s*full\s*fd_lite1.*250\.2\s*1 seed", text, re.DOTALL)
    assert "full.num_seeds" not in text
    assert "Ablation: fd_lite1 of “full” 250.2 1 seed" in text


def test_it_states_the_values_of_the_files(page: Path) -> None:
    text = " ".join(_Page(page.read_text()).text.split())
    assert "12.35" in text and "1,111 to 1,666" in text and "0.875" in text
    assert "few pictures" in text
    assert "7.125" in text and "0.9625" in text
    assert "colour: 2 alarms, first at step 7" in text and "gap: 0 alarms" in text
    assert f"add: best validation score at step {PARAMS.add.num_steps} of {PARAMS.add.num_steps}: the last" in text
    assert f"best validation score at step 0 of {PARAMS.student.num_steps:,}: training did not improve" in text
    assert (ROOT / "params.yaml").read_text().splitlines()[-1] in page.read_text()
    assert re.search(r"torch ?\d+\.\d+", text)


def test_failed_checks_are_marked(page: Path) -> None:
    marked = re.findall(r'<li class="(\w+)">(.*?)</li>', page.read_text())
    assert {re.split(", |: the last|: training", text)[0]: kind for kind, text in marked} == {
        "add: colour: 2 alarms": "failed",
        "add: gap: 0 alarms": "passed",
        f"add: best validation score at step {PARAMS.add.num_steps} of {PARAMS.add.num_steps}": "passed",
        "add: 0 steps skipped because of non-finite gradients": "passed",
        f"student: best validation score at step 0 of {PARAMS.student.num_steps:,}": "failed",
    }


def test_the_same_files_give_the_same_page(project: Path) -> None:
    _write(project)
    first = (project / paths.REPORT).read_bytes()
    _write(project)
    assert (project / paths.REPORT).read_bytes() == first


@pytest.mark.parametrize("pattern", ["metrics/evaluate.json", "metrics/add.json", "metrics/grids/*.png"])
def test_a_truncated_file_is_named_with_the_remedy(project: Path, pattern: str) -> None:
    path = next(project.glob(pattern))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StageError, match=f"{path.name}: .* is damaged .*; delete it and run `dvc repro`"):
        _write(project)


def test_it_needs_a_run(project: Path) -> None:
    (project / paths.EVALUATE_METRICS).unlink()
    with pytest.raises(StageError, match=r"evaluate\.json: no such file; run the pipeline first"):
        _write(project)


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
def test_a_browser_shows_everything(page: Path, tmp_path: Path, width: int) -> None:
    """In a frame of the width of a phone or a desktop; a browser's window cannot be as narrow as a phone."""
    (tmp_path / "report.html").write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    (tmp_path / "harness.html").write_text(HARNESS.replace("WIDTH", str(width)))

    seen, messages = _browse(tmp_path / "harness.html", tmp_path / "profile")

    assert messages == []
    assert seen["scroll"] == seen["width"] > width - 20  # the frame less a scrollbar; nothing needs sideways scrolling
    assert len(seen["pictures"]) == len(PICTURES) and min(seen["pictures"]) > 192
    assert len(seen["charts"]) == 2 and min(seen["charts"]) > 100
    assert seen["lines"] == 3  # the teacher's loss, and two subjects of the sweep
    assert "12.35" in seen["text"] and "31.5" in seen["text"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_browser_test_notices_errors_of_a_page(tmp_path: Path) -> None:
    """A page with a missing picture and a failing script."""
    page = f'<table></table><img src="absent.png">{PROBE}<script>console.error("oh"); absent()</script>'
    (tmp_path / "report.html").write_text(page)
    (tmp_path / "harness.html").write_text(HARNESS)

    seen, messages = _browse(tmp_path / "harness.html", tmp_path / "profile")

    assert seen["pictures"] == [0]
    assert len(messages) >= 2


def _browse(harness: Path, profile: Path) -> tuple[dict[str, Any], list[str]]:
    """What the script in the page measured, and the lines of the browser's console."""
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    talk = ["--enable-logging=stderr", "--virtual-time-budget=10000", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *quiet, *talk, harness.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))
    return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
