"""Commands about the pipeline and its results: check, summary, report, ablation, deps."""

from pathlib import Path

import click

from naruto_add.cli.folder import pipeline_folder


@click.command(short_help="Check that everything the stages need is here.")
def check() -> None:
    """Check params.yaml, base model, packages, weights and disk before any stage runs; missing weights are downloaded.

    All problems are reported in one list. The stages `inputs` and `ingest` run the same check.

    \b
    Example:
      naruto-add check
    """
    from naruto_add.config import paths
    from naruto_add.config.load import load_params
    from naruto_add.pipeline.hub import stay_offline
    from naruto_add.pipeline.requirements import check_requirements, requirements

    params = load_params(pipeline_folder() / paths.PARAMS)
    stay_offline(params)
    check_requirements(params)
    for requirement in requirements(params):
        click.echo(f"found  {requirement.name}")


@click.command(short_help="Print the metrics of the last run.")
def summary() -> None:
    """Print the metrics of the last run and where its results are.

    \b
    Example:
      naruto-add summary
    """
    from naruto_add.reporting import summary as reporting

    click.echo(reporting.summary(pipeline_folder()))


@click.command(short_help="Write report.html, the results on one page.")
@click.option("--md", "markdown", is_flag=True, help="Write report.md instead, for a comment on a pull request.")
def report(*, markdown: bool) -> None:
    """Write report.html: metrics, curves and pictures of the last run on one page.

    With --md, write report.md: tables and health checks, and links to the pictures in metrics/grids.

    \b
    Example:
      naruto-add report
      naruto-add report --md
    """
    from naruto_add.config import paths
    from naruto_add.config.load import load_params
    from naruto_add.reporting.report import write_report

    root = pipeline_folder()
    if markdown:
        from naruto_add.reporting.markdown_report import write_markdown_report

        write_markdown_report(load_params(root / paths.PARAMS), root=root)
        click.echo(paths.MARKDOWN_REPORT)
        return
    write_report(
        load_params(root / paths.PARAMS),
        params_path=root / paths.PARAMS,
        lock_path=root / paths.REQUIREMENTS,
        metrics_dir=root / paths.METRICS,
        report_path=root / paths.REPORT,
    )
    click.echo(paths.REPORT)


@click.command(short_help="Train and compare variants of the student.")
@click.option(
    "--only",
    multiple=True,
    metavar="VARIANT",
    help="Run only this variant (repeatable); the table still compares all that have results.",
)
@click.option(
    "--collect",
    is_flag=True,
    help="Run nothing; compare existing experiments, also those of other versions of the code.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Experiments that run at a time.")
@click.option("--no-grid", is_flag=True, help="Do not draw the grid of pictures.")
@click.option(
    "--variants",
    "variants_path",
    type=click.Path(path_type=Path),
    default=Path("profiles/ablation/mini.yaml"),
    show_default=True,
    help="File that declares the variants.",
)
def ablation(*, only: tuple[str, ...], collect: bool, jobs: int, no_grid: bool, variants_path: Path) -> None:
    """Train variants of the student and compare their metrics.

    Each variant is trained as DVC experiments, one per seed; experiments that exist are not run again. Writes
    metrics/ablation.json and metrics/grids/ablation.png, and prints a table.

    \b
    Example:
      naruto-add ablation --only full --only no_adversarial
    """
    from naruto_add.ablation.run import run_ablation

    pipeline_folder()
    run_ablation(variants_path=variants_path, only=only, collect=collect, jobs=jobs, draw=not no_grid)


@click.command(short_help="Update the dependencies in dvc.yaml.")
def deps() -> None:
    """Write the code and packages that each stage imports into dvc.yaml and packages.yaml.

    Run it after a change of imports or of requirements.lock.

    \b
    Example:
      naruto-add deps
    """
    from naruto_add.pipeline.dependencies import write_dependencies

    changed = write_dependencies(pipeline_folder())
    click.echo("dvc.yaml, packages.yaml: updated" if changed else "dvc.yaml, packages.yaml: unchanged")
