"""The demo page in a browser: its pictures are Python's, and it needs no mouse, no network and no wide screen."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.browser import Page, browser
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import x0_from_noise_pred
from naruto_add.export.demo_page import STEP_COUNTS, DemoFacts, step_table, write_demo_page, write_page_beside
from naruto_add.export.demo_template import BUILT, BUILT_BESIDE, read_templates, sources_hash
from naruto_add.export.onnx_half import half_network
from naruto_add.generate.model import Model, load_model
from naruto_add.runtime.errors import StageError
from tests.export.build import PROMPTS, export
from tests.export.demo import (
    DEMO,
    STATUS,
    WIDTHS,
    download,
    draw,
    needs_browser,
    needs_build,
    outside,
    pixels,
    wait_until_drawn,
)
from tests.extras import ONNX, need_packages

SHIFT, TAB, ENTER, LEFT = 8, 9, 13, 37
ALTS = "[...document.querySelectorAll('#gallery figure:first-child img')].map(image => image.alt)"
FOCUSED = "document.activeElement.id || document.activeElement.textContent"
TEMPLATE = (
    '<meta name="sources" content="{}"><script type="text/plain" data-file="runtime.wasm">AAAA</script><!-- model -->'
)

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (DEMO / "node_modules").is_dir(),
    reason="no node, or no packages of demo/, on this machine",
)


@pytest.fixture(scope="module")
def exported(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_packages(*ONNX)
    root = tmp_path_factory.mktemp("demo")
    return export(tiny_pipeline_dir, root, formats=["diffusers", "onnx", "demo"], demo_dir=DEMO)


@pytest.fixture
def page(exported: Path, tmp_path: Path) -> Iterator[Page]:
    """The page on a phone, after the model was loaded. No test leaves an error in the console or asks the network."""
    with browser(tmp_path / "profile") as page:
        page.resize(390, 844)
        page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.open(exported / "demo.html")
        page.wait_for(f"{STATUS} === 'Ready.'")
        yield page
        assert page.errors == []
        assert {address.partition(":")[0] for address in page.requests} <= {"file", "blob", "data"}
        assert [address for address in page.requests if address.startswith("file:")] == [
            (exported / "demo.html").as_uri()
        ]


@needs_build
@needs_browser
def test_a_seed_gives_pythons_picture_at_every_number_of_steps(page: Page, exported: Path, tmp_path: Path) -> None:
    python = load_model(exported, num_steps=None, guidance_scale=None, raw_prompt=False)
    for prompt, seed, steps in ((PROMPTS[1], 0, 4), ("A naïve GIRL, 忍者 " * 25, 2**31 - 2, 1), ("a man", 5, 8)):
        draw(page, prompt, seed=seed, steps=steps)
        ours = download(page, tmp_path)
        theirs = python.draw(prompt, seed=seed) if steps == 4 else _at_steps(exported, steps).draw(prompt, seed=seed)
        assert np.abs(pixels(ours) - pixels(theirs)).mean() < 1, "of 255"
        assert ours.text["prompt"] == prompt.strip()
        assert (ours.text["seed"], ours.text["steps"]) == (str(seed), str(steps))
        assert ours.text["prompt_template"] == "{caption}, drawn"


@needs_build
@needs_browser
def test_the_slider_shows_what_each_step_predicts(
    page: Page, exported: Path, tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    draw(page, "a man", seed=3, steps=4)
    last = download(page, tmp_path)
    page.value("document.getElementById('shown').focus()")
    page.press("ArrowLeft", code=LEFT)
    page.wait_for("document.querySelector('#gallery img').alt.endsWith('after step 3 of 4')")
    earlier = download(page, tmp_path)
    assert earlier.text["shown_step"] == "3"
    assert page.value("document.getElementById('shown').getAttribute('aria-valuetext')") == "Step 3 of 4"
    assert np.abs(pixels(earlier) - pixels(last)).max() > 0
    for _ in range(2):
        page.press("ArrowLeft", code=LEFT)
    page.wait_for("document.querySelector('#gallery img').alt.endsWith('after step 1 of 4')")
    alone = download(page, tmp_path)
    draw(page, "a man", seed=3, steps=1)
    assert np.abs(pixels(alone) - pixels(download(page, tmp_path))).mean() < 0.5, "one step is the first of four"


@needs_build
@needs_browser
def test_a_slider_that_moves_while_a_picture_is_finished_shows_its_step_of_all(page: Page) -> None:
    _when_next_picture_is_made(page, "moveSlider(1)")
    page.value("document.getElementById('num').value = 2")
    page.value("document.getElementById('draw').click()")
    wait_until_drawn(page)
    page.wait_for(f"{ALTS}.length === 2 && {ALTS}.every(alt => alt.endsWith('after step 1 of 4'))")
    assert page.value("document.getElementById('shown-name').textContent") == "1 of 4"


@needs_build
@needs_browser
def test_the_slider_works_after_a_step_that_could_not_be_shown(page: Page) -> None:
    draw(page, "a man", seed=3, steps=4)
    _when_next_picture_is_made(page, "fail()")
    page.value("moveSlider(2)")
    page.wait_for(f"{STATUS} === 'The step cannot be shown: no memory. Move the slider to try again.'")
    assert not page.value(f"{ALTS}[0].includes('after step')")
    page.value("moveSlider(1)")
    page.wait_for(f"{ALTS}[0].endsWith('after step 1 of 4')")
    (error,) = page.errors
    assert "no memory" in error
    page.errors.clear()


@needs_build
@needs_browser
def test_an_example_has_the_teachers_picture_beside_it(page: Page) -> None:
    page.value("document.querySelector('#examples button').click()")
    wait_until_drawn(page)
    captions = page.value("[...document.querySelectorAll('#gallery figcaption')].map(item => item.textContent)")
    assert captions == ["Student, 4 steps", "Teacher, 25 steps"] * 4
    assert page.value("[...document.querySelectorAll('#gallery img')].every(image => image.naturalWidth === 32)")
    assert "seeds 0 to 3" in page.value("document.getElementById('comparison').textContent")
    links = "[...document.querySelectorAll('footer a')].map(link => link.href)"
    assert page.value(links) == ["https://www.apache.org/licenses/LICENSE-2.0"]
    page.value("document.getElementById('seed').value = 2")
    page.value("document.querySelector('#examples button').click()")
    wait_until_drawn(page)
    widths = page.value("[...document.querySelectorAll('#gallery figure :first-child')].map(item => item.offsetWidth)")
    assert len(widths) == 8 and len(set(widths)) == 1, "seeds 4 and 5 have no teacher's picture, but the same size"
    assert page.value("document.querySelectorAll('#gallery .none').length") == 2
    draw(page, "something else", seed=0, steps=4)
    assert page.value("document.querySelectorAll('#gallery figcaption').length") == 0


@needs_build
@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_needs_sideways_scrolling_before_and_after_a_drawing(page: Page, width: int) -> None:
    page.resize(width, 844)
    assert outside(page) == []
    page.value("document.querySelector('#examples button').click()")
    wait_until_drawn(page)
    assert page.value("document.querySelectorAll('#gallery img').length") == 8, "four pictures, four of the teacher"
    assert outside(page) == []
    controls, gallery = (
        page.value(f"document.getElementById('{name}').getBoundingClientRect().toJSON()")
        for name in ("controls", "gallery")
    )
    is_beside = gallery["left"] > controls["right"]
    assert is_beside == (width == max(WIDTHS)), "on a desk beside the controls, on a phone below them"


@needs_build
@needs_browser
def test_it_is_used_by_keyboard_and_screen_reader(page: Page) -> None:
    names = page.controls()
    assert {role: len(found) for role, found in names.items() if role != "button"} == {
        "textbox": 1,
        "combobox": 2,
        "spinbutton": 1,
        "link": 1,
    }
    assert all(name for found in names.values() for name in found), names
    assert page.value("document.getElementById('status').getAttribute('role')") == "status"

    page.press("Tab", code=TAB)
    assert page.value(FOCUSED) == "prompt"
    order = []
    for _ in range(len(PROMPTS) + 5):
        page.press("Tab", code=TAB)
        order.append(page.value(FOCUSED))
    assert order == ["num", "steps", "seed", "another", "draw", *sorted(PROMPTS, key=len)]
    page.value("document.getElementById('draw').focus()")
    page.press("Enter", code=ENTER, text="\r")
    wait_until_drawn(page)
    assert page.value("document.activeElement.id") == "draw", "the focus stays where it was"
    assert page.value(STATUS).startswith("4 pictures in ")
    links = page.controls()["link"]
    assert links.pop() == "https://www.apache.org/licenses/LICENSE-2.0"
    assert links == [f"Download the picture of seed {seed} as PNG" for seed in range(4)]


@needs_build
@needs_browser
def test_wrong_input_is_said_and_gets_the_focus(page: Page) -> None:
    for field, value, sentence in (
        ("seed", "-1", "The seed is a whole number from 0 to 2147483644."),
        ("seed", "", "The seed is a whole number"),
        ("prompt", "  ", "Describe a picture first, or choose an example."),
    ):
        page.value(f"document.getElementById('{field}').value = '{value}'")
        page.value("document.getElementById('draw').click()")
        assert page.value(STATUS).startswith(sentence)
        assert page.value("document.activeElement.id") == field
        assert page.value(f"document.getElementById('{field}').getAttribute('aria-invalid')") == "true"


@needs_build
@needs_browser
def test_a_drawing_can_be_stopped_and_replaced(page: Page) -> None:
    page.value("document.getElementById('num').value = 8")
    page.value("document.getElementById('draw').click()")
    page.wait_for("document.getElementById('draw').textContent === 'Stop'")
    page.value("document.getElementById('draw').click()")
    page.wait_for(f"{STATUS} === 'Stopped.'")
    page.value("document.getElementById('draw').click()")
    page.value("document.getElementById('num').value = 1")
    page.value("document.querySelector('#examples button:last-child').click()")
    page.wait_for(f"{STATUS}.startsWith('1 picture in ')")
    assert page.value("document.querySelectorAll('#gallery li').length") == 1


@needs_build
@needs_browser
@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("delete globalThis.WebAssembly", "WebAssembly"),
        ("delete globalThis.DecompressionStream", "compression streams"),
        ("WebAssembly.validate = () => false", "WebAssembly with SIMD"),
    ],
)
def test_an_unsupported_browser_gets_a_sentence(exported: Path, tmp_path: Path, missing: str, named: str) -> None:
    with browser(tmp_path / "profile") as page:
        page.before_scripts(missing)
        page.open(exported / "demo.html")
        sentence = page.value("document.querySelector('[role=alert]').innerText")
        assert sentence.startswith(f"This browser cannot draw, because it lacks {named}. Open the page in a current")
        assert page.value("document.getElementById('app').offsetHeight") == 0
        assert page.errors == []


@needs_build
@needs_node
def test_noise_and_tokens_are_pythons(exported: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    text = (exported / "onnx/tokenizer.json").read_text(encoding="utf-8")
    prompts = ["", "a man with white hair", "a girl " * 80, "Ünïcode  忍者 🙂\tdon't <|endoftext|> #1"]
    code = """
import { readFileSync } from "node:fs";
import { Model } from "./src/model.js";
import { noise } from "./src/noise.js";
const { tokenizer, prompts, draws } = JSON.parse(readFileSync(0, "utf8"));
const model = new Model();
model.setTokenizer(tokenizer);
const values = draws.map(([size, seed]) => [...noise(size, seed)]);
console.log(JSON.stringify({ ids: prompts.map((prompt) => model.ids(prompt)), values }));"""
    draws = [(64, 0), (100, 7), (1024, 2**31 - 1)]
    given = json.dumps({"tokenizer": json.loads(text), "prompts": prompts, "draws": draws})
    command = ["node", "--input-type=module", "--eval", code]
    done = subprocess.run(command, cwd=DEMO, input=given, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    own = tokenizers.Tokenizer.from_str(text)
    assert found["ids"] == [encoding.ids for encoding in own.encode_batch(prompts)]
    for (size, seed), values in zip(draws, found["values"], strict=True):
        theirs = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(torch.tensor(values), theirs, rtol=1e-5, atol=1e-5)


@needs_build
def test_the_stage_compared_the_networks_in_the_page(exported: Path) -> None:
    figures = json.loads((exported.parent.parent / "metrics/export.json").read_text())
    assert figures["demo.noise_pred_max_abs_diff"] < 0.02
    assert figures["demo.images_mean_abs_diff_of_255"] < 1
    assert figures["demo.size_mib"] > 4


def test_each_number_of_steps_visits_its_timesteps_and_predicts_x0(tiny_bundle: ModelBundle) -> None:
    scheduler = tiny_bundle.scheduler
    table = step_table(scheduler, 4)
    assert list(table) == list(STEP_COUNTS)
    assert [step["timestep"] for step in table[2]] == [999, 499]
    assert list(step_table(scheduler, 10))[-1] == 10
    x, eps = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    for step in table[8]:
        timestep = torch.tensor([step["timestep"]])
        expected = x0_from_noise_pred(x, eps, timestep, alphas_cumprod=scheduler.alphas_cumprod)
        torch.testing.assert_close(step["x0_a"] * x + step["x0_b"] * eps, expected, rtol=1e-4, atol=1e-4)


def test_half_weights_are_the_nearest_and_large_values_stay(tmp_path: Path) -> None:
    onnx, onnxruntime = need_packages("onnx", "onnxruntime")
    weights = {"w": np.linspace(-3, 3, 64 * 64), "large": np.linspace(-1e5, 1e5, 64 * 64), "small": np.ones(64)}
    arrays = {name: values.astype(np.float32) for name, values in weights.items()}
    arrays |= {name: arrays[name].reshape(64, 64) for name in ("w", "large")}
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"]),
        onnx.helper.make_node("MatMul", ["a", "large"], ["b"]),
        onnx.helper.make_node("Add", ["b", "small"], ["y"]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in ("x", "y")]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "network.onnx")
    content = half_network(tmp_path / "network.onnx")
    kept = {item.name for item in onnx.load_from_string(content).graph.initializer}
    assert kept == {"w.half", "large", "small"}
    x = np.random.default_rng(0).standard_normal((1, 64), dtype=np.float32)
    (y,) = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = x @ arrays["w"].astype(np.float16).astype(np.float32) @ arrays["large"] + arrays["small"]
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1)


@needs_build
def test_text_cannot_end_the_element_that_it_is_in(exported: Path, tmp_path: Path) -> None:
    facts = DemoFacts(
        title="</script><script>alert(1)</script>",
        model="m",
        about=["`</script>`"],
        examples=[],
        teacher_steps=25,
        trained_timesteps=[999],
        steps={},
    )
    path = tmp_path / "demo.html"
    write_demo_page(path, template=TEMPLATE, onnx_dir=exported / "onnx", facts=facts)
    assert path.read_text().count("</script>") == TEMPLATE.count("</script>") + 5


def test_a_page_that_is_not_built_or_stale_names_the_remedy(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    demo_dir = tmp_path / "demo"
    shutil.copytree(DEMO, demo_dir, ignore=shutil.ignore_patterns("node_modules", "dist"))
    with pytest.raises(
        StageError, match=r"export\.formats: demo needs .*page\.html.*Node\.js.*make demo.*leave demo out"
    ):
        read_templates(demo_dir)
    (demo_dir / "dist").mkdir()
    for path in (BUILT, BUILT_BESIDE):
        with pytest.raises(StageError, match=rf"demo needs .*{path.name}, which is not built"):
            read_templates(demo_dir)
        (demo_dir / path).write_text(TEMPLATE.format(sources_hash(demo_dir)) + path.name)
    templates = read_templates(demo_dir)
    assert (templates.inside[-9:], templates.beside[-16:]) == (BUILT.name, BUILT_BESIDE.name)
    (demo_dir / "src/style.css").write_text("body {}")
    with pytest.raises(StageError, match=r"was built from other sources; run `make demo`"):
        read_templates(demo_dir)


@needs_build
def test_a_template_without_a_place_for_the_model_is_refused(exported: Path, tmp_path: Path) -> None:
    template = TEMPLATE.removesuffix("<!-- model -->")
    facts = DemoFacts(title="t", model="m", about=[], examples=[], teacher_steps=25, trained_timesteps=[999], steps={})
    with pytest.raises(StageError, match=r"the built page lacks <!-- model -->; restore it in demo/src/page\.html"):
        write_page_beside(tmp_path / "demo.html", template=template, onnx_dirs=[exported / "onnx"], facts=facts)
    assert not (tmp_path / "demo.html").exists()


def _when_next_picture_is_made(page: Page, code: str) -> None:
    """Run this JavaScript once, when the page makes the next PNG. It may move the slider by `moveSlider`, or `fail`."""
    page.value(
        """
        globalThis.moveSlider = (step) => {
          document.getElementById('shown').value = step;
          document.getElementById('shown').dispatchEvent(new Event('input'));
        };
        globalThis.fail = () => { throw new Error('no memory') };
        const make = URL.createObjectURL;
        URL.createObjectURL = (file) => {
          URL.createObjectURL = make;
          """
        + code
        + """;
          return make(file);
        };
        true"""
    )


def _at_steps(folder: Path, num_steps: int) -> Model:
    return load_model(folder, num_steps=num_steps, guidance_scale=None, raw_prompt=False)
