"""The stages of the pipeline: wiring only. Run one as `python -m stages.NAME` in the folder that contains dvc.yaml."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# A temporary experiment of DVC is a copy of the repository. Its stages must import the copy's code, not the installed.
_SOURCE = str(Path(__file__).resolve().parent.parent / "src")
if sys.path[0] != _SOURCE:
    sys.path.insert(0, _SOURCE)

# DVC runs the `python` that is first in PATH, which is not the project's if its environment is not activated.
_MISSING = [name for name in ("pydantic", "ruamel", "torch", "diffusers") if find_spec(name) is None]
if _MISSING:
    sys.exit(
        "error: {} runs the stages, but does not have the project's packages ({} is missing); "
        'run `PATH="{}:$PATH" dvc repro`, with an absolute path for the folder of the environment\'s python'.format(
            sys.executable, _MISSING[0], Path(os.environ.get("DVC_ROOT") or Path.cwd()) / ".venv/bin"
        )
    )
