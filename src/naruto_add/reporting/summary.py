"""The metrics of the last run and the files that it wrote, as text for a terminal."""

from pathlib import Path

from naruto_add.config import paths
from naruto_add.evaluation.catalog import notes
from naruto_add.reporting.tables import SUBJECTS, metrics_table
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import read_json

FILES = (
    (paths.GRIDS, "grids of pictures: same prompts and seeds for base, teacher and student"),
    (paths.CURVES, "training curves; `dvc plots show` draws them"),
    (paths.EVALUATE_METRICS, "all metrics of all models and controls; docs/figures.md explains them"),
    (paths.ABLATION_METRICS, "means and spreads over seeds, of the last `naruto-add ablation`"),
    (paths.SUBJECT_METRICS, "headline metrics of one model, for `dvc metrics show` and `dvc metrics diff`"),
    (paths.REPORT, "all of this on one page; opens in a browser, offline"),
    (paths.REJECTS, "pictures that ingest rejected, with reasons"),
    (paths.EXPORT, "the distilled student for diffusers; `naruto-add generate` draws with it"),
)


def summary(root: Path) -> str:
    """The table of headline metrics, and a list of those of FILES that exist in `root`.

    Raises StageError if the pipeline has not been run or its metrics are damaged.
    """
    path = root / paths.EVALUATE_METRICS
    if not path.exists():
        raise StageError(f"{path}: no such file; run the pipeline first (`dvc repro`)")
    metrics = read_json(path)
    files = [f"  {file.as_posix():<30}{content}" for file, content in FILES if (root / file).exists()]
    return "\n".join([metrics_table(metrics), *notes(metrics, SUBJECTS), "", "Files", *files])
