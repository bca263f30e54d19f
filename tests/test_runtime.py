"""A stage holds its folder alone, finds it again by what it depends on, and ends with one message."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from naruto_add import runtime
from naruto_add.evaluation.generate import DRAWING_CODE
from naruto_add.files import new_folder
from naruto_add.params import Export, ParamsError, load_params
from naruto_add.runtime import StageError, checkpoint_dir, exclusive, local_folder, run_stage, shared_cache_dir

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, as DVC names it, with a dep."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "dep").write_text("content")
    return tmp_path


def _checkpoints(repository: Path, stage: str = "add", *params: Any) -> Path:
    return checkpoint_dir(stage, params=params, deps=[repository / "dep"])


def test_the_same_configuration_finds_its_folder_again(repository: Path) -> None:
    export = Export(seed=0, prompts=["a man"], precision="fp32")
    found = _checkpoints(repository, "add", export, 3.0)
    assert found == _checkpoints(repository, "add", export.model_copy(), 3.0)
    assert found.parent == repository / ".checkpoints" / "add"


def test_another_stage_value_or_dep_has_another_folder(repository: Path) -> None:
    export = Export(seed=0, prompts=["a man"], precision="fp32")
    found = [
        _checkpoints(repository, "add", export),
        _checkpoints(repository, "teacher", export),
        _checkpoints(repository, "add", export.model_copy(update={"seed": 1})),
        _checkpoints(repository, "add", export, 3.0),
    ]
    (repository / "dep").write_text("other content")
    found.append(_checkpoints(repository, "add", export))
    assert len({folder.name for folder in found}) == len(found)


def test_other_code_has_another_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = repository / "code.py"
    code.write_text("x = 1")
    monkeypatch.setattr(runtime, "_loaded_code", lambda *_: [code])
    before = _checkpoints(repository), shared_cache_dir("evaluate")
    code.write_text("x = 2")
    after = _checkpoints(repository), shared_cache_dir("evaluate")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_code_that_does_not_draw_has_no_part_in_what_is_drawn(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: repository / f"{name}.py" for name in ("judge", "generate", "generated")}
    for name, file in files.items():
        file.write_text("x = 1")
        monkeypatch.setitem(sys.modules, f"naruto_add.evaluation.{name}", SimpleNamespace(__file__=str(file)))

    def folders() -> list[Path]:
        return [shared_cache_dir("evaluate", "naruto_add.evaluation.generate"), shared_cache_dir("evaluate")]

    drawn, judged = folders()
    files["judge"].write_text("x = 2")
    files["generated"].write_text("x = 2")
    assert folders()[0] == drawn
    assert folders()[1] != judged
    files["generate"].write_text("x = 2")
    assert folders()[0] != drawn


def test_all_that_draws_counts_for_what_is_drawn() -> None:
    names = {path.stem for path in runtime._loaded_code(*DRAWING_CODE)}
    assert {"bundle", "drawing", "sampling", "generate", "subjects", "compute"} <= names
    assert not {"judge", "evaluate", "cost", "features"} & names


def test_the_code_that_counts_is_what_is_imported() -> None:
    names = {path.name for path in runtime._loaded_code()}
    assert {"runtime.py", "files.py"} <= names
    assert "pathlib.py" not in names


def test_a_dep_that_is_missing_names_the_remedy(repository: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage that makes it"):
        checkpoint_dir("add", params=[], deps=[repository / "none"])


def test_a_second_process_is_refused_while_the_first_holds_the_folder(repository: Path) -> None:
    code = "from pathlib import Path; from naruto_add.runtime import exclusive\nwith exclusive(Path('held')): pass"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with exclusive(repository / "held"):
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "another process trains this very configuration; wait for it, or stop it" in done.stderr
    assert subprocess.run(command, cwd=repository, env=environment).returncode == 0


def test_checkpoints_go_when_all_is_done_and_caches_stay(repository: Path) -> None:
    folder = repository / "held"
    folder.mkdir()
    for name in ("add.pt", "prompts.safetensors"):
        (folder / name).touch()
    with exclusive(folder):
        assert (folder / "add.pt").exists()
    assert not (folder / "add.pt").exists()
    assert (folder / "prompts.safetensors").exists()


def test_checkpoints_stay_when_the_stage_ends_early(repository: Path) -> None:
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


def test_what_a_killed_save_left_is_cleared(repository: Path) -> None:
    folder = repository / "held"
    (folder / ".add-killed").mkdir(parents=True)
    (folder / ".add-killed" / "add.pt").touch()
    with exclusive(folder), new_folder(folder / "out"):
        assert not (folder / ".add-killed").exists()


@pytest.mark.parametrize("error", [StageError("add.x: 1 is too few"), ParamsError("add.x: 1 is too few")])
def test_mistakes_of_the_user_become_one_message(error: Exception) -> None:
    def stage() -> NoReturn:
        raise error

    with pytest.raises(SystemExit, match=r"^error: add\.x: 1 is too few$"):
        run_stage(stage)


def test_ours_keep_their_traceback() -> None:
    def stage() -> NoReturn:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stage(stage)


def test_ctrl_c_ends_with_an_error() -> None:
    def stage() -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="the next `dvc repro` runs this stage again") as ended:
        run_stage(stage)
    assert ended.value.code != 0


def test_only_folders_are_deps_of_the_model(repository: Path) -> None:
    assert local_folder(str(repository)) == [repository]
    assert local_folder("owner/name") == []


def test_a_second_process_of_one_launch_does_not_ask_for_the_lock(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exclusive(repository / "folder"):
        monkeypatch.setenv("RANK", "1")
        with exclusive(repository / "folder"):
            pass


@pytest.mark.parametrize(
    ("section", "change", "needs_hub"),
    [
        ("evaluate", {}, False),
        ("evaluate", {"features": "clip"}, True),
        ("evaluate", {"clip_score": "owner/name@" + "0" * 40}, True),
        ("ingest", {"source": "hub"}, True),
        ("add", {"pixel_backbone": "dinov2_small", "method": "consistency"}, True),
        ("add", {"pixel_backbone": "dinov2_small", "discriminators": ["pixel"]}, True),
        ("add", {"image_text_network": "owner/name@" + "0" * 40}, False),
        ("add", {"image_text_network": "owner/name@" + "0" * 40, "image_text_weight": 0.5}, True),
        ("add", {"image_text_network": "caption_match", "image_text_weight": 0.5}, False),
    ],
)
def test_hub_libraries_stay_offline_unless_a_parameter_names_a_hub(
    section: str, change: dict[str, Any], needs_hub: bool
) -> None:
    params = load_params(ROOT / "profiles" / "mini.yaml")
    params = params.model_copy(update={section: getattr(params, section).model_copy(update=change)})
    assert runtime._needs_hub(params) is needs_hub
