"""The command as a whole: help, exit codes, and how fast it starts."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from naruto_add.cli.main import main
from tests.cli.run import run, run_error, run_ok

SCRIPT = Path(sys.executable).with_name("naruto-add")
HEAVY = ("torch", "diffusers", "transformers", "pydantic", "numpy", "PIL")


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


@pytest.mark.parametrize("command", [(), *_commands(main)], ids=" ".join)
def test_the_help_of_every_command_has_an_example(command: tuple[str, ...]) -> None:
    text = run_ok(*command, "--help")
    assert "Example" in text
    assert f"  naruto-add {' '.join(command)}".rstrip() in text


def test_the_help_explains_completion_and_exit_codes() -> None:
    text = run_ok("--help")
    assert "_NARUTO_ADD_COMPLETE=bash_source naruto-add" in text
    assert "Exit codes" in text


@pytest.mark.parametrize(
    "arguments", [("unknown",), ("--unknown",), ("generate",), ("generate", "a man", "--num", "0"), ("profile", "use")]
)
def test_wrong_usage_has_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    usage, *_, message = result.stderr.splitlines()
    assert usage.startswith("Usage: ") and message.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("summary",),
        ("report",),
        ("ablation",),
        ("deps",),
        ("profile", "list"),
        ("profile", "show"),
        ("profile", "use", "mini"),
    ],
    ids=" ".join,
)
def test_commands_about_the_pipeline_need_its_folder(arguments: tuple[str, ...], empty_folder: Path) -> None:
    assert f"{empty_folder} does not contain dvc.yaml; run this command in the folder that does" in run_error(
        *arguments
    )


def test_a_traceback_is_shown_on_request(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARUTO_ADD_TRACEBACK", "1")
    result = run("summary")
    assert result.exception is not None
    assert "dvc.yaml" in str(result.exception)


def test_importing_the_command_imports_nothing_heavy() -> None:
    code = "import sys, naruto_add.cli.main; print([name for name in sys.argv[1:] if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not SCRIPT.exists(), reason="naruto-add is not installed as a script")
def test_the_installed_script_completes_and_fails_as_documented(tmp_path: Path) -> None:
    failed = subprocess.run([SCRIPT, "summary"], cwd=tmp_path, capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: ")
    environment = {"_NARUTO_ADD_COMPLETE": "bash_complete", "COMP_WORDS": "naruto-add gen", "COMP_CWORD": "1"}
    completed = subprocess.run([SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert completed.stdout.split() == ["plain,generate"]
