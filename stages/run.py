"""How the script of a stage starts: with the code of its own copy of the project, and with the project's packages.

`python -m stages.NAME` runs a stage, in the folder that contains dvc.yaml. Scripts of stages import `naruto_add` inside
functions only, because an import at their top would come before `run_stage`.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from naruto_add.config.schema import Params

SOURCE = str(Path(__file__).resolve().parent.parent / "src")
SOME_PACKAGES = ("pydantic", "ruamel", "torch", "diffusers")


def run_stage(main: "Callable[[Params], None]", *, check: "Callable[[Params], None] | None" = None) -> None:
    """Run `main` as `naruto_add.pipeline.stage.run_checked` does. On Linux, the process ends when its parent dies."""
    use_own_source()
    check_packages()
    from naruto_add.runtime.bytecode import exit_on_damaged_bytecode

    with exit_on_damaged_bytecode():
        from naruto_add.pipeline.stage import run_checked
        from naruto_add.runtime.process import terminate_with_parent

    terminate_with_parent()
    run_checked(main, **({"check": check} if check else {}))


def use_own_source() -> None:
    """Import `naruto_add` from this copy of the project: DVC runs temporary experiments in copies of the repository."""
    if sys.path[0] != SOURCE:
        sys.path.insert(0, SOURCE)


def check_packages() -> None:
    """End with a message if this interpreter lacks packages: DVC runs the first `python` in PATH, whatever it is."""
    missing = [name for name in SOME_PACKAGES if find_spec(name) is None]
    if missing:
        sys.exit(
            "error: {} runs the stages, but does not have the project's packages ({} is missing); "
            'run `PATH="{}:$PATH" dvc repro`, with an absolute path for the folder of the environment\'s python'.format(
                sys.executable, missing[0], Path(os.environ.get("DVC_ROOT") or Path.cwd()) / ".venv/bin"
            )
        )
