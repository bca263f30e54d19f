"""A compiled module that was cut off is one message that names it: at any length, in a stage and in the command."""

import importlib
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from naruto_add.runtime.bytecode import exit_on_damaged_bytecode, explained_bytecode_error

ROOT = Path(__file__).parents[2]
SOURCE = "def half(number: float) -> float:\n    return number / 2.0\n"


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The compiled form of a module `cut_off`."""
    (tmp_path / "cut_off.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cut_off", raising=False)
    monkeypatch.delenv("NARUTO_ADD_TRACEBACK", raising=False)
    return Path(py_compile.compile(str(tmp_path / "cut_off.py")) or "")


def test_every_length_is_explained_or_compiled_again(compiled: Path) -> None:
    whole = compiled.read_bytes()
    num_explained = 0
    for length in range(len(whole)):
        compiled.write_bytes(whole[:length])
        sys.modules.pop("cut_off", None)
        try:
            assert importlib.import_module("cut_off").half(1.0) == 0.5
        except Exception as error:  # noqa: BLE001 (of any type)
            num_explained += 1
            assert str(explained_bytecode_error(error)).startswith(f"{compiled}: this compiled module is damaged")
    assert num_explained > len(whole) // 2


def test_an_import_that_a_library_reports_as_its_own_error_is_explained(compiled: Path) -> None:
    compiled.write_bytes(compiled.read_bytes()[:-40])
    with (
        pytest.raises(SystemExit, match=rf"^error: {compiled}: .*; delete it and run again$"),
        exit_on_damaged_bytecode(),
    ):
        try:
            importlib.import_module("cut_off")
        except EOFError as error:
            raise RuntimeError("failed to import") from error


def test_other_errors_are_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NARUTO_ADD_TRACEBACK", raising=False)
    with pytest.raises(EOFError), exit_on_damaged_bytecode():
        raise EOFError("marshal data too short")


def test_a_variable_asks_for_the_traceback(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.write_bytes(compiled.read_bytes()[:-40])
    monkeypatch.setenv("NARUTO_ADD_TRACEBACK", "1")
    with pytest.raises(EOFError), exit_on_damaged_bytecode():
        importlib.import_module("cut_off")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("naruto_add/pipeline/stage.py", ["-m", "stages.add"]),
        ("naruto_add/config/load.py", ["-m", "stages.add"]),
        ("naruto_add/runtime/process.py", ["-m", "stages.add"]),
        ("naruto_add/cli/publish.py", ["-c", "from naruto_add.cli.main import main; main()", "--help"]),
        ("naruto_add/cli/folder.py", ["-c", "from naruto_add.cli.main import main; main()", "--help"]),
        ("naruto_add/config/schema.py", ["-c", "from naruto_add.cli.main import main; main()", "check"]),
    ],
)
def test_a_stage_and_the_command_name_the_file_before_and_after_their_own_imports(
    module: str, command: list[str], tmp_path: Path
) -> None:
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    compiled = Path(py_compile.compile(str(tmp_path / "src" / module)) or "")
    compiled.write_bytes(compiled.read_bytes()[:-40])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NARUTO_ADD_")}
    variables = {**inherited, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {compiled}: this compiled module is damaged (")
    assert line.endswith("; delete it and run again")
