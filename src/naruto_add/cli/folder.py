"""The working directory: most commands need the folder that contains the pipeline."""

from pathlib import Path

from naruto_add.runtime.errors import StageError


def pipeline_folder() -> Path:
    """The working directory. Raises StageError if it does not contain dvc.yaml."""
    if not Path("dvc.yaml").is_file():
        raise StageError(f"{Path.cwd()} does not contain dvc.yaml; run this command in the folder that does")
    return Path()
