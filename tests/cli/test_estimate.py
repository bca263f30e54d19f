"""`naruto-add estimate` computes for the active parameters and says what the machine lacks."""

from pathlib import Path

import pytest

from tests.cli.run import run_error, run_ok

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_mini_fits_a_small_card(project_folder: Path) -> None:
    (project_folder / "base").symlink_to(ROOT / "base")
    output = run_ok("estimate", "--gpu-memory", "4", "--tflops", "1", "--pictures", "100")
    assert "Computed for 100 pictures of 64 px." in output
    for stage in ("teacher", "student", "add", "evaluate", "samples", "export"):
        assert f"\n{stage} " in output
    assert "Not counted: teacher: the training of the text encoder (teacher.lora_text_encoder)." in output
    assert "The stages need at least" in output and "has 4.0 GiB" in output


def test_a_mistyped_base_model_is_an_error(project_folder: Path) -> None:
    params = project_folder / "params.yaml"
    params.write_text(params.read_text().replace("model: base/model", "model: base/modle"))
    assert run_error("estimate").startswith("error: base.model: 'base/modle' is not a folder here")
