"""An ablation: each variant is trained as a DVC experiment per seed, and the variants' metrics are compared.

Experiments that exist with the same parameters and the same code are not run again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from naruto_add.ablation import experiments
from naruto_add.ablation.figures import quality_of, summarize, table
from naruto_add.ablation.variants import (
    Experiment,
    Variant,
    plan_experiments,
    read_variants,
    select,
    with_settings,
)
from naruto_add.config import paths
from naruto_add.config.load import load_params, parse_params, read_yaml
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import write_json


def run_ablation(*, variants_path: Path, only: Sequence[str], collect: bool, jobs: int, draw: bool) -> None:
    """Run the missing experiments of the variants in `only` (all if empty; none with `collect`), `jobs` at a time.

    Afterwards metrics/ablation.json holds the metrics of all experiments that exist, and with `draw`,
    metrics/grids/ablation.png their pictures. With `collect`, experiments of other versions of the code are included.
    Call it in the folder that holds dvc.yaml. Raises ParamsError for invalid parameters or variants, and, after all
    files are written, StageError if a chosen experiment is missing.
    """
    load_params(paths.PARAMS)  # invalid parameters are reported before anything else
    values = read_yaml(paths.PARAMS)
    variants = read_variants(variants_path, values)
    planned = plan_experiments(variants)
    chosen = {item.name: item for name in select(only, variants) for item in planned[name]}
    if not collect:
        _run_missing(list(chosen.values()), values, jobs=jobs)
    all_experiments = {item.name: item for items in planned.values() for item in items}
    found = _find_all(all_experiments, values, any_code=collect)
    _write_figures(variants, planned, found)
    if draw:
        _draw(variants, {name: found.get(items[0].name) for name, items in planned.items()}, values)
    failures = [f"{name}: {experiments.why_missing(name)}" for name in chosen if name not in found]
    if failures:
        raise StageError("\n".join(["the table lacks these experiments:", *failures]))


def _run_missing(chosen: Sequence[Experiment], values: Mapping[str, Any], *, jobs: int) -> None:
    missing = [item for item in chosen if experiments.find_revision(item, values, any_code=False) is None]
    _print(f"{len(chosen) - len(missing)} of {len(chosen)} experiments exist; {len(missing)} to run")
    if missing:
        experiments.run_experiments(missing, jobs=jobs)


def _find_all(planned: Mapping[str, Experiment], values: Mapping[str, Any], *, any_code: bool) -> dict[str, str]:
    """The commits of the experiments that exist, by name."""
    revisions = {name: experiments.find_revision(item, values, any_code=any_code) for name, item in planned.items()}
    found = {name: revision for name, revision in revisions.items() if revision}
    others = [name for name, revision in found.items() if any_code and not experiments.has_same_code(revision)]
    if others:
        _print(f"run by another version of the code: {', '.join(others)}")
    return found


def _write_figures(
    variants: Mapping[str, Variant], planned: Mapping[str, Sequence[Experiment]], found: Mapping[str, str]
) -> None:
    metrics = {name: experiments.read_metrics(revision, paths.EVALUATE_METRICS) for name, revision in found.items()}
    runs = {
        name: [quality_of(variant.subject, metrics[item.name]) for item in planned[name] if item.name in metrics]
        for name, variant in variants.items()
    }
    figures = summarize(runs)
    write_json(paths.ABLATION_METRICS, figures, in_order=True)
    _print(f"\n{table(figures, list(variants))}\n\n{paths.ABLATION_METRICS}")


def _draw(variants: Mapping[str, Variant], revisions: Mapping[str, str | None], values: Mapping[str, Any]) -> None:
    """Draw the distilled student of each variant's first seed, unless the first variant has no experiment."""
    from naruto_add.ablation.grid import TrainedVariant, draw_grid  # importing torch takes seconds

    trained = [
        TrainedVariant(name.replace("_", " "), revision, parse_params(with_settings(values, variants[name].settings)))
        for name, revision in revisions.items()
        if revision and variants[name].subject == "distilled"
    ]
    first = next(iter(variants))
    if revisions[first] is None:
        _print(f"no grid: it needs the models of the first variant, {first}, which has no experiment")
        return
    draw_grid(trained, path=paths.ABLATION_GRID)
    _print(str(paths.ABLATION_GRID))


def _print(text: str) -> None:
    print(text, flush=True)  # in order with the output of DVC
