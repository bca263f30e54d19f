"""The results of all stages on one page: metrics, curves, grids and warnings. `naruto-add report` writes it too."""

from typing import TYPE_CHECKING

from stages.run import run_stage

if TYPE_CHECKING:
    from naruto_add.config.schema import Params


def main(params: "Params") -> None:
    """Write the page."""
    from naruto_add.config import paths
    from naruto_add.reporting.report import write_report

    write_report(
        params,
        params_path=paths.PARAMS,
        lock_path=paths.REQUIREMENTS,
        metrics_dir=paths.METRICS,
        report_path=paths.REPORT,
    )


if __name__ == "__main__":
    run_stage(main)
