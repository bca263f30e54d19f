"""Scripts of stages use the code of their own copy of the project, and say so if the interpreter lacks packages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_scripts_do_nothing_when_imported(tmp_path: Path) -> None:
    """They read no parameters (there are none here), import nothing but the standard library, and change no path."""
    names = [path.stem for path in (ROOT / "stages").glob("[a-z]*.py")]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = list(sys.path)\n"
        + "".join(f"import stages.{name}\n" for name in names)
        + "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        + "assert loaded <= {'stages', '__main__', *sys.stdlib_module_names}, loaded\n"
        + "assert sys.path == before\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, check=True)


def test_a_copy_of_the_project_runs_its_own_code(tmp_path: Path) -> None:
    """Whatever is installed, and whatever is in PYTHONPATH."""
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in {
        "__init__.py": "",
        "pipeline/__init__.py": "",
        "pipeline/stage.py": "def run_checked(main):\n    print(main.__module__, __file__)\n",
        "runtime/__init__.py": "",
        "runtime/bytecode.py": "from contextlib import nullcontext as exit_on_damaged_bytecode\n",
        "runtime/process.py": "def terminate_with_parent():\n    pass\n",
    }.items():
        path = tmp_path / "src/naruto_add" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    done = _run(tmp_path, "-m", "stages.add", PYTHONPATH=str(ROOT / "src"))

    assert done.stdout == f"__main__ {tmp_path.resolve() / 'src/naruto_add/pipeline/stage.py'}\n", done.stderr


def test_an_interpreter_without_the_packages_is_named_with_the_remedy() -> None:
    done = _run(ROOT, "-S", "-m", "stages.add", DVC_ROOT="/project")

    assert done.returncode == 1
    assert re.fullmatch(
        r"error: \S+ runs the stages, but does not have the project's packages \(pydantic is missing\); "
        r'run `PATH="/project/\.venv/bin:\$PATH" dvc repro`.*\n',
        done.stderr,
    ), done.stderr


def _run(folder: Path, *args: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**inherited, **variables}
    return subprocess.run([sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True)
