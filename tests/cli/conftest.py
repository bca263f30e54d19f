"""An exported student, and folders to run the commands in."""

import shutil
from pathlib import Path

import pytest

from naruto_add.config import paths
from tests.export.build import export

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def exported_dir(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student as `export` writes it: four DDIM steps, prompt template "{caption}, drawn"."""
    return export(tiny_pipeline_dir, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test; it contains nothing."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test; it contains this project's dvc.yaml, parameters and profiles."""
    folder = tmp_path / "project"
    folder.mkdir()
    for path in (Path("dvc.yaml"), paths.PARAMS, paths.REQUIREMENTS):
        shutil.copy2(ROOT / path, folder / path)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    monkeypatch.chdir(folder)
    return folder
