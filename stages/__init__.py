"""The stages of the pipeline: wiring only. Run one as `python -m stages.NAME` in the folder that contains dvc.yaml."""

import sys
from pathlib import Path

# A temporary experiment of DVC is a copy of the repository. Its stages must import the copy's code, not the installed.
_SOURCE = str(Path(__file__).resolve().parent.parent / "src")
if sys.path[0] != _SOURCE:
    sys.path.insert(0, _SOURCE)
