"""A page whose model is too large to be in it: it draws Python's picture with the folder that a person gives it."""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from benchmarks.browser import Page, browser
from naruto_add.config.schema import ExportFormat
from naruto_add.export import demo_page, onnx_files
from naruto_add.generate.onnx_model import Backend, load_onnx_model
from tests.export.build import PROMPTS, export
from tests.export.demo import DEMO, STATUS, WIDTHS, download, draw, needs_browser, needs_build, outside, pixels
from tests.extras import ONNX, need_packages

pytestmark = [needs_build, needs_browser]

SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
"""A GPU that Chromium emulates, for machines without one."""
ON_GPU, ON_CPU = "Ready. This browser draws on the GPU", "Ready. This browser draws on the CPU, which is slow"
NOT_ON_GPU = f"{ON_CPU}, because the GPU cannot load this model."
ANOTHER_MODEL = "These files belong to another model than this page."
BESIDE: list[ExportFormat] = ["diffusers", "onnx", "onnx_int8", "demo"]
IS_ASKING = "!document.getElementById('files').hidden && document.getElementById('controls').hidden"
NO_GPU = "No available adapters."
"""What Chromium itself writes into the console when a page asks for a GPU and there is none."""
NO_DEVICE = "GPUAdapter.prototype.requestDevice = () => Promise.reject(new Error('out of memory'))"
NO_MEMORY = "GPUDevice.prototype.createBuffer = () => { throw new Error('out of memory') }"
ONE_DEVICE = """
const request = GPUAdapter.prototype.requestDevice;
globalThis.devices = [];
GPUAdapter.prototype.requestDevice = async function (...options) {
  if (devices.length) throw new Error("out of memory");
  devices.push(await request.apply(this, options));
  return devices[0];
};"""


@pytest.fixture(scope="module")
def exported(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_packages(*ONNX)
    root = tmp_path_factory.mktemp("beside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_page, "MAX_MIB", 0)
        return export(tiny_pipeline_dir, root, formats=BESIDE, demo_dir=DEMO)


@pytest.fixture(scope="module")
def separate(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose networks have their weights in files of their own, as those beyond 2 GiB have."""
    need_packages(*ONNX)
    root = tmp_path_factory.mktemp("separate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_page, "MAX_MIB", 0)
        patch.setattr(onnx_files, "MAX_FILE_BYTES", 0)
        return export(tiny_pipeline_dir, root, formats=BESIDE, demo_dir=DEMO)


@contextmanager
def opened(exported: Path, folder: Path, *flags: str, before: str = "") -> Iterator[Page]:
    """The page, asking for its files. No test asks the network or leaves an error in the console."""
    with browser(folder / "profile", *flags, timeout_s=600) as page:
        page.resize(390, 844)
        page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        page.before_scripts(before)
        page.open(exported / "demo.html")
        page.wait_for(IS_ASKING)
        yield page
        assert [error for error in page.errors if NO_GPU not in error] == []
        assert {address for address in page.requests if not address.startswith(("blob:", "data:"))} == {
            (exported / "demo.html").as_uri()
        }


@pytest.mark.parametrize("backend", get_args(Backend))
@pytest.mark.parametrize(("flags", "ready"), [((), ON_CPU), pytest.param(SOFTWARE_GPU, ON_GPU, marks=pytest.mark.slow)])
def test_the_chosen_folder_draws_pythons_picture(
    exported: Path, tmp_path: Path, flags: tuple[str, ...], ready: str, backend: Backend
) -> None:
    with opened(exported, tmp_path, *flags) as page:
        page.choose("folder", exported / backend)
        page.wait_for(f"{STATUS}.startsWith('Ready.')")
        assert page.value(STATUS).startswith(ready)
        assert not page.value(IS_ASKING)
        assert page.value("document.activeElement.id") == "draw"
        assert page.value("document.activeElement.nextElementSibling.id") == "status", (
            "as in a page that holds its model"
        )
        draw(page, PROMPTS[1], seed=3, steps=4)
        ours = download(page, tmp_path)
    assert _difference(ours, exported, backend) < 0.5, "of 255"
    assert _nearest(ours, exported) == backend
    assert (ours.text["prompt"], ours.text["seed"], ours.text["steps"]) == (PROMPTS[1], "3", "4")


@pytest.mark.parametrize("backend", get_args(Backend))
def test_weights_in_files_of_their_own_draw_pythons_picture(separate: Path, tmp_path: Path, backend: Backend) -> None:
    partial_copy = tmp_path / "partial"
    shutil.copytree(separate / backend, partial_copy)
    (partial_copy / "unet.onnx.data").unlink()
    with opened(separate, tmp_path) as page:
        page.choose("folder", partial_copy)
        page.wait_for(f"{STATUS}.startsWith('The folder is not complete: unet.onnx.data is missing.')")
        page.choose("folder", separate / backend)
        page.wait_for(f"{STATUS}.startsWith('Ready.')")
        draw(page, PROMPTS[1], seed=3, steps=4)
        ours = download(page, tmp_path)
    assert _difference(ours, separate, backend) < 0.5, "of 255"
    assert _nearest(ours, separate) == backend


def test_a_server_gives_weights_in_files_of_their_own(separate: Path, tmp_path: Path) -> None:
    with _served(separate) as address, browser(tmp_path / "profile") as page:
        page.open(f"{address}/demo.html")
        page.wait_for(IS_ASKING)
        page.value("document.getElementById('fetch').click()")
        page.wait_for(f"{STATUS}.startsWith('Ready.')")
        draw(page, "a man", seed=0, steps=1)
        assert f"{address}/onnx_int8/unet.onnx.data" in page.requests


def test_of_a_dropped_export_the_smallest_folder_draws(exported: Path, tmp_path: Path) -> None:
    with opened(exported, tmp_path) as page:
        page.drop(exported)
        page.wait_for(f"{STATUS}.startsWith('Ready.')")
        draw(page, PROMPTS[1], seed=3, steps=4)
        of_export = download(page, tmp_path)
        page.open(exported / "demo.html")
        page.drop(*(exported / "onnx").iterdir())
        page.wait_for(f"{STATUS}.startsWith('Ready.')")
        draw(page, PROMPTS[1], seed=3, steps=4)
        of_files = download(page, tmp_path)
    assert _nearest(of_export, exported) == "onnx_int8"
    assert _nearest(of_files, exported) == "onnx"


def test_a_browser_without_handles_reads_a_dropped_folder_by_entries(exported: Path, tmp_path: Path) -> None:
    with _served(exported) as address, browser(tmp_path / "profile") as page:
        page.before_scripts("delete DataTransferItem.prototype.getAsFileSystemHandle")
        page.open(f"{address}/demo.html")
        page.wait_for(IS_ASKING)
        page.drop(exported / "onnx")
        page.wait_for(f"{STATUS}.startsWith('Ready.')")


def test_the_cpu_draws_if_the_browser_refuses_a_gpu(exported: Path, tmp_path: Path) -> None:
    with opened(exported, tmp_path, *SOFTWARE_GPU, before=NO_DEVICE) as page:
        page.choose("folder", exported / "onnx")
        page.wait_for(f"{STATUS}.startsWith('Ready.')")
        assert page.value(STATUS).startswith(ON_CPU)
        draw(page, "a man", seed=0, steps=1)


def test_the_cpu_draws_if_the_gpu_cannot_load_the_model(exported: Path, tmp_path: Path) -> None:
    with opened(exported, tmp_path, *SOFTWARE_GPU, before=NO_MEMORY) as page:
        page.choose("folder", exported / "onnx")
        page.wait_for(f"{STATUS} === '{NOT_ON_GPU}'")
        draw(page, PROMPTS[1], seed=3, steps=4)
        ours = download(page, tmp_path)
    assert _difference(ours, exported, "onnx") < 0.5, "of 255"


def test_a_lost_gpu_ends_the_drawing_with_a_sentence(exported: Path, tmp_path: Path) -> None:
    """The page asks for one device, which onnxruntime uses: a browser may refuse a second one."""
    with opened(exported, tmp_path, *SOFTWARE_GPU, before=ONE_DEVICE) as page:
        page.choose("folder", exported / "onnx")
        page.wait_for(f"{STATUS}.startsWith('{ON_GPU}')")
        page.value("devices[0].destroy()")
        page.value("document.getElementById('draw').click()")
        page.wait_for(f"{STATUS}.startsWith('The drawing failed: the GPU was lost')")
        assert page.value("document.getElementById('draw').textContent") == "Draw"
        (error,) = page.errors
        assert "the GPU was lost" in error
        page.errors.clear()


def test_other_files_get_a_sentence_and_another_try(exported: Path, tmp_path: Path) -> None:
    partial_copy, other = tmp_path / "partial", tmp_path / "other"
    for copy in (partial_copy, other):
        shutil.copytree(exported / "onnx", copy)
    (partial_copy / "unet.onnx").unlink()
    (other / "unet.onnx").write_bytes(b"another network")
    with opened(exported, tmp_path) as page:
        for folder, sentence in (
            (exported / "scheduler", "These are not the model's files. Choose the folder onnx_int8 or onnx next to"),
            (partial_copy, "The folder is not complete: unet.onnx is missing."),
            (other, ANOTHER_MODEL),
            (_another_model(exported, tmp_path), ANOTHER_MODEL),
        ):
            page.choose("folder", folder)
            page.wait_for(f"document.querySelector('#status.error') && {STATUS}.startsWith({json.dumps(sentence)})")
            assert page.value(IS_ASKING)
            page.wait_for("document.activeElement.id === 'folder'")
        page.choose("folder", exported / "onnx")
        page.wait_for(f"{STATUS}.startsWith('Ready.')")


def test_another_model_on_the_server_gets_a_sentence(exported: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(exported, site)
    shutil.rmtree(site / "onnx_int8")
    _another_model(exported, tmp_path).rename(site / "onnx_int8")
    with _served(site) as address, browser(tmp_path / "profile") as page:
        page.open(f"{address}/demo.html")
        page.wait_for(IS_ASKING)
        page.value("document.getElementById('fetch').focus()")
        page.value("document.getElementById('fetch').click()")
        page.wait_for(f"{STATUS}.startsWith('The folder onnx_int8 on the server belongs to another model')")
        page.wait_for("document.activeElement.id === 'fetch'")


def _another_model(exported: Path, tmp_path: Path) -> Path:
    """The folder of a student of the same sizes: all files are as long, and only the ids tell them apart."""
    folder = tmp_path / "another"
    shutil.copytree(exported / "onnx_int8", folder)
    sampler = json.loads((folder / "sampler.json").read_text())
    text = (folder / "sampler.json").read_text().replace(sampler["id"], sampler["id"][::-1])
    (folder / "sampler.json").write_text(text)
    assert _sizes(folder) == _sizes(exported / "onnx_int8")
    return folder


def test_a_screen_reader_says_the_file_input_alone(exported: Path, tmp_path: Path) -> None:
    with opened(exported, tmp_path) as page:
        assert page.controls()["button"] == ["The model's folder"], "the file input is all that there is"
        assert "sends them nowhere" in page.value("document.getElementById('folder-note').textContent")


@pytest.mark.parametrize("width", WIDTHS)
def test_asking_for_files_fits_a_phone_and_a_desk(exported: Path, tmp_path: Path, width: int) -> None:
    with opened(exported, tmp_path) as page:
        page.resize(width, 844)
        assert outside(page) == []


def test_a_server_gives_the_files_by_a_button(exported: Path, tmp_path: Path) -> None:
    with _served(exported) as address, browser(tmp_path / "profile") as page:
        page.open(f"{address}/demo.html")
        page.wait_for(IS_ASKING)
        assert page.value("document.getElementById('fetch').textContent").startswith("Load the model from this server")
        page.value("document.getElementById('fetch').click()")
        page.wait_for(f"{STATUS}.startsWith('Ready.')")
        draw(page, "a man", seed=0, steps=1)
        assert [error for error in page.errors if NO_GPU not in error] == []
        asked = [item.removeprefix(f"{address}/") for item in page.requests if item.startswith(address)]
        assert {item.split("/")[0] for item in asked} == {"demo.html", "onnx_int8"}


def test_the_page_knows_the_files_and_holds_none(exported: Path) -> None:
    page = (exported / "demo.html").read_text(encoding="utf-8")
    assert re.findall('<script type="text/plain" data-file="([^"]*)"', page) == ["runtime.wasm"]
    (text,) = re.findall(r'<script type="application/json" id="model">([^<]*)</script>', page)
    model = json.loads(text)
    assert model["files"] == {name: _sizes(exported / name) for name in ("onnx", "onnx_int8")}
    assert {json.loads((exported / name / "sampler.json").read_text())["id"] for name in model["files"]} == {
        model["id"]
    }
    figures = json.loads((exported.parent.parent / "metrics/export.json").read_text())
    assert [name for name in figures if name.startswith("demo.")] == ["demo.size_mib"]


def _nearest(picture: Any, exported: Path) -> Backend:
    """The files with which Python draws most like this picture of the seed 3."""

    return min(get_args(Backend), key=lambda backend: _difference(picture, exported, backend))


def _difference(picture: Any, exported: Path, backend: Backend) -> float:
    """The mean difference, of 255, of this picture of the seed 3 from Python's with these files."""
    model = load_onnx_model(exported, num_steps=None, guidance_scale=None, raw_prompt=False, backend=backend)
    return float(np.abs(pixels(picture) - pixels(model.draw(PROMPTS[1], seed=3))).mean())


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """A web server of this folder on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
