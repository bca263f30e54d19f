"""A configuration finds its folder by everything that it depends on, and one process at a time holds it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from naruto_add.config import paths
from naruto_add.config.schema import Export
from naruto_add.runtime.checkpoints import MAX_WRITING_SECONDS, checkpoint_dir, exclusive, shared_cache_dir
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_folder

ROOT = Path(__file__).parents[2]
EXPORT = Export(
    seed=0, prompts=["a man"], formats=["diffusers"], precision="fp32", tiny_decoder="off", tiny_decoder_steps=1
)


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository with a dep and packages.yaml, as DVC names it and as the working directory."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dep").write_text("content")
    (tmp_path / paths.PACKAGES).write_text('torch: "1"\n')
    return tmp_path


def _checkpoints(*params: Any, stage: str = "add") -> Path:
    return checkpoint_dir(stage, params=params, deps=[Path("dep")])


def _import(monkeypatch: pytest.MonkeyPatch, name: str, file: Path) -> None:
    """Make `name` an imported module whose source is `file`."""
    file.write_text("x = 1")
    module = ModuleType(name)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, name, module)


def test_equal_configurations_have_one_folder(repository: Path) -> None:
    assert _checkpoints(EXPORT, 3.0) == _checkpoints(EXPORT.model_copy(), 3.0)
    assert _checkpoints().parent == repository / ".checkpoints" / "add"


def test_another_stage_value_dep_or_package_has_another_folder(repository: Path) -> None:
    found = [
        _checkpoints(EXPORT),
        _checkpoints(EXPORT, stage="teacher"),
        _checkpoints(EXPORT.model_copy(update={"seed": 1})),
        _checkpoints(EXPORT, 3.0),
    ]
    (repository / "dep").write_text("other content")
    found.append(_checkpoints(EXPORT))
    (repository / paths.PACKAGES).write_text('torch: "2"\n')
    found.append(_checkpoints(EXPORT))
    assert len({folder.name for folder in found}) == len(found)


def test_another_package_has_another_cache(repository: Path) -> None:
    before = shared_cache_dir("pool", "naruto_add.runtime")
    (repository / paths.PACKAGES).write_text('torch: "2"\n')
    assert shared_cache_dir("pool", "naruto_add.runtime") != before


def test_other_sources_have_other_folders(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _import(monkeypatch, "naruto_add.imported", repository / "imported.py")
    before = _checkpoints(), shared_cache_dir("evaluate")
    (repository / "imported.py").write_text("x = 2")
    after = _checkpoints(), shared_cache_dir("evaluate")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_sources_of_other_projects_do_not_count(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _import(monkeypatch, "naruto_additional", repository / "other.py")
    before = _checkpoints(), shared_cache_dir("evaluate")
    (repository / "other.py").write_text("x = 2")
    assert (_checkpoints(), shared_cache_dir("evaluate")) == before


def test_a_cache_of_some_modules_depends_on_them_only(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw", "draw.inner", "drawn"):
        _import(monkeypatch, f"naruto_add.{name}", repository / f"{name}.py")
    before = shared_cache_dir("pool", "naruto_add.draw")
    (repository / "drawn.py").write_text("x = 2")
    assert shared_cache_dir("pool", "naruto_add.draw") == before
    (repository / "draw.inner.py").write_text("x = 2")
    assert shared_cache_dir("pool", "naruto_add.draw") != before


def test_what_a_killed_process_was_writing_in_a_shared_cache_is_deleted_unless_another_may_write_it(
    repository: Path,
) -> None:
    folder = shared_cache_dir("evaluate")
    stale, recent = (folder / f".{name}-x" for name in ("stale", "recent"))
    for partial in (stale, recent):
        partial.mkdir(parents=True)
        (partial / "half.safetensors").write_bytes(b"half")
    (folder / "whole.safetensors").write_bytes(b"whole")
    before = time.time() - 2 * MAX_WRITING_SECONDS
    for path in (stale, folder / "whole.safetensors"):
        os.utime(path, (before, before))
    shared_cache_dir("evaluate")
    assert sorted(path.name for path in folder.iterdir()) == [recent.name, "whole.safetensors"]


def test_a_missing_dep_is_reported_with_its_remedy() -> None:
    with pytest.raises(FileNotFoundError, match="run the stage that makes it"):
        checkpoint_dir("add", params=[], deps=[Path("none")])


def test_a_second_process_is_refused_while_the_first_holds_the_folder(repository: Path) -> None:
    code = (
        "from pathlib import Path; from naruto_add.runtime.checkpoints import exclusive\n"
        "with exclusive(Path('held')): pass"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with exclusive(repository / "held"):
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "another process is training this configuration; wait for it or stop it" in done.stderr
    assert subprocess.run(command, cwd=repository, env=environment).returncode == 0


def test_the_lock_is_refused_within_a_process_too(repository: Path) -> None:
    with exclusive(repository / "held"), pytest.raises(StageError), exclusive(repository / "held"):
        pass


def test_success_deletes_checkpoints_and_keeps_caches(repository: Path) -> None:
    folder = repository / "held"
    folder.mkdir()
    for name in ("add.pt", "prompts.safetensors"):
        (folder / name).touch()
    with exclusive(folder):
        assert (folder / "add.pt").exists()
    assert not (folder / "add.pt").exists()
    assert (folder / "prompts.safetensors").exists()


def test_an_interruption_keeps_checkpoints_and_releases_the_lock(repository: Path) -> None:
    folder = repository / "held"
    folder.mkdir()
    (folder / "add.pt").touch()

    def train() -> NoReturn:
        with exclusive(folder):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert (folder / "add.pt").exists()
    with exclusive(folder):
        pass


def test_remains_of_a_killed_save_are_deleted(repository: Path) -> None:
    folder = repository / "held"
    (folder / ".add-killed").mkdir(parents=True)
    (folder / ".add-killed" / "add.pt").touch()
    (folder / "prompts" / ".64-killed").mkdir(parents=True)
    (folder / "prompts" / "0.safetensors").touch()
    with exclusive(folder), new_folder(folder / "out"):
        assert not (folder / ".add-killed").exists()
        assert [path.name for path in (folder / "prompts").iterdir()] == ["0.safetensors"]


def test_only_the_first_process_of_a_launch_takes_the_lock(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with exclusive(repository / "folder"):
        monkeypatch.setenv("RANK", "1")
        with exclusive(repository / "folder"):
            pass
