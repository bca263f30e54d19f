"""`naruto-add estimate` computes for the active parameters and says what the machine lacks."""

from pathlib import Path

import pytest

from tests.cli.run import run_ok

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_mini_fits_a_small_card(project_folder: Path) -> None:
    (project_folder / "base").symlink_to(ROOT / "base")
    output = run_ok("estimate", "--gpu-memory", "4", "--tflops", "1", "--pictures", "100")
    assert "Computed for 100 pictures of 64 px." in output
    for stage in ("teacher", "student", "add", "evaluate"):
        assert f"\n{stage} " in output
    assert "All stages fit into the 4.3 GB" in output
