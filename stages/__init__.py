"""The pipeline's stages: wiring only. Run as `python -m stages.NAME` in the folder that holds dvc.yaml.

DVC's temporary experiments run in a copy of the repository, and must use the copy's code, not the installed one.
Whichever stage comes first finds out whether the base model does for all of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from naruto_add import paths
from naruto_add.base_model import refuse_unfit_base
from naruto_add.runtime import prepare_process

prepare_process(paths.PARAMS)
refuse_unfit_base(paths.PARAMS)
