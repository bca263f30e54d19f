"""A stage checks parameters and base model before it runs, and its user sees one message for a mistake."""

import errno
import importlib
import py_compile
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ruamel.yaml import YAML

from naruto_add.config.load import ParamsError
from naruto_add.config.schema import Params
from naruto_add.pipeline.stage import run_checked
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.progress import progress

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and the base model."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "base").symlink_to(ROOT / "base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NARUTO_ADD_TRACEBACK", raising=False)
    return tmp_path


def _set(project: Path, section: str, **changes: Any) -> None:
    values = YAML(typ="safe").load(project / "params.yaml")
    values[section].update(changes)
    YAML().dump(values, project / "params.yaml")


def _never(params: Params) -> NoReturn:
    raise AssertionError("the stage ran")


def test_the_stage_gets_the_parameters() -> None:
    received: list[Params] = []
    run_checked(received.append)
    assert received[0].base.model == "base/model"


def test_invalid_parameters_end_the_stage_before_it_runs(project: Path) -> None:
    _set(project, "add", adv_weight=-1.0)
    with pytest.raises(SystemExit, match=r"^error: add\.adv_weight: -1\.0"):
        run_checked(_never)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("base", {"model": "base/modle"}, "base.model: 'base/modle' is not a folder"),
        ("base", {"model": "owner/name"}, "base.revision: '' is not a commit"),
        ("add", {"resolutions_px": [72]}, "add.resolutions_px: 72"),
        ("add", {"discriminator_blocks": ["typo"]}, "add.discriminator_blocks: 'typo'"),
    ],
)
def test_a_base_model_that_does_not_fit_ends_every_stage_before_it_runs(
    project: Path, section: str, changes: dict[str, Any], message: str
) -> None:
    _set(project, section, **changes)
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        run_checked(_never)


@pytest.mark.parametrize("error", [StageError, ParamsError, FileNotFoundError])
def test_mistakes_of_the_user_become_one_message(error: type[Exception]) -> None:
    def stage(params: Params) -> NoReturn:
        raise error("add.x: 1 is too few")

    with pytest.raises(SystemExit, match=r"^error: add\.x: 1 is too few$"):
        run_checked(stage)


@pytest.mark.parametrize("error", [StageError, ParamsError, FileNotFoundError])
def test_names_of_foreign_files_never_reach_the_terminal_raw(error: type[Exception]) -> None:
    def stage(params: Params) -> NoReturn:
        raise error("\x1b[2Ja\u202eb\x07.png: no such file")

    with pytest.raises(SystemExit) as ended:
        run_checked(stage)
    assert ended.value.code == "error: \\x1b[2Ja\\u202eb\\x07.png: no such file"


def test_a_variable_asks_for_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(params: Params) -> NoReturn:
        raise StageError("add.x: 1 is too few")

    monkeypatch.setenv("NARUTO_ADD_TRACEBACK", "1")
    with pytest.raises(StageError):
        run_checked(stage)


def test_other_errors_keep_their_traceback() -> None:
    def stage(params: Params) -> NoReturn:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_checked(stage)


def test_a_full_disk_is_one_message_that_says_what_was_kept() -> None:
    def stage(params: Params) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", "models/teacher")

    with pytest.raises(SystemExit, match=r"^error: models/teacher: No space left .*; free some disk .* are kept"):
        run_checked(stage)


def test_a_compiled_module_that_was_cut_off_is_one_message_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "cut_off.py"
    source.write_text("def half() -> float:\n    return 0.5\n")
    compiled = Path(py_compile.compile(str(source)) or "")
    compiled.write_bytes(compiled.read_bytes()[:-40])
    monkeypatch.syspath_prepend(tmp_path)

    def main(params: Params) -> None:
        importlib.import_module("cut_off")

    with pytest.raises(SystemExit) as ended:
        run_checked(main)
    message = str(ended.value.code)
    assert message.startswith(f"error: {compiled}: this compiled module is damaged (")
    assert message.endswith("; delete it and run again")
    compiled.unlink()
    run_checked(main)


def test_ctrl_c_is_not_success() -> None:
    def stage(params: Params) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="the next `dvc repro` runs this stage again") as ended:
        run_checked(stage)
    assert ended.value.code != 0


def test_the_line_of_a_progress_bar_ends_before_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: Params) -> None:
        for _ in progress(range(3), desc="drawing"):
            raise StageError("cache.safetensors: is damaged; delete it")

    with pytest.raises(SystemExit) as caught:
        run_checked(stop)
    assert caught.value.code == "error: cache.safetensors: is damaged; delete it"
    output = capsys.readouterr().err
    assert "drawing" in output
    assert output.endswith("\n")
