"""The benchmark of the exported formats, and the figures of it that docs/exports.md has."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.export_formats import FORMATS, OUTPUT, draw, quality_table, table
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.runtime.files import read_json
from tests.export.build import PROMPTS, export
from tests.extras import ONNX, need_packages

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs/exports.md"


def test_the_document_has_the_table_of_the_committed_figures() -> None:
    figures, text = read_json(ROOT / OUTPUT), DOCUMENT.read_text(encoding="utf-8")
    rows = list(table(figures))
    assert "\n".join(rows) in text, "run `python -m benchmarks.export_formats`, and copy its tables"
    for name in FORMATS:
        assert any(row.startswith(f"| `{name}`") for row in rows), name
        assert any(key.startswith(f"{name}.") for key in figures), name


def test_the_document_has_what_int8_weights_cost() -> None:
    figures = read_json(ROOT / OUTPUT)
    assert "\n".join(quality_table(figures)) in DOCUMENT.read_text(encoding="utf-8")
    for metric in ("fd_efficientnet_lite1", "kd_efficientnet_lite1"):
        loss = figures[f"onnx_int8.{metric}.mean"] - figures[f"onnx.{metric}.mean"]
        assert figures[f"int8_loss.{metric}.mean"] == pytest.approx(loss, abs=1e-3)


def test_the_documents_sentences_have_the_committed_figures() -> None:
    figures, text = read_json(ROOT / OUTPUT), " ".join(DOCUMENT.read_text(encoding="utf-8").split())

    def int8_loss(statistic: str) -> float:
        return float(figures[f"int8_loss.fd_efficientnet_lite1.{statistic}"])

    for sentence in (
        f"needed {figures['demo.load_s']:.1f} s of CPU time to load the model",
        f"{figures['demo.draw_4_pictures_s']:.1f} s to draw 4 pictures in 4 steps",
        f"they change the Frechet distance by {int8_loss('mean'):.1f} ± {int8_loss('std'):.1f}",
        f"drew the {figures['quality.num_images']} test captions",
        f"All formats together took {figures['all.export_s']:.0f} s of CPU time",
        f"With mini's student the page has {figures['demo.size_mib']:.0f} MiB",
    ):
        assert sentence in text


def test_a_measured_picture_does_not_depend_on_the_others(
    tiny_pipeline_dir: Path, tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    """Picture i is drawn from the noise of (seed, i), whatever the size of a batch."""
    need_packages(*ONNX)
    folder = export(tiny_pipeline_dir, tmp_path, formats=["diffusers", "onnx"])
    prompts = [f"{prompt}, drawn" for prompt in PROMPTS] * 2
    one_by_one = draw(folder / "onnx", prompts, tiny_bundle, seed=3, batch_size=1)
    at_once = draw(folder / "onnx", prompts, tiny_bundle, seed=3, batch_size=3)
    assert len(one_by_one) == len(prompts)
    assert np.abs(one_by_one.astype(float) - at_once).max() <= 1, "of 255"
    assert np.abs(one_by_one[0].astype(float) - one_by_one[2]).mean() > 1, "the same prompt from other noise"
