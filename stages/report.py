"""The whole run on one page: figures, curves, grids, health. Also run by `make report`, on what is there."""

from naruto_add import paths
from naruto_add.params import load_params
from naruto_add.report import write_report
from naruto_add.runtime import run_stage


def main() -> None:
    """Write the page."""
    write_report(
        load_params(paths.PARAMS),
        params_path=paths.PARAMS,
        lock_path=paths.PACKAGES,
        metrics_dir=paths.METRICS,
        report_path=paths.REPORT,
    )


if __name__ == "__main__":
    run_stage(main)
